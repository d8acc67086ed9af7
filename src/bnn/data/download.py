"""Fetching a file so that it ends up whole and in its place, or not there at all."""

import hashlib
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bnn.data.dataset import DataError
from bnn.errors import require


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    name: what it is called in the data set's folder.
    url: where it is.
    digest: "sha256:<hex>" or "md5:<hex>", None where no hash is known. Of the file itself or of its
        decompressed content: the table that lists it says.
    """

    name: str
    url: str
    digest: str | None


def check_digest(content: bytes | Path, digest: str | None, where: str) -> None:
    """Raise DataError unless the bytes, or those of the file, have this digest; None passes everything."""
    if digest is None:
        return
    algorithm, _, expected = digest.partition(":")
    # The hashes find damage. They are no defence against an attacker, and md5 is all that some authors give.
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    if isinstance(content, bytes):
        hasher.update(content)
    else:
        with content.open("rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    if hasher.hexdigest() != expected:
        raise DataError(
            f"{where}: {algorithm} of the content is {hasher.hexdigest()}, not {expected}: "
            "the file is damaged or not the official one"
        )


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path`, of its own for every call, to write to before the move into place."""
    # Not `tempfile`: its files are readable by their owner alone, and a data folder may be shared.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextmanager
def downloaded(remote: RemoteFile, folder: Path) -> Iterator[Path]:
    """The file at `remote.url`, as a temporary file in `folder`.

    The block checks the content and moves it into place (`Path.replace`). Whatever happens, the temporary
    file is gone when the block ends, and so are folders that were made for it and stayed empty.

    A progress bar is drawn where standard error is a terminal.
    Raises DataError with URL and reason: no connection or a cut one, an HTTP error, no space, no permission.
    Raises MissingExtraError without pooch.
    """
    pooch = require("pooch", "train")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    temporary = temporary_name(folder / remote.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fetch = pooch.HTTPDownloader(
            progressbar=sys.stderr.isatty() and find_spec("tqdm") is not None,
            chunk_size=1 << 16,
            headers={"Accept-Encoding": "identity"},  # the file's own bytes, as the server stores them
        )
        fetch(remote.url, str(temporary), None)
        yield temporary
    except OSError as error:  # requests' exceptions are among these
        raise DataError(f"cannot download {remote.url} to {folder}: {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):  # not empty: it is in use
                path.rmdir()


def _reason(error: OSError) -> str:
    """Why a download failed, in a few words."""
    requests = require("requests", "train")
    if isinstance(error, requests.HTTPError) and error.response is not None:
        error.response.close()  # its body is unread, so the connection is still open
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, requests.RequestException):
        cause = error.args[0] if error.args else error
        # urllib3's MaxRetryError repeats host and URL around the one thing worth reading
        return " ".join(str(getattr(cause, "reason", cause)).split())
    return error.strerror or str(error)

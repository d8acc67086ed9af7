"""Fetching a file so that it ends up whole and in its place, or not there at all."""

import hashlib
import importlib
import queue
import secrets
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPMessage, IncompleteRead, RemoteDisconnected
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from bnn.data.dataset import DataError

# A server is worth waiting for that sends LEAST bytes in PATIENCE seconds.
PATIENCE = 30.0
LEAST = 1 << 18


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    name: what it is called in the data set's folder.
    url: where it is.
    digest: "sha256:<hex>" or "md5:<hex>", None where no hash is known. Of the file itself or of its
        decompressed content: the table that lists it says.
    most: bytes that it may have.
    """

    name: str
    url: str
    digest: str | None
    most: int


def check_digest(content: bytes, digest: str | None, where: str) -> None:
    """Raise DataError unless the bytes have this digest; None passes everything."""
    if digest is None:
        return
    algorithm, _, expected = digest.partition(":")
    # The hashes find damage. They are no defence against an attacker, and md5 is all that some authors give.
    hasher = hashlib.new(algorithm, content, usedforsecurity=False)
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
    Raises DataError with URL and reason: no connection, a cut or a slow one, an HTTP error, more bytes than
    the file may have, no space, no permission.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    temporary = temporary_name(folder / remote.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            _fetch(remote, file)
        yield temporary
    except OSError as error:
        raise DataError(f"cannot download {remote.url} to {folder}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        for path in made:
            with suppress(OSError):  # not empty: it is in use
                path.rmdir()


def _fetch(remote: RemoteFile, file: BinaryIO) -> None:
    """Writes what comes from the server, as long as enough of it comes and not too much."""
    transfer = _Transfer(remote.url)
    transfer.start()
    received, window, since = 0, 0, time.monotonic()
    length = None
    with _bar(remote.name) as advance:
        try:
            while (part := transfer.next()) is not None:
                if isinstance(part, bytes):
                    file.write(part)
                    received += len(part)
                    window += len(part)
                else:
                    length = _content_length(part)
                advance(received, length)
                if max(received, length or 0) > remote.most:
                    raise ConnectionError(
                        f"{max(received, length or 0):,} bytes; it may have {remote.most:,}"
                    )
                if time.monotonic() - since > PATIENCE:
                    if window < LEAST:
                        raise ConnectionError(f"too slow: {window:,} bytes in {PATIENCE} s")
                    window, since = 0, time.monotonic()
        finally:
            transfer.unwanted.set()
    if length is not None and received != length:
        raise ConnectionError("the connection was cut")


class _Transfer(threading.Thread):
    """Asks a server, in a thread of its own, for then nothing that the server does or leaves can hold us."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.unwanted = threading.Event()
        self.parts: queue.Queue[HTTPMessage | bytes | Exception | None] = queue.Queue(64)

    def run(self) -> None:
        try:
            # the file's own bytes, as the server stores them
            request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity"})
            opener = urllib.request.build_opener(
                _Redirects, urllib.request.HTTPSHandler(context=_authorities())
            )
            with opener.open(request, timeout=PATIENCE) as response:
                self._put(response.headers)
                while not self.unwanted.is_set() and (part := response.read1(1 << 16)):
                    self._put(part)
            self._put(None)
        except Exception as error:  # for the other thread to raise: HTTPException, OSError, ValueError, ...
            self._put(error)

    def _put(self, part: HTTPMessage | bytes | Exception | None) -> None:
        while not self.unwanted.is_set():
            with suppress(queue.Full):
                return self.parts.put(part, timeout=1)

    def next(self) -> HTTPMessage | bytes | None:
        """The response's headers, then bytes of its body (none, if a moment passed without), at last None."""
        try:
            part = self.parts.get(timeout=min(1, PATIENCE))
        except queue.Empty:
            return b""
        if isinstance(part, Exception):
            raise ConnectionError(_reason(part)) from part
        return part


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        fp.close()  # whatever its body is, it is not read
        if not newurl.startswith("https:" if req.full_url.startswith("https:") else ("http:", "https:")):
            raise ConnectionError(f"it leads to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _authorities() -> ssl.SSLContext:
    """Those whom the system trusts, and where it is there, the list that `certifi` brings."""
    context = ssl.create_default_context()
    with suppress(ImportError):
        context.load_verify_locations(importlib.import_module("certifi").where())
    return context


def _content_length(headers: HTTPMessage) -> int | None:
    text = headers.get("Content-Length")
    if text is None or headers.get("Transfer-Encoding"):
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise ConnectionError(f"Content-Length {text[:40]!r} is no number")
    return int(text)


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Draws a progress bar on a terminal: gives what is to be called with bytes done and in all."""
    if not sys.stderr.isatty() or find_spec("rich") is None:
        yield lambda done, total: None
        return
    console = importlib.import_module("rich.console").Console(stderr=True)
    with importlib.import_module("rich.progress").Progress(console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _reason(error: Exception) -> str:
    """Why a download failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # its body is unread, so the connection is still open
        return " ".join(f"HTTP {error.code} {error.reason}".split())[:200]
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    if isinstance(error, (IncompleteRead, RemoteDisconnected)):
        return "the connection was cut"
    if isinstance(error, TimeoutError):
        return f"no answer in {PATIENCE} s"
    reason = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    return " ".join(reason.split())[:200]

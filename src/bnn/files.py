"""Writing files so that a reader, or a crash, never meets half of one."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["leftovers", "replacing", "write_atomically"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder to write to, and on success moves it to `path`.

        with replacing("curves.png") as temporary:
            figure.savefig(temporary)

    The suffix is kept, for writers that choose a format by it. If the block raises, `path` is as it was
    and the temporary file is gone.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)


def leftovers(path: str | Path) -> list[Path]:
    """Temporary files that writers of `path` left behind because they were killed."""
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.\d+\.tmp{re.escape(path.suffix)}")
    return [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_file()]


def write_atomically(path: str | Path, content: bytes) -> None:
    """Writes `content` to `path`, whole or not at all; it is on disk before the old content is gone."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

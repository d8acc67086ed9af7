"""Writing files so that a reader, or a crash, never meets half of one."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["leftovers", "replace_folder", "replacing", "write_atomically"]


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


def replace_folder(path: str | Path, files: Mapping[str, bytes]) -> None:
    """Makes a folder of files, whole or not at all; a folder that is there already goes.

    It is filled beside its place and then moved. Whoever is killed in between leaves a hidden folder, which
    the next call for the same path removes.

    Args:
        path: the folder.
        files: content by relative path, "/" between parts.
    """
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.(new|old)")
    for entry in path.parent.iterdir():
        if pattern.fullmatch(entry.name) and entry.is_dir():
            shutil.rmtree(entry)
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        for name, content in files.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        if old.exists() and not path.exists():
            old.rename(path)
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

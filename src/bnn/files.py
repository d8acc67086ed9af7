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


def replace_folder(path: str | Path, files: Mapping[str, bytes], *, replace: bool = True) -> None:
    """Makes a folder of files, whole or not at all; with `replace`, a folder that is there already goes.

    It is filled beside its place and then moved. If anything fails or is interrupted, `path` is as it was.
    Whoever is killed leaves hidden folders, of which the next call for the same path restores the old one if
    `path` is gone, and removes the rest.

    Args:
        path: the folder.
        files: content by relative path, "/" between parts.
        replace: whether a folder that is not empty may be at `path`.
    """
    path = Path(path)
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.(new|old)")
    found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_dir()]
    for entry in found:
        if entry.suffix == ".old" and not path.exists():  # killed between its two moves
            entry.rename(path)
    new, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("new", "old"))
    try:
        for name, content in files.items():
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        try:
            if replace and path.exists():
                path.rename(old)
            new.rename(path)
        except BaseException:  # Ctrl-C as well
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for entry in (old, *found):
        shutil.rmtree(entry, ignore_errors=True)

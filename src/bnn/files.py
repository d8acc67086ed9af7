"""Writing files and folders so that a reader, a crash or a second writer never meets half of one.

Whoever writes holds a lock, which the system frees when the process ends, however it ends. So it is never
stale, and what lies beside a path without a lock was left behind by a writer that was killed.
"""

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from bnn.errors import UserError

__all__ = [
    "LOCK",
    "check_no_writer",
    "is_stream",
    "one_writer",
    "read_whole",
    "replace_folder",
    "replacing",
    "sweep",
    "write_atomically",
]

LOCK = ".bnn.lock"
"""The file in a folder that its only writer holds."""


# --- files ------------------------------------------------------------------------------------------------


def write_atomically(path: str | Path, content: bytes, *, keep: Path | None = None) -> None:
    """Writes `content` to `path`, whole or not at all: `replacing`, for what is in memory."""
    with replacing(path, keep=keep) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path, *, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` once the block ends well and it is on disk.

        with replacing("curves.png") as file:
            figure.savefig(file, format="png")

    If the block raises, `path` is as it was. It may be called for one path by several threads and processes
    at once: each writes a file of its own, and the last to end stays. What killed writers of `path` left
    behind is removed. A pipe or a device cannot be replaced, and is written to.

    Args:
        path: the file; a link is replaced, not followed.
        keep: where the file that was there goes, in the moment in which the new one comes.
    """
    path = Path(path)
    if is_stream(path):
        with path.open("ab") as stream:  # standard output may lead to a file, and have something in it
            yield stream
        return
    sweep(path)
    token = secrets.token_hex(8)
    claim, temporary = _beside(path, token, "lock"), _beside(path, token, "tmp")
    try:
        with _held(claim, wait=True):
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                if keep is not None and path.is_file():
                    path.replace(keep)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(claim)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file


def is_stream(path: Path) -> bool:
    """Whether `path` is there and is neither a file nor a folder, but a pipe, a terminal or /dev/null."""
    if path.is_symlink():  # such as /dev/stdout, which leads to a file where output goes to one
        folder = path.parent.resolve()
        if folder == Path("/dev") or Path("/proc") in folder.parents:
            return True
    return path.exists() and not (path.is_file() or path.is_dir())


def sweep(path: Path) -> None:
    """Removes what killed writers of `path` left behind, this release's and those before it.

    Nothing is done where the folder cannot be read or locks are missing.
    """
    name = re.escape(path.name[:_SHORT])
    ours = re.compile(rf"\.{name}\.(?P<token>[0-9a-f]{{16}})\.(lock|tmp)")
    earlier = re.compile(rf"\.{re.escape(path.stem)}\.\d+\.tmp{re.escape(path.suffix)}")
    with suppress(OSError):
        for entry in [*path.parent.iterdir()]:
            if found := ours.fullmatch(entry.name):
                with suppress(OSError), _held(_beside(path, found["token"], "lock")) as descriptor:
                    if descriptor is not None:  # nobody else has it: its writer is dead
                        _beside(path, found["token"], "tmp").unlink(missing_ok=True)
            elif earlier.fullmatch(entry.name) and entry.is_file():
                entry.unlink(missing_ok=True)


# --- folders ----------------------------------------------------------------------------------------------


def replace_folder(path: str | Path, files: Mapping[str, bytes], *, replace: bool = True) -> None:
    """Makes a folder of files, whole or not at all; with `replace`, a folder that is there already goes.

    It is filled beside its place and then moved. If anything fails or is interrupted, `path` is as it was.
    Whoever is killed leaves hidden folders, of which the next call for the same path restores the old one if
    `path` is gone, and removes the rest.

    Args:
        path: the folder.
        files: content by relative path, "/" between parts.
        replace: whether a folder that is not empty may be at `path`.

    Raises:
        BlockingIOError: another thread or process is replacing it.
        OSError: it cannot be written.
    """
    path = Path(path)
    lock, token = _beside(path, "lock"), secrets.token_hex(8)
    new, old = (_beside(path, token, kind) for kind in ("new", "old"))
    with ExitStack() as stack:
        try:
            if stack.enter_context(_held(lock)) is not None:
                _restore(path)
            _fill(new, files)
            _move(new, path, old if replace else None)
        except BlockingIOError as error:
            raise BlockingIOError(errno.EAGAIN, "is being written by another", str(path)) from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _restore(path: Path) -> None:
    """Puts back the folder of a writer that was killed between its two moves; removes what others left."""
    pattern = re.compile(rf"\.{re.escape(path.name[:_SHORT])}\.([0-9a-f]{{16}}|\d+)\.(new|old)")
    found = [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name) and entry.is_dir()]
    for entry in found:
        if entry.suffix == ".old" and not path.exists():
            entry.rename(path)
        shutil.rmtree(entry, ignore_errors=True)


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())


def _move(new: Path, path: Path, old: Path | None) -> None:
    try:
        if old is not None and path.exists():
            path.rename(old)
        new.rename(path)
    except BaseException:  # Ctrl-C as well
        if old is not None and old.exists() and not path.exists():
            old.rename(path)
        raise


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Keeps every other writer out of a folder while the block runs; makes it if it is not there.

    It is held by a lock on a file in it, which goes with the block, as do folders that were made
    and stayed empty. Where the file system has no locks, a RuntimeWarning says so.

    Raises:
        UserError: another has it, in this process or elsewhere; the message says who.
        OSError: it cannot be made or written to, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file, not a folder", str(folder))
    lock = folder.absolute() / LOCK
    made = [path for path in lock.parents if not path.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(_held(lock))
            except BlockingIOError as error:
                raise UserError(f"{folder} is being written by {_holder(lock)}") from error
            if descriptor is None:
                warnings.warn(
                    f"{folder}: its file system has no locks, so nothing keeps a second writer out",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                _sign(descriptor)
            yield
    finally:
        for path in made:
            with suppress(OSError):  # not empty: it is in use
                path.rmdir()


def _sign(descriptor: int) -> None:
    """Writes who holds a lock into its file, for those who are kept out."""
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = f"process {os.getpid()} on {platform.node()} since {since}"
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:  # no pipe, and no link to somebody's file
        with suppress(OSError):  # a full disk will be met by what matters
            os.ftruncate(descriptor, 0)
            os.write(descriptor, text.encode(errors="replace"))


def check_no_writer(folder: Path) -> None:
    """Raises UserError if a run or a study is writing to the folder; makes nothing in it."""
    if (folder / LOCK).exists():  # else there is none, and the folder may be one that can only be read
        with suppress(OSError), one_writer(folder):
            pass


def _holder(lock: Path) -> str:
    """Who holds a folder's lock, as it says there."""
    with suppress(OSError):
        text = read_whole(lock, 200).decode(errors="replace")
        if re.fullmatch(r"process \d+ on [\w.-]+ since [\d: -]+ UTC", text):  # not what was planted
            return text
    return "another process"


# --- locks ------------------------------------------------------------------------------------------------

_SHORT = 50  # characters of a name in hidden names: four bytes each, and what is added, are below 255


def _beside(path: Path, *parts: str) -> Path:
    return path.with_name(".".join(("", path.name[:_SHORT], *parts)))


@contextmanager
def _held(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Holds the lock of a file that is made for it, and that is removed at the end.

    Gives the file's descriptor, or None where the file system has no locks.

    Raises:
        BlockingIOError: another has the lock and `wait` is false.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            locked = _lock(descriptor, wait)
            if not locked or _is_at(path, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # whoever had it has removed the file meanwhile
    try:
        yield descriptor if locked else None
    finally:
        if sys.platform != "win32":  # where only a closed file can be removed, and no open one by others
            with suppress(OSError):
                path.unlink()
        if locked:
            _unlock(descriptor)  # a child that was forked has the file open as well
        os.close(descriptor)
        if sys.platform == "win32":
            with suppress(OSError):
                path.unlink()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool) -> bool:
        os.lseek(descriptor, 2**31 - 2, os.SEEK_SET)  # far behind the end: a locked byte cannot be read
        try:
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EAGAIN, "locked") from error
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 2**31 - 2, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> bool:
        """Whether the lock is ours: False where the file system has none. BlockingIOError: another has it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


# --- reading ----------------------------------------------------------------------------------------------


def read_whole(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises OSError: it cannot be read, is larger, or is no regular file. A pipe would be waited for, a device
    read without end.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "no path has a NUL character", str(path))
    _check_regular(path, Path(path).stat())
    # Should it have become a pipe by now, opening it does not wait.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123
        status = os.fstat(file.fileno())
        _check_regular(path, status)
        content = file.read(most + 1) if status.st_size <= most else b""
    size = max(len(content), status.st_size)
    if size > most:
        raise OSError(errno.EFBIG, f"{size:,} bytes or more; at most {most:,} are read", str(path))
    return content


def _check_regular(path: str | Path, status: os.stat_result) -> None:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    if not stat.S_ISREG(status.st_mode):
        kind = kinds.get(stat.S_IFMT(status.st_mode), "device")
        raise OSError(errno.EINVAL, f"a {kind}, not a file", str(path))

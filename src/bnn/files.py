"""Writing files and folders so that a reader, a crash or a second writer never meets half of one.

Whoever writes holds a lock, which the system frees when the process ends, however it ends. So it is never
stale, and what lies beside a path without a lock was left behind by a writer that was killed.
"""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from bnn.errors import UserError, warn

__all__ = [
    "LOCK",
    "check_own_folder",
    "is_stream",
    "make_own_folder",
    "no_writer",
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


def write_atomically(path: str | Path, content: bytes, *, stream: bool = False) -> None:
    """Writes `content` to `path`, whole or not at all: `replacing`, for what is in memory."""
    with replacing(path, stream=stream) as file:
        file.write(content)


@contextmanager
def replacing(path: str | Path, *, keep: Path | None = None, stream: bool = False) -> Iterator[BinaryIO]:
    """Gives a file to write to, which takes the place of `path` once the block ends well and it is on disk.

        with replacing("curves.png") as file:
            figure.savefig(file, format="png")

    If the block raises, `path` is as it was. It may be called for one path by several threads and processes
    at once: each writes a file of its own, and the last to end stays. What killed writers of `path` left
    behind is removed.

    Args:
        path: the file; a link or a pipe is replaced, not followed or written to.
        keep: where the file that was there goes, in the moment in which the new one comes.
        stream: for paths that users name, not for what lies in a folder: write to it if it `is_stream`.
    """
    path = Path(path)
    if stream and is_stream(path):
        with path.open("ab") as opened:  # standard output may lead to a file, and have something in it
            yield opened
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
                if keep is not None:
                    _keep(path, keep)
                temporary.replace(path)
                _sync(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), str(claim)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file


def _keep(path: Path, keep: Path) -> None:
    """Gives a file a second name, so that there is one at `path` at every moment."""
    if path.is_symlink() or not path.is_file():
        return
    keep.unlink(missing_ok=True)
    try:
        keep.hardlink_to(path)
    except OSError:  # the file system has no hard links
        path.replace(keep)


def _sync(folder: Path) -> None:
    """Brings to disk which names a folder has, where the system can."""
    if sys.platform != "win32":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


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
    ours = re.compile(rf"{re.escape(_beside(path).name)}\.(?P<token>[0-9a-f]{{16}})\.(lock|tmp)")
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
    pattern = re.compile(rf"{re.escape(_beside(path).name)}\.[0-9a-f]{{16}}\.(new|old)")
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
        _sync(path.parent)
    except BaseException:  # Ctrl-C as well
        if old is not None and old.exists() and not path.exists():
            old.rename(path)
        raise


def make_own_folder(path: Path) -> None:
    """Makes a folder in a folder, if it is not there.

    Raises:
        UserError: see `check_own_folder`.
        OSError: it cannot be made.
    """
    check_own_folder(path)
    path.mkdir(exist_ok=True)


def check_own_folder(path: Path) -> None:
    """Raises UserError if what is in a folder, which may be a stranger's, is a link or no folder."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
        raise UserError(f"{path} is no folder, or leads to another: delete it")


@contextmanager
def one_writer(folder: str | Path) -> Iterator[None]:
    """Keeps every other writer out of a folder while the block runs; makes it if it is not there.

    It is held by a lock on a file in it, which goes with the block, as do folders that were made
    and stayed empty. Where the file system has no locks, a RuntimeWarning says so. Readers in `no_writer`
    are waited for.

    Raises:
        UserError: another has it, in this process or elsewhere; the message says who. Or what is there in
            the lock's place was not made by this function.
        OSError: it cannot be made or written to, or is a file.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file, not a folder", str(folder))
    lock = folder.absolute() / LOCK
    made = [path for path in lock.parents if not path.exists()]
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        _check_ours(folder / LOCK)
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(_held(lock))
            except BlockingIOError as error:
                raise UserError(f"{folder} is being written by {_holder(lock)}") from error
            if descriptor is None:
                warn(
                    f"{folder}: its file system has no locks, so nothing keeps a second writer out",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                _sign(descriptor)
            if sys.platform != "win32":
                stack.enter_context(_held_to_read(folder, shared=False))
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


def _check_ours(lock: Path) -> None:
    with suppress(FileNotFoundError):
        status = lock.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:  # a pipe, a link, somebody's file
            raise UserError(f"{lock} is no file of ours: delete it")


@contextmanager
def no_writer(folder: str | Path) -> Iterator[None]:
    """Keeps writers out of a folder while the block reads it. Nothing in it is made, changed or removed.

    Where it cannot be locked, nothing keeps them out: compare at the end what was read at the beginning.

    Raises:
        UserError: a run or a study is writing to it; the message says who.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_held_to_read(Path(folder), shared=True))
        except BlockingIOError as error:
            raise UserError(f"{folder} is being written by {_holder(Path(folder, LOCK))}") from error
        yield


def _holder(lock: Path) -> str:
    """Who holds a folder's lock, as it says there."""
    with suppress(OSError):
        text = read_whole(lock, 200).decode(errors="replace")
        if re.fullmatch(r"process \d+ on [\w.-]+ since [\d: -]+ UTC", text):  # not what was planted
            return text
    return "another process"


# --- locks ------------------------------------------------------------------------------------------------


def _beside(path: Path, *parts: str) -> Path:
    """A hidden name: no other path has it, and it is below 255 bytes, as a character has four at most."""
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    return path.with_name(".".join(("", path.name[:40], digest, *parts)))


@contextmanager
def _held(path: Path, wait: bool = False) -> Iterator[int | None]:
    """Holds the lock of a file that is made for it, and that is removed at the end.

    Gives the file's descriptor, or None where the file system has no locks.

    Raises:
        BlockingIOError: another has the lock and `wait` is false.
    """
    owner = os.getpid()
    while True:
        descriptor = _open(path, os.O_RDWR | os.O_CREAT)
        try:
            locked = _lock(descriptor, wait)
            if not locked or _is_at(path, descriptor):
                break
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)  # whoever had it has removed the file meanwhile
    try:
        yield descriptor if locked else None
    finally:
        if os.getpid() == owner:  # else this is a child that was forked in the block
            _give_back(path, descriptor, locked)


def _give_back(path: Path, descriptor: int, locked: bool) -> None:
    if sys.platform != "win32":  # where only a closed file can be removed, and no open one by others
        with suppress(OSError):
            path.unlink()
    if locked:
        _unlock(descriptor)  # a child of another's fork may have the file open as well
    _close(descriptor)
    if sys.platform == "win32":
        with suppress(OSError):
            path.unlink()


@contextmanager
def _held_to_read(folder: Path, shared: bool) -> Iterator[None]:
    """Holds the lock by which readers keep writers out: that of the folder itself, which has always a file to
    lock. Windows locks no folder: there it is the writer's own.

    Does nothing where it cannot be locked.

    Raises:
        BlockingIOError: a writer has it, and `shared` is true. If it is false, readers are waited for.
    """
    folder, owner = folder.resolve(), os.getpid()
    try:
        descriptor = _open(folder / LOCK if sys.platform == "win32" else folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        _lock(descriptor, wait=not shared, shared=shared)
        yield
    finally:
        if os.getpid() == owner:
            _close(descriptor)


_open_locks: set[int] = set()
"""Descriptors of locks. A child that is forked closes them, or it would hold the lock of a dead parent."""


def _open(path: Path, flags: int) -> int:
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    _open_locks.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    _open_locks.remove(descriptor)
    os.close(descriptor)


def _close_in_child() -> None:
    while _open_locks:
        os.close(_open_locks.pop())  # which unlocks nothing as long as the parent has it open


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool, shared: bool = False) -> bool:  # which msvcrt has not
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

    def _lock(descriptor: int, wait: bool, shared: bool = False) -> bool:
        """Whether the lock is ours: False where the file system has none. BlockingIOError: another has it."""
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
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

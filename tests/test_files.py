"""Writing whole, one writer a folder, and what killed writers left."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bnn import files
from bnn.errors import UserError
from bnn.files import (
    make_own_folder,
    no_writer,
    one_writer,
    replace_folder,
    replacing,
    sweep,
    write_atomically,
)

TOKEN = "0123456789abcdef"
links = pytest.mark.skipif(sys.platform == "win32", reason="needs links or pipes")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def another_process(call: str) -> Iterator[None]:
    """Runs `with {call}:` in a process of its own, which is killed at the end."""
    code = "import time\nfrom pathlib import Path\nfrom bnn.files import *\nfrom bnn.files import _held\n"
    code += f"with {call}:\n    print(flush=True)\n    time.sleep(300)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == b""
        yield
    finally:
        process.kill()
        process.wait(timeout=300)
        process.stdout.close()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has none."""
    monkeypatch.setattr(files, "_lock", lambda descriptor, wait, shared=False: False)


# --- files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_replacing_is_all_or_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    """Until the block ends well the old file is there whole; if it raises, the temporary file goes."""
    path = tmp_path / "curves.png"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(error), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert path.read_text() == "new"
    assert names(tmp_path) == ["curves.png"]


def test_many_writers_of_one_path(tmp_path: Path) -> None:
    """Threads that write at once neither fail nor mix: a reader sees one's content, whole."""
    path = tmp_path / "a"
    contents = [bytes([number]) * 10_000 for number in range(4)]
    faults: list[Exception] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(50):
                write_atomically(path, content)
                assert path.read_bytes() in contents
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=[content]) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert names(tmp_path) == ["a"]


def test_a_name_may_be_as_long_as_any(tmp_path: Path) -> None:
    """Hidden names are shortened: 255 bytes are what a file system allows."""
    for name in ("n" * 255, "名" * 85):
        write_atomically(tmp_path / name, b"content")
    assert len(names(tmp_path)) == 2


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    """As `open` would give them."""
    write_atomically(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_the_file_before_is_kept(tmp_path: Path) -> None:
    """Under another name, and only once there is a whole new one."""
    path, before = tmp_path / "a", tmp_path / "before"
    for content in (b"0", b"1", b"2"):
        with replacing(path, keep=before) as file:
            file.write(content)
        assert names(tmp_path) == (["a"] if content == b"0" else ["a", "before"])
    with pytest.raises(ValueError, match="no"), replacing(path, keep=before):
        raise ValueError("no")
    assert (path.read_bytes(), before.read_bytes()) == (b"2", b"1")


@links
def test_what_is_planted_at_a_hidden_name_is_not_followed(tmp_path: Path, monkeypatch) -> None:
    """Even if its random part is known: a link's target is not touched."""
    target = tmp_path / "target"
    target.write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda length: TOKEN)
    monkeypatch.setattr(files, "sweep", lambda path: None)
    for kind in ("tmp", "lock"):
        planted = files._beside(tmp_path / "a", TOKEN, kind)
        planted.symlink_to(target)
        with pytest.raises(OSError, match=r"a'$"):
            write_atomically(tmp_path / "a", b"content")
        planted.unlink(missing_ok=True)
    assert target.read_text() == "mine"
    assert not (tmp_path / "a").exists()


@links
def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """So that whoever planted it in a shared folder cannot say what is overwritten."""
    (tmp_path / "target").write_text("mine")
    (tmp_path / "a").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "a", b"content")
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_text() == "mine"


@links
def test_pipes_and_devices_are_written_to(tmp_path: Path) -> None:
    """Where a user names one. They are not replaced, which for /dev/null root could do."""
    before = Path("/dev/null").stat()
    write_atomically("/dev/null", b"content", stream=True)
    assert os.path.samestat(before, Path("/dev/null").stat())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=write_atomically, args=[pipe, b"content"], kwargs={"stream": True})
    writer.start()
    assert pipe.read_bytes() == b"content"
    writer.join()
    assert pipe.is_fifo()
    code = "print('before', flush=True)\nfrom bnn.files import write_atomically\n"
    code += "write_atomically('/dev/stdout', b'content', stream=True)"
    with (tmp_path / "output").open("wb") as output:
        subprocess.run([sys.executable, "-c", code], stdout=output, check=True, timeout=300)
    assert (tmp_path / "output").read_bytes() == b"before\ncontent"
    assert Path("/dev/stdout").is_symlink()


@links
@pytest.mark.parametrize("target", ["/dev/zero", "/dev/null", "pipe"])
def test_pipes_and_devices_in_a_folder_are_replaced(tmp_path: Path, target: str) -> None:
    """Who planted them gets nothing, and nobody waits."""
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "a" if target.startswith("/") else tmp_path / "pipe"
    if target.startswith("/"):
        path.symlink_to(target)
    write_atomically(path, b"content")
    assert (path.is_symlink(), path.read_bytes()) == (False, b"content")


@pytest.mark.parametrize("hard_links", [True, False])
def test_there_is_a_file_at_every_moment(tmp_path: Path, monkeypatch, hard_links: bool) -> None:
    """The file before is kept by a second name; without hard links it is moved."""
    path, before = tmp_path / "a", tmp_path / "before"
    path.write_bytes(b"1")
    if not hard_links:

        def refuse(self: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "no hard links", str(self))

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    seen = []
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        seen.append((path.exists(), before.exists()))
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with replacing(path, keep=before) as file:
        file.write(b"2")
    assert seen == ([(True, True)] if hard_links else [(True, False), (False, True)])
    assert (path.read_bytes(), before.read_bytes()) == (b"2", b"1")


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    """This release's and earlier ones', and nobody else's: neither other files nor what is being written."""
    hidden = files._beside(tmp_path / "a.txt").name
    ours = [f"{hidden}.{TOKEN}.tmp", f"{hidden}.{TOKEN}.lock", f"{hidden}.{TOKEN[::-1]}.tmp"]
    for name in (*ours, ".a.4711.tmp.txt"):
        (tmp_path / name).write_text("half")
    other = files._beside(tmp_path / "b.txt").name
    others = [f"{other}.{TOKEN}.tmp", ".a.tmp.txt", f"{hidden}.{TOKEN}0.tmp", "a.4711.tmp.txt"]
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".a.1.tmp.txt").mkdir()
    alive = f"{hidden}.{'0' * 16}"
    (tmp_path / f"{alive}.tmp").write_text("half")
    with another_process(f"_held(Path({str(tmp_path / (alive + '.lock'))!r}))"):
        write_atomically(tmp_path / "a.txt", b"content")
        assert {f"{alive}.tmp", f"{alive}.lock"} <= set(names(tmp_path))
    sweep(tmp_path / "a.txt")
    assert names(tmp_path) == sorted([*others, ".a.1.tmp.txt", "a.txt"])


@pytest.mark.usefixtures("without_locks")
def test_without_locks_nothing_is_swept(tmp_path: Path) -> None:
    """As nobody knows whose it is; files are written whole all the same."""
    half = files._beside(tmp_path / "a", TOKEN, "tmp")
    half.write_text("half")
    write_atomically(tmp_path / "a", b"content")
    assert names(tmp_path) == [half.name, "a"]


def test_a_sweep_may_come_between_making_a_lock_and_taking_it(tmp_path: Path, monkeypatch) -> None:
    """The lock's file is then gone, and the writer makes it anew."""
    real, calls = files._lock, []

    def lock(descriptor: int, wait: bool, shared: bool = False) -> bool:
        calls.append(descriptor)
        if len(calls) == 1:
            sweep(tmp_path / "a")
        return real(descriptor, wait)

    monkeypatch.setattr(files, "_lock", lock)
    with replacing(tmp_path / "a") as file:
        assert len(calls) == 3
        sweep(tmp_path / "a")
        file.write(b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert names(tmp_path) == ["a"]


# --- folders ----------------------------------------------------------------------------------------------


def test_a_folder_that_is_being_replaced_is_left_alone(tmp_path: Path) -> None:
    """A second writer gets an error, and nothing of the first's is swept."""
    path = tmp_path / "a"
    replace_folder(path, {"x": b"1"})
    new = files._beside(path, TOKEN, "new")
    new.mkdir()
    with another_process(f"_held(Path({str(files._beside(path, 'lock'))!r}))"):
        with pytest.raises(BlockingIOError, match="is being written by another") as error:
            replace_folder(path, {"x": b"2"})
        assert error.value.filename == str(path)
        assert new.is_dir()
    assert (path / "x").read_bytes() == b"1"
    replace_folder(path, {"x": b"2"})
    assert names(tmp_path) == ["a"]


def test_many_writers_of_one_folder(tmp_path: Path) -> None:
    """What is there is one's content whole; the others are done or told why not."""
    path = tmp_path / "a"
    refused: list[BlockingIOError] = []
    faults: list[Exception] = []

    def write(number: int) -> None:
        try:
            for _ in range(20):
                try:
                    replace_folder(path, {name: bytes([number]) for name in ("x", "y", "z/z")})
                except BlockingIOError as error:
                    refused.append(error)
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert names(tmp_path) == ["a"]
    assert len({(path / name).read_bytes() for name in ("x", "y", "z/z")}) == 1


@pytest.mark.usefixtures("without_locks")
def test_a_folder_is_replaced_without_locks(tmp_path: Path) -> None:
    """Whole, and nothing is swept."""
    old = files._beside(tmp_path / "a", TOKEN, "old")
    old.mkdir()
    for content in (b"1", b"2"):
        replace_folder(tmp_path / "a", {"x": content})
        assert (tmp_path / "a" / "x").read_bytes() == content
    assert names(tmp_path) == [old.name, "a"]


def test_folders_of_nearly_one_name_are_two(tmp_path: Path) -> None:
    """What a killed writer of one left is not restored as the other, nor removed with it."""
    one, two = (tmp_path / ("a" * 50 + end) for end in ("-one", "-two"))
    replace_folder(one, {"x": b"1"})
    one.rename(files._beside(one, TOKEN, "old"))  # killed between the two moves
    with pytest.raises(OSError, match=f"{two.name}'$"):
        replace_folder(
            two, {"x": b"2", "x/y": b""}
        )  # which is restored if it was killed, and then not filled
    assert not two.exists()
    with pytest.raises(OSError, match=f"{one.name}'$"):
        replace_folder(one, {"x": b"2", "x/y": b""})
    assert (one / "x").read_bytes() == b"1"


# --- one writer -------------------------------------------------------------------------------------------


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """In this process, in another thread or process, by any spelling of the path; the message says who."""
    folder = tmp_path / "run"
    with one_writer(folder):
        spelled = folder / ".." / "run"
        who = rf"process {os.getpid()} on \S+ since 2\d\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        with pytest.raises(UserError, match=rf"run is being written by {who}$"), one_writer(spelled):
            pass
        with pytest.raises(UserError, match=who), no_writer(folder):
            pass
        code = f"from bnn.files import one_writer\nwith one_writer({str(folder)!r}): pass"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert f"being written by process {os.getpid()}" in done.stderr
        (folder / "file").write_text("")
    assert names(folder) == ["file"]
    with no_writer(folder), no_writer(folder):
        pass
    with one_writer(folder):
        pass


def test_the_lock_of_a_killed_writer_is_stale(tmp_path: Path) -> None:
    """The system frees it with the process, whatever its file says."""
    alive = another_process(f"one_writer({str(tmp_path)!r})")
    with alive, pytest.raises(UserError, match="is being written by process"), no_writer(tmp_path):
        pass
    assert names(tmp_path) == [files.LOCK]
    before = (tmp_path / files.LOCK).read_bytes()
    with no_writer(tmp_path):
        pass
    assert (tmp_path / files.LOCK).read_bytes() == before
    with one_writer(tmp_path):
        pass
    assert names(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """It has the file open as well, but the lock is given back explicitly."""
    read, write = os.pipe()
    with one_writer(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent closes its end
            os._exit(0)
    try:
        with one_writer(tmp_path):
            pass
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("ends", ["is killed", "leaves the block"])
def test_a_forked_child_of_a_killed_writer_holds_nothing(tmp_path: Path, ends: str) -> None:
    """It lives on, and the folder is free; while its parent lives, a child gives nothing back."""
    leaves = ends == "leaves the block"
    code = "import os, time\nfrom bnn.files import one_writer\n"
    code += f"with one_writer({str(tmp_path)!r}):\n    child = os.fork()\n"
    code += f"    if child: time.sleep(300)\n    if not {leaves}:\n"
    code += "        print(os.getpid(), flush=True); time.sleep(300)\n"
    code += "print(os.getpid(), flush=True); time.sleep(300)"
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"by process {parent.pid} "), one_writer(tmp_path):
            pass
        parent.kill()
        parent.wait(timeout=300)
        os.kill(child, 0)
        with one_writer(tmp_path):
            pass
    finally:
        parent.kill()
        os.kill(child, signal.SIGKILL)
        parent.stdout.close()


@links
def test_a_writer_waits_for_readers(tmp_path: Path) -> None:
    """Who reads a folder has all of it from one run, though no lock's file was there."""
    (tmp_path / "file").write_text("old")
    started = threading.Event()

    def write() -> None:
        started.set()
        with one_writer(tmp_path):
            (tmp_path / "file").write_text("new")

    writer = threading.Thread(target=write)
    with no_writer(tmp_path):
        assert names(tmp_path) == ["file"]
        writer.start()
        started.wait()
        while files.LOCK not in names(tmp_path):
            pass
        assert (tmp_path / "file").read_text() == "old"
        with pytest.raises(UserError, match="is being written by"), one_writer(tmp_path):
            pass
    writer.join()
    assert (tmp_path / "file").read_text() == "new"


@links
def test_a_folder_in_a_folder_is_no_link(tmp_path: Path) -> None:
    """Nor a file; one that is there is taken."""
    make_own_folder(tmp_path / "own")
    make_own_folder(tmp_path / "own")
    (tmp_path / "link").symlink_to(tmp_path / "own")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    for name in ("link", "dangling", "file"):
        with pytest.raises(UserError, match=f"{name} is no folder, or leads to another: delete it$"):
            make_own_folder(tmp_path / name)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_lock_goes_with_the_block(tmp_path: Path, error: type[BaseException]) -> None:
    """However it ends, with folders that were made and stayed empty."""
    with pytest.raises(error), one_writer(tmp_path / "new" / "run"):
        raise error
    assert names(tmp_path) == []


def test_what_a_lock_says_is_checked(tmp_path: Path) -> None:
    """Control characters of another's are not printed."""
    with one_writer(tmp_path):
        (tmp_path / files.LOCK).write_text("\x1b[2J")
        with pytest.raises(UserError, match=r"written by another process$"), one_writer(tmp_path):
            pass


@links
@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_what_is_planted_as_a_lock_is_not_written_to(tmp_path: Path, kind: str) -> None:
    """A run's folder may come from others: nothing outside it changes, nobody waits for a pipe, and one line
    says what to delete. Readers do not look at it."""
    target, lock = tmp_path / "target", tmp_path / "run" / files.LOCK
    target.write_text("mine")
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(target)
    else:
        lock.hardlink_to(target) if kind == "hard link" else os.mkfifo(lock)
    ours = r"run.\.bnn\.lock is no file of ours: delete it$"
    with pytest.raises(UserError, match=ours), one_writer(lock.parent):
        pass
    with no_writer(lock.parent):
        pass
    assert target.read_text() == "mine"


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_warning_says_so(tmp_path: Path) -> None:
    """And the block runs."""
    with pytest.warns(RuntimeWarning, match="its file system has no locks"), one_writer(tmp_path):
        pass
    assert names(tmp_path) == []


def test_a_file_has_no_writer(tmp_path: Path) -> None:
    """A file where a folder should be is named."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="a file, not a folder"), one_writer(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


@links
def test_errors_other_than_busy_are_no_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as those of a network's file system without a lock server."""

    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.warns(RuntimeWarning, match="no locks"), one_writer(tmp_path):
        pass

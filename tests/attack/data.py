"""Hostile data: pickles, archives, IDX and MATLAB files, folders, servers. Each is one DataError, soon.

    python tests/attack/data.py [--mutants N] [--seed N] [--verbose]

A finding is another exception, one that takes more than ten seconds or a gigabyte, a message of several lines
or without the file or URL, a file that a failed download leaves behind, a byte that is not of the official
file and comes to SciPy. Then the exit status is 1. POSIX only.
"""

import argparse
import contextlib
import gzip
import io
import os
import random
import resource
import signal
import socketserver
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from bnn.data import DataError, cifar, download, load_dataset, svhn
from bnn.data.folder import _most_bytes

MOST_SECONDS = 10
MOST_MEMORY = 1 << 30


# ---- files ---------------------------------------------------------------------------------------------


def _batch(records: int) -> bytes:
    """A sound batch of CIFAR-10, as Python 2 wrote them, memo and names of files included."""
    number = lambda value: b"J" + value.to_bytes(4, "little", signed=True)  # noqa: E731
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x06cnumpy\nndarray\nq\x07K\x00\x85U\x01b\x87Rq\x08(K\x01"
    )
    array += (
        number(records) + number(3072) + b"\x86cnumpy\ndtype\nq\x09U\x02u1K\x00K\x01\x87Rq\x0a(K\x03U\x01|NNN"
    )
    array += (
        number(-1) * 2
        + b"K\x00tb\x89T"
        + (records * 3072).to_bytes(4, "little")
        + bytes(records * 3072)
        + b"tb"
    )
    labels = b"]q\x05(" + b"K\x01" * records + b"e"
    names = b"]q\x0b(" + b"".join(
        text(b"%d.png" % k) + b"r" + (k + 12).to_bytes(4, "little") for k in range(records)
    )
    items = (
        text(b"batch_label")
        + b"q\x02"
        + text(b"testing batch 1 of 1")
        + b"q\x03"
        + text(b"labels")
        + b"q\x04"
    )
    items += labels + text(b"data") + array + text(b"filenames") + names + b"e"
    return b"\x80\x02}q\x01(" + items + b"u."


def _nested_tuples(depth: int) -> bytes:
    """A dict whose key is a tuple of two of a tuple of two of ...: 2^depth to hash."""
    return b"\x80\x02}(" + b")" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(depth)) + b"K\x01u."


PICKLES: dict[str, Callable[[], bytes]] = {
    "memo": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memo-of-protocol-0": lambda: b"Np2147483647\n.",
    "shared-tuples": lambda: _nested_tuples(60),
    "deep-tuples": lambda: b"\x80\x02}(" + b")" + b"\x85" * 1_000_000 + b"K\x01u.",
    "deep-lists": lambda: b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "list-in-itself": lambda: b"\x80\x02]q\x01h\x01a.",
    "long-number": lambda: b"\x80\x02\x8b\xff\xff\xff\x7f" + b"\x01" * 1000 + b".",
    "long-digits": lambda: b"I" + b"9" * 10_000_000 + b"\n.",
    "long-string": lambda: b"\x80\x02T\xff\xff\xff\x7f.",
    "negative-string": lambda: b"\x80\x02T\xff\xff\xff\xff.",
    "bytearray": lambda: b"\x80\x05\x96" + (1 << 60).to_bytes(8, "little") + b".",
    "marks": lambda: b"\x80\x02" + b"(" * 30_000_000 + b".",
    "numbers": lambda: b"\x80\x02](" + b"K\x01" * 15_000_000 + b"e.",
    "too-large": lambda: bytes(70_000_000),
    "global": lambda: b"\x80\x02cos\nsystem\nU\x02id\x85R.",
    "instance": lambda: b"(U\x02idios\nsystem\n.",
    "object": lambda: b"\x80\x02(cos\nsystem\nU\x02ido.",
    "extension": lambda: b"\x80\x02\x82\x01.",
    "persistent": lambda: b"Pid\n.",
    "stack-global": lambda: b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "names-with-spaces": lambda: b"\x80\x02cnumpy core\nndarray\n.",
    "reconstruct-many": lambda: (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01" + b"h\x01NNN\x87R" * 5000 + b"."
    ),
    "array-of-a-list": lambda: b"\x80\x02}(U\x04data]U\x06labels]u.",
    "empty": lambda: b"",
    "text": lambda: b"no pickle",
}


def _archive(size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = size
        archive.addfile(member, io.BytesIO(bytes(size)))
    return buffer.getvalue()


IDX: dict[str, Callable[[], bytes]] = {
    "bomb": lambda: gzip.compress(bytes(1 << 28), 9),
    "bomb-of-bombs": lambda: gzip.compress(bytes(1 << 24), 9) * 60,
    "many-members": lambda: gzip.compress(b"") * 300_000,
    "sizes": lambda: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(100)),
    "sizes-of-zero": lambda: gzip.compress(b"\0\0\x08\x03" + bytes(12)),
    "long-name-in-header": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 60_000_000,
    "extra-field": lambda: b"\x1f\x8b\x08\x04" + bytes(6) + b"\xff\xff" + bytes(10),
    "sparse": lambda: b"",
}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def file_cases(root: Path) -> Iterator[tuple[str, Callable[[], object], Path]]:
    """Name, what loads it, and the file that the error has to name."""
    for name, make in PICKLES.items():
        folder = root / f"pickle-{name}" / "cifar10" / "cifar-10-batches-py"
        for file in cifar.LAYOUTS[1].files:
            _write(folder / file, b"")
        _write(folder / "data_batch_1", make())
        yield f"pickle {name}", lambda folder=folder: load_dataset("cifar10", folder.parent.parent), folder
    for name, make in IDX.items():
        path = root / f"idx-{name}" / "mnist" / "train-images-idx3-ubyte.gz"
        _write(path, make())
        if name == "sparse":
            os.truncate(path, 1 << 40)
        yield f"idx {name}", lambda path=path: load_dataset("mnist", path.parent.parent, download=False), path
    for name, content in {"archive": _archive(1 << 27), "no-archive": b"x" * 100}.items():
        path = root / name / "cifar10" / "cifar-10-binary.tar.gz"
        _write(path, content)
        yield name, lambda path=path: load_dataset("cifar10", path.parent.parent, download=False), path
        layout = cifar.LAYOUTS[0]
        unknown = replace(layout, archive=replace(layout.archive, digest=None))
        yield (
            f"{name}, unhashed",
            lambda path=path, unknown=unknown: cifar._read_archive(unknown, path, str(path)),
            path,
        )
    for data, name in (
        ("mnist", "mnist/train-images-idx3-ubyte.gz"),
        ("svhn", "svhn/train_32x32.mat"),
        ("cifar10", "cifar10/cifar-10-batches-bin/data_batch_1.bin"),
    ):
        path = root / "pipes" / name
        path.parent.mkdir(parents=True)
        os.mkfifo(path)
        # not to be waited for: it is as if the file were missing
        yield (
            f"pipe {data}",
            lambda data=data: load_dataset(data, root / "pipes", download=False),
            path.parent,
        )
    folder = root / "many-pixels"
    (folder / "a").mkdir(parents=True)
    Image.new("L", (1 << 13, 1 << 13)).save(folder / "a" / "0.png")
    for k in range(1, _most_bytes() // 2**26 + 1):
        os.link(folder / "a" / "0.png", folder / "a" / f"{k}.png")
    yield "folder of many pixels", lambda folder=folder: load_dataset(str(folder)), folder / "a" / "0.png"


def mat_cases(
    root: Path, mutants: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[], object], Path]]:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1), np.uint8)})
    sound = buffer.getvalue()
    path = root / "mat" / "svhn" / "train_32x32.mat"
    for index in range(mutants):
        content = bytearray(sound)
        for _ in range(rng.randrange(1, 20)):
            content[rng.randrange(len(content))] = rng.randrange(256)

        def load(content: bytes = bytes(content)) -> object:
            _write(path, content)
            return load_dataset("svhn", path.parent.parent, download=False)

        yield f"mat {index}", load, path


def pickle_mutants(
    root: Path, mutants: int, rng: random.Random
) -> Iterator[tuple[str, Callable[[], object], Path]]:
    """Changed batches: refused, or read as something of the right shape."""
    sound = _batch(cifar.RECORDS)
    pixels, labels = cifar.parse_pickle(sound, "sound")
    assert pixels.shape == (cifar.RECORDS, 3072)
    assert len(labels) == cifar.RECORDS
    places = [k for k in range(len(sound)) if sound[k : k + 50] != bytes(50)]
    path = root / "mutant"
    for index in range(mutants):
        content = bytearray(sound)
        for _ in range(rng.randrange(1, 6)):
            at = places[rng.randrange(len(places))]
            kind = rng.randrange(3)
            if kind == 0:
                content[at] = rng.randrange(256)
            elif kind == 1:
                content[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 6)))
            else:
                del content[at : at + rng.randrange(1, 6)]

        def load(content: bytes = bytes(content)) -> object:
            found, numbers = cifar.parse_pickle(content, str(path))
            assert found.shape == (cifar.RECORDS, 3072)
            assert numbers.shape == (cifar.RECORDS,)
            raise DataError(f"{path}: sound")  # as good as refused

        yield f"pickle mutant {index}", load, path


# ---- servers -------------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"


def _drip(start: bytes, unit: bytes, pause: float = 0.05) -> Callable[[Any], None]:
    def answer(send: Any) -> None:
        send(start)
        while True:
            send(unit)
            time.sleep(pause)

    return answer


def _once(content: bytes) -> Callable[[Any], None]:
    return lambda send: send(content)


SERVERS: dict[str, Callable[[Any], None]] = {
    "nothing": lambda send: None,
    "silence": lambda send: time.sleep(20),
    "no-http": _once(b"hello\r\n\r\n"),
    "no-length": _once(OK + b"\r\nabc"),
    "length-too-long": _once(OK + b"Content-Length: 1000\r\n\r\nabc"),
    "length-too-short": _once(OK + b"Content-Length: 2\r\n\r\nabc"),
    "length-garbage": _once(OK + b"Content-Length: lots\r\n\r\nabc"),
    "length-negative": _once(OK + b"Content-Length: -3\r\n\r\nabc"),
    "length-huge": _once(OK + b"Content-Length: 99999999999\r\n\r\nabc"),
    "length-beyond": _once(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc"),
    "length-of-digits-elsewhere": _once(OK + "Content-Length: ٣\r\n\r\nabc".encode()),
    "length-twice": _once(OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "chunks-cut": _once(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"),
    "chunks-garbage": _once(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab"),
    "chunks-negative": _once(OK + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nab"),
    "chunk-huge": _once(OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab"),
    "drip-body": _drip(OK + b"\r\n", b"a"),
    "drip-length": _drip(OK + b"Content-Length: 1000000\r\n\r\n", b"a"),
    "drip-chunks": _drip(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
    "drip-headers": _drip(OK + b"X: ", b"a"),
    "drip-status": _drip(b"HTTP/1.1 200 ", b"a"),
    "drip-redirect": _drip(b"HTTP/1.1 302 Found\r\nLocation: URL\r\n\r\n", b"a"),
    "flood-body": _drip(OK + b"\r\n", b"a" * (1 << 20), 0),
    "flood-headers": _drip(OK, b"X: " + b"a" * 60_000 + b"\r\n", 0),
    "flood-redirect": _drip(b"HTTP/1.1 302 Found\r\nLocation: URL\r\n\r\n", b"a" * (1 << 20), 0),
    "flood-error": _drip(b"HTTP/1.1 500 Broken\r\n\r\n", b"a" * (1 << 20), 0),
    "continue-for-ever": _drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0),
    "redirect-loop": _once(b"HTTP/1.1 301 Moved\r\nLocation: URL\r\nContent-Length: 0\r\n\r\n"),
    "redirect-to-file": _once(
        b"HTTP/1.1 301 Moved\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
    ),
    "redirect-to-ftp": _once(
        b"HTTP/1.1 301 Moved\r\nLocation: ftp://127.0.0.1/x\r\nContent-Length: 0\r\n\r\n"
    ),
    "redirect-nowhere": _once(b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n"),
    "redirect-to-nonsense": _once(
        b"HTTP/1.1 301 Moved\r\nLocation: http://[::1\r\nContent-Length: 0\r\n\r\n"
    ),
    "gzip-encoded": _once(OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(1 << 20))),
    "not-found": _once(b"HTTP/1.1 404 Not \x1b[31mFound\r\nContent-Length: 0\r\n\r\n"),
    "no-content": _once(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "status-garbage": _once(b"HTTP/1.1 abc Found\r\n\r\n"),
}


@contextlib.contextmanager
def serving(answer: Callable[[Any], None]) -> Iterator[str]:
    """The URL of a server that answers so."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            url = f"http://127.0.0.1:{self.server.server_address[1]}/file".encode()
            with contextlib.suppress(OSError):  # we are left, as is right
                while b"\r\n\r\n" not in self.request.recv(1 << 16):
                    pass
                answer(lambda content: self.request.sendall(content.replace(b"URL", url)))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/file"
        finally:
            server.shutdown()
            thread.join()


def server_cases(root: Path) -> Iterator[tuple[str, Callable[[], object], Path]]:
    for name, answer in SERVERS.items():

        def load(answer: Callable[[Any], None] = answer, name: str = name) -> object:
            folder = root / f"server-{name}"
            with serving(answer) as url:
                file = download.RemoteFile("train_32x32.mat", url, "md5:" + "0" * 32, 1 << 22)
                svhn.FILES = (file, file)
                try:
                    return load_dataset("svhn", folder)
                except DataError as error:
                    if url not in str(error):
                        raise ValueError(f"no URL in {error}") from error
                    raise DataError(f"{folder}: {error}") from error
                finally:
                    assert not folder.exists(), list(folder.rglob("*"))

        yield f"server {name}", load, root / f"server-{name}"


# ---- the trial -----------------------------------------------------------------------------------------


def _hang(*_: object) -> None:
    raise TimeoutError("it hangs")


def judge(load: Callable[[], object], path: Path) -> tuple[str, str]:
    """What is wrong, and what was said."""
    signal.signal(signal.SIGALRM, _hang)
    signal.alarm(3 * MOST_SECONDS)
    start = time.monotonic()
    try:
        load()
    except DataError as error:
        said = str(error)
        wrong = "" if str(path) in said and len(said.splitlines()) == 1 else f"said {said[:300]!r}"
    except BaseException as error:
        said = ""
        wrong = f"{type(error).__name__}: {str(error)[:300]}"
    else:
        said, wrong = "", "it was taken"
    finally:
        signal.alarm(0)
    seconds = time.monotonic() - start
    return wrong or (f"{seconds:.1f} s" if seconds > MOST_SECONDS else ""), f"{seconds:4.1f} s  {said[:200]}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile data sets and servers.")
    parser.add_argument("--mutants", type=int, default=300, help="of a pickle and of a MATLAB file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    parsed: list[str] = []
    scipy.io.loadmat = lambda *given, **named: parsed.append("a byte came to SciPy")
    download.PATIENCE = 1.0
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    findings = count = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        official = svhn.FILES, cifar.RECORDS
        groups = [file_cases(root), mat_cases(root, options.mutants, rng)]
        for group in groups:
            for name, load, path in group:
                findings += report(name, judge(load, path), options.verbose)
                count += 1
        cifar.RECORDS = 4
        for name, load, path in pickle_mutants(root, options.mutants, rng):
            findings += report(name, judge(load, path), options.verbose)
            count += 1
        findings += len(parsed)
        for name, load, path in server_cases(root):
            findings += report(name, judge(load, path), options.verbose)
            count += 1
        svhn.FILES, cifar.RECORDS = official
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    findings += memory > MOST_MEMORY
    print(f"{count} cases: {findings} findings; {memory >> 20} MB")
    return 1 if findings else 0


def report(name: str, found: tuple[str, str], verbose: bool) -> int:
    wrong, said = found
    if verbose or wrong:
        print(f"{name:30} {said}" + f"\n  FINDING: {wrong}" * bool(wrong), flush=True)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

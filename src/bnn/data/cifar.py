"""CIFAR-10 from its binary or its Python version, unpacked or in the official archives."""

import io
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnn.data.dataset import DataError, Dataset, Images, Labels, check_labels
from bnn.data.download import RemoteFile, check_digest, downloaded
from bnn.files import read_whole, replace_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS = 10_000  # images in each file
_MOST_ARCHIVED = 1 << 28  # bytes of an archive; the official ones have 170 MB
_PIXELS = 3 * 32 * 32  # bytes of an image: the red, the green and the blue plane, each row by row


@dataclass(frozen=True)
class Layout:
    """One of the official versions of the data.

    folder: what its archive unpacks to.
    files: the five training files, then the test file.
    archive: the official archive, with the md5 that its authors give.
    parse: (content of a file, its name in errors) -> pixels, uint8, (RECORDS, 3072), and labels, (RECORDS,).
    """

    folder: str
    files: tuple[str, ...]
    archive: RemoteFile
    parse: Callable[[bytes, str], tuple[Images, Labels]]


def load_cifar10(root: Path, download: bool) -> Dataset:
    """50,000 and 10,000 photographs of ten classes, RGB, 32x32 (A. Krizhevsky, "Learning Multiple Layers of
    Features from Tiny Images", 2009).

    root: the data folder. Looked for, in this order: the unpacked folders `cifar-10-batches-bin` and
        `cifar-10-batches-py` in `root/cifar10` and in `root`, then the two official archives in
        `root/cifar10`. With none of them, and when `download` is true, the binary archive is downloaded and
        unpacked.
    An archive is checked by its hash. An unpacked folder is checked for its structure only: other versions
    of the images (re-encoded, for one) come in the same layout.
    Raises DataError for a file that is missing or damaged.
    """
    folder = root / "cifar10"
    for base in (folder, root):
        for layout in LAYOUTS:
            unpacked = base / layout.folder
            if unpacked.is_dir():
                return _from_folder(layout, unpacked)
    for layout in LAYOUTS:
        archive = folder / layout.archive.name
        if archive.is_file():
            return _assemble(layout, _read_archive(layout, archive, str(archive)).__getitem__, str(archive))
    layout = LAYOUTS[0]
    if not download:
        known = ", ".join(f"{layout.folder}/, {layout.archive.name}" for layout in LAYOUTS)
        raise DataError(f"cifar10: none of {known} is in {folder}")
    with downloaded(layout.archive, folder) as temporary:
        contents = _read_archive(layout, temporary, layout.archive.url)
        dataset = _assemble(layout, contents.__getitem__, layout.archive.url)
        _place(contents, folder / layout.folder)
    return dataset


def parse_binary(content: bytes, where: str) -> tuple[Images, Labels]:
    """A file of the binary version: RECORDS records of one label byte and 3,072 pixel bytes."""
    size = RECORDS * (1 + _PIXELS)
    if len(content) != size:
        raise DataError(f"{where}: {len(content)} bytes, not {size}: truncated, or not a file of CIFAR-10")
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, 1 + _PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def parse_pickle(content: bytes, where: str) -> tuple[Images, Labels]:
    """A file of the Python version: a pickled dict with `data`, (RECORDS, 3072), and a list `labels`."""
    try:
        _check_opcodes(content)
        # Python 2 wrote these files: its strings are read as bytes
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        pixels, labels = batch[b"data"].array(), batch[b"labels"]
        if pixels.shape != (RECORDS, _PIXELS) or len(labels) != RECORDS:
            raise DataError(f"data is {pixels.shape} with {len(labels)} labels, not ({RECORDS}, {_PIXELS})")
        if any(type(label) is not int for label in labels):
            raise DataError("a label is not an integer")
        return pixels, np.array(labels, np.int64)
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(f"{where}: not a batch of CIFAR-10: {str(error) or repr(error)}") from error


# What Python 2 writes a batch with. Text, numbers of any length and other protocols are not among it.
_STRINGS = frozenset(["SHORT_BINSTRING", "BINSTRING"])
_TUPLES = frozenset(["EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"])
_OTHERS = """PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 BINFLOAT EMPTY_DICT EMPTY_LIST
    APPEND APPENDS SETITEM SETITEMS GLOBAL REDUCE BUILD BINPUT LONG_BINPUT BINGET LONG_BINGET"""
_OPCODES = _STRINGS | _TUPLES | frozenset(_OTHERS.split())
_MOST_TUPLES = 32  # a batch has six; nested ones cost by their depth


def _check_opcodes(content: bytes) -> None:
    """Raise DataError for a pickle that might take more memory or time than a batch does.

    A pickle of 9 bytes can ask for a memo of gigabytes, one of a hundred for tuples within tuples whose hash
    takes for ever. Here nothing is made of the content yet.
    """
    most = 16 * RECORDS + 1000  # a label and the name of a file take four each
    last = ""
    shared = set()  # places of the memo that hold something without parts
    tuples = 0
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if opcode.name not in _OPCODES:
            raise DataError(f"the pickle uses {opcode.name}, which no batch needs: refused")
        if opcode.name == "GLOBAL" and tuple(argument.split(" ", 1)) not in _ALLOWED:
            raise DataError(
                f"the pickle asks for {'.'.join(argument.split())}, which no batch needs: refused"
            )
        tuples += opcode.name in _TUPLES
        if count > most or tuples > _MOST_TUPLES:
            raise DataError("the pickle has more parts than a batch: refused")
        if opcode.name in ("BINPUT", "LONG_BINPUT"):
            if argument > most:
                raise DataError(f"the pickle asks for a memo of {argument:,} places: refused")
            if last in _STRINGS or last in ("GLOBAL", "REDUCE"):
                shared.add(argument)
            else:
                shared.discard(argument)
        elif opcode.name in ("BINGET", "LONG_BINGET"):
            if argument not in shared:
                raise DataError("the pickle uses a list or tuple twice, which no batch needs: refused")
            last = "GLOBAL"
        else:
            last = opcode.name


class _Uint8:
    """Stands in for `numpy.dtype` while a batch is read: accepts uint8, which is all that a batch holds."""

    __slots__ = ()

    def __init__(self, code: bytes, align: int, copy: int) -> None:
        if code != b"u1":
            raise DataError(f"an array of type {code!r}, not unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order, fields and flags: nothing of interest for single bytes."""


class _Array:
    """Stands in for numpy's `_reconstruct`: keeps what numpy would be given, for `array` to check."""

    __slots__ = ("state",)

    def __init__(self, subtype: object, shape: object, code: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> Images:
        _version, shape, dtype, fortran, content = self.state
        if not isinstance(dtype, _Uint8) or not isinstance(content, bytes):
            raise DataError("the array does not hold unsigned bytes")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")


class _BatchUnpickler(pickle.Unpickler):
    """Reads what a CIFAR-10 batch is made of, and nothing else.

    A pickle is a program. This one may call only the two stand-ins above: not even numpy, whose own
    `__setstate__` trusts its input.
    """

    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED[module, name]


_ALLOWED: dict[tuple[str, ...], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Uint8,
}


LAYOUTS = (
    Layout(
        "cifar-10-batches-bin",
        (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
        RemoteFile(
            "cifar-10-binary.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
            "md5:c32a1d4ab5d03f1284b67883e8d87530",
            _MOST_ARCHIVED,
        ),
        parse_binary,
    ),
    Layout(
        "cifar-10-batches-py",
        (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"),
        RemoteFile(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            _MOST_ARCHIVED,
        ),
        parse_pickle,
    ),
)


def _most_bytes() -> int:
    """That a file may have; those of the Python version hold names beside pixels and labels."""
    return 2 * RECORDS * _PIXELS


def _from_folder(layout: Layout, folder: Path) -> Dataset:
    for name in layout.files:
        if not (folder / name).is_file():
            raise DataError(f"{folder}: {name} is missing (without the folder, the data is downloaded anew)")
    return _assemble(layout, lambda name: read_whole(folder / name, _most_bytes()), str(folder))


def _read_archive(layout: Layout, path: Path, where: str) -> dict[str, bytes]:
    """The six files of an archive, by name: looked at in memory, so that no path in it reaches the disk."""
    packed = read_whole(path, layout.archive.most)  # once: what is unpacked are the bytes that were checked
    check_digest(packed, layout.archive.digest, where)
    wanted = {f"{layout.folder}/{name}": name for name in layout.files}
    contents: dict[str, bytes] = {}
    try:
        # a stream: one pass, where seeking back and forth would decompress again
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r|gz", bufsize=1 << 20) as archive:
            for member in archive:
                if member.size > _most_bytes():
                    raise DataError(f"{where}: {member.name!r} has {member.size:,} bytes, more than a batch")
                file = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                if file is not None:
                    contents[wanted[member.name]] = file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: damaged archive: {error}") from error
    missing = [name for name in layout.files if name not in contents]
    if missing:
        raise DataError(f"{where}: {layout.folder}/{missing[0]} is not in the archive")
    return contents


def _assemble(layout: Layout, read: Callable[[str], bytes], where: str) -> Dataset:
    """The data set from `read(name of a file)`; `where` names the folder or archive in errors."""
    images = np.empty((len(layout.files), RECORDS, _PIXELS), np.uint8)
    labels = np.empty((len(layout.files), RECORDS), np.int64)
    for k, name in enumerate(layout.files):
        images[k], labels[k] = layout.parse(read(name), f"{where}: {name}")
        check_labels(labels[k], 0, len(CLASSES) - 1, f"{where}: {name}")
    return Dataset(
        name="cifar10",
        train_inputs=images[:-1].reshape(-1, 3, 32, 32),
        train_targets=labels[:-1].reshape(-1),
        test_inputs=images[-1].reshape(-1, 3, 32, 32),
        test_targets=labels[-1],
        classes=CLASSES,
    )


def _place(contents: dict[str, bytes], folder: Path) -> None:
    """Write the files to `folder`, which appears complete or not at all."""
    try:
        replace_folder(folder, contents, replace=False)
    except BlockingIOError:
        pass  # another process is at it, and its copy is as good
    except OSError:
        if not folder.is_dir():  # else another was faster
            raise

"""MNIST from its four IDX files."""

import math
import zlib
from pathlib import Path

import numpy as np

from bnn.data.dataset import DataError, Dataset, Images, check_labels
from bnn.data.download import RemoteFile, check_digest, downloaded
from bnn.files import read_whole

_MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"

# Training images and labels, test images and labels. The digest is of the decompressed content, for the
# same content is found in many differently compressed files.
FILES = (
    RemoteFile(
        "train-images-idx3-ubyte",
        _MIRROR + "train-images-idx3-ubyte.gz",
        "sha256:ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        1 << 24,
    ),
    RemoteFile(
        "train-labels-idx1-ubyte",
        _MIRROR + "train-labels-idx1-ubyte.gz",
        "sha256:65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        1 << 24,
    ),
    RemoteFile(
        "t10k-images-idx3-ubyte",
        _MIRROR + "t10k-images-idx3-ubyte.gz",
        "sha256:0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        1 << 24,
    ),
    RemoteFile(
        "t10k-labels-idx1-ubyte",
        _MIRROR + "t10k-labels-idx1-ubyte.gz",
        "sha256:ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        1 << 24,
    ),
)

# Bytes. More than the largest official file (47 MB), so that a gzip bomb cannot fill the memory.
_LARGEST = 1 << 26


def load_mnist(root: Path, download: bool) -> Dataset:
    """60,000 and 10,000 handwritten digits, grey, 28x28 (Y. LeCun, C. Cortes, C. J. C. Burges).

    root: the data folder; the files lie in `root/mnist`, gzipped or not, under their official names.
        Missing ones are downloaded when `download` is true.
    Raises DataError for a file that is missing, damaged or not the official one.
    """
    folder = root / "mnist"
    train_inputs, train_targets = _load_pair(FILES[0], FILES[1], folder, download)
    test_inputs, test_targets = _load_pair(FILES[2], FILES[3], folder, download)
    return Dataset(
        name="mnist",
        train_inputs=train_inputs[:, np.newaxis],
        train_targets=train_targets.astype(np.int64),
        test_inputs=test_inputs[:, np.newaxis],
        test_targets=test_targets.astype(np.int64),
        classes=tuple("0123456789"),
    )


def parse_idx(content: bytes, dimensions: int, where: str) -> Images:
    """The array in an IDX file of unsigned bytes.

    Layout (http://yann.lecun.com/exdb/mnist/): two zero bytes, the type (8: unsigned byte), the number of
    dimensions, each size as a big-endian uint32, then the values, last index fastest; nothing after them.

    content: the whole decompressed file.
    dimensions: how many the file must have.
    where: names the file in errors.
    Returns a writable array. Raises DataError for any departure from the layout.
    """
    header = 4 + 4 * dimensions
    magic = 0x0800 + dimensions
    found = int.from_bytes(content[:4], "big")
    if len(content) >= 4 and found != magic:
        raise DataError(
            f"{where}: magic number is 0x{found:08x}, not 0x{magic:08x}: not the IDX file expected"
        )
    if len(content) < header:
        raise DataError(
            f"{where}: {len(content)} bytes, the header alone has {header}: the file is truncated"
        )
    # Python's integers: sizes from a damaged header multiply without overflow
    shape = tuple(int.from_bytes(content[k : k + 4], "big") for k in range(4, header, 4))
    count, rest = math.prod(shape), len(content) - header
    if count == 0:
        raise DataError(f"{where}: sizes {shape} leave no data")
    if rest != count:
        problem = "the file is truncated" if rest < count else f"{rest - count} trailing bytes"
        raise DataError(f"{where}: {rest} bytes of data, sizes {shape} need {count}: {problem}")
    # a copy, because an array over `bytes` is read-only, which torch.from_numpy warns about
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _load_pair(images: RemoteFile, labels: RemoteFile, folder: Path, download: bool) -> tuple[Images, Images]:
    """Images, (n, 28, 28), and their labels, (n,), both uint8."""
    pixels = _load_file(images, 3, folder, download)
    digits = _load_file(labels, 1, folder, download)
    if len(pixels) != len(digits):
        raise DataError(
            f"{folder / images.name} holds {len(pixels)} images, {labels.name} holds {len(digits)} labels"
        )
    return pixels, digits


def _load_file(remote: RemoteFile, dimensions: int, folder: Path, download: bool) -> Images:
    """One file from the folder, or else from the web: parsed and checked."""
    plain, gzipped = folder / remote.name, folder / f"{remote.name}.gz"
    if plain.is_file():
        return _parse(read_whole(plain, _LARGEST), remote, dimensions, str(plain))
    if gzipped.is_file():
        return _parse(_decompress(gzipped, str(gzipped)), remote, dimensions, str(gzipped))
    if not download:
        raise DataError(f"mnist: neither {remote.name} nor {remote.name}.gz is in {folder}")
    with downloaded(remote, folder) as temporary:
        array = _parse(_decompress(temporary, remote.url), remote, dimensions, remote.url)
        temporary.replace(gzipped)
    return array


def _decompress(path: Path, where: str) -> bytes:
    # Not by the module gzip, which reads a name in the header byte by byte, however long it is.
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        content = unpacker.decompress(read_whole(path, _LARGEST), _LARGEST + 1)
    except zlib.error as error:
        raise DataError(f"{where}: damaged gzip file: {error}") from error
    if len(content) <= _LARGEST and (not unpacker.eof or unpacker.unused_data):  # else it is a bomb
        problem = "something follows its end" if unpacker.eof else "it is truncated"
        raise DataError(f"{where}: damaged gzip file: {problem}")
    return content


def _parse(content: bytes, remote: RemoteFile, dimensions: int, where: str) -> Images:
    # structure first: "truncated" says more than "the hash differs"
    array = parse_idx(content, dimensions, where)
    if dimensions == 3 and array.shape[1:] != (28, 28):
        raise DataError(
            f"{where}: images of {array.shape[1]}x{array.shape[2]} pixels; those of MNIST are 28x28"
        )
    if dimensions == 1:
        check_labels(array, 0, 9, where)
    check_digest(content, remote.digest, where)
    return array

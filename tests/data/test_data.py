"""Data sets: formats are read exactly, a damaged file is one clear line, downloads are all or nothing."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.request import Request

import numpy as np
import pytest

from bnn.data import DATASETS, DataError, Dataset, cifar, download, load_dataset, mnist, svhn
from bnn.data.download import RemoteFile
from bnn.data.folder import _most_bytes
from bnn.data.load import data_root
from bnn.errors import MissingExtraError, require

RECORDS = 4  # images in a file of the synthetic CIFAR-10


@pytest.fixture(autouse=True)
def _no_outer_settings(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The user's data folder and proxies are not those of the tests."""
    if "real_data_dir" not in request.fixturenames:
        monkeypatch.delenv("BNN_DATA_DIR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def one_line(error: pytest.ExceptionInfo[BaseException], *parts: object) -> str:
    """The message, which must be one line that holds all `parts`."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
    return message


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- synthetic files -----------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """The IDX file of a uint8 array."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@dataclass
class Mnist:
    """Small files in the format of MNIST: content by name, and what they hold."""

    arrays: dict[str, np.ndarray]
    contents: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.contents = {name: idx(array) for name, array in self.arrays.items()}

    def write(self, folder: Path) -> Path:
        """The files, gzipped, in `folder/mnist`; returns that."""
        (folder / "mnist").mkdir()
        for name, content in self.contents.items():
            (folder / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        return folder / "mnist"


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """Seven training and three test images, whose hashes stand in for the official ones."""
    rng = np.random.default_rng(1)
    data = Mnist(
        {
            "train-images-idx3-ubyte": rng.integers(0, 256, (7, 28, 28), np.uint8),
            "train-labels-idx1-ubyte": np.array([0, 9, 1, 2, 3, 4, 5], np.uint8),
            "t10k-images-idx3-ubyte": rng.integers(0, 256, (3, 28, 28), np.uint8),
            "t10k-labels-idx1-ubyte": np.array([9, 0, 7], np.uint8),
        }
    )
    files = [
        replace(file, digest="sha256:" + hashlib.sha256(data.contents[file.name]).hexdigest())
        for file in mnist.FILES
    ]
    monkeypatch.setattr(mnist, "FILES", tuple(files))
    return data


@pytest.fixture
def unhashed_mnist(small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """The same without hashes: what the parser alone finds."""
    monkeypatch.setattr(mnist, "FILES", tuple(replace(file, digest=None) for file in mnist.FILES))
    return small_mnist


def python2_pickle(pixels: np.ndarray, labels: list[int], fortran: bool = False) -> bytes:
    """A CIFAR-10 batch as Python 2's cPickle wrote it, opcode by opcode (protocol 2)."""

    def string(text: bytes) -> bytes:
        return b"T" + len(text).to_bytes(4, "little") + text

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    reconstruct = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + b"K\x00\x85" + string(b"b") + b"\x87R"
    )
    dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + string(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    shape = number(pixels.shape[0]) + number(pixels.shape[1]) + b"\x86"
    content = string(pixels.tobytes("F" if fortran else "C"))
    array = reconstruct + b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89") + content + b"tb"
    items = string(b"batch_label") + string(b"training batch 1 of 5")
    items += string(b"labels") + b"](" + b"".join(map(number, labels)) + b"e"
    items += string(b"data") + array
    return b"\x80\x02}(" + items + b"u."


@dataclass
class Cifar:
    """Small files in both formats of CIFAR-10, and what they hold."""

    pixels: np.ndarray  # uint8, (6, RECORDS, 3072)
    labels: np.ndarray  # uint8, (6, RECORDS)

    def binary(self) -> dict[str, bytes]:
        records = np.concatenate([self.labels[..., np.newaxis], self.pixels], axis=2)
        return {name: records[k].tobytes() for k, name in enumerate(cifar.LAYOUTS[0].files)}

    def python(self) -> dict[str, bytes]:
        return {
            name: python2_pickle(self.pixels[k], self.labels[k].tolist(), fortran=k % 2 == 1)
            for k, name in enumerate(cifar.LAYOUTS[1].files)
        }


@pytest.fixture
def small_cifar(monkeypatch: pytest.MonkeyPatch) -> Cifar:
    monkeypatch.setattr(cifar, "RECORDS", RECORDS)
    rng = np.random.default_rng(2)
    return Cifar(
        rng.integers(0, 256, (6, RECORDS, 3072), np.uint8), rng.integers(0, 10, (6, RECORDS), np.uint8)
    )


def write_folder(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def tar_gz(contents: dict[str, bytes]) -> bytes:
    """An archive with these members, after a few that do not belong there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in {"../outside": b"x", "/tmp/absolute": b"x", **contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def cifar_archive(
    monkeypatch: pytest.MonkeyPatch, version: int, contents: dict[str, bytes], url: str = ""
) -> bytes:
    """The archive of a version (0: binary, 1: Python), whose hash stands in for the official one."""
    layout = cifar.LAYOUTS[version]
    archive = tar_gz({f"{layout.folder}/{name}": content for name, content in contents.items()})
    remote = replace(
        layout.archive, digest="md5:" + hashlib.md5(archive).hexdigest(), url=url or layout.archive.url
    )
    layouts = list(cifar.LAYOUTS)
    layouts[version] = replace(layout, archive=remote)
    monkeypatch.setattr(cifar, "LAYOUTS", tuple(layouts))
    return archive


def mat(pixels: np.ndarray, labels: np.ndarray) -> bytes:
    scipy_io = pytest.importorskip("scipy.io")
    buffer = io.BytesIO()
    scipy_io.savemat(buffer, {"X": pixels, "y": labels}, do_compression=True)
    return buffer.getvalue()


@dataclass
class Svhn:
    pixels: np.ndarray  # uint8, (32, 32, 3, 12): row, column, channel, image
    labels: np.ndarray  # uint8, (12, 1), 1..10
    content: bytes


@pytest.fixture
def small_svhn(monkeypatch: pytest.MonkeyPatch) -> Svhn:
    """The same twelve images for training and test, without hashes."""
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (32, 32, 3, 12), np.uint8)
    labels = np.array([10, *range(1, 11), 10], np.uint8)[:, np.newaxis]
    monkeypatch.setattr(svhn, "FILES", tuple(replace(file, digest=None) for file in svhn.FILES))
    return Svhn(pixels, labels, mat(pixels, labels))


# ---- names and folders ---------------------------------------------------------------------------------


def test_unknown_name_lists_the_known_and_suggests_the_nearest() -> None:
    """A misspelt name is answered with all known names and the one that was probably meant."""
    with pytest.raises(DataError) as error:
        load_dataset("CIFAR-10")
    one_line(error, "'CIFAR-10'", *DATASETS, "did you mean 'cifar10'?")


def test_name_like_no_other_gets_no_suggestion() -> None:
    """Nothing is suggested where nothing is near."""
    with pytest.raises(DataError) as error:
        load_dataset("xyzzy")
    assert "did you mean" not in one_line(error, "'xyzzy'", *DATASETS)


def test_missing_folder_and_file_in_place_of_folder_are_named(tmp_path: Path) -> None:
    """A path that leads nowhere, or to a file, is named as such and not as an unknown data set."""
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path / "nowhere"))
    one_line(error, tmp_path / "nowhere", "no such folder")
    (tmp_path / "file").touch()
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path / "file"))
    one_line(error, tmp_path / "file", "a file")


def test_data_dir_is_argument_then_environment_then_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument wins over BNN_DATA_DIR, which wins over the cache; an empty variable counts as none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("BNN_DATA_DIR", str(tmp_path / "environment"))
    assert data_root(tmp_path / "argument") == tmp_path / "argument"
    assert data_root() == tmp_path / "environment"
    monkeypatch.setenv("BNN_DATA_DIR", "")
    assert data_root().is_relative_to(tmp_path / "cache") or sys.platform == "win32"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, ".cache/binaryconnect"),
        ("linux", {"XDG_CACHE_HOME": ""}, ".cache/binaryconnect"),
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/binaryconnect"),
        ("darwin", {}, "Library/Caches/binaryconnect"),
        ("win32", {"LOCALAPPDATA": ""}, "AppData/Local/binaryconnect/binaryconnect/Cache"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/binaryconnect/binaryconnect/Cache"),
    ],
)
def test_cache_folder_is_where_the_system_has_it(
    platform: str, variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the user's home, unless a variable says otherwise."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert data_root() == Path.home() / expected


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn"])
def test_without_download_missing_files_are_named(name: str, tmp_path: Path) -> None:
    """With download=False a missing data set is an error that says what was looked for where."""
    with pytest.raises(DataError) as error:
        load_dataset(name, tmp_path / "data", download=False)
    looked_for = {
        "mnist": "train-images-idx3-ubyte.gz",
        "cifar10": "cifar-10-binary.tar.gz",
        "svhn": "train_32x32.mat",
    }
    one_line(error, name, looked_for[name], tmp_path / "data" / name)
    assert files_below(tmp_path) == []


def test_a_file_that_cannot_be_opened_is_named(
    tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operating system's refusal becomes one line with the file and the reason."""
    folder = small_mnist.write(tmp_path)
    refused = folder / "train-labels-idx1-ubyte.gz"

    def refuse(path: Path, most: int) -> bytes:
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return path.read_bytes()

    monkeypatch.setattr(mnist, "read_whole", refuse)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, refused, "Permission denied")


def test_importing_the_module_imports_nothing_heavy() -> None:
    """bnn.data needs numpy alone: torch and the packages of the extras load on use."""
    code = "import sys, bnn.data; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not {"torch", "sklearn", "scipy", "rich", "certifi", "PIL"} & set(output.split())


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where a package is not installed, the error gives the command that installs it."""
    for module in ("sklearn", "sklearn.datasets", "PIL", "PIL.Image"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name, package, extra in (
        ("digits", "sklearn", "train"),
        (str(tmp_path / "images"), "PIL", "images"),
    ):
        with pytest.raises(MissingExtraError) as error:
            load_dataset(name, tmp_path / "data")
        assert str(error.value) == f"{package} is not installed: pip install 'binaryconnect[{extra}]'"


def test_broken_package_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there but cannot import what it needs reports that itself."""
    (tmp_path / "bnn_test_broken.py").write_text("import bnn_test_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="bnn_test_absent") as error:
        require("bnn_test_broken", "train")
    assert not isinstance(error.value, MissingExtraError)


# ---- digits --------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_scaled_to_bytes() -> None:
    """1,500 and 297 images of 8x8, whose bytes are scikit-learn's 0..16 times 255/16, in its order."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = load_dataset("digits")
    assert_well_formed(data)
    assert data.train_inputs.shape == (1500, 1, 8, 8)
    assert data.test_inputs.shape == (297, 1, 8, 8)
    assert (data.train_inputs.min(), data.train_inputs.max()) == (0, 255)
    images = np.concatenate([data.train_inputs, data.test_inputs])[:, 0]
    original = datasets.load_digits()
    np.testing.assert_array_equal(np.rint(images * (16 / 255)), original.images)
    np.testing.assert_array_equal(np.concatenate([data.train_targets, data.test_targets]), original.target)


def assert_well_formed(data: Dataset) -> None:
    """The promises of Dataset that hold for all of them."""
    for images, labels in ((data.train_inputs, data.train_targets), (data.test_inputs, data.test_targets)):
        assert images.dtype == np.uint8
        assert images.ndim == 4
        assert images.flags.c_contiguous
        assert images.flags.writeable  # torch.from_numpy warns about read-only arrays
        assert labels.dtype == np.int64
        assert labels.shape == images.shape[:1]
        assert 0 <= labels.min() <= labels.max() < len(data.classes)


# ---- MNIST ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gzipped", [True, False])
def test_mnist_reads_plain_and_gzipped_files(gzipped: bool, tmp_path: Path, small_mnist: Mnist) -> None:
    """Both forms of the four files give exactly the pixels and labels that were written."""
    if gzipped:
        small_mnist.write(tmp_path)
    else:
        write_folder(tmp_path / "mnist", small_mnist.contents)
    data = load_dataset("mnist", tmp_path, download=False)
    assert_well_formed(data)
    arrays = list(small_mnist.arrays.values())
    np.testing.assert_array_equal(data.train_inputs[:, 0], arrays[0])
    np.testing.assert_array_equal(data.train_targets, arrays[1])
    np.testing.assert_array_equal(data.test_inputs[:, 0], arrays[2])
    np.testing.assert_array_equal(data.test_targets, arrays[3])
    assert data.classes == tuple("0123456789")


def test_mnist_recompressed_files_are_accepted(tmp_path: Path, small_mnist: Mnist) -> None:
    """The content is hashed, not the gzip file: any compression of the official content is good."""
    folder = small_mnist.write(tmp_path)
    path = folder / "train-images-idx3-ubyte.gz"
    before = path.read_bytes()
    path.write_bytes(gzip.compress(small_mnist.contents["train-images-idx3-ubyte"], 9, mtime=12345))
    assert path.read_bytes() != before
    assert len(load_dataset("mnist", tmp_path).train_inputs) == 7


@pytest.mark.parametrize("name", [file.name for file in mnist.FILES])
def test_mnist_flipped_bit_in_the_data_is_found(name: str, tmp_path: Path, small_mnist: Mnist) -> None:
    """One flipped bit in a pixel or label, in a file otherwise well formed, is found and the file named."""
    content = bytearray(small_mnist.contents[name])
    content[-1] ^= 1
    small_mnist.contents[name] = bytes(content)
    folder = small_mnist.write(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, folder / f"{name}.gz", "sha256", "damaged or not the official one")


def test_mnist_every_flipped_bit_of_a_gzip_file_is_found(tmp_path: Path, small_mnist: Mnist) -> None:
    """Whichever byte of a gzip file is damaged: one DataError, or the exact content (unused header)."""
    path = small_mnist.write(tmp_path) / "train-labels-idx1-ubyte.gz"
    original = path.read_bytes()
    messages = []
    for position in range(len(original)):
        damaged = bytearray(original)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        try:
            labels = load_dataset("mnist", tmp_path).train_targets
        except DataError as error:
            messages.append(str(error))
        else:
            np.testing.assert_array_equal(labels, small_mnist.arrays["train-labels-idx1-ubyte"])
    assert all(str(path) in message and "\n" not in message for message in messages)
    assert len(messages) >= len(original) - 10  # a gzip header has ten bytes


def _cut(content: bytes) -> bytes:
    return content[:-1]


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("train-images-idx3-ubyte", _cut, "truncated"),
        ("train-images-idx3-ubyte", lambda content: content[:10], "truncated"),
        ("train-images-idx3-ubyte", lambda content: content[:2], "truncated"),
        ("train-images-idx3-ubyte", lambda content: b"", "truncated"),
        ("train-images-idx3-ubyte", lambda content: content + b"\0", "1 trailing bytes"),
        (
            "train-images-idx3-ubyte",
            lambda content: b"\x01" + content[1:],
            "magic number is 0x01000803, not 0x00000803",
        ),
        ("train-labels-idx1-ubyte", lambda content: b"\0\0\x08\x03" + content[4:], "not 0x00000801"),
        ("train-images-idx3-ubyte", lambda content: content[:4] + b"\xff" * 12 + content[16:], "truncated"),
        ("train-images-idx3-ubyte", lambda content: content[:4] + bytes(12), "no data"),
        ("train-images-idx3-ubyte", lambda content: idx(np.zeros((7, 14, 56), np.uint8)), "14x56"),
        ("train-images-idx3-ubyte", lambda content: idx(np.zeros((6, 28, 28), np.uint8)), "6 images"),
        ("train-labels-idx1-ubyte", lambda content: idx(np.zeros(8, np.uint8)), "8 labels"),
        (
            "train-labels-idx1-ubyte",
            lambda content: content[:9] + b"\x0a" + content[10:],
            "label 10 at index 1",
        ),
        ("t10k-labels-idx1-ubyte", lambda content: content[:-1] + b"\xff", "label 255 at index 2"),
    ],
)
def test_mnist_malformed_file_is_one_clear_line(
    name: str, damage: Callable[[bytes], bytes], expected: str, tmp_path: Path, unhashed_mnist: Mnist
) -> None:
    """Each departure from the IDX format is found by the parser itself, and said with the file's name."""
    unhashed_mnist.contents[name] = damage(unhashed_mnist.contents[name])
    unhashed_mnist.write(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, name, expected)


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda content: content[:20],
        lambda content: b"not gzip" + content,
        lambda content: content + b"x",
        lambda content: b"",
    ],
)
def test_mnist_damaged_gzip_file_is_one_clear_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, small_mnist: Mnist
) -> None:
    """A truncated gzip file, another kind of file, and bytes after its end are found and the file named."""
    path = small_mnist.write(tmp_path) / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, path)


def test_mnist_gzip_bomb_is_not_decompressed(
    tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is decompressed than the largest official file needs."""
    monkeypatch.setattr(mnist, "_LARGEST", 10_000)
    folder = small_mnist.write(tmp_path)
    header = small_mnist.contents["train-images-idx3-ubyte"][:16]
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + bytes(1_000_000)))
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, "9985 bytes of data", "trailing bytes")


@pytest.fixture
def real_data_dir() -> Path:
    folder = os.environ.get("BNN_DATA_DIR")
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip("BNN_DATA_DIR is not set, or has no folder mnist/: the real MNIST is not read")
    return Path(folder)


def test_mnist_real_files(real_data_dir: Path) -> None:
    """The official files pass all checks and have the counts and the mean that everyone knows."""
    data = load_dataset("mnist", download=False)
    assert_well_formed(data)
    assert data.train_inputs.shape == (60_000, 1, 28, 28)
    assert data.test_inputs.shape == (10_000, 1, 28, 28)
    assert data.train_inputs.mean() == pytest.approx(0.1307 * 255, abs=0.0001 * 255)
    assert data.train_targets[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(data.test_targets).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


# ---- CIFAR-10 ------------------------------------------------------------------------------------------


def assert_is_cifar(data: Dataset, written: Cifar) -> None:
    assert_well_formed(data)
    np.testing.assert_array_equal(data.train_inputs.reshape(5, RECORDS, 3072), written.pixels[:5])
    np.testing.assert_array_equal(data.train_targets.reshape(5, RECORDS), written.labels[:5])
    np.testing.assert_array_equal(data.test_inputs.reshape(RECORDS, 3072), written.pixels[5])
    np.testing.assert_array_equal(data.test_targets, written.labels[5])


@pytest.mark.parametrize("below", ["cifar10", "."])
@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar_unpacked_versions_are_equal(
    version: str, below: str, tmp_path: Path, small_cifar: Cifar
) -> None:
    """The binary and the Python version give the same arrays, from cifar10/ and the data folder itself."""
    if version == "binary":
        write_folder(tmp_path / below / "cifar-10-batches-bin", small_cifar.binary())
    else:
        write_folder(tmp_path / below / "cifar-10-batches-py", small_cifar.python())
    data = load_dataset("cifar10", tmp_path, download=False)
    assert_is_cifar(data, small_cifar)
    assert data.classes[3] == "cat"


@pytest.mark.parametrize("version", [0, 1])
def test_cifar_archives_are_read_in_place(
    version: int, tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both archives give the same arrays; nothing is unpacked, and members outside the folder are ignored."""
    contents = small_cifar.python() if version else small_cifar.binary()
    archive = cifar_archive(monkeypatch, version, contents)
    name = cifar.LAYOUTS[version].archive.name
    write_folder(tmp_path / "cifar10", {name: archive})
    assert_is_cifar(load_dataset("cifar10", tmp_path, download=False), small_cifar)
    assert files_below(tmp_path) == ["cifar10", f"cifar10/{name}"]


def test_cifar_first_pixel_is_red_top_left(tmp_path: Path, small_cifar: Cifar) -> None:
    """The first bytes of a record are the red plane's first row, so image[0, 0, 1] is the second of them."""
    write_folder(tmp_path / "cifar10" / "cifar-10-batches-bin", small_cifar.binary())
    image = load_dataset("cifar10", tmp_path).train_inputs[0]
    assert image[0, 0, 1] == small_cifar.pixels[0, 0, 1]
    assert image[1, 0, 0] == small_cifar.pixels[0, 0, 1024]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_cut, "truncated"),
        (lambda content: content + b"\0", "12293 bytes, not 12292"),
        (lambda content: content[:3073], "3073 bytes, not 12292"),
        (lambda content: b"", "0 bytes"),
        (lambda content: b"\x0a" + content[1:], "label 10 at index 0"),
    ],
)
def test_cifar_malformed_binary_file_is_one_clear_line(
    damage: Callable[[bytes], bytes], expected: str, tmp_path: Path, small_cifar: Cifar
) -> None:
    """A wrong size or label in a binary batch is found and the batch named."""
    contents = small_cifar.binary()
    contents["data_batch_3.bin"] = damage(contents["data_batch_3.bin"])
    write_folder(tmp_path / "cifar10" / "cifar-10-batches-bin", contents)
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, "cifar-10-batches-bin: data_batch_3.bin", expected)


def test_cifar_missing_batch_is_named(tmp_path: Path, small_cifar: Cifar) -> None:
    """An incomplete folder is an error and not a smaller data set."""
    contents = small_cifar.binary()
    del contents["data_batch_5.bin"]
    write_folder(tmp_path / "cifar-10-batches-bin", contents)
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, tmp_path / "cifar-10-batches-bin", "data_batch_5.bin is missing")


class _Hostile:
    """Pickles to a call of any function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, exec, getattr, np.load, np.frombuffer])
def test_cifar_hostile_pickle_is_refused(
    function: Callable[..., object], protocol: int, tmp_path: Path, small_cifar: Cifar
) -> None:
    """A pickle that asks for any function but numpy's array reconstruction is refused unrun; one of a later
    protocol than batches have is refused at once."""
    marker = tmp_path / "ran"
    contents = small_cifar.python()
    contents["data_batch_1"] = pickle.dumps(_Hostile(function, str(marker)), protocol=protocol)
    write_folder(tmp_path / "cifar10" / "cifar-10-batches-py", contents)
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(
        error, "cifar-10-batches-py: data_batch_1", "refused", "FRAME" if protocol == 4 else function.__name__
    )
    assert not marker.exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"u1", b"O8", "not unsigned bytes"),  # pointers, were numpy to believe it
        (b"numpy\ndtype", b"numpy\nload", "numpy.load"),
        (b"_reconstruct", b"scalar", "numpy.core.multiarray.scalar"),
        (b"J\x00\x0c\x00\x00\x86", b"J\xff\x0c\x00\x00\x86", "reshape"),
        (b"labels", b"lables", "labels"),
        (b"](J", b"](NJ", "labels"),
        (b"\x80\x02}(", b"\x80\x02)(", "not a batch"),
        (b"u.", b"u", "not a batch"),
    ],
)
def test_cifar_malformed_pickle_is_one_clear_line(
    old: bytes, new: bytes, expected: str, tmp_path: Path, small_cifar: Cifar
) -> None:
    """Other types, shapes and contents than a batch has are refused with the batch named."""
    contents = small_cifar.python()
    assert old in contents["data_batch_1"]
    contents["data_batch_1"] = contents["data_batch_1"].replace(old, new)
    write_folder(tmp_path / "cifar10" / "cifar-10-batches-py", contents)
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, "cifar-10-batches-py: data_batch_1", expected)


def test_cifar_damaged_archive_is_named(
    tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flipped bit in an archive is found by its hash."""
    archive = bytearray(cifar_archive(monkeypatch, 0, small_cifar.binary()))
    archive[len(archive) // 2] ^= 1
    folder = write_folder(tmp_path / "cifar10", {"cifar-10-binary.tar.gz": bytes(archive)})
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, folder / "cifar-10-binary.tar.gz", "md5")


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"x", lambda content: b""])
def test_cifar_unreadable_archive_is_one_clear_line(
    damage: Callable[[bytes], bytes], tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is no whole tar.gz is named, also where its hash is not known."""
    archive = cifar_archive(monkeypatch, 0, small_cifar.binary())
    layout = cifar.LAYOUTS[0]
    unhashed = replace(layout, archive=replace(layout.archive, digest=None))
    monkeypatch.setattr(cifar, "LAYOUTS", (unhashed, cifar.LAYOUTS[1]))
    folder = write_folder(tmp_path / "cifar10", {"cifar-10-binary.tar.gz": damage(archive)})
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, folder / "cifar-10-binary.tar.gz", "archive")


def test_cifar_archive_without_a_batch_is_named(
    tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that lacks a file is an error that names the file."""
    contents = small_cifar.binary()
    del contents["test_batch.bin"]
    write_folder(tmp_path / "cifar10", {"cifar-10-binary.tar.gz": cifar_archive(monkeypatch, 0, contents)})
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, "cifar-10-batches-bin/test_batch.bin is not in the archive")


@pytest.mark.parametrize("label", [b"N", b"G" + bytes(8), b"\x88"])  # None, 0.0, True
def test_cifar_label_that_is_no_integer_is_refused(label: bytes, tmp_path: Path, small_cifar: Cifar) -> None:
    """Labels of another type are refused and not converted."""
    contents = small_cifar.python()
    batch, first = contents["test_batch"], contents["test_batch"].index(b"](J") + 2
    contents["test_batch"] = batch[:first] + label + batch[first + 5 :]
    write_folder(tmp_path / "cifar10" / "cifar-10-batches-py", contents)
    with pytest.raises(DataError) as error:
        load_dataset("cifar10", tmp_path)
    one_line(error, "cifar-10-batches-py: test_batch", "a label is not an integer")


# ---- SVHN ----------------------------------------------------------------------------------------------


def test_svhn_is_reordered_and_label_ten_is_the_digit_zero(tmp_path: Path, small_svhn: Svhn) -> None:
    """X (row, column, channel, image) becomes (image, channel, row, column), and label 10 becomes 0."""
    write_folder(
        tmp_path / "svhn", {"train_32x32.mat": small_svhn.content, "test_32x32.mat": small_svhn.content}
    )
    data = load_dataset("svhn", tmp_path, download=False)
    assert_well_formed(data)
    assert data.train_inputs.shape == (12, 3, 32, 32)
    assert data.train_inputs[4, 2, 7, 30] == small_svhn.pixels[7, 30, 2, 4]
    np.testing.assert_array_equal(data.test_inputs[11, 1], small_svhn.pixels[:, :, 1, 11])
    assert data.test_targets.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda x, y: mat(x, np.where(y == 10, 11, y)), "label 11 at index 0"),
        (lambda x, y: mat(x, y % 10), "label 0 at index 0"),
        (lambda x, y: mat(x, y[1:]), "(11, 1)"),
        (lambda x, y: mat(x, y / 2), "float64"),
        (lambda x, y: mat(x[:16], y), "(16, 32, 3, 12)"),
        (lambda x, y: mat(x.astype(np.float32), y), "float32"),
        (lambda x, y: mat(x, y)[:-1], "not a readable MATLAB file"),
        (lambda x, y: mat(x, y)[:5000], "not a readable MATLAB file"),
        (lambda x, y: b"", "not a readable MATLAB file"),
        (lambda x, y: b"no MATLAB file, but long enough for a header" * 20, "not a readable MATLAB file"),
    ],
)
def test_svhn_malformed_file_is_one_clear_line(
    change: Callable[[np.ndarray, np.ndarray], bytes], expected: str, tmp_path: Path, small_svhn: Svhn
) -> None:
    """Wrong labels, shapes and types, truncation and other kinds of files are found and the file named."""
    damaged = change(small_svhn.pixels, small_svhn.labels)
    folder = write_folder(
        tmp_path / "svhn", {"train_32x32.mat": damaged, "test_32x32.mat": small_svhn.content}
    )
    with pytest.raises(DataError) as error:
        load_dataset("svhn", tmp_path)
    one_line(error, folder / "train_32x32.mat", expected)


def test_svhn_flipped_bit_is_found(tmp_path: Path, small_svhn: Svhn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose hash differs from the known one is refused, before it is parsed."""
    digest = "md5:" + hashlib.md5(small_svhn.content).hexdigest()
    monkeypatch.setattr(svhn, "FILES", tuple(replace(file, digest=digest) for file in svhn.FILES))
    folder = write_folder(
        tmp_path / "svhn", {"train_32x32.mat": small_svhn.content, "test_32x32.mat": small_svhn.content}
    )
    assert len(load_dataset("svhn", tmp_path).test_inputs) == 12
    damaged = bytearray(small_svhn.content)
    damaged[-1] ^= 1
    (folder / "test_32x32.mat").write_bytes(damaged)
    with pytest.raises(DataError) as error:
        load_dataset("svhn", tmp_path)
    one_line(error, folder / "test_32x32.mat", "md5")


# ---- a folder of images --------------------------------------------------------------------------------


def write_image(path: Path, value: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = {"L": value, "RGB": (value, 0, 255)}.get(mode)
    image.new(mode, size, colour).save(path)


def write_classes(root: Path, counts: dict[str, int], first: int = 0) -> None:
    """Images whose red value numbers them, from `first`, in the order of classes and files."""
    value = first
    for name, count in counts.items():
        for k in range(count):
            write_image(root / name / f"{k:03}.png", value)
            value += 1


def test_folder_with_train_and_test(tmp_path: Path) -> None:
    """train/ and test/ are kept apart; labels follow the sorted names; every image comes once, as stored."""
    write_classes(tmp_path / "train", {"cat": 5, "ant": 4})
    write_classes(tmp_path / "test", {"cat": 2, "ant": 3}, first=100)
    (tmp_path / "README.txt").write_text("loose files beside class folders are no matter")
    (tmp_path / "train" / "cat" / ".DS_Store").touch()
    data = load_dataset(str(tmp_path))
    assert_well_formed(data)
    assert data.name == tmp_path.name
    assert data.classes == ("ant", "cat")
    assert data.train_inputs.shape == (9, 3, 4, 6)
    red = data.train_inputs[:, 0, 0, 0]
    assert sorted(red) == list(range(9))
    np.testing.assert_array_equal(data.train_targets, np.where(red < 5, 1, 0))
    assert sorted(data.test_inputs[:, 0, 3, 5]) == [100, 101, 102, 103, 104]
    np.testing.assert_array_equal(data.test_targets, np.where(data.test_inputs[:, 0, 0, 0] < 102, 1, 0))
    assert (data.train_inputs[:, 1] == 0).all()
    assert (data.train_inputs[:, 2] == 255).all()


def test_folder_rows_and_columns_are_not_swapped(tmp_path: Path) -> None:
    """Pixel (row, column) of a grey file is image[0, row, column]."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for name in ("a", "b"):
        (tmp_path / "c").mkdir(exist_ok=True)
        image.fromarray(pixels).save(tmp_path / "c" / f"{name}.png")
    data = load_dataset(str(tmp_path))
    np.testing.assert_array_equal(data.train_inputs, pixels[np.newaxis, np.newaxis])
    np.testing.assert_array_equal(data.test_inputs, pixels[np.newaxis, np.newaxis])


def test_folder_without_test_set_gives_a_sixth_of_each_class(tmp_path: Path) -> None:
    """Without test/ a sixth of each class, at least one, is the test set, and no image is in both."""
    write_classes(tmp_path, {"a": 30, "b": 13, "c": 2})
    data = load_dataset(str(tmp_path))
    assert np.bincount(data.test_targets).tolist() == [5, 2, 1]
    assert np.bincount(data.train_targets).tolist() == [25, 11, 1]
    reds = np.concatenate([data.train_inputs, data.test_inputs])[:, 0, 0, 0]
    assert sorted(reds) == list(range(45))


def test_folder_order_is_fixed_and_mixed(tmp_path: Path) -> None:
    """Two loads agree, and the last quarter of the training set, used for validation, holds all classes."""
    write_classes(tmp_path / "data", {"a": 40, "b": 40})
    first, second = load_dataset(str(tmp_path / "data")), load_dataset(str(tmp_path / "data"))
    np.testing.assert_array_equal(first.train_inputs, second.train_inputs)
    np.testing.assert_array_equal(first.test_inputs, second.test_inputs)
    # these figures are the same on every machine, for they hang on the files' names alone
    assert first.train_targets[:12].tolist() == [1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0]
    assert first.train_targets[-17:].sum() == 9


def _wrong_size(root: Path) -> str:
    write_image(root / "b" / "001.png", 0, size=(7, 4))
    return f"{root / 'b' / '001.png'} is 7x4 RGB, {root / 'a' / '000.png'} is 6x4 RGB"


def _wrong_mode(root: Path) -> str:
    write_image(root / "b" / "001.png", 0, mode="L")
    write_image(root / "b" / "002.png", 0, mode="L")
    return f"{root / 'b' / '001.png'} is 6x4 grey, {root / 'a' / '000.png'} is 6x4 RGB"


def _transparent(root: Path) -> str:
    write_image(root / "a" / "000.png", 0, mode="RGBA")
    return f"{root / 'a' / '000.png'} is 6x4 mode RGBA; images must be grey"


def _empty_class(root: Path) -> str:
    (root / "empty").mkdir()
    (root / "empty" / ".hidden").touch()
    return f"{root / 'empty'}: a class with no images"


def _single_image(root: Path) -> str:
    write_image(root / "single" / "000.png", 0)
    return f"{root / 'single'}: one image"


def _folder_in_class(root: Path) -> str:
    (root / "a" / "more").mkdir()
    return f"{root / 'a' / 'more'}: a folder inside a class folder"


@pytest.mark.parametrize(
    "spoil",
    [
        _wrong_size,
        _wrong_mode,
        _transparent,
        _empty_class,
        _single_image,
        _folder_in_class,
    ],
)
def test_folder_with_a_fault_is_one_clear_line(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    """A file or class that does not fit is named, with both sizes where sizes differ."""
    write_classes(tmp_path, {"a": 6, "b": 6})
    expected = spoil(tmp_path)
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, expected)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_text("no image"), "none of PNG"),
        (_truncate, "truncated"),
        (lambda path: (path.unlink(), path.symlink_to(path.name)), os.strerror(errno.ELOOP)),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), os.strerror(errno.ENOENT)),
        pytest.param(
            lambda path: (path.unlink(), os.mkfifo(path)),
            "a pipe, not a file",
            marks=pytest.mark.skipif(os.name != "posix", reason="pipes"),
        ),
    ],
)
@pytest.mark.parametrize("position", range(4))
def test_folder_leaves_out_what_is_no_picture(
    position: int, spoil: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    """Whichever it is, it is named, and the others are split as if it were not there."""
    write_classes(tmp_path, {"a": 4, "b": 6})
    path = tmp_path / "a" / f"{position:03}.png"
    spoil(path)
    with pytest.warns(UserWarning, match=r"left out: .*a.00\d\.png.*" + re.escape(reason)) as caught:
        data = load_dataset(str(tmp_path))
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    path.unlink()
    expected = load_dataset(str(tmp_path))
    np.testing.assert_array_equal(data.train_inputs, expected.train_inputs)
    np.testing.assert_array_equal(data.test_inputs, expected.test_inputs)


def test_folder_of_much_that_is_no_picture(tmp_path: Path) -> None:
    """Ten files are named, the rest is counted; a class without pictures is an error."""
    write_classes(tmp_path, {"a": 2, "b": 2})
    for k in range(25):
        (tmp_path / "b" / f"note{k}.txt").touch()
    with pytest.warns(UserWarning, match="left out") as caught:
        load_dataset(str(tmp_path))
    assert len(caught) == 11
    assert "15 more files that are no pictures" in str(caught[-1].message)
    for path in (tmp_path / "b").glob("*.png"):
        path.unlink()
    with pytest.warns(UserWarning, match="left out"), pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, f"{tmp_path / 'b'}: a class with no images")


def test_folder_of_more_pixels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at the first picture, before the others are decoded; the line has both numbers."""
    write_classes(tmp_path, {"a": 2, "b": 3})
    size = 5 * 6 * 4 * 3
    monkeypatch.setattr("bnn.data.folder._most_bytes", lambda: size)
    assert len(load_dataset(str(tmp_path)).train_targets) == 3
    monkeypatch.setattr("bnn.data.folder._most_bytes", lambda: size - 1)
    (tmp_path / "b" / "000.png").write_bytes(b"would be left out, with a warning")
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    first = tmp_path / "a" / "000.png"
    one_line(error, f"{first} is 6x4 RGB: 5 files like it have 360 bytes", "at most 359 are read")


def test_memory_for_pictures_is_the_machines() -> None:
    """Half of it, in bytes: not in pages, nor in GiB."""
    assert 1 << 28 < _most_bytes() < 1 << 48


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe; names there have any character")
def test_folder_with_a_name_that_colours_terminals(tmp_path: Path) -> None:
    """What is left out is named as text, from Python too."""
    write_classes(tmp_path, {"a": 2})
    os.mkfifo(tmp_path / "a" / "x\x1b[31mRED")
    with pytest.warns(UserWarning, match=r"a/x\\x1b\[31mRED: a pipe, not a file$"):
        load_dataset(str(tmp_path))


def test_folder_on_a_disk_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What concerns all files is not taken for the fault of one."""
    write_classes(tmp_path, {"a": 3})

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("bnn.data.folder.open_picture", fail)
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, tmp_path / "a" / "000.png", os.strerror(errno.EIO))


@pytest.mark.skipif(sys.platform != "linux", reason="names there are any bytes")
def test_folder_of_a_class_that_is_no_utf8(tmp_path: Path) -> None:
    """A model could not store its name: that is said before training."""
    write_classes(tmp_path, {"a": 2, os.fsdecode(b"\xff\xfe"): 2})
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, tmp_path, r"class folder '\udcff\udcfe' is no UTF-8")


@pytest.mark.parametrize("loose", [[], ["image.png", ".hidden/x.png"]])
def test_folder_without_classes_is_named(loose: list[str], tmp_path: Path) -> None:
    """An empty folder, and one with loose images only, are refused with the layout that is expected."""
    for name in loose:
        write_image(tmp_path / name, 0)
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, tmp_path, "no class folders", "train/<class>/<image>")


@pytest.mark.parametrize(("more", "less"), [("train", "test"), ("test", "train")])
def test_folder_classes_of_train_and_test_must_agree(more: str, less: str, tmp_path: Path) -> None:
    """A class that only one of train/ and test/ has is named."""
    write_classes(tmp_path / more, {"a": 1, "b": 1})
    write_classes(tmp_path / less, {"a": 1})
    with pytest.raises(DataError) as error:
        load_dataset(str(tmp_path))
    one_line(error, tmp_path, f"class 'b' is in {more}/ but not in {less}/")


# ---- downloads -----------------------------------------------------------------------------------------


@dataclass
class Server:
    """A loopback server: what it gives for each path, and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    missing_bytes: int = 0  # promised in Content-Length and never sent
    requests: list[str] = field(default_factory=list)

    def offer_mnist(self, monkeypatch: pytest.MonkeyPatch, data: Mnist) -> None:
        """Serve these files, and make them the ones that `load_dataset` downloads."""
        self.files = {f"/{name}.gz": gzip.compress(content, 1) for name, content in data.contents.items()}
        files = [replace(file, url=f"{self.url}/{file.name}.gz") for file in mnist.FILES]
        monkeypatch.setattr(mnist, "FILES", tuple(files))


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + state.missing_bytes))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: standard error is tested."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def test_download_mnist_once(
    server: Server,
    tmp_path: Path,
    small_mnist: Mnist,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Missing files are downloaded, checked and kept; the second load asks the server for nothing.

    No progress bar where standard error is no terminal.
    """
    server.offer_mnist(monkeypatch, small_mnist)
    first = load_dataset("mnist", tmp_path / "new" / "data")
    names = sorted(f"{name}.gz" for name in small_mnist.contents)
    assert files_below(tmp_path / "new" / "data" / "mnist") == names
    assert sorted(server.requests) == [f"/{name}" for name in names]
    second = load_dataset("mnist", tmp_path / "new" / "data")
    assert len(server.requests) == 4
    np.testing.assert_array_equal(first.train_inputs, second.train_inputs)
    np.testing.assert_array_equal(first.train_inputs[:, 0], small_mnist.arrays["train-images-idx3-ubyte"])
    assert capfd.readouterr() == ("", "")


def test_download_fetches_only_what_is_missing(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are there are used, and only the missing one is asked for."""
    server.offer_mnist(monkeypatch, small_mnist)
    (small_mnist.write(tmp_path) / "t10k-labels-idx1-ubyte.gz").unlink()
    load_dataset("mnist", tmp_path)
    assert server.requests == ["/t10k-labels-idx1-ubyte.gz"]


def test_download_keeps_the_usual_permissions(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded file is as readable as any other new file, so that a data folder can be shared."""
    server.offer_mnist(monkeypatch, small_mnist)
    load_dataset("mnist", tmp_path)
    (tmp_path / "ordinary").touch()
    downloaded = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    assert downloaded.stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_download_draws_a_progress_bar_on_a_terminal(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where standard error is a terminal, the download shows its progress there."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    server.offer_mnist(monkeypatch, small_mnist)
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        load_dataset("mnist", tmp_path)
    assert "100%" in terminal.getvalue()


def test_download_cut_connection_leaves_nothing(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that ends early is one line with URL and reason, and no file or folder remains."""
    server.offer_mnist(monkeypatch, small_mnist)
    server.missing_bytes = 1000
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path / "new" / "data")
    one_line(error, f"{server.url}/train-images-idx3-ubyte.gz", "the connection was cut")
    assert files_below(tmp_path) == []


def test_download_with_wrong_content_leaves_nothing(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Well-formed content with the wrong hash is refused by URL, and earlier files stay."""
    content = bytearray(small_mnist.contents["t10k-images-idx3-ubyte"])
    content[500] ^= 0x80
    small_mnist.contents["t10k-images-idx3-ubyte"] = bytes(content)
    server.offer_mnist(monkeypatch, small_mnist)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, f"{server.url}/t10k-images-idx3-ubyte.gz", "sha256")
    assert files_below(tmp_path / "mnist") == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]


def test_download_of_something_else_leaves_nothing(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that a server sends in place of the file (a login page, say) is refused by URL."""
    server.offer_mnist(monkeypatch, small_mnist)
    server.files["/train-images-idx3-ubyte.gz"] = b"<html>log in</html>"
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, f"{server.url}/train-images-idx3-ubyte.gz", "damaged gzip file")
    assert files_below(tmp_path) == []


def test_download_http_error_is_named(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An HTTP error is one line with URL, status and its meaning."""
    server.offer_mnist(monkeypatch, small_mnist)
    server.files = {}
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, f"{server.url}/train-images-idx3-ubyte.gz", "HTTP 404 Not Found")
    assert files_below(tmp_path) == []


def test_download_without_a_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is one line with URL and reason."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/train_32x32.mat"
    monkeypatch.setattr(svhn, "FILES", (RemoteFile("train_32x32.mat", url, None, 100),) * 2)
    with pytest.raises(DataError) as error:
        load_dataset("svhn", tmp_path)
    one_line(error, url, "refused")
    assert files_below(tmp_path) == []


def test_download_of_too_much_is_refused(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has come, where the server says how much it is; both numbers are said."""
    server.offer_mnist(monkeypatch, small_mnist)
    monkeypatch.setattr(mnist, "FILES", tuple(replace(file, most=1000) for file in mnist.FILES))
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(
        error, server.url, f"{len(server.files['/train-images-idx3-ubyte.gz']):,} bytes; it may have 1,000"
    )
    assert files_below(tmp_path) == []


def test_download_that_is_slow_is_given_up(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it keeps the connection alive, a server has to send so much in so many seconds."""
    server.offer_mnist(monkeypatch, small_mnist)
    monkeypatch.setattr(download, "PATIENCE", 0.0)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, server.url)
    assert files_below(tmp_path) == []


def test_download_does_not_follow_to_a_less_secure_place() -> None:
    """From https to http, or to a file."""
    redirects = download._Redirects()
    for start, to in (
        ("https://a/b", "http://a/b"),
        ("http://a/b", "file:///b"),
        ("https://a/b", "ftp://a/b"),
    ):
        with pytest.raises(ConnectionError, match=f"it leads to {to}"):
            redirects.redirect_request(Request(start), io.BytesIO(), 301, "Moved", HTTPMessage(), to)
    found = redirects.redirect_request(
        Request("http://a/b"), io.BytesIO(), 301, "", HTTPMessage(), "https://a/c"
    )
    assert found is not None
    assert found.full_url == "https://a/c"


@pytest.mark.parametrize("code", [13, 28])  # no permission, no space
def test_download_that_cannot_be_placed_leaves_nothing(
    code: int, server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal by the operating system is one line with URL, folder and reason."""
    server.offer_mnist(monkeypatch, small_mnist)

    def refuse(source: object, target: object) -> None:
        raise OSError(code, os.strerror(code), str(source))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    one_line(error, f"{server.url}/train-images-idx3-ubyte.gz", tmp_path / "mnist", os.strerror(code))
    assert files_below(tmp_path) == []


def test_download_into_a_folder_that_cannot_be_made(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file stands in the way of the data folder, the server is asked nothing and the file stays."""
    server.offer_mnist(monkeypatch, small_mnist)
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path / "data")
    one_line(error, server.url, tmp_path / "data", os.strerror(20))
    assert server.requests == []
    assert (tmp_path / "data").read_text() == "a file"


def test_download_into_a_read_only_folder(
    server: Server, tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder without write permission is one line with URL, folder and reason."""
    server.offer_mnist(monkeypatch, small_mnist)
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(DataError) as error:
            load_dataset("mnist", tmp_path)
    finally:
        tmp_path.chmod(0o700)
    one_line(error, server.url, tmp_path, "Permission denied")
    assert files_below(tmp_path) == []


def test_download_svhn(
    server: Server, tmp_path: Path, small_svhn: Svhn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both .mat files are downloaded and kept; the second load asks for nothing."""
    server.files = {"/train_32x32.mat": small_svhn.content, "/test_32x32.mat": small_svhn.content}
    monkeypatch.setattr(
        svhn, "FILES", tuple(replace(file, url=f"{server.url}/{file.name}") for file in svhn.FILES)
    )
    load_dataset("svhn", tmp_path)
    assert len(load_dataset("svhn", tmp_path).train_inputs) == 12
    assert server.requests == ["/train_32x32.mat", "/test_32x32.mat"]
    assert files_below(tmp_path) == ["svhn", "svhn/test_32x32.mat", "svhn/train_32x32.mat"]


def test_download_cifar_is_unpacked(
    server: Server, tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The binary archive is downloaded and unpacked: six files, no archive, nothing outside the folder."""
    archive = cifar_archive(monkeypatch, 0, small_cifar.binary(), url=f"{server.url}/cifar.tar.gz")
    server.files = {"/cifar.tar.gz": archive}
    assert_is_cifar(load_dataset("cifar10", tmp_path / "data"), small_cifar)
    assert_is_cifar(load_dataset("cifar10", tmp_path / "data"), small_cifar)
    assert server.requests == ["/cifar.tar.gz"]
    folder = "data/cifar10/cifar-10-batches-bin"
    names = sorted(f"{folder}/{name}" for name in small_cifar.binary())
    assert files_below(tmp_path) == ["data", "data/cifar10", folder, *names]


def _fail_to_write(patch: pytest.MonkeyPatch, server: Server) -> str:
    def refuse(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    patch.setattr(os, "fsync", refuse)
    return os.strerror(28)


def _damage_archive(patch: pytest.MonkeyPatch, server: Server) -> str:
    server.files["/cifar.tar.gz"] += b"\0"
    return "md5"


def _cut_connection(patch: pytest.MonkeyPatch, server: Server) -> str:
    server.missing_bytes = 1
    return "the connection was cut"


@pytest.mark.parametrize("fail", [_fail_to_write, _damage_archive, _cut_connection])
def test_download_cifar_that_fails_leaves_nothing(
    fail: Callable[[pytest.MonkeyPatch, Server], str],
    server: Server,
    tmp_path: Path,
    small_cifar: Cifar,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No space while unpacking, a damaged archive and a cut connection leave neither archive nor folder."""
    archive = cifar_archive(monkeypatch, 0, small_cifar.binary(), url=f"{server.url}/cifar.tar.gz")
    server.files = {"/cifar.tar.gz": archive}
    with monkeypatch.context() as patch:
        expected = fail(patch, server)
        with pytest.raises(DataError) as error:
            load_dataset("cifar10", tmp_path / "data")
    one_line(error, f"{server.url}/cifar.tar.gz", expected)
    assert files_below(tmp_path) == []


def test_download_cifar_beside_a_faster_process(
    server: Server, tmp_path: Path, small_cifar: Cifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When another process has unpacked the data meanwhile, its copy stays and the load succeeds."""
    archive = cifar_archive(monkeypatch, 0, small_cifar.binary(), url=f"{server.url}/cifar.tar.gz")
    server.files = {"/cifar.tar.gz": archive}
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    assemble = cifar._assemble

    def assemble_slowly(*arguments: object) -> Dataset:
        write_folder(folder, small_cifar.binary())
        return assemble(*arguments)

    monkeypatch.setattr(cifar, "_assemble", assemble_slowly)
    assert_is_cifar(load_dataset("cifar10", tmp_path), small_cifar)
    assert files_below(tmp_path / "cifar10")[0] == "cifar-10-batches-bin"
    assert len(files_below(tmp_path / "cifar10")) == 7


@pytest.mark.parametrize("module", [mnist, svhn])
def test_download_table_is_complete(module: ModuleType) -> None:
    """Every file of the real tables has an address that ends in its name, and a hash of the right length."""
    for file in module.FILES:
        assert file.url.removesuffix(".gz").endswith("/" + file.name)
        algorithm, _, digest = file.digest.partition(":")
        assert len(bytes.fromhex(digest)) == hashlib.new(algorithm).digest_size

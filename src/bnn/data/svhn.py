"""SVHN, cropped digits, from its two MATLAB files."""

import io
from pathlib import Path

import numpy as np

from bnn.data.dataset import DataError, Dataset, Images, Labels, check_labels
from bnn.data.download import RemoteFile, check_digest, downloaded
from bnn.errors import require
from bnn.files import read_whole

_HOME = "http://ufldl.stanford.edu/housenumbers/"  # not by https; the hashes decide
_LARGEST = 1 << 28  # bytes; the training images have 182 MB

# Training, then test. The authors publish no hashes; these are the ones torchvision checks, of the files
# themselves. They are needed: the checksum inside a .mat file is an Adler-32, which can miss a flipped bit.
FILES = (
    RemoteFile(
        "train_32x32.mat", _HOME + "train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373", _LARGEST
    ),
    RemoteFile("test_32x32.mat", _HOME + "test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3", _LARGEST),
)


def load_svhn(root: Path, download: bool) -> Dataset:
    """73,257 and 26,032 house-number digits, RGB, 32x32 (Y. Netzer et al., "Reading Digits in Natural Images
    with Unsupervised Feature Learning", 2011).

    The 531,131 easier digits of `extra_32x32.mat` are not used.

    root: the data folder; the files lie in `root/svhn`. Missing ones are downloaded when `download` is true.
    Raises DataError for a file that is missing, damaged or not the official one; MissingExtraError without
    scipy.
    """
    folder = root / "svhn"
    train_inputs, train_targets = _load_file(FILES[0], folder, download)
    test_inputs, test_targets = _load_file(FILES[1], folder, download)
    return Dataset(
        name="svhn",
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        classes=tuple("0123456789"),
    )


def _load_file(remote: RemoteFile, folder: Path, download: bool) -> tuple[Images, Labels]:
    """One file from the folder, or else from the web: checked and parsed."""
    path = folder / remote.name
    if path.is_file():
        return _parse(path, remote, str(path))
    if not download:
        raise DataError(f"svhn: {remote.name} is not in {folder}")
    with downloaded(remote, folder) as temporary:
        arrays = _parse(temporary, remote, remote.url)
        temporary.replace(path)
    return arrays


def _parse(path: Path, remote: RemoteFile, where: str) -> tuple[Images, Labels]:
    content = read_whole(path, remote.most)  # once: scipy gets no byte but those that were checked
    check_digest(content, remote.digest, where)
    return parse_mat(content, where)


def parse_mat(content: bytes, where: str) -> tuple[Images, Labels]:
    """Images, uint8, (n, 3, 32, 32), and labels, int64, (n,), of one file's content.

    It holds X, uint8, (32, 32, 3, n), and y, (n, 1), in which the digit 0 has the label 10. Changed files
    crash scipy's parser: only give it what is known by its hash.

    where: names the file in errors. Raises DataError.
    """
    loadmat = require("scipy.io", "train").loadmat
    try:
        arrays = loadmat(io.BytesIO(content), variable_names=["X", "y"])
        pixels, digits = np.asarray(arrays["X"]), np.asarray(arrays["y"])
    except Exception as error:  # a damaged file makes scipy raise nearly anything
        raise DataError(f"{where}: not a readable MATLAB file with X and y: {error!r}") from error
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
        raise DataError(f"{where}: X is {pixels.dtype} {pixels.shape}, not uint8 (32, 32, 3, n)")
    count = pixels.shape[3]
    if count == 0 or digits.shape != (count, 1) or not np.issubdtype(digits.dtype, np.integer):
        raise DataError(
            f"{where}: y is {digits.dtype} {digits.shape}, X {pixels.shape}; y must be integers (n, 1), n > 0"
        )
    labels = digits[:, 0].astype(np.int64)
    check_labels(labels, 1, 10, where)
    return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)), labels % 10

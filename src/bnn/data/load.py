"""`load_dataset`: a data set by its name or by the path of a folder."""

import difflib
import os
import sys
from pathlib import Path

from bnn.data.cifar import load_cifar10
from bnn.data.dataset import DataError, Dataset
from bnn.data.digits import load_digits
from bnn.data.folder import load_folder
from bnn.data.mnist import load_mnist
from bnn.data.svhn import load_svhn

_FROM_FILES = {"mnist": load_mnist, "cifar10": load_cifar10, "svhn": load_svhn}

DATASETS = ("digits", *_FROM_FILES)


def load_dataset(name: str, data_dir: str | Path | None = None, *, download: bool = True) -> Dataset:
    """A data set as uint8 arrays of shape (n, channels, height, width) and int64 labels.

    Every file is checked before use.

    Args:
        name: one of DATASETS, or the path of a folder of images by class (`./mnist` for a folder of that
            name).
        data_dir: holds a folder for each data set (`mnist/`, `cifar10/`, `svhn/`). Without it, the
            environment variable BNN_DATA_DIR; without that, the user's cache folder. "digits" and a folder
            need none.
        download: fetch missing files into `data_dir`; when false, they are an error.

    Raises:
        DataError: the name is unknown, or a file is missing, damaged or cannot be fetched. One line.
        MissingExtraError: a package is not installed.
    """
    try:
        if name == "digits":
            return load_digits()
        if name in _FROM_FILES:
            return _FROM_FILES[name](data_root(data_dir), download)
        folder = _expanded(name)
        if folder.is_dir():
            return load_folder(folder)
    except OSError as error:  # a file that is there and cannot be read
        raise DataError(f"{error.filename or name}: {error.strerror or error}") from error
    if folder.exists():
        raise DataError(f"{name}: a file; a data set is one of {', '.join(DATASETS)}, or a folder of images")
    if os.sep in name or "/" in name:
        raise DataError(f"{name}: no such folder")
    nearest = difflib.get_close_matches(name.lower(), DATASETS, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise DataError(
        f"unknown data set {name!r}: known are {', '.join(DATASETS)}, or the path of a folder of images{hint}"
    )


def data_root(data_dir: str | Path | None = None) -> Path:
    """The folder that holds the data sets: the argument, else BNN_DATA_DIR, else the user's cache folder."""
    if data_dir is not None:
        return _expanded(data_dir)
    if from_environment := os.environ.get("BNN_DATA_DIR"):
        return _expanded(from_environment)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(local, "binaryconnect", "binaryconnect", "Cache")
    if xdg := os.environ.get("XDG_CACHE_HOME", "").strip():
        return Path(xdg, "binaryconnect")
    cache = Path("Library", "Caches") if sys.platform == "darwin" else Path(".cache")
    return Path.home() / cache / "binaryconnect"


def _expanded(path: str | Path) -> Path:
    """The path, with the home folder that a ~ stands for."""
    if "\0" in str(path):
        raise DataError(f"{str(path)!r}: no path has a NUL character")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: whose home folder that is is not known") from error

"""The user's own images: a folder with a folder for each class."""

import errno
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnn.data.dataset import DataError, Dataset, Images, Labels
from bnn.errors import require, warn
from bnn.pictures import ImageError, open_picture

TEST_SHARE = 6  # one image in six is a test image, where the folder has no test set of its own
MOST_WARNINGS = 10  # files that are named before the rest is only counted
_LAYOUTS = "<class>/<image>, or train/<class>/<image> and test/<class>/<image>"
# Refusals that are the file's own, where others (a disk that fails) concern all.
_OF_THE_FILE = {errno.EINVAL, errno.ENOENT, errno.ELOOP, errno.EACCES, errno.EPERM, errno.EFBIG}
_NOT_IMAGES = {"thumbs.db", "desktop.ini"}  # what Windows leaves in folders; dot files are skipped as well


@dataclass(frozen=True)
class _Example:
    path: Path
    label: int


@dataclass(frozen=True)
class _Format:
    """What all images must share, and the file that set it."""

    path: Path
    mode: str  # Pillow's: "L" or "RGB"
    size: tuple[int, int]  # width, height

    def __str__(self) -> str:
        colour = {"L": "grey", "RGB": "RGB"}.get(self.mode, f"mode {self.mode}")
        return f"{self.size[0]}x{self.size[1]} {colour}"


def load_folder(root: Path) -> Dataset:
    """Images by class: `root/train/<class>/*` and `root/test/<class>/*`, or `root/<class>/*` alone.

    In the second case a sixth of each class, at least one image, is the test set. Classes are numbered in
    the order of their names. Images come in the order of a hash of class and file name: as good as
    shuffled, so that the last part of the training set is a fair sample, yet the same on every machine.
    All images must be grey or all RGB, 8 bits a channel, and of one size; pixels are taken as they are stored
    (no EXIF rotation, no scaling).

    Pixels of all files, if those are like the first, may take half of the machine's memory.
    A file that is no picture (see `bnn.pictures.open_picture`) is left out, with a warning that names it.

    Raises DataError naming the folder or image that is at fault; MissingExtraError without Pillow.
    """
    require("PIL.Image", "images")
    apart = (root / "train").is_dir() and (root / "test").is_dir()
    classes = _class_folders(root / "train" if apart else root)
    if apart:
        test_classes = _class_folders(root / "test")
        for name in sorted({*classes} ^ {*test_classes}):
            here, there = ("train", "test") if name in classes else ("test", "train")
            raise DataError(f"{root}: class {name!r} is in {here}/ but not in {there}/")
    folders = [root / "train", root / "test"] if apart else [root]
    found = [[_examples(folder / name, k) for k, name in enumerate(classes)] for folder in folders]
    images = _read([example for part in found for examples in part for example in examples])
    train: list[_Example] = []
    test: list[_Example] = []
    for folder, part in zip(folders, found, strict=True):
        for name, examples in zip(classes, part, strict=True):
            readable = [example for example in examples if example in images]
            if not readable:
                raise DataError(f"{folder / name}: a class with no images")
            if not apart and len(readable) < 2:
                raise DataError(
                    f"{folder / name}: one image; a class needs two, one of them for the test set"
                )
            share = len(readable) if folder.name == "test" else 0
            count = share if apart else max(1, len(readable) // TEST_SHARE)
            test += readable[:count]
            train += readable[count:]
    train_inputs, train_targets = _assemble(train, images)
    test_inputs, test_targets = _assemble(test, images)
    return Dataset(
        name=root.resolve().name,
        train_inputs=train_inputs,
        train_targets=train_targets,
        test_inputs=test_inputs,
        test_targets=test_targets,
        classes=tuple(classes),
    )


def _class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted. Loose files beside them (a README, say) are ignored."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{root}: no class folders in it; expected {_LAYOUTS}")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:  # a model could not store it
            raise DataError(f"{root}: class folder {name!r} is no UTF-8") from error
    return names


def _examples(folder: Path, label: int) -> list[_Example]:
    """The files of a class, in shuffled order."""
    examples = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name.lower() in _NOT_IMAGES:
            continue
        if path.is_dir():
            raise DataError(f"{path}: a folder inside a class folder; expected {_LAYOUTS}")
        examples.append(_Example(path, label))
    return sorted(examples, key=_shuffle_key)


def _shuffle_key(example: _Example) -> bytes:
    # A hash and not a random generator, whose stream numpy may change from version to version. Besides,
    # an image that is added moves no other image.
    name = f"{example.path.parent.name}/{example.path.name}"
    return hashlib.sha256(os.fsencode(name)).digest()


def _read(examples: Sequence[_Example]) -> dict[_Example, Images]:
    """The pixels, (height, width) or (height, width, channels), of those that can be read."""
    images: dict[_Example, Images] = {}
    expected: _Format | None = None
    unread = 0
    # read in the order of names, so that the first file which differs is the first one a user would look at
    for example in sorted(examples, key=lambda example: example.path):
        try:
            image = open_picture(example.path)
        except (ImageError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
                raise
            unread += 1
            if unread <= MOST_WARNINGS:
                reason = f"{example.path}: {error.strerror}" if isinstance(error, OSError) else error
                warn(f"left out: {reason}", stacklevel=4)
            continue
        found = _Format(example.path, image.mode, image.size)
        if expected is None:
            expected = found
            if found.mode not in ("L", "RGB"):
                raise DataError(f"{found.path} is {found}; images must be grey (L) or RGB, 8 bits a channel")
            _check_memory(found, len(examples))
        if (found.mode, found.size) != (expected.mode, expected.size):
            raise DataError(
                f"{found.path} is {found}, {expected.path} is {expected}: they must agree in size and mode"
            )
        images[example] = np.asarray(image)
    if unread > MOST_WARNINGS:
        warn(f"left out: {unread - MOST_WARNINGS:,} more files that are no pictures", stacklevel=4)
    return images


def _check_memory(found: _Format, files: int) -> None:
    """Raises DataError if so many files like the first have more pixels than the memory should hold."""
    size, most = files * math.prod(found.size) * len(found.mode), _most_bytes()
    if size > most:
        raise DataError(
            f"{found.path} is {found}: {files:,} files like it have {size:,} bytes of pixels; "
            f"at most {most:,} are read, half of the memory"
        )


def _most_bytes() -> int:
    """Half of the machine's memory; of 16 GiB if the system does not say how much that is (Windows)."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):
        return 8 << 30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _assemble(examples: Sequence[_Example], images: dict[_Example, Images]) -> tuple[Images, Labels]:
    """Images, (n, channels, height, width), and labels, (n,), in shuffled order, taken out of `images`."""
    examples = sorted(examples, key=_shuffle_key)
    height, width, *rest = images[examples[0]].shape
    channels = rest[0] if rest else 1
    together = np.empty((len(examples), channels, height, width), np.uint8)
    for k, example in enumerate(examples):  # one by one, so that the memory never holds all images twice
        together[k] = images.pop(example).reshape(height, width, channels).transpose(2, 0, 1)
    return together, np.array([example.label for example in examples], np.int64)

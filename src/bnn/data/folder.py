"""The user's own images: a folder with a folder for each class."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bnn.data.dataset import DataError, Dataset, Images, Labels
from bnn.errors import require

TEST_SHARE = 6  # one image in six is a test image, where the folder has no test set of its own
_LAYOUTS = "<class>/<image>, or train/<class>/<image> and test/<class>/<image>"
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

    Raises DataError naming the folder or image that is at fault; MissingExtraError without Pillow.
    """
    pillow = require("PIL.Image", "images")
    if (root / "train").is_dir() and (root / "test").is_dir():
        classes = _class_folders(root / "train")
        test_classes = _class_folders(root / "test")
        for name in sorted({*classes} ^ {*test_classes}):
            here, there = ("train", "test") if name in classes else ("test", "train")
            raise DataError(f"{root}: class {name!r} is in {here}/ but not in {there}/")
        train = [example for k, name in enumerate(classes) for example in _examples(root / "train" / name, k)]
        test = [example for k, name in enumerate(classes) for example in _examples(root / "test" / name, k)]
    else:
        classes = _class_folders(root)
        train, test = [], []
        for label, name in enumerate(classes):
            examples = _examples(root / name, label)
            if len(examples) < 2:
                raise DataError(f"{root / name}: one image; a class needs two, one of them for the test set")
            count = max(1, len(examples) // TEST_SHARE)
            test += examples[:count]
            train += examples[count:]
    train.sort(key=_shuffle_key)
    test.sort(key=_shuffle_key)
    expected = _open(pillow, min(train, key=lambda example: example.path).path)[1]
    if expected.mode not in ("L", "RGB"):
        raise DataError(f"{expected.path} is {expected}; images must be grey (L) or RGB, 8 bits a channel")
    train_images, train_labels = _read(pillow, train, expected)
    test_images, test_labels = _read(pillow, test, expected)
    return Dataset(
        name=root.resolve().name,
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        classes=tuple(classes),
    )


def _class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, sorted. Loose files beside them (a README, say) are ignored."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        raise DataError(f"{root}: no class folders in it; expected {_LAYOUTS}")
    return names


def _examples(folder: Path, label: int) -> list[_Example]:
    """The images of a class, in shuffled order."""
    examples = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name.lower() in _NOT_IMAGES:
            continue
        if path.is_dir():
            raise DataError(f"{path}: a folder inside a class folder; expected {_LAYOUTS}")
        examples.append(_Example(path, label))
    if not examples:
        raise DataError(f"{folder}: a class with no images")
    return sorted(examples, key=_shuffle_key)


def _shuffle_key(example: _Example) -> bytes:
    # A hash and not a random generator, whose stream numpy may change from version to version. Besides,
    # an image that is added moves no other image.
    name = f"{example.path.parent.name}/{example.path.name}"
    return hashlib.sha256(os.fsencode(name)).digest()


def _open(pillow: Any, path: Path) -> tuple[Images, _Format]:
    """Pixels, (height, width) or (height, width, channels), and the format of one file."""
    try:
        with pillow.open(path) as image:
            return np.asarray(image), _Format(path, image.mode, image.size)
    except Exception as error:  # Pillow's decoders raise nearly anything for a damaged file
        raise DataError(f"{path}: not a readable image: {str(error) or repr(error)}") from error


def _read(pillow: Any, examples: list[_Example], expected: _Format) -> tuple[Images, Labels]:
    """All images, (n, channels, height, width), and labels, (n,), in the order of `examples`."""
    width, height = expected.size
    channels = 3 if expected.mode == "RGB" else 1
    images = np.empty((len(examples), channels, height, width), np.uint8)
    # read in the order of names, so that the first file which differs is the first one a user would look at
    for position in sorted(range(len(examples)), key=lambda k: examples[k].path):
        pixels, found = _open(pillow, examples[position].path)
        if (found.mode, found.size) != (expected.mode, expected.size):
            raise DataError(
                f"{found.path} is {found}, {expected.path} is {expected}: they must agree in size and mode"
            )
        images[position] = pixels.reshape(height, width, channels).transpose(2, 0, 1)
    return images, np.array([example.label for example in examples], np.int64)

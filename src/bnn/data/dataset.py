"""What every loader returns, and what every loader raises."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bnn.errors import UserError

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class DataError(UserError):
    """Data that cannot be used: one line that names the file, folder or URL and what is wrong with it."""


@dataclass(frozen=True, eq=False)  # eq: comparing arrays gives arrays, so two data sets have no single ==
class Dataset:
    """Labelled images in two parts. Validation data is the last part of the training set.

    Attributes:
        name: shown to users, for example "mnist".
        train_inputs, test_inputs: uint8, 0..255, (n, channels, height, width).
        train_targets, test_targets: int64, (n,), each an index into `classes`.
        classes: class names by label.
    """

    name: str
    train_inputs: Images
    train_targets: Labels
    test_inputs: Images
    test_targets: Labels
    classes: tuple[str, ...]


def check_labels(labels: npt.NDArray[np.integer], lowest: int, highest: int, where: str) -> None:
    """Raise DataError when a label lies outside lowest..highest; `where` names the file.

    labels: any integer type, (n,).
    """
    wrong = np.flatnonzero((labels < lowest) | (labels > highest))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{where}: label {int(labels[first])} at index {first}; labels are {lowest}..{highest}"
        )

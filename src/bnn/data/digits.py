"""The digits that scikit-learn carries: real data without a download."""

import numpy as np

from bnn.data.dataset import Dataset
from bnn.errors import require

TEST_COUNT = 297


def load_digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels: the first 1,500 for training, the last 297 as test set.

    Source: `sklearn.datasets.load_digits`, a copy of the test part of "Optical Recognition of Handwritten
    Digits" (E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998). Values there are 0..16, the
    ink in blocks of 4x4 scanned pixels; here they are scaled to 0..255. The order is the original one, in
    which each writer's digits lie together, so that most test digits are by writers unseen in training.

    Raises MissingExtraError without scikit-learn.
    """
    digits = require("sklearn.datasets", "train").load_digits()
    # 16 * 255 / 16 = 255; rounded, and exact at both ends
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, np.newaxis]
    labels = digits.target.astype(np.int64)
    return Dataset(
        name="digits",
        train_inputs=images[:-TEST_COUNT],
        train_targets=labels[:-TEST_COUNT],
        test_inputs=images[-TEST_COUNT:],
        test_targets=labels[-TEST_COUNT:],
        classes=tuple("0123456789"),
    )

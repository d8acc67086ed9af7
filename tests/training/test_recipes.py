"""Recipes too large for a test run a few steps of one here, at their own settings but for the width."""

import math

import numpy as np
import pytest
from support.progress import Epochs

from bnn.config import TrainConfig
from bnn.data import Dataset
from bnn.training import run as run_module
from bnn.training.run import train

CLASSES = tuple("abcdefghij")


def _coloured(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Dim noise, (n, 3, 32, 32), each with a square whose colour tells its class, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, len(CLASSES), n)
    images = random.integers(0, 64, (n, 3, 32, 32), dtype=np.uint8)
    colours = 255 * (np.arange(1, 1 + len(CLASSES))[:, None] // (1, 3, 9) % 3) // 2
    places = random.integers(0, 16, (n, 2))
    for image, label, (row, column) in zip(images, labels, places, strict=True):
        image[:, row : row + 16, column : column + 16] = colours[label][:, None, None]
    return images, labels.astype(np.int64)


@pytest.mark.slow
def test_cifar10_recipe_runs_200_steps(tmp_path, monkeypatch):
    """The one-bit network learns in 200 steps of the recipe, on made-up images."""
    images, labels = _coloured(5400, seed=0)
    data = Dataset("cifar10", images[:5200], labels[:5200], images[5200:], labels[5200:], CLASSES)
    monkeypatch.setattr(run_module, "load_dataset", lambda name, folder=None: data)
    config = TrainConfig.from_recipe("cifar10", width=8, validation=200, epochs=4)
    assert (len(data.train_inputs) - config.validation) // config.batch_size * config.epochs == 200
    losses = []
    result = train(config, tmp_path, progress=Epochs(lambda row: losses.append(row.loss_train)))
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < 0.5 * losses[0]
    assert result.packed > 0.6  # chance is 0.1

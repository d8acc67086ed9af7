"""What several tests need of PyTorch."""

import numpy as np
from torch import Tensor


def assert_close(result: np.ndarray, truth: Tensor) -> None:
    """float32 of the same shape, equal to 1e-5 of the largest entry; float32 itself has 6e-8."""
    assert result.dtype == np.float32
    assert result.shape == tuple(truth.shape)
    if truth.numel():
        assert np.abs(result - truth.numpy()).max() <= 1e-5 * max(1, float(truth.abs().max()))

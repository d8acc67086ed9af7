"""Images as they are trained on: uint8 on the device, normalised batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bnn.config import ConfigError
from bnn.data import Dataset

__all__ = ["EVALUATION_BATCH", "Samples", "split"]

EVALUATION_BATCH = 1000


@dataclass
class Samples:
    """uint8 images and labels on the device, normalised batch by batch."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        return (self.images[index].float() / 255 - self.mean) / self.std, self.labels[index]

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))


def split(
    data: Dataset, validation: int, device: torch.device
) -> tuple[Samples, Samples | None, tuple[list[float], list[float]]]:
    """The samples to train on, those to validate on, and (mean, std) of each channel of the first."""
    n = len(data.train_images) - validation
    if n < 2:
        raise ConfigError(
            f"validation = {validation} of {len(data.train_images)} leaves {max(n, 0)} to train on"
        )
    # From a histogram: exact, and no copy of the images in floating point.
    mean, std = [], []
    for channel in range(data.train_images.shape[1]):
        counts = np.bincount(data.train_images[:n, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        average = float(counts @ levels / counts.sum())
        mean.append(average)
        std.append(float(np.sqrt(counts @ (levels - average) ** 2 / counts.sum())) or 1.0)
    shape = (1, -1, 1, 1)
    moments = torch.tensor(mean).view(shape).to(device), torch.tensor(std).view(shape).to(device)

    def samples(part: slice) -> Samples:
        images, labels = torch.from_numpy(data.train_images[part]), torch.from_numpy(data.train_labels[part])
        return Samples(images.to(device), labels.to(device), *moments)

    return samples(slice(0, n)), samples(slice(n, None)) if validation else None, (mean, std)

"""Images as they are trained on: uint8 on the device, normalised batch by batch."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from bnn.config import ConfigError
from bnn.data import Dataset

__all__ = ["EVALUATION_BATCH", "Samples", "shuffled", "split"]

EVALUATION_BATCH = 1000
SHIFT = 4
"""Pixels by which a crop moves an image at most, up, down, left or right."""


@dataclass
class Samples:
    """uint8 images and labels on the device, normalised batch by batch."""

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def alike(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> "Samples":
        """Other images on the same device, normalised in the same way."""
        device = self.images.device
        return Samples(
            torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device), self.mean, self.std
        )

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        if isinstance(index, slice):
            return self._normalised(self.images[index]), self.labels[index]
        # `index_select` copies image by image, where `images[index]` goes entry by entry.
        return self._normalised(self.images.index_select(0, index)), self.labels.index_select(0, index)

    def _normalised(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).div_(255).sub_(self.mean).div_(self.std)

    def batches(self, size: int = EVALUATION_BATCH) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.batch(slice(start, start + size)) for start in range(0, len(self), size))


def shuffled(
    samples: Samples,
    size: int,
    augment: str,
    generator: torch.Generator,
    share: tuple[int, int] = (0, 1),
    pieces: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """An epoch of training batches, each of `size`; samples that do not fill one are left out of this epoch.

    Args:
        samples: to draw from, in random order.
        size: samples in a batch.
        augment: "none", or "crop-flip": each image moves by up to four pixels each way, with black where it
            left, and every other one is mirrored (the custom for CIFAR-10 since He et al., 2015).
        generator: on the CPU. All that is random in the epoch is drawn from it at its beginning, so that one
            copy takes it to the device.
        share: (rank, processes): each batch is cut into so many equal shares, and that one comes. Where all
            processes have generators of one state, they get disjoint shares of the same batches.
        pieces: the number of pieces of a share, which come one after the other.
    """
    device = samples.images.device
    order = torch.randperm(len(samples), generator=generator).to(device)
    if augment != "none":
        moves = torch.randint(0, 2 * SHIFT + 1, (len(samples), 2), generator=generator).to(device)
        mirrored = torch.randint(0, 2, (len(samples), 1), generator=generator).bool().to(device)
        padded = pad(samples.images, (SHIFT,) * 4)
        height, width = (torch.arange(n, device=device) for n in samples.images.shape[2:])
    rank, processes = share
    each = size // (processes * pieces)
    for start in range(0, len(samples) - size + 1, size):
        for piece in range(rank * pieces, (rank + 1) * pieces):
            part = slice(start + piece * each, start + (piece + 1) * each)
            index = order[part]
            if augment == "none":
                yield samples.batch(index)
                continue
            rows = moves[part, :1] + height
            columns = moves[part, 1:] + torch.where(mirrored[part], width.flip(0), width)
            # Indices first, then the channels: the images come out with channels last.
            images = padded[index[:, None, None], :, rows[:, :, None], columns[:, None, :]]
            yield samples._normalised(images.permute(0, 3, 1, 2)), samples.labels[index]


def split(
    data: Dataset, validation: int, device: torch.device
) -> tuple[Samples, Samples | None, tuple[list[float], list[float]]]:
    """The samples to train on, those to validate on, and (mean, std) of each channel of the first."""
    n = len(data.train_inputs) - validation
    if n < 2:
        raise ConfigError(
            f"validation = {validation} of {len(data.train_inputs)} leaves {max(n, 0)} to train on"
        )
    # From a histogram: exact, and no copy of the images in floating point.
    mean, std = [], []
    for channel in range(data.train_inputs.shape[1]):
        counts = np.bincount(data.train_inputs[:n, channel].reshape(-1), minlength=256)
        levels = np.arange(256) / 255
        average = float(counts @ levels / counts.sum())
        mean.append(average)
        std.append(float(np.sqrt(counts @ (levels - average) ** 2 / counts.sum())) or 1.0)
    shape = (1, -1, 1, 1)
    training = Samples(
        torch.from_numpy(data.train_inputs[:n]).to(device),
        torch.from_numpy(data.train_targets[:n]).to(device),
        torch.tensor(mean).view(shape).to(device),
        torch.tensor(std).view(shape).to(device),
    )
    held = training.alike(data.train_inputs[n:], data.train_targets[n:]) if validation else None
    return training, held, (mean, std)

"""Training batches: every image once an epoch, moved and mirrored where that was asked for."""

import numpy as np
import torch
from torch import Tensor

from bnn.training.samples import SHIFT, Samples, shuffled


def numbered(n: int, size: int = 6) -> Samples:
    """Images whose pixels are all different and not black, in two channels; label i for image i."""
    pixels = torch.arange(1, n * 2 * size * size + 1, dtype=torch.float64) % 255 + 1
    return Samples(
        pixels.to(torch.uint8).view(n, 2, size, size),
        torch.arange(n),
        torch.zeros(1, 2, 1, 1),
        torch.ones(1, 2, 1, 1),
    )


def epoch(samples: Samples, size: int, augment: str, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(shuffled(samples, size, augment, torch.Generator().manual_seed(seed)))


def test_an_epoch_is_every_image_once() -> None:
    """In random order, by the generator; what does not fill a batch waits."""
    samples = numbered(10)
    batches = epoch(samples, 3, "none")
    labels = torch.cat([label for _, label in batches])
    assert len(labels) == 9 == len(labels.unique())
    for x, label in batches:
        assert torch.equal(x * 255, samples.images[label].float())
    assert torch.equal(labels, torch.cat([label for _, label in epoch(samples, 3, "none")]))
    assert not torch.equal(labels, torch.cat([label for _, label in epoch(samples, 3, "none", seed=1)]))


def test_crops_and_mirror_images() -> None:
    """Each image comes out as one of the 81 shifts of itself or of its mirror image, black where it left."""
    samples = numbered(8)
    seen = set()
    for seed in range(60):
        for x, labels in epoch(samples, 4, "crop-flip", seed):
            for image, label in zip(x, labels, strict=True):
                found = _shift_of(samples.images[label], (image * 255).round().to(torch.uint8))
                assert found is not None
                seen.add(found)
    assert {vertical for vertical, _, _ in seen} == set(range(-SHIFT, SHIFT + 1))
    assert {sideways for _, sideways, _ in seen} == set(range(-SHIFT, SHIFT + 1))
    assert {mirrored for _, _, mirrored in seen} == {False, True}


def _shift_of(image: Tensor, moved: Tensor) -> tuple[int, int, bool] | None:
    """By how much, and whether mirrored, `moved` shows `image`; None if it does not."""
    height, width = image.shape[1:]
    for mirrored in (False, True):
        padded = np.pad(image.flip(2) if mirrored else image, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
        for down in range(2 * SHIFT + 1):
            for right in range(2 * SHIFT + 1):
                if np.array_equal(padded[:, down : down + height, right : right + width], moved):
                    return down - SHIFT, right - SHIFT, mirrored
    return None


def test_augmented_images_are_normalised_after_they_move() -> None:
    """The black that comes in is the black of the images, not their mean."""
    samples = numbered(4)
    samples.mean, samples.std = torch.full((1, 2, 1, 1), 0.5), torch.full((1, 2, 1, 1), 0.25)
    ((x, _),) = epoch(samples, 4, "crop-flip")
    assert x.min() == -2
    assert x.shape == (4, 2, 6, 6)

"""What goes on inside a binary network while it trains."""

import torch
from torch import Tensor, nn

from bnn.binarize import latent_parameters

__all__ = ["flip_ratio", "latent_signs"]


def latent_signs(model: nn.Module) -> list[Tensor]:
    """For each latent weight, where it is >= 0: a bool tensor of its shape."""
    return [parameter.detach() >= 0 for parameter in latent_parameters(model)]


def flip_ratio(before: list[Tensor], after: list[Tensor]) -> float:
    """The share of weights whose sign differs between two calls of `latent_signs`, over all layers."""
    flipped = sum(int(torch.count_nonzero(a != b)) for a, b in zip(before, after, strict=True))
    return flipped / sum(a.numel() for a in before)

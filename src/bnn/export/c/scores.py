"""A last layer of integer sums: scores that are integers too, and order the classes as the floats would."""

from dataclasses import dataclass, replace
from math import floor, log2, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear
from bnn.runtime import reference

__all__ = ["LIMIT", "Scores", "exact_scores", "sums_to_try"]

Array = NDArray[Any]

MANTISSA = 24  # bits of a float
LIMIT = 2**21  # sums that are tried: some seconds, and 150 megabytes


@dataclass(frozen=True, eq=False)
class Scores:
    """A last layer of integer sums z: an output is about (factor * z + offset) / one, by output channel.

    Attributes:
        factor, offset: int64, by output channel.
        one: what stands for 1, a power of two.
        bits: 32 or 64, which hold every score.
        rounded: to the significant bits of a float, ties to even: then a score is the output, exactly.
    """

    factor: NDArray[np.int64]
    offset: NDArray[np.int64]
    one: int
    bits: int
    rounded: bool = False

    @property
    def plain(self) -> bool:
        """Whether they are the sums themselves."""
        return bool((self.factor == 1).all() and (self.offset == 0).all())

    def of(self, sums: Array) -> Array:
        """Scores of (batch, channels, ...) sums: int64."""
        by_channel = (-1, *[1] * (sums.ndim - 2))
        scores = sums.astype(np.int64) * self.factor.reshape(by_channel) + self.offset.reshape(by_channel)
        return _rounded(scores) if self.rounded else scores


def exact_scores(model: PackedModel) -> Scores | None:
    """Integer scores that order the classes exactly as the reference's float32 outputs do.

    A last layer on ±1 has few possible sums, so that all are tried: for every two outputs and sums, the
    larger score belongs to the larger output, and where outputs are equal, the lower index wins. Two that
    only rounding makes equal need scores that are rounded as well.

    Returns:
        None: the last layer is of another kind, or too large to try.
    """
    node, tried = model.output, sums_to_try(model)
    if not tried or not isinstance(node, Linear | Conv2d):
        return None
    n, channels = prod(node.weight.shape[1:]), node.out_channels
    if node.scale is None or node.shift is None:
        return Scores(np.ones(channels, np.int64), np.zeros(channels, np.int64), 1, 32)
    if tried > LIMIT:
        return None
    sums = np.arange(-n, n + 1, _step(node))[:, None]
    dtype = reference.dtype_of(node)
    outputs = (sums.astype(dtype) * node.scale + node.shift).astype(np.float32)
    index = np.broadcast_to(np.arange(channels), outputs.shape).ravel()
    order = np.lexsort((index, -outputs.ravel()))  # of any two, the winner comes first
    scale, shift = node.scale.astype(float), node.shift.astype(float)
    largest = float((np.abs(scale) * n + np.abs(shift)).max())
    for width, rounded in ((32, False), (64, False), (64, True)):
        one = 2.0 ** min(floor(width - 2 - log2(max(largest, 2.0**-62))), 62)
        factor, offset = (np.rint(v * one).astype(np.int64) for v in (scale, shift))
        scores = Scores(factor, offset, int(one), width, rounded)
        if one >= 1 and _is_sorted(scores.of(sums).ravel()[order], index[order]):
            return scores
    return None


def sums_to_try(model: PackedModel) -> int:
    """How many sums all outputs of a last layer on ±1 can have, together; 0 if it is of another kind."""
    node = model.output
    if not isinstance(node, Linear | Conv2d):
        return 0
    if replace(node, scale=None, shift=None).kind(model.kinds[node.inputs[0]]) != "int":
        return 0
    n = prod(node.weight.shape[1:])
    return (2 * n // _step(node) + 1) * node.out_channels


def _step(node: Linear | Conv2d) -> int:
    """From one sum to the next: zeros around an image make both parities."""
    return 1 if isinstance(node, Conv2d) and any(node.padding) else 2


def _is_sorted(scores: Array, index: Array) -> bool:
    """From the largest down; where scores are equal, from the lowest index up."""
    down = np.diff(scores)
    return bool(((down < 0) | ((down == 0) & (np.diff(index) >= 0))).all())


def _rounded(scores: Array) -> Array:
    """Rounded to MANTISSA significant bits, ties to even; as model.c does it."""
    magnitude, drop = np.abs(scores), np.zeros_like(scores)
    while (more := magnitude >> drop >= 2**MANTISSA).any():
        drop += more
    half = (np.int64(1) << drop) >> 1
    odd = magnitude >> drop & 1
    up = magnitude + np.where(drop > 0, half - 1 + odd, 0)
    return np.sign(scores) * (up >> drop << drop)

"""A product's weights as the engine takes them: rows of signs in the order (tap, channel).

And what depends on how much of a window lies in the padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.packed import bits
from bnn.packed.nodes import AT_ONCE, Conv2d, InputContract, Linear, PackedWeight, Shape
from bnn.runtime import reference
from bnn.runtime.program import Border, Finish, Segment

__all__ = ["Weight", "constants", "padding_correction", "pixel_thresholds", "segments"]

Array = NDArray[Any]
Product = Linear | Conv2d


class Weight:
    """A product's weight over a window. Of a fully connected layer on a flattened image, that is the image.

    Attributes:
        node: the product.
        taps: places in the window.
        channels: of one group.
    """

    def __init__(self, node: Product, window: Sequence[int], channels: int) -> None:
        self.node, self.taps, self.channels = node, window[0] * window[1], channels

    def in_taps(self, rows: slice = slice(None)) -> Array:
        """(out, taps, channels); of these rows."""
        weight = self.node.weight
        dense = weight.signs(rows) if isinstance(weight, PackedWeight) else weight[rows]
        return np.ascontiguousarray(dense.reshape(len(dense), self.channels, self.taps).transpose(0, 2, 1))

    def by_rows(self, of: Callable[[Array], Array], first: int = 0, last: int | None = None) -> Array:
        """`of` the weights in taps, for so many rows at a time that little memory is taken."""
        last, step = last or self.node.out_channels, max(1, AT_ONCE // (self.taps * self.channels))
        starts = range(first, last, step)
        return np.concatenate([of(self.in_taps(slice(i, min(i + step, last)))) for i in starts])

    def rows(self) -> NDArray[np.uint64]:
        """(out, words): bits one after the other."""
        weight = self.node.weight
        if self.taps == 1 and isinstance(weight, PackedWeight):
            return weight.words  # in this order already
        return self.by_rows(_packed)

    def rows_of_taps(self) -> NDArray[np.uint64]:
        """(out, words): whole words for each tap."""
        if self.taps == 1:
            return self.rows()
        return self.by_rows(lambda part: bits.pack(part).reshape(len(part), -1))

    def depthwise(self) -> NDArray[np.int8]:
        """(taps, out)."""
        return np.ascontiguousarray(
            self.in_taps().reshape(self.node.out_channels, self.taps).T.astype(np.int8)
        )

    def dense(self, groups: int) -> NDArray[np.float32]:
        """(groups, taps * channels, out / groups), of a weight that is not packed."""
        weight = self.in_taps().reshape(groups, self.node.out_channels // groups, -1)
        return np.ascontiguousarray(weight.transpose(0, 2, 1), dtype=np.float32)


def _packed(signs: Array, take: Any = slice(None)) -> NDArray[np.uint64]:
    """(rows, taps, channels) to (rows, words), of some channels."""
    return bits.pack(signs[:, :, take].reshape(len(signs), -1))


def segments(weight: Weight, groups: int, contract: InputContract) -> tuple[Segment, ...]:
    """The groups of channels of raw pixels that have one deviation, in the reference's order."""
    std = np.repeat(np.array(contract.std), weight.channels * groups // len(contract.std))
    outputs, found = weight.node.out_channels // groups, []
    whole = groups == 1 and len(np.unique(std)) == 1
    for group in range(groups):
        of_group = std[group * weight.channels : (group + 1) * weight.channels]
        for value in np.unique(of_group):
            take = np.flatnonzero(of_group == value)
            if whole:
                rows = weight.rows()
            else:
                rows = weight.by_rows(partial(_packed, take=take), group * outputs, (group + 1) * outputs)
            at = (take + group * weight.channels).astype(np.int32)
            found.append(Segment(at, group * outputs, 255 * float(value), rows))
    return tuple(found)


def constants(node: Product, shape: Shape, contract: InputContract) -> Border:
    """What the raw pixel 0 everywhere gives: less at the border, for padding is 0 after normalising."""
    constant = reference.product_of_zero(node, shape, contract)[0]
    if not isinstance(node, Conv2d):
        return Border(constant)
    row, column = _classes(node, shape)
    first = [np.unique(classes, return_index=True)[1] for classes in (row, column)]
    values = constant[:, first[0]][:, :, first[1]].transpose(1, 2, 0)
    return Border(np.ascontiguousarray(values), row, column, len(first[1]))


def pixel_thresholds(
    parts: Sequence[Segment], constants: Border, finish: Finish, taps: int
) -> tuple[Finish, Border | None] | None:
    """The sign of scale * (constant + z / divisor) + shift, z a sum of pixels, as a comparison of integers.

    Rounded as it is, that expression is monotone in z: where its sign changes is found by evaluating it.

    Args:
        parts: as `segments` has them.
        constants: as `constants` has them.
        finish: what is computed of the sum in float64; scale and shift, at most.
        taps: of the window.

    Returns:
        The comparison, and what to take off z at the border; None if an output has several deviations, or
        integers would not fit 32 bits.
    """
    outputs = constants.values.shape[-1]
    largest = np.repeat([255 * taps * len(part.take) for part in parts], [len(part.rows) for part in parts])
    divisor = np.repeat([part.divisor for part in parts], [len(part.rows) for part in parts])
    if len(divisor) != outputs or largest.max() > 2**29:
        return None
    scale = np.ones(outputs) if finish.scale is None else finish.scale
    shift = np.zeros(outputs) if finish.shift is None else finish.shift

    def above(z: Array) -> Array:  # false up to some integer, true from there on
        with np.errstate(over="ignore"):  # infinity has a sign as well
            y = (constants.values + z / divisor) * scale + shift
            return ((y.astype(np.float32) if finish.narrow else y) >= 0) != (scale < 0)

    low = np.broadcast_to(-largest, constants.values.shape)
    high = np.broadcast_to(largest + 1, constants.values.shape)
    while (low < high).any():
        middle = (low + high) // 2
        low, high = np.where(above(middle), (low, middle), (middle + 1, high))
    at_first = low.reshape(-1, outputs)[0]
    flip = bits.pack(1 - 2 * (scale < 0).astype(np.int8))
    border = replace(constants, values=(low - at_first).astype(np.int32))
    return Finish(threshold=at_first.astype(np.int32), flip=flip), border if border.values.any() else None


def padding_correction(node: Conv2d, weight: Weight, shape: Shape) -> Border | None:
    """What padding of 0 must not add: as bits it enters as +1, so the weights of the taps that lie in it."""
    if not any(node.padding) or node.pad_value != 0:
        return None
    of_tap = weight.by_rows(lambda part: part.sum(axis=2, dtype=np.int32))  # (out, taps)
    classes, inside = _classes(node, shape), []
    for axis, numbers in enumerate(classes):
        first = np.unique(numbers, return_index=True)[1]
        inside.append(_inside(node, axis, shape[1 + axis], len(numbers))[first])
    outside = ~(inside[0][:, None, :, None] & inside[1][None, :, None, :])
    values = outside.reshape(len(inside[0]), len(inside[1]), -1) @ of_tap.T
    return Border(np.ascontiguousarray(values, dtype=np.int32), *classes, len(inside[1]))


def _classes(node: Conv2d, shape: Shape) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """For each row and each column of the output, a number for which taps of the kernel lie in the image."""
    _, rows, columns = node.shape(shape)
    row, column = (
        np.unique(_inside(node, axis, shape[1 + axis], size), axis=0, return_inverse=True)[1]
        for axis, size in enumerate((rows, columns))
    )
    return row.reshape(-1).astype(np.uint16), column.reshape(-1).astype(np.uint16)


def _inside(node: Conv2d, axis: int, size: int, outputs: int) -> NDArray[np.bool_]:
    """(outputs, taps): which taps of the kernel lie in the image, along one axis."""
    at = np.arange(outputs)[:, None] * node.stride[axis] - node.padding[2 * axis]
    at = at + np.arange(node.weight.shape[2 + axis]) * node.dilation[axis]
    return (at >= 0) & (at < size)

"""The oracle: a PackedModel in plain numpy. Slow and simple; every other engine must agree with it.

Products of integers (±1 with ±1, or ±1 with uint8 pixels) are exact: they are computed in floating
point, by numpy's fast matrix product, in a dtype that holds every integer up to their largest sum.
(`bnn.packed.bits.dot` is the same by xor and population count.) Values of kind float are float32, or float64
where a node's scale is; pixels are normalised in float64.

With int8 activations, what enters a packed layer as floats is rounded to 255 steps first (`quantize`).
"""

from collections.abc import Callable
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bnn.packed.demand import reference_values
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    AT_ONCE,
    INPUT,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    InputContract,
    Kind,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)

__all__ = ["Activations", "dtype_of", "product_of_zero", "quantize", "quantizes", "run"]

Array = NDArray[Any]
Activations = Literal["float32", "int8"]


def run(model: PackedModel, x: Array, activations: Activations = "float32") -> NDArray[np.float32]:
    """The model's output for a batch.

    Args:
        model: the packed model.
        x: (batch, *model.input.shape), uint8 raw pixels or float32 normalised values; not checked here.
        activations: "int8" quantizes the floats that enter packed layers.

    Returns:
        float32, (batch, *output shape).
    """
    out = np.empty((len(x), *model.shapes[model.output.name]), dtype=np.float32)
    step = _batch_that_fits(model)
    for start in range(0, len(x), step):
        out[start : start + step] = _run(model, x[start : start + step], activations)
    return out


def _batch_that_fits(model: PackedModel) -> int:
    """Samples at a time, so that values which are held at once have no more than 2^28 bytes."""
    return max(1, 2**28 // reference_values(model))


def _run(model: PackedModel, x: Array, activations: Activations) -> Array:
    values: dict[str, Array] = {INPUT: x}
    last_use = {name: node for node in model.nodes for name in node.inputs}
    for node in model.nodes:
        inputs = [values[name] for name in node.inputs]
        if not _takes_pixels(node):
            inputs = [_normalise(v, model.input) for v in inputs]
        if isinstance(node, Linear | Conv2d) and inputs[0].dtype == np.uint8:
            y = _product_of_pixels(node, inputs[0], model.input)
        elif (
            isinstance(node, Linear | Conv2d)
            and activations == "int8"
            and quantizes(node, model.kinds[node.inputs[0]])
        ):
            y = _product_of_quantized(node, inputs[0])
        else:
            y = OPERATIONS[type(node)](node, *inputs)
        values[node.name] = y
        for name in {name for name in node.inputs if last_use[name] is node}:
            del values[name]  # nothing reads it any more
    return _normalise(values[model.output.name], model.input)


def _takes_pixels(node: Node) -> bool:
    """Whether raw pixels enter a node as they are: a packed product, or Flatten, which leaves them raw."""
    return isinstance(node, Flatten) or (isinstance(node, Linear | Conv2d) and node.is_packed)


# --- raw pixels -------------------------------------------------------------------------------------------


def _mean_std(contract: InputContract, x: Array) -> tuple[Array, Array]:
    """mean and std for each index of the first axis after the batch, shaped to broadcast over x.

    After Flatten, that axis runs over pixels, channel by channel.
    """
    mean, std = np.array(contract.mean), np.array(contract.std)
    repeats = x.shape[1] // mean.size
    return _channels(np.repeat(mean, repeats), x), _channels(np.repeat(std, repeats), x)


def _normalise(x: Array, contract: InputContract) -> Array:
    """x / 255, normalised, in float64, so that signs are the float64 network's; x, if it is not raw."""
    if x.dtype != np.uint8:
        return x
    mean, std = _mean_std(contract, x)
    return (x / 255 - mean) / std


def _product_of_pixels(node: Linear | Conv2d, x: Array, contract: InputContract) -> Array:
    """weight · (x / 255 - mean) / std, from exact integer sums: one for each group of equal normalisation.

    weight · x_normalised = sum over channels c of (weight · x_c) / (255 std_c) - weight · (mean_c / std_c)

    The last term is the same for all images, but not for all places: zero padding lies in the normalised
    image, so at the border fewer means are taken off. It is computed as the product with the image of a
    raw 0 everywhere.
    """
    _, std = _mean_std(contract, x)
    total = product_of_zero(node, x.shape[1:], contract)
    for value in np.unique(std):
        same = np.where(std == value, x, 0)
        total = total + _product(node, same, np.dtype(np.float64), raw=True) / (255 * value)
    return _scale_and_shift(node, total)


def product_of_zero(node: Linear | Conv2d, shape: tuple[int, ...], contract: InputContract) -> Array:
    """weight · x for the one image of this shape whose raw pixels are all 0: float64, (1, *output shape)."""
    zero = np.zeros((1, *shape), dtype=np.uint8)
    return _product(node, _normalise(zero, contract), np.dtype(np.float64))


# --- quantized activations --------------------------------------------------------------------------------


def quantizes(node: Linear | Conv2d, kind: Kind) -> bool:
    """Whether int8 activations concern this layer: its weights are packed, and what enters is not ±1 anyway.

    Padding must be 0, which has a quantized form whatever the scale, and sums must fit 32 bits.
    """
    padded = isinstance(node, Conv2d) and any(node.padding) and node.pad_value != 0
    fits = prod(node.weight.shape[1:]) * 127 < 2**31
    return node.is_packed and kind != "sign" and not padded and fits


def quantize(x: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Each sample by its own scale: x is about q * scale, where the largest magnitude becomes ±127.

    Returns:
        q, int8, of x's shape, ties to even; scale, float32, (batch,). A sample that holds NaN or infinity
        gets q = 0 and a scale that is not finite, so that all that is computed from it is NaN.
    """
    x = x.astype(np.float32)
    rows = x.reshape(len(x), -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.abs(rows).max(axis=1) / np.float32(127)
        scale[scale < np.finfo(np.float32).tiny] = 0  # too coarse to divide by
        q = np.rint(rows / scale[:, None])
    q[~(np.isfinite(scale) & (scale > 0))] = 0
    return q.astype(np.int8).reshape(x.shape), scale


def _product_of_quantized(node: Linear | Conv2d, x: Array) -> Array:
    q, scale = quantize(x)
    dtype = dtype_of(node)
    sums = _product(node, q, np.dtype(np.float64)).astype(dtype)  # exact: fewer than 2^53 / 127 terms
    of_samples = scale.astype(dtype).reshape(-1, *[1] * (sums.ndim - 1))
    with np.errstate(invalid="ignore"):
        return _scale_and_shift(node, sums * of_samples)


# --- products ---------------------------------------------------------------------------------------------


def _linear_or_conv(node: Linear | Conv2d, x: Array) -> Array:
    return _scale_and_shift(node, _product(node, x, dtype_of(node)))


def dtype_of(node: Linear | Conv2d) -> np.dtype[Any]:
    """The dtype of the result: the scale's, or without one the smallest that holds every integer up to n."""
    if node.scale is not None:
        return node.scale.dtype
    return np.dtype(np.float32 if prod(node.weight.shape[1:]) <= 2**24 else np.float64)


def _scale_and_shift(node: Linear | Conv2d, y: Array) -> Array:
    if node.scale is not None and node.shift is not None:
        y = y * _channels(node.scale, y) + _channels(node.shift, y)
    return y.astype(dtype_of(node), copy=False)


def _product(node: Linear | Conv2d, x: Array, dtype: np.dtype[Any], raw: bool = False) -> Array:
    """weight · x, without scale and shift. `raw`: x are pixels, and the padding around them adds nothing."""
    if not isinstance(node, Conv2d):
        x, step = x.astype(dtype), max(1, AT_ONCE // node.weight.shape[1])
        pieces = (_rows(node, slice(i, i + step)) for i in range(0, node.out_channels, step))
        return np.concatenate([x @ rows.T.astype(dtype) for rows in pieces], axis=1)
    weight = _rows(node)
    windows = _windows(
        x, weight.shape[2:], node.stride, node.padding, node.dilation, 0 if raw else node.pad_value
    )
    rows = weight.reshape(node.groups, node.out_channels // node.groups, -1)  # (groups, out / groups, n)
    rows = rows.swapaxes(1, 2).astype(dtype)

    def product(windows: Array) -> Array:
        patches = _patches(windows, node.groups).astype(dtype)
        y = (patches @ rows).swapaxes(2, 3)  # (batch, groups, out / groups, places)
        return y.reshape(len(x), node.out_channels, *windows.shape[2:4])

    return _by_tiles(windows, product)


def _rows(node: Linear | Conv2d, rows: slice = slice(None)) -> Array:
    """The weights of some outputs, as numbers."""
    return node.weight.signs(rows) if isinstance(node.weight, PackedWeight) else node.weight[rows]


def _patches(windows: Array, groups: int) -> Array:
    """What the kernel sees at each place: (batch, groups, places, in / groups * kh * kw)."""
    batch, channels, height, width, kh, kw = windows.shape
    grouped = windows.reshape(batch, groups, channels // groups, height, width, kh, kw)
    return grouped.transpose(0, 1, 3, 4, 2, 5, 6).reshape(
        batch, groups, height * width, channels // groups * kh * kw
    )


def _by_tiles(windows: Array, of: Callable[[Array], Array]) -> Array:
    """`of` windows, for so many places at a time that little memory is taken, and Ctrl-C waits for little."""
    batch, channels, height, width, kh, kw = windows.shape
    places = max(1, AT_ONCE // (batch * channels * kh * kw))
    columns, rows = min(width, places), max(1, places // width)
    if rows >= height and columns == width:
        return of(windows)
    tops = range(0, height, rows)
    lefts = range(0, width, columns)
    return np.concatenate(
        [
            np.concatenate([of(windows[:, :, y : y + rows, x : x + columns]) for x in lefts], axis=3)
            for y in tops
        ],
        axis=2,
    )


def _windows(
    x: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    pad_value: float,
) -> Array:
    """A view (batch, channels, height, width, kh, kw) of the windows of a padded image."""
    top, bottom, left, right = padding
    if any(padding):
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=pad_value)
    span = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    windows = sliding_window_view(x, span, axis=(2, 3))
    return windows[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]


# --- everything else --------------------------------------------------------------------------------------


def _channels(values: Array, x: Array) -> Array:
    """One value a channel, shaped to broadcast over x, (batch, channels, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _affine(node: Affine, x: Array) -> Array:
    return (x * _channels(node.scale, x) + _channels(node.shift, x)).astype(node.scale.dtype)


def _threshold(node: Threshold, x: Array) -> Array:
    at_least = x >= _channels(node.threshold, x)
    return np.where(at_least != _channels(node.flip, x), np.float32(1), np.float32(-1))


def _sign(node: Sign, x: Array) -> Array:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def _relu(node: ReLU, x: Array) -> Array:
    return np.maximum(x, 0)


def _prelu(node: PReLU, x: Array) -> Array:
    return np.where(x >= 0, x, _channels(node.slope, x) * x)


def _hardtanh(node: Hardtanh, x: Array) -> Array:
    return x.clip(node.low, node.high)


def _max_pool(node: MaxPool2d, x: Array) -> Array:
    windows = _windows(x, node.kernel, node.stride, node.padding, (1, 1), -np.inf)
    return _by_tiles(windows, lambda part: part.max(axis=(4, 5)))


def _avg_pool(node: AvgPool2d, x: Array) -> Array:
    windows = _windows(x, node.kernel, node.stride, node.padding, (1, 1), 0)
    sums = _by_tiles(windows, lambda part: part.sum(axis=(4, 5)))
    if node.count_padding:
        return sums / np.float32(node.kernel[0] * node.kernel[1])
    inside = _windows(np.ones_like(x[:1]), node.kernel, node.stride, node.padding, (1, 1), 0)
    return sums / _by_tiles(inside, lambda part: part.sum(axis=(4, 5)))


def _add(node: Add, *x: Array) -> Array:
    return sum(x[1:], start=x[0])


def _concat(node: Concat, *x: Array) -> Array:
    return np.concatenate(x, axis=1)


def _flatten(node: Flatten, x: Array) -> Array:
    return x.reshape(len(x), prod(x.shape[1:]))


def _softmax(node: Softmax, x: Array) -> Array:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


OPERATIONS: dict[type[Node], Callable[..., Array]] = {
    Linear: _linear_or_conv,
    Conv2d: _linear_or_conv,
    Affine: _affine,
    Threshold: _threshold,
    Sign: _sign,
    ReLU: _relu,
    PReLU: _prelu,
    Hardtanh: _hardtanh,
    MaxPool2d: _max_pool,
    AvgPool2d: _avg_pool,
    Add: _add,
    Concat: _concat,
    Flatten: _flatten,
    Softmax: _softmax,
}

"""One function for each ATen operation that can be packed: from its arguments to nodes.

Each takes the Translator, the operation's first argument, and the others by their names in ATen's schema;
it adds nodes, and returns the name of its value.
"""

import operator
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnn.packed import nodes
from bnn.packed.nodes import Node
from bnn.packing.translation import AtLeastZero, Operation, Padded, Translator, Value

__all__ = ["OPERATIONS"]

Array = NDArray[Any]


def _short(target: Any) -> str:
    return str(target).removeprefix("aten.").split(".")[0]


def _pair(value: Any) -> tuple[int, int]:
    values = [value] * 2 if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _sides(value: Any) -> nodes.Padding:
    height, width = _pair(value)
    return (height, height, width, width)


def _linear(t: Translator, x: Any, weight: Any, bias: Any) -> Value:
    if len(t.shape(x)) != 1:
        t.fail(f"a linear layer on activations of shape {t.shape(x)}; it must be (features,): flatten first")
    return t.product(nodes.Linear, t.name(x), weight, bias)


def _conv2d(
    t: Translator, x: Any, *, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> Value:
    dilation = _pair(dilation)
    if padding == "valid":
        sides = (0, 0, 0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.meta["val"].shape[2:], strict=True)]
        (top, bottom), (left, right) = ((v // 2, v - v // 2) for v in total)  # PyTorch's extra one is last
        sides = (top, bottom, left, right)
    else:
        sides = _sides(padding)
    source, pad_value = t.values[x], 0.0
    if isinstance(source, Padded):
        if any(sides) and source.value != 0:
            t.fail(f"padding with {source.value} and then with 0")
        top, bottom, left, right = source.padding
        sides = (sides[0] + top, sides[1] + bottom, sides[2] + left, sides[3] + right)
        pad_value = source.value
    return t.product(
        nodes.Conv2d,
        source.source if isinstance(source, Padded) else t.name(x),
        weight,
        bias,
        stride=_pair(stride),
        padding=sides,
        dilation=dilation,
        groups=groups,
        pad_value=pad_value,
    )


def _batch_norm(
    t: Translator,
    x: Any,
    *,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    eps: float,
    **_: Any,
) -> Value:
    mean, var = t.fixed(running_mean, "a mean"), t.fixed(running_var, "a variance")
    gamma = np.ones_like(mean) if weight is None else t.fixed(weight, "a factor")
    beta = np.zeros_like(mean) if bias is None else t.fixed(bias, "a shift")
    scale = gamma / np.sqrt(var + eps)  # epsilon is added to the variance
    name = t.add(nodes.Affine, t.name(x), scale=scale, shift=beta - mean * scale)
    return (name,)  # ATen's also returns the statistics


def _getitem(t: Translator, x: Any, index: int) -> Value:
    value = t.values[x]
    if not isinstance(value, tuple) or index != 0:
        t.fail("one of several results that the runtime does not compute")
    return value[0]


def _identity(t: Translator, x: Any, **_: Any) -> Value:
    if not t.node.meta["val"].is_floating_point():
        t.fail(f"{_short(t.node.target)} changes more than layout and precision")
    return t.values[x]


def _reshape(t: Translator, x: Any, **_: Any) -> Value:
    before, after = t.shape(x), t.shape(t.node)
    if before == after:
        return t.name(x)
    if after == (prod(before),):
        return t.add(nodes.Flatten, t.name(x))
    t.fail(f"reshapes {before} to {after}; only flattening is understood")


def _compare(negated: bool) -> Operation:
    def translate(t: Translator, x: Any, other: Any) -> Value:
        bound = t.constant(other)
        if bound is None or bound.any():
            t.fail("a comparison with something other than 0")
        return AtLeastZero(t.name(x), negated)

    return translate


def _where(t: Translator, condition: Any, self: Any, other: Any) -> Value:
    half, values = t.values[condition], [t.constant(self), t.constant(other)]
    if isinstance(half, AtLeastZero) and all(v is not None and v.size == 1 for v in values):
        signs = [v.item() for v in values if v is not None]
        if signs == ([-1.0, 1.0] if half.negated else [1.0, -1.0]):
            return t.add(nodes.Sign, half.source)
    t.fail("`where` is understood only as a sign, where(x >= 0, 1, -1): use bnn.functional.sign")


def _full_like(t: Translator, x: Any, fill_value: float, **_: Any) -> Value:
    return torch.tensor(float(fill_value))  # one number stands for all entries


def _relu(t: Translator, x: Any) -> Value:
    return t.add(nodes.ReLU, t.name(x))


def _prelu(t: Translator, x: Any, weight: Any) -> Value:
    values = t.fixed(weight, "a slope")
    return t.add(nodes.PReLU, t.name(x), slope=values.reshape(-1).astype(np.float32))


def _leaky_relu(t: Translator, x: Any, negative_slope: float) -> Value:
    return t.add(nodes.PReLU, t.name(x), slope=np.array([negative_slope], dtype=np.float32))


def _hardtanh(t: Translator, x: Any, min_val: float, max_val: float) -> Value:
    return t.add(nodes.Hardtanh, t.name(x), low=float(min_val), high=float(max_val))


def _clamp(t: Translator, x: Any, min: Any = None, max: Any = None) -> Value:
    largest = float(np.finfo(np.float32).max)
    if not all(bound is None or isinstance(bound, int | float) for bound in (min, max)):
        t.fail("clamp with bounds that are not numbers")
    return _hardtanh(t, x, -largest if min is None else min, largest if max is None else max)


def _max_pool2d(
    t: Translator, x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, **_: Any
) -> Value:
    if _pair(dilation) != (1, 1):
        t.fail("max pooling with dilation")
    kernel = _pair(kernel_size)
    stride = _pair(stride) if stride else kernel
    sides = _fit_window(t, x, kernel, stride, _sides(padding))
    return t.add(nodes.MaxPool2d, t.name(x), kernel=kernel, stride=stride, padding=sides)


def _avg_pool2d(
    t: Translator,
    x: Any,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    count_include_pad: bool,
    divisor_override: int | None,
    **_: Any,
) -> Value:
    kernel = _pair(kernel_size)
    stride = _pair(stride) if stride else kernel
    sides = _sides(padding)
    if divisor_override is not None:
        t.fail("average pooling with divisor_override")
    if _fit_window(t, x, kernel, stride, sides) != sides:
        t.fail("average pooling whose windows reach over the edge (ceil_mode)")
    return t.add(
        nodes.AvgPool2d,
        t.name(x),
        kernel=kernel,
        stride=stride,
        padding=sides,
        count_padding=count_include_pad,
    )


def _fit_window(
    t: Translator, x: Any, kernel: nodes.Pair, stride: nodes.Pair, padding: nodes.Padding
) -> nodes.Padding:
    """The padding, with as much more at the bottom and right as ceil_mode's last windows reach over."""
    (_, height, width), (_, out_height, out_width) = t.shape(x), t.shape(t.node)
    top, bottom, left, right = padding
    over_height = (out_height - 1) * stride[0] + kernel[0] - (height + top + bottom)
    over_width = (out_width - 1) * stride[1] + kernel[1] - (width + left + right)
    return (top, bottom + max(0, over_height), left, right + max(0, over_width))


def _adaptive(cls: type[Node]) -> Operation:
    def translate(t: Translator, x: Any, output_size: Any) -> Value:
        (_, height, width), (rows, columns) = t.shape(x), _pair(output_size)
        if height % rows or width % columns:
            t.fail(f"adaptive pooling of {height}x{width} to {rows}x{columns}, which does not divide it")
        window = (height // rows, width // columns)
        name = t.add(cls, t.name(x), kernel=window, stride=window)
        return (name,) if cls is nodes.MaxPool2d else name

    return translate


def _over_image(cls: type[Node]) -> Operation:
    """mean or amax over height and width: global pooling."""

    def translate(t: Translator, x: Any, dim: Any, keepdim: bool, **_: Any) -> Value:
        shape = t.shape(x)
        if len(shape) != 3 or sorted(axis % 4 for axis in dim or ()) != [2, 3]:
            t.fail("a reduction over axes other than height and width")
        name = t.add(cls, t.name(x), kernel=shape[1:], stride=shape[1:])
        return name if keepdim else t.add(nodes.Flatten, name)

    return translate


def _sum(t: Translator, x: Any, y: Any, factor: float) -> Value:
    """x + factor * y, either of which may be a constant."""
    a, b = t.constant(x), t.constant(y)
    one = np.ones(())
    if b is not None:
        return t.affine(t.name(x), one, b * factor)
    if a is not None:
        return t.affine(t.name(y), one * factor, a)
    if t.shape(x) != t.shape(y):
        t.fail(f"adds activations of shapes {t.shape(x)} and {t.shape(y)}")
    right = t.name(y) if factor == 1 else t.affine(t.name(y), one * factor, np.zeros(()))
    return t.add(nodes.Add, t.name(x), right)


def _mul(t: Translator, x: Any, other: Any) -> Value:
    a, b = t.constant(x), t.constant(other)
    if b is not None:
        return t.affine(t.name(x), b, np.zeros(()))
    if a is not None:
        return t.affine(t.name(other), a, np.zeros(()))
    t.fail("a product of two activations")


def _div(t: Translator, x: Any, other: Any) -> Value:
    return t.affine(t.name(x), 1 / t.fixed(other, "a divisor"), np.zeros(()))


def _neg(t: Translator, x: Any) -> Value:
    return t.affine(t.name(x), -np.ones(()), np.zeros(()))


def _cat(t: Translator, tensors: Any, dim: int) -> Value:
    if dim % (len(t.shape(t.node)) + 1) != 1:
        t.fail("concatenation along another axis than the channels")
    names = [t.name(part) for part in tensors]
    return names[0] if len(names) == 1 else t.add(nodes.Concat, *names)


def _softmax(t: Translator, x: Any, dim: int, **_: Any) -> Value:
    if len(t.shape(x)) != 1 or dim % 2 != 1:
        t.fail("softmax over something other than (batch, classes)")
    return t.add(nodes.Softmax, t.name(x))


def _pad(t: Translator, x: Any, pad: Any, mode: str, value: float | None) -> Value:
    widths = [*pad, *[0] * (4 - len(pad))]
    if mode != "constant" or len(widths) > 4 or min(widths) < 0:
        t.fail("padding other than by a constant around height and width")
    left, right, top, bottom = widths
    return Padded(t.name(x), (top, bottom, left, right), float(value or 0.0))


def _refuse(problem: str) -> Operation:
    def translate(t: Translator, x: Any, **_: Any) -> Value:
        t.fail(problem)

    return translate


OPERATIONS: dict[str, Operation] = {
    "aten.linear.default": _linear,
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    str(operator.getitem): _getitem,
    "aten.relu.default": _relu,
    "aten.prelu.default": _prelu,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.hardtanh.default": _hardtanh,
    "aten.relu6.default": lambda t, x: _hardtanh(t, x, 0, 6),
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": _clamp,
    "aten.ge.Scalar": _compare(negated=False),
    "aten.ge.Tensor": _compare(negated=False),
    "aten.lt.Scalar": _compare(negated=True),
    "aten.lt.Tensor": _compare(negated=True),
    "aten.where.Scalar": _where,
    "aten.where.ScalarSelf": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.self": _where,
    "aten.full_like.default": _full_like,
    "aten.ones_like.default": lambda t, x, **_: _full_like(t, x, 1),
    "aten.zeros_like.default": lambda t, x, **_: _full_like(t, x, 0),
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.adaptive_avg_pool2d.default": _adaptive(nodes.AvgPool2d),
    "aten.adaptive_max_pool2d.default": _adaptive(nodes.MaxPool2d),
    "aten.mean.dim": _over_image(nodes.AvgPool2d),
    "aten.amax.default": _over_image(nodes.MaxPool2d),
    "aten.add.Tensor": lambda t, x, other, alpha: _sum(t, x, other, alpha),
    "aten.sub.Tensor": lambda t, x, other, alpha: _sum(t, x, other, -alpha),
    "aten.rsub.Scalar": lambda t, x, other, alpha: _sum(t, other, x, -alpha),
    "aten.mul.Tensor": _mul,
    "aten.div.Tensor": _div,
    "aten.neg.default": _neg,
    "aten.cat.default": _cat,
    "aten.view.default": _reshape,
    "aten.squeeze.default": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.softmax.int": _softmax,
    "aten.pad.default": _pad,
    "aten.clone.default": _identity,
    "aten.detach.default": _identity,
    "aten._to_copy.default": _identity,
    "aten.native_dropout.default": _refuse(
        "dropout that stays on in eval(); F.dropout takes training=self.training"
    ),
    "aten.sign.default": _refuse("torch.sign gives 0 at 0, which has no bit; use bnn.functional.sign"),
    "aten.gt.Scalar": _refuse("a sign is where(x >= 0, 1, -1), 0 counts as +1; use bnn.functional.sign"),
    "aten._native_batch_norm_legit.no_stats": _refuse("a batch norm without running statistics"),
}

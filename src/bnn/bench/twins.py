"""A packed model as others would run it: with float weights, in PyTorch and in ONNX.

Signs and scales of a layer become one float weight. Inputs are float32, normalised if it is an image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import require
from bnn.export import onnx
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    Node,
    PReLU,
    ReLU,
    Shape,
    Sign,
    Softmax,
    Threshold,
)

__all__ = ["onnx_twin", "torch_twin"]

Array = NDArray[Any]
Pool = MaxPool2d | AvgPool2d


def onnx_twin(model: PackedModel) -> bytes:
    """The model as an ONNX file of float32: "input" with a free batch size, "scores"."""
    (content,) = onnx.make(model, plain=True).files.values()
    return content


Function = Callable[..., Any]


def torch_twin(model: PackedModel, dtype: str = "float32", channels_last: bool = False) -> Function:
    """The model as eager PyTorch, tensor in, tensor out, both of the dtype.

    It calls torch.nn.functional directly: modules would only add to its time.

    Args:
        model: the packed model.
        dtype: "float32", "bfloat16", ...
        channels_last: the memory layout of convolutions' weights; the input's is the caller's.
    """
    layers = _Layers(model, dtype, channels_last)
    steps = [(node.name, node.inputs, TORCH[type(node)](layers, node)) for node in model.nodes]

    def run(x: Any) -> Any:
        values = {INPUT: x}
        for name, inputs, step in steps:
            values[name] = step(*[values[source] for source in inputs])
        return values[name]

    return run


class _Layers:
    """What makes a step of a node: torch, and how its tensors are to be."""

    def __init__(self, model: PackedModel, dtype: str, channels_last: bool) -> None:
        self.torch: Any = require("torch", "train")
        self.f = self.torch.nn.functional
        self.model, self.dtype, self.channels_last = model, getattr(self.torch, dtype), channels_last

    def input_shape(self, node: Node) -> Shape:
        return self.model.shapes[node.inputs[0]]

    def tensor(self, values: Any) -> Any:
        return self.torch.tensor(values).to(self.dtype)

    def per_channel(self, values: Array, node: Node) -> Any:
        return self.tensor(values.reshape(-1, *[1] * (len(self.input_shape(node)) - 1)))

    def padding(self, node: Conv2d | Pool, value: float) -> tuple[Function, tuple[int, int]]:
        """A function that pads, and what is left to the operation itself: both sides alike, and no ±1."""
        top, bottom, left, right = node.padding
        own = (
            value == 0
            if isinstance(node, Conv2d)
            else 2 * top <= node.kernel[0] and 2 * left <= node.kernel[1]
        )
        if top == bottom and left == right and (own or not any(node.padding)):
            return lambda x: x, (top, left)
        return lambda x: self.f.pad(x, (left, right, top, bottom), value=value), (0, 0)

    def linear(self, node: Linear) -> Function:
        weight, bias = node.dense()
        w, b = self.tensor(weight), None if bias is None else self.tensor(bias)
        return lambda x: self.f.linear(x, w, b)

    def conv(self, node: Conv2d) -> Function:
        weight, bias = node.dense()
        w, b = self.tensor(weight), None if bias is None else self.tensor(bias)
        if self.channels_last:
            w = w.contiguous(memory_format=self.torch.channels_last)
        pad, padding = self.padding(node, node.pad_value)
        return lambda x: self.f.conv2d(pad(x), w, b, node.stride, padding, node.dilation, node.groups)

    def affine(self, node: Affine) -> Function:
        scale, shift = self.per_channel(node.scale, node), self.per_channel(node.shift, node)
        return lambda x: self.torch.addcmul(shift, x, scale)

    def sign(self, node: Sign) -> Function:
        plus, minus = self.tensor(1.0), self.tensor(-1.0)
        return lambda x: self.torch.where(x >= 0, plus, minus)

    def threshold(self, node: Threshold) -> Function:
        least, above = self.per_channel(node.threshold, node), self.per_channel(1.0 - 2 * node.flip, node)
        below = -above
        return lambda x: self.torch.where(x >= least, above, below)

    def relu(self, node: ReLU) -> Function:
        return lambda x: self.f.relu(x)

    def prelu(self, node: PReLU) -> Function:
        slope = self.tensor(node.slope)
        return lambda x: self.f.prelu(x, slope)

    def hardtanh(self, node: Hardtanh) -> Function:
        return lambda x: self.f.hardtanh(x, node.low, node.high)

    def max_pool(self, node: MaxPool2d) -> Function:
        pad, padding = self.padding(node, -np.inf)
        return lambda x: self.f.max_pool2d(pad(x), node.kernel, node.stride, padding)

    def avg_pool(self, node: AvgPool2d) -> Function:
        pad, padding = self.padding(node, 0.0)

        def mean(x: Any) -> Any:
            return self.f.avg_pool2d(pad(x), node.kernel, node.stride, padding, False, node.count_padding)

        if node.count_padding or any(padding) or not any(node.padding):
            return mean
        # Padded beforehand, the padding counts as well.
        inside = mean(self.tensor(np.ones((1, *self.input_shape(node)))))
        return lambda x: mean(x) / inside

    def add(self, node: Add) -> Function:
        return lambda *x: sum(x[1:], start=x[0])

    def concat(self, node: Concat) -> Function:
        return lambda *x: self.torch.cat(x, dim=1)

    def flatten(self, node: Flatten) -> Function:
        return lambda x: x.flatten(1)

    def softmax(self, node: Softmax) -> Function:
        return lambda x: self.f.softmax(x, dim=1)


TORCH: dict[type[Node], Callable[[_Layers, Any], Function]] = {
    Linear: _Layers.linear,
    Conv2d: _Layers.conv,
    Affine: _Layers.affine,
    Threshold: _Layers.threshold,
    Sign: _Layers.sign,
    ReLU: _Layers.relu,
    PReLU: _Layers.prelu,
    Hardtanh: _Layers.hardtanh,
    MaxPool2d: _Layers.max_pool,
    AvgPool2d: _Layers.avg_pool,
    Add: _Layers.add,
    Concat: _Layers.concat,
    Flatten: _Layers.flatten,
    Softmax: _Layers.softmax,
}

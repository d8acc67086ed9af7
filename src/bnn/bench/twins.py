"""A packed model as others would run it: with float weights, in PyTorch and in ONNX.

Signs and scales of a layer become one float weight. Inputs are float32, normalised if it is an image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import require
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
    PackedWeight,
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


def _weight_and_bias(node: Linear | Conv2d) -> tuple[Array, Array | None]:
    weight = node.weight.signs() if isinstance(node.weight, PackedWeight) else node.weight
    if node.scale is None:
        return weight, None
    return weight * node.scale.reshape(-1, *[1] * (weight.ndim - 1)), node.shift


def _one_per_channel(values: Array, shape: Shape) -> Array:
    """Shaped to broadcast over a value of that shape, with or without the batch axis."""
    return values.reshape(-1, *[1] * (len(shape) - 1))


# --- PyTorch ----------------------------------------------------------------------------------------------

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
        return self.tensor(_one_per_channel(values, self.input_shape(node)))

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
        weight, bias = _weight_and_bias(node)
        w, b = self.tensor(weight), None if bias is None else self.tensor(bias)
        return lambda x: self.f.linear(x, w, b)

    def conv(self, node: Conv2d) -> Function:
        weight, bias = _weight_and_bias(node)
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


# --- ONNX -------------------------------------------------------------------------------------------------


def onnx_twin(model: PackedModel) -> Any:
    """The model as an onnx.ModelProto of float32: "input" with a free batch size, "output"."""
    graph = _Graph(model)
    for node in model.nodes:
        ONNX[type(node)](graph, node)
    return graph.proto()


class _Graph:
    """Collects ONNX nodes and constants; values keep their names, with a letter before them.

    A name in the model may be any, "output" or that of a constant as well.
    """

    def __init__(self, model: PackedModel) -> None:
        self.onnx: Any = require("onnx", "bench")
        self.helper: Any = require("onnx.helper", "bench")
        self.model = model
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """The name of a new constant."""
        name = f"constant {len(self.constants)}"
        array = np.ascontiguousarray(values, dtype=dtype).reshape(np.shape(values))
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def per_channel(self, values: Array, node: Node) -> str:
        return self.constant(_one_per_channel(values, self.model.shapes[node.inputs[0]]))

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self.helper.make_node(op, inputs, [output], **attributes))
        return output

    def value(self, name: str) -> str:
        return INPUT if name == INPUT else f"value {name}"

    def emit(self, node: Node, op: str, *constants: str, **attributes: Any) -> None:
        """The node as one operation on its inputs, and constants."""
        inputs = [self.value(name) for name in node.inputs]
        self.add(op, [*inputs, *constants], self.value(node.name), **attributes)

    def proto(self) -> Any:
        def info(name: str, shape: Shape) -> Any:
            kind = self.onnx.TensorProto.FLOAT
            return self.helper.make_tensor_value_info(name, kind, ["batch", *shape])

        output = self.model.output.name
        self.add("Identity", [self.value(output)], "output")
        graph = self.helper.make_graph(
            self.nodes,
            "twin",
            [info(INPUT, self.model.input.shape)],
            [info("output", self.model.shapes[output])],
            self.constants,
        )
        # Versions that every onnxruntime of the last years reads, whatever this onnx is at.
        return self.helper.make_model(
            graph, opset_imports=[self.helper.make_opsetid("", 17)], ir_version=8, producer_name="bnn"
        )

    def linear(self, node: Linear) -> None:
        weight, bias = _weight_and_bias(node)
        constants = [weight] if bias is None else [weight, bias]
        self.emit(node, "Gemm", *map(self.constant, constants), transB=1)

    def conv(self, node: Conv2d) -> None:
        weight, bias = _weight_and_bias(node)
        source, pads = self.value(node.inputs[0]), _pads(node)
        if node.pad_value != 0 and any(pads):
            around = self.constant([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
            value = self.constant(node.pad_value)
            source, pads = self.add("Pad", [source, around, value], f"padded {node.name}"), [0] * 4
        constants = [weight] if bias is None else [weight, bias]
        self.add(
            "Conv",
            [source, *map(self.constant, constants)],
            self.value(node.name),
            pads=pads,
            strides=node.stride,
            dilations=node.dilation,
            group=node.groups,
        )

    def affine(self, node: Affine) -> None:
        source, scaled = self.value(node.inputs[0]), f"scaled {node.name}"
        self.add("Mul", [source, self.per_channel(node.scale, node)], scaled)
        self.add("Add", [scaled, self.per_channel(node.shift, node)], self.value(node.name))

    def compare(self, node: Node, least: str, above: str, below: str) -> None:
        at_least = self.add("GreaterOrEqual", [self.value(node.inputs[0]), least], f"at least {node.name}")
        self.add("Where", [at_least, above, below], self.value(node.name))

    def sign(self, node: Sign) -> None:
        self.compare(node, *(self.constant(value) for value in (0, 1, -1)))

    def threshold(self, node: Threshold) -> None:
        above = 1.0 - 2 * node.flip
        self.compare(node, *(self.per_channel(values, node) for values in (node.threshold, above, -above)))

    def relu(self, node: ReLU) -> None:
        self.emit(node, "Relu")

    def prelu(self, node: PReLU) -> None:
        self.emit(node, "PRelu", self.per_channel(node.slope, node))

    def hardtanh(self, node: Hardtanh) -> None:
        self.emit(node, "Clip", self.constant(node.low), self.constant(node.high))

    def max_pool(self, node: MaxPool2d) -> None:
        self.emit(node, "MaxPool", kernel_shape=node.kernel, strides=node.stride, pads=_pads(node))

    def avg_pool(self, node: AvgPool2d) -> None:
        self.emit(
            node,
            "AveragePool",
            kernel_shape=node.kernel,
            strides=node.stride,
            pads=_pads(node),
            count_include_pad=int(node.count_padding),
        )

    def sum(self, node: Add) -> None:
        self.emit(node, "Sum")

    def concat(self, node: Concat) -> None:
        self.emit(node, "Concat", axis=1)

    def flatten(self, node: Flatten) -> None:
        self.emit(node, "Flatten")

    def softmax(self, node: Softmax) -> None:
        self.emit(node, "Softmax", axis=1)


def _pads(node: Conv2d | Pool) -> list[int]:
    """In the order of ONNX: where each axis begins, then where each ends."""
    top, bottom, left, right = node.padding
    return [top, left, bottom, right]


ONNX: dict[type[Node], Callable[[_Graph, Any], None]] = {
    Linear: _Graph.linear,
    Conv2d: _Graph.conv,
    Affine: _Graph.affine,
    Threshold: _Graph.threshold,
    Sign: _Graph.sign,
    ReLU: _Graph.relu,
    PReLU: _Graph.prelu,
    Hardtanh: _Graph.hardtanh,
    MaxPool2d: _Graph.max_pool,
    AvgPool2d: _Graph.avg_pool,
    Add: _Graph.sum,
    Concat: _Graph.concat,
    Flatten: _Graph.flatten,
    Softmax: _Graph.softmax,
}

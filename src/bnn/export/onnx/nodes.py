"""What each node of a packed model becomes in ONNX."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.onnx.graph import DOUBLE, FLOAT, PIXEL, Value
from bnn.export.onnx.products import product
from bnn.export.onnx.writer import Writer, bounded
from bnn.export.target import ExportError
from bnn.packed.nodes import (
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
    Sign,
    Softmax,
    Threshold,
)

__all__ = ["OPERATIONS", "write"]

Array = NDArray[Any]
Pool = MaxPool2d | AvgPool2d


def write(w: Writer, node: Node) -> None:
    """Writes a node whose inputs are written.

    Raises:
        ExportError: it is of no known type.
    """
    if type(node) not in OPERATIONS:
        raise ExportError(f"node {node.name!r}: there is no ONNX for a {type(node).__name__}")
    w.values[node.name] = OPERATIONS[type(node)](w, node)


def _input(w: Writer, node: Node) -> Value:
    return w.floats(node.inputs[0])


# --- signs ------------------------------------------------------------------------------------------------


def _sign(w: Writer, node: Sign) -> Value:
    x = _input(w, node)
    zero, above, below = w.graph.number(0, x.dtype), w.graph.number(1, FLOAT), w.graph.number(-1, FLOAT)
    return _where_at_least(w, node, x, zero, above, below)


def _threshold(w: Writer, node: Threshold) -> Value:
    x, shape = _input(w, node), w.shape(node)
    least = node.threshold.astype(x.dtype)  # if that rounds, then where no sum of float32 gets to
    above = np.where(node.flip, -1, 1).astype(FLOAT)
    constants = {"threshold": least, "above": above, "below": -above}
    names = (w.per_channel(values, shape, f"{node.name}.{what}") for what, values in constants.items())
    return _where_at_least(w, node, x, *names)


def _where_at_least(w: Writer, node: Node, x: Value, least: str, above: str, below: str) -> Value:
    at_least = w.graph.add("GreaterOrEqual", x.name, least, out=f"{node.name}/at_least")
    return Value(w.graph.add("Where", at_least, above, below, out=node.name), FLOAT)


# --- value by value ---------------------------------------------------------------------------------------


def _affine(w: Writer, node: Affine) -> Value:
    x, dtype = _input(w, node), FLOAT if w.plain else node.scale.dtype
    x = w.graph.cast(x, np.result_type(x.dtype, dtype))
    return w.graph.cast(w.affine(x, node.scale, node.shift, w.shape(node), node.name), dtype)


def _relu(w: Writer, node: ReLU) -> Value:
    return w.apply("Relu", _input(w, node), out=node.name)


def _prelu(w: Writer, node: PReLU) -> Value:
    x = _input(w, node)
    slope = w.per_channel(node.slope.astype(x.dtype), w.shape(node), f"{node.name}.slope")
    return w.apply("PRelu", x, slope, out=node.name)


def _hardtanh(w: Writer, node: Hardtanh) -> Value:
    x = _input(w, node)
    low, high = (w.graph.number(limit, x.dtype) for limit in (node.low, node.high))
    if x.dtype == FLOAT:
        return w.apply("Clip", x, low, high, out=node.name)
    # ONNX Runtime merges a Clip with the Relu before it, and refuses the file if that is of float64.
    return w.apply("Min", w.apply("Max", x, low, out=f"{node.name}/at_least"), high, out=node.name)


def _softmax(w: Writer, node: Softmax) -> Value:
    return w.apply("Softmax", _input(w, node), out=node.name, axis=1)


# --- pooling ----------------------------------------------------------------------------------------------


def _max_pool(w: Writer, node: MaxPool2d) -> Value:
    return w.apply("MaxPool", _input(w, node), out=node.name, **_window(node))


def _avg_pool(w: Writer, node: AvgPool2d) -> Value:
    x, name = _input(w, node), node.name
    if x.dtype == FLOAT:
        return w.apply("AveragePool", x, out=name, count_include_pad=int(node.count_padding), **_window(node))
    # ONNX Runtime has none of float64.
    padded, places = w.padded(x, node.padding, 0, name), w.model.shapes[name][1:]
    total = w.sum(w.taps(padded, node.kernel, stride=node.stride, places=places, name=name), name)
    rows, columns = (_counted(node, axis, w.shape(node)[1 + axis], places[axis]) for axis in (0, 1))
    counts = w.graph.constant(rows[:, None] * columns.astype(DOUBLE), f"{name}.counts")
    return w.apply("Div", total, counts, out=name)


def _counted(node: AvgPool2d, axis: int, size: int, places: int) -> Array:
    """Over how many values each window's mean is, along one axis: (places,), or (1,) if they never differ."""
    kernel, stride, before = node.kernel[axis], node.stride[axis], node.padding[2 * axis]
    if node.count_padding:
        return np.array([kernel])
    at = np.arange(places)[:, None] * stride - before + np.arange(kernel)
    return ((at >= 0) & (at < size)).sum(axis=1)


def _window(node: Pool) -> dict[str, Any]:
    top, bottom, left, right = node.padding
    return {
        "kernel_shape": node.kernel,
        "strides": bounded(node.stride),
        "pads": [top, left, bottom, right],
    }


# --- several values ---------------------------------------------------------------------------------------


def _add(w: Writer, node: Add) -> Value:
    """The sum from left to right, in float32 until a float64 comes."""
    total, *others = [w.floats(name) for name in node.inputs]
    for other in others:
        a, b = w.alike([total, other])
        total = w.apply("Add", a, b.name, out=node.name)
    return total


def _concat(w: Writer, node: Concat) -> Value:
    first, *others = w.alike(w.floats(name) for name in node.inputs)
    return w.apply("Concat", first, *(other.name for other in others), out=node.name, axis=1)


def _flatten(w: Writer, node: Flatten) -> Value:
    x = w.values[node.inputs[0]]
    flat = w.graph.add("Flatten", x.name, out=node.name)
    return Value(flat, x.dtype, image=(x.image or x) if x.dtype == PIXEL else None)


OPERATIONS: dict[type[Node], Callable[[Writer, Any], Value]] = {
    Linear: product,
    Conv2d: product,
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

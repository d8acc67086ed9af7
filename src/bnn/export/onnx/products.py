"""Fully connected layers and convolutions in ONNX.

Products of ±1 with ±1, and of ±1 with raw pixels, are exact: in float32, whose integers reach to 2^24, or in
float64 where sums could be larger. The convolution of ONNX Runtime has no float64: where one is needed, of
floats that only a sign is taken of, it is a sum of matrix products, one for each tap of the kernel.
"""

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.onnx.graph import DOUBLE, FLOAT, Value
from bnn.export.onnx.writer import Writer, bounded
from bnn.packed.nodes import Conv2d, Linear
from bnn.runtime import reference
from bnn.runtime.program import Border
from bnn.runtime.weights import constants

__all__ = ["product"]

Array = NDArray[Any]
Product = Linear | Conv2d
EXACT = 2**24  # every integer up to here is a float32


def product(w: Writer, node: Product) -> Value:
    """scale * (weight · x) + shift."""
    source = w.values[node.inputs[0]]
    if w.plain:
        return _float_product(w, node, source)
    if source.dtype == np.uint8 and node.is_packed:
        return _product_of_pixels(w, node, source)
    dtype, x = reference.dtype_of(node), w.floats(node.inputs[0])
    exact = _is_exact(w, node) and prod(node.weight.shape[1:]) <= EXACT
    weight = w.graph.weight(node.weight, f"{node.name}.weight", FLOAT if exact else dtype)
    y = w.graph.cast(_sums(w, node, weight, x, node.pad_value if isinstance(node, Conv2d) else 0), dtype)
    if node.scale is None or node.shift is None:
        return y
    return w.affine(y, node.scale, node.shift, w.model.shapes[node.name], node.name)


def _float_product(w: Writer, node: Product, x: Value) -> Value:
    """One operation on floats, its weight and its bias."""
    values = zip(node.dense(), ("weight", "bias"), strict=True)
    weight, *bias = (w.graph.constant(a, f"{node.name}.{what}") for a, what in values if a is not None)
    pad_value = node.pad_value if isinstance(node, Conv2d) else 0
    return _sums(w, node, Value(weight, FLOAT), x, pad_value, *bias)


def _is_exact(w: Writer, node: Product) -> bool:
    """Whether its sums are of ±1 and 0."""
    padded = isinstance(node, Conv2d) and any(node.padding) and node.pad_value not in (-1, 0, 1)
    return node.is_packed and w.model.kinds[node.inputs[0]] == "sign" and not padded


# --- sums -------------------------------------------------------------------------------------------------


def _sums(w: Writer, node: Product, weight: Value, x: Value, pad_value: float, *bias: str) -> Value:
    """weight · x in the weight's dtype; plus the bias, in float32."""
    x, name = w.graph.cast(x, weight.dtype), node.name
    if isinstance(node, Linear):
        return w.apply("Gemm", x, weight.name, *bias, out=f"{name}/sums", transB=1)
    if weight.dtype != FLOAT:
        return _conv_by_taps(w, node, weight, w.padded(x, node.padding, pad_value, name))
    top, bottom, left, right = node.padding
    pads = [top, left, bottom, right]
    if pad_value != 0:
        x, pads = w.padded(x, node.padding, pad_value, name), [0, 0, 0, 0]
    return w.apply(
        "Conv",
        x,
        weight.name,
        *bias,
        out=f"{name}/sums",
        kernel_shape=node.weight.shape[2:],
        pads=pads,
        strides=bounded(node.stride),
        dilations=bounded(node.dilation),
        group=node.groups,
    )


def _conv_by_taps(w: Writer, node: Conv2d, weight: Value, x: Value) -> Value:
    """The convolution of a padded image, a sum over taps of (groups, out, in) @ (groups, in, batch * places).

    The batch is among the columns because ONNX Runtime has no product with an empty batch of matrices.
    """
    graph, name = w.graph, node.name
    out, per_group, *kernel = node.weight.shape
    places = w.model.shapes[name][1:]
    batch_second = [1, 0, 2, 3]
    x = w.apply("Transpose", x, out=f"{name}/by_channel", perm=batch_second)
    matrices = w.apply("Transpose", weight, out=f"{name}.weight/by_tap", perm=[2, 3, 0, 1])
    by_tap = graph.integers(prod(kernel), node.groups, out // node.groups, per_group)
    matrices = w.apply("Reshape", matrices, by_tap, out=f"{name}.weight/by_tap")
    columns = graph.integers(node.groups, per_group, -1)  # -1: as many as there are

    def terms() -> Iterator[Value]:
        taps = w.taps(x, kernel, stride=node.stride, dilation=node.dilation, places=places, name=name)
        for tap, seen in enumerate(taps):
            index = graph.number(tap, np.int64)
            matrix = w.apply("Gather", matrices, index, out=f"{name}.weight/tap", axis=0)
            seen = w.apply("Reshape", seen, columns, out=f"{name}/columns")
            yield w.apply("MatMul", matrix, seen.name, out=f"{name}/product")

    sums = w.apply("Reshape", w.sum(terms(), name), graph.integers(out, -1, *places), out=f"{name}/places")
    return w.apply("Transpose", sums, out=f"{name}/sums", perm=batch_second)


# --- raw pixels -------------------------------------------------------------------------------------------


def _product_of_pixels(w: Writer, node: Product, source: Value) -> Value:
    """The product of raw pixels, from exact sums for each deviation, as in `reference._product_of_pixels`:

    scale * (sum over deviations of (weight · pixels) / (255 deviation) + what black pixels give) + shift
    """
    graph, name, shape = w.graph, node.name, w.model.shapes[node.name]
    dtype = reference.dtype_of(node)
    border = constants(node, w.shape(node), w.model.input)
    of_deviation = list(_sums_of_pixels(w, node, source))
    if DOUBLE in (dtype, w.of_pixels):
        black = _everywhere(w, border, border.values, DOUBLE, f"{name}.black")
        total = Value(black, DOUBLE)
        for deviation, sums in of_deviation:
            pixels = graph.cast(sums, DOUBLE)
            part = w.apply("Div", pixels, graph.number(255 * deviation, DOUBLE), out=f"{name}/part")
            total = w.apply("Add", part, total.name, out=f"{name}/total")
        if node.scale is not None and node.shift is not None:
            total = w.affine(total, node.scale, node.shift, shape, name)
        return graph.cast(total, dtype)
    # No sign is taken of this: scales and constants may be merged.
    scale = np.ones(1) if node.scale is None else node.scale.astype(np.float64)
    shift = np.zeros(1) if node.shift is None else node.shift.astype(np.float64)
    parts = []
    for deviation, sums in of_deviation:
        factor = w.per_channel((scale / (255 * deviation)).astype(FLOAT), shape, f"{name}.scale")
        parts.append(Value(graph.add("Mul", factor, graph.cast(sums, FLOAT).name, out=f"{name}/part"), FLOAT))
    black = _everywhere(w, border, scale * border.values + shift, FLOAT, f"{name}.shift")
    return w.apply("Add", w.sum(parts, name), black, out=f"{name}/shifted")


def _sums_of_pixels(w: Writer, node: Product, source: Value) -> Iterator[tuple[float, Value]]:
    """Each deviation, and weight · (pixels of it, 0 for all others), padded with 0; integers."""
    contract, name = w.model.input, node.name
    dtype = FLOAT if 255 * prod(node.weight.shape[1:]) <= EXACT else DOUBLE
    weight = w.graph.weight(node.weight, f"{name}.weight", dtype)
    deviations = np.unique(contract.std)
    if len(deviations) == 1:
        yield float(deviations[0]), _sums(w, node, weight, source, 0)
        return
    image = w.graph.cast(source.image or source, dtype)
    for deviation in deviations:
        mask = (np.array(contract.std) == deviation).astype(dtype)
        constant = w.per_channel(mask, contract.shape, f"{name}.channels")
        x = w.apply("Mul", image, constant, out=f"{name}/channels")
        if source.image:
            x = w.apply("Flatten", x, out=f"{name}/flat")
        yield float(deviation), _sums(w, node, weight, x, 0)


def _everywhere(w: Writer, border: Border, values: Array, dtype: np.dtype[Any], name: str) -> str:
    """A constant for each output and place, stored once for all places whose windows are cut off alike.

    values: as `border.values`, (out,) or (classes of rows, classes of columns, out).
    """
    if border.row is None or border.column is None:
        return w.graph.constant(values.astype(dtype), name)
    place = w.graph.constant(values.transpose(2, 0, 1).astype(dtype), name)
    for axis, classes in ((1, border.row), (2, border.column)):
        if values.shape[axis - 1] > 1:
            place = w.graph.add(
                "Gather", place, w.graph.integers(*classes.tolist()), out=f"{name}/places", axis=axis
            )
    return place

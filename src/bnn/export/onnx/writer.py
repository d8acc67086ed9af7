"""The values of a model as they are written to ONNX, and what several of its nodes need.

Every value is computed as `runtime/reference.py` computes it, operation by operation and in its dtype. So
integers, and all that is computed from them value by value, are the runtime's to the bit; sums of floats
differ by rounding.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.onnx.graph import DOUBLE, FLOAT, PIXEL, Graph, Value
from bnn.packed.model import PackedModel
from bnn.packed.nodes import INPUT, MAX_ELEMENTS, Node, Padding, Pair, Shape, Sign

__all__ = ["PIXELS", "SCORES", "Writer", "bounded"]

Array = NDArray[Any]
PIXELS, SCORES = "pixels", "scores"


class Writer:
    """What was written of a model so far.

    Attributes:
        graph: operations and constants.
        given: the input, raw pixels if the model knows them.
        values: what became of each value of the model, by its name there.
        of_pixels: dtype of normalised pixels.
        plain: the file is to be what others write of a float network.
    """

    def __init__(self, model: PackedModel, unpacked: bool, plain: bool) -> None:
        self.model, self.plain = model, plain
        self.given = Value(PIXELS, PIXEL) if model.input.mean and not plain else Value(INPUT, FLOAT)
        self.values = {INPUT: self.given}
        self.graph = Graph(unpacked, self.given.name, SCORES)
        self.normalised: dict[str, Value] = {}
        # Only a sign makes anything of the last bits. Without one float32 will do, which more devices have.
        self.of_pixels = DOUBLE if any(isinstance(node, Sign) for node in model.nodes) else FLOAT

    # --- values -------------------------------------------------------------------------------------------

    def shape(self, node: Node) -> Shape:
        """The shape of the node's first input."""
        return self.model.shapes[node.inputs[0]]

    def floats(self, name: str) -> Value:
        """A value of the model; raw pixels are normalised."""
        x = self.values[name]
        return self.normalise(x) if x.dtype == PIXEL else x

    def normalise(self, x: Value) -> Value:
        """(pixels / 255 - mean) / std."""
        if x.name not in self.normalised:
            name = f"{x.name}/normalised"
            if x.image:
                y = self.apply("Flatten", self.normalise(x.image), out=name)
            else:
                contract = self.model.input
                y = self.graph.cast(x, self.of_pixels)
                y = self.apply("Div", y, self.graph.number(255, y.dtype), out=name)
                for op, what in (("Sub", "mean"), ("Div", "std")):
                    values = np.array(getattr(contract, what), dtype=y.dtype)
                    y = self.apply(op, y, self.per_channel(values, contract.shape, what), out=name)
            self.normalised[x.name] = y
        return self.normalised[x.name]

    def apply(self, op: str, x: Value, *others: str, out: str, **attributes: Any) -> Value:
        """An operation whose result has the dtype of its first input."""
        return Value(self.graph.add(op, x.name, *others, out=out, **attributes), x.dtype)

    def alike(self, values: Iterable[Value]) -> list[Value]:
        """The values in the widest of their dtypes."""
        values = list(values)
        widest = np.result_type(*(value.dtype for value in values))
        return [self.graph.cast(value, widest) for value in values]

    # --- channels -----------------------------------------------------------------------------------------

    def per_channel(self, values: Array, shape: Shape, name: str) -> str:
        """A constant that broadcasts over values of that shape, with a batch axis before."""
        return self.graph.constant(values.reshape(-1, *[1] * (len(shape) - 1)), name)

    def affine(self, x: Value, scale: Array, shift: Array, shape: Shape, name: str) -> Value:
        """scale * x + shift for each channel, in x's dtype, rounded after each of the two."""
        if (scale != 1).any():
            factor = self.per_channel(scale.astype(x.dtype), shape, f"{name}.scale")
            # The constant comes first: one that comes second, ONNX Runtime merges into the weights of a
            # convolution before it, which then are rounded, and its sums no integers any more.
            operands = (x.name, factor) if self.plain else (factor, x.name)
            x = Value(self.graph.add("Mul", *operands, out=f"{name}/scaled"), x.dtype)
        if shift.any():
            offset = self.per_channel(shift.astype(x.dtype), shape, f"{name}.shift")
            x = self.apply("Add", x, offset, out=f"{name}/shifted")
        return x

    # --- windows ------------------------------------------------------------------------------------------

    def padded(self, x: Value, padding: Padding, value: float, name: str) -> Value:
        """With rows and columns around each image."""
        if not any(padding):
            return x
        top, bottom, left, right = padding
        around = self.graph.integers(0, 0, top, left, 0, 0, bottom, right)
        return self.apply("Pad", x, around, self.graph.number(value, x.dtype), out=f"{name}/padded")

    def taps(
        self,
        x: Value,
        kernel: Sequence[int],
        *,
        stride: Pair,
        dilation: Pair = (1, 1),
        places: Sequence[int],
        name: str,
    ) -> Iterator[Value]:
        """What each tap of the kernel sees of a padded image: (batch, channels, *places)."""
        step = self.graph.integers(*bounded(stride))
        for row in range(kernel[0]):
            for column in range(kernel[1]):
                first = (row * dilation[0], column * dilation[1])
                end = [at + (n - 1) * s + 1 for at, n, s in zip(first, places, stride, strict=True)]
                window = (self.graph.integers(*values) for values in (first, end, (2, 3)))
                yield self.apply("Slice", x, *window, step, out=f"{name}/tap")

    def sum(self, terms: Iterable[Value], name: str) -> Value:
        """The sum of the terms, from left to right."""
        return reduce(lambda a, b: self.apply("Add", a, b.name, out=f"{name}/sum"), terms)


def bounded(steps: Pair) -> list[int]:
    """Strides or dilations that fit 32 bits: beyond any image, larger ones change nothing."""
    return [min(step, MAX_ELEMENTS) for step in steps]

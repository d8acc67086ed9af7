"""An ONNX graph under construction: operations, constants, and one-bit weights that it unpacks itself.

A value of the graph is its name and its dtype. Weights of ±1 are stored as bytes, eight of them in one, and
become floats by operations of the standard, all of whose inputs are constants: whoever loads the file
computes them once and keeps the result (ONNX Runtime calls it constant folding).

    bytes (rows, n / 8, 1)  -> BitShift by 0 ... 7 -> Mod 2 -> (rows, n) -> 1 - 2 * bit -> the weight's shape
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bnn.errors import printable, require
from bnn.packed.nodes import PackedWeight, Shape

__all__ = ["DOUBLE", "FLOAT", "OPSET", "PIXEL", "Graph", "Value"]

Array = NDArray[Any]
Tensor = tuple[str, np.dtype[Any], Shape]
"""Name, dtype, and shape of one sample."""

PIXEL, FLOAT, DOUBLE = (np.dtype(name) for name in ("uint8", "float32", "float64"))

OPSET = 17  # BitShift is of 11, GreaterOrEqual and PRelu as used here of 16: nothing newer is needed
IR_VERSION = 8  # the one that came with opset 17


@dataclass(frozen=True)
class Value:
    """A value of the graph.

    Attributes:
        name: unique in the graph.
        dtype: uint8 of raw pixels; float32 or float64 of all that is computed from them.
        image: of raw pixels that were flattened, what they were.
    """

    name: str
    dtype: np.dtype[Any]
    image: "Value | None" = None


class Graph:
    """Collects operations and constants; `proto` makes them a model.

    Args:
        unpacked: store weights of ±1 as float32.
        reserved: names that nothing else may have.
    """

    def __init__(self, unpacked: bool, *reserved: str) -> None:
        self.onnx: Any = require("onnx", "export")
        self.helper: Any = require("onnx.helper", "export")
        self.unpacked = unpacked
        self.names = set(reserved)
        self.given = Counter[str]()  # of a name that was taken: thousands of nodes may be named alike
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.packed: dict[str, Shape] = {}  # of each packed weight, by its initializer's name
        self.uses_double = False
        self.shared: dict[str, str] = {}

    def free(self, name: str) -> str:
        """The name, printable, with a number if something else has it; it is taken then."""
        free = name = printable(name)
        while free in self.names:
            self.given[name] += 1
            free = f"{name}_{self.given[name] + 1}"
        self.names.add(free)
        return free

    def type_of(self, dtype: np.dtype[Any]) -> int:
        """The number that ONNX has for a dtype."""
        number: int = self.helper.np_dtype_to_tensor_dtype(dtype)
        return number

    # --- constants ----------------------------------------------------------------------------------------

    def constant(self, values: Array, name: str) -> str:
        """A constant of its own; the name it got."""
        name = self.free(name)
        array = np.ascontiguousarray(values).reshape(values.shape)  # which a scalar would lose
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def number(self, value: ArrayLike, dtype: Any) -> str:
        """A number, or a list of a few, that is stored once for all who need it."""
        array = np.array(value, dtype)
        name = f"{array.dtype} {array.tolist()}"
        if name not in self.shared:
            self.shared[name] = self.constant(array, name)
        return self.shared[name]

    def integers(self, *values: int) -> str:
        """A list of int64, as which ONNX takes shapes and axes."""
        return self.number(values, np.int64)

    def weight(self, weight: PackedWeight | Array, name: str, dtype: np.dtype[Any]) -> Value:
        """A weight in its own shape."""
        if isinstance(weight, PackedWeight) and not self.unpacked:
            return self._unpack(weight, name, dtype)
        dense = weight.signs() if isinstance(weight, PackedWeight) else weight
        return self.cast(Value(self.constant(dense.astype(FLOAT), name), FLOAT), dtype)

    def _unpack(self, weight: PackedWeight, name: str, dtype: np.dtype[Any]) -> Value:
        rows, n = weight.shape[0], weight.n
        row_bytes = -(-n // 8)
        content = weight.words.astype("<u8").view(np.uint8)[:, :row_bytes]
        bits = self.constant(content[:, :, None], name)
        self.packed[bits] = weight.shape
        shifts = self.number(range(8), np.uint8)
        shifted = self.add("BitShift", bits, shifts, out=f"{name}/shifted", direction="RIGHT")
        x = self.add("Mod", shifted, self.number(2, np.uint8), out=f"{name}/bits")
        if n % 8:
            x = self.add("Reshape", x, self.integers(rows, 8 * row_bytes), out=f"{name}/rows")
            begin, end, axis = (self.integers(value) for value in (0, n, 1))
            x = self.add("Slice", x, begin, end, axis, out=f"{name}/cut")
        x = self.add("Reshape", x, self.integers(*weight.shape), out=f"{name}/shaped")
        x = self.add("Cast", x, out=f"{name}/floats", to=self.type_of(dtype))
        x = self.add("Mul", x, self.number(-2, dtype), out=f"{name}/doubled")
        return Value(self.add("Add", x, self.number(1, dtype), out=f"{name}/signs"), dtype)

    # --- operations ---------------------------------------------------------------------------------------

    def add(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        """An operation; the name that its output got, which is `out` or like it."""
        output = self.free(out)
        self.nodes.append(self.helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def cast(self, x: Value, dtype: np.dtype[Any], name: str = "") -> Value:
        """The value in a dtype: itself, if it is of it."""
        if x.dtype == dtype:
            return x
        self.uses_double |= dtype == DOUBLE
        name = name or f"{x.name}/{dtype}"
        return Value(self.add("Cast", x.name, out=name, to=self.type_of(dtype)), dtype)

    # --- the whole ----------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Bytes of all constants."""
        return sum(len(tensor.raw_data) for tensor in self.initializers)

    def result(self, x: Value, name: str, cast: bool = True) -> None:
        """Gives a value the reserved name of the output, in float32; `cast`: by a Cast in any case."""
        op, to = ("Cast", {"to": self.type_of(FLOAT)}) if cast else ("Identity", {})
        self.nodes.append(self.helper.make_node(op, [x.name], [name], name=name, **to))

    def proto(self, given: Tensor, result: Tensor, properties: Mapping[str, str]) -> Any:
        """The model, from its input and its output; the batch size is free."""

        def info(name: str, dtype: np.dtype[Any], shape: Shape) -> Any:
            return self.helper.make_tensor_value_info(name, self.type_of(dtype), ["batch", *shape])

        graph = self.helper.make_graph(self.nodes, "bnn", [info(*given)], [info(*result)], self.initializers)
        model = self.helper.make_model(
            graph,
            opset_imports=[self.helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="binaryconnect",
        )
        self.helper.set_model_props(model, dict(sorted(properties.items())))
        return model

"""A program as tables of constants: the engine's nodes and values, and the arrays that they name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.c.device import uses_finish
from bnn.export.c.memory import Memory
from bnn.export.c.text import Names, array, comment
from bnn.export.target import ExportError
from bnn.runtime.program import Border, DType, Finish, Op, Program, Segment, Value

__all__ = ["Tables"]

Array = NDArray[Any]
NULL = "NULL"


class Tables:
    """A program in C.

    Attributes:
        arrays: definitions of constants.
        values, nodes: initializers of bnn_value and bnn_node, in order.
        weight_bytes: of the packed signs.
        constant_bytes: of all arrays, the signs among them.
    """

    def __init__(self, program: Program, memory: Memory) -> None:
        self.program, self.names = program, Names()
        self.arrays: list[str] = []
        self.constant_bytes = self.weight_bytes = 0
        self.values = list(map(_value, program.values, memory.sizes, memory.offsets))
        self.nodes = list(map(self.node, program.ops, memory.sums))

    def put(self, what: str, node: str, values: Array | None) -> str:
        """Defines an array of constants; its name, or NULL for none."""
        if values is None:
            return NULL
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ExportError(f"node {node!r}: its {what} is beyond what a float can hold")
        name = self.names.of(what, node)
        self.arrays.append(array(name, values, " * ".join(map(str, values.shape))))
        self.constant_bytes += values.nbytes
        self.weight_bytes += values.nbytes if what == "weight" and values.dtype == np.uint64 else 0
        return name

    def node(self, op: Op, sums: DType | None) -> str:
        """In the order of bnn_node, a line for each line there, about; `sums`: their dtype, of a product."""
        source, out, name = self.program.values[op.inputs[0]], self.program.values[op.output], op.node
        signs = source.dtype == "bits"
        pads = op.pad_value != 0 and not signs and uses_finish(op)
        fields: list[list[object]] = [
            [f"BNN_{op.op.upper()}", len(op.inputs), self.put("inputs", name, np.array(op.inputs, np.int32))],
            [op.output, op.second],
            [*map(_braced, (op.kernel, op.stride, op.dilation, op.padding)), op.groups],
            [int(op.pad_value) if signs else 0, self.number("pad", name, op.pad_value, source.dtype, pads)],
            [int(op.op == "avg_pool" and op.count_padding)],
            [self.put("weight", name, op.weight if op.rows is None else op.rows)],
            [*self.segments(op, source, sums == "i32"), self.border(name, op.border)],
            [self.put("mean", name, op.mean), self.put("deviation", name, op.deviation)],
            [self.put("smallest", name, op.flip)],
            [self.finish(name, op.finish)],
        ]
        what = f"{op.node}: {op.op}, {_shape(source)} to {_shape(out)}"
        text = ",\n     ".join(", ".join(map(str, line)) for line in fields)
        return f"    {{/* {comment(what)} */\n     {text}}},\n"

    def number(self, what: str, node: str, value: float, dtype: str, needed: bool = True) -> str:
        """A constant that is read by its address."""
        return self.put(what, node, _of_dtype([value], dtype) if needed else None)

    def segments(self, op: Op, source: Value, integers: bool) -> tuple[str, int]:
        if not op.segments:
            return NULL, 0
        rows = [self.segment(op, segment, source, integers) for segment in op.segments]
        name = self.names.of("segments", op.node)
        self.arrays.append(f"static const bnn_segment {name}[{len(rows)}] = {{\n{''.join(rows)}}};\n")
        return name, len(rows)

    def segment(self, op: Op, segment: Segment, source: Value, integers: bool) -> str:
        whole = len(segment.take) == source.channels  # in order; the engine reads no list of them
        take = self.put("take", op.node, None if whole else segment.take.astype(np.int32))
        divisor = self.number("divisor", op.node, segment.divisor, op.finish.computed, not integers)
        weight = self.put("weight", op.node, segment.rows)
        outputs = f"{len(segment.take)}, {segment.output}, {len(segment.rows)}"
        return f"    {{{take}, {outputs}, {divisor}, {weight}}},\n"

    def border(self, node: str, border: Border | None) -> str:
        if border is None:
            return "{NULL, NULL, 1, NULL}"
        row, column = self.put("row", node, border.row), self.put("column", node, border.column)
        return f"{{{row}, {column}, {border.columns}, {self.put('border', node, border.values)}}}"

    def finish(self, node: str, f: Finish) -> str:
        limits = None if f.activation != "hardtanh" else _of_dtype([f.low, f.high], f.computed)
        fields = (
            f"BNN_{f.computed.upper()}, {int(f.narrow)}",
            self.put("scale", node, f.scale),
            self.put("shift", node, f.shift),
            f"BNN_{f.activation.upper()}",
            self.put("limits", node, limits),
            self.put("slope", node, f.slope),
            self.put("threshold", node, f.threshold),
            self.put("flip", node, f.flip),
        )
        return "{" + ", ".join(fields) + "}"


def _value(value: Value, size: int, offset: int) -> str:
    shape = f"{value.height}, {value.width}, {value.channels}"
    return f"    {{BNN_{value.dtype.upper()}, {shape}, {size}, {offset}, 0, 0, 0}},\n"


def _of_dtype(values: Sequence[float], dtype: str) -> Array:
    with np.errstate(over="ignore"):  # which is found when it is written
        return np.array(values, np.float64 if dtype == "f64" else np.float32)


def _shape(value: Value) -> str:
    sizes = (value.height, value.width, value.channels)
    return f"{'x'.join(map(str, sizes if value.height * value.width > 1 else sizes[2:]))} {value.dtype}"


def _braced(values: Sequence[int]) -> str:
    return "{" + ", ".join(map(str, values)) + "}"

"""The program as a small processor wants it: integers where the model allows them, float, not double."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.c.memory import Memory
from bnn.export.c.scores import Scores, exact_scores
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear
from bnn.runtime.lowering import lower
from bnn.runtime.program import OPS, Finish, Op, Program

__all__ = ["Device", "Used", "device_program", "uses_finish"]

Array = NDArray[Any]

PRODUCTS = OPS[OPS.index("product_bits") : OPS.index("depthwise") + 1]
"""As bnn_is_product has it."""


@dataclass(frozen=True, eq=False)
class Device:
    """What is exported.

    Attributes:
        model: whose outputs the program has; without the last scale and shift if there are `scores`.
        program: its output is int32 if there are scores, else float32.
        scores: what becomes of its integer output.
    """

    model: PackedModel
    program: Program
    scores: Scores | None


def device_program(model: PackedModel) -> Device:
    """The program for raw pixels, or for floats if the model has no raw form.

    Doubles stay where the sign of one is taken, so that it is the reference's; elsewhere floats do. A last
    layer whose sums are integers gives scores that are integers, if some order the classes as its floats do.

    Raises:
        LoweringError: a node is of a type that the engine does not know.
    """
    scores, last = exact_scores(model), model.output
    if scores is not None and isinstance(last, Linear | Conv2d):
        last = replace(last, scale=None, shift=None)
        model = PackedModel(replace(model.input, labels=()), (*model.nodes[:-1], last))
    program = _without_copies(_narrowed(lower(model, "u8" if model.input.mean else "f32")))
    if scores is not None:
        program = _with_integer_output(program)
    return Device(model, program, scores)


def uses_finish(op: Op) -> bool:
    """Whether bnn_finish says what becomes of its sums, or of its input."""
    return op.op == "map" or op.op in PRODUCTS


def _is_trivial(finish: Finish) -> bool:
    """Whether it only changes the dtype."""
    return finish.scale is None and finish.threshold is None and finish.activation == "identity"


@dataclass(frozen=True)
class Used:
    """What a program has need of.

    Attributes:
        dtypes: of values, of sums, and of the arithmetic between.
        operations: that occur.
        gathers: whether some product's rows do not lie in its input as they are.
    """

    dtypes: frozenset[str]
    operations: frozenset[str]
    gathers: bool

    @classmethod
    def by(cls, program: Program, memory: Memory) -> "Used":
        dtypes = {str(value.dtype) for value in program.values}
        for op, sums in zip(program.ops, memory.sums, strict=True):
            if sums is not None:
                dtypes.add(sums)
            elif op.op == "map" and program.values[op.inputs[0]].dtype == "bits":
                dtypes.add("f32")  # ±1 are made floats
            integers = op.finish.threshold is not None or program.values[op.output].dtype == "i32"
            if uses_finish(op) and not integers:
                dtypes.add(op.finish.computed)
        return cls(frozenset(dtypes), frozenset(op.op for op in program.ops), memory.gathers)

    @property
    def floats(self) -> bool:
        return bool(self.dtypes & {"f32", "f64"})

    @property
    def others(self) -> bool:
        """Whether there are operations that are no products."""
        return bool(self.operations - set(PRODUCTS))


# --- integers out -----------------------------------------------------------------------------------------


def _with_integer_output(program: Program) -> Program:
    """The last product's sums as they are, perhaps brought into the caller's order."""
    values, ops = list(program.values), list(program.ops)
    for k in reversed(range(len(ops))):
        values[ops[k].output] = replace(values[ops[k].output], dtype="i32")
        if ops[k].op != "to_planes":
            assert _is_trivial(ops[k].finish)
            break
    return Program(tuple(values), tuple(ops))


# --- float instead of double ------------------------------------------------------------------------------


def _narrowed(program: Program) -> Program:
    """Doubles become floats, but for what leads to a sign, which rounding could turn.

    Operations keep their doubles in one piece: what reads one of those that stay, stays as it is.
    """
    values, ops = program.values, program.ops
    kept = _before_signs(program)
    while True:
        wide = {v for k in kept for v in (*ops[k].inputs, ops[k].output) if values[v].dtype == "f64"}
        more = {k for k, op in enumerate(ops) if wide.intersection((*op.inputs, op.output))} - kept
        if not more:
            break
        kept |= more
    narrow = tuple(
        replace(v, dtype="f32") if v.dtype == "f64" and i not in wide else v for i, v in enumerate(values)
    )
    return Program(narrow, tuple(op if k in kept else _narrow(op) for k, op in enumerate(ops)))


def _before_signs(program: Program) -> set[int]:
    """Operations that take signs of floats, and those that these follow from, directly or not."""
    found, wanted = set[int](), set[int]()
    for k, op in reversed(list(enumerate(program.ops))):
        to_signs = program.values[op.output].dtype == "bits" and op.finish.threshold is None
        if (to_signs and uses_finish(op)) or op.output in wanted:
            found.add(k)
            wanted.update(op.inputs)
    return found


def _narrow(op: Op) -> Op:
    op = replace(op, mean=_float(op.mean), deviation=_float(op.deviation))
    if op.op == "product_f64":
        op = replace(op, op="product_f32")
    finish = op.finish
    if finish.computed == "f32":
        return op
    finish = replace(
        finish, computed="f32", narrow=False, scale=_float(finish.scale), shift=_float(finish.shift)
    )
    border = op.border
    if border is not None and border.values.dtype == np.float64:
        with np.errstate(over="ignore"):
            border = replace(border, values=border.values.astype(np.float32))
    return replace(op, finish=finish, border=border)


def _float(array: Array | None) -> Array | None:
    with np.errstate(over="ignore"):  # which is found when it is written
        return None if array is None else array.astype(np.float32)


def _without_copies(program: Program) -> Program:
    """Without maps that change nothing, now that both sides are floats."""
    values, ops = program.values, list(program.ops)
    k = 0
    while k < len(ops):
        op = ops[k]
        copies = (
            op.op == "map"
            and _is_trivial(op.finish)
            and values[op.inputs[0]].dtype == values[op.output].dtype
        )
        source = op.inputs[0]
        written = [other for other in ops if other.output == source] if copies else []
        if copies and k < len(ops) - 1:
            ops = [_reading(other, op.output, source) for other in ops if other is not op]
        elif copies and written == ops[k - 1 : k] and not _read(ops[:k], source):
            ops = [*ops[: k - 1], replace(written[0], output=op.output)]
        else:
            k += 1
    return _renumbered(Program(values, tuple(ops)))


def _read(ops: Sequence[Op], value: int) -> bool:
    return any(value in op.inputs for op in ops)


def _reading(op: Op, old: int, new: int) -> Op:
    return replace(op, inputs=tuple(new if v == old else v for v in op.inputs))


def _renumbered(program: Program) -> Program:
    """Without the values that nobody writes any more."""
    used = sorted({0, *(v for op in program.ops for v in (*op.inputs, op.output))})
    number = {v: k for k, v in enumerate(used)}
    ops = tuple(
        replace(op, inputs=tuple(number[v] for v in op.inputs), output=number[op.output])
        for op in program.ops
    )
    return Program(tuple(program.values[v] for v in used), ops)

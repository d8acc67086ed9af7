"""Where everything lies in the arena: as `native/plan.c` and `native/job.c` have it, for one sample."""

from dataclasses import dataclass

from bnn.export.c.device import PRODUCTS, is_pointwise, sum_dtype
from bnn.packed import bits
from bnn.runtime.program import Op, Program, Value

__all__ = ["ALIGNMENT", "Memory", "memory_of", "value_bytes"]

ALIGNMENT = 8  # bytes: what the widest access needs
_SLACK = 64  # BNN_SLACK


@dataclass(frozen=True)
class Memory:
    """Bytes, for one sample.

    Attributes:
        offsets: of each value in the arena; 0 for the input, which is the caller's.
        values: the arena's first part.
        scratch: its second, which operations take turns in.
    """

    offsets: tuple[int, ...]
    values: int
    scratch: int

    @property
    def arena(self) -> int:
        return self.values + self.scratch


def memory_of(program: Program) -> Memory:
    """Places the values, so that those that are not needed at once share bytes."""
    first, last = [-1] * len(program.values), [-1] * len(program.values)
    for step, op in enumerate(program.ops):
        for value in op.inputs:
            last[value] = step
        first[op.output] = last[op.output] = step
    offsets, live, total = [0] * len(program.values), list[int](), 0
    for step, op in enumerate(program.ops):
        value, at = op.output, 0
        room = _aligned(value_bytes(program.values[value]))
        live = [other for other in live if last[other] >= step]
        for other in live:  # in order of their offsets: the first gap that is wide enough
            if offsets[other] >= at + room:
                break
            at = offsets[other] + _aligned(value_bytes(program.values[other]))
        offsets[value], total = at, max(total, at + room)
        live = sorted([*live, value], key=lambda other: offsets[other])
    return Memory(tuple(offsets), total, max(_scratch(program, op) for op in program.ops))


def value_bytes(value: Value) -> int:
    return value.height * value.width * _pixel_bytes(value)


def _pixel_bytes(value: Value) -> int:
    if value.dtype == "bits":
        return 8 * bits.words_per_row(value.channels)
    return value.channels * {"u8": 1, "i8": 1, "i32": 4, "f32": 4, "f64": 8}[value.dtype]


def _aligned(n: int) -> int:
    return -(-n // ALIGNMENT) * ALIGNMENT


def _scratch(program: Program, op: Op) -> int:
    """bnn_layout_of, for one place at a time."""
    source, out = program.values[op.inputs[0]], program.values[op.output]
    if op.op == "map" and source.dtype == "bits":
        return _aligned(4 * source.channels)
    if op.op not in PRODUCTS:
        return 0
    taps, per_group = op.kernel[0] * op.kernel[1], source.channels // op.groups
    n, sums = taps * per_group, sum_dtype(program, op)
    width = 8 if sums == "f64" else 4
    ld = _SLACK
    if op.op != "product_bits" or op.groups > 1:
        ld += -(-out.channels // _SLACK) * _SLACK
    needed = []
    if not is_pointwise(op):
        tap = (
            8 * bits.words_per_row(per_group) if source.dtype == "bits" else per_group * _entry_bytes(source)
        )
        needed.append(taps * tap)
    if op.op == "product_u8":
        needed += [2 * 64 * bits.words_per_row(n), 4 * ld] + [width * ld] * (sums != "i32")
    else:
        needed += [n * width] * (op.op in ("product_f64", "dense"))
        needed += [4 * 64 * bits.words_per_row(n)] * (op.op == "product_f32")
        needed.append(width * ld)
    return sum(_aligned(size) for size in needed)


def _entry_bytes(value: Value) -> int:
    return _pixel_bytes(value) // value.channels

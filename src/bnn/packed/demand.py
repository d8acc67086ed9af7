"""What a model asks for: bytes to run one sample, and cycles, known from its shapes before anything is made.

A file of a few kilobytes can ask for terabytes, or for a year. So both are bounded from above by arithmetic
on shapes, a node's own part by the node, and compared with what is allowed before a model is lowered or run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from bnn.errors import UserError
from bnn.packed.bits import words_per_row
from bnn.packed.limits import MAX_MEMORY, MAX_WORK, check_memory
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    Add,
    Affine,
    Flatten,
    Hardtanh,
    MaxPool2d,
    PReLU,
    Product,
    ReLU,
    Shape,
    Sign,
    Threshold,
)

__all__ = ["Asks", "asks_of", "check_limits", "reference_values"]

BASE = 2**20  # bytes of what takes memory whatever the model is
SLOT = 64  # a value's bytes in the arena are a multiple of that
COPIES = 6  # of a value, at most: its order and its dtype may be others for other readers


@dataclass(frozen=True)
class Asks:
    """What a model asks for, at most.

    Attributes:
        memory: bytes, beside the model's own arrays: to prepare it, and to run one sample.
        work: cycles of one fast core, to prepare it and to run one sample.
    """

    memory: int
    work: int


def asks_of(model: PackedModel, threads: int | None = 1) -> Asks:
    """Bounds from above, by arithmetic on shapes alone.

    threads: of the compiled engine; None: the reference runs the model.
    """
    kept = transient = work = 0
    lies = _lies(model)
    for node in model.nodes:
        inputs = [lies[name] for name in node.inputs]
        shape = model.shapes[node.name]
        costs = node.costs(shape, inputs, [model.kinds[name] for name in node.inputs], model.input)
        work += costs.cycles
        if threads:
            kept += costs.kept
            transient = max(transient, costs.lowered, costs.scratch * threads)
        else:
            transient = max(transient, costs.reference)
    held = _native_bytes(model) if threads else _reference_bytes(model)
    return Asks(BASE + kept + transient + _most_at_once(held, model), work)


def reference_values(model: PackedModel) -> int:
    """Bytes of the values that the reference holds at once, for one sample."""
    return _most_at_once(_reference_bytes(model), model)


def check_limits(
    model: PackedModel,
    threads: int | None = 1,
    *,
    max_memory: int | None = MAX_MEMORY,
    max_work: int | None = MAX_WORK,
) -> None:
    """Compares what the model asks for with what is allowed.

    Raises:
        UserError: the model asks for more; the message names it, and has both numbers. None lifts a limit.
    """
    asks = asks_of(model, threads)
    check_memory(model.called, "running it may take", asks.memory, max_memory)
    if max_work is not None and asks.work > max_work:
        raise UserError(
            f"{model.called}: a sample may take {asks.work:.3g} cycles of a core, "
            f"more than is allowed: {max_work:.3g} (max_work=, --max-work)"
        )


# --- the values -------------------------------------------------------------------------------------------


def _lies(model: PackedModel) -> dict[str, Shape]:
    """The shape of each value; of a flattened image that of the image, as which it still lies in memory."""
    lies = {**model.shapes}
    for node in model.nodes:
        source = lies[node.inputs[0]]
        if (isinstance(node, Flatten) and node.inputs[0] != INPUT) or (
            isinstance(node, (*_FOLLOWS, Add)) and len(model.shapes[node.name]) == 1
        ):
            lies[node.name] = source
    return lies


def _spans(model: PackedModel) -> Mapping[str, tuple[int, int]]:
    """The first and the last node while which a value is held.

    The engine computes what alone reads a value together with it, so perhaps before its turn.
    """
    readers: dict[str, int] = {}
    last = {INPUT: 0}
    for i, node in enumerate(model.nodes):
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
            last[name] = i
    first = {INPUT: 0}
    for i, node in enumerate(model.nodes):
        source = node.inputs[0]
        early = isinstance(node, _FOLLOWS) and readers[source] == 1 and source != INPUT
        # Of neighbours, the one is held when the other is made, as it is in the model.
        first[node.name] = first[source] if early and first[source] < i - 1 else i
        last.setdefault(node.name, i)
    last[model.output.name] = len(model.nodes) - 1
    for node in reversed(model.nodes):
        if isinstance(node, Flatten):  # the same bytes, under another name
            last[node.inputs[0]] = max(last[node.inputs[0]], last[node.name])
    return {name: (first[name], last[name]) for name in first}


_FOLLOWS = (Affine, ReLU, PReLU, Hardtanh, Sign, Threshold, MaxPool2d)


def _most_at_once(held: Mapping[str, int], model: PackedModel) -> int:
    spans, changes = _spans(model), [0] * (len(model.nodes) + 1)
    for name, size in held.items():
        first, last = spans[name]
        changes[first] += size
        changes[last + 1] -= size
    most = now = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def _native_bytes(model: PackedModel) -> dict[str, int]:
    """What each value takes with its copies, in the compiled engine's arena."""
    wide = _wide(model)
    doubles: set[str] = set()  # values that something reads as float64, perhaps
    floats: set[str] = {model.output.name}  # values that something reads as numbers
    for node in model.nodes:
        if wide[node.name] or any(wide[name] for name in node.inputs):
            doubles.update(node.inputs)
        if not isinstance(node, Product) or not node.is_packed:
            floats.update(node.inputs)
    held = {}
    for name, shape in model.shapes.items():
        entries, kind = prod(shape), model.kinds[name]
        own = words_per_row(shape[0]) * 8 * prod(shape[1:]) if kind == "sign" else entries * 4
        if kind != "sign" and wide[name]:
            own = entries * 8
        copies = entries if kind != "sign" else 0  # int8
        if name in floats and (kind != "float" or wide[name]):
            copies += 4 * entries
        if name in doubles and not wide[name]:
            copies += 8 * entries
        held[name] = own + copies + COPIES * SLOT
        if kind == "input":
            held[name] += own + copies
    for node in model.nodes:
        if isinstance(node, Add):  # the sum up to a float64, and that as one
            held[node.name] += 12 * prod(model.shapes[node.name])
        if isinstance(node, Flatten):  # in the order of the image, and in the model's
            held[node.name] *= 2
    held[model.output.name] += 12 * prod(model.shapes[model.output.name])
    return held


def _reference_bytes(model: PackedModel) -> dict[str, int]:
    """What each value takes in numpy."""
    wide = _wide(model)
    return {name: (8 if wide[name] else 4) * prod(shape) for name, shape in model.shapes.items()}


def _wide(model: PackedModel) -> dict[str, bool]:
    """Which values may be float64."""
    wide = {INPUT: bool(model.input.mean)}  # pixels are normalised in float64
    for node in model.nodes:
        is_sign = model.kinds[node.name] == "sign"
        wide[node.name] = not is_sign and node.is_wide(*(wide[name] for name in node.inputs))
    return wide

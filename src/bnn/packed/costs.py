"""What a model costs: parameters, bytes and multiply-accumulates of each layer.

    print(bnn.summary(model, x))     # PyTorch's, at any stage: float, binarized, frozen
    print(bnn.summary(packed))       # a PackedModel, or what `bnn.load` returns

A multiply-accumulate is one of a matrix product or a convolution; what batch norms and activations compute
is not counted. There are three kinds, by what is multiplied:

    ±1 x ±1       one-bit weights, and inputs that hold ±1 only
    float x ±1    one-bit weights, other inputs
    float         everything else
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from bnn.errors import LINE, printable, require
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear, Node, PackedWeight, Shape
from bnn.tables import CELL, numeric_columns, table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MACS_KINDS", "LayerCost", "Summary", "layer_costs", "packed_summary"]

MACS_KINDS = SIGN_SIGN, FLOAT_SIGN, FLOAT = ("±1 x ±1", "float x ±1", "float")


@dataclass(frozen=True)
class LayerCost:
    """One layer, or one node of a packed model.

    Attributes:
        name: its path in the model; "" for the model itself.
        operation: its class.
        output_shape: without the batch axis; None if it was not called.
        one_bit_weights: weights of ±a, one a > 0 for each output row, which pack to one bit.
        float_parameters: all others, and an a for each row where these are not 1. What is shared counts
            where it comes first.
        bytes: one-bit weights in whole 64-bit words a row, 4 bytes for each float; of a node, what it takes.
        float_bytes: the same in float32.
        macs_by_kind: multiply-accumulates for one sample; None if they cannot be known.
    """

    name: str
    operation: str
    output_shape: Shape | None
    one_bit_weights: int
    float_parameters: int
    bytes: int
    float_bytes: int
    macs_by_kind: Mapping[str, int] | None = field(default_factory=dict)

    @property
    def macs(self) -> Any:  # an int in every packed model, whose users need not ask whether it is None
        """Multiply-accumulates of all kinds; None if they cannot be known."""
        return None if self.macs_by_kind is None else sum(self.macs_by_kind.values())

    @property
    def macs_kind(self) -> str:
        """The kinds that occur, "" if none does."""
        return ", ".join(self.macs_by_kind or {})

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "operation": self.operation,
            "output_shape": self.output_shape,
            "one_bit_weights": self.one_bit_weights,
            "float_parameters": self.float_parameters,
            "bytes": self.bytes,
            "float_bytes": self.float_bytes,
            "macs": self.macs,
            "macs_kind": self.macs_kind,
            "macs_by_kind": None if self.macs_by_kind is None else dict(self.macs_by_kind),
        }


HEAD = ["layer", "kind", "output", "one-bit", "float", "bytes", "in float32", "MACs", "of"]


@dataclass(frozen=True, repr=False)
class Summary:
    """The layers of a model, and their sums. Printed, it is a table."""

    layers: tuple[LayerCost, ...]
    file_bytes: int | None = None  # of a packed model's file, header included

    @property
    def one_bit_weights(self) -> int:
        return sum(layer.one_bit_weights for layer in self.layers)

    @property
    def float_parameters(self) -> int:
        return sum(layer.float_parameters for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def float_bytes(self) -> int:
        return sum(layer.float_bytes for layer in self.layers)

    @property
    def macs(self) -> dict[str, int]:
        """Multiply-accumulates for one sample, of each kind that occurs; without the `uncounted` layers."""
        counted = [layer.macs_by_kind for layer in self.layers if layer.macs_by_kind]
        sums = {kind: sum(macs.get(kind, 0) for macs in counted) for kind in MACS_KINDS}
        return {kind: macs for kind, macs in sums.items() if macs}

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the layers whose multiply-accumulates cannot be known."""
        return tuple(layer.name for layer in self.layers if layer.macs_by_kind is None)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "layers": [layer.as_dict() for layer in self.layers],
            "one_bit_weights": self.one_bit_weights,
            "float_parameters": self.float_parameters,
            "bytes": self.bytes,
            "float_bytes": self.float_bytes,
            "macs": self.macs,
            "uncounted": list(self.uncounted),
        } | ({} if self.file_bytes is None else {"file_bytes": self.file_bytes})

    def to_dataframe(self) -> "pd.DataFrame":
        """A row for each layer, a column for each kind of multiply-accumulates, <NA> where not known.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        pandas = require("pandas", "train")
        rows = [layer.as_dict() for layer in self.layers]
        for row in rows:
            kinds = row.pop("macs_by_kind")
            row |= {kind: None if kinds is None else kinds.get(kind, 0) for kind in MACS_KINDS}
        numbers = dict.fromkeys(["macs", *MACS_KINDS], "Int64")
        frame: pd.DataFrame = pandas.DataFrame(rows).astype(numbers)
        return frame

    def _rows(self) -> list[list[str]]:
        return [row for layer in self.layers for row in _rows(layer)]

    def _total(self) -> list[str]:
        parameters = [self.one_bit_weights, self.float_parameters, self.bytes, self.float_bytes]
        return ["total", "", "", *map(_number, [*parameters, sum(self.macs.values())]), ""]

    def _sentences(self) -> list[str]:
        """What stands below the table."""
        parts = [(self.one_bit_weights, "one-bit"), (self.float_parameters, "float")]
        size = self.bytes if self.file_bytes is None else self.file_bytes
        where = "" if self.file_bytes is None else " in the file"
        smaller = (
            f", {self.float_bytes / size:.1f} times smaller than in float32" if self.one_bit_weights else ""
        )
        lines = [
            f"parameters: {', '.join(f'{n:,} {kind}' for n, kind in parts if n) or 'none'}",
            f"bytes: {size:,}{where}{smaller}",
        ]
        if macs := self.macs:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in macs.items())
            lines.append(f"multiply-accumulates (MACs) for one sample: {kinds}")
        if self.uncounted:
            names = ", ".join(name or "(model)" for name in self.uncounted)
            lines.append(f"not counted, as what they compute is not known: {names}")
        return [printable(line, LINE) for line in lines]

    def __str__(self) -> str:
        return "\n".join([table(HEAD, self._rows(), self._total()), "", *self._sentences()])

    __repr__ = __str__  # what an interactive session shows

    def __rich__(self) -> Any:
        """The same cells and sentences, for `rich.print`."""
        console, box = require("rich.console", "train"), require("rich.box", "train")
        text = require("rich.text", "train").Text  # so that brackets in names are not taken for markup
        grid = require("rich.table", "train").Table(
            box=box.SIMPLE_HEAD, show_edge=False, show_footer=True, padding=(0, 1, 0, 0)
        )
        rows = self._rows()
        for head, total, right in zip(HEAD, self._total(), numeric_columns(rows), strict=True):
            # Where there is no room, names fold; then numbers are cut, and show that.
            how = {"justify": "right", "no_wrap": True} if right else {"overflow": "fold"}
            grid.add_column(head, total, **how)
        for row in rows:
            grid.add_row(*(text(printable(cell, CELL)) for cell in row))
        return console.Group(grid, "", *map(text, self._sentences()))


def _rows(layer: LayerCost) -> list[list[str]]:
    """A layer's cells; where it multiplies in several ways, a further row for each."""
    macs = {"": "?"} if layer.macs_by_kind is None else {k: _number(n) for k, n in layer.macs_by_kind.items()}
    (kind, first), *others = macs.items() or [("", "")]
    sizes = [layer.one_bit_weights, layer.float_parameters, layer.bytes, layer.float_bytes]
    what = [layer.name or "(model)", layer.operation, "x".join(map(str, layer.output_shape or ()))]
    return [
        [*what, *map(_number, sizes), first, kind],
        *([*[""] * (len(HEAD) - 2), number, kind] for kind, number in others),
    ]


def _number(n: int) -> str:
    return f"{n:,}" if n else ""


# --- packed models ----------------------------------------------------------------------------------------


def packed_summary(model: PackedModel, file_bytes: int | None = None) -> Summary:
    """Every node of the model, in order."""
    return Summary(tuple(layer_costs(model)), file_bytes)


def layer_costs(model: PackedModel) -> list[LayerCost]:
    """Every node of the model, in order."""
    return [_cost(model, node) for node in model.nodes]


def _cost(model: PackedModel, node: Node) -> LayerCost:
    shape, one_bit, words = model.shapes[node.name], 0, 0
    macs: dict[str, int] = {}
    if isinstance(node, Linear | Conv2d):
        weights = prod(node.weight.shape)
        kind = FLOAT
        if isinstance(node.weight, PackedWeight):
            one_bit, words = weights, node.weight.words.size
            kind = SIGN_SIGN if model.kinds[node.inputs[0]] == "sign" else FLOAT_SIGN
        macs[kind] = weights * prod(shape[1:])  # each weight once at every place of the output
    floats = sum(array.size for array in node.arrays()) - words
    return LayerCost(
        name=node.name,
        operation=type(node).__name__,
        output_shape=shape,
        one_bit_weights=one_bit,
        float_parameters=floats,
        bytes=node.nbytes,
        float_bytes=4 * (one_bit + floats),
        macs_by_kind=macs,
    )

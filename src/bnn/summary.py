"""What a packed model costs: parameters, bytes and multiply-accumulates of each layer."""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from bnn.nodes import Conv2d, Linear, Node, PackedWeight
from bnn.packed import PackedModel

__all__ = ["LayerCost", "as_dict", "layer_costs"]


@dataclass(frozen=True)
class LayerCost:
    """One node. `macs` are multiply-accumulates for one sample, `macs_kind` what is multiplied."""

    name: str
    operation: str
    output_shape: tuple[int, ...]
    one_bit_weights: int
    float_parameters: int
    bytes: int
    macs: int
    macs_kind: str


def layer_costs(model: PackedModel) -> list[LayerCost]:
    """Every node of the model, in order."""
    return [_cost(model, node) for node in model.nodes]


def _cost(model: PackedModel, node: Node) -> LayerCost:
    shape, one_bit, macs, kind = model.shapes[node.name], 0, 0, ""
    if isinstance(node, Linear | Conv2d):
        weights = prod(node.weight.shape)
        one_bit = weights if isinstance(node.weight, PackedWeight) else 0
        macs = weights * prod(shape[1:])  # each weight once at every place of the output
        signs = model.kinds[node.inputs[0]] == "sign"
        kind = ("±1 x ±1" if signs else "float x ±1") if one_bit else "float"
    words = node.weight.words.size if one_bit else 0  # type: ignore[attr-defined]
    return LayerCost(
        name=node.name,
        operation=type(node).__name__,
        output_shape=shape,
        one_bit_weights=one_bit,
        float_parameters=sum(array.size for array in node.arrays()) - words,
        bytes=node.nbytes,
        macs=macs,
        macs_kind=kind,
    )


def as_dict(model: PackedModel, file_bytes: int) -> dict[str, Any]:
    """The whole model's costs, its layers and its input contract, ready for JSON.

    float_bytes: what the same parameters take at 4 bytes each.
    """
    layers = layer_costs(model)
    one_bit = sum(layer.one_bit_weights for layer in layers)
    floats = sum(layer.float_parameters for layer in layers)
    kinds = [layer.macs_kind for layer in layers if layer.macs]
    return {
        "input": asdict(model.input),
        "about": dict(model.about),
        "layers": [asdict(layer) for layer in layers],
        "one_bit_weights": one_bit,
        "float_parameters": floats,
        "file_bytes": file_bytes,
        "float_bytes": 4 * (one_bit + floats),
        "macs": {kind: sum(x.macs for x in layers if x.macs_kind == kind) for kind in dict.fromkeys(kinds)},
    }

"""A packed model as an ONNX file: one bit a weight, run by stock ONNX Runtime.

graph     operations and constants; how weights of ±1 are stored and unpacked
writer    values of the model, and what several nodes need
products  fully connected layers and convolutions
nodes     all other nodes, and the list of them
"""

import json
from typing import Any

from bnn.export.onnx.graph import FLOAT, OPSET, Graph
from bnn.export.onnx.nodes import write
from bnn.export.onnx.writer import SCORES, Writer
from bnn.export.target import Export, ExportError
from bnn.packed.model import PackedModel

__all__ = ["make"]

LAYOUT = "1"  # version of what the metadata and the packed initializers mean
LIMIT = 2**31 - 2**24  # bytes of a protobuf, less room for all but the constants
ENCODING = (
    "uint8 of shape (rows, bytes, 1): row i holds the signs of weight[i], flattened in row-major order; "
    "entry j is bit j mod 8, from the least significant, of byte j div 8; bit 1 means -1, bit 0 means +1"
)


def make(model: PackedModel, *, unpacked: bool = False, plain: bool = False) -> Export:
    """The ONNX file of a model.

    Its one input is `pixels`, uint8, where the model has a mean and a deviation, which then are in the graph;
    else `input`, float32. Its one output is `scores`, float32. The batch size is free.

    Args:
        model: the packed model.
        unpacked: store weights of ±1 in float32, for tools that do not fold constants.
        plain: write the network as others write theirs, to compare with: all of it in float32, scales in the
            weights, shifts as biases, normalised input. What runs it may merge operations, so results
            differ from the runtime's by rounding.

    Raises:
        ExportError: a node cannot be expressed, or the constants are too large for an ONNX file.
        MissingExtraError: the package `onnx` is not installed.
    """
    writer = Writer(model, unpacked, plain)
    for node in model.nodes:
        write(writer, node)
    graph = writer.graph
    graph.result(writer.floats(model.output.name), SCORES, cast=not plain)
    if graph.bytes > LIMIT:
        raise ExportError(f"the constants take {graph.bytes:,} bytes; an ONNX file has room for {LIMIT:,}")
    shape = model.shapes[model.output.name]
    proto = graph.proto(
        (writer.given.name, writer.given.dtype, model.input.shape),
        (SCORES, FLOAT, shape),
        _properties(model, graph),
    )
    content: bytes = proto.SerializeToString(deterministic=True)
    notes = (
        f"takes {writer.given.name}: {writer.given.dtype}, {_shape(model.input.shape)}",
        f"gives {SCORES}: {FLOAT}, {_shape(shape)}",
        f"opset {OPSET}{', with float64 where signs are taken' if graph.uses_double else ''}",
        f"{len(content):,} bytes, weights {'in float32' if unpacked or plain else 'one bit each'}",
    )
    return Export({"model.onnx": content}, notes)


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ('batch', *shape)))})"


def _properties(model: PackedModel, graph: Graph) -> dict[str, str]:
    """What a program that reads the file may want to know, each value text or JSON."""
    contract = model.input
    known: dict[str, Any] = {
        "about": dict(model.about),
        "labels": list(contract.labels),
        "mean": list(contract.mean),
        "std": list(contract.std),
        "packed": {name: list(shape) for name, shape in graph.packed.items()},
    }
    texts = {name: json.dumps(value, sort_keys=True) for name, value in known.items()}
    texts["layout"] = LAYOUT
    texts["encoding"] = ENCODING
    return {f"bnn.{name}": text for name, text in texts.items()}

"""What is done to sound .bnn files: changes that keep them sound, or nearly, and changes of any byte.

A change of a model's nodes is followed by mending (`fuzz_corpus.assemble`), so that the result is sound and
reaches the engine. A change of a file's JSON or of its tensors is not: the reader has to tell.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import safetensors.numpy
from fuzz_corpus import (
    CHANNELS,
    FLOATS,
    WIDE,
    assemble,
    draw_contract,
    draw_floats,
    draw_limits,
    draw_node,
    draw_padding,
    draw_scales,
    draw_weight,
    resized,
)
from numpy.typing import NDArray

from bnn.packed import serialization
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    NODES,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Hardtanh,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PReLU,
    Threshold,
)

__all__ = ["Parent", "content_of", "mutate"]

INTEGERS = [
    0,
    -1,
    1,
    2,
    3,
    7,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**24,
    2**28,
    2**28 + 1,
]
INTEGERS += [2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, -(2**31), 10**30]
NUMBERS = [*FLOATS, *WIDE, 1e39, -1e39, 3.4028235e38, 3.5e38, 1e308, 0.1, -0.1, 255.0]
DTYPES = {"F32": 4, "F64": 8, "I32": 4, "U64": 8, "BOOL": 1, "I64": 8, "U8": 1, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Parent:
    """A sound file and what it holds."""

    content: bytes
    model: PackedModel


def content_of(model: PackedModel) -> bytes:
    """The bytes of a model's file: what `save` writes, but not to a disk, for which it would wait."""
    tensors: serialization.Tensors = {}
    graph = {
        "format": serialization.FORMAT,
        "input": serialization._encode_fields(model.input, "input", tensors),
        "nodes": [
            {"op": type(node).__name__} | serialization._encode_fields(node, node.name, tensors)
            for node in model.nodes
        ],
        "about": dict(model.about),
    }
    text = json.dumps(graph, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return safetensors.numpy.save(tensors, metadata={"bnn": text})


def mutate(rng: random.Random, parent: Parent, other: Parent) -> bytes:
    """The parent's file changed, perhaps with parts of another."""
    if rng.random() < GREEDY:
        return greedy(rng, parent)
    style = rng.random()
    if style < 0.55:
        content = content_of(mutated_model(rng, parent.model, other.model))
        if rng.random() < 0.75:
            return content
    else:
        content = parent.content
    if style > 0.9:
        return mutated_bytes(rng, content, other.content)
    file = File.parse(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        rng.choice(TENSOR_CHANGES if rng.random() < 0.6 else JSON_CHANGES)(rng, file)
    if rng.random() < 0.03:
        another_value(rng, file)  # after which the graph may no longer be one
    return file.join()


# --- what asks for much ----------------------------------------------------------------------------------

GREEDY = 0.01
"""The share of files that ask for much: they take a hundred times as long as others."""


def greedy(rng: random.Random, parent: Parent) -> bytes:
    """The parent's model with a part that may ask for more memory or work than is allowed, or nearly."""
    contract, nodes = replace(parent.model.input, labels=()), list(parent.model.nodes)
    source = rng.choice([INPUT, nodes[-1].name])
    alone = rng.random() < 0.5  # so that its input can be as large as one likes
    if alone:
        nodes, source = [], INPUT
    height, width = (2 ** rng.randint(5, 13) + rng.randint(0, 1) for _ in range(2))
    shape = rng.choice([(rng.choice([1, 1, 3, 64]), height, width), (height * width,)])
    pixels = rng.choice([((), ()), ((0.5,), (0.25,))])
    grown = rng.choice(GREEDY_PARTS)(rng, source)
    try:
        contract = InputContract(shape, *pixels) if alone else contract
        return content_of(PackedModel(contract, (*nodes, *grown), dict(parent.model.about)))
    except ValueError:
        return parent.content


def many(rng: random.Random, most: int) -> int:
    """From 1 on, large and small ones."""
    return int(most ** max(rng.random(), rng.random()))


def live_values(rng: random.Random, source: str) -> list[Node]:
    names = [f"live {i}" for i in range(many(rng, 5000) + 1)]
    ops = [NODES[op] for op in rng.choice([["ReLU"], ["Sign"], ["ReLU", "Sign", "Softmax"], ["Flatten"]])]
    last = NODES[rng.choice(["Add", "Concat"])](name="all", inputs=tuple(names))
    return [*(rng.choice(ops)(name=name, inputs=(source,)) for name in names), last]


def repeated_inputs(rng: random.Random, source: str) -> list[Node]:
    first = NODES[rng.choice(["Sign", "ReLU"])](name="first", inputs=(source,))
    names = [rng.choice([source, "first"]) for _ in range(many(rng, 30_000) + 1)]
    return [first, NODES[rng.choice(["Add", "Concat"])](name="all", inputs=tuple(names))]


def deep_chain(rng: random.Random, source: str) -> list[Node]:
    nodes: list[Node] = []
    for i in range(many(rng, 12_000)):
        op, inputs = rng.choice(["ReLU", "Sign", "Hardtanh", "Flatten", "Add", "Add"]), [source]
        if op == "Add":
            inputs.append(rng.choice(nodes).name if nodes and rng.random() < 0.1 else source)
        nodes.append(NODES[op](name=f"c{i}", inputs=tuple(inputs)))
        source = nodes[-1].name
    return nodes


def wide_windows(rng: random.Random, source: str) -> list[Node]:
    kernel = (many(rng, 2000), many(rng, 2000))
    padding = tuple(rng.choice([0, k - 1, k // 2]) for k in (kernel[0], kernel[0], kernel[1], kernel[1]))
    stride = rng.choice([(1, 1), (1, 1), kernel, (2**28, 2**40), (1, 2**62)])
    cls = rng.choice([MaxPool2d, AvgPool2d])
    before = [NODES["Sign"](name="signs", inputs=(source,))] if rng.random() < 0.4 else []
    inputs = (before[0].name if before else source,)
    return [*before, cls(name="wide", inputs=inputs, kernel=kernel, stride=stride, padding=padding)]


def hidden_padding(rng: random.Random, source: str) -> list[Node]:
    channels, padding = rng.choice([1, 1, 3, 64]), tuple(many(rng, 16_000) for _ in range(4))
    weight = draw_weight(rng, (many(rng, 300), channels, many(rng, 40), many(rng, 40)), rng.random() < 0.8)
    stride = rng.choice([(1, 1), (7, 9), (1000, 1000), (2**31 - 1, 1), (2**40, 2**40)])
    dilation = rng.choice([(1, 1), (1, 1), (100, 100)])
    pad = rng.choice([0.0, 0.0, 1.0, 0.5])
    scales = draw_scales(rng, weight.shape[0])
    fields = {"padding": padding, "stride": stride, "dilation": dilation, "pad_value": pad, **scales}
    conv = Conv2d(name="padded", inputs=(source,), weight=weight, **fields)
    if rng.random() < 0.5:
        return [conv]
    return [conv, MaxPool2d(name="little", inputs=("padded",), kernel=(1, 1), stride=(2**20, 2**20))]


GREEDY_PARTS: list[Callable[[random.Random, str], list[Node]]] = [
    live_values,
    repeated_inputs,
    deep_chain,
    wide_windows,
    wide_windows,
    hidden_padding,
    hidden_padding,
]


# --- models -----------------------------------------------------------------------------------------------

Nodes = list[Node]


def mutated_model(rng: random.Random, model: PackedModel, other: PackedModel) -> PackedModel:
    """A sound model near this one."""
    contract, nodes = model.input, list(model.nodes)
    for _ in range(rng.choice([1, 1, 2, 3])):
        draw = rng.random()
        if draw < 0.08:
            contract = changed_contract(rng, contract)
        elif draw < 0.2:
            nodes = spliced(rng, nodes, list(other.nodes))
        elif draw < 0.55:
            i = rng.randrange(len(nodes))
            nodes[i] = changed_node(rng, nodes[i])
        else:
            nodes = rng.choice(GRAPH_CHANGES)(rng, nodes, model) or nodes
    return assemble(contract, nodes, dict(model.about))


def changed_contract(rng: random.Random, contract: InputContract) -> InputContract:
    shape = contract.shape
    if rng.random() < 0.6:
        shape = tuple(
            max(1, rng.choice([size, size, size - 1, size + 1, rng.randint(1, 12)])) for size in shape
        )
    if rng.random() < 0.2:
        shape = (prod(shape),) if len(shape) == 3 else (shape[0], rng.randint(1, 4), rng.randint(1, 4))
    return draw_contract(rng, shape)


def spliced(rng: random.Random, nodes: Nodes, others: Nodes) -> Nodes:
    """The first nodes of one model and some of another's, which read what they find."""
    kept = nodes[: rng.randint(0, len(nodes))]
    start = rng.randrange(len(others))
    taken = [renamed(node, "b ") for node in others[start : start + rng.randint(1, 6)]]
    rest = nodes[len(kept) :] if rng.random() < 0.4 else []
    return [*kept, *taken, *rest]


def renamed(node: Node, prefix: str) -> Node:
    return replace(node, name=prefix + node.name, inputs=tuple(prefix + name for name in node.inputs))


def changed_node(rng: random.Random, node: Node) -> Node:
    """The node with one of its fields changed."""
    small = partial(rng.choice, [1, 1, 2, 2, 3, 4, 5, 64])
    match node:
        case Linear() | Conv2d():
            return changed_product(rng, node)
        case MaxPool2d() | AvgPool2d():
            kernel = (small(), small())
            fields: list[dict[str, Any]] = [
                {"kernel": kernel, "padding": draw_padding(rng, kernel)},
                {"padding": draw_padding(rng, node.kernel)},
                {"stride": (small(), small())},
                {"stride": rng.choice([(2**31 - 1, 1), (1, 2**28), (1, 1)])},
            ]
            if isinstance(node, AvgPool2d):
                fields.append({"count_padding": not node.count_padding})
            return replace(node, **rng.choice(fields))
        case Affine():
            return replace(
                node, **as_dtype(draw_scales(rng, node.scale.size) or vars_of(node, "scale", "shift"), rng)
            )
        case PReLU():
            return replace(node, slope=draw_floats(rng, (rng.choice([1, node.slope.size]),)))
        case Threshold():
            return replace(node, **draw_limits(rng, node.threshold.size))
        case Hardtanh():
            low, high = sorted(rng.choice([*FLOATS, 0.1, -0.1, 6.0]) for _ in range(2))
            return replace(node, low=low, high=high)
        case Add() | Concat():
            inputs = list(node.inputs)
            rng.shuffle(inputs)
            return replace(node, inputs=tuple(inputs + inputs[: rng.randint(0, 2)]))
        case _:
            op = rng.choice(["Sign", "ReLU", "Flatten", "Softmax"])
            return NODES[op](name=node.name, inputs=node.inputs)


def vars_of(item: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(item, name) for name in names}


def as_dtype(arrays: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    dtype = rng.choice([np.float32, np.float64])
    with np.errstate(all="ignore"):
        return {name: np.nan_to_num(array.astype(dtype)) for name, array in arrays.items()}


def changed_product(rng: random.Random, node: Linear | Conv2d) -> Node:
    shape = node.weight.shape
    changes = ["outputs", "weight", "scale", "packing"]
    if isinstance(node, Conv2d):
        changes += ["stride", "padding", "dilation", "groups", "pad_value", "kernel"]
    small = partial(rng.choice, [1, 1, 2, 2, 3, 4, 5, 9])
    match rng.choice(changes):
        case "outputs":
            outputs = rng.choice([*CHANNELS, max(1, shape[0] - 1), shape[0] + 1])
            return replace(
                node, weight=resized(node.weight, (outputs, *shape[1:])), **draw_scales(rng, outputs)
            )
        case "weight":
            return replace(node, weight=draw_weight(rng, shape, node.is_packed))
        case "scale":
            return replace(node, **({"scale": None, "shift": None} | draw_scales(rng, shape[0])))
        case "packing":
            return replace(node, weight=draw_weight(rng, shape, not node.is_packed))
        case "stride":
            return replace(node, stride=rng.choice([(small(), small()), (2**31 - 1, 1), (1, 2**28)]))
        case "padding":
            return replace(node, padding=tuple(rng.choice([0, 0, 1, 1, 2, 3, 8]) for _ in range(4)))
        case "dilation":
            return replace(node, dilation=rng.choice([(small(), small()), (2**31 - 1, 1), (1, 2**28)]))
        case "groups":
            return replace(node, groups=rng.choice([1, 2, 3, 4, shape[0], shape[1] * node.groups]))
        case "pad_value":
            return replace(node, pad_value=rng.choice([0.0, -0.0, 1.0, -1.0, 0.5, 0.1, 1e-40, -1e38]))
        case _:
            return replace(node, weight=resized(node.weight, (*shape[:2], small(), small())))


def insert(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """A new node between a value and what reads it."""
    at = rng.randint(0, len(nodes))
    source = nodes[at - 1].name if at else INPUT
    shape = model.shapes.get(source, model.input.shape)
    op = rng.choice(list(NODES))
    draft = draw_node(rng, op, shape)
    if draft is None:
        return None
    inputs = (
        (source, rng.choice([node.name for node in nodes[:at]] or [source]))
        if op in ("Add", "Concat")
        else (source,)
    )
    new = draft(name=f"new {rng.randrange(10**6)}", inputs=inputs)
    return [*nodes[:at], new, *(reading(node, source, new.name) for node in nodes[at:])]


def reading(node: Node, old: str, new: str) -> Node:
    """The node with one of its inputs replaced, wherever it stands."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def drop(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """Without a node: what read it reads what it read."""
    gone = rng.randrange(len(nodes))
    source = nodes[gone].inputs[0]
    return [reading(node, nodes[gone].name, source) for i, node in enumerate(nodes) if i != gone] or None


def duplicate(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """A node two times, one reading the other, or both the same."""
    i = rng.randrange(len(nodes))
    twin = replace(nodes[i], name=f"twin {rng.randrange(10**6)}")
    if rng.random() < 0.5:
        twin = replace(twin, inputs=(nodes[i].name, *twin.inputs[1:]))
    rest = [
        reading(node, nodes[i].name, twin.name) if rng.random() < 0.5 else node for node in nodes[i + 1 :]
    ]
    return [*nodes[: i + 1], twin, *rest]


def reorder(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """Two nodes change places, each reading what the other read."""
    i, j = sorted(rng.randrange(len(nodes)) for _ in range(2))
    a, b = nodes[i], nodes[j]
    result = list(nodes)
    result[i], result[j] = (
        replace(b, name=a.name, inputs=a.inputs[:1] + b.inputs[1:]),
        replace(a, name=b.name, inputs=b.inputs[:1] + a.inputs[1:]),
    )
    return result


def rewire(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """A node reads another value, of the same shape if there is one."""
    i = rng.randrange(len(nodes))
    old = rng.choice(nodes[i].inputs)
    names = [INPUT, *(node.name for node in nodes[:i])]
    alike = [name for name in names if model.shapes.get(name) == model.shapes.get(old)]
    result = list(nodes)
    result[i] = reading(nodes[i], old, rng.choice(alike if alike and rng.random() < 0.8 else names))
    return result


def retype(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """Another operation in the place of one."""
    i = rng.randrange(len(nodes))
    shape = model.shapes.get(nodes[i].inputs[0], model.input.shape)
    draft = draw_node(rng, rng.choice([op for op in NODES if op not in ("Add", "Concat")]), shape)
    if draft is None:
        return None
    result = list(nodes)
    result[i] = draft(name=nodes[i].name, inputs=nodes[i].inputs[:1])
    return result


def cut(rng: random.Random, nodes: Nodes, model: PackedModel) -> Nodes | None:
    """The first nodes, so that another one is the output."""
    return nodes[: rng.randint(1, len(nodes))]


GRAPH_CHANGES: list[Callable[[random.Random, Nodes, PackedModel], Nodes | None]] = [
    insert,
    insert,
    drop,
    duplicate,
    reorder,
    rewire,
    retype,
    retype,
    cut,
]


# --- files ------------------------------------------------------------------------------------------------


@dataclass
class Tensor:
    dtype: Any
    shape: Any
    data: bytes

    def entries(self, code: str) -> NDArray[Any]:
        """The data as numbers; what is left of one at the end, after other changes, is not among them."""
        size = np.dtype(code).itemsize
        return np.frombuffer(self.data[: len(self.data) // size * size], code).copy()


@dataclass
class File:
    """A file taken apart: the graph, and tensors whose offsets follow when it is put together again."""

    graph: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def parse(cls, content: bytes) -> "File":
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        graph = json.loads(header.pop("__metadata__")["bnn"])
        tensors = {}
        for name, info in header.items():
            first, last = info["data_offsets"]
            tensors[name] = Tensor(info["dtype"], info["shape"], content[start + first : start + last])
        return cls(graph, tensors)

    def join(self) -> bytes:
        header: dict[str, Any] = {"__metadata__": {"bnn": json.dumps(self.graph)}}
        at = 0
        for name, tensor in self.tensors.items():
            offsets = [at, at + len(tensor.data)]
            header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
            at = offsets[1]
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + b"".join(t.data for t in self.tensors.values())


def some_tensor(rng: random.Random, file: File) -> Tensor:
    """One of the file's; if it has none, one that is not in it, so that changing it changes nothing."""
    return rng.choice(list(file.tensors.values()) or [Tensor("F32", [1], bytes(4))])


# --- tensors ----------------------------------------------------------------------------------------------


def random_entries(rng: random.Random, file: File) -> None:
    """Some bytes of a tensor."""
    tensor = some_tensor(rng, file)
    data = bytearray(tensor.data)
    for _ in range(min(len(data), rng.choice([1, 1, 4, 30]))):
        data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    tensor.data = bytes(data)


def edge_entries(rng: random.Random, file: File) -> None:
    """Some entries of a tensor set to the edges of what its dtype can be."""
    tensor = some_tensor(rng, file)
    edges: dict[Any, tuple[str, Sequence[Any]]] = {
        "F32": ("<f4", FLOATS),
        "F64": ("<f8", [*FLOATS, *WIDE]),
        "I32": ("<i4", [0, 1, -1, 63, 64, 65, -64, 2**24, 2**31 - 1, -(2**31)]),
        "U64": ("<u8", [0, 1, 2**63, 2**64 - 1, 2**32 - 1]),
        "BOOL": ("u1", [0, 1]),
    }
    if tensor.dtype not in edges:
        return
    dtype, values = edges[tensor.dtype]
    array = tensor.entries(dtype)
    share = rng.choice([0.0, 0.1, 1.0])
    value = np.array(rng.choice(values)).astype(dtype)
    for i in range(array.size):
        if rng.random() < share:
            array[i] = value
    if array.size:
        array[rng.randrange(array.size)] = value
    tensor.data = array.tobytes()


def flipped_signs(rng: random.Random, file: File) -> None:
    """Words of ±1 changed as a whole: inverted, cleared, or the rows rolled."""
    words = [tensor for tensor in file.tensors.values() if tensor.dtype == "U64"]
    if not words:
        return
    tensor = rng.choice(words)
    array = tensor.entries("<u8")
    # no bit where none was set in any row keeps most padding 0
    mask = np.bitwise_or.reduce(array) if array.size else np.uint64(0)
    tensor.data = rng.choice([array ^ mask, array & np.uint64(0), np.roll(array, 1)]).tobytes()


def changed_length(rng: random.Random, file: File) -> None:
    """A tensor a little longer or shorter, its shape with it, or not."""
    tensor = some_tensor(rng, file)
    size = DTYPES.get(tensor.dtype, 1)
    entries = rng.choice([1, 1, 2, 64])
    tensor.data = (
        tensor.data[: -size * entries] if rng.random() < 0.5 else tensor.data + bytes(size * entries)
    )
    if len(tensor.shape) == 1 and rng.random() < 0.9:
        tensor.shape = [len(tensor.data) // size]


def changed_dtype(rng: random.Random, file: File) -> None:
    """A tensor of another dtype, its data converted, or taken for it; scale and shift of a node together."""
    name = rng.choice(list(file.tensors) or [""])
    dtype = rng.choice(list(DTYPES))
    together = [name]
    if name.endswith((".scale", ".shift")):
        dtype = rng.choice(["F32", "F64"])
        together = [name.rsplit(".", 1)[0] + end for end in (".scale", ".shift")]
    for name in together:
        tensor = file.tensors.get(name)
        if tensor is None:
            continue
        if {tensor.dtype, dtype} == {"F32", "F64"}:
            codes = {"F32": "<f4", "F64": "<f8"}
            with np.errstate(all="ignore"):
                tensor.data = tensor.entries(codes[tensor.dtype]).astype(codes[dtype]).tobytes()
        tensor.dtype = dtype


def changed_shape(rng: random.Random, file: File) -> None:
    """A tensor's shape permuted, merged or split; that of a packed weight in the graph as well, or alone."""
    if rng.random() < 0.5:
        weights = [v for v in values_of(file.graph) if isinstance(v, dict) and set(v) == {"bits", "shape"}]
        if weights:
            rng.shuffle(rng.choice(weights)["shape"])
        return
    tensor = some_tensor(rng, file)
    if isinstance(tensor.shape, list):
        shape = list(tensor.shape)
        rng.shuffle(shape)
        tensor.shape = rng.choice([shape, shape, [prod(shape)], [1, *shape], [*shape, 1]])


def swapped_tensors(rng: random.Random, file: File) -> None:
    """Two tensors of the same dtype change places."""
    name = rng.choice(list(file.tensors) or [""])
    alike = [other for other, tensor in file.tensors.items() if tensor.dtype == file.tensors[name].dtype]
    if alike:
        other = rng.choice(alike)
        file.tensors[name], file.tensors[other] = file.tensors[other], file.tensors[name]


def reordered_tensors(rng: random.Random, file: File) -> None:
    """The same tensors in another order."""
    names = list(file.tensors)
    rng.shuffle(names)
    file.tensors = {name: file.tensors[name] for name in names}


TENSOR_CHANGES: list[Callable[[random.Random, File], None]] = [
    random_entries,
    edge_entries,
    edge_entries,
    edge_entries,
    flipped_signs,
    flipped_signs,
    changed_length,
    changed_dtype,
    changed_shape,
    swapped_tensors,
    reordered_tensors,
]


# --- JSON -------------------------------------------------------------------------------------------------


def places_of(value: Any) -> Iterator[tuple[Any, Any]]:
    """(parent, key) of every part of a JSON value."""
    for key in value if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places_of(value[key])


def values_of(value: Any) -> Iterator[Any]:
    return (parent[key] for parent, key in places_of(value))


def nudged_number(rng: random.Random, file: File) -> None:
    """A number, set to an edge or a neighbour."""
    numbers = [(p, k) for p, k in places_of(file.graph) if type(p[k]) in (int, float) and k != "format"]
    if not numbers:
        return
    parent, key = rng.choice(numbers)
    old = parent[key]
    near = [old + 1, old - 1, old * 2, -old]
    edges: Sequence[Any] = INTEGERS if isinstance(old, int) else NUMBERS
    parent[key] = rng.choice([*near, *(rng.choice(edges) for _ in near)])


def nudged_geometry(rng: random.Random, file: File) -> None:
    """A field of a window set to what may be sound: a stride of any size is, and often a dilation."""
    nodes = [node for node in file.graph["nodes"] if "stride" in node]
    if not nodes:
        return
    node = rng.choice(nodes)
    field = rng.choice([key for key in ("stride", "dilation", "padding", "kernel") if key in node])
    values = [1, 2, 3, 64, 65536, 2**24, 2**28, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64]
    node[field][rng.randrange(len(node[field]))] = rng.choice(values)


def another_value(rng: random.Random, file: File) -> None:
    """Any part of the graph, set to something else."""
    parent, key = rng.choice(list(places_of(file.graph)))
    values = [None, True, False, 0, 1, -1.5, "", "input", "x", [], {}, [1], {"x": 1}, "fc.weight"]
    parent[key] = rng.choice([*values, parent[key]])


def swapped_names(rng: random.Random, file: File) -> None:
    """Two strings of the graph change places, or one becomes another."""
    strings = [(p, k) for p, k in places_of(file.graph) if isinstance(p[k], str)]
    (a, i), (b, j) = rng.choice(strings), rng.choice(strings)
    if rng.random() < 0.5:
        a[i], b[j] = b[j], a[i]
    else:
        a[i] = b[j]


def another_name(rng: random.Random, file: File) -> None:
    """A node renamed, with all that reads it: its name may be anything."""
    names = [node["name"] for node in file.graph["nodes"]]
    old, new = rng.choice(names), rng.choice(["", "input", "±", "\n", "\0", "a" * 300, "normal 0", "0", "'"])
    for node in file.graph["nodes"]:
        node["name"] = new if node["name"] == old else node["name"]
        node["inputs"] = [new if name == old else name for name in node["inputs"]]


def changed_op(rng: random.Random, file: File) -> None:
    """A node with another operation; with its fields, or those that the operation has."""
    node = rng.choice(file.graph["nodes"])
    node["op"] = rng.choice(list(NODES))
    known = {f.name for f in fields(NODES[node["op"]])} | {"op"}
    if rng.random() < 0.8:
        for key in set(node) - known:
            del node[key]


def changed_nodes(rng: random.Random, file: File) -> None:
    """Nodes dropped, doubled or in another order; what was only theirs is left over."""
    nodes = file.graph["nodes"]
    i, j = rng.randrange(len(nodes)), rng.randrange(len(nodes))
    match rng.randrange(3):
        case 0 if len(nodes) > 1:
            del nodes[i]
        case 1:
            nodes.insert(
                j, json.loads(json.dumps(nodes[i])) | {"name": rng.choice(["twin", nodes[i]["name"]])}
            )
        case _:
            nodes[i], nodes[j] = nodes[j], nodes[i]


def changed_field(rng: random.Random, file: File) -> None:
    """A field that has a default left out, or an optional one given."""
    node = rng.choice(file.graph["nodes"])
    optional = [
        "padding",
        "dilation",
        "groups",
        "pad_value",
        "low",
        "high",
        "count_padding",
        "scale",
        "shift",
    ]
    present = [key for key in optional if key in node]
    if present and rng.random() < 0.8:
        del node[rng.choice(present)]
    else:
        node[rng.choice(optional)] = rng.choice([0, 1, 1.0, None, True, [1, 1], [0, 0, 0, 0]])


JSON_CHANGES: list[Callable[[random.Random, File], None]] = [
    nudged_number,
    nudged_number,
    nudged_number,
    nudged_geometry,
    nudged_geometry,
    swapped_names,
    another_name,
    changed_op,
    changed_nodes,
    changed_field,
]


# --- bytes ------------------------------------------------------------------------------------------------


def mutated_bytes(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Some bytes anywhere changed, cut out, doubled or swapped, or the rest taken from another file."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        match rng.randrange(7):
            case 0 | 1:
                data[a : a + 1] = bytes([rng.randrange(256)])
            case 2:
                data[a : a + 1] = rng.choice([b"0", b"9", b"-", b"e", b'"', b"]", b"\0", b"\xff"])
            case 3:
                del data[a : min(b, a + 20)]
            case 4:
                data[a:a] = data[a : min(b, a + 20)]
            case 5:
                data[a:b] = other[a:b]
            case _:
                data[a:] = other[a if rng.random() < 0.5 else rng.randrange(len(other)) :]
    return bytes(data)

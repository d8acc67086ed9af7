"""Sound models drawn at random, small and of every kind, and what makes an unsound graph sound again."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    NODES,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    InputContract,
    Kind,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Shape,
    Sign,
    Threshold,
    check_shape,
)

__all__ = [
    "DRAWN_WORK",
    "MOST_WORK",
    "assemble",
    "draw_contract",
    "draw_floats",
    "draw_model",
    "draw_node",
    "work_of",
]

Array = NDArray[Any]
Draft = partial[Node]
"""A node without its name: what it takes is given."""

MOST_WORK = 2_000_000
"""Entries and multiply-accumulates of one sample beyond which a model is not run."""

DRAWN_WORK = 200_000
"""The same of a model that is drawn: most are far smaller, as many small ones find more than one large."""

FLOATS = [0.0, -0.0, 0.5, 1.0, -1.0, 2.0, 127.0, 1e-20, -1e-20, 1e-40, 1e-45, 1e15, -1e15, 1e38, -3e38]
WIDE = [1e-60, -1e-60, 1e300, -1e300, 5e-324, 1 + 2**-40]
CHANNELS = [1, 1, 2, 3, 3, 4, 5, 7, 8, 8, 15, 16, 17, 31, 32, 33, 63, 64, 64, 65, 97, 127, 128, 129, 130]
HALVES, ALL_ONE = (0.5, 0.5), (0.0, 1.0)
OUTPUTS = [*CHANNELS, 255, 256, 257, 300]


def work_of(model: PackedModel) -> int:
    """Entries of all values, and of images as padded, with the multiply-accumulates of what reads them."""
    of_nodes = (
        work_of_node(node, [model.shapes[name] for name in node.inputs], model.shapes[node.name])
        for node in model.nodes
    )
    return prod(model.input.shape) + sum(of_nodes)


def work_of_node(node: Node, inputs: Sequence[Shape], shape: Shape) -> int:
    work = prod(shape) * len(inputs)
    if isinstance(node, Linear | Conv2d):
        work += prod(shape) * prod(node.weight.shape[1:])
    if isinstance(node, MaxPool2d | AvgPool2d):
        work += prod(shape) * prod(node.kernel)
    if isinstance(node, Conv2d | MaxPool2d | AvgPool2d):
        top, bottom, left, right = node.padding
        channels, height, width = inputs[0]
        work += channels * (height + top + bottom) * (width + left + right)
    return work


# --- pieces -----------------------------------------------------------------------------------------------


def arrays_of(rng: random.Random) -> np.random.Generator:
    return np.random.default_rng(rng.getrandbits(64))


def draw_floats(rng: random.Random, shape: Sequence[int], dtype: Any = np.float32) -> Array:
    """Normal, whole (of which sums are exact), or with a few entries at the edges of what a float can be."""
    numbers, style = arrays_of(rng), rng.random()
    if style < 0.4:
        return numbers.standard_normal(shape).astype(dtype)
    values = numbers.integers(-4, 5, shape).astype(dtype)
    if style < 0.55:
        values *= dtype(0.25)
    if style > 0.8:
        edges = [*FLOATS, *WIDE] if dtype == np.float64 else FLOATS
        with np.errstate(all="ignore"):
            some = numbers.choice(np.array(edges, dtype=dtype), shape)
        values = np.where(numbers.random(shape) < 0.3, some, values)
    return values


def draw_weight(rng: random.Random, shape: Sequence[int], packed: bool) -> PackedWeight | Array:
    if not packed:
        return draw_floats(rng, shape)
    signs = arrays_of(rng).choice(np.array([-1, 1], np.int8), shape, p=rng.choice([HALVES] * 7 + [ALL_ONE]))
    return PackedWeight.from_signs(signs)


def draw_scales(rng: random.Random, outputs: int) -> dict[str, Array]:
    dtype = rng.choice([None, np.float32, np.float64])
    if dtype is None:
        return {}
    return {name: draw_floats(rng, (outputs,), dtype) for name in ("scale", "shift")}


def draw_limits(rng: random.Random, channels: int) -> dict[str, Array]:
    numbers = arrays_of(rng)
    limits = numbers.integers(-9, 10, channels)
    far = numbers.choice([-(2**31), -65, 64, 2**31 - 1], channels)
    limits = np.where(numbers.random(channels) < 0.1, far, limits)
    return {"threshold": limits.astype(np.int32), "flip": numbers.random(channels) < rng.choice([0, 0.5, 1])}


def draw_padding(rng: random.Random, kernel: Sequence[int], beyond: int = 0) -> tuple[int, int, int, int]:
    if rng.random() < 0.4:
        return (0, 0, 0, 0)
    if rng.random() < 0.4:
        return (kernel[0] // 2, kernel[0] // 2, kernel[1] // 2, kernel[1] // 2)
    top, bottom, left, right = (rng.randint(0, kernel[i // 2] - 1 + beyond) for i in range(4))
    return top, bottom, left, right


def draw_contract(rng: random.Random, shape: Shape) -> InputContract:
    """With a raw form in three cases of four: one mean and deviation, one a channel, some of them alike."""
    channels = shape[0] if len(shape) == 3 else 1
    count = rng.choice([0, 1, channels, channels])
    means, deviations = [0.5, 0.25, 0.1307, 0.0, -0.4], [0.25, 0.5, 0.3081, 1.0, 3.0]
    alike = rng.randint(1, 3)
    return InputContract(
        shape,
        mean=tuple(rng.choice(means) for _ in range(count)),
        std=tuple(rng.choice(deviations[:alike]) for _ in range(count)),
    )


# --- nodes ------------------------------------------------------------------------------------------------


def draw_linear(rng: random.Random, n: int) -> Draft:
    outputs = rng.choice([size for size in OUTPUTS if size * n <= DRAWN_WORK] or [1])
    weight = draw_weight(rng, (outputs, n), rng.random() < 0.75)
    return partial(Linear, weight=weight, **draw_scales(rng, outputs))


def draw_conv(rng: random.Random, shape: Shape) -> Draft:
    channels = shape[0]
    groups = rng.choice([1, 1, 1, channels, rng.choice([d for d in range(1, 9) if channels % d == 0])])
    outputs = groups * rng.randint(1, 3) if groups > 1 else rng.choice(CHANNELS)
    if groups == channels and rng.random() < 0.5:
        outputs = channels
    kernel = rng.choice([(1, 1), (2, 2), (3, 3), (3, 3), (1, 3), (3, 1), (4, 2), (shape[1], shape[2])])
    weight = draw_weight(rng, (outputs, channels // groups, *kernel), rng.random() < 0.75)
    return partial(
        Conv2d,
        weight=weight,
        stride=rng.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1)]),
        padding=draw_padding(rng, kernel, beyond=1),
        dilation=rng.choice([(1, 1), (1, 1), (2, 2), (1, 2), (3, 1)]),
        groups=groups,
        pad_value=rng.choice([0.0, 0.0, 0.0, -1.0, 1.0, 0.5, -0.0, -2.25]),
        **draw_scales(rng, outputs),
    )


def draw_of_signs(rng: random.Random, shape: Shape) -> Draft:
    """A product of ±1 with ±1 that gives integers."""
    draft = draw_conv(rng, shape) if len(shape) == 3 else draw_linear(rng, shape[0])
    weight = draw_weight(rng, draft.keywords["weight"].shape, True)
    integers = {"pad_value": rng.choice([0.0, 1.0, -1.0, -0.0])} if len(shape) == 3 else {}
    return partial(draft, weight=weight, scale=None, shift=None, **integers)


def draw_pool(rng: random.Random, cls: type[MaxPool2d] | type[AvgPool2d], shape: Shape) -> Draft:
    kernel = rng.choice([(2, 2), (2, 2), (3, 3), (1, 2), (3, 1), (1, 1), (shape[1], shape[2])])
    more = {"count_padding": rng.random() < 0.5} if cls is AvgPool2d else {}
    stride = rng.choice([kernel, (1, 1), (2, 2), (1, 3)])
    return partial(cls, kernel=kernel, stride=stride, padding=draw_padding(rng, kernel), **more)


def draw_hardtanh(rng: random.Random) -> Draft:
    low, high = rng.choice([(-1.0, 1.0), (0.0, 6.0), (-0.5, 0.25), (1.0, 1.0), (-0.0, 0.0), (-1e38, 1e-40)])
    return partial(Hardtanh, low=low, high=high)


def draw_node(rng: random.Random, op: str, shape: Shape) -> Draft | None:
    """A node of this operation for an input of this shape; None if it takes no such input."""
    if len(shape) != 3 and op in ("Conv2d", "MaxPool2d", "AvgPool2d"):
        return None
    if len(shape) != 1 and op in ("Linear", "Softmax"):
        return None
    match op:
        case "Linear":
            return draw_linear(rng, shape[0])
        case "Conv2d":
            return draw_conv(rng, shape)
        case "MaxPool2d":
            return draw_pool(rng, MaxPool2d, shape)
        case "AvgPool2d":
            return draw_pool(rng, AvgPool2d, shape)
        case "Affine":
            dtype = rng.choice([np.float32, np.float64])
            return partial(
                Affine, **{name: draw_floats(rng, shape[:1], dtype) for name in ("scale", "shift")}
            )
        case "Threshold":
            return partial(Threshold, **draw_limits(rng, shape[0]))
        case "PReLU":
            return partial(PReLU, slope=draw_floats(rng, (rng.choice([1, shape[0]]),)))
        case "Hardtanh":
            return draw_hardtanh(rng)
        case _:
            return partial(NODES[op])


# --- graphs -----------------------------------------------------------------------------------------------

OFTEN = {"Linear": 3, "Conv2d": 6, "Sign": 5, "Softmax": 0.4, "Flatten": 1.5}


def draw_model(rng: random.Random) -> PackedModel:
    """A model of some nodes, most of which read the value before them, so that products find signs."""
    side = partial(rng.choice, [1, 2, 3, 4, 5, 6, 7, 8, 9, 12])
    shape = (rng.choice(CHANNELS), side(), side()) if rng.random() < 0.65 else (rng.choice(OUTPUTS),)
    contract, graph = draw_contract(rng, shape), Graph(shape)
    length = rng.randint(1, 10)
    draft: Draft | None
    for _ in range(4 * length):
        if len(graph.nodes) >= length:
            break
        names = list(graph.shapes)
        source = names[-1] if rng.random() < 0.8 else rng.choice(names)
        op = rng.choices(list(NODES), [OFTEN.get(op, 1) for op in NODES])[0]
        kind, likely = graph.kinds[source], rng.random() < 0.6
        if kind == "int" and likely:
            op = "Threshold"
        if kind == "sign" and likely:
            op = "Conv2d" if len(graph.shapes[source]) == 3 else "Linear"
            draft = draw_of_signs(rng, graph.shapes[source])
        else:
            draft = draw_node(rng, op, graph.shapes[source])
        inputs: tuple[str, ...] = (source,)
        if op in ("Add", "Concat"):
            inputs += tuple(rng.choices(graph.companions(op, source), k=rng.randint(1, 3)))
        if draft is not None:
            graph.append(draft(name=f"n{len(graph.nodes)}", inputs=inputs))
    if not graph.nodes:
        graph.append(ReLU(name="last", inputs=(INPUT,)))
    out = graph.shapes[graph.nodes[-1].name]
    labels = [f"±{i}" for i in range(out[0])] if len(out) == 1 and rng.random() < 0.2 else []
    return PackedModel(replace(contract, labels=tuple(labels)), tuple(graph.nodes), {"drawn": "at random"})


class Graph:
    """Nodes that fit each other so far."""

    def __init__(self, shape: Shape) -> None:
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {INPUT: shape}
        self.kinds: dict[str, Kind] = {INPUT: "input"}
        self.work = prod(shape)

    def append(self, node: Node) -> bool:
        """Whether the node fits, does not make the model too much work, and so is in the graph now."""
        if node.name in self.shapes:
            return False
        try:
            node.check()
            shape = node.shape(*(self.shapes[name] for name in node.inputs))
            kind = node.kind(*(self.kinds[name] for name in node.inputs))
            check_shape("", shape)
        except ValueError:
            return False
        work = self.work + work_of_node(node, [self.shapes[name] for name in node.inputs], shape)
        if work > DRAWN_WORK:
            return False
        self.nodes.append(node)
        self.shapes[node.name], self.kinds[node.name], self.work = shape, kind, work
        return True

    def companions(self, op: Literal["Add", "Concat"] | str, name: str) -> list[str]:
        """Values that can be added to a value, or stand beside it."""
        skip = 0 if op == "Add" else 1
        return [
            n
            for n, shape in self.shapes.items()
            if shape[skip:] == self.shapes[name][skip:] and len(shape) == len(self.shapes[name])
        ]


def assemble(
    contract: InputContract, nodes: Iterable[Node], about: dict[str, str] | None = None
) -> PackedModel:
    """A sound model of nodes that may not fit: each is mended for what it takes, or else left out."""
    graph, renamed = Graph(contract.shape), {INPUT: INPUT}
    for node in nodes:
        inputs = tuple(renamed.get(name, list(graph.shapes)[-1]) for name in node.inputs) or (INPUT,)
        name = node.name
        while name in graph.shapes or not name:
            name += "'"
        fitting = next(
            (n for n in mended(graph, replace(node, name=name, inputs=inputs)) if graph.append(n)), None
        )
        renamed[node.name] = fitting.name if fitting else inputs[0]
    kept = tuple(graph.nodes) or (ReLU(name="last", inputs=(INPUT,)),)
    if graph.shapes.get(kept[-1].name) != (len(contract.labels),):
        contract = replace(contract, labels=())
    return PackedModel(contract, kept, about or {})


def mended(graph: Graph, node: Node) -> Iterable[Node]:
    """The node as it is, then changed more and more to fit its inputs."""
    yield node
    shape = graph.shapes[node.inputs[0]]
    match node:
        case Linear():
            if len(shape) == 3:
                flat = Flatten(name=f"{node.name} flat", inputs=node.inputs)
                if not graph.append(flat):
                    return
                node = replace(node, inputs=(flat.name,))
            yield replace(node, weight=resized(node.weight, (node.out_channels, prod(shape))))
        case Conv2d() if len(shape) == 3:
            yield from mended_conv(node, shape)
        case MaxPool2d() | AvgPool2d() if len(shape) == 3:
            kernel = tuple(min(k, size) for k, size in zip(node.kernel, shape[1:], strict=True))
            yield replace(node, padding=(0, 0, 0, 0))
            yield replace(node, padding=(0, 0, 0, 0), kernel=kernel)
        case Affine():
            yield replace(
                node, scale=np.resize(node.scale, shape[:1]), shift=np.resize(node.shift, shape[:1])
            )
        case PReLU():
            yield replace(node, slope=np.resize(node.slope, shape[:1]))
        case Threshold():
            limits, flip = (np.resize(array, shape[:1]) for array in (node.threshold, node.flip))
            yield replace(node, threshold=limits, flip=flip)
            yield Sign(name=node.name, inputs=node.inputs)
        case Add() | Concat():
            fitting = graph.companions(type(node).__name__, node.inputs[0])
            inputs = [name for name in node.inputs if name in fitting]
            yield replace(node, inputs=tuple(inputs if len(inputs) > 1 else 2 * inputs))


def mended_conv(node: Conv2d, shape: Shape) -> Iterable[Node]:
    out, _, kh, kw = node.weight.shape
    groups = node.groups if shape[0] % node.groups == 0 else 1
    if node.groups == node.weight.shape[0] and shape[0] > 1:  # depthwise stays depthwise
        groups, out = shape[0], shape[0]
    out = max(1, out // groups) * groups
    vectors = {}
    if node.scale is not None and node.shift is not None:
        vectors = {"scale": np.resize(node.scale, (out,)), "shift": np.resize(node.shift, (out,))}
    node = replace(
        node, weight=resized(node.weight, (out, shape[0] // groups, kh, kw)), groups=groups, **vectors
    )
    yield node
    node = replace(node, dilation=(1, 1), padding=tuple(min(p, 3) for p in node.padding))
    yield node
    kernel = (min(kh, shape[1]), min(kw, shape[2]))
    yield replace(node, weight=resized(node.weight, (out, shape[0] // groups, *kernel)))


def resized(weight: PackedWeight | Array, shape: Sequence[int]) -> PackedWeight | Array:
    """The weight repeated, or cut, to fill a shape."""
    if isinstance(weight, PackedWeight):
        return PackedWeight.from_signs(np.resize(weight.signs(), shape))
    return np.resize(weight, shape)

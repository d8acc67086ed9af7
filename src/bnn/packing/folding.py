"""Folding: batch norms into the layers before them, and into thresholds where only a sign is left.

It takes nodes as `bnn.packing.translation` makes them, with scales in float64, and returns an equal graph
with fewer nodes, whose scales are float32. Signs of integers stay exactly what they were; other values may
differ by rounding. What cannot be folded stays an Affine node: a batch norm *before* a zero-padded
convolution, for example, as the padding is added after the norm and lacks its shift.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import warn
from bnn.packed.nodes import (
    INPUT,
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    Hardtanh,
    Kind,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Sign,
    Threshold,
)
from bnn.packing.weights import PackWarning

__all__ = ["fold"]

Array = NDArray[Any]
Product = Linear | Conv2d


def fold(nodes: Sequence[Node], output: str) -> tuple[Node, ...]:
    """Folds a graph whose result is the value `output`; nodes that it does not need are dropped."""
    graph = _Graph(nodes, output)
    graph.drop_unused()
    _fold_affines(graph)
    _simplify_signs(graph)
    _fold_thresholds(graph)
    precise, kinds = _read_by_signs_only(graph) | _integer_output(graph), graph.kinds()
    return tuple(_with_precision(node, kinds[node.name], node.name in precise) for node in graph)


class _Graph:
    """Nodes in order, by name, that passes replace and remove."""

    def __init__(self, nodes: Iterable[Node], output: str) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.output = output

    def __iter__(self) -> Iterator[Node]:
        return iter(list(self.nodes.values()))

    def producer(self, name: str) -> Node | None:
        """The node whose value this is; None for the input."""
        return self.nodes.get(name)

    def uses(self) -> Counter[str]:
        """How often each value is read; the output counts as read once more."""
        return Counter([self.output, *(name for node in self.nodes.values() for name in node.inputs)])

    def kinds(self) -> dict[str, Kind]:
        """The kind of each value."""
        kinds: dict[str, Kind] = {INPUT: "input"}
        for node in self:
            kinds[node.name] = node.kind(*(kinds[name] for name in node.inputs))
        return kinds

    def put(self, node: Node) -> None:
        """Replaces the node of that name."""
        self.nodes[node.name] = node

    def bypass(self, node: Node) -> None:
        """Removes a node of one input; whoever read it reads that input."""
        (source,) = node.inputs
        del self.nodes[node.name]
        for reader in self:
            if node.name in reader.inputs:
                renamed = tuple(source if name == node.name else name for name in reader.inputs)
                self.put(replace(reader, inputs=renamed))
        if self.output == node.name:
            self.output = source

    def drop_unused(self) -> None:
        needed = {self.output}
        for node in reversed(list(self.nodes.values())):
            if node.name in needed:
                needed.update(node.inputs)
            else:
                del self.nodes[node.name]


def _scale_shift(node: Product | Affine) -> tuple[Array, Array]:
    if node.scale is not None and node.shift is not None:
        return node.scale, node.shift
    assert not isinstance(node, Affine)
    return np.ones(node.out_channels), np.zeros(node.out_channels)


def _fold_affines(graph: _Graph) -> None:
    """scale * (a * x + b) + shift = (scale * a) * x + (scale * b + shift), for each channel."""
    for node in graph:
        node = graph.nodes[node.name]
        if not isinstance(node, Affine):
            continue
        before = graph.producer(node.inputs[0])
        if isinstance(before, Linear | Conv2d | Affine) and graph.uses()[before.name] == 1:
            a, b = _scale_shift(before)
            graph.put(replace(before, scale=node.scale * a, shift=node.scale * b + node.shift))
            graph.bypass(node)


def _simplify_signs(graph: _Graph) -> None:
    """sign(hardtanh(x)) = sign(x), sign(sign(x)) = sign(x); sign(relu(x)) is a mistake worth a word."""
    for node in graph:
        node = graph.nodes[node.name]
        if not isinstance(node, Sign):
            continue
        _drop_hardtanh_above(graph, node)
        node = graph.nodes[node.name]
        before = graph.producer(node.inputs[0])
        while isinstance(before, Hardtanh) and before.low < 0 <= before.high:
            node = replace(node, inputs=before.inputs)
            graph.put(node)
            before = graph.producer(node.inputs[0])
        if isinstance(before, Sign):
            graph.bypass(node)
        elif _never_negative(graph, before):
            warn(f"{node.name}: the sign of a ReLU is always +1", PackWarning, stacklevel=2)
    graph.drop_unused()


def _drop_hardtanh_above(graph: _Graph, sign: Sign) -> None:
    """Pooling and flattening lie between the sign and a hardtanh that nothing else reads: it goes as well."""
    uses = graph.uses()
    node = graph.producer(sign.inputs[0])
    while node is not None and uses[node.name] == 1 and isinstance(node, Hardtanh | MaxPool2d | Flatten):
        above = graph.producer(node.inputs[0])
        if isinstance(node, Hardtanh) and node.low < 0 <= node.high:
            graph.bypass(node)
        node = above


def _never_negative(graph: _Graph, node: Node | None) -> bool:
    while isinstance(node, MaxPool2d | AvgPool2d | Flatten):
        node = graph.producer(node.inputs[0])
    return isinstance(node, ReLU) or (isinstance(node, Hardtanh) and node.low >= 0)


# --- thresholds -------------------------------------------------------------------------------------------


def _fold_thresholds(graph: _Graph) -> None:
    """sign(scale * z + shift) of an integer z, a product of ±1 with ±1, is a comparison with an integer.

    On the way from the product to the sign may lie affine nodes and max pooling, which commutes with an
    increasing map: max(a * z + b) = a * max(z) + b only if a > 0.
    """
    kinds = graph.kinds()
    for node in graph:
        node = graph.nodes[node.name]
        if not isinstance(node, Sign):
            continue
        scale, shift = np.ones(1), np.zeros(1)
        removed: list[Affine] = []
        pooled = False
        source = graph.producer(node.inputs[0])
        while isinstance(source, Affine | MaxPool2d) and graph.uses()[source.name] == 1:
            if isinstance(source, Affine):
                if pooled and not (source.scale > 0).all():
                    break
                scale, shift = scale * source.scale, scale * source.shift + shift
                removed.append(source)
            pooled = pooled or isinstance(source, MaxPool2d)
            source = graph.producer(source.inputs[0])
        if not isinstance(source, Linear | Conv2d) or graph.uses()[source.name] != 1:
            continue
        a, b = _scale_shift(source)
        product = replace(source, scale=None, shift=None)
        if product.kind(kinds[source.inputs[0]]) != "int" or (pooled and not (a > 0).all()):
            continue
        threshold, flip = integer_threshold(scale * a, scale * b + shift)
        graph.put(product)
        graph.put(Threshold(name=node.name, inputs=node.inputs, threshold=threshold, flip=flip))
        for affine in removed:
            graph.bypass(affine)


def integer_threshold(scale: Array, shift: Array) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """(threshold, flip) such that, for every integer z, scale * z + shift >= 0 iff (z >= threshold) != flip.

    flip is `scale < 0`: then the sign falls from +1 to -1 as z grows. With scale = 0 it is the sign of
    shift, whatever z is.
    """
    falling, constant = scale < 0, scale == 0

    def above(z: Array) -> Array:  # false up to some integer, true from there on
        return (scale * z + shift >= 0) != falling

    with np.errstate(over="ignore", invalid="ignore"):
        threshold = np.ceil(-shift / np.where(constant, 1, scale))
        # The division rounds, so look on both sides.
        threshold = threshold - above(threshold - 1)
        threshold = threshold + ~above(threshold)
    limits = np.iinfo(np.int32)
    threshold = np.where(constant, limits.min, np.clip(threshold, limits.min, limits.max))
    flip = np.where(constant, shift < 0, falling)
    return threshold.astype(np.int32), flip.astype(np.bool_)


# --- precision --------------------------------------------------------------------------------------------


def _read_by_signs_only(graph: _Graph) -> set[str]:
    """Names of the values of which nothing but signs is taken, directly or through more such values.

    They keep float64 scales: rounding to float32 would move the border between +1 and -1.
    """
    precise: set[str] = set()
    nodes = list(graph)
    for node in reversed(nodes):
        readers = [reader for reader in nodes if node.name in reader.inputs]
        passed_on = all(
            isinstance(reader, Sign)
            or (isinstance(reader, Product | Affine | MaxPool2d | Flatten) and reader.name in precise)
            for reader in readers
        )
        if readers and passed_on:
            precise.add(node.name)
    return precise


def _integer_output(graph: _Graph) -> set[str]:
    """The name of the output, if it is an affine map of integers: in float64 it is exact to the last bit."""
    node, kinds = graph.producer(graph.output), graph.kinds()
    if not isinstance(node, Linear | Conv2d):
        return set()
    return (
        {node.name} if replace(node, scale=None, shift=None).kind(kinds[node.inputs[0]]) == "int" else set()
    )


def _with_precision(node: Node, kind: Kind, precise: bool) -> Node:
    if not isinstance(node, Linear | Conv2d | Affine):
        return node
    if precise and kind == "float":
        scale, shift = _scale_shift(node)  # even if it has none: their dtype says float64
        return replace(node, scale=scale, shift=shift)
    if node.scale is None or node.shift is None:
        return node
    return replace(node, scale=node.scale.astype(np.float32), shift=node.shift.astype(np.float32))

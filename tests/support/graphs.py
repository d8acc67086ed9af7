"""Graphs before and after folding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from support.helpers import packed_weight, random_pixels

from bnn.packed.model import PackedModel
from bnn.packed.nodes import Affine, Conv2d, InputContract, MaxPool2d, Node, Sign
from bnn.packing.folding import fold
from bnn.runtime import ENGINES, Runner

IMAGE = InputContract((2, 6, 6), mean=(0.4,), std=(0.3,))


def affine(name: str, source: str, scale: Sequence[float], shift: Sequence[float]) -> Affine:
    return Affine(name=name, inputs=(source,), scale=np.array(scale, float), shift=np.array(shift, float))


def sign(name: str, source: str) -> Sign:
    return Sign(name=name, inputs=(source,))


def conv(name: str, source: str, channels: int = 2, out: int = 4, **fields: Any) -> Conv2d:
    return Conv2d(name=name, inputs=(source,), weight=packed_weight(out, channels, 3, 3), **fields)


def pool(name: str, source: str, cls: type[Node] = MaxPool2d) -> Node:
    return cls(name=name, inputs=(source,), kernel=(2, 2), stride=(2, 2))


def assert_folded(nodes: Sequence[Node], *kept: str, tolerance: float = 0.0) -> dict[str, Node]:
    """Folding leaves the nodes of these names, and the output on random pixels; returns what is left."""
    folded = fold(nodes, nodes[-1].name)
    assert [node.name for node in folded] == list(kept)
    x = random_pixels(500, *IMAGE.shape)
    for engine in ENGINES:
        before, after = (Runner(PackedModel(IMAGE, tuple(graph)), engine)(x) for graph in (nodes, folded))
        assert np.abs(before - after).max() <= tolerance * np.abs(before).max()
        assert before.std() > 0
    return {node.name: node for node in folded}

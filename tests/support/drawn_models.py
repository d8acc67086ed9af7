"""Packed models drawn at random, on which engines compute exactly the same.

Values are whole multiples of powers of two, with few enough bits that no sum of them rounds, in whatever
order it is added; so results are compared exactly, and no sign can flip. What has rounded once but in the
same way in both goes on to where nothing is added in another order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from support.helpers import Array, random_pixels

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Shape,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import reference

EXACT, SAME, NEAR = "exact", "same", "near"


@dataclass(frozen=True)
class Value:
    """What the generator knows of a value.

    Attributes:
        precision: EXACT, multiples of `step` up to `limit`; SAME, rounded, but alike in every engine; NEAR,
            sums of such, which depend on the order.
        wide: it is float64.
        raw: it is the input, as pixels.
    """

    name: str
    shape: Shape
    kind: str
    precision: str
    limit: float
    step: float
    wide: bool = False
    raw: bool = False

    @property
    def fits(self) -> bool:
        return self.limit / self.step <= 2 ** (53 if self.wide else 24)


class Generator:
    """One random model.

    Args:
        pixels: the input is uint8: pixels of any value, or of 0 and 255 alone, which are normalised exactly.
        activations: with "int8" a quantized product rounds.
        rough: fields are any floats, sums may round, and then no sign is taken of them.
    """

    def __init__(
        self, seed: int, pixels: str = "", activations: str = "float32", rough: bool = False
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.pixels, self.activations, self.rough = pixels, activations, rough
        self.nodes: list[Node] = []
        contract, first = self.input()
        self.values = [first]
        size = self.rng.integers(3, 13)
        for _ in range(200):
            if len(self.nodes) < size:
                integers = self.values[-1].kind == "int" and self.chance(0.4)
                self.add(self.one_of([threshold, max_pool] if integers else STEPS))
        while not self.nodes:
            self.add(relu)
        if self.chance(0.1) and len(self.values[-1].shape) == 1:
            self.add(softmax)
        self.model = PackedModel(contract, tuple(self.nodes))

    def one_of(self, options: Any) -> Any:
        return options[self.rng.integers(len(options))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def channels(self) -> int:
        return int(self.rng.integers(1, 6) if self.chance(0.75) else self.rng.integers(60, 73))

    def pair(self, low: int, high: int) -> tuple[int, int]:
        a, b = self.rng.integers(low, high + 1, 2)
        return int(a), int(b)

    def input(self) -> tuple[InputContract, Value]:
        image = self.chance(0.8)
        shape: Shape = (
            (self.channels(), *self.pair(1, 7)) if image else (self.channels() * self.one_of([1, 2]),)
        )
        if not self.pixels:
            kind = Value("input", shape, "input", SAME if self.rough else EXACT, 9, 1)
            return InputContract(shape), kind
        n = shape[0] if image and self.chance(0.5) else 1
        mean, std = self.rng.choice([0.25, 0.5, 0.75], n), np.sort(self.rng.choice([0.125, 0.25, 0.5], n))
        contract = InputContract(shape, mean=tuple(mean), std=tuple(std))
        return contract, Value(
            "input", shape, "input", EXACT if self.pixels == "black and white" else SAME, 8, 0.5, True, True
        )

    def add(self, step: "Step") -> None:
        """Adds what a step makes, if what it draws fits together and stays exact."""
        made = step(self, self.source())
        if made is None:
            return
        node, value = made
        if value.precision == EXACT and not value.fits:
            return
        try:
            shapes = [next(v.shape for v in self.values if v.name == name) for name in node.inputs]
            kinds: Any = [next(v.kind for v in self.values if v.name == name) for name in node.inputs]
            node.check()
            shape, kind = node.shape(*shapes), node.kind(*kinds)
        except ValueError:
            return
        if prod(shape) <= 4000:
            self.nodes.append(node)
            self.values.append(replace(value, name=node.name, shape=shape, kind=kind))

    def source(self) -> Value:
        return self.values[-1] if self.chance(0.7) else self.one_of(self.values)

    def name(self) -> str:
        return f"n{len(self.nodes)}"

    def factors(self, n: int) -> Array:
        if self.rough:
            return self.rng.standard_normal(n) + 0.1
        return self.rng.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], n)

    def shifts(self, n: int) -> Array:
        return self.rng.standard_normal(n) if self.rough else self.rng.integers(-8, 9, n) / 4

    def number(self) -> float:
        """A number of float32, so that it is the same beside float64."""
        return float(self.rng.integers(-12, 13)) / 4


Step = Callable[[Generator, Value], tuple[Node, Value] | None]


def rounded(g: Generator, x: Value, y: Value) -> Value:
    """y, made of x entry by entry; with any fields it rounds."""
    return replace(y, precision=SAME) if g.rough and x.precision == EXACT else y


def product(g: Generator, x: Value, cls: Any, shape: Shape, **fields: Any) -> tuple[Node, Value] | None:
    """A layer with a weight of this shape, packed or not, with scales of float32, float64, or without."""
    packed, n = g.chance(0.8), prod(shape[1:])
    largest = 1.0
    weight: Any
    if packed:
        weight = PackedWeight.from_signs(g.rng.choice(np.array([-1, 1], np.int8), shape))
    elif g.rough:
        weight = g.rng.standard_normal(shape).astype(np.float32)
    else:
        weight, largest = g.rng.integers(-2, 3, shape).astype(np.float32), 2.0
    dtype = g.one_of([None, np.float32, np.float64])
    if dtype is not None:
        fields["scale"], fields["shift"] = (f(shape[0]).astype(dtype) for f in (g.factors, g.shifts))
    node = cls(name=g.name(), inputs=(x.name,), weight=weight, **fields)

    pad = abs(fields.get("pad_value", 0.0)) if any(fields.get("padding", ())) else 0.0
    sums = Value("", (), "", x.precision, n * largest * max(x.limit, pad), x.step, dtype == np.float64)
    if pad:
        sums = replace(sums, step=min(x.step, 0.25))
    ungrouped = fields.get("groups", 1) == 1
    quantized = g.activations == "int8" and reference.quantizes(node, x.kind) and not x.raw  # type: ignore[arg-type]
    exact_pixels = x.raw and packed and ungrouped
    if quantized or (exact_pixels and x.precision == SAME):
        sums = replace(sums, precision=SAME)  # integers, then a factor
    elif x.precision != EXACT or (g.rough and not packed):
        sums = replace(sums, precision=NEAR)
    if sums.precision == EXACT and not sums.fits:
        if not g.rough:
            return None
        sums = replace(sums, precision=NEAR)
    if sums.precision == NEAR and not g.rough:
        return None
    if dtype is None:
        return node, sums
    return node, rounded(g, sums, replace(sums, limit=2 * sums.limit + 2, step=min(sums.step / 2, 0.25)))


def linear(g: Generator, x: Value) -> tuple[Node, Value] | None:
    return product(g, x, Linear, (g.channels(), prod(x.shape))) if len(x.shape) == 1 else None


def conv(g: Generator, x: Value) -> tuple[Node, Value] | None:
    if len(x.shape) != 3:
        return None
    channels = x.shape[0]
    groups = g.one_of([1, 1, 1, channels, *(k for k in (2, 3) if channels % k == 0)])
    out = groups * g.one_of([1, 1, 2]) if groups > 1 else g.channels()
    sides = g.rng.integers(0, 3, 4) if g.chance(0.6) else np.zeros(4, int)
    return product(
        g,
        x,
        Conv2d,
        (out, channels // groups, *g.pair(1, 3)),
        stride=g.pair(1, 2),
        padding=tuple(int(side) for side in sides),
        dilation=g.pair(1, 2),
        groups=groups,
        pad_value=g.one_of([0.0, 0.0, 0.0, 1.0, -1.0, 0.75]),
    )


def affine(g: Generator, x: Value) -> tuple[Node, Value] | None:
    dtype = g.one_of([np.float32, np.float64])
    scale, shift = (f(x.shape[0]).astype(dtype) for f in (g.factors, g.shifts))
    node = Affine(name=g.name(), inputs=(x.name,), scale=scale, shift=shift)
    y = replace(x, limit=2 * x.limit + 2, step=min(x.step / 2, 0.25), wide=dtype == np.float64, raw=False)
    return node, rounded(g, x, y)


def threshold(g: Generator, x: Value) -> tuple[Node, Value] | None:
    if x.kind != "int":
        return None
    n, reach = x.shape[0], int(min(x.limit, 12)) + 1
    limits = g.rng.integers(-reach, reach + 1, n, dtype=np.int32)
    node = Threshold(name=g.name(), inputs=(x.name,), threshold=limits, flip=g.rng.random(n) < 0.5)
    return node, replace(x, precision=EXACT, limit=1, step=1, wide=False)


def sign(g: Generator, x: Value) -> tuple[Node, Value] | None:
    if x.precision == NEAR:
        return None
    node = Sign(name=g.name(), inputs=(x.name,))
    return node, replace(x, precision=EXACT, limit=1, step=1, wide=False, raw=False)


def relu(g: Generator, x: Value) -> tuple[Node, Value] | None:
    return ReLU(name=g.name(), inputs=(x.name,)), replace(x, raw=False)


def prelu(g: Generator, x: Value) -> tuple[Node, Value] | None:
    n = g.one_of([1, x.shape[0]])
    slope = (g.factors(n) / 2).astype(np.float32)
    y = replace(x, step=x.step / 4, raw=False)
    return PReLU(name=g.name(), inputs=(x.name,), slope=slope), rounded(g, x, y)


def hardtanh(g: Generator, x: Value) -> tuple[Node, Value] | None:
    low, high = sorted((g.number(), g.number()))
    y = replace(x, limit=max(abs(low), abs(high), 1), step=min(x.step, 0.25), raw=False)
    return Hardtanh(name=g.name(), inputs=(x.name,), low=low, high=high), y


def pool(g: Generator, cls: Any, x: Value, y: Value, **fields: Any) -> tuple[Node, Value] | None:
    if len(x.shape) != 3:
        return None
    kernel = g.pair(1, 3)
    padding = tuple(int(g.rng.integers(0, k)) if g.chance(0.4) else 0 for k in kernel for _ in "12")
    fields |= {"kernel": kernel, "stride": g.pair(1, 2), "padding": padding}
    return cls(name=g.name(), inputs=(x.name,), **fields), replace(y, raw=False)


def max_pool(g: Generator, x: Value) -> tuple[Node, Value] | None:
    return pool(g, MaxPool2d, x, x)


def avg_pool(g: Generator, x: Value) -> tuple[Node, Value] | None:
    """Exact sums, and a division that rounds as any other."""
    sums = replace(x, limit=9 * x.limit)
    if x.precision == EXACT and sums.fits:
        return pool(g, AvgPool2d, x, replace(sums, precision=SAME), count_padding=g.chance(0.5))
    return pool(g, AvgPool2d, x, replace(x, precision=NEAR)) if g.rough else None


def together(g: Generator, x: Value, fit: Callable[[Value], bool]) -> tuple[list[Value], Value]:
    """Two or three values, x among them, and what is known of all of them."""
    others = [v for v in g.values if fit(v)]
    several = [x, *(g.one_of(others) for _ in range(g.one_of([1, 1, 2])))]
    several = [several[i] for i in g.rng.permutation(len(several))]
    precisions = {v.precision for v in several}
    return several, replace(
        x,
        precision=NEAR if NEAR in precisions else SAME if SAME in precisions else EXACT,
        limit=max(v.limit for v in several),
        step=min(v.step for v in several),
        wide=any(v.wide for v in several),
        raw=False,
    )


def add(g: Generator, x: Value) -> tuple[Node, Value] | None:
    several, y = together(g, x, lambda v: v.shape == x.shape)
    if y.precision != EXACT and len({v.wide for v in several}) > 1:
        return None  # float32 first, then float64: rounding depends on where the one ends
    y = replace(y, limit=sum(v.limit for v in several))
    return Add(name=g.name(), inputs=tuple(v.name for v in several)), rounded(g, x, y)


def concat(g: Generator, x: Value) -> tuple[Node, Value] | None:
    several, y = together(g, x, lambda v: v.shape[1:] == x.shape[1:])
    return Concat(name=g.name(), inputs=tuple(v.name for v in several)), y


def flatten(g: Generator, x: Value) -> tuple[Node, Value] | None:
    return Flatten(name=g.name(), inputs=(x.name,)), x


def softmax(g: Generator, x: Value) -> tuple[Node, Value] | None:
    """Exponentials differ in the last bit: at the end, or where sums may round."""
    return Softmax(name=g.name(), inputs=(x.name,)), replace(x, precision=NEAR, limit=1, raw=False)


STEPS: list[Step] = [
    *[linear, conv] * 4,
    *[threshold] * 3,
    *[sign, max_pool, flatten] * 2,
    *[affine, relu, prelu, hardtanh, avg_pool, add, concat],
]


# --- comparing --------------------------------------------------------------------------------------------

PIXELS = ["", "any", "black and white"]


def draw(pixels: str, model: PackedModel, seed: int, batch: int = 4) -> Array:
    shape = (batch, *model.input.shape)
    if pixels:
        x = random_pixels(*shape, seed=seed)
        return 255 * (x % 2) if pixels == "black and white" else x
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)

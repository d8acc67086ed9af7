"""What `bnn bench` measures: standard shapes, or a model and each of its layers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.bench.machine import instruction_sets
from bnn.errors import UserError
from bnn.packed.costs import layer_costs
from bnn.packed.model import PackedModel
from bnn.packed.nodes import INPUT, Conv2d, InputContract, Linear, Node, PackedWeight, ReLU, Shape, Sign
from bnn.runtime.reference import Activations, quantizes
from bnn.runtime.threads import available_cores

__all__ = ["Case", "model_cases", "select", "standard_cases"]

Product = Linear | Conv2d


@dataclass(frozen=True, eq=False)
class Case:
    """A model on a batch, by some kernels and threads.

    Attributes:
        name: as the reader sees it.
        model: what our engine runs.
        batch: samples.
        isa: the kernels.
        threads: for both sides.
        activations: of our engine.
        twin: what others run, if not the model: one that starts with signs is given ±1, and they are spared
            from taking the sign.
        beside_one_thread: whether our own engine on one thread is measured as well.
    """

    name: str
    model: PackedModel
    batch: int
    isa: str
    threads: int
    activations: Activations = "float32"
    twin: PackedModel | None = None
    beside_one_thread: bool = False

    def input(self) -> NDArray[np.float32]:
        """Normally distributed, or ±1 where the model starts with signs."""
        x = np.random.default_rng(0).standard_normal((self.batch, *self.model.input.shape), dtype=np.float32)
        return x if self.twin is None else np.where(x >= 0, np.float32(1), np.float32(-1))

    def macs(self) -> dict[str, int]:
        """Multiply-accumulates of the batch, by the loop of native/peak.h that they compare with."""
        macs: dict[str, int] = {}
        for node, cost in zip(self.model.nodes, layer_costs(self.model), strict=True):
            if isinstance(node, Linear | Conv2d):
                loop = self._loop(node)
                macs[loop] = macs.get(loop, 0) + cost.macs * self.batch
        return macs

    def _loop(self, node: Product) -> str:
        kind = self.model.kinds[node.inputs[0]]
        if not node.is_packed:
            return "float"  # nothing of one bit, and no such loop
        if kind == "sign":
            return "bits"
        return "i16" if self.activations == "int8" and quantizes(node, kind) else "f32"


def select(cases: Sequence[Case], text: str) -> list[Case]:
    """Those whose name contains the text.

    Raises:
        UserError: none does.
    """
    chosen = [case for case in cases if text.casefold() in case.name.casefold()]
    if not chosen:
        raise UserError(f"no case has {text!r} in its name; there are: {'; '.join(c.name for c in cases)}")
    return chosen


# --- a model ----------------------------------------------------------------------------------------------


def model_cases(model: PackedModel, isa: str, threads: int) -> list[Case]:
    """The whole model on 1 and on 64 inputs, and each of its layers by itself, on what it takes there."""
    kinds: tuple[Activations, ...] = ("float32", "int8")
    whole = [
        Case(f"whole model, {_count(batch, 'input')}, {activations}", model, batch, isa, threads, activations)
        for batch in (1, 64)
        for activations in kinds
    ]
    layers = []
    for node in model.nodes:
        if isinstance(node, Linear | Conv2d):
            source = node.inputs[0]
            shape = model.input.shape if source == INPUT else model.shapes[source]
            name = f"layer {node.name}: {type(node).__name__} {_sizes(node.weight.shape)}"
            name += f" on {_sizes(shape[1:])}" if len(shape) > 1 else ""
            alone, twin = _alone(node, shape, signs=model.kinds[source] == "sign")
            layers.append(Case(name, alone, 1, isa, threads, twin=twin))
    return [*whole, *layers]


def _alone(node: Product, shape: Shape, signs: bool) -> tuple[PackedModel, PackedModel | None]:
    """A layer as a model of its own, and its twin; `signs`: it takes ±1."""
    contract = InputContract(shape)
    plain = PackedModel(contract, (replace(node, inputs=(INPUT,)),))
    if not signs:
        return plain, None
    sign = Sign(name=f"sign for {node.name}", inputs=(INPUT,))
    return PackedModel(contract, (sign, replace(node, inputs=(sign.name,)))), plain


# --- standard shapes --------------------------------------------------------------------------------------


def standard_cases(isa: str, threads: int) -> tuple[list[Case], list[str]]:
    """The cases, and a line for each that this machine cannot run."""
    rng, skipped = np.random.default_rng(0), []

    def linear(name: str, rows: int, layer: Linear, signs: bool = False) -> Case:
        out, n = layer.weight.shape
        name = f"{name}, {_count(rows, 'row')}, {n}x{out}"
        model, twin = _alone(layer, (n,), signs)
        return Case(name, model, rows, isa, threads, twin=twin)

    small, large = (Linear(name="y", inputs=(INPUT,), weight=_signs(rng, n, n)) for n in (1024, 4096))
    bits = linear("±1 x ±1", 512, large, signs=True)
    cases = [
        linear("float32 x ±1", 1, large),
        linear("float32 x ±1", 256, small),
        replace(linear("int8 x ±1", 1, large), activations="int8"),
        replace(linear("int8 x ±1", 64, large), activations="int8"),
        bits,
    ]
    two = replace(bits, name=f"{bits.name}, 2 threads", threads=2, beside_one_thread=True)
    if available_cores() >= 2:
        cases.append(two)
    else:
        skipped.append(f"{two.name}: there is only one core")
    if "avx2" in instruction_sets() and isa != "avx2":
        cases.append(replace(bits, name=f"{bits.name}, avx2", isa="avx2"))
    for channels, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        weight = _signs(rng, channels, channels, 3, 3)
        conv = Conv2d(name="y", inputs=(INPUT,), weight=weight, padding=(1, 1, 1, 1))
        name, shape = f"±1 x ±1, convolution 3x3, {channels} x {size}x{size}", (channels, size, size)
        model, twin = _alone(conv, shape, signs=True)
        cases.append(Case(name, model, 1, isa, threads, twin=twin))
    mnist = Case("MNIST 784-3x1024-10, 1 image, float32", _mnist(rng), 1, isa, threads)
    int8 = replace(mnist, name=mnist.name.replace("float32", "int8"), activations="int8")
    return [*cases, mnist, int8], skipped


def _mnist(rng: np.random.Generator) -> PackedModel:
    """Three hidden layers of 1024 and ReLU, as BinaryConnect's, batch norms folded in; random."""
    nodes: list[Node] = []
    source, widths = INPUT, (784, 1024, 1024, 1024, 10)
    for i, (n, out) in enumerate(pairwise(widths)):
        scale, shift = (rng.uniform(low, 1, out).astype(np.float32) for low in (0.5, -1))
        weight = _signs(rng, out, n)
        scale /= np.float32(np.sqrt(n))
        nodes.append(Linear(name=f"linear{i}", inputs=(source,), weight=weight, scale=scale, shift=shift))
        if i < 3:
            nodes.append(ReLU(name=f"relu{i}", inputs=(nodes[-1].name,)))
        source = nodes[-1].name
    return PackedModel(InputContract((784,)), tuple(nodes))


def _signs(rng: np.random.Generator, *shape: int) -> PackedWeight:
    return PackedWeight.from_signs(2 * rng.integers(0, 2, shape, dtype=np.int8) - 1)


# --- names ------------------------------------------------------------------------------------------------


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _sizes(shape: Sequence[Any]) -> str:
    return "x".join(map(str, shape))

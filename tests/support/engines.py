"""What compares the compiled engine with the reference, on every instruction set that this machine has."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.packed.model import PackedModel
from bnn.packed.nodes import INPUT, Node
from bnn.runtime import reference
from bnn.runtime.native import Engine, instruction_sets
from bnn.runtime.reference import Activations

Array = NDArray[Any]
Step = Callable[..., Node]
"""A node that has no name and no inputs yet: partial(ReLU)."""

EPS = 2.0**-24
"""The largest relative error of one rounding to float32."""


def native(model: PackedModel, x: Array, activations: Activations = "float32") -> Iterator[tuple[str, Array]]:
    """The engine's output on each instruction set, with its name."""
    for isa in instruction_sets():
        yield isa, Engine(model, activations, threads=1, isa=isa)(x)


def assert_equal(model: PackedModel, x: Array, activations: Activations = "float32", what: Any = "") -> Array:
    """Every instruction set gives the reference's output, NaN where it has NaN; returns that output."""
    truth = reference.run(model, x, activations)
    for isa, result in native(model, x, activations):
        message = (isa, described(model), what, differences(result, truth))
        assert (result.dtype, result.shape) == (np.float32, truth.shape), message
        assert np.array_equal(result, truth, equal_nan=True), message
    return truth


def assert_within(model: PackedModel, x: Array, bound: Any, activations: Activations = "float32") -> Array:
    """Every instruction set gives the reference's output to within a bound; returns that output."""
    truth = reference.run(model, x, activations)
    for isa, result in native(model, x, activations):
        message = (isa, described(model), differences(result, truth))
        assert (result.dtype, result.shape) == (np.float32, truth.shape), message
        assert (np.abs(result - truth) <= bound).all(), message
    return truth


def described(model: PackedModel) -> str:
    nodes = (f"{node.name} = {type(node).__name__}({', '.join(node.inputs)})" for node in model.nodes)
    return f"{model.input.shape}: {'; '.join(nodes)}"


def differences(result: Array, truth: Array) -> str:
    """How many entries differ, and the first few of them."""
    if result.shape != truth.shape:
        return f"of shape {result.shape}, not {truth.shape}"
    differ = (result != truth) & ~(np.isnan(result) & np.isnan(truth))
    entries = zip(np.argwhere(differ)[:3], result[differ], truth[differ], strict=False)
    first = ", ".join(f"{at.tolist()}: {got} for {due}" for at, got, due in entries)
    return f"{differ.sum()} of {differ.size} entries, {first}"


def integers(*shape: int, limit: int = 9, seed: int = 0) -> NDArray[np.float32]:
    """Whole numbers up to a limit and down to its negative: however they are added, no sum is rounded."""
    return np.random.default_rng(seed).integers(-limit, limit + 1, shape).astype(np.float32)


def chain(*steps: Step, source: str = INPUT, name: str = "n") -> list[Node]:
    """Nodes n0, n1, ... of which each reads the one before."""
    nodes: list[Node] = []
    for i, step in enumerate(steps):
        nodes.append(step(name=f"{name}{i}", inputs=(nodes[-1].name if nodes else source,)))
    return nodes

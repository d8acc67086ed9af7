"""Networks drawn at random: the compiled engine equals the reference, whatever follows what."""

import numpy as np
import pytest
from support.drawn_models import EXACT, PIXELS, Generator, draw
from support.engines import assert_equal, assert_within, described, native
from support.helpers import random_floats

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    NODES,
    Affine,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import reference
from bnn.runtime.reference import Activations


def compare(seed: int, pixels: str, activations: Activations) -> None:
    model = Generator(seed, pixels, activations).model
    x = draw(pixels, model, seed)
    if isinstance(model.output, Softmax):
        assert_within(model, x, 1e-5, activations)
    else:
        assert_equal(model, x, activations, what=f"seed {seed}")


SEEDS = [range(start, start + 100) for start in range(0, 300, 100)]
MORE = [range(start, start + 500) for start in range(1000, 6000, 500)]


@pytest.mark.parametrize("seeds", [*SEEDS, *(pytest.param(seeds, marks=pytest.mark.slow) for seeds in MORE)])
@pytest.mark.parametrize("activations", ["float32", "int8"])
@pytest.mark.parametrize("pixels", PIXELS)
def test_random_networks_are_exact(pixels: str, activations: Activations, seeds: range) -> None:
    """Every output is the reference's, for floats and pixels, with and without quantized activations."""
    for seed in seeds:
        compare(seed, pixels, activations)


@pytest.mark.parametrize("seeds", [*SEEDS, *(pytest.param(seeds, marks=pytest.mark.slow) for seeds in MORE)])
@pytest.mark.parametrize("pixels", ["", "any"])
def test_random_networks_of_any_floats(pixels: str, seeds: range) -> None:
    """Where sums round, outputs are within 1e-4 of the largest value; no sign is taken of what rounds."""
    for seed in seeds:
        model = Generator(seed, pixels, rough=True).model
        x = draw(pixels, model, seed) if pixels else random_floats(4, *model.input.shape, seed=seed)
        upto = [PackedModel(model.input, model.nodes[: i + 1]) for i in range(len(model.nodes))]
        largest = max(np.abs(reference.run(part, x)).max() for part in upto)
        truth = reference.run(model, x)
        for isa, result in native(model, x):
            assert np.abs(result - truth).max() <= 1e-4 * largest, (seed, isa, described(model))


# --- the generator ----------------------------------------------------------------------------------------


def test_the_random_networks_are_of_all_kinds() -> None:
    """Every node type occurs, fused and not; so do wide channels, groups, every padding and every kind."""
    seeds = [seed for some in SEEDS for seed in some]
    models = [Generator(seed, pixels).model for seed in seeds for pixels in PIXELS]
    nodes = [node for model in models for node in model.nodes]
    assert {type(node) for node in nodes} == set(NODES.values())
    assert {kind for model in models for kind in model.kinds.values()} == {"input", "sign", "int", "float"}
    assert {len(model.shapes[model.output.name]) for model in models} == {1, 3}
    convs = [node for node in nodes if isinstance(node, Conv2d)]
    assert {node.pad_value for node in convs if any(node.padding)} == {0, 1, -1, 0.75}
    depthwise = [node.groups == node.out_channels > 1 for node in convs]
    assert any(depthwise)
    assert not all(depthwise)
    for cls in (Linear, Conv2d):
        made = {
            (node.is_packed, str(getattr(node.scale, "dtype", None))) for node in nodes if type(node) is cls
        }
        assert len(made) == 6
    readers = [(a, b) for model in models for a in model.nodes for b in model.nodes if a.name in b.inputs]
    followed = {(type(a), type(b)) for a, b in readers}
    assert {(Conv2d, Threshold), (Linear, Threshold), (Conv2d, Sign), (Conv2d, MaxPool2d)} <= followed
    assert {(MaxPool2d, Threshold), (Flatten, Linear), (Concat, Conv2d), (Affine, Sign)} <= followed
    assert 4 < np.mean([len(model.nodes) for model in models]) < 12


def test_the_random_networks_give_something() -> None:
    """Few outputs are the same for all samples: what is compared depends on what went in."""
    vary = []
    for seed in range(120):
        model = Generator(seed).model
        y = reference.run(model, draw("", model, seed))
        vary.append((y != y[:1]).any())
    assert np.mean(vary) > 0.7


def test_exact_networks_do_not_round() -> None:
    """What the generator says is exact, is: in float64, added in another order, the output is the same."""
    found = 0
    for seed in range(60):
        g = Generator(seed)
        x = draw("", g.model, seed)
        for i, value in enumerate(g.values[1:], 1):
            if value.precision == EXACT:
                upto = PackedModel(g.model.input, g.model.nodes[:i])
                y = reference.run(upto, x).astype(float)
                assert np.abs(y).max() <= value.limit, (seed, value)
                assert (y / value.step == np.round(y / value.step)).all(), (seed, value)
                found += 1
    assert found > 200

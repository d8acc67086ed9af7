"""The other operations, of every engine: against PyTorch in float64."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.helpers import every_engine, model_of, one_of_each, random_floats, random_pixels
from support.torch_helpers import assert_close

from bnn.packed.nodes import (
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import Runner, reference


def node(cls: type[Node], **fields: Any) -> Node:
    return cls(name="y", inputs=("input",), **fields)


SLOPES, SCALE = np.array([0.25, -0.5, 2.0], np.float32), np.array([2.0, -1.0, 0.0], np.float32)


@every_engine
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    ("node", "truth"),
    [
        (
            node(Affine, scale=SCALE, shift=SLOPES),
            lambda x: x * torch.from_numpy(SCALE).view(3, 1, 1) + torch.from_numpy(SLOPES).view(3, 1, 1),
        ),
        (node(Sign), lambda x: torch.where(x >= 0, 1.0, -1.0)),
        (node(ReLU), F.relu),
        (node(PReLU, slope=SLOPES), lambda x: F.prelu(x, torch.from_numpy(SLOPES).double())),
        (node(PReLU, slope=SLOPES[:1]), lambda x: F.leaky_relu(x, 0.25)),
        (node(Hardtanh), F.hardtanh),
        (node(Hardtanh, low=0.0, high=6.0), F.relu6),
        (node(MaxPool2d, kernel=(2, 3), stride=(1, 2)), lambda x: F.max_pool2d(x, (2, 3), (1, 2))),
        (
            node(MaxPool2d, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
            lambda x: F.max_pool2d(x, 3, 2, 1),
        ),
        (
            node(MaxPool2d, kernel=(3, 2), stride=(2, 2), padding=(0, 2, 1, 0)),
            lambda x: F.max_pool2d(F.pad(x, (1, 0, 0, 2), value=-torch.inf), (3, 2), 2),
        ),
        (node(AvgPool2d, kernel=(2, 3), stride=(1, 2)), lambda x: F.avg_pool2d(x, (2, 3), (1, 2))),
        (
            node(AvgPool2d, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
            lambda x: F.avg_pool2d(x, 3, 2, 1),
        ),
        (
            node(AvgPool2d, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), count_padding=False),
            lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ),
        (
            node(AvgPool2d, kernel=(3, 2), stride=(1, 1), padding=(2, 0, 0, 1), count_padding=False),
            lambda x: (
                F.avg_pool2d(F.pad(x, (0, 1, 2, 0)), (3, 2), 1)
                / F.avg_pool2d(F.pad(torch.ones_like(x), (0, 1, 2, 0)), (3, 2), 1)
            ),
        ),
        (node(AvgPool2d, kernel=(6, 5), stride=(6, 5)), lambda x: x.mean((2, 3), keepdim=True)),
        (node(Flatten), lambda x: x.flatten(1)),
    ],
)
def test_operation_on_images(engine: str, node: Node, truth: Any, batch: int) -> None:
    """Every operation on images is PyTorch's, for batches of 0, 1 and more."""
    x = random_floats(batch, 3, 6, 5)
    if batch:
        x[0, 0, 0, :2] = 0.0, -0.0
    assert_close(Runner(model_of((3, 6, 5), node), engine)(x), truth(torch.from_numpy(x).double()))


@every_engine
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize(
    ("node", "truth"),
    [
        (node(Affine, scale=SCALE, shift=SLOPES), lambda x: x * torch.tensor(SCALE) + torch.tensor(SLOPES)),
        (node(PReLU, slope=SLOPES), lambda x: F.prelu(x, torch.from_numpy(SLOPES).double())),
        (node(Softmax), lambda x: x.softmax(1)),
        (node(Flatten), lambda x: x),
    ],
)
def test_operation_on_features(engine: str, node: Node, truth: Any, batch: int) -> None:
    """Operations for each channel work on (batch, features) as well; a softmax takes large logits."""
    x = 100 * random_floats(batch, 3)
    assert_close(Runner(model_of((3,), node), engine)(x), truth(torch.from_numpy(x).double()))


@every_engine
def test_add_and_concat(engine: str) -> None:
    """Add sums values, one of them twice; Concat puts channels side by side in the order given."""
    x = random_floats(2, 3, 4, 4)
    relu = ReLU(name="r", inputs=("input",))
    add = model_of((3, 4, 4), relu, Add(name="y", inputs=("r", "input", "r")))
    concat = model_of((3, 4, 4), relu, Concat(name="y", inputs=("r", "input")))
    positive = np.maximum(x, 0)
    assert np.array_equal(Runner(add, engine)(x), positive + x + positive)
    assert np.array_equal(Runner(concat, engine)(x), np.concatenate([positive, x], axis=1))


@every_engine
@pytest.mark.parametrize("flip", [False, True])
def test_threshold_is_a_comparison(engine: str, flip: bool) -> None:
    """+1 where (x >= threshold) != flip, with the threshold itself on the upper side."""
    n, limits = 5, np.array([-5, -1, 0, 1, 2, 5, 6], dtype=np.int32)
    weight = PackedWeight.from_signs(np.ones((len(limits), n), dtype=np.int8))
    model = model_of(
        (n,),
        Sign(name="x", inputs=("input",)),
        Linear(name="z", inputs=("x",), weight=weight),
        Threshold(name="y", inputs=("z",), threshold=limits, flip=np.full(len(limits), flip)),
    )
    x = np.tril(np.full((n + 1, n), 2, dtype=np.float32), -1) - 1  # of which 0, 1, ... entries are +1
    sums = x.sum(axis=1, keepdims=True)
    assert np.array_equal(Runner(model, engine)(x), np.where((sums >= limits) != flip, 1, -1))


@every_engine
def test_ties_go_to_the_lowest_index(engine: str) -> None:
    """Among equal logits predict takes the first."""
    model = model_of((4,), Hardtanh(name="y", inputs=("input",), low=0.0, high=1.0))
    x = np.array([[0, 2, 3, 1], [-1, -2, 0, -0.0], [0, 0.5, 0, 0.5]], dtype=np.float32)
    assert Runner(model, engine).predict(x).tolist() == [1, 0, 1]


def test_the_batch_is_split_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large batches run in pieces, also where the last piece is smaller; the results are the same."""
    model, x = one_of_each(), random_pixels(7, 2, 6, 6)
    whole = Runner(model, "reference")(x)
    monkeypatch.setattr(reference, "_batch_that_fits", lambda model: 3)
    assert np.allclose(Runner(model, "reference")(x), whole, rtol=1e-5)
    single = np.concatenate([Runner(model, "reference")(x[i : i + 1]) for i in range(7)])
    assert np.allclose(single, whole, rtol=1e-5)


@every_engine
def test_the_input_is_not_changed(engine: str) -> None:
    """Running a model writes neither to its input nor to its arrays."""
    model, x = one_of_each(), random_pixels(3, 2, 6, 6)
    before = [array.copy() for node in model.nodes for array in node.arrays()]
    first, copy = Runner(model, engine)(x), x.copy()
    assert np.array_equal(Runner(model, engine)(x), first)
    assert np.array_equal(x, copy)
    after = [array for node in model.nodes for array in node.arrays()]
    assert all(np.array_equal(a, b) for a, b in zip(after, before, strict=True))

"""What several tests build packed models from. Numpy only; for PyTorch's side see torch_helpers.py."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

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
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import ENGINES

Array = NDArray[Any]

every_engine = pytest.mark.parametrize("engine", ENGINES)
"""Runs a test with each engine, which it takes as an argument."""


def random_signs(*shape: int, seed: int = 0) -> NDArray[np.int8]:
    """±1, evenly."""
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), shape)


def random_floats(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    """Normally distributed."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def random_pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Every value from 0 to 255, evenly."""
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def packed_weight(*shape: int, seed: int = 0) -> PackedWeight:
    return PackedWeight.from_signs(random_signs(*shape, seed=seed))


def model_of(shape: Sequence[int], *nodes: Node, **contract: Any) -> PackedModel:
    """A model from its input shape and nodes; `contract` are further fields of the InputContract."""
    return PackedModel(InputContract(tuple(shape), **contract), nodes)


def tiny() -> PackedModel:
    """A model of which every byte is known: no random numbers."""
    signs = np.array([[1, -1, -1, 1, 1], [-1, 1, 1, 1, -1]])
    fc = Linear(
        name="fc",
        inputs=("input",),
        weight=PackedWeight.from_signs(signs),
        scale=np.array([1, 0.5], dtype=np.float32),
        shift=np.array([0, -2], dtype=np.float32),
    )
    contract = InputContract((5,), mean=(0.5,), std=(0.25,), labels=("no", "yes"))
    return PackedModel(contract, (fc, Hardtanh(name="out", inputs=("fc",))), {"weights": "sign"})


def one_of_each(seed: int = 0) -> PackedModel:
    """A model for (2, 6, 6) images in which every node type occurs, most with fields that are no defaults."""

    def vector(n: int, dtype: type = np.float32) -> Array:
        return np.random.default_rng(seed).standard_normal(n).astype(dtype)

    nodes = (
        Conv2d(
            name="stem",
            inputs=("input",),
            weight=packed_weight(4, 2, 3, 3, seed=seed),
            scale=vector(4, np.float64),
            shift=vector(4, np.float64),
            padding=(1, 1, 1, 1),
        ),
        Sign(name="signs", inputs=("stem",)),
        Conv2d(
            name="conv",
            inputs=("signs",),
            weight=packed_weight(4, 1, 2, 3, seed=seed + 1),
            stride=(1, 2),
            padding=(0, 1, 2, 1),
            dilation=(1, 1),
            groups=4,
            pad_value=-1.0,
        ),
        Threshold(
            name="threshold",
            inputs=("conv",),
            threshold=np.array([-2, 0, 1, 3], dtype=np.int32),
            flip=np.array([True, False, False, True]),
        ),
        MaxPool2d(name="max", inputs=("threshold",), kernel=(2, 2), stride=(2, 2)),
        AvgPool2d(
            name="avg",
            inputs=("conv",),
            kernel=(3, 2),
            stride=(2, 2),
            padding=(1, 0, 0, 0),
            count_padding=False,
        ),
        Affine(name="affine", inputs=("avg",), scale=vector(4), shift=vector(4)),
        PReLU(name="prelu", inputs=("affine",), slope=vector(4)),
        Hardtanh(name="hardtanh", inputs=("max",), low=-0.5, high=6.0),
        ReLU(name="relu", inputs=("hardtanh",)),
        Add(name="add", inputs=("prelu", "relu", "prelu")),
        Concat(name="concat", inputs=("add", "max")),
        Flatten(name="flatten", inputs=("concat",)),
        Linear(
            name="logits",
            inputs=("flatten",),
            weight=random_floats(3, 48, seed=seed),
            scale=np.ones(3, dtype=np.float32),
            shift=vector(3),
        ),
        Softmax(name="softmax", inputs=("logits",)),
    )
    return PackedModel(
        InputContract((2, 6, 6), mean=(0.5, 0.25), std=(0.5, 0.125), labels=("cat", "dög", "±1")),
        nodes,
        {"weights": "sign", "data": "none"},
    )

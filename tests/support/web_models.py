"""Untrained networks for images, and pages of them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.helpers import model_of, packed_weight, random_floats

from bnn.export import export
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)

DIGITS = tuple("0123456789")
RAW = {"mean": (0.13,), "std": (0.31,)}


def linear(name: str, source: str, out: int, n: int, seed: int = 0) -> Linear:
    return Linear(
        name=name,
        inputs=(source,),
        weight=packed_weight(out, n, seed=seed),
        scale=(0.5 + np.abs(random_floats(out, seed=seed))) / np.float32(np.sqrt(n)),
        shift=random_floats(out, seed=seed) / 8,
    )


def mlp(*sizes: int, **contract: Any) -> PackedModel:
    """Fully connected, ReLU between; for grey square images of sizes[0] pixels."""
    nodes: list[Node] = [Flatten(name="flat", inputs=("input",))]
    for k, (n, out) in enumerate(pairwise(sizes)):
        nodes.append(linear(f"fc{k}", nodes[-1].name, out, n, seed=k))
        nodes.append(ReLU(name=f"relu{k}", inputs=(f"fc{k}",)))
    labels = DIGITS if sizes[-1] == 10 else ()
    side = round(sizes[0] ** 0.5)
    return model_of((1, side, side), *nodes[:-1], **{**RAW, "labels": labels} | contract)


def mlp_of_signs(*sizes: int) -> PackedModel:
    """The same with activations of ±1, and so with scores that are integers but for a last scale."""
    nodes: list[Node] = [
        Flatten(name="flat", inputs=("input",)),
        linear("fc0", "flat", sizes[1], sizes[0]),
        Sign(name="act0", inputs=("fc0",)),
    ]
    for k, (n, out) in enumerate(pairwise(sizes[1:-1]), start=1):
        rng = np.random.default_rng(k)
        nodes += [
            Linear(name=f"fc{k}", inputs=(f"act{k - 1}",), weight=packed_weight(out, n, seed=k)),
            Threshold(
                name=f"act{k}",
                inputs=(f"fc{k}",),
                threshold=rng.integers(-9, 9, out).astype(np.int32),
                flip=rng.random(out) < 0.3,
            ),
        ]
    nodes.append(linear("scores", nodes[-1].name, sizes[-1], sizes[-2], seed=9))
    side = round(sizes[0] ** 0.5)
    return model_of((1, side, side), *nodes, **RAW)


def conv_net(channels: int = 3, size: int = 8) -> PackedModel:
    """Convolutions with a residual connection, float and ±1 activations, and a softmax."""

    def conv(name: str, source: str, n: int, **fields: Any) -> Conv2d:
        return Conv2d(
            name=name,
            inputs=(source,),
            weight=packed_weight(16, n, 3, 3, seed=len(name)),
            padding=(1, 1, 1, 1),
            scale=np.full(16, (9 * n) ** -0.5, np.float32),
            shift=random_floats(16, seed=len(name)) / 4,
            **fields,
        )

    nodes = (
        conv("stem", "input", channels),
        ReLU(name="relu", inputs=("stem",)),
        Sign(name="signs", inputs=("stem",)),
        conv("branch", "signs", 16, pad_value=-1.0),
        Add(name="add", inputs=("relu", "branch")),
        conv("second", "add", 16),
        MaxPool2d(name="max", inputs=("second",), kernel=(2, 2), stride=(2, 2)),
        AvgPool2d(name="avg", inputs=("max",), kernel=(2, 2), stride=(2, 2)),
        Flatten(name="flat", inputs=("avg",)),
        linear("logits", "flat", 5, 16 * (size // 4) ** 2),
        Softmax(name="softmax", inputs=("logits",)),
    )
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    labels = ("cat", "dog", "frög", "<ship>", "a rather long name of a class")
    return model_of((channels, size, size), *nodes, mean=mean, std=std, labels=labels)


def exported(model: PackedModel, folder: Path) -> Path:
    export(model, "web", folder / "m.html")
    return folder / "m.html"


@pytest.fixture(scope="session")
def drawing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page to draw on."""
    return exported(mlp(784, 64, 10), tmp_path_factory.mktemp("drawing"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[PackedModel, Path]:
    """A page that takes pictures in colour."""
    model = conv_net()
    return model, exported(model, tmp_path_factory.mktemp("pictures"))

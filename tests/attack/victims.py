"""What the trials of writing attack: models that tell whose they are, and short runs with their ends."""

import csv
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from bnn.packed.model import PackedModel
from bnn.packed.nodes import INPUT, Affine, Flatten, InputContract, Linear, PackedWeight

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for those started: several wait for each other
TRAIN = [
    sys.executable, "-m", "bnn.cli", "train", "digits", "--weights", "stochastic", "--dropout", "0.2",
    "--batch-size", "20", "--lr", "0.01",
]  # fmt: skip


def some_model(number: int) -> PackedModel:
    """Some 40 kB, unlike those of other numbers, on images, so that every target takes it."""
    signs = np.random.default_rng(number).choice(np.array([-1, 1], np.int8), (2048, 64))
    scale = np.full(2048, 1 + number, np.float32)
    nodes = (
        Flatten(name="flat", inputs=(INPUT,)),
        Linear(name="fc", inputs=("flat",), weight=PackedWeight.from_signs(signs)),
        Affine(name="y", inputs=("fc",), scale=scale, shift=scale),
    )
    return PackedModel(InputContract((1, 8, 8), (0.5,), (0.25,)), nodes, {"number": str(number)})


def contents(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def hidden(folder: Path) -> list[str]:
    """Names of hidden files and folders, which are what a killed writer may leave."""
    return sorted(path.name for path in folder.rglob(".*"))


def outcome(run: Path) -> dict[str, Any]:
    """Everything that a run ends with, but for its seconds and TensorBoard's file."""
    import torch  # not for the trials that need none

    metrics = [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in csv.DictReader((run / "metrics.csv").read_text().splitlines())
    ]
    weights = {}
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        model = torch.load(run / name, weights_only=True)["model"]
        weights[name] = {key: value.tolist() for key, value in model.items()}
    names = ("config.toml", "model.bnn", "result.json", "layers.csv", "curves.png")
    return {"metrics.csv": metrics, **weights} | {name: (run / name).read_bytes() for name in names}

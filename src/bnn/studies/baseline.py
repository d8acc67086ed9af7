"""Seed 004: a float network with dropout against its binarized twins, deterministic and stochastic."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnn.config import TrainConfig
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study
from bnn.training import train

__all__ = ["STUDY"]

_SEED: Mapping[str, Any] = {
    "lr": 1e-3,
    "schedule": "constant",
    "batch_size": 256,
    "loss": "cross_entropy",
    "precision": "bf16",
}
_DECAYED = {**_SEED, "schedule": "cosine"}
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "baseline": {**_SEED, "weights": "float", "dropout": 0.5},
    "deterministic, constant rate": {**_SEED, "weights": "deterministic"},
    "deterministic": {**_DECAYED, "weights": "deterministic"},
    "stochastic": {**_DECAYED, "weights": "stochastic", "lr": 1e-2},
}
VARIANTS = {
    "baseline": "float weights, dropout of one half, Adam at 0.001, batches of 256, as the seed has it",
    "deterministic, constant rate": "its twin with signs, no dropout, the same rate throughout, as the seed",
    "deterministic": "the same with a rate that falls to 0",
    "stochastic": "random signs in training, a rate that falls from 0.01 to 0; frozen to its signs",
}


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant in its own folder, TensorBoard events and all; its accuracies and its curves."""
    config = TrainConfig(
        data=options.data,
        model="binaryconnect_cnn" if options.data == "cifar10" else "binaryconnect_mlp",
        validation={"digits": 300, "cifar10": 5000}.get(options.data, 10_000),
        width=options.width,
        epochs=options.epochs,
        device=options.device,
        seed=seed,
        **CHANGES[variant],
    )
    result = train(config, folder, data_dir=options.data_dir, resume=(folder / "config.toml").exists())
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        "accuracy": result.frozen,
        "validation": float(rows[-1]["acc_val"]),
        "bytes": result.packed_bytes,
        "loss_train": [float(row["loss_train"]) for row in rows],
        "acc_val": [float(row["acc_val"]) for row in rows],
    }


def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
    """Training loss and validation accuracy over the epochs, mean of the seeds."""
    with figure(folder / "curves.png", (10, 3.6), columns=2) as (left, right):
        for color, (variant, of_seeds) in zip(PALETTE, cells.items(), strict=False):
            epochs = range(1, options.epochs + 1)
            for axes, name, factor in ((left, "loss_train", 1), (right, "acc_val", 100)):
                curve = factor * np.array([cell[name] for cell in of_seeds]).mean(axis=0)
                axes.plot(epochs, curve, color=color, label=variant)
        left.set_ylabel("training loss")
        left.set_yscale("log")
        right.set_ylabel("validation accuracy (%)")
        for axes in (left, right):
            axes.set_xlabel("epoch")
        left.figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
    return {"curves.png": "Training loss and validation accuracy, mean of the seeds."}


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """What one bit costs here."""
    accuracy = {name: 100 * np.mean([cell["accuracy"] for cell in of]) for name, of in cells.items()}
    return [
        f"One bit a weight costs {accuracy['baseline'] - accuracy['deterministic']:.2f} points of accuracy "
        f"(stochastic training {accuracy['baseline'] - accuracy['stochastic']:.2f}), and the file has "
        f"{cells['baseline'][0]['bytes'] / cells['deterministic'][0]['bytes']:.1f} times fewer bytes."
    ]


STUDY = Study(
    name="baseline",
    title="A float network with dropout and its binarized twins",
    settings={
        "mnist": Options("mnist", seeds=3, epochs=20, width=1024),
        "digits": Options("digits", seeds=1, epochs=40, width=128),
        "cifar10": Options("cifar10", seeds=1, epochs=5, width=32),
    },
    variants=VARIANTS,
    run=run,
    draw=draw,
    conclude=conclude,
    weights="one bit, as packed; the baseline's are float",
    full={"cifar10": Options("cifar10", seeds=1, epochs=150, width=128)},
    note="Products in bfloat16. The test set is read once, with the weights of the last epoch.",
)

"""Source 004: a float network with dropout against its binarized twins, deterministic and stochastic."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnn.config import TrainConfig
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Difference, Options, Study, difference
from bnn.training.run import train

__all__ = ["STUDY"]

_SOURCE: Mapping[str, Any] = {
    "lr": 1e-3,
    "schedule": "constant",
    "batch_size": 256,
    "loss": "cross_entropy",
    "precision": "bf16",
}
_DECAYED = {**_SOURCE, "schedule": "cosine"}
_DROPOUT: Mapping[str, Any] = {"weights": "float", "dropout": 0.5, "recalibrate": 0}  # as in the source
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "baseline, constant rate": {**_SOURCE, **_DROPOUT},
    "baseline": {**_DECAYED, **_DROPOUT},
    "deterministic, constant rate": {**_SOURCE, "weights": "deterministic"},
    "deterministic": {**_DECAYED, "weights": "deterministic"},
    "stochastic": {**_DECAYED, "weights": "stochastic", "lr": 1e-2},
}
VARIANTS = {
    "baseline, constant rate": "float weights, dropout of one half, Adam at 0.001, batches of 256",
    "baseline": "the same with a rate that falls to 0",
    "deterministic, constant rate": "its twin with signs, without dropout; latent weights have rates scaled "
    "by layer, 26 to 37 times at width 1024",
    "deterministic": "the same with a rate that falls to 0",
    "stochastic": "random signs in training, frozen to its signs; a rate from 0.01 on, as latent weights "
    "must get away from 0",
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
            axes.xaxis.get_major_locator().set_params(integer=True)
        left.figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False
        )
    return {"curves.png": "Training loss and validation accuracy, mean of the seeds."}


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """What one bit costs here."""

    def against(variant: str) -> Difference:
        one_bit, floats = ([cell["accuracy"] for cell in cells[name]] for name in (variant, "baseline"))
        return difference(one_bit, floats)

    ratio = cells["baseline"][0]["bytes"] / cells["deterministic"][0]["bytes"]
    return [
        f"One bit a weight changes the accuracy by {against('deterministic')} points, trained with random "
        f"signs by {against('stochastic')}, and the file has {ratio:.1f} times fewer bytes."
    ]


STUDY = Study(
    name="baseline",
    title="A float network with dropout and its binarized twins",
    settings={
        "mnist": Options("mnist", seeds=3, epochs=20, width=1024),
        "digits": Options("digits", seeds=1, epochs=40, width=128),
        "cifar10": Options("cifar10", seeds=1, epochs=2, width=32),
    },
    variants=VARIANTS,
    run=run,
    draw=draw,
    conclude=conclude,
    weights="one bit, as packed; the baseline's are float",
    full={"cifar10": Options("cifar10", seeds=1, epochs=150, width=128)},
    note="Products in bfloat16. The source trains for 200 epochs. The test set is read once, with the "
    "weights of the last epoch; `tensorboard --logdir` shows the cells' folders side by side.",
)

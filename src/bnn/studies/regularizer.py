"""Does binarization regularize, as BinaryConnect claims (section 2.5)? Its MNIST network, four ways."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from bnn.building import LOSSES
from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.loop import evaluate
from bnn.samples import Samples, split
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study
from bnn.training import load_trained, train

__all__ = ["STUDY"]

# Each with the learning rate of the best validation accuracy after 20 epochs, one seed: of 0.0003, 0.001,
# 0.003 and 0.01 for floats, 0.001 to 0.03 for signs, 0.003 to 0.1 for random signs.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "float": {"weights": "float", "lr": 1e-2},
    "float, dropout": {"weights": "float", "lr": 1e-2, "dropout": 0.5},
    "deterministic": {"weights": "deterministic", "lr": 1e-2},
    "stochastic": {"weights": "stochastic", "lr": 3e-2},
}
VARIANTS = {
    "float": "float weights, no regularizer",
    "float, dropout": "float weights, dropout of one half after each hidden layer",
    "deterministic": "signs, in training and in tests",
    "stochastic": "random signs in training; tested with the real-valued weights, as in the paper",
}


def config_of(variant: str, seed: int, options: Options) -> TrainConfig:
    """The paper's setting but for the optimizer, Adam with the scaled rates of the authors' code."""
    return TrainConfig(
        data=options.data,
        validation=300 if options.data == "digits" else 10_000,
        model="binaryconnect_mlp",
        width=options.width,
        epochs=options.epochs,
        batch_size=50 if options.data == "digits" else 200,
        loss="squared_hinge",
        schedule="exponential",
        precision="bf16",
        device=options.device,
        seed=seed,
        **CHANGES[variant],
    )


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant; then loss and accuracy of the last weights, as they are tested, on both sets."""
    config = config_of(variant, seed, options)
    train(config, folder, data_dir=options.data_dir, resume=(folder / "config.toml").exists())
    data = load_dataset(options.data, options.data_dir)
    device = torch.device(options.device)
    fit, _, _ = split(data, config.validation, device)
    test_images, test_labels = (torch.from_numpy(v).to(device) for v in (data.test_images, data.test_labels))
    test = Samples(test_images, test_labels, fit.mean, fit.std)
    model = freeze(load_trained(folder), "real" if variant == "stochastic" else "sign").to(device)
    loss = LOSSES[config.loss]
    train_loss, train_accuracy = evaluate(model, fit.batches(), loss)
    test_loss, test_accuracy = evaluate(model, test.batches(), loss)
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {
        "loss_train": train_loss,
        "loss_test": test_loss,
        "error_train": 1 - train_accuracy,
        "error_test": 1 - test_accuracy,
        "error_val": 1 - float(rows[-1]["acc_val"]),
        "seconds_per_epoch": float(np.median([float(row["seconds"]) for row in rows])),
        "losses_train": [float(row["loss_train"]) for row in rows],
        "losses_val": [float(row["loss_val"]) for row in rows],
        "errors_val": [1 - float(row["acc_val"]) for row in rows],
    }


def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
    """Loss over the epochs, in training and on validation data; train and test loss side by side."""
    epochs = range(1, options.epochs + 1)
    with figure(folder / "curves.png", (10, 3.6), columns=2) as (left, right):
        for color, (variant, of_seeds) in zip(PALETTE, cells.items(), strict=False):
            for axes, name in ((left, "losses_train"), (right, "losses_val")):
                axes.plot(epochs, np.mean([c[name] for c in of_seeds], axis=0), color=color, label=variant)
        left.set_ylabel("squared hinge loss, as trained")
        right.set_ylabel("squared hinge loss, validation")
        for axes in (left, right):
            axes.set_yscale("log")
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        left.figure.legend(
            *left.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False
        )
    with figure(folder / "losses.png", (10, 3.2), columns=2) as panels:
        for axes, kind, factor in zip(panels, ("loss", "error"), (1, 100), strict=True):
            for offset, color, part in ((-0.1, PALETTE[0], "train"), (0.1, PALETTE[1], "test")):
                for y, of_seeds in enumerate(cells.values()):
                    values = factor * np.array([cell[f"{kind}_{part}"] for cell in of_seeds])
                    axes.plot(
                        values, np.full(len(values), y + offset), "o", color=color, label=None if y else part
                    )
            axes.set_yticks(range(len(cells)), list(cells))
            axes.invert_yaxis()
        panels[0].set_xlabel("squared hinge loss, last weights as tested")
        panels[1].set_xlabel("error (%)")
        panels[0].figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False
        )
    return {
        "curves.png": "Loss over the epochs, mean of the seeds: as trained (with dropout or random signs), "
        "and on validation data (for stochastic training that of its recalibrated signs).",
        "losses.png": "Train and test loss, and error, of the last weights, each seed.",
    }


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """Whether the gap between train and test narrows, and whether the test error falls."""
    mean = {key: summary[key, "mean"] for key in ("loss_train", "loss_test", "error_test")}
    deviation = summary["error_test", "std"].fillna(0)
    lines = []
    for variant in ("deterministic", "stochastic"):
        gap = [mean["loss_test"][name] - mean["loss_train"][name] for name in ("float", variant)]
        better = 100 * (mean["error_test"]["float"] - mean["error_test"][variant])
        noise = 100 * float(np.hypot(deviation["float"], deviation[variant]))
        verdict = "more than" if abs(better) > 2 * noise else "within"
        lines.append(
            f"- {variant} against float: the gap between test and train loss is {gap[1]:.4f} against "
            f"{gap[0]:.4f}; the test error is {abs(better):.2f} points "
            f"{'lower' if better > 0 else 'higher'}, {verdict} twice the seeds' spread ({noise:.2f})."
        )
    return lines


STUDY = Study(
    name="regularizer",
    title="Does binarization regularize?",
    settings={
        "mnist": Options("mnist", seeds=3, epochs=100, width=1024),
        "digits": Options("digits", seeds=1, epochs=15, width=128),
    },
    variants=VARIANTS,
    run=run,
    draw=draw,
    conclude=conclude,
    weights="signs after deterministic training, real-valued ones otherwise",
    note="Products in bfloat16. The test set is read once, with the weights of the last epoch.",
    long="",
)

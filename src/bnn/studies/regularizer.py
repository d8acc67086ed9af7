"""Does binarization regularize, as BinaryConnect claims (section 2.5)? Its MNIST network, four ways."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study, difference
from bnn.training.building import LOSSES
from bnn.training.loop import evaluate
from bnn.training.run import load_trained, train
from bnn.training.samples import split

__all__ = ["STUDY"]

# Each with the learning rate of the best validation accuracy on MNIST after 20 epochs, one seed: of 0.0003,
# 0.001, 0.003, 0.01 and 0.03 for floats, 0.001 to 0.03 for signs, 0.003 to 0.1 for random signs.
# In the test the statistics of batch norm are training's, as in the paper.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "float": {"weights": "float", "lr": 1e-2},
    "float, dropout": {"weights": "float", "lr": 1e-2, "dropout": 0.5, "recalibrate": 0},
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
    training, _, _ = split(data, config.validation, device)
    test = training.alike(data.test_inputs, data.test_targets)
    model = freeze(load_trained(folder), "real" if variant == "stochastic" else "sign").to(device)
    loss = LOSSES[config.loss]
    train_loss, train_accuracy = evaluate(model, training.batches(), loss)
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
    """For each regularizer: what it does to the gap between train and test loss, and to the test error."""

    def of(variant: str, metric: str) -> NDArray[np.float64]:
        return np.array([cell[metric] for cell in cells[variant]])

    lines = ["Against float weights without a regularizer:", ""]
    for variant in list(VARIANTS)[1:]:
        gap, gap_of_float = (of(name, "loss_test") - of(name, "loss_train") for name in (variant, "float"))
        change = difference(gap, gap_of_float, unit=1000)
        error = difference(of(variant, "error_test"), of("float", "error_test"))
        lines.append(
            f"- {variant}: the gap between test and train loss is {gap.mean():.4f} instead of "
            f"{gap_of_float.mean():.4f}, in thousandths {change}; the test error changes by {error} points"
        )
    shown = [
        difference(of(name, "error_test"), of("float", "error_test"))
        for name in ("deterministic", "stochastic")
    ]
    if all(d.low is None for d in shown):
        verdict = "A single seed shows neither that binarization regularizes nor that it does not."
    elif any(d.certain and d.mean < 0 for d in shown):
        verdict = "Here binary weights do lower the test error: the claim is borne out."
    elif all(d.certain for d in shown):
        verdict = (
            "Here binary weights raise the test error: as a regularizer in that sense the claim is refuted."
        )
    else:
        verdict = (
            "Here no lower test error of binary weights stands out from the seeds' spread: as far as these "
            "seeds can tell, the claim is not borne out."
        )
    rates = ", ".join(f"{variant} {change['lr']:g}" for variant, change in CHANGES.items())
    return [
        *lines,
        "",
        verdict,
        "",
        "Squared hinge loss, Adam with rates that fall exponentially to 1e-6, batches of 200 (digits: 50). "
        f"Initial rates, the best on validation data after 20 epochs of MNIST: {rates}; those of latent "
        "weights are scaled by layer, as in the paper's code. A loss depends on the scale of the outputs as "
        "well, and so on the rate: errors are the safer comparison.",
    ]


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
    long="143 minutes of a core with bfloat16 units, measured as two processes beside other work, as are the "
    "seconds of an epoch",
)

"""Seed 003: weights and hidden activations of ±1, without batch norm, and what each change brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bnn.binarize import binarize, latent_parameters
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.functional import StraightThrough, clipped_ste, identity_ste, sign, tanh_ste
from bnn.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.runtime import Runner
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study

__all__ = ["STUDY"]


@dataclass(frozen=True)
class Recipe:
    """What a variant changes; the defaults are the seed's."""

    text: str
    ste: StraightThrough = identity_ste
    stochastic_activations: bool = False
    clamp_each_step: bool = False
    scaled: bool = False
    lr: float = 3e-4
    decay: bool = False


_SEED = Recipe("identity straight-through, latent weights clamped after each epoch")
_STEP = replace(_SEED, text="as the paper does it", clamp_each_step=True)
_SCALED = replace(_STEP, text="and products divided by sqrt(fan_in), so that they are about 1", scaled=True)
_CLIPPED = replace(_SCALED, text="and the clipped estimator for activations", ste=clipped_ste)
_FASTER = replace(_CLIPPED, text="the clipped one at a rate of 3e-3 that falls to 0", lr=3e-3, decay=True)
RECIPES: Mapping[str, Recipe] = {
    "as the seed": _SEED,
    "clamped each step": _STEP,
    "scaled": _SCALED,
    "scaled, tanh": replace(_SCALED, text="and the derivative of tanh for activations", ste=tanh_ste),
    "scaled, clipped": _CLIPPED,
    "scaled, clipped, faster": _FASTER,
    "stochastic activations": replace(
        _FASTER, text="that, with random hidden activations in training", stochastic_activations=True
    ),
}
BATCH = 64


class ScaledSign(nn.Module):
    """Weights of ±1 / sqrt(fan_in): a user's own quantizer."""

    def forward(self, w: Tensor) -> Tensor:
        return identity_ste(w, sign(w) / sqrt(w.shape[1]))


def build(recipe: Recipe, features: int, classes: int, width: int) -> nn.Sequential:
    """features-width-(width/3)-classes, as 784-300-100-10; a bias, no batch norm, real-valued logits."""
    sizes = (features, width, max(1, width // 3), classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, out in pairwise(sizes):
        linear = nn.Linear(fan_in, out)
        nn.init.xavier_uniform_(linear.weight)  # Flux's default
        nn.init.zeros_(linear.bias)
        binarize(linear, ScaledSign if recipe.scaled else Sign)
        layers += [linear, (StochasticSign if recipe.stochastic_activations else Sign)(recipe.ste)]
    return nn.Sequential(*layers[:-1])


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant as the seed does; loss and accuracy on training and test set after each epoch."""
    recipe = RECIPES[variant]
    data = load_dataset(options.data, options.data_dir)
    x, test_x = (torch.from_numpy(v).float() / 255 for v in (data.train_images, data.test_images))
    y, test_y = torch.from_numpy(data.train_labels), torch.from_numpy(data.test_labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(recipe, x[0].numel(), len(data.classes), options.width)
        history = _train(model, recipe, x, y, test_x, test_y, options.epochs)
        frozen = freeze(model)
    packed = Runner(pack(frozen, test_x[:2], mean=(0.0,), std=(1.0,)))
    right = packed.predict(data.test_images) == data.test_labels
    last = dict(zip(COLUMNS, history[-1], strict=True))
    return {"accuracy": last["acc_test"], "loss": last["loss_test"], "packed": float(right.mean())} | {
        "history": history
    }


COLUMNS = ("loss_train", "loss_test", "acc_train", "acc_test")


def _train(
    model: nn.Module, recipe: Recipe, x: Tensor, y: Tensor, test_x: Tensor, test_y: Tensor, epochs: int
) -> list[list[float]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - step / steps if recipe.decay else 1.0
    )
    latent = list(latent_parameters(model))
    history = []
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
            if recipe.clamp_each_step:
                _clamp(latent)
        model.eval()
        train, test = _evaluate(model, x, y), _evaluate(model, test_x, test_y)
        history.append([train[0], test[0], train[1], test[1]])
        _clamp(latent)  # after the epoch's evaluation, as there
    return history


@torch.no_grad()
def _clamp(latent: Sequence[Tensor]) -> None:
    for weight in latent:
        weight.clamp_(-1, 1)


@torch.inference_mode()
def _evaluate(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """(loss, accuracy)."""
    logits = torch.cat([model(batch) for batch in x.split(5000)])
    return cross_entropy(logits, y).item(), (logits.argmax(1) == y).float().mean().item()


# --- figures ----------------------------------------------------------------------------------------------


def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
    """Test accuracy over the epochs, mean of the seeds; all epochs go to epochs.csv."""
    rows = [
        {"variant": variant, "seed": seed, "epoch": epoch} | dict(zip(COLUMNS, values, strict=True))
        for variant, of_seeds in cells.items()
        for seed, cell in enumerate(of_seeds)
        for epoch, values in enumerate(cell["history"], 1)
    ]
    pd.DataFrame(rows).to_csv(folder / "epochs.csv", index=False)
    with figure(folder / "accuracy.png", (8, 4.2)) as axes:
        for color, (variant, of_seeds) in zip(PALETTE, cells.items(), strict=True):
            accuracy = 100 * np.array([cell["history"] for cell in of_seeds])[:, :, 3]
            axes.plot(range(1, options.epochs + 1), accuracy.mean(axis=0), color=color, label=variant)
        axes.set_xlabel("epoch")
        axes.set_ylabel("test accuracy (%), mean of the seeds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return {"accuracy.png": "Test accuracy over the epochs."}


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """The seed's own table, and what the changes bring one by one."""
    table = pd.DataFrame(cells["as the seed"][0]["history"], columns=list(COLUMNS)).round(3)
    lines = ["| epoch | loss_train | loss_test | acc_train | acc_test |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {epoch} | {' | '.join(map(str, row))} |" for epoch, row in enumerate(table.to_numpy(), 1)]
    return ["As the seed prints it, seed 0:", "", *lines, ""]


STUDY = Study(
    name="activations",
    title="Weights and activations of ±1 without batch norm",
    settings={
        "mnist": Options("mnist", seeds=5, epochs=10, width=300),
        "digits": Options("digits", seeds=2, epochs=6, width=150),
    },
    variants={name: recipe.text for name, recipe in RECIPES.items()},
    run=run,
    draw=draw,
    conclude=conclude,
    weights="the signs",
    note="Test figures appear for each epoch, as the seed prints them: they are no choice's basis, but seen.",
)

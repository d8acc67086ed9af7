"""Source 003: weights and hidden activations of ±1, without batch norm, and what each change brings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bnn.binarization import binarize, latent_parameters
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.functional import StraightThrough, clipped_ste, identity_ste, sign, tanh_ste
from bnn.packing.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.runtime import Runner
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study, difference

__all__ = ["STUDY"]


@dataclass(frozen=True)
class Recipe:
    """What a variant changes; the defaults are the source's."""

    text: str
    ste: StraightThrough = identity_ste
    stochastic_activations: bool = False
    clamp_each_step: bool = False
    scaled: bool = False
    lr: float = 3e-4
    decay: bool = False


_SOURCE = Recipe("identity straight-through, latent weights clamped after each epoch")
_STEP = replace(_SOURCE, text="the source's, with the paper's clamp after each step", clamp_each_step=True)
_SCALED = replace(
    _STEP, text="products divided by sqrt(fan_in) besides, so that they are about 1", scaled=True
)
_CLIPPED = replace(_SCALED, text="scaled, with the clipped estimator for activations", ste=clipped_ste)
_FASTER = replace(_CLIPPED, text="scaled and clipped, at a rate of 3e-3 instead of 3e-4", lr=3e-3)
_DECAYED = replace(_FASTER, text="the same at a rate that falls from 3e-3 to 0 along a line", decay=True)
RECIPES: Mapping[str, Recipe] = {
    "as the source": _SOURCE,
    "as the source, stochastic": replace(
        _SOURCE, text="the source's, with random hidden activations in training", stochastic_activations=True
    ),
    "clamped each step": _STEP,
    "scaled": _SCALED,
    "scaled, tanh": replace(_SCALED, text="scaled, with tanh's derivative for activations", ste=tanh_ste),
    "scaled, clipped": _CLIPPED,
    "scaled, clipped, faster": _FASTER,
    "scaled, clipped, decayed": _DECAYED,
    "scaled, clipped, decayed, stochastic": replace(
        _DECAYED, text="the last one, with random hidden activations in training", stochastic_activations=True
    ),
}
CHANGES = (
    ("as the source", "as the source, stochastic"),
    ("as the source", "clamped each step"),
    ("clamped each step", "scaled"),
    ("scaled", "scaled, tanh"),
    ("scaled", "scaled, clipped"),
    ("scaled, clipped", "scaled, clipped, faster"),
    ("scaled, clipped, faster", "scaled, clipped, decayed"),
    ("scaled, clipped, decayed", "scaled, clipped, decayed, stochastic"),
)
"""Pairs that differ in one thing."""
BATCH = 64
Labelled = tuple[Tensor, Tensor]
"""Images and their labels."""


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
    """Trains a variant as the source does; loss and accuracy on training and test set after each epoch."""
    recipe = RECIPES[variant]
    data = load_dataset(options.data, options.data_dir)
    x, test_x = (torch.from_numpy(v).float() / 255 for v in (data.train_inputs, data.test_inputs))
    y, test_y = torch.from_numpy(data.train_targets), torch.from_numpy(data.test_targets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(recipe, x[0].numel(), len(data.classes), options.width)
        history, largest = _train(model, recipe, (x, y), (test_x, test_y), options.epochs)
        frozen = freeze(model)
    packed = Runner(pack(frozen, test_x[:2], mean=(0.0,), std=(1.0,)))
    right = packed.predict(data.test_inputs) == data.test_targets
    last = dict(zip(COLUMNS, history[-1], strict=True))
    return {
        "accuracy": last["acc_test"],
        "loss": last["loss_test"],
        "packed": float(right.mean()),
        "largest_latent": largest,
        "history": history,
    }


COLUMNS = ("loss_train", "loss_test", "acc_train", "acc_test")


def _train(
    model: nn.Module, recipe: Recipe, training: Labelled, test: Labelled, epochs: int
) -> tuple[list[list[float]], float]:
    """COLUMNS after each epoch; and the largest latent weight that a clamp ever saw."""
    x, y = training
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.lr)
    steps = epochs * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - step / steps if recipe.decay else 1.0
    )
    latent = list(latent_parameters(model))
    history, largest = [], torch.zeros(())
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x))[: len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
            if recipe.clamp_each_step:
                largest = torch.maximum(largest, _clamp(latent))
        model.eval()
        losses, accuracies = zip(_evaluate(model, *training), _evaluate(model, *test), strict=True)
        history.append([*losses, *accuracies])
        largest = torch.maximum(largest, _clamp(latent))  # after the epoch's evaluation, as there
    return history, largest.item()


@torch.no_grad()
def _clamp(latent: Sequence[Tensor]) -> Tensor:
    """Clamps to [-1, 1]; returns the largest magnitude before."""
    largest = torch.stack([weight.abs().max() for weight in latent]).max()
    for weight in latent:
        weight.clamp_(-1, 1)
    return largest


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
        # Three kinds of lines in turn, so that one shows through another that it lies under.
        styles = zip(PALETTE, cycle(("-", "--", ":")), strict=False)
        for (color, line), (variant, of_seeds) in zip(styles, cells.items(), strict=False):
            accuracy = 100 * np.array([cell["history"] for cell in of_seeds])[:, :, 3]
            axes.plot(range(1, options.epochs + 1), accuracy.mean(axis=0), line, color=color, label=variant)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel("test accuracy (%), mean of the seeds")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return {"accuracy.png": "Test accuracy over the epochs."}


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """What the changes bring one by one, whether clamping ever acted, and the source's own table."""
    lines = ["Points of test accuracy that each change brings:", ""]
    for before, after in CHANGES:
        gain = difference([c["accuracy"] for c in cells[after]], [c["accuracy"] for c in cells[before]])
        lines.append(f"- {after}, against {before}: {gain}")
    largest = max(cell["largest_latent"] for cell in cells["clamped each step"])
    if largest < 1:
        lines += [
            "",
            f"In the source's setting no latent weight ever got beyond {largest:.2f}, so clamping did "
            "nothing, after each step or each epoch, and the two runs are the same.",
        ]
    table = pd.DataFrame(cells["as the source"][0]["history"], columns=list(COLUMNS)).round(3)
    lines += ["", "As the source prints it, seed 0:", ""]
    lines += ["| epoch | loss_train | loss_test | acc_train | acc_test |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {epoch} | {' | '.join(map(str, row))} |" for epoch, row in enumerate(table.to_numpy(), 1)]
    return lines


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
    takes_device=False,
    conclude=conclude,
    weights="the signs",
    note="Test figures appear for each epoch, as the source prints them: they are no choice's basis, "
    "but seen.",
)

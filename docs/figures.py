"""Draws the figures of concepts.md and estimators.md from the library's own functions.

python docs/figures.py [FOLDER]
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bnn.from_scratch import Array, load, train
from bnn.functional import (
    StraightThrough,
    approx_ste,
    clipped_ste,
    hard_sigmoid,
    identity_ste,
    progressive_ste,
    sign,
    stochastic_sign,
    swish_ste,
    tanh_ste,
)
from bnn.studies.figures import PALETTE, figure


def binarization(folder: Path) -> None:
    """The sign; the hard sigmoid, with the frequencies of 2,000 draws at each of 41 latent weights."""
    w = torch.linspace(-1.5, 1.5, 601)
    points = torch.linspace(-1.5, 1.5, 41)
    draws = stochastic_sign(points.expand(2000, -1), torch.Generator().manual_seed(0))
    with figure(folder / "binarization.png", (9, 3), columns=2) as (left, right):
        left.plot(w[w < 0], sign(w[w < 0]), color=PALETTE[0])
        left.plot(w[w >= 0], sign(w[w >= 0]), color=PALETTE[0])
        left.plot(0, 1, "o", color=PALETTE[0])
        left.set_ylabel("deterministic: sign(w)")
        right.plot(w, hard_sigmoid(w), color=PALETTE[0], label="hard sigmoid")
        right.plot(points, draws.eq(1).float().mean(0), ".", color=PALETTE[1], label="share of 2,000 draws")
        right.set_ylabel("stochastic: probability of +1")
        right.figure.legend(loc="outside upper right", ncols=2, frameon=False)
        for axes in (left, right):
            axes.set_xlabel("latent weight w")


def estimators(folder: Path) -> None:
    """What each straight-through estimator's backward pass takes for the derivative of the sign."""
    with figure(folder / "estimators.png", (8, 3)) as axes:
        for estimator, style, color in zip(
            (identity_ste, clipped_ste, tanh_ste), ("-", "--", ":"), PALETTE, strict=False
        ):
            axes.plot(*derivative(estimator), style, color=color, label=estimator.__name__)
        axes.set_xlabel("x")
        axes.set_ylabel("derivative used backward")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)


def all_estimators(folder: Path) -> None:
    """The same of every estimator: those that stay as they are, and the one that changes as training does."""
    fixed = (identity_ste, clipped_ste, tanh_ste, approx_ste, swish_ste)
    stages = (0.0, 0.25, 0.5, 0.75, 1.0)
    with figure(folder / "estimators-all.png", (9, 3.8), columns=2) as (left, right):
        for estimator, style, color in zip(fixed, ("-", "--", ":", "-.", "-"), PALETTE, strict=False):
            left.plot(*derivative(estimator), style, color=color, label=estimator.__name__)
        for progress, color in zip(stages, PALETTE, strict=False):
            curve = derivative(partial(progressive_ste, progress=progress))
            right.plot(*curve, color=color, label=f"{progress:g}")
        left.set_ylabel("derivative used backward")
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
        right.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=5,
            frameon=False,
            title="progressive_ste at progress",
            columnspacing=1.2,
        )
        for axes in (left, right):
            axes.set_xlabel("x")


def derivative(estimator: StraightThrough) -> tuple[torch.Tensor, torch.Tensor]:
    """x, and what the estimator passes back of a gradient of 1 there."""
    x = torch.linspace(-2, 2, 801, requires_grad=True)
    estimator(x, sign(x)).sum().backward()
    assert x.grad is not None
    return x.detach(), x.grad


def latent_weights(folder: Path) -> None:
    """Latent weights of a class of the digits while BinaryConnect trains them; at 0 signs flip."""
    x, t, _, _ = load("digits")
    history: list[Array] = []
    train(x, t, epochs=20, batch=50, on_step=lambda step, w, b: history.append(w[:, 3]))
    paths = np.array(history)
    shown = np.argsort(np.abs(paths[0]))[::4][:12]
    with figure(folder / "latent-weights.png", (9, 3.4)) as axes:
        steps = np.arange(1, len(paths) + 1)
        for color, i in zip(PALETTE * 2, shown, strict=False):
            axes.plot(steps, paths[:, i], color=color, linewidth=1)
            flips = np.flatnonzero(np.diff(paths[:, i] >= 0))
            axes.plot(steps[flips + 1], np.zeros(len(flips)), "|", color=color, markersize=9)
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel("step")
        axes.set_ylabel("latent weight (a bar: its sign flips)")


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for draw in (binarization, estimators, all_estimators, latent_weights):
        draw(out)

"""Sources 001 and 002: BinaryConnect by hand, on logistic regression, and the questions left open there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bnn.from_scratch import (
    Array,
    Pair,
    accuracy,
    binarize,
    clip,
    cross_entropy,
    gradients,
    load,
    logits,
    train,
)
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study, difference

__all__ = ["STUDY"]

VARIANTS = {
    "as the source": "the tutorial's own loop, on all training images: weights start in [0, 1], so all at "
    "+1; the rate decays when the *test* loss rises, and the fifth rise ends it",
    "float": "real-valued weights",
    "float, then binarized": "the same training; the signs of its weights are tested",
    "one bit": "BinaryConnect, deterministic; the rate falls to 0",
    "one bit, biases too": "the biases are binarized as well",
    "one bit, constant rate": "BinaryConnect without decay",
    "one bit, Adam": "BinaryConnect by Adam, at a rate that falls from 0.03 to 0",
    "one bit, Adam, constant rate": "BinaryConnect by Adam at 0.03",
    "one bit, batches of 1000": "BinaryConnect with ten times larger batches, so a tenth of the steps",
}
SAMPLES = 40  # points of a curve
LOOKS = 20  # at the validation accuracy in the last twentieth of training


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant; test accuracy and loss of its final weights, and how much it jittered."""
    x, t, test_x, test_t = load(options.data, options.data_dir)
    if variant == "as the source":
        return _as_the_source(x, t, test_x, test_t, seed)
    held = len(x) // 6
    validation_x, validation_t, x, t = x[-held:], t[-held:], x[:-held], t[:-held]
    settings: dict[str, Any] = {"epochs": options.epochs, "seed": seed}
    if variant.startswith("float"):
        settings["binary"] = False
    if variant == "one bit, biases too":
        settings["binary_biases"] = True
    if variant.endswith("constant rate"):
        settings["decay"] = False
    if variant.startswith("one bit, Adam"):
        settings |= {"direction": _adam(), "alpha": 0.03}
    if variant == "one bit, batches of 1000":
        settings["batch"] = min(1000, len(x) // 4)
    watch = _Watch(settings, len(x), validation_x, validation_t)
    w, b = train(x, t, **settings, on_step=watch)
    if variant == "float, then binarized":
        w = binarize(w)
    v = logits(test_x, w, b)
    result = {"accuracy": accuracy(v, test_t), "loss": cross_entropy(v, test_t)}
    return result | (watch.result() if settings.get("binary", True) else {})


def _adam() -> Callable[[Pair], Pair]:
    """Adam's direction (Kingma and Ba, 2015, algorithm 1), for `train` to follow."""
    m: list[Any] = [0.0, 0.0]
    v: list[Any] = [0.0, 0.0]
    step = 0

    def direction(gradient: Pair) -> Pair:
        nonlocal step
        step += 1
        out = []
        for i, g in enumerate(gradient):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            out.append(m[i] / (1 - 0.9**step) / (np.sqrt(v[i] / (1 - 0.999**step)) + 1e-8))
        return out[0], out[1]

    return direction


class _Watch:
    """Counts flipped signs at every step, and looks at the validation set now and then."""

    def __init__(self, settings: Mapping[str, Any], samples: int, x: Array, t: Array) -> None:
        self.x, self.t = x, t
        self.binary = settings.get("binary", True)
        self.binary_biases = settings.get("binary_biases", False)
        self.steps = settings["epochs"] * (samples // settings.get("batch", 100))
        self.signs: NDArray[np.bool_] | None = None
        self.late = max(1, self.steps // 20)  # steps at the end that are looked at closely
        self.flips: list[int] = []
        self.distances: list[float] = []
        self.validation: list[float] = []
        self.validation_late: list[float] = []
        self.flipped_late = np.zeros(x.shape[1], np.int64)
        self.weights: Array | None = None

    def __call__(self, step: int, w: Array, b: Array) -> None:
        if not self.binary:
            return
        signs = w >= 0
        if self.signs is not None and self.weights is not None:
            flipped = signs != self.signs
            self.flips.append(int(flipped.sum()))
            if step > self.steps - self.late:
                self.flipped_late += flipped.sum(axis=1)
                self.distances.append(float(np.abs(w - self.weights).sum()))
        self.signs, self.weights = signs, w
        left = self.steps - step
        look = step % max(1, self.steps // SAMPLES) == 0
        look_closely = left < self.late and left % max(1, self.late // LOOKS) == 0
        if look or look_closely:
            v = logits(self.x, binarize(w), binarize(b) if self.binary_biases else b)
            found = accuracy(v, self.t)
            self.validation += [found] * look
            self.validation_late += [found] * look_closely

    def result(self) -> dict[str, Any]:
        """All but the lists are of the last twentieth of the steps. jitter: the mean change of the validation
        accuracy from one of twenty looks to the next. near_zero: the share of latent weights below 0.02.
        """
        assert self.weights is not None
        looks = self.validation_late
        histogram = np.histogram(self.weights, bins=np.linspace(-1, 1, 81))[0]
        return {
            "flips_per_step": float(np.mean(self.flips[-self.late :])),
            "distance_per_step": float(np.mean(self.distances)),
            "near_zero": float(np.mean(np.abs(self.weights) < 0.02)),
            "jitter": float(np.abs(np.diff(looks)).mean()) if len(looks) > 1 else 0.0,
            "validation": self.validation,
            "flips": [
                float(np.mean(part)) for part in np.array_split(self.flips, min(SAMPLES, len(self.flips)))
            ],
            "latent": histogram.tolist(),
            "flipped_late": self.flipped_late.tolist(),
        }


def _as_the_source(x: Array, t: Array, test_x: Array, test_t: Array, seed: int) -> dict[str, Any]:
    """The tutorial's loop as it stands; its batches, of a size it does not name, are 100 random images."""
    rng = np.random.default_rng(seed)
    w, b = rng.uniform(0, 1, (x.shape[1], t.shape[1])), np.ones(t.shape[1])
    alpha, previous, rises = 0.5, 0.0, 0
    for step in range(1, 10_001):
        rows = rng.integers(0, len(x), 100)
        w_bin = binarize(w)
        to_w, to_b = gradients(x[rows], logits(x[rows], w_bin, b), t[rows])
        w, b = clip(w - alpha * to_w), b - alpha * to_b
        if step % 200 == 0:
            v = logits(test_x, w_bin, b)  # the weights before the update, as there
            loss = cross_entropy(v, test_t)
            if previous < loss:
                alpha, rises = 0.9 * alpha, rises + 1
            previous = loss
            if rises > 4:
                break
    return {"accuracy": accuracy(v, test_t), "loss": loss}


# --- figures ----------------------------------------------------------------------------------------------


LATENT = ("one bit", "one bit, constant rate", "one bit, Adam")


def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
    """Accuracies; jitter and flips; latent weights; where signs flip."""
    one_bit = [name for name in VARIANTS if name.startswith("one bit")]
    with figure(folder / "accuracy.png", (8, 3.6)) as axes:
        names = list(VARIANTS)
        for y, name in enumerate(names):
            values = 100 * np.array([cell["accuracy"] for cell in cells[name]])
            axes.plot(values, np.full(len(values), y), "o", color=PALETTE[0], alpha=0.5, markersize=4)
            axes.plot(values.mean(), y, "|", color="black", markersize=16)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel("test accuracy (%): each seed, and the mean")
    with figure(folder / "jitter.png", (2.1 * len(one_bit), 4.2), columns=len(one_bit), rows=2) as panels:
        for (upper, lower), name in zip(panels.T, one_bit, strict=True):
            first = cells[name][0]
            looks, flips = 100 * np.array(first["validation"]), first["flips"]
            upper.plot(np.linspace(0, 100, len(looks) + 1)[1:], looks, color=PALETTE[0])
            lower.plot(np.linspace(0, 100, len(flips) + 1)[1:], flips, color=PALETTE[1])
            upper.set_title(name.removeprefix("one bit, "), fontsize=10)
            lower.set_xlabel("training done (%)")
        panels[0, 0].set_ylabel("validation accuracy (%)")
        panels[1, 0].set_ylabel("signs flipped a step")
        panels[1, 0].set_ylim(bottom=0)
    with figure(folder / "latent.png", (8, 3.2)) as axes:
        edges = np.linspace(-1, 1, 81)
        for color, name in zip(PALETTE, LATENT, strict=False):
            counts = np.mean([cell["latent"] for cell in cells[name]], axis=0)
            axes.stairs(100 * counts / counts.sum(), edges, color=color, label=name)
        axes.set_xlabel("latent weight at the end")
        axes.set_ylabel("share of weights (%)")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    names = ["one bit", "one bit, constant rate"]
    with figure(folder / "flips.png", (8, 3.6), columns=2) as panels:
        maps = [np.array(cells[name][0]["flipped_late"], float) for name in names]
        side = int(np.sqrt(len(maps[0])))
        top = max(1.0, *(m.max() for m in maps))
        for axes, name, values in zip(panels, names, maps, strict=True):
            image = axes.imshow(values.reshape(side, side), cmap="viridis", vmin=0, vmax=top)
            axes.set_title(name, fontsize=10)
            axes.set_xlabel("pixel column")
            axes.set_ylabel("pixel row")
            axes.grid(False)
        panels[0].figure.colorbar(image, ax=list(panels), label="flips of its ten signs", shrink=0.85)
    return {
        "accuracy.png": "Test accuracy of each variant, seed by seed.",
        "jitter.png": "Validation accuracy and flipped signs while training, of the first seed.",
        "latent.png": "Where the latent weights are at the end.",
        "flips.png": "Sign flips over the last twentieth of training, by pixel, first seed.",
    }


def conclude(summary: pd.DataFrame, cells: Cells) -> Sequence[str]:
    """The source's questions, answered with these figures."""

    def of(name: str, metric: str = "accuracy") -> NDArray[np.float64]:
        return np.array([cell[metric] for cell in cells[name]])

    def mean(name: str, metric: str, unit: float = 1) -> str:
        values = unit * of(name, metric)
        return f"{values.mean():.2f}" + (f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else "")

    after = difference(of("float, then binarized"), of("one bit"))
    biases = difference(of("one bit, biases too"), of("one bit"), paired=True)
    verdict = "an effect" if biases.certain else "nothing that the seeds tell from noise"
    constant = "one bit, constant rate"
    lines = [
        f"**Binarizing after training instead?** {after} points, against weights trained as signs.",
        "",
        f"**Binarizing the biases too?** {biases} points, seed by seed: {verdict}.",
        "",
        "**Why is training jittery, and what cures it?** In the last twentieth of training:",
        "",
        "| variant | signs flipped a step | L1 distance of a step | latent weights within 0.02 of 0 (%) | "
        "change of validation accuracy from look to look (points) | that, against a constant rate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in (name for name in VARIANTS if name.startswith("one bit")):
        change = "" if name == constant else str(difference(of(name, "jitter"), of(constant, "jitter")))
        lines.append(
            f"| {name} | {mean(name, 'flips_per_step')} | {mean(name, 'distance_per_step')} | "
            f"{mean(name, 'near_zero', 100)} | {mean(name, 'jitter', 100)} | {change} |"
        )
    gain = difference(of("one bit"), of(constant))
    return [
        *lines,
        "",
        "A step turns the signs of those latent weights that lie closer to 0 than it is long, and each of "
        f"them is a jump of 2 in a weight. A rate that falls to 0 ends with {gain} points of test accuracy "
        "against a constant one.",
    ]


STUDY = Study(
    name="from-scratch",
    title="BinaryConnect from scratch, on logistic regression",
    settings={
        "mnist": Options("mnist", seeds=5, epochs=20, width=1),
        "digits": Options("digits", seeds=3, epochs=60, width=1),
    },
    variants=VARIANTS,
    run=run,
    draw=draw,
    takes_device=False,
    conclude=conclude,
    weights="the signs where training was with signs, else as each variant says",
    note="The test set is read once, with the final weights; but the source's own loop decides by it.",
)

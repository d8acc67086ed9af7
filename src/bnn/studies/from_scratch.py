"""Seeds 001 and 002: BinaryConnect by hand, on logistic regression, and the questions left open there."""

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
from bnn.studies.study import Cells, Options, Study

__all__ = ["STUDY"]

VARIANTS = {
    "as the seed": "the tutorial's own loop: weights start in [0, 1], so all at +1; the rate decays when the "
    "*test* loss rises, and the fifth rise ends it",
    "float": "real-valued weights",
    "float, then binarized": "the same training; the signs of its weights are tested",
    "one bit": "BinaryConnect, deterministic; the rate falls to 0",
    "one bit, biases too": "the biases are binarized as well",
    "one bit, constant rate": "BinaryConnect without decay",
    "one bit, Adam": "BinaryConnect by Adam, whose rate falls to 0",
    "one bit, batches of 1000": "BinaryConnect with ten times larger batches, so a tenth of the steps",
}
SAMPLES = 40  # points of a curve


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant; test accuracy and loss of its final weights, and how much it jittered."""
    x, t, test_x, test_t = load(options.data, options.data_dir)
    if variant == "as the seed":
        return _as_the_seed(x, t, test_x, test_t, seed, options)
    held = len(x) // 6
    validation_x, validation_t, x, t = x[-held:], t[-held:], x[:-held], t[:-held]
    settings: dict[str, Any] = {"epochs": options.epochs, "seed": seed}
    if variant.startswith("float"):
        settings["binary"] = False
    if variant == "one bit, biases too":
        settings["binary_biases"] = True
    if variant == "one bit, constant rate":
        settings["decay"] = False
    if variant == "one bit, Adam":
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
        self.flips: list[int] = []
        self.validation: list[float] = []
        self.flipped_late = np.zeros(x.shape[1], np.int64)
        self.weights: Array | None = None

    def __call__(self, step: int, w: Array, b: Array) -> None:
        if not self.binary:
            return
        signs = w >= 0
        if self.signs is not None:
            flipped = signs != self.signs
            self.flips.append(int(flipped.sum()))
            if step > self.steps - max(1, self.steps // 20):
                self.flipped_late += flipped.sum(axis=1)
        self.signs, self.weights = signs, w
        every = max(1, self.steps // SAMPLES)
        if step % every == 0:
            v = logits(self.x, binarize(w), binarize(b) if self.binary_biases else b)
            self.validation.append(accuracy(v, self.t))

    def result(self) -> dict[str, Any]:
        """flips_per_step: over the last twentieth of the steps. jitter: the mean change of the validation
        accuracy from look to look, over the last quarter."""
        last = self.validation[-len(self.validation) // 4 :]
        assert self.weights is not None
        histogram = np.histogram(self.weights, bins=np.linspace(-1, 1, 81))[0]
        return {
            "flips_per_step": float(np.mean(self.flips[-max(1, self.steps // 20) :])),
            "jitter": float(np.abs(np.diff(last)).mean()) if len(last) > 1 else 0.0,
            "validation": self.validation,
            "flips": [
                float(np.mean(part)) for part in np.array_split(self.flips, min(SAMPLES, len(self.flips)))
            ],
            "latent": histogram.tolist(),
            "flipped_late": self.flipped_late.tolist(),
        }


def _as_the_seed(
    x: Array, t: Array, test_x: Array, test_t: Array, seed: int, options: Options
) -> dict[str, Any]:
    """The tutorial's loop as it stands, with batches of 100, which it does not name."""
    rng = np.random.default_rng(seed)
    w, b = rng.uniform(0, 1, (x.shape[1], t.shape[1])), np.ones(t.shape[1])
    alpha, previous, rises, losses = 0.5, 0.0, 0, [0.0]
    for step in range(1, 10_001):
        rows = rng.integers(0, len(x), 100)
        w_bin = binarize(w)
        to_w, to_b = gradients(x[rows], logits(x[rows], w_bin, b), t[rows])
        w, b = clip(w - alpha * to_w), b - alpha * to_b
        if step % 200 == 0:
            v = logits(test_x, w_bin, b)  # the weights before the update, as there
            loss = cross_entropy(v, test_t)
            losses.append(loss)
            if previous < loss:
                alpha, rises = 0.9 * alpha, rises + 1
            previous = loss
            if rises > 4:
                break
    return {"accuracy": accuracy(v, test_t), "loss": loss}


# --- figures ----------------------------------------------------------------------------------------------


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
    with figure(folder / "jitter.png", (10, 3.6), columns=2) as (left, right):
        for color, name in zip(PALETTE, one_bit, strict=False):
            first = cells[name][0]
            progress = np.linspace(0, 100, len(first["validation"]))
            left.plot(progress, 100 * np.array(first["validation"]), color=color, label=name)
            right.plot(np.linspace(0, 100, SAMPLES), np.array(first["flips"]) + 0.01, color=color, label=name)
        left.set_ylabel("validation accuracy (%), seed 0")
        right.set_ylabel("signs flipped a step")
        right.set_yscale("log")
        for axes in (left, right):
            axes.set_xlabel("training done (%)")
        handles = left.get_legend_handles_labels()
        left.figure.legend(*handles, loc="outside upper center", ncols=3, frameon=False)
    with figure(folder / "latent.png", (8, 3.2)) as axes:
        edges = np.linspace(-1, 1, 81)
        for color, name in zip(PALETTE, one_bit[:1] + one_bit[2:4], strict=False):
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
    """The seed's questions, answered with these figures."""

    def of(name: str, metric: str = "accuracy") -> NDArray[np.float64]:
        return np.array([cell[metric] for cell in cells[name]])

    def jitter(name: str) -> str:
        flips, points = of(name, "flips_per_step").mean(), 100 * of(name, "jitter").mean()
        return f"{flips:.1f} signs and {points:.2f} points"

    after, one_bit = of("float, then binarized").mean(), of("one bit").mean()
    effect = of("one bit, biases too") - of("one bit")
    error = effect.std(ddof=1) / np.sqrt(len(effect)) if len(effect) > 1 else float("nan")
    verdict = "an effect" if abs(effect.mean()) > 2 * error else "nothing that the seeds tell from noise"
    constant = of("one bit, constant rate").mean()
    return [
        f"**Binarizing after training instead?** {after:.4f} against {one_bit:.4f}, for weights that were "
        "trained as what they will be.",
        "",
        f"**Binarizing the biases too?** Seed by seed it changes the accuracy by {effect.mean():+.4f}, with "
        f"a standard error of {error:.4f}: {verdict}.",
        "",
        "**Why is training jittery?** Latent weights gather at 0, where every step turns some of their "
        "signs, each a jump of 2 in a weight. Signs flipped a step at the end, and the change of validation "
        f"accuracy from one look to the next: at a constant rate {jitter('one bit, constant rate')}; with a "
        f"rate that falls to 0 {jitter('one bit')}; with Adam besides {jitter('one bit, Adam')}; with large "
        f"batches {jitter('one bit, batches of 1000')}. The weights that training happens to end with have "
        f"an accuracy of {constant:.4f} at a constant rate, and {one_bit:.4f} with one that falls to 0.",
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
    note="The test set is read once, with the final weights; but the seed's own loop decides by it.",
)

"""Source 000: which weights to test with? Any random sample, it says; its paper took the real-valued ones."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.freezing import freeze, recalibrate
from bnn.runtime import load
from bnn.studies.figures import PALETTE, figure
from bnn.studies.study import Cells, Options, Study, difference
from bnn.training.run import load_trained, train

__all__ = ["STUDY"]

VARIANTS = {
    "stochastic": "weights drawn anew at every step of training, with a hard sigmoid's probability",
    "deterministic": "signs in training",
}
WAYS = {
    "signs": "the sign of each latent weight: one bit",
    "one sample": "one random draw: one bit",
    "mean of ten": "the mean of ten draws' accuracies",
    "ensemble": "the mean of ten draws' probabilities: ten bits",
    "real-valued": "the latent weights themselves: 32 bits, as the paper tests stochastic training",
}
SAMPLES = 10


def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
    """Trains a variant; the test accuracy of each way, as trained and recalibrated."""
    digits = options.data == "digits"
    config = TrainConfig(
        data=options.data,
        validation=300 if digits else 10_000,
        model="binaryconnect_mlp",
        width=options.width,
        epochs=options.epochs,
        batch_size=50 if digits else 100,
        loss="cross_entropy",
        schedule="cosine",
        device=options.device,
        seed=seed,
        weights="stochastic" if variant == "stochastic" else "deterministic",
        lr=1e-2 if variant == "stochastic" else 3e-3,  # random signs: latent weights must get away from 0
    )
    train(config, folder, data_dir=options.data_dir, resume=(folder / "config.toml").exists())
    contract = load(folder / "model.bnn", engine="reference").model.input
    data = load_dataset(options.data, options.data_dir)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (contract.mean, contract.std))
    training, test = ((torch.from_numpy(v) / 255 - mean) / std for v in (data.train_inputs, data.test_inputs))
    calibration = training[: len(training) - config.validation][:10_000]
    labels = torch.from_numpy(data.test_targets)
    result: dict[str, Any] = {}
    for suffix in ("", ", recalibrated"):
        found: dict[str, list[Tensor]] = {"sign": [], "sample": [], "real": []}
        for weights, outputs in found.items():
            for model in _frozen(folder, weights):
                if suffix:
                    recalibrate(model, calibration.chunk(-(-len(calibration) // 1000)))  # of one size
                outputs.append(_probabilities(model, test))
        accuracies = {
            name: [(p.argmax(1) == labels).float().mean().item() for p in outputs]
            for name, outputs in found.items()
        }
        ensemble = torch.stack(found["sample"]).mean(0)
        ways = {
            "signs": accuracies["sign"][0],
            "one sample": accuracies["sample"][0],
            "mean of ten": float(np.mean(accuracies["sample"])),
            "ensemble": (ensemble.argmax(1) == labels).float().mean().item(),
            "real-valued": accuracies["real"][0],
        }
        result |= {way + suffix: accuracy for way, accuracy in ways.items()}
    return result


def _frozen(folder: Path, weights: str) -> Iterator[nn.Module]:
    """The trained network with these weights; of samples, ten."""
    trained = load_trained(folder)
    for draw in range(SAMPLES if weights == "sample" else 1):
        yield freeze(trained, weights, seed=draw)  # type: ignore[arg-type]


@torch.inference_mode()
def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch).softmax(1) for batch in images.split(2000)])


def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
    """Accuracy of each way, as trained and recalibrated."""
    from matplotlib.ticker import NullLocator

    with figure(folder / "accuracy.png", (10, 3.4), columns=2) as panels:
        for axes, (variant, of_seeds) in zip(panels, cells.items(), strict=True):
            for offset, color, suffix in ((-0.12, PALETTE[1], ""), (0.12, PALETTE[0], ", recalibrated")):
                for y, way in enumerate(WAYS):
                    values = 100 - 100 * np.array([cell[way + suffix] for cell in of_seeds])
                    label = (suffix[2:] or "statistics from training") if y == 0 else None
                    axes.plot(values, np.full(len(values), y + offset), "o", color=color, label=label)
            axes.set_yticks(range(len(WAYS)), list(WAYS))
            axes.invert_yaxis()
            axes.set_title(f"{variant} training", fontsize=10)
            axes.set_xscale("log")
            low, high = axes.get_xlim()
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks([tick for tick in (1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low < tick < high])
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("test error (%), logarithmic")
        handles = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    return {"accuracy.png": "Test error by the weights that are tested, each seed."}


def conclude(summary: pd.DataFrame, cells: Cells) -> list[str]:
    """The same by way, a row each; and what each way is."""
    lines = ["| training | weights at test time | statistics from training | recalibrated |"]
    lines.append("| --- | --- | --- | --- |")
    for variant, of_seeds in cells.items():
        for way in WAYS:
            columns = []
            for suffix in ("", ", recalibrated"):
                values = 100 * np.array([cell[way + suffix] for cell in of_seeds])
                spread = f" ± {values.std(ddof=1):.2f}" if len(values) > 1 else ""
                columns.append(f"{values.mean():.2f}{spread} %")
            lines.append(f"| {variant} | {way} | {' | '.join(columns)} |")

    def of(way: str, variant: str = "stochastic") -> list[float]:
        return [cell[way] for cell in cells[variant]]

    real = of("real-valued, recalibrated")
    sample, signs = (difference(of(f"{way}, recalibrated"), real) for way in ("one sample", "signs"))
    will_do = "will do" if abs(sample.mean) < 0.5 else "will not do"
    return [
        "Points of accuracy against the real-valued weights of stochastic training, which its paper tests, "
        "with recalibrated statistics:",
        "",
        f"- one random sample: {sample}",
        f"- the signs: {signs}",
        f"- the signs of deterministic training: {difference(of('signs', 'deterministic'), real)}",
        "",
        f"So any random sample {will_do}, if half a point is no matter. Stochastic training starts at a rate "
        "of 0.01, as latent weights must get away from 0; all else is the same.",
        "",
        *lines,
        "",
        *(f"- **{way}**: {text}" for way, text in WAYS.items()),
    ]


STUDY = Study(
    name="test-time",
    title="Which weights to test a network with",
    settings={
        "mnist": Options("mnist", seeds=3, epochs=4, width=1024),
        "digits": Options("digits", seeds=1, epochs=15, width=128),
    },
    variants=VARIANTS,
    run=run,
    draw=draw,
    conclude=conclude,
    weights="those that each column names",
    note="The test set is read once, with the weights of the last epoch.",
)

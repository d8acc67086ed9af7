"""What is watched while a network trains, against counts made by hand."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn.binarization import binarize, latent_parameters
from bnn.config import TrainConfig
from bnn.training.diagnostics import OFTEN, SHARES, WINDOW, LatentWatch, LayerState, advice, overall
from bnn.training.reports import Progress, layers_csv
from bnn.training.run import train


def small(**shape: int) -> tuple[nn.Module, torch.Tensor]:
    """A layer of 3 outputs and 8 inputs, and its latent weight, all at 0.5."""
    model = binarize(nn.Sequential(nn.Linear(shape.get("inputs", 8), shape.get("outputs", 3), bias=False)))
    (latent,) = latent_parameters(model)
    with torch.no_grad():
        latent.fill_(0.5)
    return model, latent.detach()


def test_an_epoch_by_hand() -> None:
    """Flips a step and in the epoch, saturation, and outputs whose latent weights stay as they are."""
    model, latent = small()
    watch = LatentWatch(model)
    watch.begin_epoch(4)
    for step in range(4):
        latent[0, 0] *= -1  # flips 4 times, and is back
        latent[1, :] = 1 - 2 * step / 3  # 1, 1/3, -1/3, -1: a flip, and clipped at both ends
        watch.step()
    (state,) = watch.end_epoch()
    assert (state.name, state.weights) == ("0.weight", 24)
    assert state.flips_per_step == (4 + 8) / (4 * 24)
    assert state.flip_ratio == 8 / 24
    assert state.saturation == 8 / 24
    assert state.dead_units == 2 / 3  # the first row is back where it was
    assert state.oscillation == 0
    assert state.histogram[0] == pytest.approx(8 / 24)
    assert state.histogram[30] == pytest.approx(16 / 24)  # 0.5 lies in the bin from 0.463 to 0.512
    assert sum(state.histogram) == pytest.approx(1)


def test_oscillation_is_that_of_the_last_steps() -> None:
    """More than ten flips in the last hundred steps; what happened before does not count."""
    model, latent = small()
    watch = LatentWatch(model)
    steps = WINDOW + 50
    watch.begin_epoch(steps)
    for step in range(steps):
        if step < 50:
            latent[0, 0] *= -1  # often, but early
        if step >= steps - OFTEN:
            latent[0, 1] *= -1  # late, but not more than ten times
        if step >= steps - OFTEN - 1:
            latent[0, 2] *= -1
        watch.step()
    (state,) = watch.end_epoch()
    assert state.oscillation == 1 / 24


def test_large_layers_are_sampled_evenly() -> None:
    """Flips of a layer of two million weights are estimated well, whatever rows or columns they are in."""
    model, latent = small(inputs=1024, outputs=2048)
    for rows, columns in ((slice(None), slice(0, 256)), (slice(0, 512), slice(None))):
        watch = LatentWatch(model)
        watch.begin_epoch(2)
        for _ in range(2):
            latent[rows, columns] *= -1
            watch.step()
        (state,) = watch.end_epoch()
        # A quarter flips each step; the sample of 1,024 has a deviation of 1.4 %.
        assert state.flips_per_step == pytest.approx(0.25, abs=0.03)
        assert state.flip_ratio == 0


def test_every_shape_and_layout() -> None:
    """Convolutions with channels last, biases and recurrent weights are watched as well."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    binarize(binarize(network)[1], name="bias")
    lstm = binarize(nn.LSTM(4, 5))
    for model, layers in ((network, 3), (lstm, 2), (nn.Linear(2, 2), 0)):
        watch = LatentWatch(model)
        watch.begin_epoch(3)
        with torch.no_grad():
            for latent in latent_parameters(model):
                latent.neg_()
        watch.step()
        states = watch.end_epoch()
        assert len(states) == layers
        assert all(state.flip_ratio == 1 and state.dead_units == 0 for state in states)


HEALTHY = LayerState("fc1.weight", 100, 0.001, 0.08, 0.2, 0.0, 0.0, (1.0,))


@pytest.mark.parametrize(
    ("changes", "ending", "words"),
    [
        ({}, False, None),
        ({"flip_ratio": 0.04}, True, None),
        ({"flips_per_step": 0.31}, False, "31 % of signs flip every step: lower its learning rate"),
        (
            {},
            True,
            "8 % of signs changed in the last epoch: let the learning rate fall to 0, or train for longer",
        ),
        ({"flip_ratio": 0.0}, False, "no sign flipped in the epoch: raise its learning rate"),
        ({"flip_ratio": 0.0}, True, None),
        (
            {"saturation": 0.95},
            False,
            "95 % of latent weights are at ±1 and can hardly turn back: lower its learning rate",
        ),
        (
            {"dead_units": 0.25},
            False,
            "no gradient reaches 25 % of its outputs: put a batch norm before the activation, or lower the "
            "learning rate",
        ),
    ],
)
def test_advice(changes: dict[str, float], ending: bool, words: str | None) -> None:
    """A line that names the layer, the figure and what to do; none where nothing looks wrong."""
    lines = advice([replace(HEALTHY, **changes)], ending)
    assert lines == ([] if words is None else [f"fc1.weight: {words}"])


def test_overall_weighs_layers_by_their_size() -> None:
    """The mean over all weights; nothing of a network without binary ones."""
    layers = [HEALTHY, replace(HEALTHY, weights=300, saturation=0.6)]
    assert overall(layers)["saturation"] == pytest.approx((0.2 * 100 + 0.6 * 300) / 400)
    assert overall([]) == {}
    assert layers_csv([layers[:1]]).splitlines() == [
        "epoch,layer,flips_per_step,flip_ratio,saturation,oscillation,dead_units",
        "1,fc1.weight,0.001,0.08,0.2,0.0,0.0",
    ]


def test_a_run_reports_its_layers(tmp_path: Path) -> None:
    """layers.csv has each layer and epoch, metrics.csv their means; a rate far too high is called that."""
    said: list[str] = []

    class Said(Progress):
        def advice(self, line: str) -> None:
            said.append(line)

    config = TrainConfig.from_recipe("digits", epochs=3, width=32, lr=1.0, schedule="constant")
    train(config, tmp_path / "fast", progress=Said())
    with (tmp_path / "fast" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["layer"] for row in rows[:4]] == ["2.weight", "5.weight", "8.weight", "11.weight"]
    assert len(rows) == 12
    with (tmp_path / "fast" / "metrics.csv").open() as file:
        (first, *_) = csv.DictReader(file)
    sizes = [64 * 32, 32 * 32, 32 * 32, 320]
    for name in SHARES:
        mean = sum(float(row[name]) * n for row, n in zip(rows[:4], sizes, strict=True)) / sum(sizes)
        assert float(first[name]) == pytest.approx(mean)
    assert any("of signs flip every step: lower its learning rate" in line for line in said)
    assert any("at ±1 and can hardly turn back" in line for line in said)


def test_watching_changes_nothing(tmp_path: Path) -> None:
    """With and without diagnostics the weights are the same, bit for bit; without, there are no layers."""
    config = TrainConfig.from_recipe("digits", epochs=2, width=32, weights="stochastic")
    for name, value in (("on", True), ("off", False)):
        train(replace(config, diagnostics=value), tmp_path / name)
    assert (tmp_path / "on" / "model.bnn").read_bytes() == (tmp_path / "off" / "model.bnn").read_bytes()
    assert not (tmp_path / "off" / "layers.csv").exists()
    assert (tmp_path / "off" / "metrics.csv").read_text().splitlines()[1].split(",")[5:10] == [""] * 5


def test_an_epoch_must_begin() -> None:
    """Before `begin_epoch` there is nothing to tell, which is an error, unless no weight is binary."""
    with pytest.raises(ValueError, match="begin_epoch"):
        LatentWatch(binarize(nn.Linear(3, 3))).end_epoch()
    assert LatentWatch(nn.Linear(3, 3)).end_epoch() == []

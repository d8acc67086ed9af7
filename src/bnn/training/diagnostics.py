"""What goes on inside a binary network while it trains, read off its latent weights alone.

    watch = LatentWatch(model)
    watch.begin_epoch(steps)
    ...                         # after every optimizer step: watch.step()
    layers = watch.end_epoch()  # a LayerState for each binarized weight
    for line in advice(layers): print(line)

Each step looks at a sample of each layer's weights; the end of an epoch looks at all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from bnn.binarization import named_latent_parameters

__all__ = ["SHARES", "LatentWatch", "LayerState", "advice", "overall"]

SHARES = ("flips_per_step", "flip_ratio", "saturation", "oscillation", "dead_units")
"""The figures of a LayerState that are shares, from 0 to 1."""

SAMPLE = 1024
"""Weights of a layer that are looked at in every step."""
WINDOW = 100
"""Steps, at an epoch's end, over which oscillation is counted."""
OFTEN = 10
"""A weight oscillates if its sign flips more than so many times in the window."""
AT_ONCE = 2**17
"""Weights that are compared at a time at an epoch's end: so few that what lies between fits the cache."""
BINS = 41
"""Bins of a layer's histogram, from -1 to 1."""
HISTOGRAM = 65_536
"""Weights of a layer that are counted in it: a bin is then off by some 3 % of itself."""


@dataclass(frozen=True)
class LayerState:
    """A binarized weight over one epoch. Shares are from 0 to 1.

    Attributes:
        name: as in the float model, such as "fc1.weight".
        weights: how many there are.
        flips_per_step: mean share of signs that changed in a step (of a sample of the weights).
        flip_ratio: share of signs that are not what they were before the epoch.
        saturation: share of latent weights at ±1, where clipping holds them.
        oscillation: share whose sign flipped more than 10 times in the last 100 steps (of the sample).
        dead_units: share of outputs none of whose latent weights moved: no gradient reaches them.
        histogram: shares of latent weights in 41 equal bins from -1 to 1, those beyond in the outer ones; of
            layers with more than 65,536 weights, of an evenly spaced sample.
    """

    name: str
    weights: int
    flips_per_step: float
    flip_ratio: float
    saturation: float
    oscillation: float
    dead_units: float
    histogram: tuple[float, ...]


class LatentWatch:
    """Watches the latent weights of a model; see the module's example.

    Args:
        model: with binarized weights, or without: then there is nothing to see, at no cost.
    """

    def __init__(self, model: nn.Module) -> None:
        self._latent = {
            name: torch.atleast_1d(parameter.detach())
            for name, parameter in named_latent_parameters(model)
            if parameter.numel() > 0
        }
        self._before: list[Tensor] = []
        self._samples: list[_Sample] = []

    def begin_epoch(self, steps: int) -> None:
        """Before the first of so many steps. Keeps a copy of all latent weights until the epoch ends."""
        self._before = [latent.clone() for latent in self._latent.values()]
        self._samples = [_Sample(latent, steps) for latent in self._latent.values()]

    def step(self) -> None:
        """After an optimizer step. Waits for no device."""
        for sample in self._samples:
            sample.step()

    def end_epoch(self) -> list[LayerState]:
        """The state of each layer, and what it did since `begin_epoch`.

        Raises:
            ValueError: no epoch has begun.
        """
        if len(self._samples) != len(self._latent):
            raise ValueError("end_epoch: call begin_epoch first")
        return [
            _state(name, latent, before, sample)
            for (name, latent), before, sample in zip(
                self._latent.items(), self._before, self._samples, strict=True
            )
        ]


class _Sample:
    """Some of a layer's weights, evenly spaced, whose flips are counted."""

    def __init__(self, latent: Tensor, steps: int) -> None:
        self.distance = _distance(latent, SAMPLE)
        # In the order of memory, which spares a copy of weights with channels last.
        dense = latent.is_contiguous() or latent.is_contiguous(memory_format=torch.channels_last)
        self.latent = latent.as_strided((latent.numel(),), (1,)) if dense else latent
        self.signs = self._signs()
        self.flips = torch.zeros(self.signs.shape, dtype=torch.int32, device=latent.device)
        self.early = self.flips.clone()  # flips before the window
        self.steps, self.done = steps, 0

    def _signs(self) -> Tensor:
        return self.latent.reshape(-1)[:: self.distance] >= 0

    def step(self) -> None:
        if self.done == self.steps - WINDOW:
            self.early = self.flips.clone()
        signs = self._signs()
        self.flips += signs != self.signs
        self.signs = signs
        self.done += 1


def _distance(latent: Tensor, count: int) -> int:
    """From one weight to the next, of at most `count` that lie evenly spaced.

    It shares no factor with a row's length, else the same few inputs would be looked at in every row.
    """
    distance, row = -(-latent.numel() // count), latent.numel() // len(latent)
    while gcd(distance, row) > 1:
        distance += 1
    return distance


def _state(name: str, latent: Tensor, before: Tensor, sample: _Sample) -> LayerState:
    n, sampled, units = latent.numel(), sample.flips.numel(), len(latent)
    rows = max(1, AT_ONCE * units // n)
    parts = [_counts(*part) for part in zip(latent.split(rows), before.split(rows), strict=True)]
    often = torch.stack([sample.flips.sum(), (sample.flips - sample.early > OFTEN).sum()])
    counts = torch.cat([torch.stack(parts).sum(0), often]).tolist()
    of = [n, n, units, sampled * max(1, sample.done), sampled]
    changed, saturated, dead, flips, oscillating = (
        count / whole for count, whole in zip(counts, of, strict=True)
    )
    shown = sample.latent.reshape(-1)[:: _distance(latent, HISTOGRAM)]
    bins = torch.histc(shown.float().clamp(-1, 1), BINS, -1, 1) / shown.numel()
    return LayerState(name, n, flips, changed, saturated, oscillating, dead, tuple(bins.tolist()))


def _counts(latent: Tensor, before: Tensor) -> Tensor:
    """How many signs changed, how many weights are at ±1, and how many rows did not move."""
    still = (latent == before).reshape(len(latent), -1).all(1)
    return torch.stack([((latent >= 0) != (before >= 0)).sum(), (latent.abs() >= 1).sum(), still.sum()])


def overall(layers: Sequence[LayerState]) -> dict[str, float]:
    """The shares of all layers together, each layer weighed by its number of weights; {} without layers."""
    weights = sum(layer.weights for layer in layers)
    return {
        name: sum(getattr(layer, name) * layer.weights for layer in layers) / weights
        for name in SHARES
        if layers
    }


def advice(layers: Sequence[LayerState], ending: bool = False) -> list[str]:
    """What looks wrong in an epoch, in words to act on; nothing if nothing does.

    Args:
        layers: of the epoch.
        ending: it is the last one, by which signs should have settled.
    """
    lines = []
    for layer in layers:
        of = f"{layer.name}: "
        if layer.flips_per_step > 0.05:
            lines.append(
                f"{of}{_percent(layer.flips_per_step)} of signs flip every step: lower its learning rate"
            )
        elif ending and layer.flip_ratio > 0.05:
            lines.append(
                f"{of}{_percent(layer.flip_ratio)} of signs changed in the last epoch: let the learning rate "
                "fall to 0, or train for longer"
            )
        elif layer.flip_ratio == 0 and not ending:
            lines.append(f"{of}no sign flipped in the epoch: raise its learning rate")
        if layer.saturation > 0.8:
            lines.append(
                f"{of}{_percent(layer.saturation)} of latent weights are at ±1 and can hardly turn back: "
                "lower its learning rate"
            )
        if layer.dead_units > 0.1:
            lines.append(
                f"{of}no gradient reaches {_percent(layer.dead_units)} of its outputs: put a batch norm "
                "before the activation, or lower the learning rate"
            )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

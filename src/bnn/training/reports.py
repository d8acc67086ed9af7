"""What a run tells its reader: as it goes, and metrics as CSV, as curves and for TensorBoard."""

import csv
import io
import os
import platform
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import time, time_ns
from typing import Any, BinaryIO, Self

import numpy as np

from bnn.errors import printable, require
from bnn.files import make_own_folder
from bnn.training.diagnostics import SHARES, LayerState

__all__ = ["METRICS", "Events", "Progress", "Row", "draw_curves", "layers_csv", "metrics_csv"]

# Paul Tol's bright colours, which readers who see fewer colours can tell apart; then again, darker.
PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777", "#223355", "#882233")


@dataclass(frozen=True)
class Row:
    """One epoch. Training figures are means over its steps, as the weights changed, of the images themselves
    (not of adversarial ones); None: not measured."""

    epoch: int
    loss_train: float
    loss_val: float | None
    acc_train: float
    acc_val: float | None
    flips_per_step: float | None  # of all binary weights, as are those that follow: see LayerState
    flip_ratio: float | None
    saturation: float | None
    oscillation: float | None
    dead_units: float | None
    lr: float  # at its start, unscaled
    seconds: float


METRICS = tuple(f.name for f in fields(Row))


class Progress:
    """What a run calls as it goes, in rank 0. These methods do nothing: override those that you need."""

    def step(self, done: int, steps: int) -> None:
        """`done` of `steps` steps are done. Called every few steps, for a progress bar."""

    def epoch(self, row: Row) -> None:
        """An epoch is over, and the checkpoint has it."""

    def advice(self, line: str) -> None:
        """Something looked wrong in the epoch; see `diagnostics.advice`."""


def metrics_csv(rows: Sequence[Row]) -> str:
    """A header and a line for each epoch; empty where a value is None."""
    return _csv(METRICS, [asdict(row) for row in rows])


def layers_csv(epochs: Sequence[Sequence[LayerState]]) -> str:
    """A header and a line for each epoch and layer, without the histograms."""
    lines = [
        {"epoch": epoch, "layer": layer.name} | {name: getattr(layer, name) for name in SHARES}
        for epoch, layers in enumerate(epochs, start=1)
        for layer in layers
    ]
    return _csv(("epoch", "layer", *SHARES), lines)


def _csv(names: Sequence[str], lines: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


class Events:
    """A file for TensorBoard: every metric, every layer's shares, histograms of latent weights.

    As PyTorch's SummaryWriter writes it, but not from a thread, which would print a traceback on a full disk
    and lose an epoch in a kill. Events of epochs from `first` on, written before a kill and the checkpoint,
    are void.
    """

    def __init__(self, folder: Path, first: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tensorboard's own imports
            self._summary: Any = require("torch.utils.tensorboard.summary", "train")
            self._proto: Any = require("tensorboard.compat.proto.event_pb2", "train")
            records: Any = require("tensorboard.summary.writer.record_writer", "train")
        make_own_folder(folder)
        seconds, nanoseconds = divmod(time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{platform.node()}.{os.getpid()}.{nanoseconds:09d}"
        self._file = (folder / name).open("xb")  # nothing that was there, and no link
        self._records = records.RecordWriter(self._file)
        start = self._proto.SessionLog(status=self._proto.SessionLog.START)
        try:
            self._write([{"file_version": "brain.Event:2"}, {"session_log": start, "step": first}])
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # raised before, as nothing is left to be written
            self._file.close()

    def write(self, row: Row, layers: Sequence[LayerState]) -> None:
        """An epoch, which is in the file then."""
        summaries = [
            self._summary.scalar(name, value)
            for name in METRICS[1:]
            if (value := getattr(row, name)) is not None
        ]
        for layer in layers:
            summaries += [self._summary.scalar(f"{n}/{layer.name}", getattr(layer, n)) for n in SHARES]
            summaries.append(self._histogram(layer))
        self._write([{"summary": summary, "step": row.epoch} for summary in summaries])

    def _histogram(self, layer: LayerState) -> Any:
        edges = np.linspace(-1, 1, len(layer.histogram) + 1)
        counts = np.array(layer.histogram) * layer.weights
        centres = (edges[1:] + edges[:-1]) / 2
        return self._summary.histogram_raw(
            f"latent/{layer.name}",
            min=-1,
            max=1,
            num=layer.weights,
            sum=float(counts @ centres),
            sum_squares=float(counts @ centres**2),
            bucket_limits=edges[1:].tolist(),
            bucket_counts=counts.tolist(),
        )

    def _write(self, events: Sequence[dict[str, Any]]) -> None:
        try:
            for event in events:
                self._records.write(self._proto.Event(wall_time=time(), **event).SerializeToString())
            self._file.flush()
        except OSError as error:  # which names no file
            raise OSError(error.errno, error.strerror, self._file.name) from error


def draw_curves(
    rows: Sequence[Row], epochs: Sequence[Sequence[LayerState]], title: str, file: BinaryIO
) -> None:
    """Loss and accuracy over the epochs; of binary weights all that a LayerState has. A PNG."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state
    from matplotlib.ticker import MaxNLocator

    names = [layer.name for layer in epochs[-1]] if epochs else []
    figure = Figure(figsize=(14 if names else 11, 6.4 if names else 3.4), layout="constrained")
    grid = figure.subplots(2 if names else 1, 4 if names else 2).flat
    number = [row.epoch for row in rows]
    curves: dict[str, dict[str, list[float | None]]] = {
        "loss": {"training": [row.loss_train for row in rows], "validation": [row.loss_val for row in rows]},
        "accuracy (%)": {
            "training": [100 * row.acc_train for row in rows],
            "validation": [None if row.acc_val is None else 100 * row.acc_val for row in rows],
        },
    }
    for label, share in (
        ("signs flipped a step (%)", "flips_per_step"),
        ("signs flipped in the epoch (%)", "flip_ratio"),
        ("latent weights at ±1 (%)", "saturation"),
        ("signs that oscillate (%)", "oscillation"),
        ("units without a gradient (%)", "dead_units"),
    ):
        if names:
            curves[label] = {
                name: [100 * getattr(layers[i], share) for layers in epochs] for i, name in enumerate(names)
            }
    for axes, (label, lines) in zip(grid, curves.items(), strict=False):
        for color, (name, values) in zip(PALETTE, lines.items(), strict=False):
            if None not in values:
                axes.plot(number, values, marker="o", markersize=3, label=name, color=color)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in grid[2 : len(curves)]:
        axes.set_ylim(bottom=0)  # shares, of which many are 0 throughout
    for axes in grid[:2]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    if names:
        edges = np.linspace(-1, 1, len(epochs[-1][0].histogram) + 1)
        for color, layer in zip(PALETTE, epochs[-1], strict=False):
            grid[7].stairs(100 * np.array(layer.histogram), edges, color=color, label=layer.name)
        grid[7].set_xlabel("latent weight at the end")
        grid[7].set_ylabel("share of the layer (%)")
        grid[7].grid(alpha=0.3)
        grid[2].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)
    figure.suptitle(printable(title, 100), parse_math=False)  # it has the name of a folder
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})

"""What a run writes for its reader: rows of metrics as CSV and as curves."""

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["METRICS", "Row", "draw_curves", "metrics_csv"]


@dataclass(frozen=True)
class Row:
    """One epoch. Training figures are means over its steps, as the weights changed; None: not measured."""

    epoch: int
    loss_train: float
    loss_val: float | None
    acc_train: float
    acc_val: float | None
    flip_ratio: float | None  # share of binary weights whose sign changed over the epoch
    lr: float  # at its start, unscaled
    seconds: float


METRICS = tuple(f.name for f in fields(Row))


def metrics_csv(rows: list[Row]) -> str:
    """A header and a line for each row; empty where a value is None."""
    text = io.StringIO()
    writer = csv.DictWriter(text, METRICS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def draw_curves(rows: list[Row], title: str, path: Path) -> None:
    """Loss, accuracy and flipped signs over the epochs, as a PNG."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state
    from matplotlib.ticker import MaxNLocator

    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    panels = (
        ("loss", 1, (("loss_train", "training"), ("loss_val", "validation"))),
        ("accuracy (%)", 100, (("acc_train", "training"), ("acc_val", "validation"))),
        ("signs flipped in the epoch (%)", 100, (("flip_ratio", "all binary weights"),)),
    )
    for axes, (label, factor, series) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, legend in series:
            values = [getattr(row, name) for row in rows]
            if None not in values:
                axes.plot(epochs, [factor * v for v in values], marker="o", markersize=3, label=legend)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110, metadata={"Software": None})

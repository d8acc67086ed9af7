"""How the studies' figures look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnn.files import replacing
from bnn.training.reports import PALETTE

__all__ = ["PALETTE", "figure"]


@contextmanager
def figure(path: Path, size: tuple[float, float], columns: int = 1, rows: int = 1) -> Iterator[Any]:
    """Axes, or an array of several, to draw on; then a PNG, written whole or not at all."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    drawing = Figure(figsize=size, layout="constrained")
    axes = drawing.subplots(rows, columns, sharex=rows > 1, sharey="row" if rows > 1 else False)
    for each in drawing.axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    yield axes
    with replacing(path) as file:
        drawing.savefig(file, format="png", dpi=110, metadata={"Software": None})

"""How the studies' figures look."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bnn.files import replacing

__all__ = ["PALETTE", "figure"]

PALETTE = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
"""Paul Tol's bright colours, which readers who see fewer colours can tell apart."""


@contextmanager
def figure(path: Path, size: tuple[float, float], columns: int = 1) -> Iterator[Any]:
    """Axes, or several side by side, to draw on; then a PNG, written whole or not at all."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    drawing = Figure(figsize=size, layout="constrained")
    axes = drawing.subplots(1, columns)
    for each in [axes] if columns == 1 else axes:
        each.grid(alpha=0.3)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    yield axes
    with replacing(path) as temporary:
        drawing.savefig(temporary, format="png", dpi=110, metadata={"Software": None})

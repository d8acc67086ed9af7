"""Tables as plain text. The deployment side has no library for it."""

from collections.abc import Sequence

from bnn.errors import printable

__all__ = ["CELL", "numeric_columns", "table"]

CELL = 100
"""Characters of a cell, at most."""


def numeric_columns(rows: Sequence[Sequence[str]]) -> list[bool]:
    """For each column, whether it holds numbers only: those go to the right."""
    columns = zip(*rows, strict=True)
    return [all(cell in ("", "-", "?") or cell[0].isdigit() for cell in column) for column in columns]


def table(head: list[str], rows: list[list[str]], total: list[str] | None = None) -> str:
    """Aligned columns; those of numbers to the right. `total` is a last row, below a rule of its own.

    Cells may hold what others wrote: they are shown as `printable` has them.
    """
    rows = [[printable(cell, CELL) for cell in row] for row in rows]
    body = [*rows, *([total] if total else [])]
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    right = numeric_columns(rows) if rows else [True] * len(head)
    rule = "  ".join("-" * width for width in widths)

    def line(cells: list[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(head), rule, *map(line, rows), *([rule, line(total)] if total else [])])

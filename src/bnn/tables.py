"""Tables as plain text. The deployment side has no library for it."""

__all__ = ["table"]


def table(head: list[str], rows: list[list[str]]) -> str:
    """Aligned columns; those of numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    right = [all(row[i] in ("", "-") or row[i][0].isdigit() for row in rows) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])

"""Numbers and names as the commands print them."""

from collections.abc import Sequence

__all__ = ["listed", "numbers", "percent"]


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)

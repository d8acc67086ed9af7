"""What the commands print: all of it through here, for labels, names and paths are others' text."""

import sys
from collections.abc import Sequence

from bnn.errors import LINE, printable

__all__ = ["complain", "line_of", "listed", "numbers", "overwrite", "percent", "reason", "say", "show"]

NAME = 100
"""Characters of a name, at most, where several stand in a line."""


def say(line: str) -> None:
    """A line on standard output, safe to show and not too long (see `bnn.errors.printable`)."""
    print(line_of(line), flush=True)


def show(text: str) -> None:
    """A table, or JSON, on standard output: of any length, each line safe to show."""
    print("\n".join(map(printable, text.split("\n"))), flush=True)


def complain(line: str) -> None:
    """A line on standard error."""
    print(line_of(line), file=sys.stderr, flush=True)


def overwrite(line: str) -> None:
    """A line that the next one replaces, on standard error if that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{line_of(line)}", end="", file=sys.stderr, flush=True)


def line_of(text: str) -> str:
    """What `say` prints."""
    return printable(text, LINE)


def reason(error: Exception) -> str:
    """What an error says, in one line, with the file that the operating system refused."""
    text = str(error)
    if isinstance(error, OSError):
        where = f"{printable(error.filename)}: " if error.filename else ""
        text = f"{where}{error.strerror or error}"
    return " ".join(text.split())


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def listed(names: Sequence[str]) -> str:
    return ", ".join(printable(name, NAME) for name in names[:5]) + (", ..." if len(names) > 5 else "")


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)

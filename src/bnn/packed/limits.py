"""What a file may ask for if nothing else is said, and the error where it asks for more."""

from bnn.errors import UserError

__all__ = ["MAX_MEMORY", "MAX_WORK", "check_memory", "readable"]

MAX_MEMORY = 18 * 2**30 // 10
"""Bytes of memory that a model may ask for, if nothing else is said: with Python, that is below 2 GB."""

MAX_WORK = 30_000_000_000
"""Cycles of one fast core that a sample may ask for, if nothing else is said: about ten seconds."""


def check_memory(what: str, takes: str, size: int, max_memory: int | None) -> None:
    """Compares some bytes with what is allowed.

    Raises:
        UserError: they are more.
    """
    if max_memory is not None and size > max_memory:
        raise UserError(
            f"{what}: {takes} {readable(size)} of memory, more than is allowed: {readable(max_memory)} "
            "(max_memory=, --max-memory)"
        )


def readable(size: int) -> str:
    """Bytes in the largest unit of which there is one: "3.5 GiB"."""
    for power, unit in enumerate(("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")):
        if size < 1024 ** (power + 1) or unit == "PiB":
            return f"{size / 1024**power:.4g} {unit}"
    raise AssertionError

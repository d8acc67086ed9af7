"""The compiled engine: native/bindings.cpp."""

from typing import Any

from numpy.typing import NDArray

class Plan:
    """Operations on values, ready to run; see native/bnn.h. Raises ValueError if they do not fit."""

    def __init__(self, values: list[list[int]], ops: list[dict[str, Any]], isa: str) -> None: ...
    def run(self, x: NDArray[Any], out: NDArray[Any], threads: int) -> None: ...
    def bytes(self, rows: int, parts: int) -> int:
        """Of prepared weights, constants, and an arena for that many samples and threads."""
    @property
    def isa(self) -> str: ...

def instruction_sets() -> list[str]: ...
def peak(what: str, seconds: float) -> float: ...

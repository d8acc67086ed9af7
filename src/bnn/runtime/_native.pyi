"""The compiled engine: native/bindings.cpp."""

from typing import Any

from numpy.typing import NDArray

class Plan:
    """Operations on values, ready to run; see native/bnn.h. Raises ValueError if they do not fit."""

    def __init__(self, values: list[list[int]], ops: list[dict[str, Any]], isa: str) -> None: ...
    def run(self, x: NDArray[Any], out: NDArray[Any], threads: int) -> None: ...
    def bytes(self, rows: int, parts: int) -> int:
        """The bytes of prepared weights, constants, and an arena for that many samples and threads."""
    def exported(self) -> tuple[list[int], list[int], int, int, list[int], list[int]]:
        """How a C export lays it out; bnn.export.c.memory has names for it."""
    @property
    def isa(self) -> str: ...
    @property
    def work(self) -> float:
        """About how many cycles of a fast core a sample takes."""

def instruction_sets() -> list[str]: ...
def latent_signs(x: NDArray[Any], out: NDArray[Any], threads: int) -> None: ...
def latent_draws(x: NDArray[Any], out: NDArray[Any], seed: int, threads: int) -> None: ...
def peak(what: str, seconds: float) -> float: ...

"""What the engine says of a program: where everything lies in an export's arena, and what sums are."""

from dataclasses import dataclass

from bnn.export.target import ExportError
from bnn.runtime.program import DTYPES, DType, Program

__all__ = ["Memory", "memory_of"]


@dataclass(frozen=True)
class Memory:
    """A plan for one sample at a time; all sizes in bytes.

    Attributes:
        sizes, offsets: of each value, in the arena; offset 0 for the input, which is the caller's.
        values: the arena's first part.
        arena: all of it; behind the values is scratch, which operations take turns in.
        sums: of each operation, the dtype of its sums, if it is a product.
        gathers: whether the rows of some product do not lie in its input as they are.
    """

    sizes: tuple[int, ...]
    offsets: tuple[int, ...]
    values: int
    arena: int
    sums: tuple[DType | None, ...]
    gathers: bool

    @property
    def scratch(self) -> int:
        return self.arena - self.values


def memory_of(program: Program) -> Memory:
    """Asks native/export_plan.c, the engine's planner as an export has it.

    Raises:
        ExportError: the compiled engine cannot be loaded.
    """
    try:
        from bnn.runtime.native import plan_of
    except ImportError as error:
        raise ExportError(
            f"the compiled engine, which plans an export's memory, cannot be loaded: {error}"
        ) from error
    sizes, offsets, values, arena, sums, gathers = plan_of(program, "portable").exported()
    dtypes = tuple(DTYPES[dtype] if dtype >= 0 else None for dtype in sums)
    return Memory(tuple(sizes), tuple(offsets), values, arena, dtypes, any(gathers))

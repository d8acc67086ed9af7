"""The compiled engine's face: a PackedModel becomes plans, one for each dtype of input, when first needed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import UserError
from bnn.packed.limits import check_memory
from bnn.packed.model import PackedModel
from bnn.runtime import _native
from bnn.runtime.lowering import lower
from bnn.runtime.program import ACTIVATIONS, DTYPES, OPS, Border, Finish, Op, Program, Segment
from bnn.runtime.reference import Activations

__all__ = ["Engine", "instruction_sets", "plan_of"]


def instruction_sets() -> list[str]:
    """Names of the kernels that this processor can run, slowest first: "portable", "avx2", ..."""
    return _native.instruction_sets()


class Engine:
    """A model, ready to run on some threads.

    Attributes:
        isa: the kernels in use.
        threads: at most that many are used; less where there is little to do.
    """

    def __init__(
        self,
        model: PackedModel,
        activations: Activations = "float32",
        threads: int = 1,
        isa: str = "",
        max_memory: int | None = None,
    ) -> None:
        """
        max_memory: bytes that a plan may take, for weights and one sample's arena.

        Raises:
            UserError: this processor has no kernels of that name.
        """
        known = instruction_sets()
        if isa and isa not in known:
            raise UserError(f"kernels must be one of {', '.join(known)} on this processor, not {isa!r}")
        self.model, self.activations, self.threads = model, activations, threads
        self.isa, self.max_memory = isa or known[-1], max_memory
        self._plans: dict[str, _native.Plan] = {}
        self._shape = model.shapes[model.output.name]

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The output for a batch; x is uint8 or float32 and of the right shape, which is not checked here."""
        plan = self._plans.get(x.dtype.char) or self.plan(x.dtype)
        out = np.empty((len(x), *self._shape), dtype=np.float32)
        if len(x):
            if not (x.flags.c_contiguous and x.flags.aligned):
                x = np.array(x, order="C")
            plan.run(x, out, self.threads)
        return out

    def plan(self, dtype: Any) -> _native.Plan:
        """The plan for inputs of a dtype: its weights prepared for this processor.

        Raises:
            ValueError: the dtype is neither uint8 nor float32.
            UserError: it takes more than `max_memory`.
        """
        dtype = np.dtype(dtype)
        if dtype not in (np.uint8, np.float32):
            raise ValueError(f"the engine takes uint8 and float32, not {dtype}")
        if dtype.char not in self._plans:
            # No lock, which a child of fork might find locked for ever: two threads at once make two of them.
            program = lower(self.model, "u8" if dtype == np.uint8 else "f32", self.activations)
            plan = plan_of(program, self.isa)
            # What was allowed is a bound of this, but for gaps in the arena, and the other dtype's plan.
            size = sum(p.bytes(1, self.threads) for p in (plan, *self._plans.values()))
            check_memory(self.model.called, "running it takes", size, self.max_memory)
            self._plans.setdefault(dtype.char, plan)
        return self._plans[dtype.char]


def plan_of(program: Program, isa: str) -> _native.Plan:
    """A program with its weights prepared for kernels of that name."""
    values = [[DTYPES.index(v.dtype), v.height, v.width, v.channels] for v in program.values]
    return _native.Plan(values, [_op(op) for op in program.ops], isa)


def _op(op: Op) -> dict[str, Any]:
    return vars(op) | {
        "op": OPS.index(op.op),
        "segments": [_segment(segment) for segment in op.segments],
        "border": _border(op.border),
        "finish": _finish(op.finish),
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return dict(vars(segment))


def _border(border: Border | None) -> dict[str, Any] | None:
    return dict(vars(border)) if border else None


def _finish(finish: Finish) -> dict[str, Any]:
    return vars(finish) | {
        "computed": DTYPES.index(finish.computed),
        "activation": ACTIVATIONS.index(finish.activation),
    }

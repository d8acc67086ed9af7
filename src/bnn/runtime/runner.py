"""`load` and the Runner: a packed model, ready to be called on numpy arrays."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import UserError, warn
from bnn.packed.demand import check_limits
from bnn.packed.limits import MAX_MEMORY, MAX_WORK
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Softmax
from bnn.runtime import reference
from bnn.runtime.reference import Activations
from bnn.runtime.threads import thread_count

__all__ = ["ACTIVATIONS", "ENGINES", "Runner", "load"]

ENGINES = ("native", "reference")
"""What can run a model: compiled kernels for this processor, or plain numpy, which defines what is right."""

ACTIVATIONS = ("float32", "int8")
"""What enters a packed layer that is not ±1: floats as they are, or rounded to 8 bits, faster and inexact."""

Function = Callable[[NDArray[Any]], NDArray[np.float32]]


def load(
    path: str | Path,
    engine: str = "native",
    activations: Activations = "float32",
    threads: int | None = None,
    *,
    max_memory: int | None = MAX_MEMORY,
    max_work: int | None = MAX_WORK,
) -> "Runner":
    """Reads a .bnn file and makes it callable.

    Args:
        path: the file; or a folder with a `model.bnn`: a run's, or an exported one.
        engine: "native", or "reference": plain numpy, the definition of what is right.
        activations: "int8" rounds the floats that enter packed layers to 8 bits, by a scale for each
            sample: two to four times as fast, and no longer exact. `bnn eval --activations int8` shows what
            it costs in accuracy.
        threads: at most that many; default: $BNN_NUM_THREADS, or the cores that are available.
        max_memory: bytes that the model may ask for, to prepare it and to run a sample. A file of a few
            kilobytes may come from a stranger and ask for terabytes. None: any number.
        max_work: cycles of a core that a sample may ask for; the default is about ten seconds. None: any
            number.

    Raises:
        FormatError: it is no sound .bnn file.
        UserError: there is no such engine, or kind of activations, or number of threads; or the model may ask
            for more memory or work than is allowed: the message has both numbers.
        OSError: it cannot be read.
    """
    limits = {"max_memory": max_memory, "max_work": max_work}
    return Runner(PackedModel.load(path, max_memory), engine, activations, threads, **limits)


class Runner:
    """A packed model, ready to be called on numpy arrays, by any number of threads at once.

        net = bnn.load("model.bnn")
        net(images)          # float32, (batch, classes)
        net.predict(images)  # class indices

    The dtype of the input says what it is: uint8 are raw pixels, float32 are normalised values.

    The native engine uses the fastest kernels that the processor has; $BNN_ISA names others. Where it cannot
    be loaded there is a RuntimeWarning that says why, and the reference runs instead.

    Attributes:
        model: the PackedModel.
        engine: name of the engine that runs it.
        isa: the kernels in use, such as "avx2"; "numpy" for the reference.
        activations: "float32" or "int8".
    """

    def __init__(
        self,
        model: PackedModel,
        engine: str = "native",
        activations: Activations = "float32",
        threads: int | None = None,
        *,
        max_memory: int | None = MAX_MEMORY,
        max_work: int | None = MAX_WORK,
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
        if activations not in ACTIVATIONS:
            raise UserError(f"activations must be one of {', '.join(ACTIVATIONS)}, not {activations!r}")
        self.model = model
        self.engine = engine
        self.activations = activations
        self.isa = "numpy"
        self._run: Function = partial(reference.run, model, activations=activations)
        count = thread_count(threads)
        if engine == "native":
            try:
                from bnn.runtime.native import Engine
            except ImportError as error:
                self.engine = "reference"
                warn(
                    f"the compiled engine cannot be loaded ({error}): running the slow reference instead",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                try:
                    native = Engine(model, activations, count, os.environ.get("BNN_ISA", ""), max_memory)
                except UserError as error:
                    raise UserError(f"BNN_ISA: {error}") from error
                self.isa = native.isa
                self._run = native
        is_native = self.engine == "native"
        check_limits(model, count if is_native else None, max_memory=max_memory, max_work=max_work)

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The network's output, (batch, *output shape).

        Args:
            x: (batch, *model.input.shape), uint8 or float32; contiguous or not.

        Raises:
            UserError: another shape or dtype, or uint8 for a model packed without mean and std.
        """
        contract = self.model.input
        if not isinstance(x, np.ndarray):
            raise UserError(f"input must be a numpy array, not {type(x).__name__}")
        if x.dtype not in (np.uint8, np.float32):
            raise UserError(f"input must be uint8 (raw pixels) or float32 (normalised), not {x.dtype}")
        if x.dtype == np.uint8 and not contract.mean:
            raise UserError("this model was packed without mean and std: give normalised float32, not uint8")
        if x.shape[1:] != contract.shape:
            raise UserError(
                f"input must have shape (batch, {', '.join(map(str, contract.shape))}), not {x.shape}"
            )
        return self._run(x)

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The class with the largest output for each sample, the lowest index at a tie; (batch,)."""
        out = self(x)
        return out.reshape(len(out), -1).argmax(axis=1) if len(out) else np.empty(0, dtype=np.int64)

    def predict_proba(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The class probabilities, (batch, classes), of a model that ends in a softmax.

        Raises:
            UserError: it does not.
        """
        if not isinstance(self.model.output, Softmax):
            raise UserError("this model does not end in a softmax; its outputs are no probabilities")
        return self(x)

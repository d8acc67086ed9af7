"""Running a packed model on numpy arrays: `load` a file, call what it gives."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.nodes import Softmax
from bnn.packed import PackedModel
from bnn.runtime import reference

__all__ = ["ENGINES", "Runner", "load"]

ENGINES = {"reference": reference.run}
"""What can run a model, by name: functions of (PackedModel, batch)."""


def load(path: str | Path, engine: str = "reference") -> "Runner":
    """Reads a .bnn file and makes it callable.

    Args:
        path: the file.
        engine: "reference", plain numpy.

    Raises:
        FormatError: it is no sound .bnn file.
        ValueError: there is no such engine.
        OSError: it cannot be read.
    """
    return Runner(PackedModel.load(path), engine)


class Runner:
    """A packed model, ready to be called on numpy arrays.

        net = bnn.load("model.bnn")
        net(images)          # float32, (batch, classes)
        net.predict(images)  # class indices

    The dtype of the input says what it is: uint8 are raw pixels, float32 are normalised values.

    Attributes:
        model: the PackedModel.
        engine: name of the engine that runs it.
    """

    def __init__(self, model: PackedModel, engine: str = "reference") -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
        self.model = model
        self.engine = engine

    def __call__(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The network's output, (batch, *output shape).

        Args:
            x: (batch, *model.input.shape), uint8 or float32.

        Raises:
            ValueError: another shape or dtype, or uint8 for a model packed without mean and std.
        """
        contract = self.model.input
        if not isinstance(x, np.ndarray):
            raise ValueError(f"input must be a numpy array, not {type(x).__name__}")
        if x.dtype not in (np.uint8, np.float32):
            raise ValueError(f"input must be uint8 (raw pixels) or float32 (normalised), not {x.dtype}")
        if x.dtype == np.uint8 and not contract.mean:
            raise ValueError("this model was packed without mean and std: give normalised float32, not uint8")
        if x.shape[1:] != contract.shape:
            raise ValueError(
                f"input must have shape (batch, {', '.join(map(str, contract.shape))}), not {x.shape}"
            )
        return ENGINES[self.engine](self.model, x)

    def predict(self, x: NDArray[Any]) -> NDArray[np.int64]:
        """The class with the largest output for each sample, the lowest index at a tie; (batch,)."""
        out = self(x)
        return out.reshape(len(out), -1).argmax(axis=1) if len(out) else np.empty(0, dtype=np.int64)

    def predict_proba(self, x: NDArray[Any]) -> NDArray[np.float32]:
        """The class probabilities, (batch, classes), of a model that ends in a softmax.

        Raises:
            ValueError: it does not.
        """
        if not isinstance(self.model.output, Softmax):
            raise ValueError("this model does not end in a softmax; its outputs are no probabilities")
        return self(x)

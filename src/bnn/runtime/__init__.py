"""Running a packed model on numpy arrays: `load` a file, call what it gives."""

from bnn.runtime.runner import ACTIVATIONS as ACTIVATIONS
from bnn.runtime.runner import ENGINES as ENGINES
from bnn.runtime.runner import Runner as Runner
from bnn.runtime.runner import load as load

__all__ = ["ACTIVATIONS", "ENGINES", "Runner", "load"]

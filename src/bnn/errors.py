"""What several modules share about errors: whose mistake it is, packages that are missing, long messages."""

import importlib
import sys
from types import ModuleType

__all__ = ["MissingExtraError", "UserError"]

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "out of memory", "ALLOC_FAILED", "std::bad_alloc")
"""What PyTorch says in a plain RuntimeError where memory does not suffice: CPU, CUDA, MPS, cuBLAS."""


class UserError(ValueError):
    """What the user gave cannot be used: the message is one line that names it, and `bnn` exits with 2.

    Any other ValueError that reaches the command line is a fault of ours.
    """


class MissingExtraError(ImportError):
    """A feature needs a package that an extra of this distribution brings, and it is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Call it inside the function that needs the module, so that `import bnn` stays light.

    module: dotted name, for example "scipy.io".
    extra: the extra of this distribution that installs it, for example "train".
    Raises MissingExtraError when the package is not there. A package that is there but fails to import
    (a broken installation) raises its own error: "not installed" would mislead.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"{package} is not installed: pip install 'binaryconnect[{extra}]'", name=package
        ) from error


def first_lines(error: Exception) -> str:
    """The first two lines of an error as one: PyTorch's first often ends in a colon."""
    return " ".join(line.strip() for line in (str(error).splitlines() or [type(error).__name__])[:2])


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy, the engine or PyTorch, on the CPU or a GPU, had too little memory."""
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    if isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY):
        return True
    return isinstance(error, (MemoryError, of_torch))

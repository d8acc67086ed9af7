"""What several modules share about errors: optional packages that are not installed, long messages."""

import importlib
from types import ModuleType


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

"""What several modules share about errors: whose mistake it is, what is missing, what a message may show."""

import importlib
import re
import sys
import unicodedata
import warnings
from types import ModuleType

__all__ = ["MissingExtraError", "UserError", "printable"]

LINE = 1000
"""Characters of a line, at most, that names things of others: a label may have a million."""

OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "out of memory", "ALLOC_FAILED", "std::bad_alloc")
"""What PyTorch says in a plain RuntimeError where memory does not suffice: CPU, CUDA, MPS, cuBLAS."""


class UserError(ValueError):
    """What the user gave cannot be used: the message is one line that names it, and `bnn` exits with 2.

    Any other ValueError that reaches the command line is a fault of ours. `args` has the message as it was
    raised; `str` has it as it may be shown (see `printable`), for it may quote what others wrote.
    """

    def __str__(self) -> str:
        return printable(super().__str__(), LINE)


class MissingExtraError(ImportError):
    """A feature needs a package that an extra of this distribution brings, and it is not installed."""


def printable(text: object, limit: int | None = None) -> str:
    """Text from others, safe to show in a line: it moves no cursor, turns no text around, ends no line.

    Control and format characters (bidirectional marks among them), line and paragraph separators, lone
    surrogates of file names that are no UTF-8, and code points that are no character, or a private one,
    become \\xNN, \\uNNNN or \\UNNNNNNNN. All else stays, in every script, the joiners U+200C and U+200D too,
    with which Persian, Indic scripts and emoji are written. A backslash stays single, so that paths of
    Windows stay what they are: a name that spells \\x1b looks like one that has the character, at no harm.

    Args:
        text: anything; its `str`.
        limit: characters of the result; what is longer loses its middle to an ellipsis.
    """
    shown = str(text)
    if limit is not None and len(shown) > 2 * limit:
        shown = shown[:limit] + shown[-limit:]  # what is cut below need not be escaped before
    shown = _PERHAPS_UNSAFE.sub(_escaped, shown)
    if limit is None or len(shown) <= limit:
        return shown
    end = limit // 3
    return f"{shown[: limit - 1 - end]}…{shown[len(shown) - end :]}"


_PERHAPS_UNSAFE = re.compile(r"[^ -~]")


def _escaped(match: re.Match[str]) -> str:
    character, code = match[0], ord(match[0])
    category = unicodedata.category(character)
    if character in "\u200c\u200d" or not (category.startswith("C") or category in ("Zl", "Zp")):
        return character
    return f"\\x{code:02x}" if code < 2**8 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"


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


def warn(text: str, category: type[Warning] = UserWarning, stacklevel: int = 1) -> None:
    """`warnings.warn`, of a text as it may be shown (see `printable`), for it may quote what others wrote."""
    warnings.warn(printable(text, LINE), category, stacklevel + 1)


def first_lines(error: Exception) -> str:
    """The first two lines of an error as one: PyTorch's first often ends in a colon."""
    return " ".join(line.strip() for line in (str(error).splitlines() or [type(error).__name__])[:2])


def is_out_of_memory(error: Exception) -> bool:
    """Whether NumPy, the engine or PyTorch, on the CPU or a GPU, had too little memory."""
    of_torch = getattr(sys.modules.get("torch"), "OutOfMemoryError", MemoryError)
    if isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY):
        return True
    return isinstance(error, (MemoryError, of_torch))

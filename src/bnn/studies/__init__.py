"""The experiments of the documents that this project started from, each one command: `bnn study NAME`."""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from bnn.errors import UserError

if TYPE_CHECKING:
    from bnn.studies.study import Study

__all__ = ["NAMES", "find"]

NAMES = ("from-scratch", "activations", "baseline", "test-time", "regularizer")
"""Every study. Each is the STUDY of a module of that name."""


def find(name: str) -> "Study":
    """The study of that name.

    Raises:
        UserError: there is none.
    """
    if name not in NAMES:
        close = difflib.get_close_matches(name, NAMES, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"there is no study {name!r}{hint}; there are {', '.join(NAMES)}")
    study: Study = import_module(f"bnn.studies.{name.replace('-', '_')}").STUDY
    return study

"""What exporters share: the files they make, and how they say that a model cannot go somewhere."""

from collections.abc import Mapping
from dataclasses import dataclass

from bnn.errors import UserError

__all__ = ["Export", "ExportError"]


class ExportError(UserError):
    """A target cannot express a node of the model; the message names it."""


@dataclass(frozen=True)
class Export:
    """What a target's `make(model, **options)` gives.

    Attributes:
        files: content by path, relative to the exported folder, with "/" between parts; of a target that
            is one file, that one.
        notes: lines for the user: sizes, whether floating point is used, and the like.
    """

    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

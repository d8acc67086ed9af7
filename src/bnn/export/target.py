"""What exporters share: the files they make, and how they say that a model cannot go somewhere."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bnn.errors import UserError

__all__ = ["Export", "ExportError", "content_of"]


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


def content_of(path: Path, limit: int) -> bytes:
    """A regular file's first bytes, one more than the limit. What a link points to is not the folder's.

    Raises:
        UserError: it is something else.
        OSError: it cannot be read.
    """
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path}: no regular file, and no other is published")
    # Should it have become a link since, or a pipe, which would wait for a writer. Windows has neither flag.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
        if not os.path.samestat(found, os.fstat(file.fileno())):
            raise UserError(f"{path}: was replaced while it was read")
        return file.read(limit + 1)

"""A packed model for other places: C, ONNX, a web page, a folder for a model hub.

    from bnn.export import export

    export(bnn.PackedModel.load("model.bnn"), "onnx", "model.onnx")

Each target is a module of this package with a function from a model to the content of files; nothing is
written before all of it is there, and then whole or not at all.
"""

import hashlib
import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bnn.errors import UserError
from bnn.export.target import Export, ExportError, content_of
from bnn.files import is_stream, replace_folder, write_atomically
from bnn.packed.model import PackedModel

__all__ = ["MARKER", "TARGETS", "Export", "ExportError", "Target", "export"]

MARKER = "bnn-export.json"
"""Stands in every exported folder, with its target and its files' hashes: `force` replaces no other."""
LARGEST_MARKER = 2**20


@dataclass(frozen=True)
class Target:
    """Where a model can go.

    Attributes:
        text: what comes out, for help.
        folder: whether that is a folder, or one file.
        options: names of what the module's function takes beside the model.
    """

    text: str
    folder: bool
    options: tuple[str, ...] = ()


TARGETS: Mapping[str, Target] = {
    "c": Target("C11 sources for microcontrollers, and anything else with a compiler", True, ("max_memory",)),
    "onnx": Target("an ONNX file, for ONNX Runtime and others", False, ("unpacked",)),
    "web": Target("one HTML page that runs by itself", False, ("max_memory",)),
    "folder": Target("a folder fit for a model hub", True, ("run",)),
}
"""Where a model can go, by name."""


def export(
    model: PackedModel, to: str, out: str | Path, *, force: bool = False, **options: Any
) -> tuple[str, ...]:
    """Writes a model for a target, whole or not at all.

    Args:
        model: a packed model.
        to: a name in TARGETS.
        out: the folder or file to write; must not exist. A file may be a pipe or a device.
        force: replace it if it does: a regular file; a folder only if it is an earlier export to the same
            target in which nothing was changed or added since.
        options: of the target, by name: `unpacked` (onnx), `run`, a run's folder (folder),
            `max_memory` (c, web).

    Returns:
        Lines that say what was written: sizes and the like.

    Raises:
        ExportError: the target cannot express a node of the model, which is named.
        UserError: no such target or option.
        FileExistsError: `out` exists and may not be replaced.
        OSError: it cannot be written.
    """
    if to not in TARGETS:
        raise UserError(f"no target is named {to!r}: one of {', '.join(TARGETS)}")
    target, out = TARGETS[to], Path(out)
    for name in set(options) - set(target.options):
        raise UserError(f"--to {to} takes no --{name.replace('_', '-')}")
    if target.folder or not is_stream(out):
        out = out.resolve()
        _check_free(out, to, force)  # before the work
    make: Callable[..., Export] = import_module(f"bnn.export.{to}").make
    result = make(model, **options)
    if target.folder:
        hashes = {name: _hash(content) for name, content in sorted(result.files.items())}
        marker = json.dumps({"target": to, "sha256": hashes}, indent=1) + "\n"
        replace_folder(out, {**result.files, MARKER: marker.encode()}, replace=force)
    else:
        (content,) = result.files.values()
        write_atomically(out, content, stream=True)
    return result.notes


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_free(out: Path, to: str, force: bool) -> None:
    folder = TARGETS[to].folder
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent}: no such folder")
    if not out.exists():
        return
    if not (out.is_dir() if folder else out.is_file()):
        raise FileExistsError(f"{out}: exists and is no {'folder' if folder else 'file'}; this export is one")
    if not force:
        raise FileExistsError(f"{out}: exists; --force replaces it")
    if folder and (problem := _changed(out, to)):
        raise FileExistsError(f"{out}: not replaced: {problem}")


def _changed(out: Path, to: str) -> str:
    """What in a folder is not as an export to this target left it; nothing if all is."""
    try:
        marker = json.loads(content_of(out / MARKER, LARGEST_MARKER))
        target, hashes = marker["target"], dict(marker["sha256"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"it is no export, for it has no sound {MARKER}"
    if target != to:
        return f"it is an export to {target}"
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        mode = path.lstat().st_mode
        if name == MARKER or stat.S_ISDIR(mode):
            continue
        if name not in hashes or not stat.S_ISREG(mode):
            return f"{name} is not of the export: move it away, or delete the folder yourself"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != hashes[name]:
            return f"{name} was changed since: move it away, or delete the folder yourself"
    return ""

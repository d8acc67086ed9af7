"""C11: a folder with the engine's own sources, and a model as constants beside them."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from bnn.errors import printable
from bnn.export.c.device import Device, Used, device_program
from bnn.export.c.memory import Memory, memory_of
from bnn.export.c.model import Sources, config, sources
from bnn.export.c.project import makefile, readme
from bnn.export.c.scores import LIMIT, sums_to_try
from bnn.export.c.selftest import main_source
from bnn.export.target import Export, ExportError
from bnn.packed.demand import check_limits
from bnn.packed.limits import MAX_MEMORY
from bnn.packed.model import PackedModel
from bnn.runtime.lowering import LoweringError
from bnn.runtime.program import Op

__all__ = ["make"]

ALWAYS = ("bnn.h", "job.h", "kernels.h", "elementwise.h", "engine.c", "job.c", "products.c", "portable.c")


def make(model: PackedModel, max_memory: int | None = MAX_MEMORY) -> Export:
    """The folder: model.c and model.h, bnn/ with the engine, main.c with a self-test, Makefile, README.md.

    max_memory: bytes that the model may ask for, to prepare it and to run a sample; None: any number.

    Raises:
        UserError: it may ask for more.
        ExportError: the engine cannot run a node of the model, or a float not hold its values; it is named.
            Or the compiled engine cannot be loaded.
    """
    check_limits(model, max_memory=max_memory)
    try:
        device = device_program(model)
    except LoweringError as error:
        raise ExportError(f"node {error}") from error
    memory = memory_of(device.program)
    used = Used.by(device.program, memory)
    generated = sources(model, device, memory)
    files = {
        "model.h": generated.header,
        "model.c": generated.body,
        "main.c": main_source(model, device),
        "bnn/bnn_config.h": config(_native("export_config.h").decode(), used),
    }
    engine = {f"bnn/{name}": _native(name) for name in _needed(used)}
    c_files = sorted(name for name in (*files, *engine) if name.endswith(".c") and name != "main.c")
    files["Makefile"] = makefile(c_files)
    notes = (*_notes(device, used, memory, generated), *_why_floats(model, device))
    files["README.md"] = readme(model, device, notes)
    return Export({**{name: text.encode() for name, text in files.items()}, **engine}, notes)


def _needed(used: Used) -> list[str]:
    """Files of the engine."""
    names = list(ALWAYS)
    if used.gathers:
        names.append("gather.c")
    if used.others:
        names.append("operations.c")
    if "softmax" in used.operations:
        names.append("softmax.c")
    return names


def _native(name: str) -> bytes:
    """A source of the engine. CMakeLists.txt installs it with the compiled module, also where a package that
    is installed as editable has its Python elsewhere."""
    compiled = import_module("bnn.runtime._native").__file__
    assert compiled is not None
    return (Path(compiled).parents[1] / "export" / "native" / name).read_bytes()


def _notes(device: Device, used: Used, memory: Memory, generated: Sources) -> tuple[str, ...]:
    if not used.floats:
        arithmetic = "no floating point: integers only"
    elif "f64" in used.dtypes:
        names = {op.node for op in device.program.ops if _is_double(device, op)}
        doubles = ", ".join(printable(name, 100) for name in sorted(names))
        arithmetic = f"floating point, in double precision where signs hang on it: {doubles}"
    else:
        arithmetic = "floating point, in single precision"
    return (
        f"RAM: an arena of {memory.arena:,} bytes, {memory.values:,} of them for values and "
        f"{memory.scratch:,} for scratch; and stack",
        f"flash: {generated.constant_bytes:,} bytes of constants, {generated.weight_bytes:,} of them packed "
        "weights; and code",
        f"arithmetic: {arithmetic}",
        "of the C library: memcpy, memset",
    )


def _why_floats(model: PackedModel, device: Device) -> Iterator[str]:
    """Why a last layer of integer sums gives no integers."""
    tried = sums_to_try(model)
    if tried and device.scores is None:
        why = "no integers order the classes as they do"
        if tried > LIMIT:
            why = f"the last layer can have {tried:,} sums, and no more than {LIMIT:,} are tried"
        yield f"scores are floats: {why}"


def _is_double(device: Device, op: Op) -> bool:
    return op.finish.computed == "f64" or device.program.values[op.output].dtype == "f64"

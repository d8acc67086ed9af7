"""What the figures were measured on: processor, versions, and what a core can do at best."""

import platform
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bnn.errors import MissingExtraError, UserError, require
from bnn.runtime.threads import available_cores

__all__ = ["PEAKS", "READS", "describe", "installed", "instruction_sets", "peaks", "versions"]

PEAKS = ("bits", "f32", "i16")
"""The loops of native/peak.h that count multiply-accumulates: of ±1 with ±1, with floats, with integers."""

READS = ("memory", "cache")
"""Those that count bytes read."""

SECONDS = 0.2  # for each loop


def installed(module: str) -> ModuleType | None:
    """The module, or None where its package is not installed."""
    try:
        return require(module, "bench")
    except MissingExtraError:
        return None


def native() -> Any:
    """The compiled engine. Nothing can be measured without it.

    Raises:
        UserError: it cannot be loaded.
    """
    try:
        return import_module("bnn.runtime.native")
    except ImportError as error:
        raise UserError(f"the compiled engine cannot be loaded: {error}") from error


def instruction_sets() -> list[str]:
    """Names of the kernels that this processor can run, slowest first."""
    names: list[str] = native().instruction_sets()
    return names


def describe() -> dict[str, Any]:
    """The processor's name and what this process may use of it."""
    return {
        "cpu": _processor(),
        "cores": available_cores(),
        "instruction_sets": instruction_sets(),
        "system": platform.platform(),
    }


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """The version of everything that is measured, or measures; None: not installed."""
    modules = {name: installed(name) for name in ("torch", "onnx", "onnxruntime")}
    return {
        "bnn": metadata.version("binaryconnect"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: module.__version__ if module else None for name, module in modules.items()},
    }


def peaks(names: tuple[str, ...], isa: str = "") -> dict[str, float]:
    """What a core does a second at best, for each loop; 0 where there is none of it for these kernels."""
    peak = native()._native.peak
    return {name: peak(f"{name}/{isa}" if isa else name, SECONDS) for name in names}

"""What pyproject.toml asks for, the lock files, the scripts in .ci, and wheels to try them with."""

import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Self
from zipfile import ZipFile

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
LOCKS = ROOT / ".ci" / "locks"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# Of each system and Python that the tests run on, what markers ask for.
SYSTEMS = [
    {
        "sys_platform": system,
        "os_name": "nt" if system == "win32" else "posix",
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    for system, python in product(("linux", "darwin", "win32"), PYTHONS)
]


def requirements() -> dict[str, list[str]]:
    """By extra; "" is what running a model needs, "build" what builds the engine."""
    build = SETTINGS["build-system"]["requires"]
    return {"": PROJECT["dependencies"], "build": build, **PROJECT["optional-dependencies"]}


@dataclass(frozen=True)
class Pin:
    """One version of a package, where `marker` holds."""

    name: str
    version: Version
    marker: Marker | None
    hashes: tuple[str, ...] = ()

    @classmethod
    def of(cls, requirement: Requirement, hashes: tuple[str, ...] = ()) -> Self:
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        name = canonicalize_name(requirement.name)
        return cls(name, Version(specifier.version), requirement.marker, hashes)

    def applies(self, system: dict[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(system)


def locked(name: str) -> list[Pin]:
    """What .ci/locks/NAME.txt says."""
    text = (LOCKS / f"{name}.txt").read_text(encoding="utf-8")
    blocks = re.findall(r"^([a-z0-9].*?) \\\n((?:    --hash=.*\n)+)", text, re.MULTILINE)
    return [
        Pin.of(Requirement(line), tuple(re.findall("sha256:([0-9a-f]+)", hashes))) for line, hashes in blocks
    ]


def script(name: str) -> ModuleType:
    """.ci/NAME, a Python script without an ending, as a module."""
    loader = SourceFileLoader(name.replace("-", "_"), str(ROOT / ".ci" / name))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        loader.exec_module(module)
    return module


def make_wheel(path: Path, changes: Mapping[str, bytes | None] | None = None) -> Path:
    """A wheel of the sources, with a module that is none.

    Args:
        path: of the wheel.
        changes: other bytes of files, by path; None for no such file.
    """
    name = "binaryconnect-0.1.0.dist-info"
    files: dict[str, bytes | None] = {}
    for source in (ROOT / "src" / "bnn").rglob("*"):
        if source.is_file() and source.suffix != ".pyc" and source.name != "README.md":
            files[source.relative_to(ROOT / "src").as_posix()] = source.read_bytes()
    files["bnn/runtime/_native.abi3.so"] = b"module"
    files["bnn/export/native/bnn.h"] = (ROOT / "native" / "bnn.h").read_bytes()
    for notice in ("LICENSE", "licenses/nanobind.txt", "licenses/robin_map.txt"):
        files[f"{name}/licenses/{notice}"] = (ROOT / notice).read_bytes()
    requires = "".join(f"Requires-Dist: {line}\n" for line in PROJECT["dependencies"])
    extra = 'Requires-Dist: rich>=13; extra == "train"\n'
    files[f"{name}/METADATA"] = f"License-Expression: {PROJECT['license']}\n{requires}{extra}".encode()
    engine = (ROOT / "cmake" / "engine.cdx.json.in").read_text(encoding="utf-8")
    engine = engine.replace("${nanobind_VERSION}", "3.1.0").replace("${robin_map_VERSION}", "1.4.0")
    files[f"{name}/sboms/engine.cdx.json"] = engine.encode()
    with ZipFile(path, "w") as archive:
        for file, content in {**files, **(changes or {})}.items():
            if content is not None:
                archive.writestr(file, content)
    return path

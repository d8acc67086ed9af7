"""The locks are in step with pyproject.toml, hold hashes, and name no place of any machine."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT
from support.shipping import LOCKS, PROJECT, SETTINGS, SYSTEMS, Pin, locked, requirements

BUILD = requirements()["build"]
WANTED = {
    "dev": [line for lines in requirements().values() for line in lines],
    "build": BUILD,
    "release": [*SETTINGS["dependency-groups"]["release"], *BUILD],
}


def direct(name: str) -> Iterator[Requirement]:
    for line in WANTED[name]:
        requirement = Requirement(line)
        if requirement.name != PROJECT["name"]:  # extras name each other by it
            yield requirement


@pytest.mark.parametrize("name", WANTED)
def test_every_requirement_is_locked_to_a_version_it_admits(name: str) -> None:
    """On each system and Python there is one version of it; where there is not: .ci/lock."""
    pins = locked(name)
    for requirement in direct(name):
        for system in SYSTEMS:
            if requirement.marker is not None and not requirement.marker.evaluate(system):
                continue
            found = [p for p in pins if p.name == canonicalize_name(requirement.name) and p.applies(system)]
            assert len(found) == 1, f"{requirement} on {system}: {found}"
            assert requirement.specifier.contains(found[0].version), f"{requirement}: {found[0].version}"


@pytest.mark.parametrize("name", WANTED)
def test_every_package_has_hashes(name: str) -> None:
    """Of SHA-256; pip refuses a file with another."""
    pins = locked(name)
    assert len(pins) > 4
    for pin in pins:
        assert pin.hashes, pin.name
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in pin.hashes), pin.name


@pytest.mark.parametrize("name", WANTED)
def test_a_lock_names_no_place(name: str) -> None:
    """No index, no path: whoever installs says where files come from."""
    for line in (LOCKS / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[^/\\]+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_pytorch_has_no_cuda_on_linux() -> None:
    """Elsewhere its builds on PyPI have none."""
    torch = [pin for pin in locked("dev") if pin.name == "torch"]
    for system in SYSTEMS:
        (pin,) = (pin for pin in torch if pin.applies(system))
        assert (pin.version.local == "cpu") is (system["sys_platform"] == "linux")
    assert not [pin.name for pin in locked("dev") if pin.name.startswith(("nvidia", "cuda", "triton"))]


def test_the_locks_agree() -> None:
    """A release is built with what the tests were."""
    dev = {(pin.name, pin.marker): pin.version for pin in locked("dev")}
    build = {(pin.name, pin.marker): pin.version for pin in locked("build")}
    release = {(pin.name, pin.marker): pin.version for pin in locked("release")}
    assert {"nanobind", "scikit-build-core", "cmake", "ninja"} <= {name for name, _ in build}
    assert build.items() <= dev.items()
    assert build.items() <= release.items()


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_make_installs_the_locked_versions(tmp_path: Path) -> None:
    """The constraints are the lock without hashes, and without the +cpu that PyPI's PyTorch lacks."""
    (line,) = (line for line in (ROOT / ".ci" / "venv").read_text().splitlines() if line.startswith("sed "))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".ci").symlink_to(ROOT / ".ci")
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    lines = (tmp_path / ".venv" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = locked("dev")
    assert len(lines) == len(pins)
    for constraint, pin in zip(map(Requirement, lines), pins, strict=True):
        assert Pin.of(constraint).version == Version(pin.version.public)
        assert str(constraint.marker or "") == str(pin.marker or "")

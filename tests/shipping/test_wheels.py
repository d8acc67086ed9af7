"""A wheel that is not fit to be released is found out, and its bill of materials is whole."""

import json
from pathlib import Path
from zipfile import ZipFile

import pytest
from support.shipping import locked, make_wheel, script

CHECK, SBOM = script("check-wheel"), script("sbom")
NAME = "binaryconnect-0.1.0-cp312-abi3-manylinux_2_28_x86_64.whl"
INFO = "binaryconnect-0.1.0.dist-info"


def faults(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        return list(CHECK.check_content(archive))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ("cp311-cp311-manylinux_2_28_x86_64", ""),
        ("cp312-abi3-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64", ""),
        ("cp312-abi3-macosx_11_0_arm64", ""),
        ("cp312-abi3-win_amd64", ""),
        ("cp312-abi3-linux_x86_64", "is for linux_x86_64, not for manylinux_2_28"),
        ("cp312-abi3-manylinux_2_35_x86_64", "is for manylinux_2_35_x86_64, not for manylinux_2_28"),
        ("cp312-cp312-manylinux_2_28_x86_64", "is neither for Python 3.11 nor for the stable ABI of 3.12"),
        ("py3-none-any", "is neither for Python 3.11 nor for the stable ABI of 3.12"),
    ],
)
def test_tags(tags: str, said: str) -> None:
    """One wheel for 3.11, one for all later ones; on Linux for systems since 2018."""
    assert "".join(CHECK.check_tags(Path(f"binaryconnect-0.1.0-{tags}.whl"))) == said


def test_a_sound_wheel_has_no_faults(tmp_path: Path) -> None:
    """Our files, one module, its metadata."""
    assert faults(make_wheel(tmp_path / NAME)) == []


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("bnn/notes.txt", b"", "has a stray bnn/notes.txt"),
        ("tests/conftest.py", b"", "has a stray tests/conftest.py"),
        ("bnn/export/native/avx2.h", b"", "has a stray bnn/export/native/avx2.h"),
        ("bnn/bits.py", b"other", "has another bnn/bits.py than the source"),
        ("bnn/export/native/bnn.h", b"other", "has another bnn/export/native/bnn.h than the source"),
        ("bnn/export/web/page/page.css", None, "lacks bnn/export/web/page/page.css"),
        (f"{INFO}/licenses/licenses/nanobind.txt", None, f"lacks {INFO}/licenses/licenses/nanobind.txt"),
        (f"{INFO}/sboms/engine.cdx.json", None, f"lacks {INFO}/sboms/engine.cdx.json"),
        ("bnn/runtime/_native.abi3.so", None, "has 0 compiled modules"),
        ("bnn/runtime/_native.pyd", b"", "has 2 compiled modules"),
        ("bnn/runtime/_native.abi3.so", b"/home/me/x.c", "names places of the machine that built it: /home/"),
    ],
)
def test_a_fault_of_its_content_is_named(tmp_path: Path, file: str, content: bytes | None, said: str) -> None:
    """Stray, changed and missing files; paths of whoever built it."""
    assert faults(make_wheel(tmp_path / NAME, {file: content})) == [said]


def test_materials_without_a_version_are_a_fault(tmp_path: Path) -> None:
    """As where CMake did not find nanobind's version of robin_map."""
    empty = {"components": [{"name": "nanobind", "version": "3.1.0"}, {"name": "robin-map", "version": ""}]}
    wheel = make_wheel(tmp_path / NAME, {f"{INFO}/sboms/engine.cdx.json": json.dumps(empty).encode()})
    (fault,) = faults(wheel)
    assert fault.startswith("has a bill of materials with ")


@pytest.mark.parametrize(("tags", "python"), [("cp311-cp311", "3.11"), ("cp312-abi3", "3.12")])
def test_the_bill_names_all_that_a_wheel_needs_and_holds(tmp_path: Path, tags: str, python: str) -> None:
    """Its dependencies as locked for its Python, and what is compiled in, each once and referred to."""
    (numpy,) = (
        p.version for p in locked("dev") if p.name == "numpy" and p.applies({"python_full_version": python})
    )
    bill = SBOM.bill(make_wheel(tmp_path / f"binaryconnect-0.1.0-{tags}-win_amd64.whl"))
    versions = {part["name"]: part["version"] for part in bill["components"]}
    assert set(versions) == {"numpy", "safetensors", "bnn/runtime/_native", "nanobind", "robin-map"}
    assert versions["numpy"] == str(numpy)
    assert (versions["nanobind"], versions["robin-map"]) == ("3.1.0", "1.4.0")
    licences = {
        part["name"]: part["licenses"][0]["license"]["id"]
        for part in bill["components"]
        if "licenses" in part
    }
    assert licences == {"nanobind": "BSD-3-Clause", "robin-map": "MIT"}
    own = bill["metadata"]["component"]
    references = [part["bom-ref"] for part in (own, *bill["components"])]
    assert len(set(references)) == len(references)
    assert sorted(entry["ref"] for entry in bill["dependencies"]) == sorted(references)
    needed = {reference for entry in bill["dependencies"] for reference in entry.get("dependsOn", ())}
    assert needed == set(references) - {own["bom-ref"]}

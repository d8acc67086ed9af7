"""What the project uses is under licences that it may be used under, and the page on them says so."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import DOCS, ROOT
from support.shipping import PROJECT, locked, requirements

PERMISSIVE = {
    *(
        "MIT",
        "MIT-CMU",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
    ),
    *("PSF-2.0", "BSL-1.0", "Zlib", "CC0-1.0", "ISC", "Unlicense", "HPND"),
    "MPL-2.0",  # binds changes to its own files
}
# What older metadata has in place of an expression. The BSD classifier does not say which.
CLASSIFIERS = {
    "Apache Software License": {"Apache-2.0"},
    "MIT License": {"MIT"},
    "BSD License": {"BSD-2-Clause", "BSD-3-Clause"},
    "Mozilla Public License 2.0 (MPL 2.0)": {"MPL-2.0"},
    "Python Software Foundation License": {"PSF-2.0"},
}
ROWS = re.findall(
    r"^\| ([\w-]+) \| ([^|]+) \| (.+) \|$", (DOCS / "licenses.md").read_text("utf-8"), re.MULTILINE
)
TABLE = {canonicalize_name(name): licence for name, licence, _ in ROWS if name not in ("package", "---")}


def ids(expression: str) -> set[str]:
    return {part.strip("() ") for part in re.split(r" AND | OR ", expression)}


def stated(package: Distribution) -> set[str]:
    """The licences that a package's metadata names, as SPDX writes them."""
    metadata = package.metadata
    if expression := metadata["License-Expression"]:
        return ids(expression)
    for classifier in metadata.get_all("Classifier", []):
        if classifier.startswith("License :: OSI Approved :: "):
            return CLASSIFIERS[classifier.rpartition(" :: ")[2]]
    return ids(metadata["License"] or "")


def test_every_dependency_has_a_row() -> None:
    """The table of docs/licenses.md names what pyproject.toml asks for, and nothing else."""
    wanted = {canonicalize_name(r.name) for lines in requirements().values() for r in map(Requirement, lines)}
    assert set(TABLE) == wanted - {PROJECT["name"]}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_a_licence_is_what_the_package_states(name: str) -> None:
    """And every part of it may be used in MIT-licensed work."""
    assert ids(TABLE[name]) <= PERMISSIVE
    try:
        package = distribution(name)
    except PackageNotFoundError:
        pytest.skip(f"{name} is not installed here")
    if Version(package.version).public not in {
        pin.version.public for pin in locked("dev") if pin.name == name
    }:
        pytest.skip(f"{name} {package.version} is not the locked version, of which the page is")
    found = stated(package)
    assert ids(TABLE[name]) <= found
    assert found <= PERMISSIVE


def test_what_is_compiled_in_has_its_notice() -> None:
    """Wheels hold each text in licenses/, and the project's licence expression covers it."""
    text = (DOCS / "licenses.md").read_text("utf-8")
    assert re.search(r"^\| nanobind \| BSD-3-Clause \|$", text, re.MULTILINE)
    assert re.search(r"^\| robin_map, .* \| MIT \|$", text, re.MULTILINE)
    assert ids(PROJECT["license"]) == {"MIT", "BSD-3-Clause"}
    assert f"`{PROJECT['license']}`" in text
    patterns = PROJECT["license-files"]
    files = {path.name for pattern in patterns for path in ROOT.glob(pattern)}
    assert files == {"LICENSE", "nanobind.txt", "robin_map.txt"}


@pytest.mark.skipif(find_spec("nanobind") is None, reason="needs nanobind, which .ci/locks/dev.txt has")
def test_the_notices_are_those_of_what_is_compiled_in() -> None:
    """nanobind's is its own; robin_map's opens its header."""
    package = distribution("nanobind")
    (own,) = (path for path in package.files or () if path.name == "LICENSE")
    assert (ROOT / "licenses" / "nanobind.txt").read_text("utf-8") == own.read_text("utf-8")
    header = Path(str(package.locate_file("nanobind/ext/robin_map/include/tsl/robin_map.h"))).read_text(
        "utf-8"
    )
    comment = header[header.index("/**") : header.index(" */")].splitlines()[1:]
    lines = [re.sub(r"^ \* ?", "", line) for line in comment]
    assert (ROOT / "licenses" / "robin_map.txt").read_text("utf-8").splitlines() == lines

"""The lock files, read."""

import re
from dataclasses import dataclass
from itertools import product
from typing import Self

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from support.paths import ROOT

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

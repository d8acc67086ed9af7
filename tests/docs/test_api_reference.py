"""Every public name is in the API reference."""

import re
from importlib import import_module
from typing import Any

import pytest
from support.paths import DOCS

PUBLIC = (
    "bnn",
    "bnn.config",
    "bnn.data",
    "bnn.errors",
    "bnn.export",
    "bnn.functional",
    "bnn.models",
    "bnn.packed",
    "bnn.packing",
    "bnn.quantizers",
    "bnn.runtime",
    "bnn.training",
)


def documented() -> dict[str, Any]:
    """What the reference's directives name, by its dotted name."""
    found: dict[str, Any] = {}
    for page in sorted((DOCS / "reference").glob("*.rst")):
        module = ""
        for kind, name in re.findall(
            r"^\.\. (\w+):: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            if kind == "currentmodule":
                module = name
            elif kind in ("autofunction", "autoclass", "autoexception", "autodata"):
                home, _, attribute = (name if name.startswith("bnn.") else f"{module}.{name}").rpartition(".")
                found[f"{home}.{attribute}"] = getattr(import_module(home), attribute)
    return found


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name(module: str) -> None:
    """Each name of a public module is in the reference, there or where else it can be imported from."""
    known = documented()
    objects = {id(thing) for thing in known.values()}
    names = import_module(module).__all__
    missing = [name for name in names if f"{module}.{name}" not in known]
    assert [name for name in missing if id(getattr(import_module(module), name)) not in objects] == []

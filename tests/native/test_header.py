"""What Python says of the engine's structs is what native/bnn.h says."""

import re
from collections.abc import Sequence

import pytest
from support.paths import ROOT

from bnn.runtime.program import ACTIVATIONS, DTYPES, OPS

HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "native" / "bnn.h").read_text(encoding="utf-8"), flags=re.DOTALL)


def enumerators(name: str) -> list[str]:
    """Those of an enum, in order."""
    (body,) = re.findall(rf"typedef enum {{([^}}]*)}} {name};", HEADER)
    return [word.strip() for word in body.split(",")]


@pytest.mark.parametrize(
    ("enum", "names"), [("bnn_op", [*OPS, "ops"]), ("bnn_dtype", DTYPES), ("bnn_activation", ACTIVATIONS)]
)
def test_names_have_the_numbers_of_the_enums(enum: str, names: Sequence[str]) -> None:
    """bindings.cpp casts a position to an enum, and the C export writes masks of them."""
    assert [f"BNN_{name.upper()}" for name in names] == enumerators(enum)

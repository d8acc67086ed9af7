"""Calls between the C files of native/ run one way."""

import re
from graphlib import CycleError, TopologicalSorter

import pytest
from support.paths import ROOT

NATIVE = ROOT / "native"
SOURCES = {path.name: path.read_text(encoding="utf-8") for path in sorted(NATIVE.glob("*.c"))}

# At the start of a line, without `static`: a function, a table of kernels, or a macro that makes a function.
DEFINED = re.compile(
    r"^(?!static)\w[\w *]*?(bnn_\w+)\([^;{]*\)\s*\{|^const \w+ (bnn_\w+) =|^[A-Z_]+\((bnn_\w+),", re.MULTILINE
)


def code(text: str) -> str:
    """Without comments and strings."""
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', '""', text, flags=re.DOTALL)


def defined(text: str) -> set[str]:
    return {name for names in DEFINED.findall(code(text)) for name in names if name}


def calls(sources: dict[str, str]) -> dict[str, set[str]]:
    """For each file, the others with functions or tables that it names, and those that it includes."""
    home = {name: file for file, text in sources.items() for name in defined(text)}
    return {
        file: {home[name] for name in re.findall(r"\bbnn_\w+", code(text)) if name in home}
        | set(re.findall(r'^#include "(\w+\.c)"', text, re.MULTILINE)) - {file}
        for file, text in sources.items()
    }


def test_no_circle() -> None:
    """Files can be put in an order in which each calls only those before it."""
    found = calls(SOURCES)
    order = list(TopologicalSorter({file: called - {file} for file, called in found.items()}).static_order())
    for file in order:
        print(f"{file} -> {', '.join(sorted(found[file] - {file})) or '(none)'}")
    assert {"engine.c", "softmax.c", "dispatch.c", "portable.c"} <= set(order)
    assert order.index("job.c") < order.index("products.c") < order.index("engine.c")


def test_a_circle_is_found() -> None:
    """A call back, from what all jobs share to what runs products, closes one."""
    back = "\nvoid bnn_back(bnn_job *j)\n{\n    bnn_run_product(j, 0, 1);\n}\n"
    found = calls(SOURCES | {"job.c": SOURCES["job.c"] + back})
    with pytest.raises(CycleError):
        TopologicalSorter({file: called - {file} for file, called in found.items()}).prepare()


def test_every_definition_is_seen() -> None:
    """Each function that a header declares is found in some file, so that no call is overlooked."""
    headers = "\n".join(code(path.read_text(encoding="utf-8")) for path in NATIVE.glob("*.h"))
    declared = set(re.findall(r"^(?!static|typedef)\w[\w *]*?(bnn_\w+)\([^{;]*\);", headers, re.MULTILINE))
    assert len(declared) > 25
    assert declared <= {name for text in SOURCES.values() for name in defined(text)}


def test_the_table_of_the_readme() -> None:
    """It has each file, and no row calls its own or one below."""
    text = (NATIVE / "README.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"\| --- \| --- \|\n(.*?)\n\n", text, re.DOTALL)
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[1]) for line in table.splitlines()]
    named = [name if "." in name else f"{name}.c" for row in rows for name in row]
    assert sorted(named) == sorted(path.name for path in NATIVE.glob("*.c*"))
    found, above = calls(SOURCES), set[str]()
    for row in rows:
        files = {f"{name}.c" for name in row} & set(SOURCES)
        assert all(found[file] - {file} <= above for file in files), row
        above |= files

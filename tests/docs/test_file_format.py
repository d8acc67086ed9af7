"""docs/file-format.md describes the files that there are: its example, its tables and its reader."""

import json
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bnn_files import edited, refusal, small, split
from support.helpers import one_of_each, tiny
from support.paths import DOCS

from bnn.packed.model import PackedModel
from bnn.packed.nodes import MAX_ELEMENTS, NODES, Conv2d, InputContract, Linear, PackedWeight
from bnn.packed.serialization import FORMAT, MOST_HEADER, MOST_NODES

TEXT = (DOCS / "file-format.md").read_text(encoding="utf-8")
SIZES = {"U64": 8, "F64": 8, "F32": 4, "I32": 4, "BOOL": 1}


def block(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return code


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    (text,) = re.findall(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return text


def table(text: str) -> dict[str, str]:
    """What each field of a table is if it is absent. A row may describe several."""
    described: dict[str, str] = {}
    for row in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
        first, *_, last = (cell.strip() for cell in row.strip("|").split("|"))
        names = re.findall(r"`(\w+)`", first)
        values = re.split(r", (?![^\[]*\])", last.replace("`", ""))
        described |= zip(names, values * len(names) if len(values) == 1 else values, strict=True)
    return described


def hexdump(content: bytes) -> str:
    lines = []
    for start in range(0, len(content), 16):
        row = content[start : start + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{start:08x}  {row.hex(' '):<47}  |{letters}|\n")
    return "".join(lines)


# --- the example ------------------------------------------------------------------------------------------


def test_the_example_byte_for_byte(tmp_path: Path) -> None:
    """The page's dump is the file that is written of the example, and is read as what the page says."""
    tiny().save(tmp_path / "m.bnn")
    assert block("hexdump") == hexdump((tmp_path / "m.bnn").read_bytes())
    rows = [line[10:57] for line in block("hexdump").splitlines()]
    (tmp_path / "typed.bnn").write_bytes(bytes.fromhex(" ".join(rows)))
    model = PackedModel.load(tmp_path / "typed.bnn")
    layer = model.nodes[0]
    assert isinstance(layer, Linear)
    assert isinstance(layer.weight, PackedWeight)
    assert layer.scale is not None
    assert layer.shift is not None
    signs = re.findall(r"^    ([+-]1(?: [+-]1)+)$", section("An example, byte for byte"), re.MULTILINE)
    assert layer.weight.signs().tolist() == [[int(sign) for sign in row.split()] for row in signs]
    assert (layer.scale.tolist(), layer.shift.tolist()) == ([1, 0.5], [0, -2])


def test_where_the_example_lies(tmp_path: Path) -> None:
    """The header's length, its spaces and the beginning of the data are those that the text names."""
    tiny().save(tmp_path / "m.bnn")
    content = (tmp_path / "m.bnn").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    assert (length, 8 + length, len(header) - len(header.rstrip(b" "))) == (0x278, 0x280, 6)
    text = section("An example, byte for byte")
    assert "0x278 bytes, six spaces included, so the data begins at 0x280" in text


# --- the tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NODES)
def test_the_fields_of_every_operation(name: str) -> None:
    """Each operation has a section with exactly its fields and what they are if they are absent."""
    described = table(section(name))
    own = [f for f in fields(NODES[name]) if f.name not in ("name", "inputs")]
    expected = {
        f.name: "required" if f.default is MISSING else json.dumps(f.default, separators=(", ", ": "))
        for f in own
    }
    assert described == expected
    assert ("No fields." in section(name)) == (not own)


def test_the_operations_are_those_that_there_are() -> None:
    """No section describes an operation that the reader does not know."""
    start, end = TEXT.index("\n## Operations"), TEXT.index("\n## Versions")
    assert re.findall(r"^### (\w+)$", TEXT[start:end], re.MULTILINE) == list(NODES)


def test_the_fields_of_the_input() -> None:
    """The input's table has its fields and defaults."""
    described = table(section("The input"))
    required = [f.name for f in fields(InputContract) if f.default is MISSING]
    assert list(described) == [f.name for f in fields(InputContract)]
    assert [name for name, absent in described.items() if absent == "required"] == required
    assert {absent for name, absent in described.items() if name not in required} == {"[]"}


def test_version_and_limit() -> None:
    """The page's numbers are the code's."""
    assert f"It describes **version {FORMAT}**" in TEXT
    assert f"| `format` | {FORMAT}, an integer |" in TEXT
    assert MAX_ELEMENTS == 2**28
    assert "more than 2^28 entries" in TEXT
    assert f"nor than {MOST_HEADER:,}" in TEXT
    assert f"no more than {MOST_NODES:,} nodes" in TEXT


@pytest.mark.parametrize("model", [small, one_of_each, tiny])
def test_what_a_writer_does(model: Any, tmp_path: Path) -> None:
    """Dtypes and their order, alignment, names of arrays, and the graph's text are as the page has them."""
    packed = model()
    packed.save(tmp_path / "m.bnn")
    content = (tmp_path / "m.bnn").read_bytes()
    header, graph, data = split(content)
    arrays = {name: info for name, info in header.items() if name != "__metadata__"}
    start, at = len(content) - len(data), 0
    assert start % 8 == 0
    order = [(list(SIZES).index(info["dtype"]), name) for name, info in arrays.items()]
    assert order == sorted(order)
    for info in arrays.values():
        first, end = info["data_offsets"]
        assert (first, end) == (at, at + int(np.prod(info["shape"])) * SIZES[info["dtype"]])
        assert (start + first) % SIZES[info["dtype"]] == 0
        at = end
    assert at == len(data)
    text = header["__metadata__"]["bnn"]
    assert text == json.dumps(graph, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for node, entry in zip(packed.nodes, graph["nodes"], strict=True):
        assert set(entry) == {"op"} | {f.name for f in fields(node)}
        named = {field: value for field, value in entry.items() if isinstance(value, dict)}
        for field, value in named.items():
            assert value.get("bits", value.get("tensor")) == f"{node.name}.{field}"


@pytest.mark.parametrize("value", [True, 1.0, 2, 0, "1", None])
def test_other_versions_are_refused(value: object, tmp_path: Path) -> None:
    """`format` is the integer 1 and nothing else."""
    small().save(tmp_path / "m.bnn")
    sound = (tmp_path / "m.bnn").read_bytes()
    message = refusal(tmp_path / "m.bnn", edited(sound, lambda graph: graph.update(format=value)))
    assert "format version" in message


def test_what_is_absent_is_the_default(tmp_path: Path) -> None:
    """A graph without its optional fields reads as with their defaults, and integers as numbers."""
    tiny().save(tmp_path / "m.bnn")

    def shorten(graph: dict[str, Any]) -> None:
        del graph["nodes"][1]["low"], graph["input"]["labels"]
        graph["nodes"][1]["high"] = 1

    (tmp_path / "m.bnn").write_bytes(edited((tmp_path / "m.bnn").read_bytes(), shorten))
    model = PackedModel.load(tmp_path / "m.bnn")
    assert model.input.labels == ()
    assert (model.nodes[1].low, model.nodes[1].high) == (-1.0, 1.0)  # type: ignore[attr-defined]


# --- the reader -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [small, one_of_each, tiny])
def test_the_reader(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's reader finds every array of a file, and of each one-bit layer the signs that `bnn` finds."""
    monkeypatch.chdir(tmp_path)
    packed = model()
    packed.save("model.bnn")
    names: dict[str, Any] = {}
    exec(block("python"), names)
    layers = [node for node in packed.nodes if isinstance(node, Linear | Conv2d) and node.is_packed]
    assert list(names["weights"]) == [layer.name for layer in layers]
    for layer in layers:
        signs = names["weights"][layer.name]
        assert signs.dtype == np.int8
        assert np.array_equal(signs, layer.weight.signs())  # type: ignore[union-attr]
    for node, entry in zip(packed.nodes, names["graph"]["nodes"], strict=True):
        for field in (f.name for f in fields(node) if isinstance(getattr(node, f.name), np.ndarray)):
            ours, theirs = getattr(node, field), names["arrays"][entry[field]["tensor"]]
            assert (theirs.dtype, theirs.tolist()) == (ours.dtype, ours.tolist())


def test_the_reader_needs_numpy_alone(tmp_path: Path) -> None:
    """It runs where neither `bnn` nor safetensors can be imported."""
    one_of_each().save(tmp_path / "model.bnn")
    program = "import sys\nsys.modules |= dict.fromkeys(['bnn', 'safetensors', 'torch'])\n" + block("python")
    result = subprocess.run(
        [sys.executable, "-c", f"{program}\nprint(sorted(weights))"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['conv', 'stem']\n"


def test_the_reader_refuses_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not take a later format for this one."""
    monkeypatch.chdir(tmp_path)
    tiny().save("model.bnn")
    path = tmp_path / "model.bnn"
    path.write_bytes(edited(path.read_bytes(), lambda graph: graph.update(format=2)))
    with pytest.raises(ValueError, match="format 2"):
        exec(block("python"), {})

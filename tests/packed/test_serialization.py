"""The .bnn file: what is written comes back, byte for byte the same each time, and writes are atomic."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray
from support.helpers import model_of, one_of_each, packed_weight, random_floats, random_pixels, tiny
from support.paths import TESTS
from typing_extensions import TypeAliasType

from bnn import files
from bnn.packed import serialization
from bnn.packed.model import PackedModel
from bnn.packed.nodes import NODES, Linear, PackedWeight, ReLU
from bnn.runtime import Runner


def equal(a: Any, b: Any) -> bool:
    """Equality of fields, with dtype and shape of arrays."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if is_dataclass(a):
        return type(a) is type(b) and all(equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def assert_equal(a: PackedModel, b: PackedModel) -> None:
    assert equal(a.input, b.input)
    assert equal(a.nodes, b.nodes)
    assert a.about == b.about


# --- round trips ------------------------------------------------------------------------------------------


def test_every_node_type_comes_back(tmp_path: Path) -> None:
    """A model with every operation comes back with equal fields, dtypes and shapes, and computes the same."""
    model = one_of_each()
    assert {type(node) for node in model.nodes} == set(NODES.values())
    model.save(tmp_path / "m.bnn")
    loaded = PackedModel.load(tmp_path / "m.bnn")
    assert_equal(loaded, model)
    x = random_pixels(3, 2, 6, 6)
    assert np.array_equal(Runner(loaded)(x), Runner(model)(x))


def test_optional_fields_come_back(tmp_path: Path) -> None:
    """No scale, no mean, no labels, nothing in `about`: what is absent stays absent."""
    model = model_of((5,), Linear(name="fc", inputs=("input",), weight=random_floats(2, 5)))
    model.save(str(tmp_path / "m.bnn"))
    loaded = PackedModel.load(str(tmp_path / "m.bnn"))
    assert_equal(loaded, model)
    assert loaded.nodes[0].scale is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "hint",
    [
        np.ndarray[Any, np.dtype[np.float32]],
        NDArray[np.float32],
        NDArray[np.float32] | None,
        PackedWeight | NDArray[np.float32],
        TypeAliasType("Floats", np.ndarray[Any, np.dtype[np.float32]]),
        TypeAliasType("Floats", np.ndarray[Any, np.dtype[np.float32]]) | None,
    ],
)
def test_an_array_is_read_however_its_annotation_is_spelled(hint: Any) -> None:
    """A generic alias, as `NDArray` was up to NumPy 2.4, and a TypeAliasType, which it is in NumPy 2.5."""
    array = random_floats(3)
    assert serialization._decode({"tensor": "a"}, hint, {"a": array}) is array
    with pytest.raises(serialization.FormatError, match="an array is not"):
        serialization._decode([1.0], hint, {})


@pytest.mark.parametrize(
    "text", ["", "größer", "日本", "🙂", 'quote " backslash \\ newline \n', "\x00", "__metadata__"]
)
def test_any_text_comes_back(tmp_path: Path, text: str) -> None:
    """Labels, notes and names of nodes may hold any text."""
    name = text or "empty"
    model = model_of((3,), ReLU(name="a", inputs=("input",)), labels=("x", text, "z"))
    layer = Linear(name=name, inputs=("a",), weight=packed_weight(3, 3))
    model = PackedModel(model.input, (*model.nodes, layer), {text: text})
    model.save(tmp_path / "m.bnn")
    assert_equal(PackedModel.load(tmp_path / "m.bnn"), model)


def test_views_are_saved_by_their_entries(tmp_path: Path) -> None:
    """Arrays that are transposed or strided views are saved as they read."""
    weight = random_floats(5, 6).T[::2]
    model = model_of((5,), Linear(name="fc", inputs=("input",), weight=weight))
    model.save(tmp_path / "m.bnn")
    assert np.array_equal(PackedModel.load(tmp_path / "m.bnn").nodes[0].weight, weight)  # type: ignore[attr-defined]


# --- bytes ------------------------------------------------------------------------------------------------


def test_golden_bytes(tmp_path: Path) -> None:
    """The format is what it was: the tiny model's header and data, byte by byte.

    If this fails, files that users have cannot be read any more: raise FORMAT and read both.
    """
    tiny().save(tmp_path / "m.bnn")
    content = (tmp_path / "m.bnn").read_bytes()
    length = int.from_bytes(content[:8], "little")
    graph = (
        '{"about":{"weights":"sign"},"format":1,"input":{"labels":["no","yes"],"mean":[0.5],"shape":[5],'
        '"std":[0.25]},"nodes":[{"inputs":["input"],"name":"fc","op":"Linear","scale":{"tensor":"fc.scale"},'
        '"shift":{"tensor":"fc.shift"},"weight":{"bits":"fc.weight","shape":[2,5]}},{"high":1.0,'
        '"inputs":["fc"],"low":-1.0,"name":"out","op":"Hardtanh"}]}'
    )
    header = {
        "__metadata__": {"bnn": graph},
        "fc.weight": {"dtype": "U64", "shape": [2, 1], "data_offsets": [0, 16]},
        "fc.scale": {"dtype": "F32", "shape": [2], "data_offsets": [16, 24]},
        "fc.shift": {"dtype": "F32", "shape": [2], "data_offsets": [24, 32]},
    }
    assert json.loads(content[8 : 8 + length]) == header
    data = "0600000000000000 1100000000000000 0000803f 0000003f 00000000 000000c0"
    assert content[8 + length :] == bytes.fromhex(data)
    digest = "adf14cd7ca121199081d34ecb31913a014af5560e1209d9f17eff38a7ca4c833"
    assert hashlib.sha256(content).hexdigest() == digest


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Saving twice, and saving what was loaded, gives equal files, whatever the order of `about`."""
    model = one_of_each()
    turned = PackedModel(model.input, model.nodes, dict(reversed(model.about.items())))
    model.save(tmp_path / "a")
    turned.save(tmp_path / "b")
    PackedModel.load(tmp_path / "a").save(tmp_path / "c")
    contents = [(tmp_path / name).read_bytes() for name in "abc"]
    assert contents[0] == contents[1] == contents[2]


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    """Processes with different hash seeds write equal files."""
    program = "import sys; from support.helpers import one_of_each; one_of_each().save(sys.argv[1])"
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(TESTS)}
        subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / seed)], env=environment, check=True, timeout=300
        )
    one_of_each().save(tmp_path / "0")
    contents = [(tmp_path / name).read_bytes() for name in "012"]
    assert contents[0] == contents[1] == contents[2]


def test_it_is_a_safetensors_file(tmp_path: Path) -> None:
    """Any safetensors reader finds the arrays under their nodes' names, and one metadata key."""
    model = one_of_each()
    model.save(tmp_path / "m.bnn")
    tensors = safetensors.numpy.load_file(tmp_path / "m.bnn")
    assert np.array_equal(tensors["stem.scale"], model.nodes[0].scale)  # type: ignore[attr-defined]
    assert sum(tensor.nbytes for tensor in tensors.values()) == model.nbytes
    with safetensors.safe_open(tmp_path / "m.bnn", framework="np") as file:
        assert set(file.metadata()) == {"bnn"}


def test_a_weight_takes_one_bit(tmp_path: Path) -> None:
    """A packed layer of 512 x 1024 weights takes 64 KiB and a header."""
    layer = Linear(name="fc", inputs=("input",), weight=packed_weight(512, 1024))
    model_of((1024,), layer).save(tmp_path / "m.bnn")
    assert 0 < (tmp_path / "m.bnn").stat().st_size - 512 * 1024 // 8 < 1024


# --- files ------------------------------------------------------------------------------------------------


def test_saving_replaces_the_whole_file(tmp_path: Path) -> None:
    """A shorter model over a longer one leaves nothing of the old, and no temporary file."""
    one_of_each().save(tmp_path / "m.bnn")
    tiny().save(tmp_path / "m.bnn")
    assert_equal(PackedModel.load(tmp_path / "m.bnn"), tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["m.bnn"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while writing (a full disk) leaves the old content, and no temporary file."""

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "m.bnn"
    tiny().save(path)
    before = path.read_bytes()
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        one_of_each().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """A folder that does not exist, or one in the file's place, is an OSError and leaves nothing behind."""
    with pytest.raises(FileNotFoundError):
        tiny().save(tmp_path / "nowhere" / "m.bnn")
    (tmp_path / "m.bnn").mkdir()
    with pytest.raises(OSError, match=r"m\.bnn"):
        tiny().save(tmp_path / "m.bnn")
    assert [path.name for path in tmp_path.iterdir()] == ["m.bnn"]

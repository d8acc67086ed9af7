"""Taking .bnn files apart, changing them, and what becomes of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnn.packed.model import PackedModel
from bnn.packed.nodes import Affine, InputContract, Linear, PackedWeight, Sign, Threshold
from bnn.packed.serialization import FormatError

SIGNS = np.array([[1, -1, -1, 1, 1], [-1, 1, 1, 1, -1]])


def small() -> PackedModel:
    """A model with every dtype: words, float32, float64, int32, bool."""
    nodes = (
        Sign(name="s", inputs=("input",)),
        Linear(name="fc", inputs=("s",), weight=PackedWeight.from_signs(SIGNS)),
        Threshold(
            name="t", inputs=("fc",), threshold=np.array([0, 1], np.int32), flip=np.array([False, True])
        ),
        Affine(
            name="a", inputs=("t",), scale=np.array([1, 2], np.float32), shift=np.array([0, 1], np.float32)
        ),
        Affine(name="b", inputs=("a",), scale=np.array([1.0, 2.0]), shift=np.array([0.0, 1.0])),
    )
    return PackedModel(InputContract((5,), mean=(0.5,), std=(0.25,), labels=("x", "y")), nodes, {"k": "v"})


def opens(path: Path, content: bytes) -> bool:
    """Whether these bytes are taken for a model: then a sound one, else with a FormatError of one line."""
    path.write_bytes(content)
    try:
        model = PackedModel.load(path)
    except FormatError as error:
        assert str(error).startswith(f"{path}: ")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return False
    PackedModel(model.input, model.nodes, model.about)  # all checks once more
    model.save(path)
    assert len(PackedModel.load(path).nodes) == len(model.nodes)
    return True


def refusal(path: Path, content: bytes) -> str:
    """The message with which these bytes are refused."""
    path.write_bytes(content)
    with pytest.raises(FormatError) as error:
        PackedModel.load(path)
    return str(error.value)


def split(content: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """(header, graph, data)."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["bnn"]), content[8 + length :]


def join(header: dict[str, Any] | str, data: bytes) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return len(text).to_bytes(8, "little") + text + data


def with_graph(content: bytes, graph: dict[str, Any] | str) -> bytes:
    header, _, data = split(content)
    text = graph if isinstance(graph, str) else json.dumps(graph)
    return join(header | {"__metadata__": {"bnn": text}}, data)


def edited(content: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file with its graph changed."""
    _, graph, _ = split(content)
    edit(graph)
    return with_graph(content, graph)


def change_tensor(content: bytes, name: str, **changes: Any) -> bytes:
    header, _, data = split(content)
    header[name] |= changes
    return join(header, data)

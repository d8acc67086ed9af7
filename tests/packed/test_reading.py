"""Of a file no more is read than its header says, and a header may say only so much."""

import json
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bnn_files import join, opens, refusal, split, with_graph

from bnn.errors import UserError
from bnn.packed.model import PackedModel
from bnn.packed.nodes import InputContract, ReLU
from bnn.packed.serialization import MOST_HEADER, MOST_NODES


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")
@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/null"])
def test_a_file_without_end_is_refused(device: str) -> None:
    """A device that gives bytes for ever is no model, which its first bytes tell."""
    with pytest.raises(UserError, match=device):
        PackedModel.load(device)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_pipe_is_read_as_a_file_is(tmp_path: Path, sound: bytes, more: bytes) -> None:
    """A sound model may come through a pipe; what follows it is noticed there too."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=[sound + more])
    writer.start()
    try:
        if more:
            with pytest.raises(UserError, match="more follows"):
                PackedModel.load(path)
        else:
            assert PackedModel.load(path).to_bytes() == sound
    finally:
        writer.join()


def test_a_sparse_file_of_terabytes_is_refused(tmp_path: Path, sound: bytes) -> None:
    """Its size may be what the header says; nothing of it is read, and the message has both numbers."""
    header, _, data = split(sound)
    name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
    header[name]["data_offsets"][1] = 2**40
    path = tmp_path / "m.bnn"
    content = join(header, b"")
    path.write_bytes(content + data)
    try:
        os.truncate(path, len(content) + 2**40)
    except OSError:
        pytest.skip("no sparse files here")
    with pytest.raises(UserError, match=r"1 TiB of memory, more than is allowed: 1\.8 GiB"):
        PackedModel.load(path)


def test_what_a_file_may_hold_can_be_said(tmp_path: Path, sound: bytes) -> None:
    """max_memory bounds the bytes of arrays; None allows any number."""
    path = tmp_path / "m.bnn"
    path.write_bytes(sound)
    with pytest.raises(UserError, match=r"its arrays take .* is allowed: 3 bytes"):
        PackedModel.load(path, max_memory=3)
    assert PackedModel.load(path, max_memory=None).to_bytes() == sound


def test_headers_and_graphs_have_a_size(tmp_path: Path, sound: bytes) -> None:
    """A header of more bytes, or a graph of more nodes, than any network needs is refused."""
    path = tmp_path / "m.bnn"
    assert "a header of" in refusal(path, (MOST_HEADER + 1).to_bytes(8, "little") + b" " * 100)
    _, graph, _ = split(sound)
    nodes = [{"op": "ReLU", "name": f"{i}", "inputs": ["input"]} for i in range(MOST_NODES + 1)]
    content = join({"__metadata__": {"bnn": json.dumps(graph | {"nodes": nodes})}}, b"")
    assert f"{MOST_NODES + 1} nodes" in refusal(path, content)


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    """A model of too many nodes, or of names that are too long, is refused by `save`; no file is left."""
    chain = [ReLU(name=f"{i}", inputs=(f"{i - 1}" if i else "input",)) for i in range(MOST_NODES + 1)]
    contract = InputContract((2,), labels=("a", "b"))
    most = PackedModel(contract, tuple(chain[:-1]))
    most.save(tmp_path / "most.bnn")
    assert len(PackedModel.load(tmp_path / "most.bnn").nodes) == MOST_NODES
    wordy = PackedModel(replace(contract, labels=("a" * MOST_HEADER, "b")), tuple(chain[:1]))
    for model in (PackedModel(contract, tuple(chain)), wordy):
        with pytest.raises(UserError, match=r"a \.bnn file has room for"):
            model.save(tmp_path / "m.bnn")
    assert [path.name for path in tmp_path.iterdir()] == ["most.bnn"]


def test_weights_have_few_axes(tmp_path: Path, sound: bytes) -> None:
    """The product of ten thousand sizes, each near 2^63, would take hours: so many are refused."""
    _, graph, _ = split(sound)
    for node in graph["nodes"]:
        if "weight" in node:
            node["weight"]["shape"] = [2**62] * 10_000
    assert not opens(tmp_path / "m.bnn", with_graph(sound, graph))


@pytest.mark.parametrize("offsets", [None, [], [0], [0, "8"], [0, True], [0, 1.0], {"0": 1}])
def test_arrays_say_where_they_lie(tmp_path: Path, sound: bytes, offsets: Any) -> None:
    """Where an array ends has to be a number, for as far the file is read."""
    header, _, data = split(sound)
    header["fc.weight"]["data_offsets"] = offsets
    content = join(header, b"") + data
    assert not opens(tmp_path / "m.bnn", content)

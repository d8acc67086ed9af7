"""A .bnn file may come from anywhere: one that is not sound gets FormatError, and never anything else."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.bnn_files import change_tensor, edited, join, opens, refusal, split, with_graph
from support.helpers import one_of_each

from bnn.packed.model import PackedModel


def test_taking_apart_and_joining_is_harmless(bnn_path: Path, sound: bytes) -> None:
    """The tests below refuse for what they change: unchanged, a file taken apart and joined is sound."""
    assert opens(bnn_path, with_graph(sound, split(sound)[1]))
    assert opens(bnn_path, edited(sound, lambda graph: None))


# --- bytes ------------------------------------------------------------------------------------------------


def test_truncation_at_every_length(bnn_path: Path, sound: bytes) -> None:
    """A file cut anywhere is refused, the empty file too; so is one with a byte too many."""
    assert not any(opens(bnn_path, sound[:length]) for length in range(len(sound)))
    assert not opens(bnn_path, sound + b"\0")


def test_flipped_bits(bnn_path: Path, sound: bytes) -> None:
    """A bit flipped in each byte: refused, or a sound model; in the header nearly all are refused."""
    header = 8 + int.from_bytes(sound[:8], "little")
    taken = {"header": 0, "data": 0}
    for position in range(len(sound)):
        flipped = bytearray(sound)
        flipped[position] ^= 1 << position * 3 % 8
        taken["header" if position < header else "data"] += opens(bnn_path, bytes(flipped))
    assert taken["header"] < 0.1 * header
    assert 0 < taken["data"] < len(sound) - header


@pytest.mark.slow
def test_every_byte_of_the_header_set_to_a_delimiter(bnn_path: Path, sound: bytes) -> None:
    """Each byte of the header set to what JSON gives a meaning to: refused, or a sound model."""
    changed = bytearray(sound)
    for position in range(8 + int.from_bytes(sound[:8], "little")):
        for value in b'"\\{}[]:,.0-eE ntf/\0\x80\xff':
            changed[position] = value
            opens(bnn_path, bytes(changed))
        changed[position] = sound[position]
    assert opens(bnn_path, bytes(changed))


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1])
def test_header_lengths(bnn_path: Path, sound: bytes, length: int) -> None:
    """A header that claims to be empty, or larger than the file or than memory, is refused."""
    assert not opens(bnn_path, length.to_bytes(8, "little") + sound[8:])


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\x89PNG\r\n\x1a\n" * 9, b"PK\x03\x04" * 99, b"{}" * 50]
)
def test_files_of_other_formats(bnn_path: Path, content: bytes) -> None:
    """An empty file, a picture, an archive, plain JSON: refused."""
    assert "no .bnn file" in refusal(bnn_path, content) or "not" in refusal(bnn_path, content)


def test_other_safetensors_files(bnn_path: Path) -> None:
    """A safetensors file of something else is refused, and the message says so."""
    for metadata in (None, {}, {"format": "pt"}, {"bnn": "{}", "format": "pt"}):
        content = safetensors.numpy.save({"w": np.ones(3)}, metadata=metadata)
        assert "a safetensors file, but not a .bnn file" in refusal(bnn_path, content)


def test_what_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    """A missing file and a folder are not unsound files: they raise OSError."""
    with pytest.raises(FileNotFoundError):
        PackedModel.load(tmp_path / "missing.bnn")
    with pytest.raises(IsADirectoryError):
        PackedModel.load(tmp_path)


# --- the container ----------------------------------------------------------------------------------------


def test_keys_given_twice(bnn_path: Path, sound: bytes) -> None:
    """A key twice in the header, in the metadata, in the graph or in a node: readers would disagree on it."""
    header, graph, data = split(sound)
    text, graph_text = json.dumps(header), json.dumps(graph)
    info = json.dumps(header["fc.weight"])
    for double in (
        text.replace('{"__metadata__"', f'{{"fc.weight": {info}, "__metadata__"', 1),
        text.replace('{"__metadata__"', '{"__metadata__": {"bnn": "{}"}, "__metadata__"', 1),
        text.replace('{"bnn":', '{"bnn": "{}", "bnn":', 1),
        text.replace('{"dtype":', '{"dtype": "U8", "dtype":', 1),
    ):
        assert double != text
        assert "header is not sound JSON (a key stands in it twice)" in refusal(bnn_path, join(double, data))
    for double in (
        graph_text.replace('"format": 1', '"format": 2, "format": 1', 1),
        graph_text.replace('"op": "Sign"', '"op": "ReLU", "op": "Sign"', 1),
        graph_text.replace('{"k": "v"}', '{"k": "v", "k": "w"}', 1),
    ):
        assert double != graph_text
        assert "graph is not sound JSON (a key stands in it twice)" in refusal(
            bnn_path, with_graph(sound, double)
        )


def test_tensors_that_do_not_fit(bnn_path: Path, sound: bytes) -> None:
    """Overlapping or reversed offsets, gaps, shapes that overflow, unknown dtypes: refused."""
    header, _, data = split(sound)
    start, end = header["fc.weight"]["data_offsets"]
    for changes in (
        {"data_offsets": [0, len(data)]},
        {"data_offsets": [end, start]},
        {"data_offsets": [start, end + 8]},
        {"data_offsets": [start + 1, end]},
        {"data_offsets": [2**64, 2**64 + 16]},
        {"data_offsets": [-16, 0]},
        {"shape": [2**32, 2**32]},
        {"shape": [2**63, 2**63, 4]},
        {"shape": [2, -1]},
        {"shape": [0, 2**63 - 1], "data_offsets": [start, start]},
        {"shape": [0, 2**64 - 1], "data_offsets": [0, 0]},
        {"shape": [2, 2]},
        {"shape": []},
        {"dtype": "U7"},
        {"dtype": "BF16", "shape": [2, 4]},
        {"dtype": "F8_E4M3", "shape": [2, 8]},
        {"dtype": "I64"},
        {"dtype": "F64"},
        {"dtype": None},
    ):
        assert not opens(bnn_path, change_tensor(sound, "fc.weight", **changes)), changes
    gap = join(header, data[:start] + bytes(8) + data[start:])
    assert not opens(bnn_path, gap)


def test_headers_that_are_no_objects(bnn_path: Path, sound: bytes) -> None:
    """A header, metadata or graph of another JSON type, in another encoding or without end: refused."""
    header, graph, data = split(sound)
    for text in (
        "[]",
        "null",
        "1",
        '"x"',
        "",
        "{",
        "{}",
        '{"__metadata__": []}',
        "[" * 10**5,
        '{"a":' * 10**5,
    ):
        assert not opens(bnn_path, join(text, data))
        assert not opens(bnn_path, with_graph(sound, text))
    for metadata in (None, [], "bnn", {"bnn": None}, {"bnn": graph}, {"bnn": 1}):
        assert not opens(bnn_path, join(header | {"__metadata__": metadata}, data))
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        encoded = json.dumps(header).encode(encoding)
        assert not opens(bnn_path, len(encoded).to_bytes(8, "little") + encoded + data)
    assert not opens(bnn_path, with_graph(sound, "\ufeff" + json.dumps(graph)))
    assert not opens(bnn_path, with_graph(sound, json.dumps(graph).encode("utf-16-le").decode()))


# --- data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "value", "message"),
    [
        ("a.scale", np.array([1, np.nan], np.float32), "scale holds NaN or infinity"),
        ("a.shift", np.array([np.inf, 0], np.float32), "shift holds NaN or infinity"),
        ("b.scale", np.array([-np.inf, 0], np.float64), "scale holds NaN or infinity"),
        ("t.flip", np.array([0, 2], np.uint8), "flip holds bytes other than 0 and 1"),
        ("t.flip", np.array([255, 1], np.uint8), "flip holds bytes other than 0 and 1"),
        ("fc.weight", np.array([1, 32], np.uint64), "padding bits are not 0"),
        ("fc.weight", np.array([2**63, 1], np.uint64), "padding bits are not 0"),
    ],
)
def test_data_that_is_not_sound(
    bnn_path: Path, sound: bytes, tensor: str, value: np.ndarray, message: str
) -> None:
    """NaN or infinite scales, bool bytes other than 0 and 1, bits in the padding: refused."""
    header, _, data = split(sound)
    start, end = header[tensor]["data_offsets"]
    assert end - start == value.nbytes
    assert message in refusal(bnn_path, join(header, data[:start] + value.tobytes() + data[end:]))


# --- anything -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_scrambled_files(bnn_path: Path, seed: int) -> None:
    """Files of every node type with random bytes changed, cut out, doubled or swapped: refused, or sound."""
    one_of_each().save(bnn_path)
    original, rng = bnn_path.read_bytes(), random.Random(seed)
    taken = 0
    for _ in range(300):
        content = bytearray(original)
        for _ in range(rng.choice([1, 1, 2, 5])):
            a, b = sorted(rng.randrange(len(content)) for _ in range(2))
            match rng.randrange(4):
                case 0:
                    content[a] = rng.randrange(256)
                case 1:
                    del content[a : min(b, a + 20)]
                case 2:
                    content[a:a] = content[a : min(b, a + 20)]
                case 3:
                    content[a], content[b] = content[b], content[a]
        taken += opens(bnn_path, bytes(content))
    assert taken < 300

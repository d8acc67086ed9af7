"""The graph in a .bnn file may say anything: what is not sound gets FormatError, and never anything else."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bnn_files import edited, join, opens, refusal, split, with_graph
from support.helpers import model_of, packed_weight

from bnn.packed.nodes import AvgPool2d, Conv2d


def at(graph: Any, *keys: Any) -> Any:
    for key in keys:
        graph = graph[key]
    return graph


LIMITED = [
    None,
    True,
    0,
    -1,
    2**40,
    10**400,
    0.5,
    1e308,
    "x",
    "input",
    "",
    [],
    [[]],
    [0],
    ["x"],
    {},
    {"x": 1},
]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, r'"\ud800"', "[" * 900 + "]" * 900]
PLACES = [
    ("format",),
    ("about",),
    ("about", "k"),
    ("input",),
    ("input", "shape"),
    ("input", "shape", 0),
    ("input", "mean"),
    ("input", "mean", 0),
    ("input", "std", 0),
    ("input", "labels"),
    ("input", "labels", 1),
    ("nodes",),
    ("nodes", 1),
    ("nodes", 1, "op"),
    ("nodes", 1, "name"),
    ("nodes", 1, "inputs"),
    ("nodes", 1, "inputs", 0),
    ("nodes", 1, "weight"),
    ("nodes", 1, "weight", "bits"),
    ("nodes", 1, "weight", "shape"),
    ("nodes", 1, "weight", "shape", 1),
    ("nodes", 1, "scale"),
    ("nodes", 2, "threshold"),
    ("nodes", 2, "threshold", "tensor"),
    ("nodes", 2, "flip"),
]
SOUND = {  # what may stand at a place: everything else is refused
    ("about",): [{}],
    ("about", "k"): ["x", "input", ""],
    ("input", "mean"): [[0]],
    ("input", "mean", 0): [0, -1, 2**40, 0.5, 1e308],
    ("input", "std", 0): [2**40, 0.5, 1e308],
    ("input", "labels"): [[]],
    ("input", "labels", 1): ["x", "input", ""],
    ("nodes", 1, "scale"): [None],
}


@pytest.mark.parametrize("place", PLACES)
def test_values_of_other_types(bnn_path: Path, sound: bytes, place: tuple[Any, ...]) -> None:
    """A bool for an int, a string for a number, null, huge numbers, ...: refused where they do not belong."""
    for value in LIMITED:
        content = edited(
            sound, lambda graph, value=value: at(graph, *place[:-1]).__setitem__(place[-1], value)
        )
        belongs = any(type(value) is type(other) and value == other for other in SOUND.get(place, []))
        assert opens(bnn_path, content) == belongs, value


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("literal", LITERALS)
def test_literals_that_are_not_sound(
    bnn_path: Path, sound: bytes, place: tuple[Any, ...], literal: str
) -> None:
    """NaN, infinities, numbers of 5000 digits, half a surrogate pair, deep nesting: refused everywhere."""
    _, graph, _ = split(sound)
    at(graph, *place[:-1])[place[-1]] = "HERE"
    assert not opens(bnn_path, with_graph(sound, json.dumps(graph).replace('"HERE"', literal)))


def test_nesting_of_any_depth(bnn_path: Path, sound: bytes) -> None:
    """Nested lists of any depth are refused: none is just shallow enough to read and too deep to report."""
    _, graph, _ = split(sound)
    graph["nodes"][1]["inputs"] = "HERE"
    text = json.dumps(graph)
    limit = sys.getrecursionlimit()
    for depth in [*range(1, limit, 50), *range(limit - 300, limit + 10), 10 * limit, 100 * limit]:
        nested = with_graph(sound, text.replace('"HERE"', "[" * depth + "]" * depth))
        assert not opens(bnn_path, nested), depth


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("input", "shape", 0), True),
        (("nodes", 0, "stride", 0), True),
        (("nodes", 0, "groups"), True),
        (("nodes", 0, "groups"), 1.0),
        (("nodes", 0, "pad_value"), False),
        (("nodes", 1, "count_padding"), 1),
        (("nodes", 1, "count_padding"), None),
    ],
)
def test_numbers_and_bools_are_not_mixed(bnn_path: Path, place: tuple[Any, ...], value: Any) -> None:
    """True and 1.0 are not 1, though Python calls them equal: refused, where the number is sound."""
    conv = Conv2d(name="a", inputs=("input",), weight=packed_weight(1, 1, 1, 1))
    pool = AvgPool2d(name="b", inputs=("a",), kernel=(1, 1), stride=(1, 1))
    model_of((1, 1, 1), conv, pool).save(bnn_path)
    content = bnn_path.read_bytes()
    assert opens(bnn_path, edited(content, lambda graph: None))
    assert not opens(bnn_path, edited(content, lambda g: at(g, *place[:-1]).__setitem__(place[-1], value)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda g: g.update(format=2), "format version 2; this release reads version 1"),
        (lambda g: g.update(format=True), "format version True"),
        (lambda g: g.update(format=1.0), "format version 1.0"),
        (lambda g: g.update(format="1"), "format version '1'"),
        (lambda g: g.pop("format"), "format version None"),
        (lambda g: g.update(extra=1), "the graph's keys are"),
        (lambda g: g.pop("about"), "the graph's keys are"),
        (lambda g: g.pop("nodes"), "the graph's keys are"),
        (lambda g: g["nodes"].clear(), "tensor 'a.scale' belongs to no node"),
        (lambda g: g["nodes"].pop(), "tensor 'b.scale' belongs to no node"),
        (lambda g: g["nodes"][0].update(op="Tanh"), "node 0 has no operation that this release knows"),
        (lambda g: g["nodes"][0].update(op="Node"), "node 0 has no operation that this release knows"),
        (lambda g: g["nodes"][0].pop("op"), "node 0 has no operation"),
        (lambda g: g["nodes"][0].update(arity=1), "node 0 has an unknown field 'arity'"),
        (lambda g: g["nodes"][0].pop("inputs"), "node 0 lacks 'inputs'"),
        (lambda g: g["nodes"][1].pop("weight"), "node 1 lacks 'weight'"),
        (lambda g: g["nodes"][1]["weight"].update(extra=1), "a packed weight is not {bits, shape}"),
        (
            lambda g: g["nodes"][1].update(scale={"tensor": "a.scale"}),
            "tensor 'a.scale', or it is used twice",
        ),
        (
            lambda g: g["nodes"][3].update(shift={"tensor": "a.scale"}),
            "no tensor 'a.scale', or it is used twice",
        ),
        (lambda g: g["nodes"][3].update(shift={"tensor": "ghost"}), "no tensor 'ghost'"),
        (lambda g: g["nodes"][3].update(shift={"tensor": "__metadata__"}), "no tensor '__metadata__'"),
        (lambda g: g["nodes"][3].update(shift={"bits": "a.shift", "shape": [2]}), "an array is not {tensor}"),
        (lambda g: g["nodes"][1]["weight"].update(shape=[2, 6]), "node 'fc' (Linear): takes (6,), got (5,)"),
        (lambda g: g["nodes"][1]["weight"].update(shape=[2, 65]), "takes uint64 words of shape (2, 2)"),
        (lambda g: g["nodes"][1]["weight"].update(shape=[2, 4]), "padding bits are not 0"),
        (lambda g: g["nodes"][1]["weight"].update(shape=[2**62, 5]), "takes uint64 words"),
        (lambda g: g["nodes"][1]["weight"].update(shape=[10**4000] * 9), "node 1"),
        (lambda g: g["nodes"][1].update(inputs=["t"]), "node 'fc' (Linear): no earlier node is named ['t']"),
        (
            lambda g: g["nodes"][1].update(inputs=["fc"]),
            "node 'fc' (Linear): no earlier node is named ['fc']",
        ),
        (lambda g: g["nodes"][1].update(inputs=["s", "s"]), "node 'fc' (Linear): has 2 inputs"),
        (lambda g: g["nodes"][1].update(inputs=["input"]), "node 't' (Threshold): takes integers, got float"),
        (lambda g: g["nodes"][1].update(name="s"), "node 's' (Linear): the name is taken"),
        (lambda g: g["nodes"].reverse(), "no earlier node is named"),
        (lambda g: g["input"].update(shape=[6]), "node 'fc' (Linear): takes (5,), got (6,)"),
        (lambda g: g["input"].update(shape=[2**40]), "more than"),
        (lambda g: g["input"].update(labels=["x"]), "1 labels for an output of shape (2,)"),
        (lambda g: g["input"].update(mean=[]), "mean and std differ in length"),
        (lambda g: g["input"].update(std=[0]), "std must be positive"),
        (lambda g: g.update(about={"k": 1}), "about must map strings to strings"),
    ],
)
def test_graphs_that_are_not_sound(bnn_path: Path, sound: bytes, edit: Any, message: str) -> None:
    """Other versions, unknown or missing fields, wrong references, tensors twice or unused: each is named."""
    assert message in refusal(bnn_path, edited(sound, edit))


def test_the_message_of_a_huge_value_is_short(bnn_path: Path, sound: bytes) -> None:
    """A message quotes what it refuses, cut to a length that fits a line."""
    for place in (("format",), ("nodes", 1, "inputs"), ("nodes", 1, "name"), ("nodes", 1, "weight", "bits")):
        _, graph, _ = split(sound)
        at(graph, *place[:-1])[place[-1]] = ["x" * 10**5]
        assert len(refusal(bnn_path, with_graph(sound, graph))) < 310 + len(str(bnn_path))


# --- fuzzing ----------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.sampled_from(["input", "fc", "a.scale"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=300)
def test_random_bytes(bnn_path: Path, content: bytes, with_length: bool) -> None:
    """Random bytes, with or without a true length before them, are refused."""
    assert not opens(bnn_path, len(content).to_bytes(8, "little") + content if with_length else content)


@given(st.data())
@settings(max_examples=300)
def test_random_json_in_the_graph(bnn_path: Path, sound: bytes, data: st.DataObject) -> None:
    """Any JSON value in the place of any part of the graph: refused, or a sound model."""
    _, graph, _ = split(sound)
    parent, key = walk(graph, data)
    parent[key] = data.draw(json_values)
    opens(bnn_path, with_graph(sound, graph))


@given(st.data())
@settings(max_examples=300)
def test_random_json_in_the_header(bnn_path: Path, sound: bytes, data: st.DataObject) -> None:
    """Any JSON value in the place of any part of the container's header: refused, or a sound model."""
    header, _, content = split(sound)
    parent, key = walk(header, data)
    parent[key] = data.draw(json_values)
    opens(bnn_path, join(header, content))


def walk(root: Any, data: st.DataObject) -> tuple[Any, Any]:
    """(parent, key) of some part of a JSON value."""
    parent = root
    while True:
        key = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        child = parent[key]
        if not (isinstance(child, dict | list) and child) or data.draw(st.booleans()):
            return parent, key
        parent = child

"""What is in an ONNX file: packed weights, metadata, names, and nothing that depends on the day."""

import json
import os
import subprocess
import sys
from collections import Counter
from math import prod
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.helpers import (
    model_of,
    one_of_each,
    packed_weight,
    random_floats,
    random_pixels,
)
from support.onnx_helpers import assert_equal, content_of, mnist_network, session

import bnn
from bnn.bench.twins import onnx_twin
from bnn.errors import MissingExtraError
from bnn.export import ExportError, export
from bnn.export import onnx as target
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Conv2d,
    InputContract,
    Linear,
    Node,
    ReLU,
    Sign,
)

Array = np.ndarray


# --- the file ---------------------------------------------------------------------------------------------


def test_a_file_is_a_twentieth_of_the_float_one() -> None:
    """784-1024-1024-1024-10: at most 1/20 of the same network with float weights, and computes the same."""
    model = mnist_network()
    content = content_of(model)
    assert 20 * len(content) <= len(onnx_twin(model))
    assert_equal(model, random_pixels(250, 1, 28, 28))


def test_the_session_unpacks_once(tmp_path: Path) -> None:
    """Unpacking is gone from the graph that ONNX Runtime runs: it was folded into constants at load."""
    model = mnist_network(width=65)
    content = content_of(model)
    written = Counter(node.op_type for node in onnx.load_from_string(content).graph.node)
    assert (written["BitShift"], written["Mod"], written["Slice"]) == (4, 4, 3)
    session(content, tmp_path / "optimized.onnx")
    run = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert {"BitShift", "Mod", "Slice", "Mul"} & run <= {"Mul"}  # that of the first layer's scale
    folded = {
        tensor.name: tensor.data_type for tensor in onnx.load(tmp_path / "optimized.onnx").graph.initializer
    }
    assert onnx.TensorProto.UINT8 not in folded.values()


def test_weights_can_be_read_as_the_metadata_says() -> None:
    """Initializers named in the metadata hold the signs, by the layout that it describes, to the byte."""
    model = one_of_each()
    proto = onnx.load_from_string(content_of(model))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    shapes = json.loads(properties["bnn.packed"])
    layers = {f"{node.name}.weight": node.weight for node in model.nodes if isinstance(node, Conv2d)}
    assert list(shapes) == sorted(layers, key=list(shapes).index)
    assert len(shapes) == 2
    for name, shape in shapes.items():
        rows, n = shape[0], prod(shape[1:])
        assert (tensors[name].dtype, tensors[name].shape) == (np.uint8, (rows, -(-n // 8), 1))
        bits = np.unpackbits(tensors[name][:, :, 0], axis=1, bitorder="little")
        assert not bits[:, n:].any()
        weight = layers[name]
        assert isinstance(weight, bnn.packed.nodes.PackedWeight)
        np.testing.assert_array_equal(1 - 2 * bits[:, :n].astype(int), weight.signs().reshape(rows, n))
    assert "bit 1 means -1" in properties["bnn.encoding"]


def test_unpacked_weights_are_plain_floats() -> None:
    """--unpacked stores ±1 as float32, and no operation unpacks anything."""
    proto = onnx.load_from_string(content_of(one_of_each(), unpacked=True))
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert {array.dtype for array in tensors.values()} == {np.dtype(t) for t in ("f4", "f8", "i8")}
    for name, shape in (("stem.weight", (4, 2, 3, 3)), ("conv.weight", (4, 1, 2, 3))):
        assert tensors[name].shape == shape
        assert set(tensors[name].ravel()) == {-1, 1}
    assert "BitShift" not in {node.op_type for node in proto.graph.node}


def test_a_plain_file_is_one_of_a_float_network() -> None:
    """It takes normalised float32; each layer is one operation on a float weight and a bias, and no more."""
    model = mnist_network(width=64)
    proto = onnx.load_from_string(content_of(model, plain=True))
    assert [given.name for given in proto.graph.input] == ["input"]
    ops = Counter(node.op_type for node in proto.graph.node)
    assert ops == {"Flatten": 1, "Gemm": 4, "Relu": 3, "Identity": 1}
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    products = [node for node in model.nodes if isinstance(node, Linear)]
    assert len(tensors) == 2 * len(products)
    for node in products:
        assert node.scale is not None
        want = node.weight.signs() * node.scale[:, None]
        np.testing.assert_allclose(tensors[f"{node.name}.weight"], want, rtol=1e-6)


def test_names_from_anywhere() -> None:
    """A name is printable in the file; thousands that are then the same get numbers, at once."""
    names = [f"{k:012b}".replace("1", "\x1b").replace("0", "\\x1b") for k in range(4096)]
    sources = ["input", *names]
    nodes = [ReLU(name=name, inputs=(source,)) for name, source in zip(names, sources, strict=False)]
    proto = onnx.load_from_string(content_of(model_of((4,), *nodes)))
    onnx.checker.check_model(proto)
    made = [name for node in proto.graph.node for name in node.output]
    assert all(name.isprintable() for name in made)
    assert len(set(made)) == len(made) >= 4096
    assert max(map(len, made)) < 100


def test_metadata() -> None:
    """Labels, notes, mean and deviation are in the file, as JSON, with the version of its layout."""
    proto = onnx.load_from_string(content_of(one_of_each()))
    properties = {entry.key: entry.value for entry in proto.metadata_props}
    assert properties.pop("bnn.layout") == "1"
    properties.pop("bnn.encoding")
    assert {name: json.loads(text) for name, text in properties.items()} == {
        "bnn.labels": ["cat", "dög", "±1"],
        "bnn.about": {"weights": "sign", "data": "none"},
        "bnn.mean": [0.5, 0.25],
        "bnn.std": [0.5, 0.125],
        "bnn.packed": {"stem.weight": [4, 2, 3, 3], "conv.weight": [4, 1, 2, 3]},
    }
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert not proto.functions


def test_the_input_says_what_it_is() -> None:
    """Raw pixels where the model knows how to normalise them, else float32: the other one is refused."""
    model = one_of_each()
    nets = [session(content_of(m)) for m in (model, PackedModel(InputContract((2, 6, 6)), model.nodes))]
    given = [(net.get_inputs()[0].name, net.get_inputs()[0].type) for net in nets]
    assert given == [("pixels", "tensor(uint8)"), ("input", "tensor(float)")]
    with pytest.raises(Exception, match="Unexpected input data type"):
        nets[0].run(None, {"pixels": random_floats(1, 2, 6, 6)})


def test_only_networks_with_signs_use_float64() -> None:
    """A network of float activations has no float64, which some devices lack; the notes say which have."""
    plain = mnist_network(width=64)
    signs = Sign(name="s", inputs=("fc0",))
    with_signs = PackedModel(InputContract((1, 28, 28), (0.13,), (0.31,)), (*plain.nodes[:2], signs))
    for model, expected in ((plain, False), (with_signs, True), (one_of_each(), True)):
        made = target.make(model)
        (content,) = made.files.values()
        inferred = onnx.shape_inference.infer_shapes(onnx.load_from_string(content)).graph
        kinds = {value.type.tensor_type.elem_type for value in inferred.value_info}
        assert (onnx.TensorProto.DOUBLE in kinds) == expected
        assert any("float64" in note for note in made.notes) == expected


NAMES = [
    "scores",
    "pixels",
    "fc.weight",
    "fc",
    "fc/sums",
    "fc_",
    "größer ±",
    "float32 1.0",
    'a\n"b',
    "pixels/float32",
]


def test_any_names() -> None:
    """Nodes may be named as the export names its own values, or anything else."""
    first = Linear(name=NAMES[0], inputs=("input",), weight=packed_weight(6, 6))
    nodes: list[Node] = [first]
    for index, name in enumerate(NAMES[1:]):
        scaling = {"scale": random_floats(6, seed=index), "shift": random_floats(6)}
        nodes.append(
            Linear(name=name, inputs=(nodes[-1].name,), weight=packed_weight(6, 6, seed=index), **scaling)
        )
    assert_equal(model_of((6,), *nodes, mean=(0.1,), std=(0.5,)), random_pixels(50, 6))


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    """Twice in a process, and in others, whose hashes differ."""
    one_of_each().save(tmp_path / "m.bnn")
    expected = content_of(one_of_each())
    assert content_of(one_of_each()) == expected
    for seed in "12":
        command = [
            sys.executable,
            "-m",
            "bnn.cli",
            "export",
            tmp_path / "m.bnn",
            "--to",
            "onnx",
            tmp_path / seed,
        ]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        assert (tmp_path / seed).read_bytes() == expected


# --- what cannot be exported ------------------------------------------------------------------------------


class Unheard(ReLU):
    """A node that no exporter knows."""


def test_an_unknown_node_is_named(tmp_path: Path) -> None:
    """An ExportError names the node, and nothing is written."""
    model = model_of((4,), ReLU(name="fine", inputs=("input",)), Unheard(name="odd", inputs=("fine",)))
    with pytest.raises(ExportError, match="node 'odd': there is no ONNX for a Unheard"):
        export(model, "onnx", tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_onnx_file_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protobuf ends at 2 GiB; beyond, the error has both numbers."""
    monkeypatch.setattr(target, "LIMIT", 1000)
    with pytest.raises(
        ExportError, match=r"the constants take [\d,]+ bytes; an ONNX file has room for 1,000"
    ):
        content_of(one_of_each())


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where onnx is not installed, the error says what to install; the rest of `bnn.export` works."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'binaryconnect\[export\]'"):
        target.make(one_of_each())


def test_the_modules_load_without_onnx() -> None:
    """`bnn.export.onnx` and its parts import where onnx cannot be."""
    code = "import sys; sys.modules['onnx'] = None; import bnn.export.onnx, bnn.export.onnx.nodes"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)

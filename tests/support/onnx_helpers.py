"""What tests of ONNX files share: making, checking and running them."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from support.helpers import packed_weight, random_floats, random_pixels

from bnn.export import onnx as target
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Flatten, InputContract, Linear, Node, ReLU
from bnn.runtime import Runner

Array = np.ndarray


def content_of(model: PackedModel, **options: Any) -> bytes:
    (content,) = target.make(model, **options).files.values()
    return content


def session(content: bytes, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if optimized:
        options.log_severity_level = 3  # it warns that what it writes is for this machine
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def scores(content: bytes, x: Array) -> Array:
    net = session(content)
    (taken,) = net.get_inputs()
    return np.concatenate(
        [net.run(["scores"], {taken.name: x[i : i + 250]})[0] for i in range(0, len(x), 250)]
    )


def assert_sound(content: bytes) -> None:
    """By the standard's own checks, types and shapes of every value included."""
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def assert_equal(model: PackedModel, x: Array, *, exact: bool = False, **options: Any) -> None:
    """Sound; the reference's scores, to the bit or 1e-4 of the largest; the class of every sample."""
    content = content_of(model, **options)
    assert_sound(content)
    result, expected = scores(content, x), Runner(model, "reference")(x)
    assert (result.dtype, result.shape) == (np.float32, expected.shape)
    assert expected.std() > 0
    if exact:
        np.testing.assert_array_equal(result, expected)
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
    np.testing.assert_array_equal(classes(result), classes(expected))


def classes(scores: Array) -> Array:
    return scores.reshape(len(scores), -1).argmax(1)


def images_for(model: PackedModel, n: int, seed: int = 0) -> Array:
    draw = random_pixels if model.input.mean else random_floats
    return draw(n, *model.input.shape, seed=seed)


def mnist_network(width: int = 1024) -> PackedModel:
    """784-3x1024-10 with random weights."""
    nodes: list[Node] = [Flatten(name="flat", inputs=("input",))]
    sizes = [784, width, width, width, 10]
    for index, (n, out) in enumerate(pairwise(sizes)):
        scale = np.full(out, n**-0.5, dtype=np.float32)
        weight = packed_weight(out, n, seed=index)
        layer = {"weight": weight, "scale": scale, "shift": random_floats(out, seed=index)}
        nodes.append(Linear(name=f"fc{index}", inputs=(nodes[-1].name,), **layer))
        if out != 10:
            nodes.append(ReLU(name=f"relu{index}", inputs=(f"fc{index}",)))
    contract = InputContract((1, 28, 28), (0.13,), (0.31,), tuple("0123456789"))
    return PackedModel(contract, tuple(nodes), {"weights": "sign"})

"""ONNX files compute what the runtime does, in stock ONNX Runtime."""

import random
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from support.drawn_models import PIXELS, Generator, draw
from support.drawn_networks import network
from support.exact_networks import conv_net, frozen_network, mlp
from support.helpers import (
    model_of,
    one_of_each,
    packed_weight,
    random_floats,
    random_pixels,
    random_signs,
)
from support.onnx_helpers import assert_equal, assert_sound, classes, content_of, images_for, scores, session
from support.paths import ROOT
from support.torch_helpers import randomise

import bnn
from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)
from bnn.packing.packing import pack
from bnn.quantizers import Sign as SignModule
from bnn.runtime import Runner, reference
from bnn.training.run import train

Array = np.ndarray


# --- every node -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_node_type(seed: int, unpacked: bool) -> None:
    """A model with every operation, from raw pixels: the runtime's scores, weights packed or not."""
    model = one_of_each(seed)
    assert_equal(model, random_pixels(200, 2, 6, 6, seed=seed), unpacked=unpacked)


def test_every_node_type_from_floats() -> None:
    """The same without mean and deviation: the input is float32."""
    model = one_of_each()
    assert_equal(PackedModel(InputContract(model.input.shape), model.nodes), random_floats(200, 2, 6, 6))


def test_the_standards_own_evaluator_agrees() -> None:
    """Not only ONNX Runtime reads the file so: the reference implementation of ONNX computes the same."""
    model, x = one_of_each(), random_pixels(20, 2, 6, 6)
    (result,) = ReferenceEvaluator(onnx.load_from_string(content_of(model))).run(None, {"pixels": x})
    assert np.abs(result - Runner(model, "reference")(x)).max() < 1e-5


def signs_of_floats() -> PackedModel:
    """A convolution of floats, which ONNX has in float64, is written as matrix products."""
    scaling = {"scale": np.full(4, 0.1), "shift": np.zeros(4)}
    conv = Conv2d(
        name="conv",
        inputs=("input",),
        weight=packed_weight(4, 1, 3, 2),
        groups=2,
        padding=(1, 0, 2, 1),
        **scaling,
    )
    pool = AvgPool2d(name="pool", inputs=("conv",), kernel=(2, 2), stride=(2, 2))
    flat = Flatten(name="flat", inputs=("signs",))
    head = Linear(name="head", inputs=("flat",), weight=packed_weight(3, 32))
    return model_of((2, 6, 6), conv, pool, Sign(name="signs", inputs=("pool",)), flat, head)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("make", [one_of_each, signs_of_floats])
def test_the_batch_size_is_free(make: Any, batch: int) -> None:
    """One session takes batches of any size, none at all too."""
    model = make()
    net, x = session(content_of(model)), images_for(model, batch)
    (taken,), (given,) = net.get_inputs(), net.get_outputs()
    (result,) = net.run(None, {taken.name: x})
    assert result.shape == (batch, 3)
    np.testing.assert_allclose(result, Runner(model, "reference")(x), atol=1e-6)
    assert [taken.shape, given.shape] == [["batch", 2, 6, 6], ["batch", 3]]


# --- exactness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("std", [(0.2,), (0.2, 0.3)])
@pytest.mark.parametrize(("make", "bias"), [(mlp, True), (conv_net, True), (conv_net, False)])
def test_networks_of_signs_are_exact(make: Any, bias: bool, std: tuple[float, ...]) -> None:
    """With ±1 activations, from raw pixels, every logit is the runtime's to the last bit."""
    frozen = frozen_network(make, SignModule, bias, seed=0)
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=(0.4, 0.6)[: len(std)], std=std)
    assert_equal(packed, random_pixels(1000, 2, 6, 6), exact=True)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[PackedModel, int]:
    """A convolution of pixels or of signs with any geometry, and a sign of what it gives; and a seed."""
    groups, per_group, out = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    channels, seed = groups * per_group, draw(st.integers(0, 1000))
    dtype = draw(st.sampled_from([None, np.float32, np.float64]))
    stds = draw(st.lists(st.sampled_from([0.2, 0.3, 0.7]), min_size=channels, max_size=channels))
    contract = InputContract((channels, 7, 6), mean=(0.4,) * channels, std=tuple(stds))
    rows, pairs = groups * out, st.tuples(st.integers(1, 2), st.integers(1, 2))
    scaling = {}
    if dtype:
        values = random_floats(2, rows, seed=seed).astype(dtype)
        scaling = {"scale": values[0], "shift": values[1]}
    of_signs = draw(st.booleans())
    conv = Conv2d(
        name="conv",
        inputs=("signs",) if of_signs else ("input",),
        weight=packed_weight(rows, per_group, *kernel, seed=seed),
        stride=draw(pairs),
        dilation=draw(pairs),
        padding=draw(st.tuples(*[st.integers(0, 2)] * 4)),
        groups=groups,
        pad_value=draw(st.sampled_from([0.0, 1.0, -1.0, 0.5])),
        **scaling,
    )
    first = [Sign(name="signs", inputs=("input",))] * of_signs
    return PackedModel(contract, (*first, conv, Sign(name="out", inputs=("conv",)))), seed


@settings(max_examples=60)
@given(convolutions())
def test_convolutions_are_exact(drawn: tuple[PackedModel, int]) -> None:
    """Products of pixels with several deviations and of signs, in every geometry: every sign is right.

    (The one exception is padding of signs with 0.5 under a float32 scale: a sum of floats, which rounds.)
    """
    model, seed = drawn
    x = random_pixels(40, *model.input.shape, seed=seed)
    content = content_of(model)
    assert_sound(content)
    result, expected = scores(content, x), Runner(model, "reference")(x)
    conv = next(node for node in model.nodes if isinstance(node, Conv2d))
    rounds = conv.pad_value == 0.5 and conv.inputs == ("signs",)
    assert np.mean(result != expected) <= (1e-3 if rounds else 0)


def test_sums_in_float64() -> None:
    """Where signs are taken of sums of floats, these are float64: flipped by no rounding of float32.

    Each sum here is a few times 2^-20, of terms up to 2^20: exact in float64 in any order, noise in float32.
    """
    x = np.round(1024 * random_floats(400, 4, 5, 5)) / 1024
    x[:, 1] = 2.0**-20 * random_signs(400, 5, 5) - x[:, 0]
    x[:, 2], x[:, 3] = 2.0**20, -(2.0**20)
    signs = np.tile(random_signs(3, 1, 2, 3), (1, 4, 1, 1))  # the same for all four channels
    conv = Conv2d(
        name="conv",
        inputs=("input",),
        weight=bnn.packed.nodes.PackedWeight.from_signs(signs),
        scale=np.array([1.0, -2.0, 0.5]),
        shift=np.array([0.0, 2.0**-21, -(2.0**-21)]),
        padding=(1, 0, 2, 1),
        stride=(2, 1),
        dilation=(1, 2),
    )
    flat = Flatten(name="flat", inputs=("input",))
    linear = Linear(
        name="fc",
        inputs=("flat",),
        weight=bnn.packed.nodes.PackedWeight.from_signs(np.tile(random_signs(5, 25), 4)),
        scale=np.ones(5),
        shift=np.full(5, 2.0**-21),
    )
    assert_equal(model_of((4, 5, 5), conv, Sign(name="s", inputs=("conv",))), x, exact=True)
    assert_equal(model_of((4, 5, 5), flat, linear, Sign(name="s", inputs=("fc",))), x, exact=True)


@pytest.mark.parametrize("std", [(1.0,), (1.0,) * 35_000 + (2.0,) * 35_003])
def test_sums_of_pixels_beyond_float32(std: tuple[float, ...]) -> None:
    """70,003 white pixels sum to an odd number above 2^24: float32 rounds it to that of a darker image."""
    n = 70_003
    weight = bnn.packed.nodes.PackedWeight.from_signs(np.ones((2, n, 1, 1), dtype=np.int8))
    white = 255 * sum(1 / value for value in std) if len(std) > 1 else 255 * n
    conv = Conv2d(
        name="conv",
        inputs=("input",),
        weight=weight,
        scale=np.array([255.0, -255.0]),
        shift=np.array([-1.0, 1.0]) * (white - 0.25),
    )
    contract = InputContract((n, 1, 1), (0.0,) * len(std), std)
    model = PackedModel(contract, (conv, Sign(name="s", inputs=("conv",))))
    x = np.full((3, n, 1, 1), 255, dtype=np.uint8)
    x[1, 0] -= 1
    x[2, -1] -= 1
    result = scores(content_of(model), x).reshape(3, 2)
    assert result.tolist() == [[1, -1], [-1, 1], [-1, 1]]
    np.testing.assert_array_equal(Runner(model, "reference")(x).reshape(3, 2), result)


def test_scaled_integers_are_exact() -> None:
    """A float32 scale of sums of ±1 rounds once, after the sum: it is not merged into the convolution."""
    conv = Conv2d(
        name="conv",
        inputs=("signs",),
        weight=packed_weight(8, 16, 3, 3),
        scale=random_floats(8),
        shift=random_floats(8, seed=1),
    )
    model = model_of((16, 8, 8), Sign(name="signs", inputs=("input",)), conv)
    assert_equal(model, random_floats(100, 16, 8, 8), exact=True)


@pytest.mark.parametrize("count_padding", [False, True])
def test_every_operation_in_float64(count_padding: bool) -> None:
    """What may stand between float64 sums and their signs keeps float64; pooling too, where ONNX has none."""
    padded = {"kernel": (3, 2), "stride": (2, 1), "padding": (2, 0, 0, 1)}
    vector = random_floats(2, 4).astype(np.float64)
    nodes: list[Node] = [
        Conv2d(
            name="a", inputs=("input",), weight=packed_weight(4, 2, 3, 3), scale=vector[0], shift=vector[1]
        ),
        PReLU(name="b", inputs=("a",), slope=random_floats(4)),
        MaxPool2d(name="c", inputs=("b",), kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1)),
        AvgPool2d(name="d", inputs=("c",), count_padding=count_padding, **padded),
        Affine(name="e", inputs=("d",), scale=vector[0], shift=vector[1]),
        Hardtanh(name="f", inputs=("e",), low=-2.0, high=2.0),
        Affine(name="g", inputs=("d",), scale=vector[1].astype(np.float32), shift=np.zeros(4, np.float32)),
        Add(name="h", inputs=("g", "f", "g")),
        ReLU(name="i", inputs=("h",)),
        Concat(name="j", inputs=("g", "i")),
        Flatten(name="k", inputs=("j",)),
        Softmax(name="l", inputs=("k",)),
    ]
    for last in range(3, len(nodes) + 1):
        model = PackedModel(InputContract((2, 8, 8), (0.4, 0.5), (0.2, 0.3)), tuple(nodes[:last]))
        assert_equal(model, random_pixels(50, 2, 8, 8))
        if not isinstance(nodes[last - 1], ReLU | Softmax):  # which are positive
            signs = Sign(name="signs", inputs=(nodes[last - 1].name,))
            model = PackedModel(model.input, (*nodes[:last], signs))
            assert_equal(model, random_pixels(50, 2, 8, 8), exact=True)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 2.0), (-2.0, -1.0), (-1.0, 1.0)])
def test_a_hardtanh_behind_a_relu_in_float64(low: float, high: float) -> None:
    """ONNX Runtime, which merges the two where they are Relu and Clip, loads it and gives the same signs."""
    ones, shift = np.ones(8), np.full(8, -0.75)
    model = model_of(
        (8,),
        Affine(name="a", inputs=("input",), scale=ones, shift=-shift),
        ReLU(name="relu", inputs=("a",)),
        Hardtanh(name="tanh", inputs=("relu",), low=low, high=high),
        Affine(name="b", inputs=("tanh",), scale=random_signs(8).astype(np.float64), shift=shift),
        Sign(name="signs", inputs=("b",)),
        Linear(name="fc", inputs=("signs",), weight=packed_weight(3, 8)),
    )
    content, x = content_of(model), random_floats(300, 8)
    assert_sound(content)
    np.testing.assert_array_equal(scores(content, x), Runner(model, "reference")(x))


@pytest.mark.parametrize("flip", [False, True])
def test_every_threshold(flip: bool) -> None:
    """Thresholds up to the limits of int32, where a float32 has too few bits."""
    limits = np.iinfo(np.int32)
    values = [0, 1, -1, 3, 9, -9, 10, 2**24 + 1, -(2**24) - 1, limits.max, limits.max - 1, limits.min]
    model = model_of(
        (9,),
        Sign(name="s", inputs=("input",)),
        Linear(name="fc", inputs=("s",), weight=packed_weight(len(values), 9)),
        Threshold(
            name="t",
            inputs=("fc",),
            threshold=np.array(values, dtype=np.int32),
            flip=np.full(len(values), flip),
        ),
    )
    assert_equal(model, random_floats(300, 9), exact=True)


# --- whole networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rough", [False, True])
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize(
    "seed", [*range(2010, 2020), *(pytest.param(s, marks=pytest.mark.slow) for s in range(100))]
)
def test_random_nodes(seed: int, pixels: str, rough: bool) -> None:
    """Whatever follows what, ONNX Runtime loads it and gives the reference's scores, of no image or some."""
    model = Generator(seed, pixels, rough=rough).model
    x = images_for(model, 4, seed) if rough else draw(pixels, model, seed)
    content = content_of(model)
    assert_sound(content)
    upto = [PackedModel(model.input, model.nodes[: i + 1]) for i in range(len(model.nodes))]
    largest = max(np.abs(reference.run(part, x)).max() for part in upto)
    truth = reference.run(model, x)
    net = session(content)
    taken = net.get_inputs()[0].name
    for batch in (0, len(x)):
        (result,) = net.run(None, {taken: x[:batch]})
        assert result.shape == (batch, *truth.shape[1:])
        assert np.abs(result - truth[:batch]).max(initial=0) <= 1e-4 * largest


@pytest.mark.filterwarnings("ignore::bnn.packing.PackWarning")
@pytest.mark.parametrize(
    "contract", [{"mean": (0.41, 0.61), "std": (0.21, 0.31)}, {"mean": 0.4, "std": 0.3}, {}]
)
@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 100))]
)
def test_random_networks(seed: int, contract: dict[str, Any]) -> None:
    """Networks drawn at random, with residual connections among them: scores and all classes."""
    frozen = bnn.freeze(randomise(bnn.binarize(network(random.Random(seed))), seed))
    packed = pack(frozen, torch.zeros(1, 2, 12, 12), **contract)
    assert_equal(packed, images_for(packed, 60, seed))


def test_a_network_with_residual_connections() -> None:
    """That of examples/residual.py, with ±1 and float activations, padded with 0 and -1."""
    path = ROOT / "examples" / "residual.py"
    spec = spec_from_file_location("residual", path)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    frozen = bnn.freeze(randomise(bnn.binarize(example.network(8, 10))))
    packed = pack(frozen, torch.zeros(1, 3, 32, 32), mean=(0.5, 0.48, 0.44), std=(0.25, 0.24, 0.26))
    kinds = Counter(type(node) for node in packed.nodes)
    assert (kinds[Add], kinds[Sign], kinds[Threshold]) == (2, 1, 1)
    assert_equal(packed, random_pixels(50, 3, 32, 32))


@pytest.mark.parametrize("architecture", ["binaryconnect_mlp", "binarynet_mlp"])
def test_all_of_mnist(architecture: str, mnist_dir: str, tmp_path: Path) -> None:
    """10,000 of 10,000 predictions of a trained network are equal; with ±1 activations every bit is."""
    config = TrainConfig.from_recipe("mnist", model=architecture, width=256, epochs=1, validation=50_000)
    train(config, tmp_path, data_dir=mnist_dir)
    packed = PackedModel.load(tmp_path)
    images = load_dataset("mnist", mnist_dir, download=False).test_inputs
    result, expected = scores(content_of(packed), images), Runner(packed)(images)
    assert len(images) == 10_000
    np.testing.assert_array_equal(classes(result), classes(expected))
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
    if architecture == "binarynet_mlp":
        np.testing.assert_array_equal(result, expected)

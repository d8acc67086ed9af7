"""The compiled engine's products, on every instruction set: the reference's, bit for bit where no sum rounds.

Whole numbers add up without rounding, in whatever order, so that most of what follows is compared exactly.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import pytest
from support.engines import EPS, Step, assert_equal, assert_within, chain, integers
from support.helpers import Array, model_of, packed_weight, random_floats, random_pixels

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Affine,
    AvgPool2d,
    Conv2d,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Threshold,
)
from bnn.runtime import reference
from bnn.runtime.native import Engine
from bnn.runtime.reference import Activations

SIZES = [1, 7, 63, 64, 65, 97, 255, 1000]
KINDS = ["float", "sign", "int8", "pixels"]
SCALES = [None, np.float32, np.float64]


def sample(kind: str, *shape: int, seed: int = 0) -> tuple[Array, dict[str, Any]]:
    """A batch, and the mean and std of the contract; of "black and white" pixels no normalised one rounds."""
    channels = shape[1] if len(shape) == 4 else 1
    if kind == "pixels":
        mean, std = (0.4, 0.1, 0.7, 0.6), (0.2, 0.25, 0.3, 0.35)
        at = np.arange(channels) % 4 if channels < 9 else np.zeros(1, int)
        contract = {"mean": tuple(mean[i] for i in at), "std": tuple(std[i] for i in sorted(at))}
        return random_pixels(*shape, seed=seed), contract
    if kind == "black and white":
        return 255 * (random_pixels(*shape, seed=seed) % 2), {"mean": (0.25,), "std": (0.125,)}
    return integers(*shape, limit=100 if kind == "int8" else 9, seed=seed), {}


def source_of(kind: str) -> list[Step]:
    return [partial(Sign)] if kind == "sign" else []


def activations_of(kind: str) -> Activations:
    return "int8" if kind == "int8" else "float32"


def scale_and_shift(dtype: Any, channels: int, seed: int = 0) -> dict[str, Array]:
    """Scales of both signs and 0; shifts just above and below whole numbers, which only float64 can tell."""
    if dtype is None:
        return {}
    rng = np.random.default_rng(seed)
    scale = rng.choice([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0], channels)
    scale[channels // 2 :: 9] = 0
    shift = rng.integers(-4, 5, channels) + rng.choice([-1, 0, 1], channels) * 2.0**-30
    return {"scale": scale.astype(dtype), "shift": shift.astype(dtype)}


def any_scale(dtype: Any, channels: int, seed: int = 0) -> dict[str, Array]:
    if dtype is None:
        return {}
    return {
        "scale": random_floats(channels, seed=seed).astype(dtype),
        "shift": random_floats(channels, seed=seed + 1).astype(dtype),
    }


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_linear_of_every_size(kind: str, n: int) -> None:
    """For every size of the input, the output and the batch, and every pair of them, the result is exact."""
    for i, outputs in enumerate(SIZES):
        batch = SIZES[(SIZES.index(n) + i + 2) % len(SIZES)]  # every pair of sizes occurs once
        x, contract = sample(kind, batch, n, seed=i)
        fields = any_scale(SCALES[i % 3], outputs)
        node = partial(Linear, weight=packed_weight(outputs, n, seed=i), **fields)
        model = model_of((n,), *chain(*source_of(kind), node), **contract)
        assert_equal(model, x, activations_of(kind), what=(outputs, batch))


@pytest.mark.parametrize("std", [(0.3,) * 3, (0.2, 0.3, 0.4), (0.4, 0.2, 0.2), (0.3, 0.2, 0.3)])
def test_linear_on_pixels_of_three_channels(std: tuple[float, ...]) -> None:
    """Flattened pixels keep the mean and deviation of their channel, whatever deviations are alike."""
    for places in (1, 21, 22, 64, 100):
        x, weight = random_pixels(7, 3, 1, places), packed_weight(65, 3 * places)
        for dtype in SCALES:
            node = partial(Linear, weight=weight, **any_scale(dtype, 65))
            model = model_of((3, 1, places), *chain(partial(Flatten), node), mean=(0.1, 0.5, 0.9), std=std)
            # The reference adds up channels of one deviation as integers; apart, they may round otherwise.
            assert_within(model, x, EPS * np.abs(reference.run(model, x)))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("packed", [True, False])
def test_linear_of_any_floats(packed: bool, n: int) -> None:
    """Where a sum rounds, it is as near to the reference's as two orders of adding can differ."""
    for i, dtype in enumerate(SCALES):
        weight = packed_weight(65, n) if packed else random_floats(65, n)
        model = model_of((n,), Linear(name="y", inputs=("input",), weight=weight, **any_scale(dtype, 65)))
        x = random_floats(5, n, seed=i)
        assert_within(model, x, bound_of_product(model, x))


def bound_of_product(model: PackedModel, x: Array) -> Array:
    """How far two results of a model that is one product may lie apart: n roundings each, of sum |w x|."""
    (node,) = model.nodes
    assert isinstance(node, Linear | Conv2d)
    magnitude = np.ones(node.weight.shape, np.float32)
    if not isinstance(node.weight, PackedWeight):
        magnitude = np.abs(node.weight)
    fields: dict[str, Any] = {"weight": magnitude, "scale": None, "shift": None}
    if isinstance(node, Conv2d):
        fields["pad_value"] = abs(node.pad_value)
    total = reference.run(model_of(model.input.shape, replace(node, **fields)), np.abs(x)).astype(float)
    if node.scale is not None and node.shift is not None:
        channels = (-1, *[1] * (total.ndim - 2))
        total = total * np.abs(node.scale).reshape(channels) + np.abs(node.shift).reshape(channels)
    eps = EPS if reference.dtype_of(node) == np.float32 else 2.0**-53
    return 2 * (prod(node.weight.shape[1:]) + 2) * eps * total + 2 * EPS * np.abs(reference.run(model, x))


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_sums(kind: str) -> None:
    """Nothing overflows on the way: long rows of the largest values, with all signs alike or all wrong."""
    for n in (129, 2048, 7936, 8191, 20000):
        signs = np.ones((70, n), dtype=np.int8)
        signs[1::3] = -1
        signs[2::3, : n // 2] = -1
        x = np.full((5, n), 255, dtype=np.uint8) if kind == "pixels" else np.full((5, n), 127, np.float32)
        x[3:] = 0 if kind == "pixels" else -127
        node = partial(Linear, weight=PackedWeight.from_signs(signs))
        contract = {"mean": (0.5,), "std": (0.25,)} if kind == "pixels" else {}
        model = model_of((n,), *chain(*source_of(kind), node), **contract)
        truth = assert_equal(model, x, activations_of(kind), what=n)
        factor = {"float": 127, "sign": 1, "int8": 127, "pixels": 2}[kind]
        assert np.abs(truth).max() == n * factor


# --- convolutions -----------------------------------------------------------------------------------------

SAME = {"padding": (1, 1, 1, 1)}
GEOMETRIES: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int], dict[str, Any]]] = {
    # weight, image
    "pointwise": ((70, 65, 1, 1), (65, 4, 5), {}),
    "pointwise, strided": ((5, 3, 1, 1), (3, 5, 7), {"stride": (2, 3)}),
    "pointwise, padded": ((5, 3, 1, 1), (3, 4, 4), {"padding": (0, 1, 2, 0)}),
    "pointwise, in groups": ((6, 2, 1, 1), (6, 3, 3), {"groups": 3}),
    "3x3": ((4, 3, 3, 3), (3, 6, 5), {}),
    "3x3, same": ((130, 3, 3, 3), (3, 5, 4), SAME),
    "one channel": ((7, 1, 3, 3), (1, 6, 6), SAME),
    "64 channels": ((9, 64, 3, 3), (64, 4, 4), SAME),
    "65 channels": ((65, 65, 3, 3), (65, 3, 4), SAME),
    "130 channels, strided": ((5, 130, 2, 2), (130, 5, 4), {"stride": (2, 1), "padding": (1, 0, 0, 1)}),
    "asymmetric": ((4, 3, 3, 2), (3, 5, 6), {"stride": (2, 1), "padding": (0, 2, 1, 0)}),
    "dilated": ((4, 3, 3, 3), (3, 7, 8), {"dilation": (2, 3), "padding": (2, 1, 0, 3)}),
    "dilated along one axis": ((4, 2, 3, 2), (2, 7, 6), {"dilation": (2, 1)}),
    "dilated and strided": (
        (4, 2, 2, 3),
        (2, 9, 9),
        {"dilation": (3, 2), "stride": (2, 2), "padding": (3, 3, 3, 3)},
    ),
    "stride beyond the kernel": ((3, 2, 2, 2), (2, 9, 8), {"stride": (4, 3)}),
    "a row": ((3, 4, 1, 3), (4, 1, 7), {"padding": (0, 0, 1, 1)}),
    "a column": ((3, 4, 3, 1), (4, 7, 1), {"padding": (1, 1, 0, 0)}),
    "as large as the image": ((8, 5, 4, 3), (5, 4, 3), {}),
    "windows in the padding alone": ((3, 2, 2, 2), (2, 3, 3), {"padding": (3, 2, 0, 4)}),
    "groups": ((9, 3, 3, 3), (9, 4, 5), {"groups": 3, **SAME}),
    "groups that straddle words": ((6, 43, 2, 3), (129, 3, 4), {"groups": 3, "padding": (0, 1, 1, 1)}),
    "groups of whole words": ((10, 64, 2, 2), (128, 3, 3), {"groups": 2}),
    "groups of many outputs": ((260, 2, 2, 2), (4, 3, 3), {"groups": 2}),
    "depthwise": ((5, 1, 3, 3), (5, 6, 5), {"groups": 5, **SAME}),
    "depthwise, 70 channels": (
        (70, 1, 3, 2),
        (70, 5, 5),
        {"groups": 70, "stride": (2, 1), "padding": (0, 1, 1, 0)},
    ),
    "depthwise, dilated": (
        (3, 1, 2, 2),
        (3, 6, 6),
        {"groups": 3, "dilation": (2, 3), "padding": (2, 2, 1, 1)},
    ),
    "depthwise, multiplied": ((12, 1, 3, 3), (4, 4, 4), {"groups": 4, **SAME}),
}


def convolutions(name: str) -> Iterator[tuple[Step, dict[str, Any]]]:
    """Products of one geometry: with and without scales, packed and not, padded by every kind of value."""
    shape, _, geometry = GEOMETRIES[name]
    for pad_value in (0.0, 1.0, -1.0, 0.5) if "padding" in geometry else (0.0,):
        for dtype in SCALES:
            for weight in (packed_weight(*shape), integers(*shape)):
                step = partial(
                    Conv2d, weight=weight, pad_value=pad_value, **geometry, **scale_and_shift(dtype, shape[0])
                )
                packed = isinstance(weight, PackedWeight)
                yield step, {"packed": packed, "dtype": dtype, "pad_value": pad_value}


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("kind", KINDS)
def test_convolution(kind: str, name: str) -> None:
    """Strided, dilated, grouped, padded on any side by any value, packed or not: exactly the reference's."""
    _, image, geometry = GEOMETRIES[name]
    for step, what in convolutions(name):
        if kind == "int8" and not what["packed"]:
            continue
        exact = what["packed"] and geometry.get("groups", 1) == 1
        pixels = "pixels" if exact else "black and white"
        x, contract = sample(pixels if kind == "pixels" else kind, 3, *image)
        model = model_of(image, *chain(*source_of(kind), step), **contract)
        assert_equal(model, x, activations_of(kind), what)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolution_of_any_floats(name: str) -> None:
    """Where sums round, they are as near to the reference's as two orders of adding can differ."""
    _, image, _ = GEOMETRIES[name]
    x = random_floats(2, *image)
    for step, what in convolutions(name):
        if what["pad_value"] in (0, 0.5):
            model = model_of(image, *chain(step))
            assert_within(model, x, bound_of_product(model, x))


def test_grouped_convolution_of_any_pixels() -> None:
    """In groups, pixels are normalised first: as near to exact sums as float32, or float64, adds them."""
    shape, image = (6, 2, 3, 3), (4, 5, 5)
    mean, std = np.array([0.4, 0.1, 0.7, 0.6]), np.array([0.2, 0.25, 0.2, 0.3])
    x = random_pixels(3, *image)
    seen = (x / 255 - mean[:, None, None]) / std[:, None, None]
    for dtype in SCALES:
        conv = Conv2d(
            name="y",
            inputs=("input",),
            weight=packed_weight(*shape),
            groups=2,
            padding=(1, 0, 0, 1),
            **any_scale(dtype, 6),
        )
        bound = bound_of_product(model_of(image, conv), seen.astype(np.float32))
        assert_within(model_of(image, conv, mean=tuple(mean), std=tuple(std)), x, 2 * bound)


# --- what follows a product -------------------------------------------------------------------------------

POOL = partial(MaxPool2d, kernel=(2, 2), stride=(2, 1), padding=(0, 1, 1, 0))
AVERAGE = partial(AvgPool2d, kernel=(2, 2), stride=(1, 1))


def prelu(channels: int) -> Step:
    return partial(PReLU, slope=np.linspace(-1.5, 2, channels).astype(np.float32))


def affine(channels: int, dtype: Any = np.float32) -> Step:
    return partial(Affine, **scale_and_shift(dtype, channels, seed=5))


CLIP = partial(Hardtanh, low=-1.5, high=2.25)
RELU, SIGN, FLATTEN = partial(ReLU), partial(Sign), partial(Flatten)
ONE_SLOPE = partial(PReLU, slope=np.array([-0.5], np.float32))


def followers(channels: int, places: int) -> list[list[Step]]:
    """What may follow a product of images, fused with it or not; flattened, there are more channels."""
    flat, p, a, wide = channels * places, prelu(channels), affine(channels), affine(channels, np.float64)
    activations = [RELU, CLIP, p, ONE_SLOPE]
    return [
        *([step] for step in (*activations, SIGN, POOL, a, wide)),
        *([step, SIGN] for step in (*activations, SIGN)),
        *([step, other] for step in activations for other in (CLIP, POOL)),
        *([POOL, SIGN], [POOL, POOL, SIGN], [SIGN, POOL], [POOL, RELU], [POOL, p, SIGN], [p, SIGN, POOL]),
        *([wide, SIGN], [a, p, SIGN], [RELU, a, SIGN], [a, POOL, SIGN]),
        *([FLATTEN], [FLATTEN, SIGN], [SIGN, FLATTEN], [FLATTEN, affine(flat), RELU]),
        *([FLATTEN, prelu(flat)], [RELU, FLATTEN, prelu(flat), SIGN]),
        [FLATTEN, affine(flat, np.float64), SIGN],
    ]


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_convolution(kind: str, dtype: Any) -> None:
    """Activations, signs, pooling, affine maps and flattening behind a product give what they give alone."""
    for groups, channels in ((1, 4), (4, 4), (1, 66)):
        image = (4, 4, 3)
        x, contract = sample("black and white" if kind == "pixels" and groups > 1 else kind, 4, *image)
        weight = packed_weight(channels, 4 // groups, 3, 3)
        fields = {"groups": groups, "padding": (1, 1, 1, 1), **scale_and_shift(dtype, channels)}
        conv = partial(Conv2d, weight=weight, **fields)
        for steps in followers(channels, 12):
            model = model_of(image, *chain(*source_of(kind), conv, *steps), **contract)
            assert_equal(model, x, activations_of(kind), what=(groups, channels))
        if kind in ("float", "sign"):
            model = model_of(image, *chain(*source_of(kind), conv, AVERAGE))
            assert_equal(model, x)


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_what_follows_a_linear_layer(kind: str, packed: bool, dtype: Any) -> None:
    """The same of vectors, and of weights that are not packed."""
    n, outputs = 20, 67
    x, contract = sample("black and white" if kind == "pixels" and not packed else kind, 30, n)
    weight = packed_weight(outputs, n) if packed else integers(outputs, n)
    layer = partial(Linear, weight=weight, **scale_and_shift(dtype, outputs))
    for steps in followers(outputs, 1):
        if POOL not in steps:
            model = model_of((n,), *chain(*source_of(kind), layer, *steps), **contract)
            assert_equal(model, x, activations_of(kind))


# --- thresholds -------------------------------------------------------------------------------------------


def threshold(channels: int, n: int, seed: int = 0) -> Step:
    """Limits about the sums of n signs, some of them out of reach; half of them flipped."""
    rng = np.random.default_rng(seed)
    limits = rng.integers(-n // 2, n // 2 + 2, channels, dtype=np.int32)
    limits[::12] = rng.choice([-(2**31), -n - 1, -n, n, n + 1, 2**31 - 1], limits[::12].size)
    return partial(Threshold, threshold=limits, flip=rng.random(channels) < 0.5)


@pytest.mark.parametrize("outputs", SIZES)
def test_threshold_behind_a_linear_layer(outputs: int) -> None:
    """A comparison with every number of channels, the limit itself on the upper side, flipped or not."""
    for n in (1, 64, 97):
        layer = partial(Linear, weight=packed_weight(outputs, n))
        model = model_of((n,), *chain(SIGN, layer, threshold(outputs, n, seed=n)))
        truth = assert_equal(model, integers(50, n), what=n)
        assert set(np.unique(truth)) == {-1, 1} or outputs == 1


@pytest.mark.parametrize("name", [name for name in GEOMETRIES if "130" not in name])
def test_threshold_behind_a_convolution(name: str) -> None:
    """Directly and behind max pooling, once and twice, where a flipped channel wants the smallest sum."""
    shape, image, geometry = GEOMETRIES[name]
    x = integers(3, *image)
    for pad_value in (0.0, 1.0, -1.0) if "padding" in geometry else (0.0,):
        conv = partial(Conv2d, weight=packed_weight(*shape), pad_value=pad_value, **geometry)
        last = threshold(shape[0], prod(shape[1:]))
        for steps in ([last], [POOL, last], [POOL, POOL, last], [last, POOL], [POOL, last, POOL, FLATTEN]):
            model = model_of(image, *chain(SIGN, conv, *steps))
            assert_equal(model, x, what=pad_value)


def test_threshold_behind_flattening() -> None:
    """A flattened image has a limit for each place, in PyTorch's order: channel by channel."""
    image, shape = (3, 4, 5), (70, 3, 3, 3)
    conv = partial(Conv2d, weight=packed_weight(*shape))
    for between, places in (([], 6), ([POOL], 1 * 3)):
        steps = (*between, FLATTEN, threshold(70 * places, 27))
        assert_equal(model_of(image, *chain(SIGN, conv, *steps)), integers(20, *image))


# --- layers on flattened images ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 64, 70])
@pytest.mark.parametrize("kind", [*KINDS, "threshold"])
def test_linear_on_a_flattened_image(kind: str, channels: int) -> None:
    """A layer on what was flattened finds each of its inputs, in PyTorch's order; on images of 1 x 1 too."""
    pointwise = partial(Conv2d, weight=packed_weight(channels, channels, 1, 1))
    before: dict[str, list[Step]] = {
        "float": [RELU],
        "sign": [SIGN],
        "int8": [RELU],
        "pixels": [],
        "threshold": [SIGN, pointwise, threshold(channels, channels)],
    }
    for height, width in ((3, 4), (1, 1), (1, 5)):
        image, n = (channels, height, width), channels * height * width
        for weight in (packed_weight(65, n), integers(65, n)):
            packed = isinstance(weight, PackedWeight)
            x, contract = sample("black and white" if kind == "pixels" and not packed else kind, 9, *image)
            layer = partial(Linear, weight=weight)
            model = model_of(image, *chain(*before[kind], FLATTEN, layer), **contract)
            assert_equal(model, x, activations_of(kind), what=(height, width, packed))


# --- pixels, where a sum is exactly 0 -----------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("scale", [None, np.float32, np.float64])
def test_signs_of_pixels_at_a_tie(groups: int, scale: Any) -> None:
    """Sums of pixels are integers, in groups as well: where they are 0, the sign is the reference's, +1."""
    fields: dict[str, Any] = {}
    if scale is not None:
        fields = {"scale": np.ones(8, scale), "shift": np.zeros(8, scale)}
    conv = Conv2d(
        name="y", inputs=("input",), weight=packed_weight(8, 4 // groups, 2, 2), groups=groups, **fields
    )
    model = model_of((4, 16, 16), conv, Sign(name="s", inputs=("y",)), mean=(0.5,), std=(0.25,))
    x = random_pixels(20, 4, 16, 16) % 8
    sums = reference.run(model_of((4, 16, 16), conv, mean=(0.0,), std=(1.0,)), x)
    assert (np.abs(sums) < 1e-6).mean() > 0.01  # there are ties, or this would prove nothing
    assert_equal(model, x)


def test_deviations_that_are_equal_apart() -> None:
    """Channels of one deviation are one integer sum, though another lies between them."""
    conv = Conv2d(name="y", inputs=("input",), weight=packed_weight(64, 3, 3, 3), padding=(1, 1, 1, 1))
    contract = {"mean": (0.1, 0.2, 0.3), "std": (0.3, 0.2, 0.3)}
    x = random_pixels(3, 3, 8, 8)
    y = reference.run(model_of((3, 8, 8), conv, **contract), x).astype(np.float64)
    shift = -np.sort(y.swapaxes(0, 1).reshape(64, -1), axis=1)[:, 90]  # a tie, or as near as float32 goes
    model = model_of(
        (3, 8, 8), replace(conv, scale=np.ones(64), shift=shift), Sign(name="s", inputs=("y",)), **contract
    )
    assert_equal(model, x)


def test_signs_of_narrow_images_stay_small() -> None:
    """A fully connected layer on flattened signs of few channels takes a bit a weight, not a word a pixel."""
    nodes = (
        Sign(name="s", inputs=("input",)),
        Flatten(name="f", inputs=("s",)),
        Linear(name="y", inputs=("f",), weight=packed_weight(1024, 3 * 14 * 14)),
    )
    for dtype in (np.float32, np.uint8):
        model = model_of((3, 14, 14), *nodes, mean=(0.5,), std=(0.25,))
        assert Engine(model).plan(dtype).bytes(1, 1) < 1.2 * model.nbytes + 2**14
    assert_equal(model, random_pixels(3, 3, 14, 14))
    assert_equal(model, random_floats(3, 3, 14, 14))
    pooled = (nodes[0], MaxPool2d(name="p", inputs=("s",), kernel=(2, 2), stride=(2, 2)))
    linear = Linear(name="y", inputs=("f",), weight=packed_weight(64, 3 * 7 * 7))
    assert_equal(
        model_of((3, 14, 14), *pooled, Flatten(name="f", inputs=("p",)), linear),
        random_floats(3, 3, 14, 14),
    )

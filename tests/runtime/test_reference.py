"""Products, of every engine: against PyTorch in float64, integers exactly, raw pixels."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.helpers import (
    every_engine,
    model_of,
    packed_weight,
    random_floats,
    random_pixels,
    random_signs,
)
from support.torch_helpers import assert_close
from torch import Tensor

from bnn.packed import bits
from bnn.packed.nodes import (
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    ReLU,
    Sign,
    Threshold,
)
from bnn.runtime import Runner

SIZES = [1, 7, 63, 64, 65, 97]

sizes = st.sampled_from(SIZES)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["sign", "float", "pixels"])
scales = st.sampled_from([None, np.float32, np.float64])


def sample(kind: str, *shape: int, seed: int = 0) -> tuple[np.ndarray, dict[str, Any], Tensor]:
    """A batch of that kind, the contract's mean and std, and what the network sees, in float64."""
    channels = shape[1] if len(shape) == 4 else 1
    rng = np.random.default_rng(seed)
    mean, std = rng.uniform(0, 1, channels), rng.choice([0.25, 0.3, 1.0], channels)
    if kind == "pixels":
        x = random_pixels(*shape, seed=seed)
        columns = (-1, *[1] * (len(shape) - 2))
        seen = (x / 255 - mean.reshape(columns)) / std.reshape(columns)
        return x, {"mean": tuple(mean), "std": tuple(std)}, torch.from_numpy(seen)
    x = random_signs(*shape, seed=seed) if kind == "sign" else random_floats(*shape, seed=seed)
    return x.astype(np.float32), {}, torch.from_numpy(x).double()


def weight_and_scale(packed: bool, scale: Any, *shape: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Fields of a Linear or Conv2d, and the weight, scale and shift in float64."""
    weight = packed_weight(*shape, seed=seed) if packed else random_floats(*shape, seed=seed)
    values = weight.signs() if isinstance(weight, PackedWeight) else weight
    truth = [torch.from_numpy(values).double(), torch.ones(shape[0]).double(), torch.zeros(shape[0]).double()]
    fields: dict[str, Any] = {"weight": weight}
    if scale is not None:
        fields |= {"scale": random_floats(shape[0], seed=seed + 1).astype(scale)}
        fields |= {"shift": random_floats(shape[0], seed=seed + 2).astype(scale)}
        truth[1:] = [torch.from_numpy(fields[name]).double() for name in ("scale", "shift")]
    return fields, truth


def source_of(kind: str) -> tuple[Node, ...]:
    """What makes the first value of that kind; a Sign of ±1 is that ±1."""
    return (Sign(name="x", inputs=("input",)),) if kind == "sign" else ()


# --- Linear, Conv2d ---------------------------------------------------------------------------------------


@every_engine
@given(kinds, st.booleans(), scales, st.integers(0, 2), sizes, sizes, seeds)
@settings(max_examples=60)
def test_linear(
    engine: str, kind: str, packed: bool, scale: Any, batch: int, n: int, out: int, seed: int
) -> None:
    """Linear is PyTorch's, packed or not, for every tail and batch size, from signs, floats and pixels."""
    x, contract, seen = sample(kind, batch, n, seed=seed)
    fields, (weight, a, b) = weight_and_scale(packed, scale, out, n, seed=seed)
    source = source_of(kind)
    node = Linear(name="y", inputs=("x" if source else "input",), **fields)
    model = model_of((n,), *source, node, **contract)
    assert_close(Runner(model, engine)(x), F.linear(seen, weight) * a + b)


@st.composite
def convolutions(draw: Any) -> dict[str, Any]:
    """Geometry of a convolution that fits its image: grouped, depthwise, strided, dilated, padded."""
    per_group, groups = draw(st.sampled_from([(1, 1), (3, 1), (7, 1), (65, 1), (1, 4), (1, 7), (2, 3)]))
    kernel = [draw(st.integers(1, 3 if per_group < 65 else 1)) for _ in "hw"]
    dilation = [draw(st.integers(1, 2)) for _ in "hw"]
    span = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    return {
        "weight": (groups * draw(st.integers(1, 3)), per_group, *kernel),
        "image": (per_group * groups, *(s + draw(st.integers(0, 4)) for s in span)),
        "padding": tuple(draw(st.integers(0, 2)) for _ in range(4)),
        "pad_value": draw(st.sampled_from([0.0, 1.0, -1.0])),
        "stride": tuple(draw(st.integers(1, 3)) for _ in "hw"),
        "dilation": tuple(dilation),
        "groups": groups,
    }


def conv_in_torch(x: Tensor, weight: Tensor, geometry: dict[str, Any]) -> Tensor:
    top, bottom, left, right = geometry["padding"]
    padded = F.pad(x, (left, right, top, bottom), value=geometry["pad_value"])
    return F.conv2d(
        padded, weight, stride=geometry["stride"], dilation=geometry["dilation"], groups=geometry["groups"]
    )


@every_engine
@given(kinds, st.booleans(), scales, st.integers(0, 2), convolutions(), seeds)
@settings(max_examples=100)
def test_conv2d(
    engine: str, kind: str, packed: bool, scale: Any, batch: int, geometry: dict[str, Any], seed: int
) -> None:
    """Conv2d is PyTorch's for any stride, padding on any side by 0 or ±1, dilation and groups; from pixels
    too, where the padding lies in the normalised image."""
    image, shape = geometry.pop("image"), geometry.pop("weight")
    x, contract, seen = sample(kind, batch, *image, seed=seed)
    fields, (weight, a, b) = weight_and_scale(packed, scale, *shape, seed=seed)
    source = source_of(kind)
    node = Conv2d(name="y", inputs=("x" if source else "input",), **fields, **geometry)
    model = model_of(image, *source, node, **contract)
    truth = conv_in_torch(seen, weight, geometry) * a[:, None, None] + b[:, None, None]
    assert_close(Runner(model, engine)(x), truth)


@every_engine
@given(st.integers(1, 4), sizes, sizes, seeds)
@settings(max_examples=30)
def test_products_of_signs_are_exact(engine: str, batch: int, n: int, out: int, seed: int) -> None:
    """±1 weights on ±1 inputs give exact integers, the ones that xor and population count give."""
    x, weight = random_signs(batch, n, seed=seed), packed_weight(out, n, seed=seed + 1)
    model = model_of((n,), Sign(name="x", inputs=("input",)), Linear(name="y", inputs=("x",), weight=weight))
    result = Runner(model, engine)(x.astype(np.float32))
    assert model.kinds["y"] == "int"
    assert np.array_equal(result, bits.dot(bits.pack(x)[:, None], weight.words[None], n))


@every_engine
@given(convolutions(), seeds)
@settings(max_examples=30)
def test_convolutions_of_signs_are_exact(engine: str, geometry: dict[str, Any], seed: int) -> None:
    """A convolution of ±1 by ±1, padded by 0 or ±1, gives PyTorch's integers exactly."""
    image, shape = geometry.pop("image"), geometry.pop("weight")
    x, weight = random_signs(2, *image, seed=seed), packed_weight(*shape, seed=seed + 1)
    conv = Conv2d(name="y", inputs=("x",), weight=weight, **geometry)
    model = model_of(image, Sign(name="x", inputs=("input",)), conv)
    signs = [torch.from_numpy(v).double() for v in (x, weight.signs())]
    assert model.kinds["y"] == "int"
    assert np.array_equal(
        Runner(model, engine)(x.astype(np.float32)), conv_in_torch(*signs, geometry).numpy()
    )


@every_engine
def test_integers_beyond_float32(engine: str) -> None:
    """A sum of 2^24 + 1 ones is not 2^24, as it would be in float32: a threshold sees the difference."""
    n = 2**24 + 1
    all_ones = PackedWeight(np.zeros((1, bits.words_per_row(n)), dtype=np.uint64), (1, n))
    limit = np.array([n], dtype=np.int32)
    model = model_of(
        (n,),
        Sign(name="x", inputs=("input",)),
        Linear(name="y", inputs=("x",), weight=all_ones),
        Threshold(name="z", inputs=("y",), threshold=limit, flip=np.array([False])),
    )
    x = np.ones((1, n), dtype=np.float32)
    assert Runner(model, engine)(x).item() == 1
    x[0, 5] = -1
    assert Runner(model, engine)(x).item() == -1


@every_engine
def test_float64_scales_keep_the_sign(engine: str) -> None:
    """With a float64 scale the product is float64: 1 + 2^-40 - 1 is positive, in float32 it would be 0."""
    shift = np.array([2.0**-40])
    for dtype, expected in ((np.float64, 2.0**-40), (np.float32, 0.0)):
        ones = np.ones(1, dtype=dtype)
        layer = Linear(name="y", inputs=("input",), weight=packed_weight(1, 4), scale=ones, shift=ones)
        minus = Affine(name="z", inputs=("y",), scale=ones, shift=shift.astype(dtype) - 1)
        assert Runner(model_of((4,), layer, minus), engine)(np.zeros((1, 4), np.float32)).item() == expected


# --- raw pixels -------------------------------------------------------------------------------------------

MEAN_STD = {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.2)}


def normalised(x: np.ndarray) -> Tensor:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in MEAN_STD.values())
    return (torch.from_numpy(x).double() / 255 - mean) / std


@every_engine
@pytest.mark.parametrize("scale", [None, np.float64])
def test_pixels_after_flatten(engine: str, scale: Any) -> None:
    """Flatten leaves pixels raw, and each keeps the mean and deviation of the channel it came from."""
    x = random_pixels(5, 3, 4, 5)
    fields, (weight, a, b) = weight_and_scale(True, scale, 7, 60, seed=3)
    flatten = Flatten(name="flat", inputs=("input",))
    model = model_of((3, 4, 5), flatten, Linear(name="y", inputs=("flat",), **fields), **MEAN_STD)
    assert_close(Runner(model, engine)(x), F.linear(normalised(x).flatten(1), weight) * a + b)


@every_engine
def test_one_mean_serves_all_channels(engine: str) -> None:
    """A mean and deviation of one entry hold for every channel."""
    x, weight = random_pixels(2, 3, 4, 5), packed_weight(4, 3, 3, 3)
    conv = Conv2d(name="y", inputs=("input",), weight=weight, padding=(1, 1, 1, 1))
    one = model_of((3, 4, 5), conv, mean=(0.4,), std=(0.3,))
    three = model_of((3, 4, 5), conv, mean=(0.4,) * 3, std=(0.3,) * 3)
    assert np.array_equal(Runner(one, engine)(x), Runner(three, engine)(x))


@every_engine
@pytest.mark.parametrize(
    ("nodes", "truth"),
    [
        ([ReLU(name="y", inputs=("input",))], F.relu),
        ([Flatten(name="y", inputs=("input",))], lambda x: x.flatten(1)),
        (
            [Flatten(name="x", inputs=("input",)), ReLU(name="y", inputs=("x",))],
            lambda x: F.relu(x.flatten(1)),
        ),
        ([Sign(name="y", inputs=("input",))], lambda x: torch.where(x >= 0, 1.0, -1.0)),
        (
            [AvgPool2d(name="y", inputs=("input",), kernel=(2, 2), stride=(2, 2))],
            lambda x: F.avg_pool2d(x, 2),
        ),
        (
            [MaxPool2d(name="y", inputs=("input",), kernel=(2, 2), stride=(2, 2))],
            lambda x: F.max_pool2d(x, 2),
        ),
        ([Add(name="y", inputs=("input", "input"))], lambda x: x + x),
        ([Concat(name="y", inputs=("input", "input"))], lambda x: torch.cat([x, x], 1)),
    ],
)
def test_pixels_are_normalised_wherever_they_are_read(engine: str, nodes: list[Node], truth: Any) -> None:
    """Any operation on raw pixels is the operation on normalised ones, and so is the output itself."""
    x = random_pixels(5, 3, 4, 6)
    assert_close(Runner(model_of((3, 4, 6), *nodes, **MEAN_STD), engine)(x), truth(normalised(x)))


@every_engine
def test_signs_of_pixels_are_those_of_float64(engine: str) -> None:
    """A batch norm and a sign of pixels: normalised in float64, so that no rounding moves the border."""
    x = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    mean, std = 1 / 3, 0.3
    seen = (x / 255 - mean) / std
    border = seen[100].item()  # of which float32 knows 7 digits only
    for shift, expected in ((-border, 156), (-np.nextafter(border, 9), 155)):
        affine = Affine(name="a", inputs=("input",), scale=np.ones(1), shift=np.array([shift]))
        model = model_of((1, 1, 1), affine, Sign(name="y", inputs=("a",)), mean=(mean,), std=(std,))
        assert (Runner(model, engine)(x) == 1).sum() == expected

"""int8 activations: what is rounded and how, how far results move, and that both engines agree."""

from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.engines import EPS, assert_equal, chain, integers
from support.helpers import Array, model_of, one_of_each, packed_weight, random_floats, random_pixels

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Affine,
    Concat,
    Conv2d,
    Flatten,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Threshold,
)
from bnn.runtime import ACTIVATIONS, ENGINES, Runner, load, reference
from bnn.runtime.native import Engine
from bnn.runtime.reference import quantize, quantizes

# --- rounding ---------------------------------------------------------------------------------------------


def test_the_largest_magnitude_becomes_127() -> None:
    """Each sample has its own scale, of its largest magnitude, of whatever sign and in whatever axis."""
    x = np.zeros((3, 2, 2, 2), dtype=np.float32)
    x[0, 0, 0], x[1, 1, 1], x[2, 1, 0] = (1.0, -0.5), (-254.0, 127.0), (0.25, 0.125)
    q, scale = quantize(x)
    assert (q.dtype, q.shape) == (np.int8, x.shape)
    assert (scale.dtype, scale.tolist()) == (np.float32, [np.float32(1 / 127), 2, np.float32(0.25 / 127)])
    assert [q[0, 0, 0].tolist(), q[1, 1, 1].tolist(), q[2, 1, 0].tolist()] == [
        [127, -64],
        [-127, 64],
        [127, 64],
    ]
    assert (q != 0).sum() == 6


def test_ties_go_to_even() -> None:
    """Halfway between two steps it is the even one, on both sides of 0."""
    steps = np.array([0.5, 1.5, 2.5, 3.5, 125.5, 126.5, 127], dtype=np.float32)
    even = [0, 2, 2, 4, 126, 126, 127]
    q, scale = quantize(np.stack([steps, -steps, 8 * steps]))
    assert scale.tolist() == [1, 1, 8]
    assert q.tolist() == [even, [-v for v in even], even]


def test_zeros_stay_zero() -> None:
    """A sample of zeros, of either sign, has the scale 0 and gives 0; so does one too small for a scale."""
    x = np.array([[0, 0, 0], [-0.0, 0, -0.0], [1e-45, -1e-45, 0]], dtype=np.float32)
    q, scale = quantize(x)
    assert not q.any()
    assert scale.tolist() == [0, 0, 0]


def test_a_sample_with_nan_or_infinity_is_all_nan() -> None:
    """Its scale is not finite and its steps are 0, so that what is computed is NaN; others are untouched."""
    x = np.array([[1, np.nan], [np.inf, 1], [-np.inf, np.inf], [2, -1]], dtype=np.float32)
    q, scale = quantize(x)
    assert q.tolist() == [[0, 0], [0, 0], [0, 0], [127, -64]]
    assert np.isfinite(scale).tolist() == [False, False, False, True]
    model = model_of((2,), Linear(name="y", inputs=("input",), weight=packed_weight(70, 2)))
    truth = assert_equal(model, x, "int8")
    assert np.isnan(truth[:3]).all()
    assert np.isfinite(truth[3]).all()


def test_float64_is_narrowed_first() -> None:
    """Values of float64 are rounded to float32, then to steps."""
    x = np.array([[127, 0.5 + 2.0**-30, 1.5 - 2.0**-30, 2.5 + 2.0**-20]])
    q, scale = quantize(x)
    assert scale.tolist() == [1]
    assert q.tolist() == [[127, 0, 2, 3]]


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=4, max_side=6),
        elements=st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=False),
    )
)
def test_the_error_is_half_a_step(x: Array) -> None:
    """q * scale is the value to half a step, and 127 steps are the largest, unless all are tiny."""
    q, scale = quantize(x)
    rows = x.reshape(len(x), -1).astype(float)
    largest = np.abs(rows).max(axis=1)
    kept = largest > 1e-35
    assert np.allclose(127 * scale[kept].astype(float), largest[kept], rtol=1e-6)
    error = np.abs(q.reshape(len(x), -1) * scale[:, None].astype(float) - rows)
    assert (error <= 0.5 * (1 + 1e-4) * scale[:, None] + 1e-35 * ~kept[:, None]).all()
    assert (np.abs(q.astype(int)).reshape(len(x), -1).max(axis=1)[kept] == 127).all()


# --- the reference ----------------------------------------------------------------------------------------


def layers() -> dict[str, tuple[tuple[int, ...], dict[str, Any]]]:
    return {
        "linear": ((97,), {"weight": packed_weight(65, 97)}),
        "convolution": ((3, 6, 5), {"weight": packed_weight(9, 3, 3, 3), "padding": (1, 0, 2, 1)}),
        "groups": ((6, 6, 5), {"weight": packed_weight(4, 3, 2, 2), "groups": 2, "stride": (2, 1)}),
        "depthwise": ((5, 6, 5), {"weight": packed_weight(5, 1, 3, 3), "groups": 5, "dilation": (1, 2)}),
    }


def layer_of(name: str, dtype: Any, source: str = "input") -> tuple[tuple[int, ...], Linear | Conv2d]:
    shape, fields = layers()[name]
    outputs = fields["weight"].shape[0]
    if dtype is not None:
        fields |= {
            "scale": random_floats(outputs).astype(dtype),
            "shift": random_floats(outputs, seed=1).astype(dtype),
        }
    cls = Linear if name == "linear" else Conv2d
    return shape, cls(name="y", inputs=(source,), **fields)


SCALES = [None, np.float32, np.float64]


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", layers())
def test_how_far_results_move(name: str, dtype: Any) -> None:
    """From the float result by at most half a step for each of the n inputs, times the layer's scale."""
    shape, node = layer_of(name, dtype)
    model = model_of(shape, node)
    x = random_floats(20, *shape)
    exact, rounded = (reference.run(model, x, activations).astype(float) for activations in ACTIVATIONS)
    columns = (-1, *[1] * (exact.ndim - 1))
    step = np.abs(x).reshape(20, -1).max(axis=1).reshape(columns) / 127
    factor = 1 if node.scale is None else np.abs(node.scale).reshape(columns[:-1])
    n = prod(node.weight.shape[1:])
    error = np.abs(rounded - exact)
    assert (error <= n * step / 2 * factor + 1e-5 * np.abs(exact).max()).all()
    assert error.max() > 0
    # The steps' errors are of either sign, and mostly cancel.
    assert np.median(error / (step * factor)) < np.sqrt(n)


@pytest.mark.parametrize("name", layers())
def test_whole_numbers_up_to_127_are_exact(name: str) -> None:
    """Where the steps are whole numbers nothing is lost: results are those without quantization."""
    shape, node = layer_of(name, np.float32)
    x = integers(10, *shape, limit=126)
    x.reshape(10, -1)[:, 0] = 127
    for activations in ACTIVATIONS:
        assert_equal(model_of(shape, node), x, activations)
    assert np.array_equal(*(reference.run(model_of(shape, node), x, mode) for mode in ACTIVATIONS))


def test_samples_do_not_concern_each_other() -> None:
    """Each sample has the steps it has alone, whatever else is in the batch."""
    shape, node = layer_of("convolution", None)
    x = random_floats(6, *shape) * np.logspace(-3, 3, 6, dtype=np.float32).reshape(6, 1, 1, 1)
    model = model_of(shape, node)
    whole = reference.run(model, x, "int8")
    assert np.array_equal(np.concatenate([reference.run(model, row[None], "int8") for row in x]), whole)
    assert_equal(model, x, "int8")


# --- what is quantized ------------------------------------------------------------------------------------


def test_what_is_quantized() -> None:
    """Packed layers on floats and integers, padded by 0 if at all: not those on signs, nor float weights."""
    packed, floats = packed_weight(4, 3, 3, 3), random_floats(4, 3, 3, 3)
    conv = partial(Conv2d, name="y", inputs=("x",))
    around = {"padding": (1, 0, 0, 0)}
    assert quantizes(conv(weight=packed), "float")
    assert quantizes(conv(weight=packed), "int")
    assert quantizes(conv(weight=packed), "input")
    assert quantizes(conv(weight=packed, **around), "float")
    assert quantizes(conv(weight=packed, pad_value=1.0), "float")
    assert quantizes(Linear(name="y", inputs=("x",), weight=packed_weight(4, 3)), "float")
    assert not quantizes(conv(weight=packed), "sign")
    assert not quantizes(conv(weight=packed, pad_value=1.0, **around), "float")
    assert not quantizes(conv(weight=packed, pad_value=-1.0, **around), "float")
    assert not quantizes(conv(weight=floats), "float")


IMAGE = (3, 6, 6)


CONV, SAME = partial(Conv2d, weight=packed_weight(4, 3, 3, 3)), {"padding": (1, 1, 1, 1)}
DEPTHWISE = partial(Conv2d, weight=packed_weight(3, 1, 3, 3), groups=3)


@pytest.mark.parametrize(
    "nodes",
    [
        chain(Sign, partial(CONV, **SAME)),
        chain(Sign, DEPTHWISE),
        chain(Sign, partial(MaxPool2d, kernel=(2, 2), stride=(2, 2)), CONV),
        chain(Sign, Flatten, partial(Linear, weight=packed_weight(4, 108))),
        chain(partial(CONV, pad_value=1.0, **SAME)),
        chain(partial(DEPTHWISE, pad_value=-1.0, **SAME)),
        chain(partial(CONV, weight=integers(4, 3, 3, 3))),
        chain(Flatten, partial(Linear, weight=integers(4, 108))),
        chain(ReLU, partial(Affine, scale=np.ones(3), shift=np.ones(3))),
    ],
)
def test_what_is_not_quantized(nodes: list[Node]) -> None:
    """±1 inputs, padding other than 0, float weights and everything else give what they give without."""
    model, x = model_of(IMAGE, *nodes), integers(5, *IMAGE, limit=200)
    without = assert_equal(model, x)
    assert np.array_equal(assert_equal(model, x, "int8"), without)
    assert without.std() > 0


def test_raw_pixels_are_not_quantized() -> None:
    """A first layer on pixels has exact integers anyway; in groups as well, and behind Flatten."""
    contract = {"mean": (0.1, 0.5, 0.9), "std": (0.2, 0.3, 0.4)}
    x = random_pixels(5, *IMAGE)
    for nodes in (
        chain(partial(Conv2d, weight=packed_weight(4, 3, 3, 3), padding=(1, 1, 1, 1))),
        chain(Flatten, partial(Linear, weight=packed_weight(4, 108))),
    ):
        model = model_of(IMAGE, *nodes, **contract)
        assert np.array_equal(assert_equal(model, x, "int8"), reference.run(model, x))
    for weight in (packed_weight(3, 1, 3, 3), packed_weight(6, 1, 3, 3)):
        model = model_of(IMAGE, *chain(partial(Conv2d, weight=weight, groups=3)), **contract)
        truth = reference.run(model, x)
        assert np.array_equal(reference.run(model, x, "int8"), truth)
        result = Engine(model, "int8")(x)  # normalised first, in float32
        assert np.abs(result - truth).max() <= 20 * 9 * EPS * np.abs(truth).max()


def test_pixels_behind_another_operation_are_quantized() -> None:
    """What was pixels once are floats like any others."""
    conv = partial(Conv2d, weight=packed_weight(4, 3, 3, 3))
    model = model_of(IMAGE, *chain(ReLU, conv), mean=(0.1,), std=(0.3,))
    x = random_pixels(5, *IMAGE)
    assert not np.array_equal(assert_equal(model, x, "int8"), reference.run(model, x))


def test_quantized_sums_of_integers() -> None:
    """Integers that enter a packed layer are quantized as floats are; a threshold's are not."""
    limit, flip = np.zeros(70, np.int32), np.arange(70) % 2 == 0
    first = partial(Linear, weight=packed_weight(70, 300))
    second = partial(Linear, weight=packed_weight(5, 70))
    x = integers(20, 300)
    sums = model_of((300,), *chain(Sign, first, second))
    assert sums.kinds["n1"] == "int"
    assert not np.array_equal(assert_equal(sums, x, "int8"), reference.run(sums, x))
    signs = model_of((300,), *chain(Sign, first, partial(Threshold, threshold=limit, flip=flip), second))
    assert np.array_equal(assert_equal(signs, x, "int8"), reference.run(signs, x))


# --- the compiled engine ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", layers())
def test_native_equals_the_reference(name: str, dtype: Any, wide: bool) -> None:
    """Steps, sums and scales are the same: results are, bit for bit, of any floats, float64 ones as well."""
    shape, node = layer_of(name, dtype, source="x")
    ones = np.ones(shape[0], np.float64 if wide else np.float32)
    first = Affine(name="x", inputs=("input",), scale=ones, shift=ones / 3)
    for after in ([], [ReLU], [partial(PReLU, slope=np.array([0.3], np.float32))], [Sign], [ReLU, Sign]):
        model = model_of(shape, first, node, *chain(*after, source="y"))
        for factor in (1e-20, 1.0, 1e20):
            assert_equal(model, random_floats(9, *shape) * np.float32(factor), "int8", what=factor)


def test_rounding_in_the_compiled_engine() -> None:
    """Ties, the largest floats, subnormal ones and zeros are rounded as in the reference, in rows of any
    length: each input's steps can be read off the output."""
    half = np.array([0.5, 1.5, 2.5, 126.5, -0.5, -1.5, -125.5, 0.49999997, 127], dtype=np.float32)
    largest = np.array([3.4e38, -3.4e38, 1.7e38, 1e38, -1e36, 0, 1.3386e36, -1.3386e36, 2e36], np.float32)
    tiny = np.array([0, 1e-45, 2.7e-43, -2.7e-43, 1e-41, -1e-40, 1e-44, 1.2e-38, 0], dtype=np.float32)
    rows = np.stack(
        [half, 3 * half, half / 7, largest, largest[::-1], tiny, tiny * 0, -tiny, tiny[:1] + half]
    )
    for n in (9, 64, 71, 130):
        x = np.zeros((len(rows), n), dtype=np.float32)
        x[:, -9:] = rows
        signs = 1 - 2 * np.eye(n, dtype=np.int8)  # of which two rows differ in two inputs
        model = model_of((n,), Linear(name="y", inputs=("input",), weight=PackedWeight.from_signs(signs)))
        with np.errstate(over="ignore"):
            assert_equal(model, x, "int8", what=n)


def test_one_value_quantized_for_several_readers() -> None:
    """Layers that share an input share its steps; layers on flattened ones and on the image do as well."""
    nodes = [
        ReLU(name="x", inputs=("input",)),
        Conv2d(name="a", inputs=("x",), weight=packed_weight(4, 3, 6, 6)),
        Conv2d(name="b", inputs=("x",), weight=packed_weight(5, 3, 6, 6, seed=1)),
        Flatten(name="f", inputs=("x",)),
        Linear(name="c", inputs=("f",), weight=packed_weight(6, 108)),
        Linear(name="d", inputs=("f",), weight=packed_weight(7, 108)),
        *(Flatten(name=f"{name}f", inputs=(name,)) for name in "ab"),
    ]

    end = Concat(name="y", inputs=("af", "bf", "c", "d"))
    assert_equal(model_of(IMAGE, *nodes, end), random_floats(9, *IMAGE), "int8")


# --- the option -------------------------------------------------------------------------------------------


def quantizable() -> PackedModel:
    return model_of((97,), Linear(name="y", inputs=("input",), weight=packed_weight(10, 97)))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_option(engine: str, tmp_path: Path) -> None:
    """activations="int8" is a choice of Runner and load, of every engine; without it nothing is rounded."""
    model, x = quantizable(), random_floats(20, 97)
    model.save(tmp_path / "m.bnn")
    expected = {activations: reference.run(model, x, activations) for activations in ACTIVATIONS}
    assert np.abs(expected["int8"] - expected["float32"]).max() > 1e-3
    for net in (Runner(model, engine, "int8"), load(tmp_path / "m.bnn", engine, activations="int8")):
        assert net.activations == "int8"
        assert np.abs(net(x) - expected["int8"]).max() < 1e-5
    for net in (Runner(model, engine), load(tmp_path / "m.bnn", engine), Runner(model, engine, "float32")):
        assert net.activations == "float32"
        assert np.abs(net(x) - expected["float32"]).max() < 1e-4


@pytest.mark.parametrize("activations", ["int4", "", "INT8", None])
def test_unknown_activations(activations: Any, tmp_path: Path) -> None:
    """Anything else is a ValueError that lists what there is."""
    quantizable().save(tmp_path / "m.bnn")
    message = f"activations must be one of float32, int8, not {activations!r}"
    for engine in ENGINES:
        with pytest.raises(ValueError, match=message):
            Runner(quantizable(), engine, activations)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "m.bnn", engine, activations)


def test_engines_agree_on_a_model_of_all_nodes() -> None:
    """From pixels and from floats, quantized, on a network with every operation."""
    model = one_of_each()
    for x in (random_pixels(30, 2, 6, 6), random_floats(30, 2, 6, 6)):
        truth = Runner(model, "reference", "int8")(x)
        assert np.abs(Runner(model, "native", "int8")(x) - truth).max() < 1e-5

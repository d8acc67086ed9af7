"""The compiled engine on every instruction set: all but products, whole graphs, and what goes in."""

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engines import EPS, Step, assert_equal, assert_within, chain, integers, native
from support.helpers import (
    Array,
    model_of,
    one_of_each,
    packed_weight,
    random_floats,
    random_pixels,
)

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import reference
from bnn.runtime.native import Engine, instruction_sets

EXACT = {"mean": (0.25,), "std": (0.125,)}  # pixels of 0 and 255 are normalised to -2 and 6
SIGN, RELU, FLATTEN = partial(Sign), partial(ReLU), partial(Flatten)


def black_and_white(*shape: int, seed: int = 0) -> Array:
    return 255 * (random_pixels(*shape, seed=seed) % 2)


# --- values of every kind ---------------------------------------------------------------------------------

FORMS = ["image", "vector", "flattened"]
VALUES = ["input", "relu", "sign", "int", "int32", "float64"]
"""What an operation may read: "int" is stored as float32 and "int32" as integers, as a threshold reads it."""


def values(form: str, channels: int) -> tuple[tuple[int, ...], list[Node], dict[str, str], int]:
    """The input's shape; nodes that make a value of each kind; their names; how many channels they have."""
    image = form != "vector"
    shape = (channels, 4, 3) if image else (channels,)
    weight = packed_weight(channels, channels, 1, 1) if image else packed_weight(channels, channels)
    product = partial(Conv2d if image else Linear, weight=weight)
    rng = np.random.default_rng(channels)
    limit, flip = rng.integers(-2, 3, channels, dtype=np.int32), rng.random(channels) < 0.5
    nodes = [
        ReLU(name="relu", inputs=("input",)),
        Sign(name="sign", inputs=("input",)),
        product(name="int", inputs=("sign",)),
        product(name="int32", inputs=("sign",)),
        Threshold(name="threshold", inputs=("int32",), threshold=limit, flip=flip),
        Affine(
            name="float64", inputs=("input",), scale=np.full(channels, 1 + 2.0**-30), shift=np.zeros(channels)
        ),
    ]
    if form != "flattened":
        return shape, nodes, {kind: kind for kind in VALUES}, channels
    nodes += [Flatten(name=f"{kind} flat", inputs=(kind,)) for kind in VALUES]
    return shape, nodes, {kind: f"{kind} flat" for kind in VALUES}, channels * 12


def samples(shape: tuple[int, ...], batch: int = 3) -> list[tuple[Array, dict[str, Any]]]:
    """Batches of floats and of pixels with their contract, none of which rounds when it is normalised."""
    return [(integers(batch, *shape), {}), (black_and_white(batch, *shape), EXACT)]


def used(nodes: list[Node]) -> tuple[Node, ...]:
    """What the last node needs, and the threshold that makes "int32" what it is."""
    needed = {nodes[-1].name}
    for node in reversed(nodes):
        if node.name in needed or (node.name == "threshold" and "int32" in needed):
            needed.update(node.inputs)
            needed.add(node.name)
    return tuple(node for node in nodes if node.name in needed)


def slopes(n: int) -> Array:
    return (np.arange(n) % 15 / 4 - 1.5).astype(np.float32)


def affine(n: int, dtype: Any) -> Step:
    scale = np.random.default_rng(n).choice([-2.0, 0.0, 0.5, 1.0], n).astype(dtype)
    return partial(Affine, scale=scale, shift=(np.arange(n) % 7 / 4).astype(dtype))


def operations(n: int) -> dict[str, Step]:
    return {
        "affine": affine(n, np.float32),
        "affine in float64": affine(n, np.float64),
        "sign": SIGN,
        "relu": RELU,
        "prelu": partial(PReLU, slope=slopes(n)),
        "leaky relu": partial(PReLU, slope=slopes(1)),
        "hardtanh": partial(Hardtanh, low=-1.5, high=2.25),
        "relu6": partial(Hardtanh, low=0.0, high=6.0),
        "flatten": FLATTEN,
    }


@pytest.mark.parametrize("channels", [1, 3, 65])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", operations(1))
def test_operations_on_every_kind_of_value(name: str, form: str, channels: int) -> None:
    """Images, vectors and flattened images, whatever they are stored as; alone, and with a sign after."""
    shape, nodes, value, n = values(form, channels)
    step = operations(n)[name]
    for kind in VALUES:
        for after in ([], [SIGN], [RELU, SIGN], [affine(n, np.float32)]):
            if after and name == "flatten" and form == "image":
                continue
            graph = used([*nodes, *chain(step, *after, source=value[kind])])
            for x, contract in samples(shape):
                assert_equal(model_of(shape, *graph, **contract), x, what=x.dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flat_threshold", [False, True])
def test_thresholds_on_integers(form: str, flat_threshold: bool) -> None:
    """A threshold that shares its integers with other readers compares the same integers."""
    shape, nodes, value, n = values(form, 65)
    limit = np.arange(n, dtype=np.int32) % 9 - 4
    step = partial(Threshold, threshold=limit, flip=np.arange(n) % 3 == 0)
    steps = [step, FLATTEN] if flat_threshold else [step]
    graph = used([*nodes, *chain(*steps, source=value["int32"])])
    for x, contract in samples(shape):
        truth = assert_equal(model_of(shape, *graph, **contract), x)
        assert set(np.unique(truth)) == {-1, 1}


POOLS: dict[str, dict[str, Any]] = {
    "of one": {"kernel": (1, 1), "stride": (1, 1)},
    "that skips": {"kernel": (1, 1), "stride": (3, 2)},
    "2x2": {"kernel": (2, 2), "stride": (2, 2)},
    "overlapping": {"kernel": (3, 2), "stride": (1, 1)},
    "padded": {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)},
    "padded on two sides": {"kernel": (3, 2), "stride": (2, 1), "padding": (0, 2, 1, 0)},
    "the whole image": {"kernel": (4, 3), "stride": (4, 3)},
}


@pytest.mark.parametrize("channels", [1, 3, 65])
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_of_every_kind_of_value(pool: str, channels: int) -> None:
    """The largest and the mean of a window, over what lies inside or over all of it, with a sign after it."""
    shape, nodes, _, _ = values("image", channels)
    steps = [partial(MaxPool2d, **POOLS[pool])]
    steps += [partial(AvgPool2d, count_padding=count, **POOLS[pool]) for count in (True, False)]
    for kind in VALUES:
        for step in steps:
            for after in ([], [SIGN], [FLATTEN, RELU]):
                graph = used([*nodes, *chain(step, *after, source=kind)])
                for x, contract in samples(shape):
                    assert_equal(model_of(shape, *graph, **contract), x, what=x.dtype)


@pytest.mark.parametrize("name", [*operations(1), "max", "mean", "linear", "dense", "depthwise"])
def test_float64_stays_float64(name: str) -> None:
    """Values computed in float64 keep bits when the same in float32 is taken off."""
    form = "vector" if name in ("linear", "dense") else "image"
    shape, nodes, _, _ = values(form, 5)
    ones = {"scale": np.ones(5), "shift": np.zeros(5)}
    pool = {"kernel": (2, 2), "stride": (1, 1)}
    step = {
        **operations(5),
        "max": partial(MaxPool2d, **pool),
        "mean": partial(AvgPool2d, **pool),
        "linear": partial(Linear, weight=packed_weight(5, 5), **ones),
        "dense": partial(Linear, weight=integers(5, 5), **ones),
        "depthwise": partial(Conv2d, weight=packed_weight(5, 1, 2, 2), groups=5, **ones),
    }[name]
    minus = {"scale": np.full(5, -1, np.float32), "shift": np.zeros(5, np.float32)}
    graph = [
        *nodes,
        step(name="wide", inputs=("float64",)),
        step(name="narrow", inputs=("input",)),
        *([] if name != "flatten" else [Flatten(name="flat", inputs=("input",))]),
    ]
    if name == "flatten":
        minus = {key: np.repeat(value, 12) for key, value in minus.items()}
    graph += [
        Affine(name="minus", inputs=("narrow",), **minus),
        Add(name="y", inputs=("wide", "minus")),
    ]
    truth = assert_equal(model_of(shape, *used(graph)), integers(20, *shape))
    assert (np.abs(truth) < 1e-4).all()
    assert (truth == 0).all() == (name in ("sign", "affine"))


def test_limits_that_float32_cannot_hold() -> None:
    """Limits and padding beside float64 values are float64 as well: the sign of 0.7 - 0.7 is +1."""
    one = np.ones(1)
    wide = partial(Affine, scale=one, shift=0 * one)
    minus = partial(Affine, scale=one, shift=-0.7 * one)
    clip = partial(Hardtanh, low=-0.7, high=0.7)
    x = np.array([[3.0], [0.5]], dtype=np.float32)
    truth = assert_equal(model_of((1,), *chain(wide, clip, minus, SIGN)), x)
    assert truth.tolist() == [[1], [-1]]
    weight = PackedWeight.from_signs(np.ones((1, 1, 1, 1), dtype=np.int8))
    padded = partial(Conv2d, weight=weight, scale=one, shift=-0.7 * one, padding=(1, 0, 0, 0), pad_value=0.7)
    truth = assert_equal(model_of((1, 1, 1), *chain(wide, padded, SIGN)), x[..., None, None])
    assert truth.ravel().tolist() == [1, 1, 1, -1]


def test_integers_that_float32_cannot_hold() -> None:
    """Sums of more than 2^24 signs are float64 to whoever reads them beside a threshold."""
    n = 2**24 + 1
    ones = PackedWeight(np.zeros((1, n // 64 + 1), dtype=np.uint64), (1, n))
    limit = {"threshold": np.array([n], np.int32), "flip": np.array([False])}
    minus = {"scale": np.ones(1, np.float32), "shift": np.full(1, -(2.0**24), np.float32)}
    nodes = [
        Sign(name="x", inputs=("input",)),
        Linear(name="sum", inputs=("x",), weight=ones),
        Threshold(name="threshold", inputs=("sum",), **limit),
        Affine(name="a", inputs=("sum",), **minus),
        ReLU(name="b", inputs=("sum",)),
        Affine(name="c", inputs=("b",), **minus),
        Flatten(name="d", inputs=("sum",)),
        Affine(name="e", inputs=("d",), **minus),
        Concat(name="y", inputs=("threshold", "a", "c", "e")),
    ]
    model, x = model_of((n,), *nodes), np.ones((1, n), np.float32)
    assert reference.run(model, x).tolist() == [[1, 1, 1, 1]]
    assert Engine(model)(x).tolist() == [[1, 1, 1, 1]]


# --- Add, Concat, Softmax ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cls", [Add, Concat])
def test_adding_and_concatenating_mixed_kinds(cls: type[Node], form: str) -> None:
    """Any two kinds of values, one of them twice, and all of them at once; raw pixels as well."""
    shape, nodes, value, _ = values(form, 3)
    for a in VALUES:
        for b in VALUES:
            for both in ((a, b), (a, b, a), (b, *VALUES)):
                last = cls(name="y", inputs=tuple(value[kind] for kind in both))
                for x, contract in samples(shape, batch=2):
                    assert_equal(model_of(shape, *used([*nodes, last]), **contract), x, what=x.dtype)


def test_adding_in_order() -> None:
    """Float32 values are added in float32, from left to right, until one of float64 comes."""
    one = np.ones(1)
    nodes = [
        Affine(name="a", inputs=("input",), scale=np.float32(one), shift=np.float32(1e8 * one)),
        Affine(name="b", inputs=("input",), scale=0 * one, shift=-1e8 * one),
        Add(name="y", inputs=("a", "input", "b")),
    ]
    truth = assert_equal(model_of((1,), *nodes), np.array([[3], [1], [-3]], dtype=np.float32))
    assert not truth.any()


@pytest.mark.parametrize("cls", [Add, Concat])
def test_what_reads_a_sum_or_a_concatenation(cls: type[Node]) -> None:
    """Layers, pooling, channels and flattening go on with the result, of images and of flattened ones."""
    pairs = [("input", "sign"), ("relu", "float64"), ("sign", "int"), ("sign", "sign"), ("int32", "relu")]
    for form in ("image", "flattened"):
        shape, nodes, value, n = values(form, 3)
        channels = n * (2 if cls is Concat else 1)
        readers: list[list[Step]]
        if form == "image":
            conv = partial(Conv2d, weight=packed_weight(4, channels, 2, 2), padding=(1, 0, 0, 1))
            dense = partial(Conv2d, weight=integers(4, channels, 2, 2))
            layer = partial(Linear, weight=packed_weight(5, channels * 12))
            readers = [[conv], [dense], [SIGN, conv], [FLATTEN, layer], [SIGN, FLATTEN, layer]]
        else:
            layer = partial(Linear, weight=packed_weight(5, channels))
            prelu = partial(PReLU, slope=slopes(channels))
            readers = [[layer], [SIGN, layer], [affine(channels, np.float32)], [prelu, layer]]
        for a, b in pairs:
            both = cls(name="both", inputs=(value[a], value[b]))
            for steps in readers:
                graph = used([*nodes, both, *chain(*steps, source="both")])
                for x, contract in samples(shape):
                    assert_equal(model_of(shape, *graph, **contract), x, what=x.dtype)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    "counts", [(1, 1), (63, 1, 65), (64, 64), (33, 31, 64, 2), (7,) * 11, (100, 28, 130), (32, 65, 95, 1)]
)
def test_concatenating_signs(counts: tuple[int, ...], flat: bool) -> None:
    """Signs side by side, of any number of channels each: what comes out, and what a layer makes of it."""
    image = (2, 3, 2)
    nodes: list[Node] = []
    for i, count in enumerate(counts):
        conv = partial(Conv2d, weight=packed_weight(count, 2, 1, 1, seed=i))
        nodes += chain(conv, SIGN, *([FLATTEN] if flat else []), name=f"{i} ")
    parts = tuple(f"{i} {2 if flat else 1}" for i in range(len(counts)))
    concat = Concat(name="c", inputs=(*parts, parts[0]))
    channels = sum(counts) + counts[0]
    layers: list[Step] = [partial(Conv2d, weight=packed_weight(66, channels, 2, 2))]
    if flat:
        channels *= 6
        limit = np.zeros(66, np.int32)
        layers = [partial(Linear, weight=packed_weight(66, channels))]
        layers += [partial(Threshold, threshold=limit, flip=limit == 0)]
    for steps in ([], layers, [partial(PReLU, slope=slopes(channels))]):
        model = model_of(image, *nodes, concat, *chain(*steps, source="c"))
        assert model.kinds["c"] == "sign"
        assert_equal(model, integers(3, *image))


def test_softmax() -> None:
    """Softmax of floats to 1e-6, large logits too; of float64, of signs, of a flattened image in order."""
    for n in (1, 2, 10, 97):
        p = Softmax(name="y", inputs=("input",))
        for scale in (1, 100):
            truth = assert_within(model_of((n,), p), scale * random_floats(20, n), 1e-6)
            assert np.allclose(truth.sum(axis=1), 1)
    for form in ("vector", "flattened"):
        shape, nodes, value, _ = values(form, 3)
        for kind in VALUES:
            graph = used([*nodes, Softmax(name="y", inputs=(value[kind],))])
            for x, contract in samples(shape):
                assert_within(model_of(shape, *graph, **contract), x, 1e-6)


# --- how nodes are put together ---------------------------------------------------------------------------


def test_values_with_several_readers() -> None:
    """Nothing is fused away that another node reads as well: each reader sees the value itself."""
    image, channels = (2, 5, 5), 5
    limit = partial(Threshold, threshold=np.arange(-2, 3, dtype=np.int32), flip=np.arange(5) % 2 == 0)
    pool = partial(MaxPool2d, kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1))
    readers: dict[str, Step] = {
        "sign": SIGN,
        "relu": RELU,
        "prelu": partial(PReLU, slope=slopes(channels)),
        "threshold": limit,
        "pool": pool,
        "affine": affine(channels, np.float64),
        "mean": partial(AvgPool2d, kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1)),
        "conv": partial(Conv2d, weight=packed_weight(5, 5, 2, 2), padding=(0, 1, 1, 0), pad_value=-1.0),
    }
    conv = partial(Conv2d, weight=packed_weight(channels, 2, 3, 3), padding=(1, 1, 1, 1))
    for first in ([], [SIGN]):
        for a in readers:
            for b in readers:
                if not first and "threshold" in (a, b):
                    continue
                nodes = chain(*first, conv)
                last = nodes[-1].name
                nodes += [readers[a](name="a", inputs=(last,)), readers[b](name="b", inputs=(last,))]
                for end in (Add(name="y", inputs=("a", "b")), Concat(name="y", inputs=("b", last, "a"))):
                    model = model_of(image, *nodes, end)
                    assert_equal(model, integers(2, *image))


@pytest.mark.parametrize("between", ["relu", "pool", "relu, pool", "pool, pool"])
def test_what_lies_between_has_a_second_reader(between: str) -> None:
    """A sum, an activation or a maximum on the way to a sign or a threshold may be read on the way."""
    image = (2, 5, 5)
    step = {"relu": RELU, "pool": partial(MaxPool2d, kernel=(2, 2), stride=(1, 1), padding=(1, 0, 0, 1))}
    steps = [step[name] for name in between.split(", ")]
    conv = partial(Conv2d, weight=packed_weight(70, 2, 3, 3), padding=(1, 1, 1, 1))
    limit = partial(Threshold, threshold=np.arange(-35, 35, dtype=np.int32) // 3, flip=np.arange(70) % 2 == 0)
    for first in ([], [SIGN]):
        for end in (SIGN, limit):
            if end is limit and ("relu" in between or not first):
                continue
            nodes = chain(*first, conv, *steps, end)
            for other in nodes[len(first) : -1]:
                both = Add(name="y", inputs=(other.name, nodes[-1].name))
                for x, contract in samples(image):
                    assert_equal(model_of(image, *nodes, both, **contract), x)


def test_dead_nodes() -> None:
    """Nodes that nothing reads change nothing, wherever they stand and whatever they are."""
    image = (3, 4, 3)
    _, nodes, value, _ = values("image", 3)
    conv = Conv2d(name="y", inputs=("relu",), weight=packed_weight(4, 3, 2, 2))
    for x, contract in samples(image):
        alive = assert_equal(model_of(image, *used([*nodes, conv]), **contract), x)
        dead = [
            *nodes,
            *chain(FLATTEN, partial(Softmax), name="a"),
            *chain(partial(Conv2d, weight=packed_weight(70, 3, 3, 3)), RELU, FLATTEN, SIGN, name="b"),
            Concat(name="c", inputs=tuple(value.values())),
        ]
        assert np.array_equal(assert_equal(model_of(image, *dead, conv, **contract), x), alive)


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_of_output(form: str, kind: str) -> None:
    """An image, a vector, a flattened image, of each kind, comes out as float32 in PyTorch's order."""
    for channels in (1, 3, 17, 70):
        shape, nodes, value, _ = values(form, channels)
        step = partial(MaxPool2d, kernel=(1, 1), stride=(1, 1)) if form == "image" else FLATTEN
        graphs = [used([*nodes, *chain(step, source=value[kind])])]
        if kind not in ("input", "int32"):  # which are no node, and read by another
            names = [node.name for node in nodes]
            graphs.append(used(nodes[: names.index(value[kind]) + 1]))
        for graph in graphs:
            for x, contract in samples(shape):
                assert_equal(model_of(shape, *graph, **contract), x, what=x.dtype)


def test_large_images_change_their_order() -> None:
    """Images are brought into the engine's order and back for any number of channels and places."""
    for channels in (1, 15, 16, 33, 64, 65):
        for height, width in ((1, 1), (3, 5), (4, 4), (7, 33)):
            image = (channels, height, width)
            for step in (RELU, SIGN, partial(MaxPool2d, kernel=(1, 1), stride=(1, 1))):
                assert_equal(model_of(image, *chain(step)), random_floats(2, *image))


@pytest.mark.parametrize("seed", range(5))
def test_one_of_each(seed: int) -> None:
    """The model with every operation gives the reference's probabilities, from pixels and from floats."""
    model = one_of_each(seed)
    for x in (random_pixels(50, 2, 6, 6), random_floats(50, 2, 6, 6)):
        assert_within(model, x, 1e-5)


def test_general_pixels_are_normalised_in_float64() -> None:
    """Every pixel value, wherever it is read: what is elementwise equals the reference's float64 exactly."""
    x = np.arange(256, dtype=np.uint8).reshape(64, 2, 2, 1)
    contract = {"mean": (1 / 3, 0.1), "std": (0.3, 0.7)}
    slope = np.array([0.1, -0.3], np.float32)
    flat = [FLATTEN, affine(4, np.float64)]
    for steps in ([RELU], [affine(2, np.float64)], [affine(2, np.float32), SIGN], [FLATTEN], flat, [SIGN]):
        assert_equal(model_of((2, 2, 1), *chain(*steps), **contract), x)
    for steps in ([partial(PReLU, slope=slope)], [partial(MaxPool2d, kernel=(2, 1), stride=(1, 1)), SIGN]):
        assert_equal(model_of((2, 2, 1), *chain(*steps), **contract), x)
    for cls in (Add, Concat):
        twice = cls(name="y", inputs=("input", "input"))
        assert_equal(model_of((2, 2, 1), twice, **contract), x)


# --- NaN and infinity -------------------------------------------------------------------------------------


def spoilt(*shape: int, seed: int = 0) -> Array:
    """Whole numbers of which a few are NaN or infinite."""
    x, rng = integers(*shape, seed=seed), np.random.default_rng(seed)
    at = rng.random(shape) < 0.05
    x[at] = rng.choice([np.nan, np.inf, -np.inf], at.sum())
    return x


def spoilable() -> Iterator[tuple[tuple[int, ...], list[Step]]]:
    """Input shapes, and what may read such values."""
    image = (3, 5, 4)
    pool = {"kernel": (2, 3), "stride": (2, 1), "padding": (1, 0, 1, 1)}
    ones = {"scale": np.ones(70), "shift": np.zeros(70)}
    zeros = {"scale": np.zeros(3, np.float32), "shift": np.ones(3, np.float32)}
    activations: list[Step] = [
        RELU,
        partial(Hardtanh),
        partial(PReLU, slope=np.array([0.5, -1, 0], np.float32)),
        partial(PReLU, slope=np.zeros(1, np.float32)),
    ]
    for step in (*activations, SIGN, partial(Affine, **zeros), affine(3, np.float64), FLATTEN):
        yield image, [step]
        yield image, [step, SIGN]
        yield image, [affine(3, np.float64), step]
    for step in (partial(MaxPool2d, **pool), partial(AvgPool2d, **pool)):
        for before in ([], [affine(3, np.float64)], [RELU]):
            yield image, [*before, step]
            yield image, [*before, step, SIGN]
    for weight in (packed_weight(70, 3, 3, 2), integers(70, 3, 3, 2)):
        for fields in ({}, ones):
            conv = partial(Conv2d, weight=weight, padding=(1, 1, 0, 1), **fields)
            for after in ([], [SIGN], [RELU], [partial(Hardtanh), SIGN], [partial(MaxPool2d, **pool), SIGN]):
                yield image, [conv, *after]
    yield image, [partial(Conv2d, weight=packed_weight(3, 1, 2, 2), groups=3, padding=(1, 0, 0, 1))]
    yield image, [partial(Conv2d, weight=packed_weight(6, 1, 2, 2), groups=3)]
    for weight in (packed_weight(70, 97), integers(70, 97)):
        for fields in ({}, ones):
            yield (97,), [partial(Linear, weight=weight, **fields)]
    yield (9,), [partial(Softmax)]


def test_nan_and_infinity_spread_as_in_the_reference() -> None:
    """NaN wins a maximum, stays NaN in activations and has the sign -1; infinities add up or become NaN."""
    seen = set()
    for shape, steps in spoilable():
        x = spoilt(60, *shape)
        model = model_of(shape, *chain(*steps))
        with np.errstate(invalid="ignore"):
            if isinstance(model.output, Softmax):
                truth = reference.run(model, x)
                assert np.isnan(truth).any()
                assert all(np.allclose(y, truth, atol=1e-6, equal_nan=True) for _, y in native(model, x))
            else:
                truth = assert_equal(model, x)
        seen.update(type(node) for node in model.nodes if np.isnan(truth).any())
    assert {Conv2d, Linear, MaxPool2d, AvgPool2d, PReLU, ReLU, Hardtanh, Affine, Flatten} <= seen


def test_nan_in_one_sample_is_no_other_samples_concern() -> None:
    """The other samples of a batch give what they give without it."""
    model, x = one_of_each(), random_floats(20, 2, 6, 6)
    x[7, 1, 3, 3] = np.nan
    others = np.arange(20) != 7
    with np.errstate(invalid="ignore"):
        truth = reference.run(model, x[others])
    for isa, result in native(model, x):
        assert np.abs(result[others] - truth).max() < 1e-5, isa


# --- what goes in -----------------------------------------------------------------------------------------


def unaligned(x: Array) -> Array:
    """A copy at an odd address."""
    raw = np.empty(x.nbytes + 1, dtype=np.uint8)
    copy = np.frombuffer(raw.data, x.dtype, x.size, offset=1).reshape(x.shape)
    copy[...] = x
    return copy


def layouts(x: Array, folder: Path) -> dict[str, Array]:
    """Arrays with the entries of x, (batch, 2, 6, 6), that lie in memory in other ways."""
    twice = np.repeat(x, 2, axis=0)
    wide = np.zeros((*x.shape[:-1], 9), x.dtype)
    wide[..., 1:7] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    mapped = np.memmap(folder / "x", dtype=x.dtype, mode="w+", shape=x.shape)
    mapped[:] = x
    return {
        "every second sample": twice[::2],
        "reversed": x[::-1].copy()[::-1],
        "mirrored": x[..., ::-1].copy()[..., ::-1],
        "channels last": x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
        "columns in front": np.asfortranarray(x),
        "a part of a larger array": wide[..., 1:7],
        "read-only": read_only,
        "unaligned": unaligned(x),
        "unaligned and strided": unaligned(twice)[::2],
        "a file": mapped,
        "one sample for all": np.broadcast_to(x[:1], x.shape),
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_inputs_in_any_layout(dtype: Any, tmp_path: Path) -> None:
    """A view is taken by its entries, however they lie in memory, and is not changed."""
    draw: Any = random_pixels if dtype == np.uint8 else random_floats
    model, x = one_of_each(), draw(6, 2, 6, 6)
    for name, view in layouts(x, tmp_path).items():
        same = x if name != "one sample for all" else np.repeat(x[:1], 6, axis=0)
        before = view.copy()
        assert np.array_equal(before, same)
        for isa in instruction_sets():
            engine = Engine(model, isa=isa)
            assert np.array_equal(engine(view), engine(same)), (name, isa)
            assert np.array_equal(engine(view[:1]), engine(same[:1])), (name, isa)
        assert np.array_equal(view, before), name


def test_a_batch_of_one_with_odd_strides() -> None:
    """The stride of an axis of one entry means nothing."""
    x = random_floats(1, 2, 6, 6)
    strides = (12, *x.strides[1:])
    odd = np.lib.stride_tricks.as_strided(x, x.shape, strides)
    model = one_of_each()
    for isa, result in native(model, odd):
        assert np.array_equal(result, Engine(model, isa=isa)(x)), isa


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_batches_of_any_size(dtype: Any) -> None:
    """Batches of no sample, of one, of so many that they come in pieces: each sample's result is its own, to
    the last bit."""
    draw: Any = random_pixels if dtype == np.uint8 else random_floats
    image = (3, 32, 32)
    nodes = chain(
        partial(Conv2d, weight=packed_weight(24, 3, 3, 3), padding=(1, 1, 1, 1)),
        RELU,
        partial(Conv2d, weight=packed_weight(9, 24, 3, 3)),
        partial(MaxPool2d, kernel=(2, 2), stride=(2, 2)),
        FLATTEN,
        partial(Linear, weight=random_floats(7, 9 * 15 * 15)),
    )
    model, x = model_of(image, *nodes, mean=(0.5,), std=(0.25,)), draw(131, *image)
    for isa in instruction_sets():
        engine = Engine(model, isa=isa)
        row = engine.plan(np.dtype(dtype)).bytes(65, 1) - engine.plan(np.dtype(dtype)).bytes(1, 1)
        assert row > 2**23  # bytes of 64 samples: more than are computed at once
        assert (engine(x[:0]).shape, engine(x[:0]).dtype) == ((0, 7), np.float32)
        whole = engine(x)
        for at in (0, 60, 130):
            assert np.array_equal(engine(x[at : at + 1]), whole[at : at + 1]), isa
        assert np.array_equal(np.concatenate([engine(x[i : i + 4]) for i in range(0, 131, 4)]), whole), isa
        assert np.array_equal(Engine(model, threads=3, isa=isa)(x), whole), isa


def test_the_model_is_not_changed_and_may_go() -> None:
    """An engine has copies of what it needs: it neither writes to the model's arrays nor reads them later."""
    model, x = one_of_each(), random_pixels(9, 2, 6, 6)
    before = [array.copy() for node in model.nodes for array in node.arrays()]
    engine = Engine(model)
    first = engine(x)
    arrays = [array for node in model.nodes for array in node.arrays()]
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before, strict=True))
    for array in arrays:
        if array.flags.writeable:
            array[...] = 0
    assert np.array_equal(engine(x), first)
    result = engine(x)
    engine(random_pixels(9, 2, 6, 6, seed=1))
    assert np.array_equal(result, first)  # nor is a result written to once it is given


def test_instruction_sets() -> None:
    """Every machine has the portable kernels; an engine uses the best by default, and knows no others."""
    known = instruction_sets()
    assert known[0] == "portable"
    assert len(set(known)) == len(known)
    assert Engine(one_of_each()).isa == known[-1]
    for isa in known:
        assert Engine(one_of_each(), isa=isa).isa == isa
    with pytest.raises(ValueError, match=f"one of {', '.join(known)} on this processor, not 'sse'"):
        Engine(one_of_each(), isa="sse")


def test_other_dtypes_are_refused() -> None:
    """The engine by itself takes uint8 and float32, and reads no other array's bytes as those."""
    for dtype in (np.int32, np.int8, np.float64, np.dtype(">f4")):
        with pytest.raises(ValueError, match="takes uint8 and float32, not"):
            Engine(one_of_each())(np.zeros((1, 2, 6, 6), dtype))


def test_many_nodes_at_once() -> None:
    """A thousand values that are all needed to the end are planned, each with a place of its own."""
    relus = [
        Affine(name=f"n{i}", inputs=("input",), scale=np.full(3, float(i)), shift=np.ones(3))
        for i in range(1000)
    ]
    model = model_of((3,), *relus, Add(name="sum", inputs=tuple(node.name for node in relus)))
    assert_equal(model, integers(2, 3))


# --- threads ----------------------------------------------------------------------------------------------


@cache
def large_models() -> dict[str, tuple[PackedModel, int]]:
    """With enough to do for eight threads, in few samples or many; with the batch size."""
    image = (12, 24, 24)
    pool = {"kernel": (2, 2), "stride": (2, 2)}
    mixed = [
        Conv2d(name="a", inputs=("input",), weight=packed_weight(70, 12, 3, 3), padding=(1, 1, 1, 1)),
        Sign(name="b", inputs=("a",)),
        Conv2d(name="c", inputs=("b",), weight=packed_weight(70, 70, 3, 3), padding=(1, 1, 1, 1)),
        ReLU(name="d", inputs=("a",)),
        Conv2d(name="e", inputs=("d",), weight=packed_weight(70, 1, 3, 3), padding=(1, 1, 1, 1), groups=70),
        Add(name="f", inputs=("c", "e", "d")),
        Concat(name="g", inputs=("b", "b")),
        Concat(name="h", inputs=("f", "g", "input")),
        AvgPool2d(name="i", inputs=("h",), **pool),
        MaxPool2d(name="j", inputs=("i",), **pool),
        Affine(name="k", inputs=("j",), scale=random_floats(222), shift=random_floats(222)),
        Conv2d(name="l", inputs=("k",), weight=random_floats(10, 222, 2, 2)),
        Flatten(name="m", inputs=("l",)),
        Flatten(name="n", inputs=("g",)),
        Linear(name="o", inputs=("n",), weight=packed_weight(30, 140 * 576)),
        Concat(name="p", inputs=("m", "o", "n")),
        PReLU(name="q", inputs=("p",), slope=random_floats(250 + 30 + 140 * 576)),
        Linear(name="r", inputs=("q",), weight=packed_weight(40, 250 + 30 + 140 * 576)),
        Softmax(name="s", inputs=("r",)),
    ]
    wide = chain(
        partial(Linear, weight=packed_weight(1500, 2000)),
        RELU,
        partial(Linear, weight=packed_weight(1029, 1500)),
        SIGN,
        partial(Linear, weight=packed_weight(1500, 1029)),
        partial(Threshold, threshold=np.zeros(1500, np.int32), flip=np.arange(1500) % 2 == 0),
        partial(Linear, weight=random_floats(700, 1500)),
    )
    contract = {"mean": (0.5,), "std": (0.25,)}
    return {
        "images": (model_of(image, *mixed, **contract), 5),
        "one sample": (model_of((2000,), *wide, **contract), 1),
        "large layers": (model_of((2000,), *wide, **contract), 30),
        "one layer": (model_of((2000,), *wide[:1], **contract), 3),
    }


@pytest.mark.parametrize("name", ["images", "large layers", "one sample", "one layer"])
@pytest.mark.parametrize("what", ["float32", "int8", "uint8"])
def test_threads_change_nothing(what: str, name: str) -> None:
    """One thread, two, three and eight give the same floats to the last bit, on every instruction set."""
    model, batch = large_models()[name]
    draw: Any = random_pixels if what == "uint8" else random_floats
    x = draw(batch, *model.input.shape)
    for isa in instruction_sets():
        activations: Any = "int8" if what == "int8" else "float32"
        alone = Engine(model, activations, threads=1, isa=isa)(x)
        assert np.isfinite(alone).all()
        for threads in (2, 3, 8):
            engine = Engine(model, activations, threads=threads, isa=isa)
            for _ in range(2):
                assert np.array_equal(engine(x), alone), (isa, threads)


def test_eps_is_float32s() -> None:
    """The bound that the tests of products use is half the distance from 1 to the next float32."""
    assert np.float32(1) + np.float32(2 * EPS) > 1
    assert np.float32(1 + EPS) == 1

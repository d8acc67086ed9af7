"""Each node by itself: the shape and kind of what it gives, and the fields and inputs that it refuses."""

from typing import Any

import numpy as np
import pytest
from support.helpers import packed_weight, random_floats, random_signs

from bnn.packed.nodes import (
    MAX_ELEMENTS,
    NODES,
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
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)

NAN, INF = float("nan"), float("inf")


def floats(*values: float, dtype: type = np.float32) -> np.ndarray:
    return np.array(values, dtype=dtype)


def make(cls: type[Node], **fields: Any) -> Node:
    return cls(name="node", inputs=("input",), **fields)


def linear(**fields: Any) -> Node:
    return make(Linear, **{"weight": packed_weight(3, 5)} | fields)


def conv(**fields: Any) -> Node:
    return make(Conv2d, **{"weight": packed_weight(4, 3, 3, 3)} | fields)


def threshold(*values: int, flip: tuple[bool, ...] | None = None) -> Node:
    flips = np.array(flip if flip is not None else [False] * len(values))
    return make(Threshold, threshold=np.array(values, dtype=np.int32), flip=flips)


def pool(cls: type[Node] = MaxPool2d, **fields: Any) -> Node:
    return make(cls, **{"kernel": (2, 2), "stride": (2, 2)} | fields)


# --- shapes -----------------------------------------------------------------------------------------------

SHAPES = [
    (linear(), [(5,)], (3,)),
    (conv(), [(3, 5, 6)], (4, 3, 4)),
    (conv(padding=(1, 1, 1, 1)), [(3, 5, 6)], (4, 5, 6)),
    (conv(padding=(0, 1, 2, 3)), [(3, 5, 6)], (4, 4, 9)),
    (conv(stride=(2, 3)), [(3, 8, 8)], (4, 3, 2)),
    (conv(dilation=(2, 3)), [(3, 5, 7)], (4, 1, 1)),
    (conv(weight=packed_weight(4, 1, 1, 2), groups=2), [(2, 5, 6)], (4, 5, 5)),
    (make(Affine, scale=floats(1, 2), shift=floats(0, 0)), [(2,)], (2,)),
    (make(Affine, scale=floats(1, 2), shift=floats(0, 0)), [(2, 5, 6)], (2, 5, 6)),
    (threshold(1, 2), [(2, 5, 6)], (2, 5, 6)),
    (make(PReLU, slope=floats(0.5)), [(2, 5, 6)], (2, 5, 6)),
    (make(PReLU, slope=floats(0.5, 2)), [(2,)], (2,)),
    (pool(), [(2, 5, 6)], (2, 2, 3)),
    (pool(padding=(0, 1, 1, 0)), [(2, 5, 6)], (2, 3, 3)),
    (pool(AvgPool2d, kernel=(5, 6)), [(2, 5, 6)], (2, 1, 1)),
    (make(Add), [(2, 5), (2, 5), (2, 5)], (2, 5)),
    (make(Concat), [(2, 5, 6), (1, 5, 6)], (3, 5, 6)),
    (make(Concat), [(4,), (1,), (4,)], (9,)),
    (make(Flatten), [(2, 5, 6)], (60,)),
    (make(Softmax), [(10,)], (10,)),
    *((make(cls), [(2, 5, 6)], (2, 5, 6)) for cls in (Sign, ReLU, Hardtanh)),
]


@pytest.mark.parametrize(("node", "inputs", "output"), SHAPES)
def test_shape(node: Node, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> None:
    """A sound node passes its own check, and gives PyTorch's shape without the batch."""
    node.check()
    assert node.shape(*inputs) == output


def test_every_node_type_has_a_shape_test() -> None:
    """The table above forgets no operation."""
    assert {type(node) for node, _, _ in SHAPES} == set(NODES.values())


@pytest.mark.parametrize(
    ("node", "inputs", "message"),
    [
        (linear(), [(6,)], r"takes \(5,\), got \(6,\)"),
        (linear(), [(5, 1, 1)], r"takes \(5,\), got \(5, 1, 1\)"),
        (conv(), [(4, 9, 9)], r"takes \(3, h, w\), got \(4, 9, 9\)"),
        (conv(), [(3,)], r"takes \(3, h, w\), got \(3,\)"),
        (conv(groups=2), [(3, 9, 9)], r"takes \(6, h, w\)"),
        (conv(), [(3, 2, 9)], r"larger than the padded input \(3, 2, 9\)"),
        (conv(dilation=(1, 4)), [(3, 9, 8)], "larger than the padded input"),
        (make(Affine, scale=floats(1), shift=floats(0)), [(2, 5, 6)], "takes 1 channels, got"),
        (threshold(1, 2), [(3,)], "takes 2 channels, got"),
        (make(PReLU, slope=floats(0.5, 2)), [(3,)], "takes 2 channels, got"),
        (pool(), [(9,)], r"takes \(c, h, w\), got \(9,\)"),
        (pool(AvgPool2d), [(2, 1, 9)], "larger than the padded input"),
        (make(Add), [(2, 5), (1, 5)], "takes one shape"),
        (make(Concat), [(2, 5, 6), (2, 6, 6)], "differ beyond the channels"),
        (make(Concat), [(2, 5, 6), (2,)], "differ beyond the channels"),
        (make(Softmax), [(2, 5, 6)], r"takes \(classes,\)"),
    ],
)
def test_shapes_that_do_not_fit(node: Node, inputs: list[tuple[int, ...]], message: str) -> None:
    """Inputs of another shape than the fields ask for are refused, with both in the message."""
    node.check()
    with pytest.raises(ValueError, match=message):
        node.shape(*inputs)


@pytest.mark.parametrize("size", [2**30, 2**62, 10**30])
def test_a_large_stride_hides_no_large_padding(size: int) -> None:
    """Padding that would make a giant of the input is refused, though the output stays small."""
    for node in (
        conv(padding=(size, 0, 0, 0), stride=(size, 1)),
        pool(kernel=(1, size + 1), stride=(1, size), padding=(0, 0, 0, size)),
    ):
        node.check()
        with pytest.raises(ValueError, match=f"its padded input .* has more than {MAX_ELEMENTS} entries"):
            node.shape((3, 9, 9))


# --- kinds ------------------------------------------------------------------------------------------------

ONES, ZEROS = np.ones(3, dtype=np.float32), np.zeros(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("node", "inputs", "output"),
    [
        (linear(), ["sign"], "int"),
        (linear(), ["input"], "float"),
        (linear(), ["float"], "float"),
        (linear(), ["int"], "float"),
        (linear(scale=ONES, shift=ZEROS), ["sign"], "float"),
        (linear(weight=random_floats(3, 5)), ["sign"], "float"),
        (conv(), ["sign"], "int"),
        (conv(padding=(1, 1, 1, 1)), ["sign"], "int"),
        (conv(padding=(1, 1, 1, 1), pad_value=-1.0), ["sign"], "int"),
        (conv(padding=(1, 1, 1, 1), pad_value=0.5), ["sign"], "float"),
        (conv(pad_value=0.5), ["sign"], "int"),
        (threshold(1), ["int"], "sign"),
        (make(Sign), ["float"], "sign"),
        (make(Sign), ["input"], "sign"),
        (make(Affine, scale=ONES, shift=ZEROS), ["sign"], "float"),
        (make(ReLU), ["int"], "float"),
        (make(Add), ["sign", "sign"], "float"),
        (make(Concat), ["sign", "sign"], "sign"),
        (make(Concat), ["sign", "int"], "float"),
        (make(Softmax), ["int"], "float"),
        (pool(AvgPool2d), ["sign"], "float"),
        *((make(Flatten), [kind], kind) for kind in ("input", "sign", "int", "float")),
        *((pool(), [kind], kind) for kind in ("sign", "int", "float")),
        (pool(), ["input"], "float"),
    ],
)
def test_kind(node: Node, inputs: list[Any], output: str) -> None:
    """±1 weights on ±1 inputs, without a scale, give integers; pooling and flattening keep what they get."""
    assert node.kind(*inputs) == output


@pytest.mark.parametrize("kind", ["input", "sign", "float"])
def test_a_threshold_takes_integers_only(kind: Any) -> None:
    """A comparison with an integer stands for a batch norm only where the values are integers."""
    with pytest.raises(ValueError, match=f"takes integers, got {kind}"):
        threshold(1).kind(kind)


# --- fields -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (linear(weight=packed_weight(3, 5, 1, 1)), "is not .out, in."),
        (linear(weight=random_floats(3, 5).astype(np.float64)), "weight is float64, not float32"),
        (linear(weight=np.ones((3, 5), dtype=np.int8)), "weight is int8"),
        (linear(weight=np.full((3, 5), NAN, dtype=np.float32)), "weight holds NaN or infinity"),
        (linear(weight=np.empty((3, 0), dtype=np.float32)), "weight is empty"),
        (linear(scale=ONES), "come together"),
        (linear(shift=ZEROS), "come together"),
        (linear(scale=ONES[:2], shift=ZEROS), r"scale has shape \(2,\), not \(3,\)"),
        (linear(scale=ONES, shift=ZEROS[:, None]), r"shift has shape \(3, 1\), not \(3,\)"),
        (linear(scale=ONES.astype(np.float64), shift=ZEROS), "shift is float32, not float64"),
        (linear(scale=ONES.astype(np.float16), shift=ZEROS), "scale is float16, not float32 or float64"),
        (linear(scale=floats(1, NAN, 1), shift=ZEROS), "scale holds NaN or infinity"),
        (linear(scale=ONES, shift=floats(0, 0, -INF)), "shift holds NaN or infinity"),
        (conv(weight=packed_weight(4, 3)), "is not .out, in, kh, kw."),
        (conv(stride=(0, 1)), "sizes must be positive"),
        (conv(dilation=(1, -1)), "sizes must be positive"),
        (conv(groups=0), "sizes must be positive"),
        (conv(groups=3), "4 channels in 3 groups"),
        (conv(padding=(0, -1, 0, 0)), "negative padding"),
        (conv(pad_value=NAN), "pad_value is nan, not a finite float32"),
        (conv(pad_value=1e39), "pad_value is 1e.39, not a finite float32"),
        (make(Affine, scale=floats(), shift=floats()), "scale is empty"),
        (make(Affine, scale=np.float32(1), shift=floats(1)), "scale has shape"),
        (make(Affine, scale=floats(1, INF), shift=floats(0, 0)), "scale holds NaN or infinity"),
        (make(Affine, scale=floats(1, 1), shift=floats(0)), "shift has shape"),
        (make(Threshold, threshold=floats(1), flip=np.array([True])), "threshold must be int32"),
        (
            make(Threshold, threshold=np.array([[1]], dtype=np.int32), flip=np.array([[True]])),
            "must be int32, 1-d",
        ),
        (threshold(1, 2, flip=(True,)), "flip must be bool"),
        (
            make(Threshold, threshold=np.array([1], dtype=np.int32), flip=np.array([1], dtype=np.uint8)),
            "flip",
        ),
        (
            make(
                Threshold,
                threshold=np.array([1], dtype=np.int32),
                flip=np.array([2], dtype=np.uint8).view(np.bool_),
            ),
            "bytes other than 0 and 1",
        ),
        (make(PReLU, slope=floats()), "slope is empty"),
        (make(PReLU, slope=floats(NAN)), "slope holds NaN or infinity"),
        (make(PReLU, slope=floats(1, dtype=np.float64)), "slope is float64"),
        (make(Hardtanh, low=1.0, high=0.0), "low 1.0 above high 0.0"),
        (make(Hardtanh, low=NAN), "low is nan"),
        (make(Hardtanh, high=INF), "high is inf"),
        (pool(kernel=(0, 1)), "sizes must be positive"),
        (pool(stride=(1, 0)), "sizes must be positive"),
        (pool(padding=(-1, 0, 0, 0)), "negative padding"),
        (pool(padding=(0, 0, 2, 0)), "padding as large as the window"),
        (pool(AvgPool2d, padding=(0, 2, 0, 0)), "padding as large as the window"),
    ],
)
def test_fields_that_do_not_fit(node: Node, message: str) -> None:
    """Fields of a wrong dtype or shape, out of range or not finite are refused by `check`."""
    with pytest.raises(ValueError, match=message):
        node.check()


# --- packed weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (3, 97), (4, 3, 3, 3), (2, 1, 1, 64), (2, 65, 1, 1)])
def test_packed_weight_gives_its_signs_back(shape: tuple[int, ...]) -> None:
    """from_signs and signs are inverse; a row is one output, flattened as PyTorch flattens it."""
    signs = random_signs(*shape)
    weight = PackedWeight.from_signs(signs)
    assert np.array_equal(weight.signs(), signs)
    assert (weight.size, weight.n) == (signs.size, signs[0].size)
    assert weight.words.shape == (shape[0], -(-weight.n // 64))


@pytest.mark.parametrize(
    ("words", "shape", "message"),
    [
        (np.zeros((3, 1), dtype=np.int64), (3, 5), "takes uint64 words"),
        (np.zeros((3, 2), dtype=np.uint64), (3, 5), r"words of shape \(3, 1\)"),
        (np.zeros(3, dtype=np.uint64), (3, 5), r"words of shape \(3, 1\)"),
        (np.zeros((3, 1), dtype=np.uint64), (3,), "weight of shape"),
        (np.zeros((3, 0), dtype=np.uint64), (3, 0), "weight of shape"),
        (np.zeros((3, 1), dtype=np.uint64), (3, -5), "weight of shape"),
        (np.full((3, 1), 32, dtype=np.uint64), (3, 5), "padding bits are not 0"),
        (np.full((3, 2), 2**63, dtype=np.uint64), (3, 127), "padding bits are not 0"),
    ],
)
def test_words_that_do_not_fit(words: np.ndarray, shape: tuple[int, ...], message: str) -> None:
    """Words of another dtype or number than the shape needs, or with bits in the padding, are refused."""
    with pytest.raises(ValueError, match=message):
        PackedWeight(words, shape)


# --- the input contract -----------------------------------------------------------------------------------


def test_channels_of_the_input() -> None:
    """An image has as many means as channels; features have one."""
    assert InputContract((3, 8, 8), mean=(0.5,) * 3, std=(1.0,) * 3).channels == 3
    assert InputContract((784,), mean=(0.5,), std=(1.0,)).channels == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shape": ()}, "neither"),
        ({"shape": (28, 28)}, "neither"),
        ({"shape": (3, 0, 8)}, "input has shape"),
        ({"shape": (-3,)}, "input has shape"),
        ({"shape": (2**20, 2**10, 1)}, f"more than {MAX_ELEMENTS} entries"),
        ({"mean": (0.5,)}, "differ in length"),
        ({"mean": (0.5,) * 2, "std": (1.0,) * 2}, "2 means for 3 channels"),
        ({"shape": (4,), "mean": (0.5,) * 4, "std": (1.0,) * 4}, "4 means for 1 channels"),
        ({"mean": (NAN,), "std": (1.0,)}, "must be finite"),
        ({"mean": (0.5,), "std": (INF,)}, "must be finite"),
        ({"mean": (0.5,), "std": (0.0,)}, "std must be positive"),
        ({"mean": (0.5,), "std": (-1.0,)}, "std must be positive"),
    ],
)
def test_contracts_that_do_not_fit(fields: dict[str, Any], message: str) -> None:
    """A contract of another rank, too large, or whose means and deviations cannot normalise is refused."""
    with pytest.raises(ValueError, match=message):
        InputContract(**{"shape": (3, 8, 8)} | fields)

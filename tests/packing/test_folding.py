"""Folding: batch norms into layers, signs made simple, equal to the graph before it."""

from collections.abc import Sequence

import numpy as np
import pytest
from support.graphs import affine, assert_folded, conv, pool, sign
from support.helpers import packed_weight, random_floats

from bnn.packed.nodes import INPUT, Add, Affine, AvgPool2d, Conv2d, Flatten, Hardtanh, Linear, Node, ReLU
from bnn.packing.folding import fold
from bnn.packing.weights import PackWarning

# --- affines into layers ----------------------------------------------------------------------------------


def test_affines_fold_into_the_layer_before_them() -> None:
    """Two batch norms after a convolution become its scale and shift, in float32."""
    nodes = [
        conv("conv", INPUT, scale=np.array([1.0, 2, 3, 4]), shift=np.ones(4)),
        affine("bn1", "conv", [1, -1, 0, 2], [1, 2, 3, 4]),
        affine("bn2", "bn1", [2, 2, 2, 2], [0, 0, 0, 1]),
    ]
    (layer,) = assert_folded(nodes, "conv", tolerance=1e-6).values()
    assert isinstance(layer, Conv2d)
    assert layer.scale is not None
    assert layer.scale.dtype == np.float32
    assert layer.scale.tolist() == [2, -4, 0, 16]


def test_an_affine_folds_into_an_affine() -> None:
    """Batch norms in a row become one, where no layer is before them."""
    nodes = [
        affine("a", INPUT, [2, 3], [1, 1]),
        affine("b", "a", [1, -1], [0, 5]),
        ReLU(name="r", inputs=("b",)),
    ]
    left = assert_folded(nodes, "a", "r", tolerance=1e-6)
    assert left["a"].shift.tolist() == [1, 4]  # type: ignore[attr-defined]


def test_a_shift_does_not_fold_into_the_convolution_after_it() -> None:
    """A batch norm before a zero-padded convolution stays: at the border its shift is missing."""
    nodes = [affine("bn", INPUT, [2, -1], [1, 3]), conv("conv", "bn", padding=(1, 1, 1, 1))]
    assert_folded(nodes, "bn", "conv", tolerance=1e-6)


@pytest.mark.parametrize("reader", ["conv", "bn"])
def test_what_is_read_twice_is_not_folded(reader: str) -> None:
    """A layer whose value is also read before the batch norm keeps it: a shortcut around the norm."""
    nodes = [
        conv("conv", INPUT),
        affine("bn", "conv", [2, -1, 1, 0.5], [1, 3, 0, 0]),
        ReLU(name="relu", inputs=(reader,)),
        Add(name="add", inputs=("relu", "bn")),
    ]
    kept = ["conv", "bn", "relu", "add"] if reader == "conv" else ["conv", "relu", "add"]
    assert_folded(nodes, *kept, tolerance=1e-6)


def test_the_output_is_not_folded_away() -> None:
    """A batch norm at the end folds into the layer, whose value then is the output."""
    nodes = [
        ReLU(name="relu", inputs=(INPUT,)),
        conv("conv", "relu"),
        affine("bn", "conv", [2, 1, 1, 1], [0] * 4),
    ]
    assert_folded(nodes, "relu", "conv", tolerance=1e-6)


def test_nodes_without_use_are_dropped() -> None:
    """What does not lead to the output goes."""
    nodes = [ReLU(name="unused", inputs=(INPUT,)), sign("s", INPUT), sign("t", "unused"), conv("out", "s")]
    assert_folded(nodes, "s", "out")


# --- signs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.5, 0.0), (-1e-30, 7.0)])
def test_hardtanh_before_sign_goes(low: float, high: float) -> None:
    """sign(hardtanh(x)) = sign(x), BinaryNet's activation, for any range that has 0 in it and less."""
    nodes = [conv("conv", INPUT), Hardtanh(name="h", inputs=("conv",), low=low, high=high), sign("s", "h")]
    assert_folded(nodes, "conv", "s")


def test_a_hardtanh_that_matters_stays() -> None:
    """A range that excludes 0 decides the sign; one that is read elsewhere too is still needed there."""
    nodes = [
        affine("a", INPUT, [1, 1], [1, 1]),
        Hardtanh(name="h", inputs=("a",), low=-2.0, high=-1.0),
        sign("s", "h"),
        Add(name="add", inputs=("s", "a")),
    ]
    assert_folded(nodes, "a", "h", "s", "add", tolerance=1e-6)
    nodes[1] = Hardtanh(name="h", inputs=("a",))
    nodes[3] = Add(name="add", inputs=("s", "h"))
    assert_folded(nodes, "a", "h", "s", "add", tolerance=1e-6)


def test_a_sign_of_a_sign_goes() -> None:
    """sign(sign(x)) = sign(x), also through a hardtanh."""
    nodes = [sign("a", INPUT), Hardtanh(name="h", inputs=("a",)), sign("b", "h"), conv("out", "b")]
    assert_folded(nodes, "a", "out")


@pytest.mark.parametrize(
    "before",
    [
        [ReLU(name="x", inputs=(INPUT,))],
        [Hardtanh(name="x", inputs=(INPUT,), low=0.0, high=6.0)],
        [ReLU(name="r", inputs=(INPUT,)), pool("x", "r")],
        [ReLU(name="r", inputs=(INPUT,)), pool("p", "r", AvgPool2d), Flatten(name="x", inputs=("p",))],
    ],
)
def test_the_sign_of_a_relu_warns(before: list[Node]) -> None:
    """sign(relu(x)) is +1 everywhere, also after pooling: certainly a mistake, and named."""
    with pytest.warns(PackWarning, match="^s: the sign of a ReLU is always"):
        fold([*before, sign("s", "x")], "s")


def test_other_signs_do_not_warn() -> None:
    """A batch norm between ReLU and sign makes sense: nothing is said (warnings are errors here)."""
    nodes = [ReLU(name="r", inputs=(INPUT,)), affine("bn", "r", [1, 1], [-0.3, -0.7]), sign("s", "bn")]
    assert_folded(nodes, "r", "bn", "s")


# --- precision --------------------------------------------------------------------------------------------


def dtypes(nodes: Sequence[Node]) -> dict[str, str | None]:
    """The dtype of each product's and affine's scale after folding."""
    folded = [node for node in fold(nodes, nodes[-1].name) if isinstance(node, Conv2d | Linear | Affine)]
    return {node.name: None if node.scale is None else str(node.scale.dtype) for node in folded}


def test_scales_whose_signs_count_stay_float64() -> None:
    """Scales of values that only signs are taken of, through pooling and flattening too, are float64."""
    first = [conv("conv", INPUT, scale=np.ones(4), shift=np.ones(4)), pool("p", "conv")]
    assert dtypes([*first, affine("bn", "p", [1, -2, 0, 3], [0] * 4), sign("t", "bn")]) == {
        "conv": "float64",
        "bn": "float64",
    }
    assert dtypes([*first, affine("bn", "p", [1, -2, 0, 3], [0] * 4)]) == {"conv": "float32", "bn": "float32"}
    both = [*first, sign("t", "p"), Add(name="add", inputs=("t", "p"))]
    assert dtypes(both) == {"conv": "float32"}


def test_a_batch_norm_of_the_input_stays_float64() -> None:
    """A batch norm before a product that only signs are taken of is part of what decides them."""
    nodes = [affine("bn", INPUT, [1, -2], [0.1, 0]), conv("conv", "bn"), sign("t", "conv")]
    assert dtypes(nodes) == {"bn": "float64", "conv": "float64"}
    assert dtypes(nodes[:2]) == {"bn": "float32", "conv": None}


def test_products_without_a_scale_get_one_where_signs_count() -> None:
    """A float product that only a sign is taken of is float64, scale or not; integers need none."""
    flat = Flatten(name="flat", inputs=(INPUT,))
    first = Linear(name="fc", inputs=("flat",), weight=packed_weight(8, 72))
    ternary = Linear(name="fc2", inputs=("t",), weight=np.sign(random_floats(5, 8)))
    last = Linear(name="fc3", inputs=("u",), weight=packed_weight(5, 5))
    nodes = [flat, first, sign("t", "fc"), ternary, sign("u", "fc2"), last]
    assert dtypes(nodes) == {"fc": "float64", "fc2": "float64", "fc3": None}

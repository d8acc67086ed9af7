"""Batch norm and sign of an integer as one comparison: the same sign, at the border too."""

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.graphs import affine, assert_folded, conv, pool, sign

from bnn.packed.nodes import INPUT, Add, Sign, Threshold
from bnn.packing.folding import integer_threshold

# --- integer_threshold ------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False)
scales = st.one_of(finite, st.floats(-4, 4), st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 1e308, -1e-308]))
integers = st.one_of(st.integers(-100, 100), st.integers(-(2**28), 2**28))


def assert_threshold(scale: float, shift: float, *around: int) -> None:
    """The comparison is the sign for integers near `around`, near the threshold, near 0, and the largest."""
    (threshold,), (flip,) = integer_threshold(np.array([scale]), np.array([shift]))
    centres = [*around, int(np.clip(threshold, -(2**28), 2**28)), 0, -(2**28), 2**28]
    z = np.unique([centre + np.arange(-50, 51) for centre in centres])
    with np.errstate(over="ignore"):
        expected = scale * z.astype(float) + shift >= 0
    assert np.array_equal((z >= threshold) != flip, expected)


@given(scales, scales)
@example(1.0, 0.0)
@example(-1.0, 0.0)
@example(0.0, 0.0)
@example(0.0, -0.0)
@example(0.0, -5e-324)
@example(-0.0, 5e-324)
@example(5e-324, -1e308)
@example(-1e308, 1e308)
@settings(max_examples=500)
def test_integer_threshold_is_the_sign(scale: float, shift: float) -> None:
    """For every integer z, scale * z + shift >= 0 iff (z >= threshold) != flip: tiny, huge and 0 included."""
    assert_threshold(scale, shift)


@given(scales.filter(lambda scale: abs(scale) < 1e299), integers, st.integers(-2, 2))
@settings(max_examples=500)
def test_integer_threshold_at_a_tie(scale: float, z: int, ulps: int) -> None:
    """Where scale * z + shift is exactly 0 for some z, or an ulp beside it, the border is not one off."""
    shift = -scale * z
    for _ in range(abs(ulps)):
        shift = float(np.nextafter(shift, np.copysign(np.inf, ulps)))
    assert_threshold(scale, shift, z)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(-300, 300), st.floats(-10, 10))
@settings(max_examples=200)
def test_integer_threshold_of_a_batch_norm(gamma: float, variance: float, mean: int, beta: float) -> None:
    """With scale and shift as a batch norm gives them, of either sign and with an integer mean."""
    for scale in (gamma / np.sqrt(variance + 1e-5), -gamma / np.sqrt(variance + 1e-5)):
        assert_threshold(scale, beta - mean * scale, mean)


def test_integer_threshold_of_many_channels() -> None:
    """Each channel has its own threshold; scale 0 gives the sign of the shift, 0 counting as +1."""
    threshold, flip = integer_threshold(np.array([2.0, -2.0, 0, 0, 0]), np.array([-3.0, 3.0, 1, 0, -1]))
    assert (threshold.dtype, flip.dtype) == (np.int32, np.bool_)
    z = np.array([[-(2**28)], [1], [2], [2**28]])
    signs = np.where((z >= threshold) != flip, 1, -1)
    assert signs.tolist() == [[-1, 1, 1, 1, -1], [-1, 1, 1, 1, -1], [1, -1, 1, 1, -1], [1, -1, 1, 1, -1]]


# --- in a graph -------------------------------------------------------------------------------------------

MIXED = [1.0, -0.7, 0.0, 0.3], [0.5, 2.1, -0.2, 0.0]
RISING = [1.0, 0.7, 1e-3, 0.3], [0.5, -2.1, -0.2, 0.0]
SIGNS = sign("s", INPUT)


@pytest.mark.parametrize("pad_value", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("scale", [None, np.array([0.5, -3.0, 1.0, -1.0])])
def test_a_batch_norm_and_sign_become_a_threshold(pad_value: float, scale: Any) -> None:
    """After a product of ±1 with ±1, padded by 0 or ±1, with scale and bias of its own or not."""
    own = {} if scale is None else {"scale": scale, "shift": np.array([0.0, 1.0, -1.0, 0.5])}
    layer = conv("conv", "s", padding=(1, 0, 2, 1), pad_value=pad_value, **own)
    left = assert_folded([SIGNS, layer, affine("bn", "conv", *MIXED), sign("t", "bn")], "s", "conv", "t")
    assert isinstance(left["t"], Threshold)
    assert left["conv"].scale is None  # type: ignore[attr-defined]


def test_without_a_batch_norm() -> None:
    """The sign of the product itself is a threshold at 0."""
    left = assert_folded([SIGNS, conv("conv", "s"), sign("t", "conv")], "s", "conv", "t")
    assert isinstance(left["t"], Threshold)
    assert not left["t"].threshold.any()


def test_padding_with_other_values_gives_no_integers() -> None:
    """Padding of ±1 by 0.5 makes sums that are no integers: no threshold."""
    layer = conv("conv", "s", padding=(1, 1, 1, 1), pad_value=0.5)
    left = assert_folded([SIGNS, layer, affine("bn", "conv", *MIXED), sign("t", "bn")], "s", "conv", "t")
    assert isinstance(left["t"], Sign)


def test_pooling_before_the_batch_norm() -> None:
    """Convolution, max pooling, batch norm of any sign, sign: the maximum of integers, then a threshold."""
    nodes = [SIGNS, conv("conv", "s"), pool("p", "conv"), affine("bn", "p", *MIXED), sign("t", "bn")]
    assert isinstance(assert_folded(nodes, "s", "conv", "p", "t")["t"], Threshold)


def test_pooling_after_a_rising_batch_norm() -> None:
    """Convolution, batch norm with factors > 0, max pooling: the norm moves behind the pooling."""
    nodes = [SIGNS, conv("conv", "s"), affine("bn", "conv", *RISING), pool("p", "bn"), sign("t", "p")]
    assert isinstance(assert_folded(nodes, "s", "conv", "p", "t")["t"], Threshold)


def test_pooling_after_a_falling_batch_norm() -> None:
    """With a factor <= 0 before it, max pooling picks other places: no threshold, and the same signs."""
    nodes = [SIGNS, conv("conv", "s"), affine("bn", "conv", *MIXED), pool("p", "bn"), sign("t", "p")]
    left = assert_folded(nodes, "s", "conv", "p", "t")
    assert isinstance(left["t"], Sign)
    assert left["conv"].scale.dtype == np.float64  # type: ignore[attr-defined]


def test_batch_norms_on_both_sides_of_the_pooling() -> None:
    """A falling batch norm after the pooling and a rising one before it still are one threshold."""
    nodes = [
        SIGNS,
        conv("conv", "s"),
        affine("bn1", "conv", *RISING),
        pool("p", "bn1"),
        affine("bn2", "p", [-1, 2, -3, 0], [0.1, 0.2, 0.3, 0]),
        sign("t", "bn2"),
    ]
    assert isinstance(assert_folded(nodes, "s", "conv", "p", "t")["t"], Threshold)


def test_a_falling_batch_norm_between_two_poolings() -> None:
    """It turns the second maximum into a minimum of the first: no threshold, and the same signs."""
    nodes = [
        *(SIGNS, conv("conv", "s"), pool("p", "conv")),
        *(affine("bn", "p", *MIXED), pool("q", "bn"), sign("t", "q")),
    ]
    assert isinstance(assert_folded(nodes, "s", "conv", "p", "bn", "q", "t")["t"], Sign)
    nodes[3] = affine("bn", "p", *RISING)
    assert isinstance(assert_folded(nodes, "s", "conv", "p", "q", "t")["t"], Threshold)


def test_a_batch_norm_after_pooling_that_is_read_elsewhere_stays() -> None:
    """Its value is needed besides its sign: not made a threshold."""
    nodes = [
        *(SIGNS, conv("conv", "s"), pool("p", "conv"), affine("bn", "p", *MIXED), sign("t", "bn")),
        Add(name="add", inputs=("t", "bn")),
    ]
    left = assert_folded(nodes, "s", "conv", "p", "bn", "t", "add", tolerance=1e-6)
    assert isinstance(left["t"], Sign)


def test_an_affine_that_is_read_elsewhere_stays() -> None:
    """A shortcut from before the sign needs the batch norm's value: it is not made a threshold."""
    nodes = [
        SIGNS,
        conv("conv", "s"),
        affine("bn", "conv", *MIXED),
        sign("t", "bn"),
        Add(name="add", inputs=("t", "bn")),
    ]
    left = assert_folded(nodes, "s", "conv", "t", "add", tolerance=1e-6)
    assert isinstance(left["t"], Sign)

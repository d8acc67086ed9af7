"""The bit convention: what a packed word looks like, and dot products of packed rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnn import bits as old_place
from bnn.packed import bits

SIZES = [0, 1, 7, 63, 64, 65, 97]

rows = st.one_of(st.sampled_from(SIZES), st.integers(0, 300)).flatmap(
    lambda n: st.lists(st.sampled_from([-1, 1]), min_size=n, max_size=n)
)


def random_signs(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), shape)


# --- the convention ---------------------------------------------------------------------------------------


def test_bit_1_means_minus_1() -> None:
    """-1 sets its bit, +1 leaves it 0: a row of -1, +1, -1 is the word 0b101."""
    words = bits.pack(np.array([-1, 1, -1]))
    assert words.dtype == np.uint64
    assert words.tolist() == [0b101]


@given(rows.filter(len))
def test_entry_i_is_bit_i_of_its_word(row: list[int]) -> None:
    """Entry i of a row is bit i % 64 of word i // 64, and -1 is 1."""
    words = [int(word) for word in bits.pack(np.array(row))]
    assert [1 - 2 * (words[i // 64] >> i % 64 & 1) for i in range(len(row))] == row


def test_words_are_little_endian() -> None:
    """In memory the first eight entries are the first byte, the lowest bit first."""
    row = np.ones(64, dtype=np.int8)
    row[[0, 9]] = -1
    assert bits.pack(row).astype("<u8").tobytes() == bytes([0b1, 0b10, 0, 0, 0, 0, 0, 0])


@given(st.integers(0, 300))
def test_padding_bits_are_0(n: int) -> None:
    """A row of n times -1 has n ones, the lowest of its words: every bit beyond is 0."""
    words = bits.pack(np.full(n, -1))
    assert sum(int(word) << 64 * i for i, word in enumerate(words)) == 2**n - 1


@pytest.mark.parametrize(
    ("n", "words"), [(0, 0), (1, 1), (7, 1), (63, 1), (64, 1), (65, 2), (97, 2), (129, 3)]
)
def test_a_row_takes_whole_words(n: int, words: int) -> None:
    """A row of n entries takes ceil(n / 64) words, and no row takes none."""
    assert bits.words_per_row(n) == words
    assert bits.pack(random_signs(3, n)).shape == (3, words)


# --- pack, unpack -----------------------------------------------------------------------------------------


@given(rows, st.sampled_from([np.int8, np.int64, np.float32, np.float64]))
def test_unpack_is_the_inverse_of_pack(row: list[int], dtype: type) -> None:
    """Packing and unpacking gives the same signs, as int8, whatever dtype they came in."""
    signs = bits.unpack(bits.pack(np.array(row, dtype=dtype)), len(row))
    assert signs.dtype == np.int8
    assert signs.tolist() == row


@pytest.mark.parametrize("n", SIZES)
def test_leading_axes_are_kept(n: int) -> None:
    """Only the last axis is packed; each row along the others is packed by itself."""
    signs = random_signs(2, 0, n), random_signs(2, 3, n)
    for array in signs:
        words = bits.pack(array)
        assert words.shape == (*array.shape[:-1], bits.words_per_row(n))
        assert np.array_equal(bits.unpack(words, n), array)
    assert np.array_equal(bits.pack(signs[1])[1, 2], bits.pack(signs[1][1, 2]))


def test_views_are_packed_by_their_entries() -> None:
    """A transposed or strided view is packed as its copy would be, and stays as it is."""
    signs = random_signs(70, 66)
    before = signs.copy()
    for view in (signs.T, signs[::2, ::3], signs[:, ::-1]):
        assert np.array_equal(bits.pack(view), bits.pack(view.copy()))
        words = bits.pack(np.ascontiguousarray(view))
        assert np.array_equal(bits.unpack(words[::2], view.shape[1]), view[::2])
    assert np.array_equal(signs, before)


@pytest.mark.parametrize("wrong", [0.0, -0.0, np.nan, np.inf, 0.5, -2.0])
def test_what_is_no_sign_is_refused(wrong: float) -> None:
    """0, NaN and everything else but ±1 has no bit: packing raises, with the value and how many there are."""
    row = np.ones((2, 5))
    row[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"only \+1 and -1 can be packed, found {wrong} \(1 of 10\)"):
        bits.pack(row)


def test_unsigned_zeros_and_ones_are_refused() -> None:
    """Pixels or 0/1 masks are not signs: uint8 has no -1 and its 0 is refused."""
    with pytest.raises(ValueError, match="found 0"):
        bits.pack(np.array([0, 1, 1], dtype=np.uint8))


@pytest.mark.parametrize("n", [0, 64, 129])
def test_unpack_wants_the_right_number_of_words(n: int) -> None:
    """Rows of two words hold 65 to 128 entries; unpacking another number raises."""
    with pytest.raises(ValueError, match=f"a row of {n} takes {bits.words_per_row(n)} words, not 2"):
        bits.unpack(np.zeros((3, 2), dtype=np.uint64), n)


# --- dot --------------------------------------------------------------------------------------------------


@given(rows, st.randoms())
def test_dot_is_the_plain_dot_product(row: list[int], random) -> None:
    """n - 2 * popcount(a ^ b) is the sum of the products, for every length; the padding counts nothing."""
    other = [random.choice([-1, 1]) for _ in row]
    a, b = bits.pack(np.array(row)), bits.pack(np.array(other))
    assert bits.dot(a, b, len(row)) == sum(x * y for x, y in zip(row, other, strict=True))


@pytest.mark.parametrize("n", SIZES)
def test_dot_broadcasts(n: int) -> None:
    """(a, 1, words) with (1, b, words) gives all a × b dot products: a matrix product."""
    a, b = random_signs(5, n), random_signs(6, n, seed=1)
    products = bits.dot(bits.pack(a)[:, None], bits.pack(b)[None], n)
    assert products.dtype == np.int64
    assert np.array_equal(products, a.astype(int) @ b.T.astype(int))


def test_the_former_place_is_a_door() -> None:
    """`bnn.bits` gives the functions of `bnn.packed.bits` themselves."""
    assert all(getattr(old_place, name) is getattr(bits, name) for name in bits.__all__)
    assert old_place.__all__ == bits.__all__

"""The bit convention: how a row of ±1 becomes words, and the dot product of two such rows.

Bit 1 means -1, bit 0 means +1. Entry i of a row is bit i % 64 of word i // 64. Words are
little-endian uint64, a row is padded to a whole word, and the padding bits are 0.

Then a ^ b has a 1 wherever the signs differ, and

    dot(a, b) = (n - differing) - differing = n - 2 * popcount(a ^ b)

where the padding, 0 in both, counts nothing.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["WORD_BITS", "dot", "pack", "unpack", "words_per_row"]

WORD_BITS = 64
_WORD = np.dtype("<u8")


def words_per_row(n: int) -> int:
    """ceil(n / 64): the words that a row of n entries takes."""
    return -(-n // WORD_BITS)


def pack(signs: NDArray[np.generic]) -> NDArray[np.uint64]:
    """Packs ±1 along the last axis, (..., n) to (..., ceil(n / 64)) uint64.

    Raises:
        ValueError: an entry is neither +1 nor -1 (0 and NaN have no bit).
    """
    negative = signs == -1
    if not np.all(negative | (signs == 1)):
        wrong = np.asarray(signs)[~(negative | (signs == 1))]
        raise ValueError(
            f"only +1 and -1 can be packed, found {wrong.flat[0]} ({wrong.size} of {signs.size})"
        )
    *rows, n = signs.shape
    padded = np.zeros((*rows, words_per_row(n) * WORD_BITS), dtype=bool)
    padded[..., :n] = negative
    octets = np.packbits(padded, axis=-1, bitorder="little")
    return octets.view(_WORD).astype(np.uint64, copy=False)


def unpack(words: NDArray[np.uint64], n: int) -> NDArray[np.int8]:
    """The inverse of `pack`: (..., ceil(n / 64)) uint64 to (..., n) int8 of ±1.

    Raises:
        ValueError: the rows do not have ceil(n / 64) words.
    """
    if words.shape[-1] != words_per_row(n):
        raise ValueError(f"a row of {n} takes {words_per_row(n)} words, not {words.shape[-1]}")
    octets = np.ascontiguousarray(words, dtype=_WORD).view(np.uint8)
    if n == 0:
        return np.empty((*words.shape[:-1], 0), dtype=np.int8)
    signs = np.unpackbits(octets, axis=-1, count=n, bitorder="little").view(np.int8)
    signs *= -2
    signs += 1
    return signs


def dot(a: NDArray[np.uint64], b: NDArray[np.uint64], n: int) -> NDArray[np.int64]:
    """The dot products of packed rows of n entries, over the last axis; the other axes broadcast."""
    return n - 2 * np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)

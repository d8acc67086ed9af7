"""The former place of `bnn.packed.bits`."""

from bnn.packed.bits import WORD_BITS, dot, pack, unpack, words_per_row

__all__ = ["WORD_BITS", "dot", "pack", "unpack", "words_per_row"]

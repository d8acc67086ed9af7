"""Which weights become bits: a tensor whose rows are each one magnitude with signs, whoever made it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import warn
from bnn.packed import bits
from bnn.packed.nodes import PackedWeight, Weight

__all__ = ["PackWarning", "pack_weight"]

Array = NDArray[Any]


class PackWarning(UserWarning):
    """The model was packed, but something in it is probably not meant."""


def pack_weight(weight: Array, where: str) -> tuple[Weight, Array | None]:
    """(the weight, one magnitude a row): packed if it is ±a in each row, else float32 and None.

    Args:
        weight: float64, output rows first.
        where: the weight's place in the model, for the warning about a near miss.
    """
    rows = weight.reshape(len(weight), -1)
    magnitudes = np.abs(rows[:, 0])
    n = rows.shape[1]
    if 8 * bits.words_per_row(n) + 4 < 4 * n:  # the bits and a scale take less room, so n > 3
        if magnitudes.all() and (np.abs(rows) == magnitudes[:, None]).all():
            return PackedWeight.from_signs(np.where(weight < 0, -1, 1)), magnitudes
        _warn_near_miss(rows, where)
    return weight.astype(np.float32), None


def _warn_near_miss(rows: Array, where: str) -> None:
    """Says what is in the way where at least 90 % of a weight are ± its row's magnitude, up to rounding."""
    typical = np.median(np.abs(rows), axis=1, keepdims=True)
    near = (np.abs(np.abs(rows) - typical) <= 1e-6 * typical) & (rows != 0)
    if near.mean() < 0.9:
        return
    zeros, odd = int((rows == 0).sum()), int((np.abs(rows) != typical).sum())
    what = (
        f"{zeros:,} of {rows.size:,} weights {'is' if zeros == 1 else 'are'} 0"
        if zeros
        else f"{odd:,} of {rows.size:,} weights differ from ± their row's magnitude"
    )
    warn(f"{where}: not packed, {what}", PackWarning, stacklevel=2)

"""pack(): a frozen PyTorch model becomes a PackedModel. The bridge between the two sides, in three steps:

torch.export    the model as a graph of ATen operations
`translation`   the graph as nodes (`aten`, operation by operation), ±1 weights as bits (`weights`)
`folding`       batch norms merged into layers and thresholds
"""

import copy
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnn.packed.model import PackedModel
from bnn.packed.nodes import InputContract
from bnn.packing.aten import OPERATIONS
from bnn.packing.folding import fold
from bnn.packing.translation import Translator

__all__ = ["pack"]


def pack(
    model: nn.Module,
    example: Tensor,
    *,
    mean: float | Sequence[float] = (),
    std: float | Sequence[float] = (),
    labels: Sequence[str] = (),
    about: Mapping[str, str] | None = None,
) -> PackedModel:
    """Packs a frozen model: ±1 weights to one bit each, batch norms folded, ready to save and to run.

    A weight is packed when each of its output rows has at least two entries, all ±a with one a > 0, and
    the bits take less room. Other weights stay float32; where that is by a hair (some entries are 0, say)
    a PackWarning says so.

    Args:
        model: as `bnn.freeze` returns it; left as it is.
        example: a batch of normalised inputs, (n, features) or (n, channels, height, width), float.
            Only its shape counts, and the batch size is left open.
        mean, std: how raw uint8 pixels become inputs, (pixel / 255 - mean) / std; a number, or one for
            each channel. Without them the packed model takes float32 only.
        labels: class names, by output index.
        about: strings to keep in the file.

    Raises:
        ValueError: the model is not frozen, holds NaN or infinity, or uses an operation that the runtime
            does not know; the message names the module or line.
    """
    _check_frozen(model)
    if example.dim() not in (2, 4) or len(example) == 0:
        raise ValueError(
            f"example must be (n, features) or (n, c, h, w) with n > 0, not {tuple(example.shape)}"
        )
    contract = InputContract(tuple(example.shape[1:]), _numbers(mean), _numbers(std), tuple(labels))
    program = _export(model, example)
    raw, output = Translator(program, model, OPERATIONS).translate()
    return PackedModel(contract, fold(raw, output), dict(about or {}))


_UNPACKABLE = (
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
    nn.Conv1d,
    nn.Conv3d,
    nn.modules.conv._ConvTransposeNd,
)


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in np.atleast_1d(np.asarray(value, dtype=np.float64)))


def _check_frozen(model: nn.Module) -> None:
    for name, module in model.named_modules():
        what = f"module {name!r}" if name else "the model"
        if parametrize.is_parametrized(module):
            raise ValueError(f"{what} is still parametrized: pack(bnn.freeze(model), ...)")
        if isinstance(module, _UNPACKABLE):
            raise ValueError(f"{what}: {type(module).__name__} cannot be packed yet, only trained and frozen")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    # On the CPU, in eval mode, and a batch of 2: torch.export takes a 1 in the example for a constant.
    model = copy.deepcopy(model).cpu().eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    batch = torch.zeros(2, *example.shape[1:], dtype=dtype)
    with torch.no_grad():
        model(batch)  # if the model itself fails, then with its own error
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, from inside its export
            program = torch.export.export(model, (batch,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
            return program.run_decompositions({})  # makes in-place operations functional
    except Exception as error:  # torch.export raises many kinds; all mean that the graph was not captured
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"torch.export could not capture the model: {reason[0]}") from error

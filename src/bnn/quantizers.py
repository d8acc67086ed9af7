"""Quantizers: modules that turn a tensor into one of few values, mostly ±1, with the same shape and dtype.

    Sign, StochasticSign, ProgressiveSign   ±1, of weights or activations
    MagnitudeAwareSign                      ±a with one a for each output row, of weights
    Ternary                                 -a, 0, a, of weights
    DoReFa                                  2^k levels from 0 to 1, of activations

The same module quantizes weights, as an argument of `bnn.binarize`, and activations, placed between
layers. A quantizer of your own is any `nn.Module`, tensor in, tensor out:

    class ScaledSign(nn.Module):  # XNOR-Net's: one magnitude for each output
        def forward(self, w):
            scale = w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
            return scale * identity_ste(w, sign(w))

Under `torch.autocast` the quantizers here give ±1 in autocast's dtype straight away, which is exact, instead
of a float32 tensor for autocast to convert. Values that autocast's dtype would round stay as they are.
"""

import torch
from torch import Tensor, nn

from bnn.functional import (
    StraightThrough,
    identity_ste,
    progressive_ste,
    sign,
    stochastic_sign,
    without_copy,
)

__all__ = [
    "DoReFa",
    "MagnitudeAwareSign",
    "ProgressiveSign",
    "Sign",
    "StochasticSign",
    "Ternary",
    "set_progress",
]


def _result_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


class Sign(nn.Module):
    """Deterministic binarization: +1 where x >= 0, else -1.

    Args:
        ste: what backward does, `identity_ste` (BinaryConnect's weights, the default) or
            `clipped_ste` (BinaryNet's activations), or any callable of (x, value).
    """

    def __init__(self, ste: StraightThrough = identity_ste) -> None:
        super().__init__()
        self.ste = ste

    def forward(self, x: Tensor) -> Tensor:
        return without_copy(self.ste)(x, sign(x, _result_dtype(x)))

    def extra_repr(self) -> str:
        return f"ste={getattr(self.ste, '__name__', self.ste)}"


class StochasticSign(nn.Module):
    """Stochastic binarization: in training, +1 with probability hard_sigmoid(x), else -1.

    In `eval()` it is `sign(x)`. To sample at test time, ask for it: `freeze(model, "sample")`.

    Args:
        ste: what backward does; see `Sign`. The identity is the gradient of the expected value
            where |x| <= 1, the range that clipping keeps latent weights in.
        generator: source of the random numbers, on the device of x; None is PyTorch's global one.
    """

    def __init__(self, ste: StraightThrough = identity_ste, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.ste = ste
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        dtype = _result_dtype(x)
        value = stochastic_sign(x, self.generator, dtype) if self.training else sign(x, dtype)
        return without_copy(self.ste)(x, value)

    def extra_repr(self) -> str:
        return f"ste={getattr(self.ste, '__name__', self.ste)}"


class ProgressiveSign(nn.Module):
    """Sign whose backward pass sharpens while training goes on, as IR-Net's (Qin et al., 2020).

    Forward is `Sign` throughout; backward is `bnn.functional.progressive_ste` at the present `progress`.

        for epoch in range(epochs):
            set_progress(model, epoch / epochs)

    Attributes:
        progress: the share of training that is over, from 0 to 1; a buffer, so that checkpoints keep it.
    """

    progress: Tensor

    def __init__(self, progress: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("progress", torch.tensor(_checked_progress(progress), dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return without_copy(progressive_ste)(x, sign(x, _result_dtype(x)), self.progress)

    def extra_repr(self) -> str:
        return f"progress={self.progress.item():.3g}"


def set_progress(model: nn.Module, progress: float) -> None:
    """Sets the progress of every ProgressiveSign in the model, of weights and of activations.

    Args:
        model: a network, a layer, or a quantizer.
        progress: the share of training that is over, from 0 to 1.

    Raises:
        ValueError: progress is outside [0, 1], or the model has no ProgressiveSign.
    """
    progress = _checked_progress(progress)
    found = [module for module in model.modules() if isinstance(module, ProgressiveSign)]
    if not found:
        raise ValueError("the model has no ProgressiveSign whose progress could be set")
    for quantizer in found:
        quantizer.progress.fill_(progress)


def _checked_progress(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be from 0 to 1, not {progress}")
    return progress


class MagnitudeAwareSign(nn.Module):
    """mean|w| sign(w), the mean over each output row: XNOR-Net's weights (Rastegari et al., 2016, eq. 6).

    No other a sign(w) is nearer to w. A row is w[i]: it has one magnitude, so it packs to bits and a scale.
    A row of zeros stays 0.

    Backward, the mean counts as a constant: the gradient is mean|w| times the gradient of `ste`. Through the
    mean, each weight of the row would also get sign(w) / n times Σ g_i sign(w_i), which moves all magnitudes
    alike. Before a batch norm that sum is 0, because the scale of a row has no influence there.

    Args:
        ste: what backward does; see `Sign`.
    """

    def __init__(self, ste: StraightThrough = identity_ste) -> None:
        super().__init__()
        self.ste = ste

    def forward(self, w: Tensor) -> Tensor:
        magnitude = w.detach().abs().mean(_row_axes(self, w), keepdim=True)
        return magnitude * without_copy(self.ste)(w, sign(w))

    def extra_repr(self) -> str:
        return f"ste={getattr(self.ste, '__name__', self.ste)}"


class Ternary(nn.Module):
    """a sign(w) where |w| > 0.7 mean|w|, else 0, for each output row.

    The magnitude a is the mean |w| of those weights of the row that do not become 0 (Ternary Weight Networks,
    Li et al., 2016, whose threshold approximates the nearest such row to w). `pack` keeps such a weight in
    float32: a 0 has no bit.

    Args:
        ste: what backward does; see `Sign`. It is given the value with its magnitude, so under the default
            the gradient is unchanged, as in the paper.
    """

    def __init__(self, ste: StraightThrough = identity_ste) -> None:
        super().__init__()
        self.ste = ste

    def forward(self, w: Tensor) -> Tensor:
        axes = _row_axes(self, w)
        size = w.detach().abs().to(torch.promote_types(w.dtype, torch.float32))  # sums overflow in float16
        kept = size > 0.7 * size.mean(axes, keepdim=True)
        # For a row of zeros it is NaN, but there no entry is kept and so none becomes NaN.
        magnitude = (size * kept).sum(axes, keepdim=True) / kept.sum(axes, keepdim=True)
        value = torch.where(kept, magnitude * sign(w, size.dtype), 0).to(w.dtype)
        return without_copy(self.ste)(w, value)

    def extra_repr(self) -> str:
        return f"ste={getattr(self.ste, '__name__', self.ste)}"


class DoReFa(nn.Module):
    """Activations of k bits: clip(x, 0, 1) to the nearest of 0, 1/n, ..., 1 with n = 2^k - 1.

    That is round(n clip(x, 0, 1)) / n (DoReFa-Net, Zhou et al., 2016, eq. 5 and 11); halves round to even.
    Backward, the gradient passes where 0 <= x <= 1 and is 0 elsewhere. `pack` refuses such a network, as the
    runtime has no such activations.

    Args:
        bits: k, from 1 to 16.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not isinstance(bits, int) or not 1 <= bits <= 16:
            raise ValueError(f"bits must be an integer from 1 to 16, not {bits!r}")
        self.bits = bits

    def forward(self, x: Tensor) -> Tensor:
        n = 2**self.bits - 1
        clipped = x.clamp(0, 1)
        # In bfloat16 n x itself would be rounded, and then at times to the wrong level.
        wide = clipped.detach().to(torch.promote_types(x.dtype, torch.float32))
        dtype = _result_dtype(x) if n == 1 else x.dtype  # autocast's holds 0 and 1, but not 1/3
        return without_copy(identity_ste)(clipped, ((wide * n).round() / n).to(dtype))

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


def _row_axes(quantizer: nn.Module, w: Tensor) -> tuple[int, ...]:
    """All but the first: those over which the entries of one output row lie."""
    if w.dim() < 2:
        raise ValueError(
            f"{type(quantizer).__name__} takes one magnitude for each output row, so a weight must have 2 "
            f"axes or more, not shape {tuple(w.shape)}"
        )
    return tuple(range(1, w.dim()))

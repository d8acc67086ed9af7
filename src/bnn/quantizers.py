"""Quantizers: modules that turn a tensor into one of ±1 with the same shape and dtype.

The same module binarizes weights, as an argument of `bnn.binarize`, and activations, placed between
layers. A quantizer of your own is any `nn.Module`, tensor in, tensor out:

    class ScaledSign(nn.Module):  # XNOR-Net's: one magnitude for each output
        def forward(self, w):
            scale = w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
            return scale * identity_ste(w, sign(w))

Under `torch.autocast` the quantizers here give ±1 in autocast's dtype straight away, which is exact, instead
of a float32 tensor for autocast to convert.
"""

import torch
from torch import Tensor, nn

from bnn.functional import StraightThrough, identity_ste, sign, stochastic_sign, without_copy

__all__ = ["Sign", "StochasticSign"]


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

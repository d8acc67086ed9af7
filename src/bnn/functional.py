"""The mathematics of binarization: signs, their probabilities, and the gradients put in their place.

`sign` and `stochastic_sign` say what the forward pass computes and have no useful gradient. A
straight-through estimator says what the backward pass pretends instead. A quantizer is one of each:

    identity_ste(w, sign(w))                BinaryConnect's weights
    clipped_ste(x, sign(x))                 BinaryNet's activations
    approx_ste(x, sign(x))                  Bi-Real Net's activations

Every function keeps the shape and device of its input, and its dtype unless told otherwise; there is no 0
among its signs.
"""

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from bnn.errors import warn

__all__ = [
    "StraightThrough",
    "approx_ste",
    "clipped_ste",
    "hard_sigmoid",
    "identity_ste",
    "progressive_ste",
    "sign",
    "stochastic_sign",
    "swish_ste",
    "tanh_ste",
]

StraightThrough = Callable[[Tensor, Tensor], Tensor]
"""A straight-through estimator: called with (x, value), it returns `value` and sends the gradient to `x`."""

Estimator = TypeVar("Estimator", bound=Callable[..., Tensor])


def hard_sigmoid(x: Tensor) -> Tensor:
    """clip((x + 1) / 2, 0, 1): the probability of +1 under a latent weight x (BinaryConnect, eq. 3)."""
    return ((x + 1) / 2).clamp(0, 1)


def sign(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """+1 where x >= 0, else -1 (BinaryConnect, eq. 1). sign(0) = sign(-0.0) = +1: `torch.sign` has a 0 there.

    A NaN has no sign and becomes -1. It is not reported here, which would cost a pass over the data:
    training, freezing and packing look for NaN where values enter.

    Args:
        x: any floating-point tensor.
        dtype: dtype of the result; None means that of x. ±1 is exact in every one.
    """
    x, dtype = x.detach(), dtype or x.dtype
    if torch.compiler.is_compiling():  # one operation once fused; `pack` finds it in an exported graph
        return torch.where(x >= 0, 1.0, -1.0).to(dtype)
    if (out := _compiled("latent_signs", x, dtype)) is not None:
        return out
    return (x >= 0).to(dtype).mul_(2).sub_(1)  # the same; eager `where` with scalars takes far longer


def stochastic_sign(
    x: Tensor, generator: torch.Generator | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """+1 with probability hard_sigmoid(x), else -1, independently for each entry (BinaryConnect, eq. 2).

    One random byte decides each sign, so the probability is rounded to a multiple of 1/256: drawing a float
    for each would take longer than the multiplication. It is exact for x = -1, 0 and 1, and the expected
    value is clip(x, -1, 1) to within 1/256. The generator gives a seed, from which SplitMix64 makes the bytes
    (Steele, Lea, Flood, 2014).

    Args:
        x: any floating-point tensor.
        generator: source of the random numbers, on the device of x; None means PyTorch's global one.
        dtype: dtype of the result; None means that of x.
    """
    x, dtype = x.detach(), dtype or x.dtype
    seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=x.device)
    compiling = torch.compiler.is_compiling()
    if not compiling and (out := _compiled("latent_draws", x, dtype, seed)) is not None:
        return out
    # +1 where the byte lies below 256 hard_sigmoid(x) = 128 x + 128, rounded to the nearest.
    threshold = torch.add(128.5, x.float(), alpha=128).clamp(0, 256).to(torch.int16)
    return (_random_bytes(seed, x.shape) < threshold).to(dtype).mul_(2).sub_(1)


def _random_bytes(seed: Tensor, shape: torch.Size) -> Tensor:
    """uint8, uniform in 0..255: the bytes of SplitMix64's words, as native/latent.c has them."""
    words = torch.arange(1, -(-shape.numel() // 8) + 1, device=seed.device)
    z = words * -0x61C8864680B583EB + seed
    z = (z ^ (z >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # masked: a shift of signed words drags the sign
    z = (z ^ (z >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    z = z ^ (z >> 31 & 0x1FFFFFFFF)
    return z.view(torch.uint8)[: shape.numel()].view(shape)


_BITS = {torch.float32: torch.float32, torch.bfloat16: torch.uint16}


def _compiled(name: str, x: Tensor, dtype: torch.dtype, *seed: Tensor) -> Tensor | None:
    """The result of the engine's compiled function, where that is loaded and can read x; else None."""
    plain = type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" and x.dtype == torch.float32
    # What traces or watches PyTorch's operations would not see this one.
    watched = torch._C._get_tracing_state() or torch._C._len_torch_dispatch_stack()
    if not plain or dtype not in _BITS or not x.is_contiguous() or watched or not (native := _native()):
        return None
    try:
        entries = x.numpy()
    except RuntimeError:  # under `torch.func`, whose tensors have no memory of their own
        return None
    out = torch.empty_like(x, dtype=dtype)
    seeds = [int(s) & (2**64 - 1) for s in seed]
    function = getattr(native, name)
    function(entries, out.view(_BITS[dtype]).numpy(), *seeds, threads=torch.get_num_threads())
    return out


@cache
def _native() -> Any:
    """The compiled module; None where it cannot be loaded, of which the first call warns."""
    try:
        from bnn.runtime import _native as native
    except ImportError as error:
        warn(
            f"the compiled engine cannot be loaded ({error}): PyTorch takes the signs of weights, slower",
            RuntimeWarning,
            stacklevel=4,  # who called `sign` or `stochastic_sign`
        )
        return None
    return native


# --- straight-through estimators --------------------------------------------------------------------------


class _Estimator(torch.autograd.Function):
    """`value` forward, in its own memory; backward, what a subclass makes of the gradient and x."""

    # `x + (value - x).detach()` is the customary one-liner; it rounds: a sampled +1 may become 0.99999994.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:
        return value.detach()

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # type: ignore[no-untyped-def]
        x, _, *parameters = inputs
        ctx.save_for_backward(x, *parameters)

    @classmethod
    def apply(cls, *args: Tensor) -> Tensor:
        """`Function.apply`, without its look-up of the signature of `forward`: 25 of 30 us at every call.

        Only `torch.func` needs the look-up, and still gets it.
        """
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            result: Tensor = super().apply(*args)  # type: ignore[no-untyped-call]
        else:
            result = super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]
        return result


def _estimator(ste: Estimator) -> Estimator:
    """Makes the public estimator, which copies the value, from `ste`, whose result is in its memory."""

    @wraps(ste)
    def copying(x: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return ste(x, value.clone(), *args, **kwargs)

    copying.without_copy = ste  # type: ignore[attr-defined]
    return cast(Estimator, copying)


def without_copy(ste: Estimator) -> Estimator:
    """The estimator without its copy, for a value that nobody else uses: the result is in its memory."""
    return cast(Estimator, getattr(ste, "without_copy", ste))


class _IdentitySTE(_Estimator):
    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass  # x is not needed, and need not be kept

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


@_estimator
def identity_ste(x: Tensor, value: Tensor) -> Tensor:
    """`value` forward; backward, the gradient goes to x unchanged: d/dx = 1 (BinaryConnect, algorithm 1)."""
    return _IdentitySTE.apply(x, value)


class _ClippedSTE(_Estimator):
    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1), None


@_estimator
def clipped_ste(x: Tensor, value: Tensor) -> Tensor:
    """`value` forward; backward, the gradient passes where |x| <= 1 and is 0 elsewhere (BinaryNet, eq. 4)."""
    return _ClippedSTE.apply(x, value)


class _TanhSTE(_Estimator):
    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * (1 - x.tanh() ** 2), None


@_estimator
def tanh_ste(x: Tensor, value: Tensor) -> Tensor:
    """`value` forward; backward, the gradient is that of tanh: times 1 - tanh(x)^2."""
    return _TanhSTE.apply(x, value)


class _ApproxSTE(_Estimator):
    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * (2 - 2 * x.abs()).clamp(min=0), None


@_estimator
def approx_ste(x: Tensor, value: Tensor) -> Tensor:
    """`value` forward; backward, the gradient times 2 - 2|x| where |x| < 1, and 0 elsewhere.

    That is the derivative of ApproxSign, a polynomial of degree 2 on either side of 0 which meets the sign at
    -1, 0 and 1: 2x + x^2 on [-1, 0), 2x - x^2 on [0, 1), the sign beyond (Bi-Real Net, Liu et al., 2018,
    eq. 7).
    """
    return _ApproxSTE.apply(x, value)


class _SwishSTE(_Estimator):  # of z = beta x, so that beta comes in by the chain rule
    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (z,) = ctx.saved_tensors
        # By s(z) and s(-z), as cosh overflows: 1 / (1 + cosh z) = 2 s(z) s(-z), tanh(z / 2) = s(z) - s(-z).
        # At ±1000 one of them is 0 in every dtype, and z is finite, so that their product is.
        z = z.clamp(-1000, 1000)
        above, below = z.sigmoid(), (-z).sigmoid()
        return gradient * (2 * (above * below) * (2 - z * (above - below))), None


@_estimator
def swish_ste(x: Tensor, value: Tensor, beta: float = 5.0) -> Tensor:
    """`value` forward; backward, the gradient times beta (2 - z tanh(z / 2)) / (1 + cosh(z)) with z = beta x.

    That is the derivative of SignSwish, SS(x) = 2 s(z) (1 + z (1 - s(z))) - 1 with the logistic function s
    (BNN+, Darabi et al., 2018). It is beta at x = 0, and negative where |z| > 2.4, as SS overshoots ±1 and
    comes back.

    Args:
        x, value: as for every estimator.
        beta: the larger, the nearer SS is to the sign. For another than 5 in a quantizer:
            `functools.partial(swish_ste, beta=10.0)`.
    """
    return _SwishSTE.apply(beta * x, value)


class _ProgressiveSTE(_Estimator):
    @staticmethod
    def forward(x: Tensor, value: Tensor, t: Tensor) -> Tensor:  # type: ignore[override]
        return value.detach()  # repeated here: under `torch.compile` one with *args returned x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        x, t = ctx.saved_tensors
        k = (1 / t).clamp(min=1)
        return gradient * (k * t * (1 - (t * x).tanh() ** 2)), None, None


@_estimator
def progressive_ste(x: Tensor, value: Tensor, progress: float | Tensor) -> Tensor:
    """`value` forward; backward, the gradient times k t (1 - tanh(t x)^2), with t = 10^(2 progress - 1).

    That is the derivative of k tanh(t x) with k = max(1 / t, 1), IR-Net's error decay estimator (Qin et al.,
    2020, eq. 12 and 13). In the course of training it turns from nearly the identity's, at progress 0, by way
    of tanh's, at 1/2, into a peak of height 10 at x = 0, which is nearer to that of the sign.

    Args:
        x, value: as for every estimator.
        progress: the share of training that is over, from 0 to 1; a tensor of one entry is never read on
            the host. `bnn.quantizers.ProgressiveSign` keeps it.
    """
    # A tensor of no axes: it does not change the dtype of x, compiled code takes any value of it, and on an
    # accelerator nothing waits for it.
    t = 10 ** (2 * torch.as_tensor(progress, dtype=torch.float32, device=x.device) - 1)
    return _ProgressiveSTE.apply(x, value, t)

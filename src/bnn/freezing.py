"""From a trained model to one that ships: freeze the weights, put the batch norms right."""

import copy
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnn.functional import stochastic_sign
from bnn.parametrization import Binarized
from bnn.quantizers import Sign, StochasticSign

__all__ = ["freeze", "recalibrate"]

M = TypeVar("M", bound=nn.Module)

# Magnitudes of one row that differ by no more are meant to be one: a quantizer's `x + (v - x).detach()` is
# off by several where |x| is larger than |v|.
ULPS = 16


def freeze(model: M, weights: Literal["sign", "sample", "real"] = "sign", *, seed: int | None = None) -> M:
    """A copy of the model with plain parameters where it had parametrized ones, in eval mode.

    The copy is a stock model: its classes and its state dict are those of the float network. The argument
    is left as it is and goes on training.

    Args:
        model: a model with binarized weights, anywhere in it.
        weights: which weights to take.
            "sign": what each quantizer gives in eval mode; for `Sign` and `StochasticSign` the signs.
            "sample": one random sample, +1 with probability hard_sigmoid(latent weight), whichever of
            the two the model was trained with; other quantizers as in training mode.
            "real": the latent weights themselves, the paper's way to test a stochastic network.
        seed: seed of the sample; None draws from PyTorch's global generator.

    Raises:
        ValueError: `weights` is none of the three, or a weight is NaN or infinite.
    """
    if weights not in ("sign", "sample", "real"):
        raise ValueError(f"weights must be 'sign', 'sample' or 'real', not {weights!r}")
    frozen = copy.deepcopy(model).eval()
    values: dict[tuple[int, ...], nn.Parameter] = {}  # by latent weight: what is tied stays tied
    with torch.no_grad(), torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for path, module in frozen.named_modules():
            if parametrize.is_parametrized(module):
                _restore(module, path, weights, values)
    _remove_hooks(frozen)
    return frozen


def _restore(module: nn.Module, path: str, weights: str, values: dict[tuple[int, ...], nn.Parameter]) -> None:
    """Evaluates the module's parametrizations and gives it back its class and plain parameters.

    `remove_parametrizations` would not do: it takes the property from the class, which the copy shares with
    the original.
    """
    chains: Any = module.parametrizations
    frozen: dict[str, nn.Parameter] = {}
    for name, chain in chains.items():
        originals = (
            (chain.original,)
            if chain.is_tensor
            else tuple(getattr(chain, f"original{i}") for i in range(chain.ntensors))
        )
        key = tuple(id(part) for part in (*originals, *chain))  # tied, and by the same quantizer
        if key not in values:
            value = _evaluate(list(chain), originals, weights)
            if not all(tensor.isfinite().all() for tensor in (*originals, value)):  # sign(NaN) is finite
                raise ValueError(f"{path}.{name} holds NaN or infinity".lstrip("."))
            values[key] = nn.Parameter(value.detach().clone(), requires_grad=False)
        frozen[name] = values[key]
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    # A stock layer has its weights before its biases, and an RNN both of them layer by layer.
    order = sorted([*frozen, *module._parameters], key=lambda name: "bias" in name)
    if isinstance(module, nn.RNNBase):
        order = module._flat_weights_names
    for name, value in frozen.items():
        setattr(module, name, value)  # an RNN notices this and renews its list of weights
    for name in order:
        module._parameters[name] = module._parameters.pop(name)


def _evaluate(chain: list[nn.Module], originals: tuple[Tensor, ...], weights: str) -> Tensor:
    value: Any = originals
    for parametrization in chain:
        value = value if isinstance(value, tuple) else (value,)
        if not isinstance(parametrization, Binarized):
            value = parametrization(*value)
        elif weights == "real":
            (value,) = value
        elif weights == "sample" and type(parametrization.quantizer) in (Sign, StochasticSign):
            value = _snap(stochastic_sign(*value))
        else:
            value = _snap(parametrization.quantizer.train(weights == "sample")(*value))
    return value


def _snap(weight: Tensor) -> Tensor:
    """Gives the rows that are ±a but for rounding one magnitude, so that frozen and packed are equal."""
    if weight.dim() < 2 or weight.numel() == 0:
        return weight
    rows = weight.flatten(1)
    largest, smallest = rows.abs().amax(1, keepdim=True), rows.abs().amin(1, keepdim=True)
    # In bfloat16, 16 of its own ulps would be an eighth of the weight.
    ulp = min(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)
    one_magnitude = largest - smallest <= ULPS * ulp * smallest
    return torch.where(one_magnitude, torch.copysign(largest, rows), rows).view_as(weight)


def _remove_hooks(model: nn.Module) -> None:
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), Binarized):
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)


def recalibrate(model: M, data: Tensor | Iterable[Any]) -> M:
    """Re-estimates the statistics of the model's batch norms under its present weights, in place.

    A batch norm has the statistics of the weights that it was trained with. A stochastic network that is
    frozen to its signs has other ones, and its accuracy can fall to chance until it is recalibrated. Dropout,
    too, adds variance in training only (Li et al., "Understanding the Disharmony between Dropout and Batch
    Normalization by Variance Shift", 2019).

    Only the batch norms are in training mode meanwhile; dropout and stochastic quantizers are not.

    Args:
        model: a frozen model, or any other.
        data: one batch of inputs, or an iterable of batches, each a tensor or a tuple that starts with one;
            of training data. The estimates are the means over batches.

    Returns:
        `model`, in eval mode.

    Raises:
        ValueError: there is no batch in `data`. After this, or any other exception, the statistics are
            what they were.
    """
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # PyTorch's way to say: the mean over all batches
            norm.train()
        batches = 0
        with torch.no_grad():
            for batch in [data] if isinstance(data, Tensor) else data:
                model(batch if isinstance(batch, Tensor) else batch[0])
                batches += 1
        if batches == 0:
            raise ValueError("recalibrate: there is no batch in data")
    except BaseException:
        for norm, (_, state) in zip(norms, before, strict=True):
            norm.load_state_dict(state)
        raise
    finally:
        for norm, (momentum, _) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.eval()
    return model

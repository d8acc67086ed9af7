"""Binarization as a parametrization: `layer.weight` becomes the binarized view of a latent weight.

    layer = binarize(nn.Linear(784, 300))
    layer.weight                            # ±1, computed at each read
    layer.parametrizations.weight.original  # the latent weight: real-valued, what the optimizer updates

Built on `torch.nn.utils.parametrize`, so any parameter of any module can be binary, and the latent
weight is the very parameter object that was there before: an optimizer made earlier goes on working.
"""

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bnn.parametrization import Binarized, forget_flat_weights_before_copying, sample_once_a_forward
from bnn.quantizers import Sign

__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConv3d",
    "BinaryLinear",
    "binarize",
    "clip_latent_weights",
    "latent_parameters",
    "load_float_state_dict",
    "named_latent_parameters",
    "scaled_parameter_groups",
]

Quantizer = nn.Module | Callable[[], nn.Module]
"""A quantizer, used as it is, or what makes one (a class, a function): called once for each weight."""

M = TypeVar("M", bound=nn.Module)


def binarize(
    module: M, quantizer: Quantizer = Sign, name: str | None = None, *, skip: Iterable[str | nn.Module] = ()
) -> M:
    """Binarizes a layer's weight, or the weights of all layers of a network, in place.

    Values stay what they are: the weights of a trained float network become the latent weights. Weights
    tied by sharing one parameter stay tied and share each sample.

    Args:
        module: a layer or a network.
        quantizer: a module, tensor in, tensor of the same shape and dtype out; one instance serves every
            weight. Or a class or function that makes one: then each weight has its own.
        name: the one parameter of `module` to binarize ("weight", "bias", "weight_hh_l0", ...). None
            means the weights of every linear, bilinear, convolutional, recurrent and attention layer in
            `module`; in a module of another kind, its own parameter "weight".
        skip: layers to leave alone, with all inside them, as modules or by their names in `module`.

    Assigning `layer.weight = value` sets the latent weight. Changing the view in place does not reach it and
    raises at the next use (nn.init, `mul_`); only a change through `layer.weight.data` cannot be noticed.

    Returns:
        `module`.

    Raises:
        ValueError: there is no such parameter, it is binarized or otherwise parametrized already, nothing is
            left to binarize, `skip` names a module that does not exist, or the quantizer changes shape or
            dtype. `module` is then as it was.
    """
    targets = [(module, name)] if name is not None else list(_weights(module, _resolve(module, skip)))
    if not targets:
        raise ValueError(
            f"nothing to binarize in {_kind(module)}; name a parameter: binarize(module, name=...)"
        )
    tied: dict[int, Binarized] = {}
    for owner, parameter in targets:
        if parametrize.is_parametrized(owner, parameter):
            how = "binarized" if _is_binarized(owner, parameter) else "parametrized"
            raise ValueError(f"{parameter} of {_kind(owner)} is {how} already")
        latent = owner._parameters.get(parameter)
        if latent is None:
            have = ", ".join(n for n, _ in owner.named_parameters(recurse=False)) or "none"
            raise ValueError(f"{_kind(owner)} has no parameter {parameter!r} (it has: {have})")
        if id(latent) not in tied:
            made = quantizer if isinstance(quantizer, nn.Module) else _make(quantizer)
            _check_quantizer(made, latent)
            tied[id(latent)] = Binarized(made)

    # Nothing fails from here on: a model is binarized as a whole or not at all.
    for owner, parameter in targets:
        binarized = tied[id(owner._parameters[parameter])]
        parametrize.register_parametrization(owner, parameter, binarized)
        binarized._handed_out = None  # registering reads the weight once
        sample_once_a_forward(owner, binarized)
        if isinstance(owner, nn.RNNBase):
            forget_flat_weights_before_copying(owner)
    for binarized in tied.values():
        sample_once_a_forward(module, binarized)
    return module


def _is_binarized(module: nn.Module, name: str) -> bool:
    return any(isinstance(p, Binarized) for p in module.parametrizations[name])  # type: ignore[index]


def _make(quantizer: Callable[[], nn.Module]) -> nn.Module:
    rule = (
        "quantizer must be an nn.Module, or a class or function that makes one when called without arguments"
    )
    try:
        made = quantizer()
    except TypeError as error:
        raise ValueError(f"{rule}; calling {quantizer!r} gave: {error}") from error
    if not isinstance(made, nn.Module):
        raise ValueError(f"{rule}; calling {quantizer!r} gave {type(made).__name__}")
    return made


def _check_quantizer(quantizer: nn.Module, latent: Tensor) -> None:
    with torch.no_grad(), torch.autocast(latent.device.type, enabled=False):
        value = quantizer(latent)
    if value.shape != latent.shape or value.dtype != latent.dtype:
        raise ValueError(
            f"a quantizer must keep shape and dtype: {_kind(quantizer)} made {tuple(value.shape)}, "
            f"{value.dtype} of {tuple(latent.shape)}, {latent.dtype}"
        )


def _kind(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Parametrized")


def _weights(root: nn.Module, skipped: set[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """The (layer, parameter name) pairs that `binarize` takes from a whole network."""
    found = False
    for module in root.modules():
        names = _weight_names(module)
        found = found or bool(names)
        if module not in skipped:
            yield from ((module, name) for name in names)
    if not found and isinstance(getattr(root, "weight", None), Tensor):
        yield root, "weight"


def _weight_names(module: nn.Module) -> list[str]:
    match module:
        case nn.Linear() | nn.Bilinear() | nn.modules.conv._ConvNd():
            return ["weight"]
        case nn.RNNBase() | nn.RNNCellBase():
            own = dict(module.named_parameters(recurse=False))
            if hasattr(module, "parametrizations"):
                own |= dict.fromkeys(module.parametrizations)  # type: ignore[arg-type]
            return [name for name in own if name.startswith("weight_")]
        case nn.MultiheadAttention():
            one_matrix = module.in_proj_weight is not None
            return ["in_proj_weight"] if one_matrix else ["q_proj_weight", "k_proj_weight", "v_proj_weight"]
        case _:
            return []


def _resolve(root: nn.Module, skip: Iterable[str | nn.Module]) -> set[nn.Module]:
    by_name = dict(root.named_modules(remove_duplicate=False))
    skipped: set[nn.Module] = set()
    for entry in [skip] if isinstance(skip, str | nn.Module) else skip:
        if isinstance(entry, str):
            if entry not in by_name:
                near = difflib.get_close_matches(entry, by_name, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"skip: there is no module {entry!r} in {_kind(root)}{hint}")
            entry = by_name[entry]
        elif entry not in by_name.values():
            raise ValueError(f"skip: this {_kind(entry)} is not a part of {_kind(root)}")
        skipped.update(entry.modules())
    return skipped


# --- conveniences -----------------------------------------------------------------------------------------


def BinaryLinear(*args: Any, quantizer: Quantizer = Sign, **kwargs: Any) -> nn.Linear:
    """`nn.Linear` with a binarized weight, latent weights uniform in [-1, 1] as in BinaryConnect's code."""
    return binarize(_uniform(nn.Linear(*args, **kwargs)), quantizer)


def BinaryConv1d(*args: Any, quantizer: Quantizer = Sign, **kwargs: Any) -> nn.Conv1d:
    """`nn.Conv1d` with a binarized weight, latent weights uniform in [-1, 1] as in BinaryConnect's code."""
    return binarize(_uniform(nn.Conv1d(*args, **kwargs)), quantizer)


def BinaryConv2d(*args: Any, quantizer: Quantizer = Sign, **kwargs: Any) -> nn.Conv2d:
    """`nn.Conv2d` with a binarized weight, latent weights uniform in [-1, 1] as in BinaryConnect's code."""
    return binarize(_uniform(nn.Conv2d(*args, **kwargs)), quantizer)


def BinaryConv3d(*args: Any, quantizer: Quantizer = Sign, **kwargs: Any) -> nn.Conv3d:
    """`nn.Conv3d` with a binarized weight, latent weights uniform in [-1, 1] as in BinaryConnect's code."""
    return binarize(_uniform(nn.Conv3d(*args, **kwargs)), quantizer)


def _uniform(layer: M) -> M:
    nn.init.uniform_(layer.weight, -1, 1)  # type: ignore[arg-type]
    return layer


# --- latent weights and optimizers ------------------------------------------------------------------------


def named_latent_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, latent weight) of every binarized parameter, the name as in the float model: "fc1.weight".

    A tied weight comes once, under its first name.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        for name, chain in module.parametrizations.items():
            if _is_binarized(module, name) and id(chain.original) not in seen:
                seen.add(id(chain.original))
                yield (f"{path}.{name}" if path else name), chain.original


def latent_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The latent weight of every binarized parameter, each once."""
    return (parameter for _, parameter in named_latent_parameters(model))


def clip_latent_weights(
    optimizer: torch.optim.Optimizer, model: nn.Module, limit: float = 1.0
) -> RemovableHandle:
    """Clips the model's latent weights to [-limit, limit] after every `optimizer.step()`.

    Beyond ±1 a latent weight has no influence on the binary one and would only take longer to come back
    (BinaryConnect, section 2.4).

    Returns:
        A handle; `handle.remove()` ends the clipping.

    Raises:
        ValueError: the model has no binarized weights, or the optimizer holds none of them.
    """
    if not limit > 0:
        raise ValueError(f"limit must be positive, not {limit}")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    latent = list(latent_parameters(model))
    if not latent:
        raise ValueError("the model has no binarized weights to clip: call binarize first")
    if not any(id(p) in held for p in latent):
        raise ValueError("the optimizer holds none of the model's latent weights: give it model.parameters()")

    def clip(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        with torch.no_grad():
            for parameter in latent:
                parameter.clamp_(-limit, limit)

    return optimizer.register_step_post_hook(clip)


def scaled_parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameter groups that scale the learning rate of each latent weight as the authors' code does.

    A latent weight's rate is lr * sqrt((fan_in + fan_out) / 1.5), the inverse of Glorot's deviation;
    everything else has `lr`. Schedules multiply a group's rate, so the ratio stays (but `eta_min` of a
    cosine schedule is one value for all groups and would flatten it: leave it 0).

    Returns:
        A list for the optimizer's first argument: a group for each rate, with its "lr" and a "name", which
        lists the latent weights in it, or is "others".
    """
    # One group for all weights of a rate: every group costs an optimizer some 50 us a step.
    by_scale: dict[float, dict[str, nn.Parameter]] = {}
    for name, parameter in named_latent_parameters(model):
        by_scale.setdefault(_glorot_scale(parameter), {})[name] = parameter
    groups: list[dict[str, Any]] = [
        {"params": list(latent.values()), "lr": lr * scale, "name": ", ".join(latent)}
        for scale, latent in by_scale.items()
    ]
    scaled = {id(p) for group in groups for p in group["params"]}
    rest = [p for p in model.parameters() if id(p) not in scaled]
    return [*groups, {"params": rest, "lr": lr, "name": "others"}] if rest else groups


def _glorot_scale(weight: Tensor) -> float:
    if weight.dim() < 2:
        return 1.0  # a bias has no fans
    kernel = prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * kernel, weight.shape[0] * kernel
    return float(((fan_in + fan_out) / 1.5) ** 0.5)


def load_float_state_dict(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads the state dict of the float model into its binarized twin: "fc1.weight" is the latent weight.

    Parameters and buffers of quantizers, which the float model lacks, keep their values.
    Strict as `load_state_dict`: a missing or unexpected key, or a wrong shape, raises RuntimeError.
    """
    # What is shared stands in a state dict under each of its names, so all of them are mapped.
    latent_key: dict[str, str] = {}
    quantizers: dict[str, Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if parametrize.is_parametrized(module):
            prefix = f"{path}." if path else ""
            for name in module.parametrizations:
                latent_key[f"{prefix}{name}"] = f"{prefix}parametrizations.{name}.original"
        if isinstance(module, Binarized):
            quantizers |= {f"{path}.{key}": value for key, value in module.state_dict().items()}
    model.load_state_dict(quantizers | {latent_key.get(key, key): value for key, value in state.items()})

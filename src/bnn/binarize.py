"""Binarization as a parametrization: `layer.weight` becomes the binarized view of a latent weight.

    layer = binarize(nn.Linear(784, 300))
    layer.weight                            # ±1, computed at each read
    layer.parametrizations.weight.original  # the latent weight: real-valued, what the optimizer updates

Built on `torch.nn.utils.parametrize`, so any parameter of any module can be binary, and the latent
weight is the very parameter object that was there before: an optimizer made earlier goes on working.
"""

import difflib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from types import ModuleType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from bnn.quantizers import Sign

__all__ = [
    "Binarized",
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
            made = quantizer if isinstance(quantizer, nn.Module) else quantizer()
            _check_quantizer(made, latent)
            tied[id(latent)] = Binarized(made)

    # Nothing fails from here on: a model is binarized as a whole or not at all.
    for owner, parameter in targets:
        binarized = tied[id(owner._parameters[parameter])]
        parametrize.register_parametrization(owner, parameter, binarized)
        binarized._handed_out = None  # registering reads the weight once
        _sample_once_a_forward(owner, binarized)
        if isinstance(owner, nn.RNNBase):
            _forget_flat_weights_before_copying(owner)
    for binarized in tied.values():
        _sample_once_a_forward(module, binarized)
    return module


class Binarized(nn.Module):
    """The parametrization that `binarize` registers: latent weight in, binarized weight out.

    In training, one forward of a module uses one sample, however often it reads the weight: an LSTM
    reads it four times, tied layers read the same one. Forward hooks open and close that span; in it,
    the first read is kept. It is computed with gradient even where it is read under `no_grad`, so a
    read on the side costs no gradient. (`parametrize.cached()` would lose it.) A module that calls
    itself starts a new span.
    """

    def __init__(self, quantizer: nn.Module) -> None:
        super().__init__()
        self.quantizer = quantizer
        self._forget()

    def _forget(self) -> None:
        self._open: list[nn.Module] = []  # whose forwards are under way: the network's, in it the layer's
        self._sample: Tensor | None = None
        self._handed_out: tuple[Tensor, int] | None = None  # a read outside a forward, and its version

    def forward(self, latent: Tensor) -> Tensor:
        if self._open and self.training:
            if self._sample is None:
                with torch.inference_mode(False), torch.enable_grad():
                    self._sample = self.quantizer(latent)
            return self._sample if torch.is_grad_enabled() else self._sample.detach()
        self.check_untouched()
        value: Tensor = self.quantizer(latent)
        if not torch.compiler.is_compiling() and not value.is_inference():
            self._handed_out = (value.detach(), value._version)
        return value

    def right_inverse(self, value: Tensor) -> Tensor:
        """`layer.weight = value` sets the latent weight, to a copy: assigning must not tie two tensors."""
        self._handed_out = None
        return value.clone()

    def check_untouched(self) -> None:
        """Raises if a weight read earlier was changed in place since: the latent weight never saw that.

        Raises:
            RuntimeError: so it was, by `nn.init`, `copy_`, `mul_`, ...
        """
        handed_out = self._handed_out  # read once, as in eval() threads may share a model
        if handed_out is not None and not torch.compiler.is_compiling():
            alias, version = handed_out
            self._handed_out = None
            if alias._version != version:
                raise RuntimeError(
                    "a binarized weight was changed in place (nn.init, copy_, ...), which does not reach its "
                    "latent weight: assign it, layer.weight = value, or change "
                    "layer.parametrizations.weight.original"
                )

    def open_forward(self, module: nn.Module, inputs: Any) -> None:
        """A forward pre-hook."""
        self.check_untouched()
        if module in self._open:  # its last forward was stopped by Ctrl-C, after which no hook is called
            self._forget()
        if self.training:
            self._open.append(module)

    def close_forward(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A forward hook, called after an exception as well."""
        self._handed_out = None
        if module in self._open:
            self._open.remove(module)
        if not self._open:
            self._sample = None
        if isinstance(module, nn.RNNBase):
            _forget_flat_weights(module)

    def __getstate__(self) -> dict[str, Any]:
        # A copy starts outside any forward, and has handed nothing out.
        return self.__dict__ | {"_open": [], "_sample": None, "_handed_out": None}


def _sample_once_a_forward(module: nn.Module, binarized: Binarized) -> None:
    # Bound methods, because deepcopy binds them to the copied Binarized; a closure would keep the original.
    if binarized.open_forward not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(binarized.open_forward)
        module.register_forward_hook(binarized.close_forward, always_call=True)


def _is_binarized(module: nn.Module, name: str) -> bool:
    return any(isinstance(p, Binarized) for p in module.parametrizations[name])  # type: ignore[index]


def _check_quantizer(quantizer: nn.Module, latent: Tensor) -> None:
    with torch.no_grad():
        value = quantizer(latent)
    if value.shape != latent.shape or value.dtype != latent.dtype:
        raise ValueError(
            f"a quantizer must keep shape and dtype: {_kind(quantizer)} made {tuple(value.shape)}, "
            f"{value.dtype} of {tuple(latent.shape)}, {latent.dtype}"
        )


def _forget_flat_weights(rnn: nn.RNNBase) -> None:
    # An RNN keeps the weights of its last forward, which belong to a graph: they could not be copied. By dead
    # references it knows that they are out of date, and its next forward reads each weight anew.
    rnn._flat_weights = [None] * len(rnn._flat_weights)
    rnn._flat_weight_refs = [lambda: None] * len(rnn._flat_weights)  # type: ignore[list-item]


def _forget_flat_weights_before_copying(rnn: nn.RNNBase) -> None:
    cls: Any = type(rnn)  # made by `parametrize`, for this module and its copies alone
    deepcopy = cls.__deepcopy__

    def forget_and_copy(self: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
        _forget_flat_weights(self)  # `.to(device)` has read them, outside of any forward
        return deepcopy(self, memo)

    cls.__deepcopy__ = forget_and_copy


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
        A list for the optimizer's first argument; each group has its own "lr" and a "name".
    """
    groups: list[dict[str, Any]] = []
    latent = dict(named_latent_parameters(model))
    for name, parameter in latent.items():
        groups.append({"params": [parameter], "lr": lr * _glorot_scale(parameter), "name": name})
    scaled = {id(p) for p in latent.values()}
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


class _CallableModule(ModuleType):
    # `bnn.binarize` is both the function and, once imported, this module: Python sets the package's
    # attribute to the submodule. Calling either must do the same.
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return binarize(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule

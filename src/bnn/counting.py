"""What a PyTorch model costs: one forward of a frozen copy, in which every product is counted.

Products are seen where PyTorch dispatches its operations, below modules and functions: what a module of the
user's own multiplies is counted like a stock layer, and so is what happens between layers. A product belongs
to the module whose forward is under way, and its weight is known by the storage that it lies in.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from bnn.binarization import named_latent_parameters
from bnn.errors import first_lines
from bnn.freezing import freeze
from bnn.packed.costs import FLOAT, FLOAT_SIGN, MACS_KINDS, SIGN_SIGN, LayerCost, Summary
from bnn.packed.nodes import PackedWeight, Shape
from bnn.packing.weights import PackWarning, pack_weight

__all__ = ["module_summary"]


def module_summary(model: nn.Module, x: Any, batch_axis: int | None = 0) -> Summary:
    """`bnn.summary` of an nn.Module, which says what the arguments are."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be an nn.Module, a PackedModel or a Runner, not {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # of torch.compile, whose code calls no layers
    inputs = tuple(x) if isinstance(x, tuple | list) else (x,)
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        given = ", ".join(type(value).__name__ for value in inputs)
        raise ValueError(f"x must be a tensor that the model takes, or a tuple of tensors, not ({given})")
    batch = _batch(inputs[0], batch_axis)
    _check(model)

    # The forward may draw random numbers; the user's next step must not notice.
    gpus = {t.device.index for t in (*model.parameters(), *inputs) if t.device.type == "cuda"}
    with torch.random.fork_rng(gpus), torch.no_grad():
        frozen = _frozen_copy(model)
        binarized = {id(frozen.get_parameter(name)) for name, _ in named_latent_parameters(model)}
        products = _Products(frozen, binarized, batch, batch_axis)
        products.run([value.detach().clone() for value in inputs])
    layers = tuple(products.costs())
    if not layers:
        raise ValueError(f"nothing to count in {_kind(model)}: it has no parameters and multiplies nothing")
    return Summary(layers)


def _batch(x: Tensor, axis: int | None) -> int:
    """Samples in x."""
    if axis is None:
        return 1
    if not 0 <= axis < x.dim():
        raise ValueError(f"batch_axis = {axis}, but x has the shape {tuple(x.shape)}")
    if x.shape[axis] == 0:
        raise ValueError(f"x, of shape {tuple(x.shape)}, is an empty batch")
    return x.shape[axis]


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{_said(name, module)} is TorchScript; give the module that it was made of")
    for name, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            raise ValueError(f"{name} has no values yet" + ": run the model once" * is_lazy(parameter))


def _frozen_copy(model: nn.Module) -> nn.Module:
    try:
        return freeze(model)
    except ValueError:
        raise
    except Exception as error:  # deepcopy raises whatever the parts of the model do
        raise ValueError(f"the model cannot be copied: {first_lines(error)}") from error


def _kind(module: nn.Module) -> str:
    # Attention's last layer is a Linear under another name, which has to do with PyTorch's quantization.
    return type(module).__name__.removeprefix("Parametrized").removeprefix("NonDynamicallyQuantizable")


def _said(name: str, module: nn.Module) -> str:
    return f"layer {name!r} ({_kind(module)})" if name else f"the model ({_kind(module)})"


# --- operations -------------------------------------------------------------------------------------------

_aten: Any = torch.ops.aten

# Products, with the place of their first operand among the arguments; the second one follows it.
_PRODUCTS: Mapping[Any, int] = {
    **dict.fromkeys([_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.linear], 0),
    **dict.fromkeys([_aten.addmm, _aten.addbmm, _aten.baddbmm, _aten.addmv], 1),
    **dict.fromkeys([_aten.convolution, _aten._trilinear], 0),
}


def _product(operation: Any, args: tuple[Any, ...], out: Tensor) -> tuple[Tensor, Tensor, int]:
    """Inputs, weights, multiply-accumulates. Where neither is a parameter, weights are what comes second."""
    x, w = args[_PRODUCTS[operation] :][:2]
    if operation is _aten.convolution:
        return x, w, flop_registry[operation](*args, out_val=out) // 2
    if operation is _aten._trilinear:  # nn.Bilinear: for each sample each weight once
        return x, w, x.numel() // x.shape[-1] * w.numel()
    macs = out.numel() * x.shape[-1]  # each entry of the result is a sum along x's last axis
    if operation is _aten.addbmm:  # and along its first
        macs *= len(x)
    return (w, x, macs) if w.dim() == 1 < x.dim() else (x, w, macs)


def _may_multiply(func: Any) -> bool:
    """Fused products, sparse ones, those of integers, and operations of others, by their names."""
    parts = func.overloadpacket.__name__.split("_")
    return func.namespace not in ("aten", "prim", "profiler") or any(
        part.endswith(("mm", "matmul", "attention", "rnn")) or part.startswith("conv") for part in parts
    )


# What else may happen to a parameter without a product in it; a view, or something with "norm" in its name.
_COPIES = {"clone", "_to_copy", "_unsafe_view"}
_LOOKUPS = {"embedding", "_embedding_bag", "index", "index_select", "gather"}
_SUMS = {"add", "add_", "sub", "sub_", "rsub", "cat", "stack", "where", "_prelu_kernel"}


@contextmanager
def _without_fusion(model: nn.Module) -> Iterator[None]:
    """Fused attention and recurrence would hide their products."""
    backends: Any = torch.backends  # whose properties mypy takes for their descriptors
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    with ExitStack() as before, sdpa_kernel(SDPBackend.MATH):
        before.callback(backends.mha.set_fastpath_enabled, backends.mha.get_fastpath_enabled())
        backends.mha.set_fastpath_enabled(False)
        for backend in (backends.mkldnn, backends.cudnn) if recurrent else ():  # else convolutions keep them
            before.callback(setattr, backend, "enabled", backend.enabled)
            backend.enabled = False
        yield


# --- counting ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Layer:
    """A module of the copy, and what was seen of it."""

    name: str
    module: nn.Module
    arguments: tuple[Shape, ...] = ()  # of its last call
    shape: Shape | None = None  # of its first result
    macs: Counter[str] = field(default_factory=Counter)
    unknown: bool = False  # it has a product of unknown size
    doubtful: bool = False  # something was done with its parameters that may have been a product

    def __post_init__(self) -> None:
        self.parameters = {id(p): p for p in self.module.parameters(recurse=False)}


class _Products(TorchDispatchMode):
    """Runs a model, and counts on the way."""

    def __init__(self, model: nn.Module, binarized: set[int], batch: int, batch_axis: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.batch, self.batch_axis = model, batch, batch_axis
        self.layers = [_Layer(name, module) for name, module in model.named_modules()]
        self.running = [self.layers[0]]  # whose forwards are under way
        self.wrong_batch = ""
        self.weights = binarized  # ids of parameters that are packed if they can be; others join them
        self.packed = cache(_packed_sizes)
        self.padded: Tensor | None = None  # ±1 with 0 around it, the last such value
        self.parameters: dict[int, nn.Parameter] = {}  # by the storages that they and their copies lie in
        self.copies: list[Tensor] = []  # kept, as else their storages would become others'
        self.given: set[int] = set()  # storages of the inputs

    def run(self, inputs: list[Tensor]) -> None:
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()  # those of an RNN may share one storage
            self.parameters[_storage(parameter)] = parameter
        self.given.update(map(_storage, inputs))
        for layer in self.layers:
            layer.module.register_forward_pre_hook(partial(self._enter, layer), prepend=True)
            layer.module.register_forward_hook(partial(self._leave, layer), always_call=True)
        try:
            with _without_fusion(self.model), self:
                self.model(*inputs)
        except Exception as error:  # a model can raise anything
            frames = [frame.f_locals.get("self") for frame, _ in walk_tb(error.__traceback__)]
            inner = (layer for of in reversed(frames) for layer in self.layers if layer.module is of)
            layer = next(inner, self.layers[0])
            shapes = " and ".join(map(str, layer.arguments))
            raise ValueError(
                f"{_said(layer.name, layer.module)} does not take its input"
                f"{f' of shape {shapes}' * bool(shapes)}: {first_lines(error)}"
            ) from error
        if self.wrong_batch:
            raise ValueError(self.wrong_batch)

    def costs(self) -> Iterator[LayerCost]:
        """The costs of each layer that has parameters of its own or multiplies."""
        seen: set[int] = set()
        for layer in self.layers:
            if layer.parameters or layer.macs or layer.unknown:
                yield self._cost(layer, [p for key, p in layer.parameters.items() if key not in seen])
                seen.update(layer.parameters)

    def _cost(self, layer: _Layer, parameters: list[nn.Parameter]) -> LayerCost:
        one_bit = word_bytes = floats = 0
        for parameter in parameters:
            packed = self.packed(parameter) if id(parameter) in self.weights else None
            one_bit += parameter.numel() if packed else 0
            word_bytes += packed[0] if packed else 0
            floats += packed[1] if packed else parameter.numel()
        macs = {kind: round(layer.macs[kind] / self.batch) for kind in MACS_KINDS if layer.macs[kind]}
        return LayerCost(
            name=layer.name,
            operation=_kind(layer.module),
            output_shape=layer.shape,
            one_bit_weights=one_bit,
            float_parameters=floats,
            bytes=word_bytes + 4 * floats,
            float_bytes=4 * sum(parameter.numel() for parameter in parameters),
            macs_by_kind=None if layer.unknown or (layer.doubtful and not macs) else macs,
        )

    # Hooks.

    def _enter(self, layer: _Layer, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.running.append(layer)
        tensors = [value for value in args if isinstance(value, Tensor)]
        layer.arguments = tuple(tuple(value.shape) for value in tensors)
        if tensors and self.batch_axis is not None and not self.wrong_batch:
            self._check_batch(layer, tensors[0])

    def _leave(self, layer: _Layer, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.running.pop()
        if layer.shape is None and (tensors := _tensors(output)):
            layer.shape = self._without_batch(tuple(tensors[0].shape))

    def _check_batch(self, layer: _Layer, x: Tensor) -> None:
        """Some layers know their batch axis: its length must be the batch's, or a multiple of it."""
        beside = -1  # the length of an axis before the batch's, which may be taken for it
        match layer.module:
            case nn.modules.conv._ConvNd(kernel_size=kernel):
                size = len(x) if x.dim() == len(kernel) + 2 else 1
            case nn.RNNBase(batch_first=first) | nn.MultiheadAttention(batch_first=first):
                size = 1 if x.dim() == 2 else x.shape[not first]
                beside = -1 if first else len(x)
            case nn.Linear() if x.dim() == 1:
                size = 1
            case _:
                return
        if size % self.batch or beside == self.batch != size:
            self.wrong_batch = (
                f"{_said(layer.name, layer.module)} gets a batch of {size}, but axis {self.batch_axis} of x "
                f"is {self.batch} long: say which axis is the batch's, batch_axis=1, or None for one sample"
            )

    def _without_batch(self, shape: Shape) -> Shape:
        if self.batch_axis is None:
            return shape
        for axis in (self.batch_axis, 0, 1):
            if axis < len(shape) and shape[axis] == self.batch:
                return (*shape[:axis], *shape[axis + 1 :])
        if shape and shape[0] % self.batch == 0:  # samples and something else share an axis
            return (shape[0] // self.batch, *shape[1:])
        return shape

    # Operations.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in _PRODUCTS:
            self._count(*_product(func.overloadpacket, args, out))
        elif not func.is_view:
            self._look(func, args, out)
        return out

    def _count(self, x: Tensor, w: Tensor, macs: int) -> None:
        if self._parameter(w) is None and self._parameter(x) is not None:
            x, w = w, x
        parameter = self._parameter(w)
        if parameter is None:
            one_bit = self._holds_signs(w)
        else:
            self.weights.add(id(parameter))
            one_bit = self.packed(parameter) is not None
        kind = FLOAT if not one_bit else SIGN_SIGN if self._holds_signs(x) else FLOAT_SIGN
        self._layer_of(parameter).macs[kind] += macs

    def _look(self, func: Any, args: Any, out: Any) -> None:
        """Notes what is done with parameters: could there be a product in it?"""
        running, operation = self.running[-1], func.overloadpacket.__name__
        if _may_multiply(func):
            running.unknown = True
        elif operation == "constant_pad_nd" and self._holds_signs(args[0]):
            self.padded = out
        for parameter in map(self._parameter, _tensors(args)):
            if parameter is None:
                continue
            if operation in _COPIES:
                self.parameters[_storage(out)] = parameter
                self.copies.append(out)
            elif operation in _LOOKUPS:
                self.weights.add(id(parameter))
            elif operation not in _SUMS and "norm" not in operation and not _is_stock(running.module):
                self._layer_of(parameter).doubtful = True

    # What they ask.

    def _parameter(self, tensor: Tensor) -> nn.Parameter | None:
        """The parameter that it is a view or a copy of."""
        return self.parameters.get(_storage(tensor))

    def _layer_of(self, parameter: Tensor | None) -> _Layer:
        """The running module, or the layer in it whose parameter it is: attention reads its `out_proj`'s."""
        running = self.running[-1]
        within = f"{running.name}." if running.name else ""
        inside = (layer for layer in self.layers if layer.name.startswith(within))
        return next((layer for layer in (running, *inside) if id(parameter) in layer.parameters), running)

    def _holds_signs(self, x: Tensor) -> bool:
        """Whether all of it is ±1, padding aside. The model's own input never counts as ±1."""
        return x is self.padded or (_storage(x) not in self.given and bool((x.abs() == 1).all()))


def _packed_sizes(weight: Tensor) -> tuple[int, int] | None:
    """(bytes of words, scales that are not 1) of a weight that `pack` would pack, else None."""
    if weight.dim() < 2 or weight.numel() == 0 or not weight.is_floating_point():
        return None
    values = weight.detach().cpu().double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PackWarning)  # of a near miss: that is for `pack` to say
        if pack_weight(values[:1], "")[1] is None:  # one row tells at once of most float weights
            return None
        packed, scale = pack_weight(values, "")
    if not isinstance(packed, PackedWeight) or scale is None:
        return None
    return packed.words.nbytes, 0 if (scale == 1).all() else scale.size


def _is_stock(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.modules.")


def _storage(tensor: Tensor) -> int:
    """Where the memory begins that it is a part of; -1 for a sparse tensor, which has no one place."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else -1


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]

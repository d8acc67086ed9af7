"""What a PyTorch model costs: one forward of a frozen copy, in which every product is counted.

Products are seen where PyTorch dispatches its operations, below modules and functions: what a module of the
user's own multiplies is counted like a stock layer, and so is what happens between layers. A product belongs
to the module whose forward is under way, and its weight is known by the memory that it lies in.
"""

import re
import sys
import warnings
from bisect import bisect, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from bnn.binarization import named_latent_parameters
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

    # The forward must draw no random numbers, which the user's next step would miss.
    gpus = {t.device.index for t in (*model.parameters(), *inputs) if t.device.type == "cuda"}
    with torch.random.fork_rng(gpus), torch.no_grad():
        frozen = _frozen_copy(model)
        binarized = {id(frozen.get_parameter(name)) for name, _ in named_latent_parameters(model)}
        products = _Products(frozen, binarized, batch, batch_axis)
        products.run(tuple(value.detach().clone() for value in inputs))
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
        raise ValueError(f"the model cannot be copied: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _kind(module: nn.Module) -> str:
    # Attention's last layer is a Linear under another name, which has to do with PyTorch's quantization.
    return type(module).__name__.removeprefix("Parametrized").removeprefix("NonDynamicallyQuantizable")


def _said(name: str, module: nn.Module) -> str:
    return f"layer {name!r} ({_kind(module)})" if name else f"the model ({_kind(module)})"


# --- operations -------------------------------------------------------------------------------------------

Product = tuple[Tensor, Tensor, int]
"""Inputs, weights, multiply-accumulates. Where neither is a parameter, weights are what comes second."""


def _matrices(x: Tensor, w: Tensor) -> Product:
    """(..., m, k) times (..., k, n): each entry of x meets n."""
    return x, w, x.numel() * w.shape[-1]


def _convolution(out: Tensor, x: Tensor, w: Tensor, *options: Any) -> Product:
    """Each weight meets each place of the output; in a transposed one, each place of the input."""
    places = x if options[4] else out  # bias, stride, padding, dilation, transposed
    return x, w, w.numel() * places.shape[0] * prod(places.shape[2:])


_aten: Any = torch.ops.aten
_PRODUCTS: Mapping[Any, Callable[..., Product]] = {  # called with the result and the arguments
    _aten.mm: lambda out, x, w, *_: _matrices(x, w),
    _aten.bmm: lambda out, x, w, *_: _matrices(x, w),
    _aten.addmm: lambda out, shift, x, w, *_: _matrices(x, w),
    _aten.addbmm: lambda out, shift, x, w, *_: _matrices(x, w),
    _aten.baddbmm: lambda out, shift, x, w, *_: _matrices(x, w),
    _aten.linear: lambda out, x, w, *_: _matrices(x, w.t()),
    _aten.mv: lambda out, w, x: (x, w, w.numel()),
    _aten.addmv: lambda out, shift, w, x, *_: (x, w, w.numel()),
    _aten.dot: lambda out, x, w: (x, w, x.numel()),
    _aten.convolution: _convolution,
    # nn.Bilinear: for each sample each weight once, times a product of two inputs.
    _aten._trilinear: lambda out, x, w, *_: (x, w, x.numel() // x.shape[-1] * w.numel()),
}

# Fused ones, sparse ones, and those of integers, by their names.
_UNKNOWN_PRODUCT = re.compile(r"mm(_|$)|matmul|attention|rnn(_layer)?$|conv(olution|\d|_)")

# What else may happen to a parameter without a product in it; a view, or something with "norm" in its name.
_COPIES = {"clone", "_to_copy", "_unsafe_view"}
_LOOKUPS = {"embedding", "_embedding_bag", "index", "index_select", "gather"}
_SUMS = {"add", "add_", "sub", "sub_", "rsub", "cat", "stack", "where", "_prelu_kernel"}


@contextmanager
def _without_fusion(model: nn.Module) -> Iterator[None]:
    """Fused attention and recurrence would hide their products."""
    backends: Any = torch.backends  # whose properties mypy takes for their descriptors
    mha, mkldnn, cudnn = backends.mha, backends.mkldnn, backends.cudnn
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    before = mha.get_fastpath_enabled(), mkldnn.enabled, cudnn.enabled
    try:
        mha.set_fastpath_enabled(False)
        if recurrent:  # else the faster convolutions may stay
            mkldnn.enabled = cudnn.enabled = False
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before[0])
        mkldnn.enabled, cudnn.enabled = before[1:]


# --- counting ---------------------------------------------------------------------------------------------


class _Memory:
    """Whose memory a tensor lies in: so the views and the parts of a parameter are known."""

    def __init__(self) -> None:
        self._spans: list[tuple[int, int, Tensor]] = []  # start, end, owner; in order
        self._kept: list[Tensor] = []  # else their memory would become that of others

    def add(self, tensor: Tensor, owner: Tensor) -> None:
        start = tensor.data_ptr()
        insort(self._spans, (start, start + tensor.nbytes, owner), key=lambda span: span[0])
        self._kept.append(tensor)

    def owner(self, tensor: Tensor) -> Tensor | None:
        if tensor.layout is not torch.strided:  # sparse: not in one place
            return None
        start = tensor.data_ptr()
        at = bisect(self._spans, start, key=lambda span: span[0]) - 1
        return self._spans[at][2] if at >= 0 and start < self._spans[at][1] else None


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


class _Products(TorchDispatchMode):
    """Runs a model, and counts on the way."""

    def __init__(self, model: nn.Module, binarized: set[int], batch: int, batch_axis: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.model, self.batch, self.batch_axis = model, batch, batch_axis
        self.layers = [_Layer(name, module) for name, module in model.named_modules()]
        self.running = [self.layers[0]]  # whose forwards are under way
        self.failed: tuple[BaseException | None, _Layer] = None, self.layers[0]  # an exception, and where
        self.wrong_batch = ""
        self.weights = binarized  # ids of parameters that are packed if they can be; others join them
        self.packed: dict[int, tuple[int, int] | None] = {}
        self.padded: Tensor | None = None  # ±1 with 0 around it, the last such value
        self.memory = _Memory()
        self.owners: dict[int, list[_Layer]] = {}  # of each parameter, by its id
        for layer in self.layers:
            for parameter in layer.module.parameters(recurse=False):
                self.memory.add(parameter, parameter)
                self.owners.setdefault(id(parameter), []).append(layer)
        self.inputs: set[int] = set()  # ids

    def run(self, inputs: tuple[Tensor, ...]) -> None:
        for value in inputs:
            self.memory.add(value, value)
            self.inputs.add(id(value))
        for layer in self.layers:
            layer.module.register_forward_pre_hook(partial(self._enter, layer), prepend=True)
            layer.module.register_forward_hook(partial(self._leave, layer), always_call=True)
        try:
            with _without_fusion(self.model), self:
                self.model(*inputs)
        except Exception as error:  # a model can raise anything
            layer = self.failed[1] if error is self.failed[0] else self.layers[0]
            shapes = " and ".join(map(str, layer.arguments))
            raise ValueError(
                f"{_said(layer.name, layer.module)} does not take its input"
                f"{f' of shape {shapes}' * bool(shapes)}: {_first_line(error)}"
            ) from error
        if self.wrong_batch:
            raise ValueError(self.wrong_batch)

    def costs(self) -> Iterator[LayerCost]:
        """Of every layer that has parameters of its own or multiplies."""
        seen: set[int] = set()
        for layer in self.layers:
            own = list(layer.module.parameters(recurse=False))
            if own or layer.macs or layer.unknown:
                yield self._cost(layer, [p for p in own if id(p) not in seen])
                seen.update(map(id, own))

    def _cost(self, layer: _Layer, parameters: list[nn.Parameter]) -> LayerCost:
        one_bit = word_bytes = floats = 0
        for parameter in parameters:
            packed = self._packed(parameter) if id(parameter) in self.weights else None
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
        error = sys.exc_info()[1]
        if error is not self.failed[0]:  # on its way up it meets the innermost module first
            self.failed = error, layer
        out = next(_tensors(output), None)
        if layer.shape is None and out is not None:
            layer.shape = self._without_batch(tuple(out.shape))

    def _check_batch(self, layer: _Layer, x: Tensor) -> None:
        """Some layers know where their batch is: it must be that of the model, or several for each sample."""
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
            self._count(*_PRODUCTS[func.overloadpacket](out, *args))
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
            one_bit = self._packed(parameter) is not None
        kind = FLOAT if not one_bit else SIGN_SIGN if self._holds_signs(x) else FLOAT_SIGN
        self._layer_of(parameter).macs[kind] += macs

    def _look(self, func: Any, args: Any, out: Any) -> None:
        """Notes what is done with parameters: could there be a product in it?"""
        running, operation = self.running[-1], func.overloadpacket.__name__
        if func.namespace not in ("aten", "prim", "profiler") or _UNKNOWN_PRODUCT.search(operation):
            running.unknown = True
        elif operation == "constant_pad_nd" and self._holds_signs(args[0]):
            self.padded = out
        for parameter in map(self._parameter, _tensors(args)):
            if parameter is None:
                continue
            if operation in _COPIES:
                self.memory.add(out, parameter)
            elif operation in _LOOKUPS:
                self.weights.add(id(parameter))
            elif operation not in _SUMS and "norm" not in operation and not _is_stock(running.module):
                self._layer_of(parameter).doubtful = True

    # What they ask.

    def _parameter(self, tensor: Tensor) -> Tensor | None:
        """The parameter that it is a view or a copy of."""
        owner = self.memory.owner(tensor)
        return owner if id(owner) in self.owners else None

    def _layer_of(self, parameter: Tensor | None) -> _Layer:
        """The running module, or the layer in it whose parameter it is: attention reads its `out_proj`'s."""
        running = self.running[-1]
        owners = self.owners.get(id(parameter), [])
        within = f"{running.name}." if running.name else ""
        inside = [owner for owner in owners if owner.name.startswith(within)]
        return running if running in owners or not inside else inside[0]

    def _packed(self, parameter: Tensor) -> tuple[int, int] | None:
        """(bytes of its words, scales) if `pack` would make bits of it."""
        if id(parameter) not in self.packed:
            self.packed[id(parameter)] = _packed_sizes(parameter)
        return self.packed[id(parameter)]

    def _holds_signs(self, x: Tensor) -> bool:
        """Whether all of it is ±1, padding aside. What the model was given is not, whatever it holds."""
        if x is self.padded or id(self.memory.owner(x)) in self.inputs:
            return x is self.padded
        return bool((x.abs() == 1).all())


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


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    match value:
        case Tensor():
            yield value
        case tuple() | list():
            for part in value:
                yield from _tensors(part)
        case Mapping():
            yield from _tensors(list(value.values()))

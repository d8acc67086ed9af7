"""pack(): a frozen PyTorch model becomes a PackedModel. The bridge between the two sides.

`torch.export` captures the model as a graph of ATen operations. Each is translated by one function below,
found by the operation in `_OPERATIONS`; what has none is an error that names the module or source line.
Weights are looked at, not classes: a tensor whose rows are each one magnitude with signs is packed,
whoever made it. `bnn.folding` then merges batch norms into layers and thresholds.
"""

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from bnn import bits, nodes
from bnn.folding import PackWarning, fold
from bnn.nodes import INPUT, InputContract, Node, PackedWeight
from bnn.packed import PackedModel

__all__ = ["PackWarning", "pack"]

Array = NDArray[Any]


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
    raw, output = _Translator(program, model).translate()
    return PackedModel(contract, fold(raw, output), dict(about or {}))


def _numbers(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in ([value] if isinstance(value, int | float) else value))


def _check_frozen(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            raise ValueError(f"module {name!r} is still parametrized: pack(bnn.freeze(model), ...)")
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    # Float32 on the CPU, in eval mode, batch of 2: torch.export takes a 1 in the example for a constant.
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


# --- weights ----------------------------------------------------------------------------------------------


def _pack_weight(weight: Array, where: str) -> tuple[nodes.Weight, Array | None]:
    """(the weight, one magnitude a row): packed if it is ±a in each row, else float32 and None."""
    rows = weight.reshape(len(weight), -1)
    magnitudes = np.abs(rows[:, 0])
    fits = np.abs(rows) == magnitudes[:, None]
    n = rows.shape[1]
    smaller = 8 * bits.words_per_row(n) + 4 < 4 * n
    if n >= 2 and smaller and fits.all() and magnitudes.all():
        return PackedWeight.from_signs(np.where(weight < 0, -1, 1)), magnitudes
    _warn_near_miss(rows, where)
    return weight.astype(np.float32), None


def _warn_near_miss(rows: Array, where: str) -> None:
    typical = np.median(np.abs(rows), axis=1, keepdims=True)
    odd = np.abs(np.abs(rows) - typical) > 1e-6 * typical
    if 0 < odd.sum() <= 0.1 * rows.size:
        zeros = int((rows == 0).sum())
        what = (
            f"{zeros:,} of {rows.size:,} weights {'is' if zeros == 1 else 'are'} 0"
            if zeros
            else (f"{int(odd.sum()):,} of {rows.size:,} weights differ from ± their row's magnitude")
        )
        warnings.warn(f"{where}: not packed, {what}", PackWarning, stacklevel=2)


# --- translation ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Padded:
    """A padded value, not a node of its own: the convolution that reads it takes the padding over."""

    source: str
    padding: nodes.Padding
    value: float


@dataclass(frozen=True)
class _AtLeastZero:
    """x >= 0 (or x < 0), half of a sign."""

    source: str
    negated: bool


_Value = str | Tensor | _Padded | _AtLeastZero | tuple[Any, ...] | None


class _Translator:
    """Translates an exported program, operation by operation, into nodes with float64 scales."""

    def __init__(self, program: torch.export.ExportedProgram, model: nn.Module) -> None:
        self.program = program
        self.model = model
        self.nodes: list[Node] = []
        self.names = {INPUT}
        self.values: dict[fx.Node, _Value] = {}

    def translate(self) -> tuple[list[Node], str]:
        """The nodes in order, and the name of the output's."""
        constants = self._constants()
        for node in self.program.graph.nodes:
            self.node = node  # for error messages
            match node.op:
                case "placeholder":
                    self.values[node] = constants.get(node.name, INPUT)
                case "call_function":
                    self.values[node] = self._call(node)
                case "output":
                    outputs = node.args[0]
                    if len(outputs) != 1:
                        raise ValueError(f"the model returns {len(outputs)} values; one is needed")
                    return self.nodes, self.name(outputs[0])
        raise AssertionError("a graph without output")

    def _constants(self) -> dict[str, Tensor]:
        signature, program = self.program.graph_signature, self.program
        stored = {**program.state_dict, **program.constants}
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        return {placeholder: stored[name].detach() for placeholder, name in names.items()}

    def _call(self, node: fx.Node) -> _Value:
        if not node.users or isinstance(node.meta["val"], torch.SymInt):
            return None  # an assertion of torch.export's, or the batch size
        inputs = [self.values[n] for n in node.all_input_nodes]
        if inputs and all(isinstance(v, Tensor) for v in inputs):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: self.values[n])
            with torch.no_grad():
                return node.target(*args, **kwargs)  # type: ignore[operator,no-any-return]
        translate = _OPERATIONS.get(str(node.target))
        if translate is None:
            hint = _HINTS.get(str(node.target), "the runtime does not know it")
            self.fail(f"{_short(node.target)}: {hint}")
        return translate(self, *node.args, **node.kwargs)

    # What the functions below use.

    def fail(self, problem: str) -> NoReturn:
        raise ValueError(f"{self._where()}: {problem}")

    def _path(self) -> str:
        """Of the module that the operation is in; "" for the model itself."""
        stack = self.node.meta.get("nn_module_stack") or {}
        return next((path for path, _ in reversed(stack.values()) if path and not path.startswith("_empty")), "")

    def _where(self) -> str:
        if path := self._path():
            return f"module {path!r}"
        lines = [line.strip() for line in (self.node.meta.get("stack_trace") or "").splitlines()]
        return f"{lines[-1]!r} ({lines[-2]})" if len(lines) >= 2 else "the model"

    def name(self, node: Any) -> str:
        """The name of the graph value that an argument stands for."""
        value = self.values[node] if isinstance(node, fx.Node) else node
        match value:
            case str():
                return value
            case _Padded():
                self.fail("padding is understood only before a convolution")
            case _AtLeastZero():
                self.fail("a comparison is understood only as part of a sign: use bnn.functional.sign")
            case _:
                self.fail("an operation on a constant where an activation was expected")

    def constant(self, node: Any) -> Array | None:
        """The value of a constant argument in float64, or None if it depends on the input."""
        value = self.values[node] if isinstance(node, fx.Node) else node
        if isinstance(value, int | float):
            return np.array(float(value))
        return value.double().numpy() if isinstance(value, Tensor) else None

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Of an argument or result, without the batch axis."""
        return tuple(int(size) for size in node.meta["val"].shape[1:])

    def add(self, cls: type[Node], *inputs: str, **fields: Any) -> str:
        """Adds a node and returns its name: its layer's, or its operation's in a module of several."""
        path = self._path()
        inside = next(self.model.get_submodule(path).children(), None) is not None
        base = f"{path}.{cls.__name__.lower()}".lstrip(".") if inside else path
        name = next(n for n in (base, *(f"{base}_{i}" for i in range(1, 10**6))) if n not in self.names)
        self.names.add(name)
        self.nodes.append(cls(name=name, inputs=inputs, **fields))
        return name

    def product(self, cls: type[Node], x: str, weight: Any, bias: Any, **fields: Any) -> str:
        """Adds a Linear or Conv2d node."""
        values = self.constant(weight)
        if values is None:
            self.fail("a weight that depends on the input")
        packed, scale = _pack_weight(values, self._where())
        shift = None if bias is None else self.constant(bias)
        if scale is not None and shift is None and (scale == 1).all():
            scale = None
        if scale is not None or shift is not None:
            scale = np.ones(len(values)) if scale is None else scale
            shift = np.zeros(len(values)) if shift is None else shift
        return self.add(cls, x, weight=packed, scale=scale, shift=shift, **fields)

    def affine(self, x: str, scale: Array, shift: Array) -> str:
        """Adds an Affine node from constants as a program writes them: one number, or one a channel."""
        shape = self.shape(self.node)

        def per_channel(values: Array) -> Array:
            if values.size == 1:
                return np.full(shape[0], values.item())
            if values.shape in ((1, shape[0], *[1] * (len(shape) - 1)), (shape[0], *[1] * (len(shape) - 1))):
                return values.reshape(-1)
            self.fail(f"a constant of shape {values.shape} is neither one number nor one a channel")

        return self.add(nodes.Affine, x, scale=per_channel(scale), shift=per_channel(shift))


def _short(target: Any) -> str:
    return str(target).removeprefix("aten.").split(".")[0]


def _pair(value: Any) -> tuple[int, int]:
    values = [value] * 2 if isinstance(value, int) else list(value)
    return (int(values[0]), int(values[-1]))


def _sides(value: Any) -> nodes.Padding:
    height, width = _pair(value)
    return (height, height, width, width)


# --- one function for each operation ----------------------------------------------------------------------


def _linear(t: _Translator, x: Any, weight: Any, bias: Any = None) -> _Value:
    if len(t.shape(x)) != 1:
        t.fail(f"a linear layer on activations of shape {t.shape(x)}; it must be (features,): flatten first")
    return t.product(nodes.Linear, t.name(x), weight, bias)


def _conv2d(
    t: _Translator,
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Value:
    dilation = _pair(dilation)
    if padding == "valid":
        sides = (0, 0, 0, 0)
    elif padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.meta["val"].shape[2:], strict=True)]
        (top, bottom), (left, right) = ((v // 2, v - v // 2) for v in total)  # PyTorch's extra one is last
        sides = (top, bottom, left, right)
    else:
        sides = _sides(padding)
    source, pad_value = t.values[x], 0.0
    if isinstance(source, _Padded):
        if any(sides) and source.value != 0:
            t.fail(f"padding with {source.value} and then with 0")
        sides = tuple(a + b for a, b in zip(sides, source.padding, strict=True))  # type: ignore[assignment]
        source, pad_value = source.source, source.value
    return t.product(
        nodes.Conv2d,
        t.name(source),
        weight,
        bias,
        stride=_pair(stride),
        padding=sides,
        dilation=dilation,
        groups=groups,
        pad_value=pad_value,
    )


def _batch_norm(
    t: _Translator, x: Any, weight: Any, bias: Any, mean: Any, var: Any, momentum: float, eps: float
) -> _Value:
    if mean is None or var is None:
        t.fail("a batch norm without running statistics")
    mean, var = t.constant(mean), t.constant(var)
    gamma = np.ones_like(mean) if weight is None else t.constant(weight)
    beta = np.zeros_like(mean) if bias is None else t.constant(bias)
    scale = gamma / np.sqrt(var + eps)  # epsilon is added to the variance
    name = t.add(nodes.Affine, t.name(x), scale=scale, shift=beta - mean * scale)
    return (name,)  # ATen's also returns the statistics


def _getitem(t: _Translator, x: Any, index: int) -> _Value:
    value = t.values[x]
    if not isinstance(value, tuple) or index != 0:
        t.fail("one of several results that the runtime does not compute")
    return value[0]


def _identity(t: _Translator, x: Any, *args: Any, **kwargs: Any) -> _Value:
    if not t.node.meta["val"].is_floating_point() or x.meta["val"].shape != t.node.meta["val"].shape:
        t.fail(f"{_short(t.node.target)} changes more than layout and precision")
    return t.values[x]


def _reshape(t: _Translator, x: Any, *args: Any) -> _Value:
    before, after = t.shape(x), t.shape(t.node)
    if before == after:
        return t.name(x)
    if after == (prod(before),) and t.node.meta["val"].shape[0] == x.meta["val"].shape[0]:
        return t.add(nodes.Flatten, t.name(x))
    t.fail(f"reshapes {before} to {after}; only flattening is understood")


def _at_least_zero(t: _Translator, x: Any, bound: Any) -> _Value:
    return _compare(t, x, bound, negated=False)


def _below_zero(t: _Translator, x: Any, bound: Any) -> _Value:
    return _compare(t, x, bound, negated=True)


def _compare(t: _Translator, x: Any, bound: Any, negated: bool) -> _Value:
    value = t.constant(bound)
    if value is None or value.any():
        t.fail("a comparison with something other than 0")
    return _AtLeastZero(t.name(x), negated)


def _where(t: _Translator, condition: Any, yes: Any, no: Any) -> _Value:
    half, values = t.values[condition], [t.constant(yes), t.constant(no)]
    if isinstance(half, _AtLeastZero) and all(v is not None and v.size == 1 for v in values):
        signs = [float(v) for v in values if v is not None]
        if signs == ([-1.0, 1.0] if half.negated else [1.0, -1.0]):
            return t.add(nodes.Sign, half.source)
    t.fail("`where` is understood only as a sign, where(x >= 0, 1, -1): use bnn.functional.sign")


def _relu(t: _Translator, x: Any) -> _Value:
    return t.add(nodes.ReLU, t.name(x))


def _prelu(t: _Translator, x: Any, slope: Any) -> _Value:
    values = t.constant(slope)
    if values is None:
        t.fail("a slope that depends on the input")
    return t.add(nodes.PReLU, t.name(x), slope=values.reshape(-1).astype(np.float32))


def _leaky_relu(t: _Translator, x: Any, slope: float = 0.01) -> _Value:
    return t.add(nodes.PReLU, t.name(x), slope=np.array([slope], dtype=np.float32))


def _hardtanh(t: _Translator, x: Any, low: float = -1.0, high: float = 1.0) -> _Value:
    return t.add(nodes.Hardtanh, t.name(x), low=float(low), high=float(high))


def _clamp(t: _Translator, x: Any, low: Any = None, high: Any = None) -> _Value:
    largest = float(np.finfo(np.float32).max)
    if not all(v is None or isinstance(v, int | float) for v in (low, high)):
        t.fail("clamp with bounds that are not numbers")
    return _hardtanh(t, x, -largest if low is None else low, largest if high is None else high)


def _max_pool2d(
    t: _Translator,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> _Value:
    if _pair(dilation) != (1, 1):
        t.fail("max pooling with dilation")
    kernel = _pair(kernel)
    stride = _pair(stride) if stride else kernel
    sides = _fit_window(t, x, kernel, stride, _sides(padding))
    return t.add(nodes.MaxPool2d, t.name(x), kernel=kernel, stride=stride, padding=sides)


def _avg_pool2d(
    t: _Translator,
    x: Any,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> _Value:
    kernel = _pair(kernel)
    stride = _pair(stride) if stride else kernel
    sides = _sides(padding)
    if divisor_override is not None:
        t.fail("average pooling with divisor_override")
    if _fit_window(t, x, kernel, stride, sides) != sides:
        t.fail("average pooling whose windows reach over the edge (ceil_mode)")
    return t.add(
        nodes.AvgPool2d,
        t.name(x),
        kernel=kernel,
        stride=stride,
        padding=sides,
        count_padding=count_include_pad,
    )


def _fit_window(
    t: _Translator, x: Any, kernel: nodes.Pair, stride: nodes.Pair, padding: nodes.Padding
) -> nodes.Padding:
    """The padding, with as much more at the bottom and right as ceil_mode's last windows reach over."""
    (_, height, width), (_, out_height, out_width) = t.shape(x), t.shape(t.node)
    top, bottom, left, right = padding
    over_height = (out_height - 1) * stride[0] + kernel[0] - (height + top + bottom)
    over_width = (out_width - 1) * stride[1] + kernel[1] - (width + left + right)
    return (top, bottom + max(0, over_height), left, right + max(0, over_width))


def _adaptive(cls: type[Node]) -> Callable[..., _Value]:
    def translate(t: _Translator, x: Any, size: Any) -> _Value:
        (_, height, width), (rows, columns) = t.shape(x), _pair(size)
        if height % rows or width % columns:
            t.fail(f"adaptive pooling of {height}x{width} to {rows}x{columns}, which does not divide it")
        window = (height // rows, width // columns)
        name = t.add(cls, t.name(x), kernel=window, stride=window)
        return (name,) if cls is nodes.MaxPool2d else name

    return translate


def _over_image(cls: type[Node]) -> Callable[..., _Value]:
    """mean or amax over height and width: global pooling."""

    def translate(t: _Translator, x: Any, axes: Any, keepdim: bool = False, **kwargs: Any) -> _Value:
        shape = t.shape(x)
        if len(shape) != 3 or sorted(a % 4 for a in axes or ()) != [2, 3]:
            t.fail("a reduction over axes other than height and width")
        name = t.add(cls, t.name(x), kernel=shape[1:], stride=shape[1:])
        return name if keepdim else t.add(nodes.Flatten, name)

    return translate


def _add(t: _Translator, x: Any, y: Any, alpha: float = 1) -> _Value:
    return _sum(t, x, y, alpha)


def _sub(t: _Translator, x: Any, y: Any, alpha: float = 1) -> _Value:
    return _sum(t, x, y, -alpha)


def _sum(t: _Translator, x: Any, y: Any, factor: float) -> _Value:
    """x + factor * y, either of which may be a constant."""
    a, b = t.constant(x), t.constant(y)
    one = np.ones(())
    if b is not None:
        return t.affine(t.name(x), one, b * factor)
    if a is not None:
        return t.affine(t.name(y), one * factor, a)
    if t.shape(x) != t.shape(y):
        t.fail(f"adds activations of shapes {t.shape(x)} and {t.shape(y)}")
    right = t.name(y) if factor == 1 else t.affine(t.name(y), one * factor, np.zeros(()))
    return t.add(nodes.Add, t.name(x), right)


def _mul(t: _Translator, x: Any, y: Any) -> _Value:
    a, b = t.constant(x), t.constant(y)
    if a is None and b is None:
        t.fail("a product of two activations")
    return t.affine(t.name(x), b, np.zeros(())) if b is not None else t.affine(t.name(y), a, np.zeros(()))


def _div(t: _Translator, x: Any, y: Any) -> _Value:
    b = t.constant(y)
    if b is None:
        t.fail("a division by an activation")
    return t.affine(t.name(x), 1 / b, np.zeros(()))


def _neg(t: _Translator, x: Any) -> _Value:
    return t.affine(t.name(x), -np.ones(()), np.zeros(()))


def _cat(t: _Translator, parts: Any, axis: int = 0) -> _Value:
    if axis % (len(t.shape(t.node)) + 1) != 1:
        t.fail("concatenation along another axis than the channels")
    names = [t.name(part) for part in parts]
    return names[0] if len(names) == 1 else t.add(nodes.Concat, *names)


def _softmax(t: _Translator, x: Any, axis: int, *args: Any) -> _Value:
    if len(t.shape(x)) != 1 or axis % 2 != 1:
        t.fail("softmax over something other than (batch, classes)")
    return t.add(nodes.Softmax, t.name(x))


def _pad(t: _Translator, x: Any, widths: Any, mode: str = "constant", value: float | None = None) -> _Value:
    widths = [*widths, *[0] * (4 - len(widths))]
    if mode != "constant" or len(widths) > 4 or min(widths) < 0:
        t.fail("padding other than by a constant around height and width")
    left, right, top, bottom = widths
    return _Padded(t.name(x), (top, bottom, left, right), float(value or 0.0))


_OPERATIONS: dict[str, Callable[..., _Value]] = {
    "aten.linear.default": _linear,
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten._native_batch_norm_legit_no_training.default": _batch_norm,
    str(operator.getitem): _getitem,
    "aten.relu.default": _relu,
    "aten.prelu.default": _prelu,
    "aten.leaky_relu.default": _leaky_relu,
    "aten.hardtanh.default": _hardtanh,
    "aten.relu6.default": lambda t, x: _hardtanh(t, x, 0.0, 6.0),
    "aten.clamp.default": _clamp,
    "aten.clamp_min.default": _clamp,
    "aten.clamp_max.default": lambda t, x, high: _clamp(t, x, None, high),
    "aten.ge.Scalar": _at_least_zero,
    "aten.ge.Tensor": _at_least_zero,
    "aten.lt.Scalar": _below_zero,
    "aten.lt.Tensor": _below_zero,
    "aten.where.Scalar": _where,
    "aten.where.ScalarSelf": _where,
    "aten.where.ScalarOther": _where,
    "aten.where.self": _where,
    "aten.max_pool2d.default": _max_pool2d,
    "aten.avg_pool2d.default": _avg_pool2d,
    "aten.adaptive_avg_pool2d.default": _adaptive(nodes.AvgPool2d),
    "aten.adaptive_max_pool2d.default": _adaptive(nodes.MaxPool2d),
    "aten.mean.dim": _over_image(nodes.AvgPool2d),
    "aten.amax.default": _over_image(nodes.MaxPool2d),
    "aten.add.Tensor": _add,
    "aten.sub.Tensor": _sub,
    "aten.mul.Tensor": _mul,
    "aten.div.Tensor": _div,
    "aten.neg.default": _neg,
    "aten.cat.default": _cat,
    "aten.flatten.using_ints": _reshape,
    "aten.view.default": _reshape,
    "aten.reshape.default": _reshape,
    "aten._unsafe_view.default": _reshape,
    "aten.squeeze.dims": _reshape,
    "aten.squeeze.dim": _reshape,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": lambda t, x, widths, value=0.0: _pad(t, x, widths, "constant", value),
    "aten.dropout.default": _identity,
    "aten.feature_dropout.default": _identity,
    "aten.alpha_dropout.default": _identity,
    "aten.clone.default": _identity,
    "aten.contiguous.default": _identity,
    "aten.detach.default": _identity,
    "aten.alias.default": _identity,
    "aten.to.dtype": _identity,
    "aten._to_copy.default": _identity,
}

_HINTS = {
    "aten.sign.default": "torch.sign gives 0 at 0, which has no bit; use bnn.functional.sign",
    "aten.gt.Scalar": "a sign is where(x >= 0, 1, -1), with 0 counted as +1; use bnn.functional.sign",
    "aten._native_batch_norm_legit.no_stats": "a batch norm without running statistics",
    "aten.instance_norm.default": "normalisation by the statistics of the input",
}

"""to_torch(): a packed model becomes a PyTorch model of stock modules. The way back from `pack`.

Every node is one module, at the path that is the node's name, and `forward` is the graph: a
`torch.fx.GraphModule`, whose `.code` can be read. What surrounds a node has names of its own:

    input       what refuses raw pixels
    fc1         nn.Linear or nn.Conv2d: its weights exactly ±1
    fc1_norm    nn.BatchNorm: scale and shift, where the scale is not 1 (else the shift is fc1's bias)
    conv1_pad   nn.ConstantPad2d: padding that nn.Conv2d does not have
    sign1_norm  nn.BatchNorm: the integer threshold that a Sign follows

The batch norms have variance 1 and epsilon 0, so that nothing is rounded on the way and packing folds them
into the very same numbers. Layers of which only signs are taken have their scales in float64,
so they compute in float64 here as they do in the reference.
"""

import keyword
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from bnn.functional import clipped_ste
from bnn.packed import nodes
from bnn.packed.model import PackedModel
from bnn.packed.nodes import INPUT, Node, PackedWeight, Shape
from bnn.quantizers import Sign
from bnn.runtime import Runner

__all__ = ["Add", "AvgPool2d", "Concat", "Normalised", "to_torch"]

Array = NDArray[Any]


def to_torch(packed: PackedModel | Runner | str | Path) -> fx.GraphModule:
    """A PyTorch model that computes what a packed model computes, its one-bit weights parameters of ±1.

        model = bnn.to_torch("model.bnn")
        logits = model(images)  # float32, normalised: (pixel / 255 - mean) / std
        bnn.pack(model, images, mean=0.1307, std=0.3081).save("again.bnn")  # the same bytes

    The model consists of stock modules and is in eval mode. deepcopy, state_dict and torch.export work on it
    as on any other, and `bnn.binarize` to train it further.

    A file that `pack` wrote comes out the same when the model is packed again with the same mean, std, labels
    and notes. It comes out different

    - if the name of a node cannot be a module's path: it is also the beginning of another's, is an attribute
      of `fx.GraphModule` or a Python keyword, or has punctuation other than `_`, `-` and spaces. That name
      changes;
    - if a shift in it is -0.0, which may become 0.0;
    - if it was made by hand and not folded: an Add of three values, say, becomes two nodes. What has no
      stock form, pooling with uneven padding but for `ceil_mode`, is computed and cannot be packed again.

    Args:
        packed: a PackedModel, what `bnn.load` returns, or the path of a .bnn file.

    Returns:
        A model that takes what the trained one took: normalised float32, (batch, *packed.input.shape), not
        raw pixels; `packed.input` has mean and std. It returns float32, (batch, *output shape).

    Raises:
        FormatError: the path is of no sound .bnn file.
        ValueError: the argument is none of the three.
        OSError: the file cannot be read.
    """
    if isinstance(packed, Runner):
        packed = packed.model
    elif isinstance(packed, str | Path):
        packed = PackedModel.load(packed)
    if not isinstance(packed, PackedModel):
        raise ValueError(
            f"to_torch takes a PackedModel, a Runner or the path of a .bnn file, not {type(packed).__name__}"
        )
    return _Builder(packed).build()


# --- what stock PyTorch has no module for -----------------------------------------------------------------


class Normalised(nn.Module):
    """The input itself, unless it is raw pixels, which would be taken for normalised values."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            raise ValueError(
                f"the model takes normalised floats, (pixel / 255 - mean) / std, not {x.dtype}; "
                "`packed.input` has mean and std"
            )
        return x


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, first: Tensor, *others: Tensor) -> Tensor:
        return sum(others, start=first)


class Concat(nn.Module):
    """Its inputs side by side along the channels."""

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


class AvgPool2d(nn.Module):
    """Average pooling with any padding (left, right, top, bottom); `pack` never writes such a node."""

    def __init__(self, pool: nn.AvgPool2d, padding: tuple[int, int, int, int], count_padding: bool) -> None:
        super().__init__()
        self.pool, self.padding, self.count_padding = pool, padding, count_padding

    def forward(self, x: Tensor) -> Tensor:
        mean = self.pool(F.pad(x, self.padding))
        return mean if self.count_padding else mean / self.pool(F.pad(torch.ones_like(x[:1]), self.padding))


# --- the graph --------------------------------------------------------------------------------------------


class _Builder:
    """Puts modules and the calls of them together, node by node."""

    def __init__(self, packed: PackedModel) -> None:
        self.packed = packed
        self.paths = _paths([node.name for node in packed.nodes])
        self.modules: dict[str, nn.Module] = {}
        self.weights: dict[str, Tensor] = {}  # those that the graph names, by their paths
        self.graph = fx.Graph()
        self.mixed = any(_is_float64(node) for node in packed.nodes)
        self.values = {INPUT: self._call(self._free(INPUT), Normalised(), self.graph.placeholder("x"))}

    def build(self) -> fx.GraphModule:
        for node in self.packed.nodes:
            MODULES[type(node)](self, node)
        output = self.values[self.packed.output.name]
        self.graph.output(self.graph.call_method("float", (output,)) if self.mixed else output)
        return fx.GraphModule({**self.modules, **self.weights}, self.graph, "Unpacked").eval()

    def shape(self, node: Node) -> Shape:
        """The shape of the node's first input."""
        return self.packed.shapes[node.inputs[0]]

    def inputs(self, node: Node) -> tuple[fx.Node, ...]:
        return tuple(self.values[name] for name in node.inputs)

    def add(self, node: Node, module: nn.Module, *inputs: fx.Node) -> None:
        """The module that is the node; its inputs are the node's if none are given."""
        self.values[node.name] = self._call(self.paths[node.name], module, *(inputs or self.inputs(node)))

    def before(self, node: Node, suffix: str, module: nn.Module) -> fx.Node:
        """A module between the node's input and its own."""
        path = self._free(f"{self.paths[node.name]}_{suffix}")
        return self._call(path, module, *self.inputs(node))

    def after(self, node: Node, suffix: str, module: nn.Module) -> None:
        """A module whose value takes the place of the node's."""
        path = self._free(f"{self.paths[node.name]}_{suffix}")
        self.values[node.name] = self._call(path, module, self.values[node.name])

    def _free(self, path: str) -> str:
        """The path, with underscores until nothing else has it."""
        taken = {*self.paths.values(), *self.modules}
        while any(_overlap(path, other) for other in taken):
            path += "_"
        return path

    def _call(self, path: str, module: nn.Module, *inputs: fx.Node) -> fx.Node:
        self.modules[path] = module
        if self.mixed and hasattr(module, "weight"):  # by the weight, so that .float() and .double() work
            self.weights[f"{path}.weight"] = module.get_parameter("weight")
            weight = self.graph.get_attr(f"{path}.weight")
            inputs = tuple(self.graph.call_method("to", (x, weight)) for x in inputs)
        return self.graph.call_module(path, inputs)


def _overlap(a: str, b: str) -> bool:
    """Whether two paths are one, or one lies inside the other."""
    return f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.")


def _paths(names: list[str]) -> dict[str, str]:
    """Where the module of each node lies: at the node's name, unless no module can lie there.

    A GraphModule is executed as text that these paths stand in. A file may come from anywhere, so nothing
    that ends a string may get there. Identifiers in Python's text are read in Unicode's form NFKC.
    """
    reserved = {*dir(fx.GraphModule({}, fx.Graph())), *keyword.kwlist, ""}

    def allowed(part: str) -> str:
        part = re.sub(r"[^\w -]", "_", unicodedata.normalize("NFKC", part))
        return f"{part}_" if part in reserved else part

    wanted = {name: ".".join(map(allowed, name.split("."))) for name in names}
    paths: dict[str, str] = {}
    # Names that can stay come first, of them the longer ones: "a.b" stays where there is an "a" as well.
    for name in sorted(names, key=lambda name: (wanted[name] != name, -name.count("."))):
        path = wanted[name]
        while path in reserved or any(_overlap(path, other) for other in paths.values()):
            path = path.replace(".", "_") + "_"
        paths[name] = path
    return paths


# --- from a node to modules -------------------------------------------------------------------------------


def _is_float64(node: Node) -> bool:
    scale = getattr(node, "scale", None)
    return scale is not None and scale.dtype == np.float64


def _set(module: nn.Module, **values: Array) -> nn.Module:
    """The module with these parameters and buffers, in the arrays' precision."""
    with torch.no_grad():
        for name, value in values.items():
            old = getattr(module, name)
            old.data = torch.from_numpy(np.array(value)).reshape(old.shape)
    return module


def _norm(shape: Shape, scale: Array, shift: Array, mean: Array | None = None) -> nn.Module:
    """scale * (x - mean) + shift as a batch norm: 1 / sqrt(1 + 0) is exactly 1, so nothing is rounded."""
    cls = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
    zero, one = np.zeros_like(scale), np.ones_like(scale)
    return _set(
        cls(len(scale), eps=0.0),
        weight=scale,
        bias=shift,
        running_mean=zero if mean is None else mean,
        running_var=one,
    )


def _weights(node: nodes.Linear | nodes.Conv2d) -> dict[str, Array]:
    """weight, and bias if there is a shift and no scale."""
    weight = node.weight.signs() if isinstance(node.weight, PackedWeight) else node.weight
    if node.scale is None or node.shift is None:
        return {"weight": weight.astype(np.float32)}
    dtype = node.scale.dtype
    bias = {"bias": node.shift} if _is_one(node.scale) else {}
    return {"weight": weight.astype(dtype), **bias}


def _is_one(scale: Array) -> bool:
    return bool((scale == 1).all())


def _product(builder: _Builder, node: Any, layer: nn.Module, *inputs: fx.Node) -> None:
    builder.add(node, _set(layer, **_weights(node)), *inputs)
    if node.scale is not None and not _is_one(node.scale):
        norm = _norm(builder.packed.shapes[node.name], node.scale, node.shift)
        builder.after(node, "norm", norm)


def _linear(builder: _Builder, node: nodes.Linear) -> None:
    out, n = node.weight.shape
    _product(builder, node, nn.Linear(n, out, bias="bias" in _weights(node)))


def _conv2d(builder: _Builder, node: nodes.Conv2d) -> None:
    out, per_group, kh, kw = node.weight.shape
    top, bottom, left, right = node.padding
    stock = (top, left) == (bottom, right) and node.pad_value == 0
    layer = nn.Conv2d(
        per_group * node.groups,
        out,
        (kh, kw),
        node.stride,
        (top, left) if stock else 0,
        node.dilation,
        node.groups,
        bias="bias" in _weights(node),
    )
    if stock:
        _product(builder, node, layer)
    else:
        pad = nn.ConstantPad2d((left, right, top, bottom), node.pad_value)
        _product(builder, node, layer, builder.before(node, "pad", pad))


def _affine(builder: _Builder, node: nodes.Affine) -> None:
    builder.add(node, _norm(builder.shape(node), node.scale, node.shift))


def _threshold(builder: _Builder, node: nodes.Threshold) -> None:
    """z >= t is the sign of z - t; for integers, z < t is that of (t - 1) - z."""
    norm = _norm(builder.shape(node), *_norm_of_threshold(node))
    builder.add(node, Sign(clipped_ste), builder.before(node, "norm", norm))


def _norm_of_threshold(node: nodes.Threshold) -> tuple[Array, Array, Array]:
    """(scale, shift, mean), float32: the mean has the upper 24 bits of a threshold, the shift the rest."""
    t, flip = node.threshold.astype(np.int64), node.flip
    always = t == np.iinfo(np.int32).min  # every integer is as large; as `pack` has it for a factor of 0
    border = np.where(always, 0, np.where(flip, t - 1, t))
    low = border % 256
    scale = np.where(always, 0, np.where(flip, -1, 1))
    shift = np.where(always, np.where(flip, -1, 0), -scale * low)
    return scale.astype(np.float32), shift.astype(np.float32), (border - low).astype(np.float32)


def _prelu(builder: _Builder, node: nodes.PReLU) -> None:
    builder.add(node, _set(nn.PReLU(node.slope.size), weight=node.slope))


def _hardtanh(builder: _Builder, node: nodes.Hardtanh) -> None:
    layer = nn.Hardtanh()
    layer.min_val, layer.max_val = node.low, node.high  # which may be equal here, and not in the constructor
    builder.add(node, layer)


def _max_pool(builder: _Builder, node: nodes.MaxPool2d) -> None:
    top, bottom, left, right = node.padding
    (kh, kw), size = node.kernel, builder.shape(node)
    if 2 * top <= kh and 2 * left <= kw:
        for ceil in (False, True):  # ceil_mode's last windows reach over the edge: more padding at that end
            over = [
                _reaches_over(*axis, ceil=ceil)
                for axis in zip(size[1:], (kh, kw), node.stride, (top, left), strict=True)
            ]
            if (bottom, right) == (top + over[0], left + over[1]):
                pool = nn.MaxPool2d(node.kernel, node.stride, (top, left), ceil_mode=ceil)
                builder.add(node, pool)
                return
    pad = nn.ConstantPad2d((left, right, top, bottom), -torch.inf)
    builder.add(node, nn.MaxPool2d(node.kernel, node.stride), builder.before(node, "pad", pad))


def _reaches_over(size: int, kernel: int, stride: int, padding: int, *, ceil: bool) -> int:
    """How far the last window of PyTorch's pooling reaches over the padded edge."""
    if not ceil:
        return 0
    padded = size + 2 * padding
    windows = -(-(padded - kernel) // stride) + 1
    if (windows - 1) * stride >= size + padding:
        windows -= 1  # a window must not begin behind the image
    return max(0, (windows - 1) * stride + kernel - padded)


def _avg_pool(builder: _Builder, node: nodes.AvgPool2d) -> None:
    top, bottom, left, right = node.padding
    (kh, kw) = node.kernel
    if (top, left) == (bottom, right) and 2 * top <= kh and 2 * left <= kw:
        counted = node.count_padding
        pool = nn.AvgPool2d(node.kernel, node.stride, (top, left), count_include_pad=counted)
        builder.add(node, pool)
    else:
        pool = nn.AvgPool2d(node.kernel, node.stride)
        builder.add(node, AvgPool2d(pool, (left, right, top, bottom), node.count_padding))


def _plain(make: Callable[[], nn.Module]) -> Callable[[_Builder, Any], None]:
    """The builder of a node that has no fields of its own."""
    return lambda builder, node: builder.add(node, make())


MODULES: dict[type[Node], Callable[[_Builder, Any], None]] = {
    nodes.Linear: _linear,
    nodes.Conv2d: _conv2d,
    nodes.Affine: _affine,
    nodes.Threshold: _threshold,
    nodes.Sign: _plain(lambda: Sign(clipped_ste)),
    nodes.ReLU: _plain(nn.ReLU),
    nodes.PReLU: _prelu,
    nodes.Hardtanh: _hardtanh,
    nodes.MaxPool2d: _max_pool,
    nodes.AvgPool2d: _avg_pool,
    nodes.Add: _plain(Add),
    nodes.Concat: _plain(Concat),
    nodes.Flatten: _plain(nn.Flatten),
    nodes.Softmax: _plain(lambda: nn.Softmax(dim=1)),
}

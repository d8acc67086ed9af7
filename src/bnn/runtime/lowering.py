"""From a PackedModel to what the C engine runs: values with a dtype, channels-last, and fused operations.

`native/bnn.h` says what each operation does. Here is decided which of them a node of the model becomes:

- a product takes the activation and the sign, or the threshold, that follow it;
- images are channels-last; a fully connected layer on a flattened image is a window as large as the image;
- raw pixels enter a first packed layer as integers, whose sums are compared with integers if only their sign
  is wanted; elsewhere pixels are normalised first, in float64.

Exporters to C read the same program.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bnn.errors import UserError
from bnn.packed import bits
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    MAX_ELEMENTS,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    Node,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import reference
from bnn.runtime.program import DType, Finish, Op, Program, Value
from bnn.runtime.weights import Weight, constants, padding_correction, pixel_thresholds, segments

__all__ = ["LoweringError", "lower"]

Array = NDArray[Any]
Product = Linear | Conv2d
Activation = ReLU | Hardtanh | PReLU


class LoweringError(UserError):
    """The engine cannot run a node; the message names it."""


def lower(
    model: PackedModel,
    dtype: Literal["u8", "f32"],
    activations: Literal["float32", "int8"] = "float32",
) -> Program:
    """The program for inputs of one dtype.

    Args:
        model: the packed model.
        dtype: "u8" raw pixels, "f32" normalised values.
        activations: "int8" quantizes what enters a packed layer as floats (`reference.quantize`).

    Raises:
        LoweringError: a node is of a type that the engine does not know.
    """
    lowering = _Lowering(model, dtype, activations)
    done: set[str] = set()
    for node in model.nodes:
        if node.name not in done:
            lowering.current = node.name
            done.update(lowering.emit(node))
    lowering.finish_output()
    return Program(tuple(lowering.values), tuple(lowering.ops))


@dataclass(frozen=True, eq=False)
class _Fused:
    """Nodes of the model that become one operation, by name; the pooling that is left behind it."""

    names: list[str]
    finish: Finish
    dtype: DType
    pools: Sequence[MaxPool2d] = ()
    flip: NDArray[np.uint64] | None = None  # channels of which pooling takes the smallest


class _Lowering:
    """The values and operations so far, and which value of the engine each value of the model is."""

    def __init__(self, model: PackedModel, dtype: Literal["u8", "f32"], activations: str) -> None:
        self.model, self.activations = model, activations
        self.values: list[Value] = [Value(dtype, 1, 1, prod(model.input.shape))]
        self.ops: list[Op] = []
        self.at: dict[str, int] = {INPUT: 0}
        self.current = ""  # the node that operations are emitted for
        self.uses = Counter([model.output.name, *(name for node in model.nodes for name in node.inputs)])
        self.readers: dict[str, list[Node]] = {}
        for node in model.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.thresholded: set[str] = set()  # values that a threshold reads, perhaps pooled or flattened
        for node in reversed(model.nodes):
            if isinstance(node, Threshold) or (
                isinstance(node, MaxPool2d | Flatten) and node.name in self.thresholded
            ):
                self.thresholded.update(node.inputs)
        self.cached: dict[tuple[str, str], int] = {}
        self.wide: set[int] = set()  # integers that a float32 might round, which the reference has in float64

    # --- values -------------------------------------------------------------------------------------------

    def add(self, op: str, inputs: Iterable[int], value: Value, **fields: Any) -> int:
        """Appends an operation; the index of its output."""
        self.values.append(value)
        index = len(self.values) - 1
        self.ops.append(Op(op, tuple(inputs), index, node=self.current, **fields))
        if value.dtype == "i32" and self.wide.intersection(self.ops[-1].inputs):
            self.wide.add(index)
        return index

    def once(self, name: str, what: str, make: Callable[[], int]) -> int:
        """What was made of a value for one reader serves the next."""
        if (name, what) not in self.cached:
            self.cached[name, what] = make()
        return self.cached[name, what]

    def is_vector(self, name: str) -> bool:
        return len(self.model.shapes[name] if name != INPUT else self.model.input.shape) == 1

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self.model.input.shape if name == INPUT else self.model.shapes[name]

    def planar(self, index: int) -> bool:
        return index == 0 and len(self.model.input.shape) == 3

    def image(self, name: str) -> int:
        """The value, channels-last if it is an image; of a vector as it lies, perhaps channels-last too."""
        index = self.at[name]
        if not self.planar(index) or self.is_vector(name):
            return index
        channels, height, width = self.shape_of(name)
        value = Value(self.values[index].dtype, height, width, channels)
        return self.once(INPUT, "image", lambda: self.add("from_planes", [index], value))

    def vector(self, name: str) -> int:
        """A vector in the model's order: what was flattened channels-last is brought into it."""
        index = self.at[name]
        value = self.values[index]
        if value.height * value.width == 1:
            return index
        flat = Value(value.dtype, 1, 1, value.size)
        return self.once(name, "vector", lambda: self.add("to_planes", [index], flat))

    def natural(self, name: str, per_channel: bool = True) -> int:
        """An image channels-last, or a vector; in the model's order only if that matters."""
        return self.vector(name) if self.is_vector(name) and per_channel else self.image(name)

    def floats(self, name: str, index: int, dtype: DType | None = None) -> int:
        """A value as f32 or f64, as the reference has it, or as the one that is asked for."""
        value = self.values[index]
        if value.dtype == "u8":
            channels, contract = value.channels, self.model.input
            # of a vector, the deviations of its pixels, channel by channel
            mean, deviation = (
                np.repeat(np.array(v, float), channels // len(v)) for v in (contract.mean, contract.std)
            )
            normal = replace(value, dtype="f64")
            index = self.once(
                name,
                f"normal {index}",
                lambda: self.add("normalize", [index], normal, mean=mean, deviation=deviation),
            )
            value = normal
        wanted = dtype or ("f64" if value.dtype == "f64" or index in self.wide else "f32")
        return self.once(name, f"{wanted} {index}", lambda: self.cast(index, replace(value, dtype=wanted)))

    def cast(self, index: int, to: Value) -> int:
        """A value in another dtype."""
        dtypes = (self.values[index].dtype, to.dtype)
        if dtypes[0] == dtypes[1]:
            return index
        finish = Finish(computed="f64" if "f64" in dtypes else "f32")
        return self.add("map", [index], to, finish=finish)

    # --- nodes --------------------------------------------------------------------------------------------

    def emit(self, node: Node) -> list[str]:
        """Emits a node, with those after it that it takes along; the names of all of them."""
        if isinstance(node, Linear | Conv2d):
            return self.product(_bounded(node))
        if isinstance(node, Affine | Threshold | Sign | ReLU | Hardtanh | PReLU):
            return self.map(node)
        name, source = node.name, node.inputs[0]
        if isinstance(node, Flatten):
            self.at[name] = self.at[source]
            if not self.planar(self.at[source]):
                self.at[name] = self.image(source)
        elif isinstance(node, MaxPool2d):
            index = self.image(source)
            if self.values[index].dtype == "u8":
                index = self.floats(source, index)
            self.at[name] = self.pool("max_pool", node, index)
        elif isinstance(node, AvgPool2d):
            index = self.floats(source, self.image(source))
            self.at[name] = self.pool("avg_pool", node, index, count_padding=node.count_padding)
        elif isinstance(node, Add):
            self.at[name] = self.sum(node)
        elif isinstance(node, Concat):
            self.at[name] = self.concat(node)
        elif isinstance(node, Softmax):
            index = self.floats(source, self.vector(source))
            self.at[name] = self.add("softmax", [index], self.values[index])
        else:
            raise LoweringError(f"{name!r} ({type(node).__name__}): the engine has no such operation")
        return [name]

    def alike(self, names: Sequence[str]) -> list[int]:
        """Values in one physical order: as they lie, if that is the same for all."""
        indices = [self.natural(name, per_channel=False) for name in names]
        shapes = {(v.height, v.width, v.channels) for v in (self.values[i] for i in indices)}
        return indices if len(shapes) == 1 else [self.natural(name) for name in names]

    def sum(self, node: Add) -> int:
        """From left to right: in float32 until a float64 comes, as the reference adds."""
        indices = [self.floats(v, i) for v, i in zip(node.inputs, self.alike(node.inputs), strict=True)]
        dtypes = [self.values[i].dtype for i in indices]
        narrow = dtypes.index("f64") if "f64" in dtypes else len(dtypes)
        total, rest = indices[:narrow], indices[narrow:]
        if len(total) > 1:
            total = [self.add("add", total, self.values[total[0]])]
        if rest:
            wide = replace(self.values[rest[0]], dtype="f64")
            cast = {i: self.cast(i, wide) for i in (*total, *rest)}  # one may stand here a thousand times
            total = [self.add("add", [cast[i] for i in (*total, *rest)], wide)]
        return total[0]

    def concat(self, node: Concat) -> int:
        indices = [self.natural(name) for name in node.inputs]
        dtypes = {self.values[i].dtype for i in indices}
        if dtypes != {"bits"}:
            indices = [self.floats(v, i) for v, i in zip(node.inputs, indices, strict=True)]
            wide: DType = "f64" if any(self.values[i].dtype == "f64" for i in indices) else "f32"
            indices = [self.floats(v, i, wide) for v, i in zip(node.inputs, indices, strict=True)]
        channels = sum(self.values[i].channels for i in indices)
        return self.add("concat", indices, replace(self.values[indices[0]], channels=channels))

    def pool(self, op: str, node: MaxPool2d | AvgPool2d, index: int, **fields: Any) -> int:
        channels, height, width = self.model.shapes[node.name]
        value = Value(self.values[index].dtype, height, width, channels)
        stride = (min(node.stride[0], MAX_ELEMENTS), min(node.stride[1], MAX_ELEMENTS))
        geometry = {"kernel": node.kernel, "stride": stride, "padding": node.padding}
        return self.add(op, [index], value, **geometry, **fields)

    # --- what follows a sum -------------------------------------------------------------------------------

    def only_reader(self, name: str) -> Node | None:
        """The node that reads a value, if it is the only use of it."""
        return self.readers[name][0] if self.uses[name] == 1 and name in self.readers else None

    def activation_after(self, name: str) -> Activation | None:
        reader = self.only_reader(name)
        return reader if isinstance(reader, ReLU | Hardtanh | PReLU) else None

    def sign_after(self, name: str) -> Sign | None:
        reader = self.only_reader(name)
        return reader if isinstance(reader, Sign) else None

    def map(self, node: Affine | Threshold | Sign | Activation) -> list[str]:
        """An affine map, an activation and a sign, as many of them as follow each other, in one pass."""
        names, source = [node.name], node.inputs[0]
        if isinstance(node, Threshold):
            index = self.natural(source)
            value = replace(self.values[index], dtype="bits")
            finish = Finish(threshold=node.threshold, flip=_bits_of(node.flip))
            self.at[node.name] = self.add("map", [index], value, finish=finish)
            return names
        flat = isinstance(node, Sign) and isinstance(self.only_reader(node.name), Flatten)
        if (
            isinstance(node, Sign)
            and self.planar(self.at[source])
            and not self.is_vector(source)
            and not flat
        ):
            index = self.at[source]
            if self.values[index].dtype == "f32":  # signs straight from the caller's planes
                channels, height, width = self.shape_of(source)
                value = Value("bits", height, width, channels)
                self.at[node.name] = self.add("from_planes", [index], value)
                return names
        per_channel = isinstance(node, Affine) or (isinstance(node, PReLU) and node.slope.size > 1)
        index = self.natural(source, per_channel)
        if flat and self.planar(self.at[source]):
            index = self.at[source]  # signs of a vector, which is what follows
        if self.values[index].dtype == "u8" or index in self.wide:
            index = self.floats(source, index)
        finish = Finish()
        if isinstance(node, Affine):
            computed: DType = "f64" if "f64" in (_dtype(node.scale), self.values[index].dtype) else "f32"
            dtype = _dtype(node.scale)
            finish = _scaled(computed, dtype, node.scale, node.shift)
            after = self.activation_after(node.name)
            if after:
                names.append(after.name)
                finish = _activated(finish, after, self.values[index].channels)
        else:
            dtype = "f64" if self.values[index].dtype == "f64" else "f32"
            finish = Finish(computed=dtype)
            if not isinstance(node, Sign):
                finish = _activated(finish, node, self.values[index].channels)
        sign = node if isinstance(node, Sign) else self.sign_after(names[-1])
        if sign and sign is not node:
            names.append(sign.name)
        value = replace(self.values[index], dtype="bits" if sign else dtype)
        self.at[names[-1]] = self.add("map", [index], value, finish=finish)
        return names

    # --- products -----------------------------------------------------------------------------------------

    def product(self, node: Product) -> list[str]:
        """A product with what follows it."""
        source = node.inputs[0]
        index, window = self.window(node)
        pixels, signs = (self.values[index].dtype == dtype for dtype in ("u8", "bits"))
        integers = signs and self.takes_bits(node)
        raw = pixels and node.is_packed and prod(node.weight.shape[1:]) * 255 < 2**31
        quantized = (
            self.activations == "int8"
            and not (pixels or integers)
            and reference.quantizes(node, self.model.kinds[source])
        )
        fused = self.fuse(node, integers, raw)
        height, width = self.model.shapes[node.name][1:] if isinstance(node, Conv2d) else (1, 1)
        value = Value(fused.dtype, height, width, node.out_channels)
        channels, dtype = self.values[index].channels, fused.finish.computed
        if self.values[index].dtype not in ("u8", "f64"):  # padding of float32 values is float32 itself
            window["pad_value"] = float(np.float32(window["pad_value"]))
        weight = Weight(node, window["kernel"], channels // window["groups"])
        fields: dict[str, Any] = {**window, "finish": fused.finish}

        if raw:
            fields |= self.of_pixels(node, weight, window["groups"], fused)
            made = self.add("product_u8", [index], value, **fields)
        elif not node.is_packed:
            fields["weight"] = weight.dense(window["groups"])
            made = self.add("dense", [self.floats(source, index)], value, **fields)
        else:
            depthwise = window["groups"] == channels == node.out_channels > 1
            if depthwise:
                fields["weight"] = weight.depthwise()
            elif integers:
                fields["rows"] = weight.rows_of_taps()
                fields["n"] = 64 * fields["rows"].shape[1]
                if isinstance(node, Conv2d):
                    fields["border"] = padding_correction(node, weight, self.shape_of(source))
            else:
                fields["rows"], fields["n"] = weight.rows(), weight.taps * weight.channels
            if integers:
                kind, inputs = "product_bits", [index]
            elif quantized:
                kind, inputs = "product_i8", self.quantized(source, index)
            elif dtype == "f64":
                kind, inputs = "product_f64", [self.floats(source, index)]
            else:
                kind, inputs = "product_f32", [self.floats(source, index, "f32")]
            if depthwise and dtype == "f64" and kind == "product_f64":
                inputs = [self.floats(source, index, "f64")]
            made = self.add("depthwise" if depthwise else kind, inputs, value, **fields)

        if fused.dtype == "i32" and reference.dtype_of(node) == np.float64:
            self.wide.add(made)
        for pool in fused.pools:
            made = self.pool("max_pool", pool, made, flip=fused.flip)
        self.at[fused.names[-1]] = made
        return fused.names

    def of_pixels(self, node: Product, weight: Weight, groups: int, fused: _Fused) -> dict[str, Any]:
        """Fields of a product of raw pixels; its groups become segments."""
        parts = segments(weight, groups, self.model.input)
        border = constants(node, self.shape_of(node.inputs[0]), self.model.input)
        fields = {"segments": parts, "groups": 1, "border": border}
        if fused.dtype == "bits" and fused.finish.activation == "identity":
            thresholds = pixel_thresholds(parts, border, fused.finish, weight.taps)
            if thresholds:
                fields["finish"], fields["border"] = thresholds
        return fields

    def fuse(self, node: Product, integers: bool, raw: bool) -> "_Fused":
        """What follows a product and is computed with it: a threshold, or an activation and a sign.

        A threshold or, of pixels, a sign moves before max pooling, which is then on bits. (Of floats it does
        not: the largest of numbers and NaN is NaN, whose sign is -1; the largest of their signs may be +1.)
        """
        names, dtype = [node.name], _dtype(reference.dtype_of(node))
        reader, pools = self.only_reader(node.name), []
        while isinstance(reader, MaxPool2d):
            pools.append(reader)
            reader = self.only_reader(reader.name)
        behind = [*(pool.name for pool in pools), reader.name if reader else ""]
        if integers and isinstance(reader, Threshold):
            flip = _bits_of(reader.flip)
            finish = Finish(threshold=reader.threshold, flip=flip)
            return _Fused(names + behind, finish, "bits", pools, flip if reader.flip.any() else None)
        finish = _scaled("f64" if raw or dtype == "f64" else "f32", dtype, node.scale, node.shift)
        if raw and pools and isinstance(reader, Sign):
            return _Fused(names + behind, finish, "bits", pools)
        if activation := self.activation_after(names[-1]):
            names.append(activation.name)
            finish = _activated(finish, activation, node.out_channels)
        if sign := self.sign_after(names[-1]):
            return _Fused([*names, sign.name], finish, "bits")
        if integers and node.scale is None and len(names) == 1 and node.name in self.thresholded:
            dtype = "i32"
        return _Fused(names, finish, dtype)

    def window(self, node: Product) -> tuple[int, dict[str, Any]]:
        """The index of a product's input, and its window over it."""
        source = node.inputs[0]
        if isinstance(node, Conv2d):
            return self.image(source), {
                "kernel": node.weight.shape[2:],
                "stride": node.stride,
                "dilation": node.dilation,
                "padding": node.padding,
                "groups": node.groups,
                "pad_value": node.pad_value,
            }
        index = self.image(source)
        value = self.values[index]
        if value.dtype == "bits" and 4 * value.channels < 3 * 64 * bits.words_per_row(value.channels):
            index = self.vector(source)  # whole words for each pixel would be too many
            value = self.values[index]
        return index, {"kernel": (value.height, value.width), "groups": 1, "pad_value": 0.0}

    def takes_bits(self, node: Product) -> bool:
        """Whether signs enter this product as bits: its weights are ±1, and padding is 0 or a sign."""
        if isinstance(node, Conv2d) and any(node.padding) and node.pad_value not in (-1, 0, 1):
            return False
        return node.is_packed

    def quantized(self, name: str, index: int) -> list[int]:
        index = self.floats(name, index)
        value = self.values[index]

        def make() -> int:
            self.values.append(Value("f32", 1, 1, 1))
            scale = len(self.values) - 1
            self.cached[name, f"scale {index}"] = scale
            return self.add("quantize", [index], replace(value, dtype="i8"), second=scale)

        made = self.once(name, f"i8 {index}", make)
        return [made, self.cached[name, f"scale {index}"]]

    def finish_output(self) -> None:
        """The caller's output: float32, as PyTorch has it, and written by the last operation alone."""
        name = self.model.output.name
        index = self.at[name]
        if self.values[index].dtype == "u8" and self.planar(index) and not self.is_vector(name):
            index = self.image(name)
        value = self.values[index]
        if value.dtype != "f32":
            index = self.floats(name, index, "f32")
        value = self.values[index]
        if value.height * value.width > 1:
            index = self.add("to_planes", [index], Value("f32", 1, 1, value.size))
        if not self.ops or self.ops[-1].output != index:
            self.add("map", [index], self.values[index])


# --- pieces -----------------------------------------------------------------------------------------------


def _dtype(array_or_dtype: Any) -> DType:
    return "f64" if np.dtype(getattr(array_or_dtype, "dtype", array_or_dtype)) == np.float64 else "f32"


def _scaled(computed: DType, dtype: DType, scale: Array | None, shift: Array | None) -> Finish:
    """scale * sum + shift in `computed`, rounded to `dtype`."""
    wide = np.float64 if computed == "f64" else np.float32
    if scale is None or shift is None:
        return Finish(computed=computed, narrow=computed != dtype)
    return Finish(
        computed=computed, narrow=computed != dtype, scale=scale.astype(wide), shift=shift.astype(wide)
    )


def _activated(finish: Finish, node: Activation, channels: int) -> Finish:
    if isinstance(node, ReLU):
        return replace(finish, activation="relu")
    if isinstance(node, Hardtanh):
        limits = (node.low, node.high)
        if finish.narrow or finish.computed == "f32":  # limits of float32 values are float32 themselves
            limits = (float(np.float32(node.low)), float(np.float32(node.high)))
        return replace(finish, activation="hardtanh", low=limits[0], high=limits[1])
    return replace(finish, activation="prelu", slope=np.broadcast_to(node.slope, channels).astype(np.float32))


def _bounded(node: Product) -> Product:
    """With a stride and a dilation that fit 32 bits: beyond any image, larger ones change nothing."""
    if not isinstance(node, Conv2d):
        return node
    (kh, kw), (dy, dx), (sy, sx) = node.weight.shape[2:], node.dilation, node.stride
    dilation = (dy if kh > 1 else 1, dx if kw > 1 else 1)
    return replace(node, stride=(min(sy, MAX_ELEMENTS), min(sx, MAX_ELEMENTS)), dilation=dilation)


def _bits_of(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return bits.pack(1 - 2 * flags.astype(np.int8))

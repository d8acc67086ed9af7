"""How far an engine may be from the reference: nothing where no sum rounds, else what rounding explains.

Two engines that add in different orders differ by roundings, and a sign of what was rounded may flip. So
beside each value of the reference goes a bound: 0 where every engine must give that very number, infinity or
NaN; a little where sums round; 2 for a sign that may flip; infinity where sums may overflow in one order and
not in another, after which nothing can be said.

The rules follow the reference's arithmetic step by step, and so use its parts, private ones too.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
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
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)
from bnn.runtime import reference
from bnn.runtime.reference import Activations

__all__ = ["bounded_run"]

Array = NDArray[Any]
Product = Linear | Conv2d

SLACK = 4
"""Bounds below count each rounding once; some engines round a number more often, none that much more."""


def bounded_run(model: PackedModel, x: Array, activations: Activations) -> tuple[Array, Array]:
    """The reference's output for a batch, float32, and for each entry how far from it another's may lie."""
    with np.errstate(all="ignore"):
        values = values_of(model, x, activations)
        bounds = Bounds(model, values, activations)
        for node in model.nodes:
            bounds.add(node)
        value, bound = bounds.normal(model.output.name)
        truth = reference.run(model, x, activations)
        narrowed = where_any(bound, 2.0**-22 * (np.abs(value) + bound) + 1e-44)  # of the other value too
        return truth, settled(truth, np.where(np.abs(value) + bound > 3e38, spread(bound), bound + narrowed))


def values_of(model: PackedModel, x: Array, activations: Activations) -> dict[str, Array]:
    """Every value of the model as the reference has it, in the reference's dtype."""
    contract = replace(model.input, labels=())
    values = {INPUT: x}
    for i, node in enumerate(model.nodes):
        source = values[node.inputs[0]]
        if isinstance(node, Flatten) and source.dtype == np.uint8:
            values[node.name] = source.reshape(len(x), -1)  # still raw
        else:
            part = PackedModel(contract, model.nodes[: i + 1])
            values[node.name] = reference._run(part, x, activations)
    return values


# --- bounds -----------------------------------------------------------------------------------------------


def where_any(bound: Array, more: Array) -> Array:
    """`more` where there is a difference already, which then is rounded; what is equal is rounded equally."""
    return np.where(bound > 0, more, 0.0)


def spread(bound: Array) -> Array:
    """What differs may overflow in one engine and not in the other; what is equal stays so."""
    return np.where(bound > 0, np.inf, 0.0)


def settled(value: Array, bound: Array) -> Array:
    """NaN is no bound; and an infinity or NaN that has a finite bound is what every engine has."""
    bound = np.nan_to_num(bound, nan=np.inf, posinf=np.inf)
    return np.where(np.isfinite(value) | np.isinf(bound), bound, 0.0)


def finite(x: Array) -> Array:
    """Magnitudes in float64, of what is finite."""
    return np.where(np.isfinite(x), np.abs(x.astype(np.float64)), 0.0)


def epsilon(dtype: Any) -> float:
    return 2.0**-24 if dtype == np.float32 else 2.0**-53


def largest(dtype: Any) -> float:
    """Where a sum may begin to overflow, with a margin."""
    return 1e37 if dtype == np.float32 else 1e306


def tiny(dtype: Any) -> float:
    """What rounding is where numbers are too small to round relatively."""
    return 1e-44 if dtype == np.float32 else 1e-320


def unit(x: Array) -> Array:
    """For each sample a power of two of which its entries are multiples; 0 if there is none or a tiny one."""
    rows = np.where(np.isfinite(x), x, 0).reshape(len(x), -1).astype(np.float64)
    found = np.zeros(len(x))
    for exponent in (16, 8, 4, 0):
        scaled = rows * 2.0**exponent
        whole = (scaled == np.rint(scaled)).all(axis=1)
        found[whole] = 2.0**-exponent
    return found


def is_exact(magnitude: Array, units: Array, bound: Array, dtype: Any) -> Array:
    """Where no sum of multiples of a unit rounds: its magnitude in units fits the mantissa, a bit to spare.

    A sample of which an entry is uncertain counts as one that rounds.
    """
    bits = 23 if dtype == np.float32 else 52
    certain = (bound == 0).reshape(len(bound), -1).all(axis=1)
    units = np.where(certain, units, 0.0).reshape(-1, *[1] * (magnitude.ndim - 1))
    return (units > 0) & (magnitude <= units * 2.0**bits)


class Bounds:
    """The bound of every value so far, as an array of the value's shape."""

    def __init__(self, model: PackedModel, values: Mapping[str, Array], activations: Activations) -> None:
        self.model, self.values, self.activations = model, values, activations
        self.bounds = {INPUT: np.zeros(values[INPUT].shape)}

    def normal(self, name: str) -> tuple[Array, Array]:
        """A value, normalised if it is raw, and its bound."""
        return reference._normalise(self.values[name], self.model.input), self.bounds[name]

    def add(self, node: Node) -> None:
        bound = RULES[type(node)](self, node)
        self.bounds[node.name] = settled(
            self.values[node.name], np.broadcast_to(bound, self.values[node.name].shape)
        )

    # --- products -----------------------------------------------------------------------------------------

    def product(self, node: Product) -> Array:
        x, bound = self.values[node.inputs[0]], self.bounds[node.inputs[0]]
        dtype = reference.dtype_of(node)
        n = prod(node.weight.shape[1:])
        if x.dtype == np.uint8 and node.is_packed:
            mean, std = reference._mean_std(self.model.input, x)
            magnitude = magnitudes(node, (x / 255 + np.abs(mean)) / std)
            grouped = isinstance(node, Conv2d) and node.groups > 1  # then in floats, normalised before
            rounded = (epsilon(dtype) if grouped else epsilon(np.float64)) * (2 * n + 16) * magnitude
            return scaled(node, magnitude, SLACK * rounded + tiny(dtype), dtype)
        x = reference._normalise(x, self.model.input)
        if self.activations == "int8" and reference.quantizes(node, self.model.kinds[node.inputs[0]]):
            return self.product_of_quantized(node, x, bound)
        bound = narrowed_to(dtype, x, bound)
        x = x.astype(dtype)
        magnitude = magnitudes(node, finite(x))
        carried = np.nan_to_num(magnitudes(replaced_padding(node, 0.0), bound), nan=np.inf, posinf=np.inf)
        rounded = SLACK * epsilon(dtype) * (n + 4) * (magnitude + carried) + n * tiny(dtype)
        units = unit(x) * unit_of(node)
        carried = carried + np.where(is_exact(magnitude, units, bound, dtype), 0.0, rounded)
        carried = np.where(magnitude + carried > largest(dtype), np.inf, carried)
        return scaled(node, magnitude, carried, dtype)

    def product_of_quantized(self, node: Product, x: Array, bound: Array) -> Array:
        """Equal if what enters is; else each entry may be rounded to another step."""
        dtype = reference.dtype_of(node)
        bound = narrowed_to(np.float32, x, bound)
        x = x.astype(np.float32)
        samples = (-1, *[1] * (x.ndim - 1))
        differ = (bound > 0).reshape(len(x), -1).any(axis=1).reshape(samples)
        most = (finite(x).reshape(len(x), -1).max(axis=1) / 127).reshape(samples)
        wrong = (bound.reshape(len(x), -1).max(axis=1) / 127).reshape(samples)
        step = np.where(differ, bound + 1.05 * (most + wrong) + 1e-36, 0.0)
        step = np.where(differ & (127 * (most + wrong) > 1e37), np.inf, step)
        carried = np.nan_to_num(magnitudes(node, step), nan=np.inf, posinf=np.inf)
        return scaled(node, magnitudes(node, finite(x)), carried, dtype)

    # --- everything else ----------------------------------------------------------------------------------

    def affine(self, node: Affine) -> Array:
        x, bound = self.normal(node.inputs[0])
        return through(node.scale, node.shift, finite(x), bound, node.scale.dtype)

    def threshold(self, node: Threshold) -> Array:
        x, bound = self.normal(node.inputs[0])
        limits = reference._channels(node.threshold, x)
        return np.where((x - bound >= limits) != (x + bound >= limits), 2.0, 0.0) + np.where(
            np.isinf(bound), 2.0, 0.0
        )

    def sign(self, node: Sign) -> Array:
        x, bound = self.normal(node.inputs[0])
        return np.where((bound > 0) & ~(np.abs(x) > bound), 2.0, 0.0)

    def same(self, node: Node) -> Array:
        return self.normal(node.inputs[0])[1].reshape(self.values[node.name].shape)

    def prelu(self, node: PReLU) -> Array:
        x, bound = self.normal(node.inputs[0])
        slope = np.maximum(1.0, np.abs(reference._channels(node.slope, x).astype(np.float64)))
        total = slope * (finite(x) + bound)
        rounded = where_any(bound, SLACK * epsilon(x.dtype) * total + tiny(x.dtype))
        return np.where(total > largest(x.dtype), spread(bound), slope * bound + rounded)

    def max_pool(self, node: MaxPool2d) -> Array:
        return windows(node, self.normal(node.inputs[0])[1]).max(axis=(4, 5))

    def avg_pool(self, node: AvgPool2d) -> Array:
        x, bound = self.normal(node.inputs[0])
        size = float(prod(node.kernel))
        inside = windows(node, np.ones_like(x[:1], dtype=np.float64)).sum(axis=(4, 5))
        count = size if node.count_padding else inside
        magnitude = windows(node, finite(x)).sum(axis=(4, 5))
        carried = windows(node, bound).sum(axis=(4, 5))
        rounded = SLACK * epsilon(x.dtype) * (size + 4) * (magnitude + carried) + size * tiny(x.dtype)
        carried = carried + np.where(is_exact(magnitude, unit(x), bound, x.dtype), 0.0, rounded)
        carried = np.where(magnitude + carried > largest(x.dtype), np.inf, carried)
        return (carried + where_any(carried, rounded)) / count

    def sum(self, node: Add) -> Array:
        inputs = [self.normal(name) for name in node.inputs]
        bound = sum(b for _, b in inputs)
        total = sum(finite(x) for x, _ in inputs) + bound
        dtypes = {x.dtype for x, _ in inputs}
        dtype = np.float32 if np.dtype(np.float32) in dtypes else np.float64
        rounded = SLACK * epsilon(dtype) * len(inputs) * total + tiny(dtype)
        if len(dtypes) > 1:  # the reference rounds what it adds up before it meets a float64
            return np.where(total > largest(dtype), np.inf, bound + rounded)
        return np.where(total > largest(dtype), spread(bound), bound + where_any(bound, rounded))

    def concat(self, node: Concat) -> Array:
        return np.concatenate([self.bounds[name] for name in node.inputs], axis=1)

    def softmax(self, node: Softmax) -> Array:
        x, bound = self.normal(node.inputs[0])
        y = finite(self.values[node.name])
        wrong = bound.max(axis=1, keepdims=True)
        factor = np.expm1(np.minimum(4 * wrong, 700)) + SLACK * epsilon(x.dtype) * (x.shape[1] + 16)
        # An exponent is rounded relatively to itself, and its power by as much as it is wrong.
        distance = np.nan_to_num(np.abs(x - x.max(axis=1, keepdims=True)), nan=1000.0)
        factor = factor + 4 * epsilon(x.dtype) * np.minimum(distance, 1000)
        # What is 0 here is not, where exponents are wrong by more than it is away from the largest.
        near = y * factor + np.where(wrong > 1, np.exp(np.minimum(4 * wrong - distance, 0)), 0)
        near = np.minimum(1.0, near + (1e-37 if x.dtype == np.float32 else 1e-300))
        return np.where(np.isinf(wrong), np.inf, near)


def magnitudes(node: Product, x: Array) -> Array:
    """What the product would be of magnitudes: |weight| · |x|."""
    ones = np.ones(node.weight.shape) if node.is_packed else np.abs(node.weight.astype(np.float64))
    fields: dict[str, Any] = {"weight": ones, "scale": None, "shift": None}
    if isinstance(node, Conv2d):
        fields["pad_value"] = abs(node.pad_value)
    return reference._product(replace(node, **fields), x, np.dtype(np.float64))


def replaced_padding(node: Product, value: float) -> Product:
    return replace(node, pad_value=value) if isinstance(node, Conv2d) else node


def unit_of(node: Product) -> float:
    """A power of two of which the weights are multiples, and another of which the padding is."""
    weights = 1.0 if isinstance(node.weight, PackedWeight) else float(unit(node.weight.reshape(1, -1))[0])
    if isinstance(node, Conv2d) and any(node.padding):
        weights *= min(1.0, float(unit(np.array([[node.pad_value]]))[0]))
    return weights


def narrowed_to(dtype: Any, x: Array, bound: Array) -> Array:
    """The bound of x rounded to a dtype."""
    if x.dtype == dtype or dtype == np.float64:
        return bound
    total = finite(x) + bound
    return np.where(total > 3e38, spread(bound), bound + where_any(bound, 2.0**-22 * total + 1e-44))


def scaled(node: Product, magnitude: Array, bound: Array, dtype: Any) -> Array:
    """The bound of scale * sum + shift."""
    if node.scale is None or node.shift is None:
        return bound + where_any(bound, SLACK * epsilon(dtype) * (magnitude + bound))
    return through(node.scale, node.shift, magnitude, bound, dtype)


def through(scale: Array, shift: Array, magnitude: Array, bound: Array, dtype: Any) -> Array:
    factor = reference._channels(np.abs(scale.astype(np.float64)), bound)
    total = factor * (magnitude + bound) + reference._channels(np.abs(shift.astype(np.float64)), bound)
    rounded = where_any(bound, SLACK * epsilon(dtype) * total + tiny(dtype))
    return np.where(total > largest(dtype), spread(bound), factor * bound + rounded)


def windows(node: MaxPool2d | AvgPool2d, x: Array) -> Array:
    return reference._windows(x, node.kernel, node.stride, node.padding, (1, 1), 0.0)


RULES: dict[type[Node], Callable[[Bounds, Any], Array]] = {
    Linear: Bounds.product,
    Conv2d: Bounds.product,
    Affine: Bounds.affine,
    Threshold: Bounds.threshold,
    Sign: Bounds.sign,
    ReLU: Bounds.same,
    Hardtanh: Bounds.same,
    Flatten: Bounds.same,
    PReLU: Bounds.prelu,
    MaxPool2d: Bounds.max_pool,
    AvgPool2d: Bounds.avg_pool,
    Add: Bounds.sum,
    Concat: Bounds.concat,
    Softmax: Bounds.softmax,
}

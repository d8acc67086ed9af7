"""What a packed model is made of: its input contract, ±1 weights one bit each, and the nodes of its graph.

A node names its output value; its inputs are names of earlier nodes, or "input". Shapes are without the
batch axis and as PyTorch's: (features,) or (channels, height, width). A value is of one of four kinds,
which follow from the graph and are not stored:

    input   what the caller gave: raw uint8 pixels, or float32
    sign    ±1
    int     integers: dot products of ±1 with ±1
    float   everything else
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from bnn.packed import bits

__all__ = [
    "INPUT",
    "MAX_ELEMENTS",
    "NODES",
    "Add",
    "Affine",
    "AvgPool2d",
    "Concat",
    "Conv2d",
    "Costs",
    "Flatten",
    "Hardtanh",
    "InputContract",
    "Kind",
    "Linear",
    "MaxPool2d",
    "Node",
    "PReLU",
    "PackedWeight",
    "Product",
    "ReLU",
    "Shape",
    "Sign",
    "Softmax",
    "Threshold",
    "check_shape",
    "check_text",
    "ensure",
]

Shape = tuple[int, ...]
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]  # top, bottom, left, right
Array = NDArray[Any]
Kind = Literal["input", "sign", "int", "float"]

INPUT = "input"
# Entries of one value of one sample: indices fit 32 bits in every engine, and a hostile file cannot ask for
# terabytes.
MAX_ELEMENTS = 2**28
MOST_AXES = 8  # of a weight

AT_ONCE = 2**22
"""Entries of windows that the reference gathers at a time, and of weights that are unpacked."""

CALL, PLACE = 500, 64  # cycles of any node, and of each of its places
OF_INPUT = 2**14  # cycles to read, to lower and to run one more input
NODE = 2**13  # bytes of Python's objects for a node while it is lowered


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight of ±1, one bit each: row i holds the signs of weight[i], flattened in PyTorch's order.

    Attributes:
        words: uint64, (rows, ceil(n / 64)) by the convention in `bnn.packed.bits`.
        shape: the weight's shape as PyTorch has it; rows = shape[0], n = the product of the others.
    """

    words: NDArray[np.uint64]
    shape: Shape

    def __post_init__(self) -> None:
        sound = 2 <= len(self.shape) <= MOST_AXES and all(0 < size < 2**63 for size in self.shape)
        ensure(sound, f"weight of shape {self.shape}")
        expected = (self.shape[0], bits.words_per_row(self.n))
        ensure(
            self.words.dtype == np.uint64 and self.words.shape == expected,
            f"a weight of shape {self.shape} takes uint64 words of shape {expected}, "
            f"not {self.words.dtype} {self.words.shape}",
        )
        tail = self.n % bits.WORD_BITS
        ensure(not tail or not np.any(self.words[:, -1] >> np.uint64(tail)), "padding bits are not 0")

    @property
    def n(self) -> int:
        """Weights in a row."""
        return prod(self.shape[1:])

    @property
    def size(self) -> int:
        return prod(self.shape)

    @classmethod
    def from_signs(cls, signs: Array) -> "PackedWeight":
        """Packs an array of ±1 that has the weight's shape."""
        return cls(bits.pack(signs.reshape(signs.shape[0], -1)), signs.shape)

    def signs(self, rows: slice = slice(None)) -> NDArray[np.int8]:
        """±1, of the weight's shape; of these rows."""
        return bits.unpack(self.words[rows], self.n).reshape(-1, *self.shape[1:])


Weight = PackedWeight | NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class InputContract:
    """What the model takes, so that it travels with the model.

    Two dtypes are accepted: float32 is taken as it is (already normalised), uint8 as raw pixels, which
    become (pixel / 255 - mean) / std for each channel.

    Attributes:
        shape: of one sample, (channels, height, width) or (features,).
        mean, std: for each channel, in units of pixel / 255; one entry for all is enough, and is the
            rule for a (features,) input. Empty: the model has no raw form and takes float32 only.
        labels: class names, by index; may be empty.
    """

    shape: Shape
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ensure(len(self.shape) in (1, 3), f"input shape {self.shape} is neither (n,) nor (c, h, w)")
        check_shape("input", self.shape)
        ensure(len(self.mean) == len(self.std), "mean and std differ in length")
        ensure(
            len(self.mean) in {0, 1, self.channels}, f"{len(self.mean)} means for {self.channels} channels"
        )
        ensure(bool(np.isfinite([*self.mean, *self.std]).all()), "mean and std must be finite")
        for label in self.labels:
            check_text("label", label)
        ensure(all(s > 0 for s in self.std), f"std must be positive, not {self.std}")

    @property
    def channels(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1


# --- nodes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Costs:
    """What a node asks for beside its inputs and its output, at most; `bnn.packed.demand` adds it up.

    Attributes:
        cycles: of a fast core, for one sample.
        kept: bytes that the engine keeps to run it: prepared weights, and the program's.
        lowered: bytes of arrays while it is lowered.
        scratch: bytes while one thread runs it.
        reference: bytes of arrays while the reference runs it.
    """

    cycles: int
    kept: int = 0
    lowered: int = 0
    scratch: int = 0
    reference: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operation. Subclasses add its fields and say what it takes and gives."""

    name: str
    inputs: tuple[str, ...]

    arity: ClassVar[int | None] = 1  # None: two or more

    def check(self) -> None:
        """Raises ValueError if the fields do not fit each other."""

    def shape(self, *inputs: Shape) -> Shape:
        """The output's shape; raises ValueError if these inputs do not fit."""
        return inputs[0]

    def kind(self, *inputs: Kind) -> Kind:
        """The output's kind; raises ValueError if these inputs do not fit."""
        return "float"

    def is_wide(self, *inputs: bool) -> bool:
        """Whether the output may be float64; `inputs`: whether they may."""
        return any(inputs)

    def costs(
        self, shape: Shape, inputs: Sequence[Shape], kinds: Sequence[Kind], contract: InputContract
    ) -> Costs:
        """What it asks for.

        Args:
            shape: of the output.
            inputs, kinds: of the inputs.
            contract: what the model takes.
        """
        return self._passes(shape, inputs, 4)

    def _passes(self, shape: Shape, inputs: Sequence[Shape], cycles: int) -> Costs:
        """A pass over all entries, so many cycles for each."""
        entries = prod(shape) + sum(map(prod, inputs))
        return Costs(
            cycles=CALL + cycles * entries + PLACE * prod(shape[1:]) + OF_INPUT * (len(inputs) - 1),
            kept=4 * sum(16 * array.size for array in self.arrays()) + NODE,
            scratch=8 * shape[0],
            reference=24 * entries,
        )

    def arrays(self) -> Iterator[Array]:
        """Every array the node holds."""
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, PackedWeight):
                yield value.words
            elif isinstance(value, np.ndarray):
                yield value

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """What Linear and Conv2d share: y = scale * (weight · x) + shift, for each output channel.

    `scale` and `shift` come both or not at all. Their dtype is that of the result: float64 where only
    a sign is taken of it, so that this sign is the float64 network's. Without them, ±1 weights on ±1
    inputs give integers.
    """

    weight: Weight
    scale: Array | None = None
    shift: Array | None = None

    def check(self) -> None:
        if not isinstance(self.weight, PackedWeight):
            _check_floats(self, "weight", self.weight, self.weight.shape, ("float32",))
        ensure((self.scale is None) == (self.shift is None), "scale and shift come together")
        if self.scale is not None and self.shift is not None:
            _check_floats(self, "scale", self.scale, (self.out_channels,), ("float32", "float64"))
            _check_floats(self, "shift", self.shift, (self.out_channels,), (str(self.scale.dtype),))

    def is_wide(self, *inputs: bool) -> bool:
        if self.scale is not None:
            return bool(self.scale.dtype == np.float64)
        return prod(self.weight.shape[1:]) > 2**24

    def costs(
        self, shape: Shape, inputs: Sequence[Shape], kinds: Sequence[Kind], contract: InputContract
    ) -> Costs:
        raw = kinds[0] == "input" and bool(contract.mean) and self.is_packed
        parts = min(len(set(contract.std)), self._n) * self._groups if raw else 0
        return self._bytes(shape, inputs[0], kinds[0], parts, self._cycles(shape, inputs[0], kinds[0], parts))

    def _cycles(self, shape: Shape, x: Shape, kind: Kind, parts: int) -> int:
        """`parts`: segments of raw pixels, by deviation and group; 0 of anything else."""
        places, groups, outputs, n = prod(shape[1:]), self._groups, self.out_channels, self._n
        per_mac = 1 / 16
        if not self.is_packed:
            per_mac = 0.5 if self.is_wide() else 0.2
        elif kind == "sign":
            per_mac = 1 / 96
        elif self.is_wide():
            per_mac = 0.4
        of_place = groups * (100 + 12 * self._taps + 2 * n) + 2 * outputs + 200 * parts + PLACE
        cycles = CALL + int(per_mac * outputs * n * places) + places * of_place + 2 * (prod(x) + prod(shape))
        classes = self._classes(shape)
        if parts:  # what the pixel 0 gives, in numpy, and each place's threshold by halves
            cycles += places * groups * n * 10 + places * outputs * n // 6 + 2000 * classes * outputs
        elif kind == "sign" and classes > 1:  # what the padding adds
            cycles += 6 * classes * self._taps * outputs
        return cycles

    def _bytes(self, shape: Shape, x: Shape, kind: Kind, parts: int, cycles: int) -> Costs:
        outputs, n, places, groups = self.out_channels, self._n, prod(shape[1:]), self._groups
        weights, signs = outputs * n, kind == "sign" and self.is_packed and self._pads_signs
        taps = self._taps_on(x, signs)
        # Of each output: bits one after the other, or whole words for each tap, or for each deviation.
        row = taps * bits.words_per_row(n // taps) if signs else bits.words_per_row(n) + parts // groups
        piece = min(weights, max(n, AT_ONCE))
        classes = self._classes(shape) if parts or signs else 1
        wide = 8 if self.is_wide() or (self.is_packed and kind != "sign") else 4
        numbers = (8 + 24 * (kind == "input")) * prod(x) + 8 * self._padded(x)
        if isinstance(self, Linear):
            numbers += (1 + wide) * piece
        else:
            numbers += (1 + wide) * weights + (8 + wide) * min(places * groups * n, AT_ONCE + groups * n)
        lowered = [0]  # one after the other
        if not self.is_packed:
            kept = 8 * weights
            lowered += [4 * weights * (taps > 1)]
        elif groups == outputs == x[0] > 1 and not parts:
            kept = 2 * weights
            lowered += [2 * weights]
        else:
            # What kernels read has whole vectors of outputs, and some words more in a row.
            words = row + row // 8 + 2 * max(1, parts // groups)
            kept = 8 * groups * -(-outputs // groups // 64) * 64 * words
            if taps > 1 or parts > 1:  # the bits in another order
                kept += 8 * outputs * row
                lowered += [5 * piece + 8 * outputs * row]
        if parts:  # what the pixel 0 gives, and thresholds
            lowered += [numbers + 16 * prod(shape), 128 * classes * outputs]
        elif classes > 1:
            lowered += [4 * piece + 8 * outputs * taps + classes * (8 * taps + 16 * outputs)]
        if signs:
            scratch = min(64, places + 3) * (8 * row + 4 * (outputs + 128))
        else:  # numbers of a few windows, one of them in float64, and tables of their sums
            scratch = min(4, places) * (32 * n + 16 * (outputs + 128))
        return Costs(
            cycles=cycles,
            kept=kept + 16 * classes * outputs + NODE + 64 * outputs + 2000 * parts,
            lowered=max(lowered) + self._tables(shape),
            scratch=scratch + 4 * prod(x) + 2**12,
            reference=numbers + 4 * wide * prod(shape),
        )

    @property
    def _n(self) -> int:
        """Weights of an output."""
        return prod(self.weight.shape[1:])

    @property
    def _taps(self) -> int:
        return prod(self.weight.shape[2:])

    def _taps_on(self, x: Shape, signs: bool) -> int:
        """Places of the window over an input."""
        return self._taps

    @property
    def _groups(self) -> int:
        return 1

    @property
    def _pads_signs(self) -> bool:
        """Whether a ±1 input, with what is around it, is of bits."""
        return True

    def _classes(self, shape: Shape) -> int:
        """How many classes its places are of, by which part of the window lies in the padding."""
        return 1

    def _tables(self, shape: Shape) -> int:
        """Bytes that it takes to tell which taps lie in the padding."""
        return 0

    def _padded(self, x: Shape) -> int:
        """Entries of the padded input."""
        return prod(x)

    @property
    def out_channels(self) -> int:
        return self.weight.shape[0]

    @property
    def is_packed(self) -> bool:
        return isinstance(self.weight, PackedWeight)

    def kind(self, *inputs: Kind) -> Kind:
        return "int" if inputs[0] == "sign" and self.is_packed and self.scale is None else "float"

    def dense(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """(weight, bias) of the float layer that computes the same: signs and scales are one weight."""
        weight = self.weight.signs() if isinstance(self.weight, PackedWeight) else self.weight
        if self.scale is None or self.shift is None:
            return weight.astype(np.float32), None
        scaled = weight * self.scale.reshape(-1, *[1] * (weight.ndim - 1))
        return scaled.astype(np.float32), self.shift.astype(np.float32)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Product):
    """Fully connected; weight (out, in)."""

    def check(self) -> None:
        ensure(len(self.weight.shape) == 2, f"weight of shape {self.weight.shape} is not (out, in)")
        super().check()

    def shape(self, *inputs: Shape) -> Shape:
        out, n = self.weight.shape
        ensure(inputs[0] == (n,), f"takes ({n},), got {inputs[0]}")
        return (out,)

    def _taps_on(self, x: Shape, signs: bool) -> int:
        # Of a flattened image all its places, unless whole words for each would be too many.
        whole = len(x) == 3 and not (signs and 4 * x[0] < 3 * 64 * bits.words_per_row(x[0]))
        return prod(x[1:]) if whole else 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Product):
    """2-D convolution (cross-correlation, as PyTorch's); weight (out, in / groups, kh, kw).

    Around the input lie `padding` rows and columns (top, bottom, left, right) of `pad_value`: 0, or ±1
    so that a ±1 input stays one.
    """

    stride: Pair = (1, 1)
    padding: Padding = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    pad_value: float = 0.0

    def check(self) -> None:
        ensure(len(self.weight.shape) == 4, f"weight of shape {self.weight.shape} is not (out, in, kh, kw)")
        super().check()
        ensure(all(v >= 1 for v in (*self.stride, *self.dilation, self.groups)), "sizes must be positive")
        ensure(all(v >= 0 for v in self.padding), f"negative padding {self.padding}")
        ensure(self.out_channels % self.groups == 0, f"{self.out_channels} channels in {self.groups} groups")
        _check_number("pad_value", self.pad_value)

    def shape(self, *inputs: Shape) -> Shape:
        channels = self.weight.shape[1] * self.groups
        ensure(len(inputs[0]) == 3 and inputs[0][0] == channels, f"takes ({channels}, h, w), got {inputs[0]}")
        window = _window(inputs[0], self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return (self.out_channels, *window)

    @property
    def _groups(self) -> int:
        return self.groups

    def _classes(self, shape: Shape) -> int:
        classes = 1
        for axis in range(2):
            before, after = self.padding[2 * axis : 2 * axis + 2]
            of_axis = -(-before // self.stride[axis]) + -(-after // self.stride[axis]) + 1
            classes *= min(of_axis, shape[1 + axis])
        return classes

    def _tables(self, shape: Shape) -> int:
        return 40 * (shape[1] * self.weight.shape[2] + shape[2] * self.weight.shape[3])

    def _padded(self, x: Shape) -> int:
        top, bottom, left, right = self.padding
        return x[0] * (x[1] + top + bottom) * (x[2] + left + right)

    def kind(self, *inputs: Kind) -> Kind:
        return super().kind(*inputs) if self._pads_signs else "float"

    @property
    def _pads_signs(self) -> bool:
        return self.pad_value in (-1, 0, 1) or not any(self.padding)


@dataclass(frozen=True, eq=False, kw_only=True)
class Affine(Node):
    """y = scale * x + shift for each channel: a batch norm that folds into no layer before it."""

    scale: Array
    shift: Array

    def check(self) -> None:
        _check_floats(self, "scale", self.scale, (self.scale.size,), ("float32", "float64"))
        _check_floats(self, "shift", self.shift, self.scale.shape, (str(self.scale.dtype),))

    def shape(self, *inputs: Shape) -> Shape:
        _check_channels(self.scale.size, inputs[0])
        return inputs[0]

    def is_wide(self, *inputs: bool) -> bool:
        return any(inputs) or bool(self.scale.dtype == np.float64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Threshold(Node):
    """Batch norm and sign of an integer as one comparison: +1 where (x >= threshold) != flip, else -1.

    threshold: int32, (channels,). flip: bool, (channels,), true where the batch norm's factor is negative.
    """

    threshold: NDArray[np.int32]
    flip: NDArray[np.bool_]

    def check(self) -> None:
        ensure(self.threshold.dtype == np.int32 and self.threshold.ndim == 1, "threshold must be int32, 1-d")
        ensure(self.flip.dtype == np.bool_ and self.flip.shape == self.threshold.shape, "flip must be bool")
        ensure(bool((self.flip.view(np.uint8) <= 1).all()), "flip holds bytes other than 0 and 1")

    def shape(self, *inputs: Shape) -> Shape:
        _check_channels(self.threshold.size, inputs[0])
        return inputs[0]

    def kind(self, *inputs: Kind) -> Kind:
        ensure(inputs[0] == "int", f"takes integers, got {inputs[0]}")
        return "sign"


@dataclass(frozen=True, eq=False, kw_only=True)
class Sign(Node):
    """+1 where x >= 0, else -1."""

    def kind(self, *inputs: Kind) -> Kind:
        return "sign"


@dataclass(frozen=True, eq=False, kw_only=True)
class ReLU(Node):
    """max(x, 0)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PReLU(Node):
    """x where x >= 0, else slope * x; slope: float32, (channels,) or (1,)."""

    slope: NDArray[np.float32]

    def check(self) -> None:
        _check_floats(self, "slope", self.slope, (self.slope.size,), ("float32",))

    def shape(self, *inputs: Shape) -> Shape:
        if self.slope.size != 1:
            _check_channels(self.slope.size, inputs[0])
        return inputs[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Hardtanh(Node):
    """min(max(x, low), high): hardtanh, ReLU6, clamp."""

    low: float = -1.0
    high: float = 1.0

    def check(self) -> None:
        _check_number("low", self.low)
        _check_number("high", self.high)
        ensure(self.low <= self.high, f"low {self.low} above high {self.high}")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pool2d(Node):
    kernel: Pair
    stride: Pair
    padding: Padding = (0, 0, 0, 0)

    def check(self) -> None:
        ensure(all(v >= 1 for v in (*self.kernel, *self.stride)), "sizes must be positive")
        ensure(all(v >= 0 for v in self.padding), f"negative padding {self.padding}")

    def shape(self, *inputs: Shape) -> Shape:
        ensure(len(inputs[0]) == 3, f"takes (c, h, w), got {inputs[0]}")
        return (inputs[0][0], *_window(inputs[0], self.kernel, self.stride, self.padding, (1, 1)))

    def costs(
        self, shape: Shape, inputs: Sequence[Shape], kinds: Sequence[Kind], contract: InputContract
    ) -> Costs:
        passes, (top, bottom, left, right) = self._passes(shape, inputs, 4), self.padding
        channels, height, width = inputs[0]
        padded = channels * (height + top + bottom) * (width + left + right)
        return replace(
            passes,
            cycles=passes.cycles + prod(shape[1:]) * prod(self.kernel) * (12 + channels),
            reference=passes.reference + 24 * padded,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(_Pool2d):
    """The largest value in each window; padding never wins, and no window lies in padding alone."""

    def check(self) -> None:
        super().check()
        (kh, kw), (top, bottom, left, right) = self.kernel, self.padding
        ensure(max(top, bottom) < kh and max(left, right) < kw, "padding as large as the window")

    def kind(self, *inputs: Kind) -> Kind:
        return "float" if inputs[0] == "input" else inputs[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(_Pool2d):
    """The mean of each window, over the window's size if `count_padding`, else over what lies inside.

    Global average pooling is the window as large as the image.
    """

    count_padding: bool = True

    def check(self) -> None:
        super().check()
        (kh, kw), (top, bottom, left, right) = self.kernel, self.padding
        ensure(max(top, bottom) < kh and max(left, right) < kw, "padding as large as the window")


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """The sum of two or more values of one shape."""

    arity = None

    def shape(self, *inputs: Shape) -> Shape:
        ensure(len(set(inputs)) == 1, f"takes one shape, got {inputs}")
        return inputs[0]

    def costs(
        self, shape: Shape, inputs: Sequence[Shape], kinds: Sequence[Kind], contract: InputContract
    ) -> Costs:
        return self._passes(shape, inputs, 12)  # each input is a pass over memory, of float64 perhaps


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Node):
    """Two or more values side by side along the channels (the first axis after the batch)."""

    arity = None

    def shape(self, *inputs: Shape) -> Shape:
        ensure(len({shape[1:] for shape in inputs}) == 1, f"shapes {inputs} differ beyond the channels")
        return (sum(shape[0] for shape in inputs), *inputs[0][1:])

    def kind(self, *inputs: Kind) -> Kind:
        return "sign" if set(inputs) == {"sign"} else "float"


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Node):
    """(c, h, w) to (c * h * w,)."""

    def shape(self, *inputs: Shape) -> Shape:
        return (prod(inputs[0]),)

    def kind(self, *inputs: Kind) -> Kind:
        return inputs[0]


@dataclass(frozen=True, eq=False, kw_only=True)
class Softmax(Node):
    """exp(x) / sum(exp(x)) over the classes."""

    def shape(self, *inputs: Shape) -> Shape:
        ensure(len(inputs[0]) == 1, f"takes (classes,), got {inputs[0]}")
        return inputs[0]

    def costs(
        self, shape: Shape, inputs: Sequence[Shape], kinds: Sequence[Kind], contract: InputContract
    ) -> Costs:
        return self._passes(shape, inputs, 16)


NODES: dict[str, type[Node]] = {
    cls.__name__: cls
    for cls in (
        Linear,
        Conv2d,
        Affine,
        Threshold,
        Sign,
        ReLU,
        PReLU,
        Hardtanh,
        MaxPool2d,
        AvgPool2d,
        Add,
        Concat,
        Flatten,
        Softmax,
    )
}
"""Every operation, by the name it has in a file."""


# --- checks -----------------------------------------------------------------------------------------------


def ensure(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def check_text(what: str, text: str) -> None:
    """A file holds UTF-8, which has no lone surrogates (as names of files that are no UTF-8 have)."""
    ensure(not re.search(r"[\ud800-\udfff]", text), f"{what} {text!r} is no UTF-8")


def check_shape(what: str, shape: Shape) -> None:
    ensure(all(size >= 1 for size in shape), f"{what} has shape {shape}")
    ensure(prod(shape) <= MAX_ELEMENTS, f"{what} of shape {shape} has more than {MAX_ELEMENTS} entries")


def _check_channels(channels: int, shape: Shape) -> None:
    ensure(shape[0] == channels, f"takes {channels} channels, got shape {shape}")


def _check_floats(node: Node, name: str, array: Array, shape: Shape, dtypes: tuple[str, ...]) -> None:
    ensure(str(array.dtype) in dtypes, f"{name} is {array.dtype}, not {' or '.join(dtypes)}")
    ensure(array.shape == shape, f"{name} has shape {array.shape}, not {shape}")
    ensure(array.size > 0, f"{name} is empty")
    ensure(bool(np.isfinite(array).all()), f"{name} holds NaN or infinity")


def _check_number(name: str, value: float) -> None:
    """A parameter of float32 arithmetic, so within its range."""
    ensure(abs(value) <= float(np.finfo(np.float32).max), f"{name} is {value}, not a finite float32")


def _window(shape: Shape, kernel: Shape, stride: Pair, padding: Padding, dilation: Pair) -> Pair:
    top, bottom, left, right = padding
    padded = (shape[0], shape[1] + top + bottom, shape[2] + left + right)
    check_shape("its padded input", padded)  # which a large stride would hide: the output can be small
    height = (padded[1] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (padded[2] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    ensure(height >= 1 and width >= 1, f"its window is larger than the padded input {padded}")
    return height, width

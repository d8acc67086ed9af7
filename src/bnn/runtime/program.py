"""What the C engine runs, as Python has it: the structs of `native/bnn.h`, for bindings and exporters."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from numpy.typing import NDArray

__all__ = ["ACTIVATIONS", "DTYPES", "OPS", "Border", "DType", "Finish", "Op", "Program", "Segment", "Value"]

Array = NDArray[Any]

# In the order of native/bnn.h: a position is a number there. tests/native/test_header.py compares them.
DType = Literal["bits", "u8", "i8", "i32", "f32", "f64"]
Activation = Literal["identity", "relu", "hardtanh", "prelu"]
DTYPES: tuple[DType, ...] = get_args(DType)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
OPS = (
    "from_planes",
    "to_planes",
    "normalize",
    "quantize",
    "map",
    "product_bits",
    "product_f32",
    "product_f64",
    "product_i8",
    "product_u8",
    "dense",
    "depthwise",
    "max_pool",
    "avg_pool",
    "add",
    "concat",
    "softmax",
)


@dataclass(frozen=True)
class Value:
    """One array for each sample, (height, width, channels)."""

    dtype: DType
    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels


@dataclass(frozen=True, eq=False)
class Finish:
    """bnn_finish: activation(scale * sum + shift), or a comparison; its fields."""

    computed: DType = "f32"
    narrow: bool = False
    scale: Array | None = None
    shift: Array | None = None
    activation: Activation = "identity"
    low: float = 0.0
    high: float = 0.0
    slope: Array | None = None
    threshold: Array | None = None
    flip: Array | None = None


@dataclass(frozen=True, eq=False)
class Border:
    """bnn_border: values by class of row, class of column and output channel, (rows, columns, channels)."""

    values: Array
    row: Array | None = None
    column: Array | None = None
    columns: int = 1


@dataclass(frozen=True, eq=False)
class Segment:
    """bnn_segment: channels of raw pixels with one deviation, and their part of the weight, [out][words].

    take: which channels. output: the first of the outputs that they are for.
    """

    take: Array
    output: int
    divisor: float
    rows: Array


@dataclass(frozen=True, eq=False)
class Op:
    """bnn_node: an operation, the values it reads and writes, and its fields.

    rows: weights of ±1, [group][out][words], each row of `n` signs in the order (tap, channel), for
    "product_bits" a whole number of words for each tap. weight: those that are not packed.
    node: the first node of the model that it computes, by name.
    """

    op: str
    inputs: tuple[int, ...]
    output: int
    node: str = ""
    second: int = 0
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    pad_value: float = 0.0
    count_padding: bool = True
    rows: Array | None = None
    n: int = 0
    weight: Array | None = None
    segments: tuple[Segment, ...] = ()
    border: Border | None = None
    mean: Array | None = None
    deviation: Array | None = None
    flip: Array | None = None
    finish: Finish = field(default_factory=Finish)


@dataclass(frozen=True, eq=False)
class Program:
    """Values, of which 0 is the input and the last operation's output the output, and operations in order."""

    values: tuple[Value, ...]
    ops: tuple[Op, ...]

"""The walk from a graph of torch.export's to nodes: values, constants, names, and errors with their place.

What each ATen operation becomes is in `bnn.packing.aten`, what a weight becomes in `bnn.packing.weights`.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, compress, count
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.export.graph_signature import OutputKind

from bnn.packed import nodes
from bnn.packed.nodes import INPUT, Node
from bnn.packing.weights import pack_weight

__all__ = ["AtLeastZero", "Operation", "Padded", "Translator", "Value"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Padded:
    """A padded value, not a node of its own: the convolution that reads it takes the padding over."""

    source: str
    padding: nodes.Padding
    value: float


@dataclass(frozen=True)
class AtLeastZero:
    """x >= 0 (or x < 0), half of a sign."""

    source: str
    negated: bool


Value = str | Tensor | Padded | AtLeastZero | tuple[Any, ...] | None
"""What a node of the exported graph stands for: the name of a value, a constant, or something on the way."""

Operation = Callable[..., Value]
"""Translates one ATen operation: called with a Translator, the operation's first argument, and by their names
all others that ATen's schema has."""


def _arguments(node: fx.Node) -> tuple[Any, dict[str, Any]]:
    """The first argument of an operation, and all others by their names, defaults filled in."""
    if node.target is operator.getitem:  # Python's own, which has no schema
        return node.args[0], {"index": node.args[1]}
    target: Any = node.target
    first, *others = target._schema.arguments
    values = {argument.name: argument.default_value for argument in others}
    given = dict(zip([first.name, *values], node.args, strict=False)) | node.kwargs
    return given.pop(first.name), values | given


class Translator:
    """Translates an exported program, operation by operation, into nodes with float64 scales."""

    def __init__(
        self, program: torch.export.ExportedProgram, model: nn.Module, operations: Mapping[str, Operation]
    ) -> None:
        self.program = program
        self.operations = operations
        self.model = model
        self.nodes: list[Node] = []
        self.names = {INPUT}
        self.values: dict[fx.Node, Value] = {}

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
                    specs = self.program.graph_signature.output_specs  # the others are changes in place
                    own = [spec.kind is OutputKind.USER_OUTPUT for spec in specs]
                    outputs = list(compress(node.args[0], own))
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

    def _call(self, node: fx.Node) -> Value:
        if not node.users or isinstance(node.meta["val"], torch.SymInt):
            return None  # an assertion of torch.export's, or the batch size
        constant = all(isinstance(self.values[n], Tensor) for n in node.all_input_nodes)
        target: Any = node.target
        if constant and torch.Tag.nondeterministic_seeded not in getattr(target, "tags", ()):
            values: Any = self.values
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
            with torch.no_grad():
                return target(*args, **kwargs)
        translate = self.operations.get(str(node.target))
        if translate is None:
            self.fail(f"{node.target}: the runtime does not know this operation")
        first, others = _arguments(node)
        return translate(self, first, **others)

    # What the functions below use.

    def fail(self, problem: str) -> NoReturn:
        raise ValueError(f"{self._where()}: {problem}")

    def _path(self) -> str:
        """The path of the module that the operation is in; "" for the model itself."""
        stack = self.node.meta.get("nn_module_stack") or {}
        return next(
            (path for path, _ in reversed(stack.values()) if path and not path.startswith("_empty")), ""
        )

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
            case Padded():
                self.fail("padding is understood only before a convolution")
            case AtLeastZero():
                self.fail("a comparison is understood only as part of a sign: use bnn.functional.sign")
            case _:
                self.fail("an operation on a constant where an activation was expected")

    def constant(self, node: Any) -> Array | None:
        """The value of a constant argument in float64, or None if it depends on the input."""
        value = self.values[node] if isinstance(node, fx.Node) else node
        if isinstance(value, int | float):
            return np.array(float(value))
        return value.double().numpy() if isinstance(value, Tensor) else None

    def fixed(self, node: Any, what: str) -> Array:
        """The same for an argument that must be constant."""
        value = self.constant(node)
        if value is None:
            self.fail(f"{what} that depends on the input")
        return value

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of an argument or result, without the batch axis."""
        return tuple(int(size) for size in node.meta["val"].shape[1:])

    def add(self, cls: type[Node], *inputs: str, **fields: Any) -> str:
        """Adds a node and returns its name: its layer's, or its operation's in a module of several."""
        path = self._path()
        is_layer = path and next(self.model.get_submodule(path).children(), None) is None
        base = path if is_layer else f"{path}.{cls.__name__.lower()}".lstrip(".")
        name = next(n for n in chain([base], (f"{base}_{i}" for i in count(1))) if n not in self.names)
        self.names.add(name)
        self.nodes.append(cls(name=name, inputs=inputs, **fields))
        return name

    def product(self, cls: type[Node], x: str, weight: Any, bias: Any, **fields: Any) -> str:
        """Adds a Linear or Conv2d node."""
        values = self.fixed(weight, "a weight")
        packed, scale = pack_weight(values, self._where())
        shift = None if bias is None else self.fixed(bias, "a bias")
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

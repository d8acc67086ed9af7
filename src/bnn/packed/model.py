"""PackedModel, the hub: training ends in one, and the runtime and every exporter start from one."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnn.packed import serialization
from bnn.packed.limits import MAX_MEMORY
from bnn.packed.nodes import INPUT, InputContract, Kind, Node, Shape, check_shape, check_text, ensure
from bnn.packed.serialization import FormatError

__all__ = ["MODEL_FILE", "PackedModel", "model_file"]

MODEL_FILE = "model.bnn"
"""The model's name in a folder: a run's, or an exported one."""


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A frozen network as a graph of numpy arrays, its ±1 weights one bit each.

    Everything is checked when a model is made, so whoever holds one need not check again.

    Attributes:
        input: what the model takes.
        nodes: in topological order; the last one is the output.
        about: strings on where the model comes from ("weights": "sign", "data": "mnist", ...).
        called: what errors call it: the file that it was read from.
        shapes, kinds: of every value, by name; computed.

    Raises:
        ValueError: the graph is not sound; the message names the node.
    """

    input: InputContract
    nodes: tuple[Node, ...]
    about: Mapping[str, str] = field(default_factory=dict)
    called: str = "this model"
    shapes: Mapping[str, Shape] = field(init=False)
    kinds: Mapping[str, Kind] = field(init=False)

    def __post_init__(self) -> None:
        ensure(len(self.nodes) > 0, "a model needs at least one node")
        strings = all(isinstance(text, str) for entry in self.about.items() for text in entry)
        ensure(strings, f"about must map strings to strings, not {dict(self.about)}")
        for text in (text for entry in self.about.items() for text in entry):
            check_text("about:", text)
        shapes: dict[str, Shape] = {INPUT: self.input.shape}
        kinds: dict[str, Kind] = {INPUT: "input"}
        for node in self.nodes:
            try:
                ensure(node.name != "", "it has no name")
                check_text("the name", node.name)
                ensure(node.name not in shapes, "the name is taken")
                missing = [name for name in node.inputs if name not in shapes]
                ensure(not missing, f"no earlier node is named {missing[:1]}")
                fits = len(node.inputs) >= 2 if node.arity is None else len(node.inputs) == node.arity
                ensure(fits, f"has {len(node.inputs)} inputs")
                node.check()
                shapes[node.name] = node.shape(*(shapes[name] for name in node.inputs))
                kinds[node.name] = node.kind(*(kinds[name] for name in node.inputs))
                check_shape("its output", shapes[node.name])
            except ValueError as error:
                raise ValueError(f"node {node.name!r} ({type(node).__name__}): {error}") from error
        labels, out = self.input.labels, shapes[self.nodes[-1].name]
        ensure(not labels or (len(labels),) == out, f"{len(labels)} labels for an output of shape {out}")
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "kinds", kinds)

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: the file without its header."""
        return sum(node.nbytes for node in self.nodes)

    def save(self, path: str | Path) -> None:
        """Writes a .bnn file, whole or not at all. The same model gives the same bytes.

        Raises:
            UserError: it has more nodes or names than a file has room for.
            OSError: the file cannot be written.
        """
        serialization.save(path, self.input, self.nodes, self.about)

    def to_bytes(self) -> bytes:
        """What `save` writes."""
        return serialization.to_bytes(self.input, self.nodes, self.about)

    @classmethod
    def load(cls, path: str | Path, max_memory: int | None = MAX_MEMORY) -> "PackedModel":
        """Reads a .bnn file, which may come from anywhere: everything is checked before use.

        Args:
            path: the file; or a folder with a `model.bnn`, such as a run's, or an exported one.
            max_memory: bytes that its arrays may have; None: any number.

        Raises:
            FormatError: it is no sound .bnn file.
            UserError: its arrays have more bytes.
            OSError: it cannot be read.
        """
        path = model_file(path)
        contract, nodes, about = serialization.load(path, max_memory)
        try:
            return cls(contract, nodes, about, str(path))
        except ValueError as error:
            raise FormatError.of(path, error) from error


def model_file(path: str | Path) -> Path:
    """The .bnn file that a path means: itself, or that in a folder.

    Raises:
        IsADirectoryError: it is a folder without one.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if not (path / MODEL_FILE).is_file():
        problem = f"a folder without {MODEL_FILE}; if it is a run's, is its training finished?"
        raise IsADirectoryError(errno.EISDIR, problem, str(path))
    return path / MODEL_FILE

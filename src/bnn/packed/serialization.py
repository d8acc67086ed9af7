"""The .bnn file: a safetensors file whose metadata has one key, `bnn`, with the graph as canonical JSON.

    {"about": {...}, "format": 1, "input": {"labels": [...], "mean": [...], "shape": [...], "std": [...]},
     "nodes": [{"op": "Linear", "name": "fc1", "inputs": ["input"],
                "weight": {"bits": "fc1.weight", "shape": [1024, 784]},
                "scale": {"tensor": "fc1.scale"}, "shift": {"tensor": "fc1.shift"}}, ...]}

Keys are sorted and there is no white space, so the same model gives the same bytes. There is one metadata
key because the safetensors library writes several in random order.

A file may come from anywhere. Reading one checks the container (twice: here for what the library lets
pass, such as a key given two times, then by the library), the JSON against the fields of each node, and
that every tensor is used exactly once; `PackedModel` then checks the graph.
"""

import json
import os
import stat
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Union, get_args, get_origin, get_type_hints

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from bnn.errors import UserError
from bnn.files import write_atomically
from bnn.packed.limits import MAX_MEMORY, check_memory
from bnn.packed.nodes import NODES, InputContract, Node, PackedWeight

__all__ = ["FORMAT", "FormatError", "load", "save", "to_bytes"]

FORMAT = 1
"""Version of the format. A reader refuses any other."""

MOST_HEADER = 2**24
"""Bytes of a header; parsed, they take some twenty times as many."""

MOST_NODES = 2**14
PIECE = 2**24  # bytes that are read at a time, so that what only claims to be large takes little memory

_hints = cache(get_type_hints)
Tensors = dict[str, NDArray[Any]]
Contents = tuple[InputContract, tuple[Node, ...], dict[str, str]]


class FormatError(UserError):
    """A file is not a sound .bnn file. The message is one line: the file and what is wrong with it."""

    @classmethod
    def of(cls, path: str | Path, problem: object) -> "FormatError":
        """The error for what was noticed, whose message may quote the file at length."""
        return cls(f"{path}: {' '.join(str(problem).split())[:300]}")


def save(
    path: str | Path, contract: InputContract, nodes: tuple[Node, ...], about: Mapping[str, str]
) -> None:
    """Writes a .bnn file, whole or not at all.

    Raises:
        UserError: it would be one that `load` refuses.
        OSError: it cannot be written.
    """
    write_atomically(path, to_bytes(contract, nodes, about), stream=True)


def to_bytes(contract: InputContract, nodes: tuple[Node, ...], about: Mapping[str, str]) -> bytes:
    """What `save` writes."""
    tensors: Tensors = {}
    graph = {
        "format": FORMAT,
        "input": _encode_fields(contract, "input", tensors),
        "nodes": [{"op": type(node).__name__} | _encode_fields(node, node.name, tensors) for node in nodes],
        "about": dict(about),
    }
    text = json.dumps(graph, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    content = safetensors.numpy.save(tensors, metadata={"bnn": text})
    length = int.from_bytes(content[:8], "little")
    if len(nodes) > MOST_NODES or length > MOST_HEADER:
        raise UserError(
            f"{len(nodes)} nodes, and {length} bytes to tell of them: a .bnn file has room for {MOST_NODES} "
            f"and {MOST_HEADER}"
        )
    return content


def load(path: str | Path, max_memory: int | None = MAX_MEMORY) -> Contents:
    """Reads a .bnn file, and of it no more than its header says: it may be a pipe, or have no end.

    Raises:
        FormatError: it is truncated, altered, of another version, or no .bnn file at all.
        UserError: its arrays have more than `max_memory` bytes.
        OSError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            graph, content = _read(file, path, max_memory)
        return _decode_graph(graph, safetensors.numpy.load(content))
    except FormatError as error:
        raise FormatError.of(path, error) from error
    except UserError:
        raise  # too large, which the user may allow
    except (safetensors.SafetensorError, ValueError, KeyError, OverflowError, RecursionError) as error:
        raise FormatError.of(path, f"not a sound .bnn file ({error})") from error


# --- the container ----------------------------------------------------------------------------------------


def _read(file: BinaryIO, path: str | Path, max_memory: int | None) -> tuple[dict[str, Any], bytes]:
    """The graph, and all bytes of the file."""
    first = file.read(8)
    if len(first) < 8:
        raise FormatError(f"not a .bnn file: only {len(first)} bytes")
    length = int.from_bytes(first, "little")
    if length > MOST_HEADER:
        raise FormatError(f"no .bnn file: a header of {length} bytes, more than {MOST_HEADER}")
    header = file.read(length)
    if len(header) < length:
        raise FormatError(
            f"truncated, or no .bnn file: a header of {length} bytes in a file of {8 + len(header)}"
        )
    entries = _parse(header.decode(), "header")
    graph = _graph_of(entries)
    size = _data_bytes(entries)
    end = 8 + length + size
    about = os.fstat(file.fileno())
    if stat.S_ISREG(about.st_mode) and about.st_size != end:
        raise FormatError(f"{about.st_size} bytes, where its header tells of {end}: truncated, or altered")
    check_memory(str(path), "its arrays take", size, max_memory)
    pieces, left = [first, header], size
    while left > 0:
        pieces.append(file.read(min(PIECE, left)))
        if not pieces[-1]:
            raise FormatError(f"truncated: {end - left} bytes of {end}")
        left -= len(pieces[-1])
    if file.read(1):
        raise FormatError(f"more follows its {end} bytes")
    return graph, b"".join(pieces)


def _data_bytes(header: dict[str, Any]) -> int:
    """Where the last array ends. All else about offsets, the library checks."""
    end = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or type(offsets[1]) is not int:
            raise FormatError(f"array {name!r:.60} does not say where it lies")
        end = max(end, offsets[1])
    return end


def _graph_of(header: dict[str, Any]) -> dict[str, Any]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or set(metadata) != {"bnn"} or not isinstance(metadata["bnn"], str):
        raise FormatError("a safetensors file, but not a .bnn file: its metadata is not the one key 'bnn'")
    graph = _parse(metadata["bnn"], "graph")
    version = graph.get("format")
    if type(version) is not int or version != FORMAT:  # True == 1 as well
        raise FormatError(f"format version {version!r:.40}; this release reads version {FORMAT}")
    return graph


def _parse(text: str, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("a key stands in it twice")
        return result

    try:
        parsed = json.loads(text, object_pairs_hook=unique)
        # NaN, 1e999 and half a surrogate pair, which `json` reads, could not be written again.
        json.dumps(parsed, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:
        raise FormatError(f"the {what} is not sound JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise FormatError(f"the {what} is not a JSON object")
    return parsed


# --- the graph --------------------------------------------------------------------------------------------


def _encode_fields(item: Any, prefix: str, tensors: Tensors) -> dict[str, Any]:
    return {f.name: _encode(getattr(item, f.name), f"{prefix}.{f.name}", tensors) for f in fields(item)}


def _encode(value: Any, name: str, tensors: Tensors) -> Any:
    match value:
        case PackedWeight():
            tensors[name] = np.ascontiguousarray(value.words)
            return {"bits": name, "shape": list(value.shape)}
        case np.ndarray():
            tensors[name] = np.ascontiguousarray(value)
            return {"tensor": name}
        case tuple():
            return list(value)
        case _:
            return value


def _decode_graph(graph: dict[str, Any], tensors: Tensors) -> Contents:
    if set(graph) != {"format", "input", "nodes", "about"}:
        raise FormatError(f"the graph's keys are {sorted(graph)}")
    unused = dict(tensors)
    about = graph["about"]
    if not isinstance(about, dict):
        raise FormatError("'about' is not an object")
    contract = _decode_fields(InputContract, graph["input"], "input", unused)
    if not isinstance(graph["nodes"], list):
        raise FormatError("'nodes' is not a list")
    if len(graph["nodes"]) > MOST_NODES:
        raise FormatError(f"{len(graph['nodes'])} nodes, more than {MOST_NODES}")
    nodes = []
    for index, entry in enumerate(graph["nodes"]):
        if not isinstance(entry, dict) or not isinstance(entry.get("op"), str) or entry["op"] not in NODES:
            raise FormatError(f"node {index} has no operation that this release knows")
        arguments = {key: value for key, value in entry.items() if key != "op"}
        nodes.append(_decode_fields(NODES[entry["op"]], arguments, f"node {index}", unused))
    if unused:
        raise FormatError(f"tensor {min(unused)!r} belongs to no node")
    return contract, tuple(nodes), about


def _decode_fields(cls: type[Any], entry: Any, where: str, tensors: Tensors) -> Any:
    if not isinstance(entry, dict):
        raise FormatError(f"{where} is not an object")
    hints = _hints(cls)  # type: ignore[arg-type]
    unknown = sorted(set(entry) - {f.name for f in fields(cls)})
    missing = [f.name for f in fields(cls) if f.name not in entry and f.default is MISSING]
    if unknown or missing:
        problem = f"has an unknown field {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}"
        raise FormatError(f"{where} {problem}")
    try:
        return cls(**{key: _decode(value, hints[key], tensors) for key, value in entry.items()})
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error


def _decode(value: Any, hint: Any, tensors: Tensors) -> Any:
    """`value`, from JSON, as the type that a node's field is annotated with."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if PackedWeight in arguments and isinstance(value, dict) and "bits" in value:
            return _decode(value, PackedWeight, tensors)
        rest = [a for a in arguments if a not in (type(None), PackedWeight)]
        return _decode(value, rest[0], tensors)
    if hint is PackedWeight:
        if not isinstance(value, dict) or set(value) != {"bits", "shape"}:
            raise FormatError("a packed weight is not {bits, shape}")
        return PackedWeight(_take(value["bits"], tensors), _decode(value["shape"], tuple[int, ...], tensors))
    if origin is tuple:
        if not isinstance(value, list):
            raise FormatError(f"{value!r:.40} is not a list")
        if arguments[-1] is Ellipsis:
            arguments = (arguments[0],) * len(value)
        if len(value) != len(arguments):
            raise FormatError(f"a list of {len(value)} where {len(arguments)} are due")
        return tuple(_decode(v, a, tensors) for v, a in zip(value, arguments, strict=True))
    if hint in _SCALARS:
        value = float(value) if hint is float and type(value) is int else value
        if type(value) is not hint:
            raise FormatError(f"{value!r:.40} is not a {hint.__name__}")
        return value
    # All else is an array, and its node checks its dtype. How the annotation spells that is not looked at:
    # `NDArray` is a generic alias in some versions of NumPy and Python, and a TypeAliasType in others.
    if not isinstance(value, dict) or set(value) != {"tensor"}:
        raise FormatError("an array is not {tensor}")
    return _take(value["tensor"], tensors)


_SCALARS = (bool, int, float, str)


def _take(name: Any, tensors: Tensors) -> NDArray[Any]:
    if not isinstance(name, str) or name not in tensors:
        raise FormatError(f"there is no tensor {name!r:.60}, or it is used twice")
    return tensors.pop(name)

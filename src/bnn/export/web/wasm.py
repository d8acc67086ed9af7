"""The exported C as WebAssembly: clang and wasm-ld, called twice, and what both results share taken out once.

A linked module is a sequence of sections (https://webassembly.github.io/spec/core/binary/modules.html). The
last one, data, says which bytes lie where in memory when the module starts: here nearly all of it is packed
weights, the same in both builds.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np

from bnn.export.target import ExportError

__all__ = ["Builds", "compile_builds", "find_tools", "without_data"]

SIMD, SCALAR = "simd", "scalar"

# What the first WebAssembly had, for the scalar build; and what every browser with SIMD has.
FEATURES = {
    SIMD: ("-mcpu=mvp", "-msimd128", "-msign-ext", "-mnontrapping-fptoint"),
    SCALAR: ("-mcpu=mvp",),
}
CFLAGS = (
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # a product and a sum round as the reference's do
    "-fno-ident",
    "-nostdlib",
    "-nostdlibinc",  # this machine's headers are not WebAssembly's
    "-DBNN_FREESTANDING",
)
LDFLAGS = (
    "--no-entry",
    "--strip-all",
    "--stack-first",  # so that an overflow traps, and writes over no weights
    "-zstack-size=65536",
)

HOW_TO_INSTALL = (
    "on Debian and Ubuntu `apt install clang lld`; on macOS `brew install llvm lld`, and both formulae's bin "
    "folders first in PATH, as Apple's clang has no WebAssembly"
)

DATA_COUNT, DATA = 12, 11  # ids of sections
ACTIVE, I32_CONST, END = (
    0x00,
    0x41,
    0x0B,
)  # a segment that is put in place at the start; opcodes of its address

SHORTEST_SHARED = 256  # bytes: less is not worth a span


@dataclass(frozen=True)
class Builds:
    """The engine and the model.

    Attributes:
        modules: WebAssembly by name, "simd" and "scalar".
        spans, constants: what both need in their memory before they run: (address, length) of its parts, and
            these, one after the other.
    """

    modules: Mapping[str, bytes]
    spans: tuple[tuple[int, int], ...]
    constants: bytes


@dataclass(frozen=True)
class Tools:
    """Paths of programs."""

    clang: str
    wasm_ld: str


def find_tools() -> Tools:
    """clang and wasm-ld.

    Raises:
        ExportError: they are not installed; it says how they are.
    """
    found = {name: shutil.which(name) for name in ("clang", "wasm-ld")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise ExportError(
            f"the web page is compiled by clang and wasm-ld, and {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 else 'is'} not installed: {HOW_TO_INSTALL}"
        )
    return Tools(str(found["clang"]), str(found["wasm-ld"]))


def compile_builds(tools: Tools, sources: Mapping[str, bytes]) -> Builds:
    """Both builds of an exported C folder.

    Args:
        tools: from `find_tools`.
        sources: the content of .c and .h files, by path.

    Raises:
        ExportError: clang knows no WebAssembly, or cannot compile them.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (*sources.items(), *_own_sources()):
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        simd, scalar = (without_data(_compile(tools, Path(folder), build)) for build in (SIMD, SCALAR))
    return _share(simd, scalar)


def _own_sources() -> Iterator[tuple[str, bytes]]:
    """What the C export leaves to others: a C library, and the functions that a page calls."""
    folder = files("bnn.export.web").joinpath("engine")
    for name in ("simd128.c", "libc.c", "network.c"):
        yield name, folder.joinpath(name).read_bytes()


def _compile(tools: Tools, folder: Path, build: str) -> bytes:
    # The model comes first, so that its constants have the same addresses in both builds.
    names = sorted(str(path.relative_to(folder).as_posix()) for path in folder.rglob("*.c"))
    kernels = {SIMD: "bnn/portable.c", SCALAR: "simd128.c"}[build]  # of the other build
    names = ["model.c", *(name for name in names if name not in ("model.c", kernels))]
    objects = [f"{build}-{k}.o" for k in range(len(names))]
    target = ["--target=wasm32", *FEATURES[build], *CFLAGS]
    for name, result in zip(names, objects, strict=True):
        _run([tools.clang, *target, "-c", name, "-o", result], folder)
    _run([tools.wasm_ld, *LDFLAGS, *objects, "-o", f"{build}.wasm"], folder)
    return (folder / f"{build}.wasm").read_bytes()


def _run(command: list[str], folder: Path) -> None:
    # Relative names only, so that no path of this machine can get into the result.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    if done.returncode == 0:
        return
    if "unable to create target" in done.stderr or "unknown target triple" in done.stderr:
        raise ExportError(f"{command[0]} cannot make WebAssembly: {HOW_TO_INSTALL}")
    errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    raise ExportError(f"{command[0]} ended with status {done.returncode}: {' '.join(errors[:1])}")


# --- the data section -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linked:
    """A module in two parts: all but its data, and those, which start at an address."""

    code: bytes
    address: int
    data: bytes


def without_data(module: bytes) -> Linked:
    """Takes a module apart."""
    code, address, data = bytearray(module[:8]), 0, bytearray()  # the first 8: magic number and version
    for section, start, content, stop in _sections(module):
        if section == DATA:
            for at, segment in _segments(module, content):
                address = address if data else at
                data.extend(bytes(at - address - len(data)))  # zeros, as memory has between segments
                data += segment
        elif section != DATA_COUNT:  # which must agree with the section that is not there any more
            code += module[start:stop]
    return Linked(bytes(code), address, bytes(data))


def _share(simd: Linked, scalar: Linked) -> Builds:
    """What the builds have in common, once; each keeps the rest, mostly its functions' numbers."""
    assert simd.address == scalar.address, "the stack's size decides it"
    spans = _equal_spans(simd.data, scalar.data)
    return Builds(
        {SIMD: _with_rest(simd, spans), SCALAR: _with_rest(scalar, spans)},
        tuple((simd.address + start, stop - start) for start, stop in spans),
        b"".join(simd.data[start:stop] for start, stop in spans),
    )


def _equal_spans(a: bytes, b: bytes) -> list[tuple[int, int]]:
    """From where to where both are equal, if that is long."""
    size = min(len(a), len(b))
    differ = np.flatnonzero(np.frombuffer(a, np.uint8, size) != np.frombuffer(b, np.uint8, size)).tolist()
    spans = pairwise([-1, *differ, size])
    return [(before + 1, after) for before, after in spans if after - before - 1 >= SHORTEST_SHARED]


def _with_rest(linked: Linked, spans: Sequence[tuple[int, int]]) -> bytes:
    """The module again, with its data outside of the spans."""
    gaps = pairwise([0, *(edge for span in spans for edge in span), len(linked.data)])
    rest = [(start, linked.data[start:stop]) for start, stop in list(gaps)[::2] if stop > start]
    content = _unsigned(len(rest))
    for start, data in rest:
        place = bytes([ACTIVE, I32_CONST]) + _signed(linked.address + start) + bytes([END])
        content += place + _unsigned(len(data)) + data
    return linked.code + bytes([DATA]) + _unsigned(len(content)) + content


def _sections(module: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each section: id, where it starts, where its content does, where it ends."""
    at = 8
    while at < len(module):
        size, content = _read_unsigned(module, at + 1)
        yield module[at], at, content, content + size
        at = content + size


def _segments(module: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Each data segment: its address and bytes. wasm-ld writes no other kind than these."""
    count, at = _read_unsigned(module, at)
    for _ in range(count):
        assert module[at : at + 2] == bytes([ACTIVE, I32_CONST])
        address, at = _read_unsigned(module, at + 2)
        assert module[at] == END
        size, at = _read_unsigned(module, at + 1)
        yield address, module[at : at + size]
        at += size


def _read_unsigned(module: bytes, at: int) -> tuple[int, int]:
    """A number in LEB128, seven bits a byte, lowest first; and where the next one is."""
    value = shift = 0
    while True:
        byte = module[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _unsigned(value: int) -> bytes:
    """A number in LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _signed(value: int) -> bytes:
    """The same of the kind that has a sign, which is the highest of the seven bits at the end."""
    out = _unsigned(value)
    return out if out[-1] < 0x40 else bytes([*out[:-1], out[-1] | 0x80, 0])

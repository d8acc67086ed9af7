"""C as text: identifiers, literals, arrays."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.errors import LINE, printable

__all__ = ["Names", "array", "comment", "lines_of", "literal", "string"]

WIDTH = 100
NAME = 60  # characters of a node's name in an identifier
TYPES = {
    "int8": "int8_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint64": "uint64_t",
    "float32": "float",
    "float64": "double",
}


class Names:
    """Identifiers, each given out once: `weight_conv1` for ("weight", "conv1")."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.given: dict[str, int] = {}  # how many of a base: thousands of nodes may be named alike

    def of(self, what: str, node: str) -> str:
        """`what` must be an identifier; whatever of the node's name C does not allow becomes _."""
        short = re.sub(r"[^0-9A-Za-z]+", "_", node).strip("_")[:NAME]
        name = base = f"{what}_{short}".rstrip("_")
        k = self.given.get(base, 1)
        while name in self.taken:
            k += 1
            name = f"{base}_{k}"
        self.given[base] = k
        self.taken.add(name)
        return name


def literal(value: Any) -> str:
    """A number of a numpy type, exactly: floats by the shortest decimals that are read back as they were."""
    if isinstance(value, np.floating):
        text = np.format_float_scientific(value, trim="0")
        assert np.isfinite(value), "C has no literal for it"
        return f"{text}f" if value.dtype == np.float32 else text
    if isinstance(value, np.uint64):
        return f"0x{int(value):016x}u"
    number = int(value)
    if isinstance(value, np.int64) and abs(number) >= 2**31:
        return f"INT64_C({number})"
    return "INT32_MIN" if number == -(2**31) else str(number)


def lines_of(items: Iterable[str], indent: str = "    ") -> str:
    """Items, a comma behind each, in lines of at most WIDTH."""
    lines, line = list[str](), indent
    for item in items:
        if len(line) + len(item) + 2 > WIDTH and line != indent:
            lines.append(line.rstrip())
            line = indent
        line += f"{item}, "
    return "\n".join([*lines, line.rstrip()])


def array(name: str, values: NDArray[Any], size: str = "") -> str:
    """The definition of a constant array, `size` as it is to be read: 256 * 13."""
    start = f"static const {TYPES[str(values.dtype)]} {name}[{size or values.size}] = {{"
    items = [literal(value) for value in values.ravel()[:WIDTH]]
    line = f"{start}{', '.join(items)}}};"
    if values.size == len(items) and len(line) <= WIDTH:
        return f"{line}\n"
    return f"{start}\n{lines_of(literal(value) for value in values.ravel())}\n}};\n"


def comment(text: str) -> str:
    """What may stand in a comment: printable ASCII on one line that ends no comment and has no trigraph."""
    line = printable(text, LINE).encode("ascii", "backslashreplace").decode().replace("\\", "/")
    return re.sub(r"\?(?=\?)", "? ", line).replace("*/", "* /").replace("/*", "/ *")


def string(text: str) -> str:
    """A string literal of UTF-8; other bytes than plain ASCII in octal, which ends after three digits."""
    plain = {*range(32, 127)} - {*b'"\\?'}
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in text.encode()) + '"'

"""The import graph of the package: rooms, floors, circles.

    python tests/support/structure.py    # prints it

A room is a module of `src/bnn`, or a folder of it. A room stands one floor above the highest that it imports.
A circle is a set of rooms, or of single modules, that import each other. Imports inside functions count.
"""

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "bnn"
Graph = dict[str, set[str]]


def module_files() -> dict[str, Path]:
    """The file of each module, by its dotted name below `bnn`; "" is `bnn` itself."""
    return {
        ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
        for path in sorted(SOURCE.rglob("*.py*"))
        if path.suffix in (".py", ".pyi")
    }


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, anywhere in it; `from bnn import x` gives bnn.x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> Graph:
    """Which modules of `bnn` each of them imports."""
    files = module_files()

    def module(name: str) -> str:
        """The module that an imported name is, or lies in."""
        parts = name.split(".")[1:]
        return next(found for n in range(len(parts), -1, -1) if (found := ".".join(parts[:n])) in files)

    own = {
        name: {module(n) for n in imported(path) if n.split(".")[0] == "bnn"} for name, path in files.items()
    }
    return {name: names - {name} for name, names in own.items()}


def room(module: str) -> str:
    return module.partition(".")[0] or "__init__"


def rooms() -> Graph:
    """Which rooms each room imports."""
    graph: Graph = {}
    for name, names in modules().items():
        graph.setdefault(room(name), set()).update({room(n) for n in names} - {room(name)})
    return graph


def circles(graph: Mapping[str, Iterable[str]]) -> list[set[str]]:
    """The sets of nodes that reach each other."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            new = set(graph[todo.pop()]) - found
            found |= new
            todo += new
        return found

    reach = {node: reached(node) for node in graph}
    each = {frozenset(n for n in reach[node] if node in reach[n]) for node in graph if node in reach[node]}
    return [set(circle) for circle in each]


def floors(graph: Graph) -> list[set[str]]:
    """The rooms of each floor, from the ground up; only for a graph without circles."""
    left, done, result = dict(graph), set[str](), list[set[str]]()
    while left:
        floor = {node for node, below in left.items() if below <= done}
        assert floor, f"a circle in {sorted(left)}"
        result.append(floor)
        done |= floor
        left = {node: below for node, below in left.items() if node not in floor}
    return result


if __name__ == "__main__":
    graph = rooms()
    found = circles(graph) + circles(modules())
    arrows = sum(map(len, graph.values()))
    for circle in found:
        print(f"circle: {', '.join(sorted(circle))}")
    if not circles(graph):
        levels = floors(graph)
        for height, floor in reversed(list(enumerate(levels, 1))):
            print(f"{height:3d}  {', '.join(sorted(floor))}")
        print(f"{len(graph)} rooms, {len(levels)} floors, {arrows} arrows, {len(found)} circles")

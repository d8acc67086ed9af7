"""The package's build: imports run one way, running a packed model needs no torch, functions are short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import one_of_each
from support.structure import SOURCE, circles, floors, imported, module_files, modules, room, rooms

import bnn

# First to last: a module or folder of modules imports only from those above it.
NUMPY_SIDE = [
    "errors",
    "files",
    "tables",
    "pictures",
    "packed",
    "bits",
    "runtime",
    "config",
    "export",
    "data",
    "from_scratch",
    "bench",
]
TORCH_SIDE = [
    "functional",
    "quantizers",
    "optim",
    "parametrization",
    "binarization",
    "models",
    "packing",
    "freezing",
    "counting",
    "training",
    "studies",
]
NUMPY_TOO = ["packing.folding", "packing.weights"]  # though their package imports torch
FACE = ["summarize", "__init__", "cli", "binary_connect_fc_example"]
ORDER = [*NUMPY_SIDE, *TORCH_SIDE, *FACE]


def test_every_module_has_its_place() -> None:
    """The order above names every module, so a new one has to find its place in it."""
    assert set(rooms()) == set(ORDER), "put the new module into the order of tests/test_structure.py"
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_one_way(module: str) -> None:
    """A module imports only from those above it."""
    above = set(ORDER[: ORDER.index(module)])
    assert rooms()[module] <= above, f"imports from below: {sorted(rooms()[module] - above)}"


def test_there_are_no_circles() -> None:
    """Neither folders nor single modules import each other in a circle; rooms and floors stay few."""
    assert circles(rooms()) == []
    assert circles(modules()) == []
    assert len(rooms()) <= 28
    assert len(floors(rooms())) <= 11


def test_circles_and_floors_are_found() -> None:
    """On a graph that has them."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}, "e": set[str]()}
    assert sorted(map(sorted, circles(graph))) == [["b", "c"], ["d"]]
    assert floors({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [{"c"}, {"b"}, {"a"}]


@pytest.mark.parametrize(
    "name", [name for name in module_files() if room(name) in NUMPY_SIDE or name in NUMPY_TOO]
)
def test_the_numpy_side_does_not_import_torch(name: str) -> None:
    """No module on the deployment side imports torch, not even inside a function."""
    assert "torch" not in {found.split(".")[0] for found in imported(module_files()[name])}


def test_the_face_has_each_name_from_one_place() -> None:
    """What type checkers see of `bnn` is what is there when it runs, from the same modules."""
    seen = {
        alias.asname: node.module
        for node in ast.walk(ast.parse((SOURCE / "__init__.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == bnn._HOME


def test_a_model_runs_without_torch(tmp_path: Path) -> None:
    """With torch impossible to import, a .bnn file loads, predicts, and is saved again."""
    one_of_each().save(tmp_path / "m.bnn")
    program = """
import sys
sys.modules["torch"] = None  # from here on `import torch` fails
import numpy as np
from bnn import runtime
net = runtime.load(sys.argv[1])
print(net.predict(np.zeros((2, *net.model.input.shape), dtype=np.uint8)).tolist())
net.model.save(sys.argv[1])
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "m.bnn")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert len(eval(result.stdout)) == 2


@pytest.mark.parametrize("other", ["bnn-0.1.2.dist-info", "bnn_lab-1.0.0.dist-info"])
def test_a_namesake_beside_it_is_named(tmp_path: Path, other: str) -> None:
    """`import bnn` says in one line that another distribution of that name lies in the same folder."""
    (tmp_path / "bnn").symlink_to(SOURCE, target_is_directory=True)

    def imports() -> str:
        program = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import bnn; print(bnn.__version__)"
        # -S: without the finder of an editable installation, which would be asked first
        done = subprocess.run(
            [sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=300
        )
        assert done.stdout == f"{bnn.__version__}\n", done.stderr
        return done.stderr

    assert imports() == ""
    (tmp_path / other).mkdir()
    line, *source = imports().splitlines()
    assert f"RuntimeWarning: {other} in {tmp_path} has a package `bnn` too" in line
    assert len(source) <= 1


def functions() -> list[tuple[str, ast.FunctionDef]]:
    """Every function of the package, with where it is."""
    return [
        (f"{name or '__init__'}.{node.name}", node)
        for name, path in module_files().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    ]


def test_functions_are_short_and_take_few_arguments() -> None:
    """No function is longer than 60 lines or takes more than six arguments by position."""
    long = [where for where, node in functions() if (node.end_lineno or 0) - node.lineno + 1 > 60]
    wide = [
        where
        for where, node in functions()
        if sum(arg.arg not in ("self", "cls") for arg in [*node.args.posonlyargs, *node.args.args]) > 6
    ]
    assert (long, wide) == ([], [])
    assert len(functions()) > 500


def test_docstrings_name_their_subject() -> None:
    """None opens with a bare "Of": of what, a reader would have to guess."""
    texts = [
        ast.get_docstring(node) or ""
        for path in module_files().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    ]
    assert [text for text in texts if text.startswith("Of ")] == []
    assert sum(map(bool, texts)) > 500

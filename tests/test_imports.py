"""Imports run one way, and running a packed model needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import one_of_each

import bnn

SOURCE = Path(bnn.__file__).parent

# First to last: a module imports only from those above it. `runtime`, `data` and the like are packages,
# whose modules may import each other in their own order.
NUMPY_SIDE = [
    "errors",
    "files",
    "tables",
    "packed",
    "bits",
    "runtime",
    "export",
    "config",
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
FACE = ["summarize", "__init__", "cli", "binary_connect_fc_example"]
ORDER = [*NUMPY_SIDE, *TORCH_SIDE, *FACE]


def modules() -> dict[str, list[Path]]:
    """The files of each module or package of `bnn`, by its first name."""
    found: dict[str, list[Path]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        found.setdefault(path.relative_to(SOURCE).parts[0].removesuffix(".py"), []).append(path)
    return found


def imports(path: Path) -> set[str]:
    """Dotted names of what a file imports, anywhere in it; `from bnn import x` counts as bnn.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own(path: Path) -> set[str]:
    """The modules of `bnn` that a file imports, by their first names; any other name is from `__init__`."""
    names = {name.split(".")[1] for name in imports(path) if name.startswith("bnn.")}
    return {name if name in modules() else "__init__" for name in names}


def test_every_module_has_its_place() -> None:
    """The order above names every module, so a new one has to find its place in it."""
    assert set(modules()) <= set(ORDER), "put the new module into the order of tests/test_imports.py"
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("module", [name for name in ORDER if name in modules()])
def test_imports_run_one_way(module: str) -> None:
    """A module imports only from those above it: there are no circles."""
    above = {*ORDER[: ORDER.index(module)], module}
    for path in modules()[module]:
        assert own(path) <= above, f"{path.name} imports from below: {sorted(own(path) - above)}"


@pytest.mark.parametrize("module", [name for name in NUMPY_SIDE if name in modules()])
def test_the_numpy_side_does_not_import_torch(module: str) -> None:
    """No module on the deployment side imports torch, not even inside a function."""
    for path in modules()[module]:
        assert "torch" not in {name.split(".")[0] for name in imports(path)}, path.name


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
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert len(eval(result.stdout)) == 2

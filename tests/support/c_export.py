"""An exported network, compiled and run: what tests of the C export share."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.paths import TESTS

from bnn.export import export
from bnn.packed.model import PackedModel

Array = NDArray[Any]

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion")
AS_CPP = ("-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Wconversion")
PREDICT = TESTS / "native" / "export" / "predict.c"
TYPES = {"float": np.float32, "int32_t": np.int32, "int64_t": np.int64}


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}")


def compile_export(folder: Path, main: Path, program: Path, compiler: str = "gcc", *flags: str) -> Path:
    """All sources of an export with a `main` of one's own; the program. A warning is an error."""
    sources = [main, folder / "model.c", *sorted((folder / "bnn").glob("*.c"))]
    command = [*compiler.split(), "-ffp-contract=off", *(flags or (*STRICT, "-O1")), f"-I{folder}"]
    pixel = [] if "const uint8_t *image" in (folder / "model.h").read_text() else ["-DPIXEL=float"]
    done = subprocess.run(
        [*command, *pixel, *sources, "-x", "none", "-o", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return program


def run_export(folder: Path, program: Path, x: Array, *runner: str) -> tuple[Array, Array]:
    """Predictions and scores, (batch, outputs), of a program made with PREDICT."""
    header = (folder / "model.h").read_text()
    score = TYPES[header.split("typedef ")[1].split()[0]]
    outputs = int(header.split("#define MODEL_OUTPUTS ")[1].split()[0])
    done = subprocess.run([*runner, program], input=x.tobytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    rows = np.frombuffer(done.stdout, np.dtype([("winner", np.int32), ("scores", score, (outputs,))]))
    assert len(rows) == len(x)
    return rows["winner"], rows["scores"]


def in_c(model: PackedModel, x: Array, tmp_path: Path, *flags: str) -> tuple[Array, Array]:
    """Exports, compiles and runs a model: predictions and scores, as floats in the network's units."""
    folder = tmp_path / "export"
    export(model, "c", folder, force=True)
    winners, scores = run_export(
        folder, compile_export(folder, PREDICT, tmp_path / "predict", "gcc", *flags), x
    )
    header = (folder / "model.h").read_text()
    if "#define MODEL_SCORE_ONE" in header:
        one = header.split("#define MODEL_SCORE_ONE ")[1].split()[0]
        scores = scores / int(one.removeprefix("INT64_C(").removesuffix(")"))
    return winners, scores

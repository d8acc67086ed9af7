"""Fuzzes the compiled engine through .bnn files: sound files are changed, and what is still sound is run.

    python tests/fuzz/fuzz_bnn.py [--seconds N] [--iterations N] [--seed N] [--module PATH]
    python tests/fuzz/fuzz_bnn.py --file PATH [--module PATH]

A file is refused with FormatError, or for what it asks for, or it runs: on every instruction set, with both
kinds of activations, on pixels and floats, NaN and infinity among them, in one thread and in three, and gives
what the reference gives, to within what rounding explains (`fuzz_bounds`). What is large is run once. All
else is a finding: another exception, a crash, another result, one that depends on threads or on the batch,
more than ten seconds, or than the memory that a model may ask for. Its file is kept and named, and the exit
status is 1.

`run.sh` beside this file does the same with sanitizers. The cases follow from the seed, and what is done
with a file from its bytes alone.
"""

import argparse
import faulthandler
import hashlib
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_bounds import bounded_run
from fuzz_corpus import DRAWN_WORK, MOST_WORK, draw_model, work_of
from fuzz_mutations import Parent, content_of, mutate
from numpy.typing import NDArray

from bnn.errors import UserError
from bnn.packed.demand import check_limits
from bnn.packed.limits import MAX_WORK
from bnn.packed.model import PackedModel
from bnn.packed.serialization import FormatError

Array = NDArray[Any]

SECONDS, BYTES = 10.0, 2_000_000_000
"""What a case may take."""

SLOWER = 20
"""With sanitizers it may take so many times as long, may ask for so much less, and take any memory."""

POOL = 64
MOST_INPUTS = 200  # of all nodes of what is compared, some hundred times
LARGEST_PARENT = 50_000
"""Bytes of a file beyond which it becomes no parent, as all its children would be slow."""


class FindingError(Exception):
    """The engine's result is wrong; the message says where."""


def use_module(path: Path) -> None:
    """Takes a file for the compiled engine, in place of the one that is installed."""
    spec = importlib.util.spec_from_file_location("bnn.runtime._native", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no extension module")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bnn.runtime._native"] = module
    spec.loader.exec_module(module)


# --- one case ---------------------------------------------------------------------------------------------


def check(content: bytes, path: Path, plain: bool = True) -> tuple[str, PackedModel | None]:
    """What becomes of a file: "refused", "greedy", "large" or "run", and the model if it may be a parent.

    Raises whatever is a finding.
    """
    path.write_bytes(content)
    try:
        model = PackedModel.load(path)
    except FormatError:
        return "refused", None
    try:
        check_limits(model, threads=3, max_work=MAX_WORK if plain else MAX_WORK // SLOWER)
    except UserError:
        return "greedy", None
    work = work_of(model)
    if work > MOST_WORK or sum(len(node.inputs) for node in model.nodes) > MOST_INPUTS:
        run_once(model)
        return "large", None
    numbers = np.random.default_rng(list(hashlib.sha256(content).digest()))
    rows = 3 if work > 5000 or numbers.random() < 0.7 else int(numbers.integers(4, 70))
    for x in inputs(model, numbers, rows):
        for activations in ("float32", "int8"):
            compare(model, x, activations)
    return "run", model


def run_once(model: PackedModel) -> None:
    """What is large is held to nothing but its limits."""
    from bnn.runtime import Runner  # no earlier than `use_module`

    dtype = np.uint8 if model.input.mean else np.float32
    Runner(model, threads=1)(np.ones((1, *model.input.shape), dtype))


def inputs(model: PackedModel, numbers: np.random.Generator, rows: int) -> Iterator[Array]:
    """Batches of floats, and of pixels if the model takes them; the samples are of several sorts."""
    shape = model.input.shape
    if model.input.mean:
        x = numbers.integers(0, 256, (rows, *shape), dtype=np.uint8)
        x[1::3] = 255 * (x[1::3] & 1)
        x[2::3] |= numbers.choice(np.array([0, 255], np.uint8))
        yield x
    x = numbers.standard_normal((rows, *shape)).astype(np.float32)
    x[::3] = np.rint(x[::3] * 4)
    specials = [np.nan, np.inf, -np.inf, 1e38, -3e38, 1e-45, -1e-39, 0.0, -0.0, 1e9]
    for row in range(2, rows, 3):
        values = numbers.choice(specials, int(numbers.integers(1, 4)))
        put = numbers.random(shape) < numbers.choice([0.02, 0.5, 1.0])
        put.flat[numbers.integers(put.size)] = True
        if numbers.random() < 0.8:
            x[row][put] = numbers.choice(values, shape)[put]
    yield x


def compare(model: PackedModel, x: Array, activations: Any) -> None:
    """Every instruction set gives the reference's result, whatever the number of threads and of samples."""
    from bnn.runtime.native import Engine, instruction_sets  # no earlier than `use_module`

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of overflow and NaN
        truth, bound = bounded_run(model, x, activations)
    for isa in instruction_sets():
        where = f"{isa}, {x.dtype} input of {len(x)} samples, {activations} activations"
        engine = Engine(model, activations, threads=1, isa=isa)
        result = engine(x)
        if result.dtype != np.float32 or result.shape != truth.shape:
            raise FindingError(f"{where}: {result.dtype} of shape {result.shape}, not {truth.shape}")
        with np.errstate(all="ignore"):
            same = (result == truth) | (np.isnan(result) & np.isnan(truth))
            wrong = ~(same | np.isinf(bound) | (np.abs(result.astype(float) - truth) <= bound))
        if wrong.any():
            raise FindingError(f"{where}: {differences(wrong, result, truth, bound)}")
        for threads, rows in ((1, 1), (3, 1), (3, 3), (3, len(x))):
            engine.threads = threads
            again = engine(misaligned(x[-rows:]) if rows == 3 else x[-rows:])
            if not np.array_equal(again, result[-rows:], equal_nan=True):
                wrong = again != result[-rows:]
                what = differences(wrong, again, result[-rows:], np.zeros_like(again))
                raise FindingError(f"{where}: not so with {threads} threads and {rows} samples: {what}")


def misaligned(x: Array) -> Array:
    """The same numbers, an odd number of bytes from where they would lie well, as a caller may have them."""
    room = np.zeros(x.nbytes + 1, np.uint8)
    room[1:] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    return room[1:].view(x.dtype).reshape(x.shape)


def differences(wrong: Array, result: Array, truth: Array, bound: Array) -> str:
    entries = zip(np.argwhere(wrong)[:3], result[wrong], truth[wrong], bound[wrong], strict=False)
    first = ", ".join(f"{at.tolist()}: {got:.9g} for {due:.9g} ± {b:.3g}" for at, got, due, b in entries)
    return f"{wrong.sum()} of {wrong.size} entries, {first}"


# --- many cases -------------------------------------------------------------------------------------------


def fresh(rng: random.Random) -> Parent:
    model = draw_model(rng)
    return Parent(content_of(model), model)


class Fuzzer:
    """The cases of a seed. What ran becomes a parent of others."""

    def __init__(self, seed: int, folder: Path, plain: bool = True) -> None:
        """plain: without sanitizers."""
        self.seed, self.path, self.plain = seed, folder / "case.bnn", plain
        self.slowest = 0.0, 0
        self.counts: Counter[str] = Counter()
        rng = random.Random(f"{seed}")
        self.pool = [fresh(rng) for _ in range(POOL)]

    def case(self, index: int) -> bytes:
        rng = random.Random(f"{self.seed} {index}")
        parent, other = (fresh(rng) if rng.random() < 0.2 else rng.choice(self.pool) for _ in range(2))
        return mutate(rng, parent, other)

    def step(self) -> str:
        """One case; what became of it."""
        index, start, computed = self.counts.total(), time.monotonic(), time.process_time()
        content = self.case(index)
        outcome, model = check(content, self.path, self.plain)
        taken = min(time.monotonic() - start, time.process_time() - computed)  # on a busy machine
        if taken > (1 if self.plain else SLOWER) * SECONDS or (self.plain and peak() > BYTES):
            raise FindingError(f"{outcome}: {taken:.1f} s, {peak() / 1e9:.2f} GB")
        self.slowest = max(self.slowest, (taken, index))
        self.path.unlink()  # what is found there at the end is a finding
        self.counts[outcome] += 1
        if model is not None and len(content) < LARGEST_PARENT and work_of(model) < DRAWN_WORK:
            self.pool[random.Random(f"{self.seed} {index} place").randrange(POOL)] = Parent(content, model)
        return outcome

    def status(self) -> str:
        total = max(1, self.counts.total())
        loaded, run = total - self.counts["refused"], self.counts["run"]
        return (
            f"{self.counts.total()} executions, {loaded / total:.0%} loaded, {run / total:.0%} run, "
            f"{self.counts['large']} large ones run once, {self.counts['greedy']} refused for what they ask; "
            f"slowest {self.slowest[0]:.1f} s (case {self.slowest[1]}), at most {peak() / 1e6:.0f} MB"
        )


def peak() -> int:
    """The most bytes that this process has held; 0 where nothing tells."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fuzz(seed: int, seconds: float, iterations: int, folder: Path, plain: bool) -> None:
    """Runs until time or cases are over; a finding leaves its file in the folder and the process."""
    from bnn.runtime.native import instruction_sets  # no earlier than `use_module`

    fuzzer = Fuzzer(seed, folder, plain)
    start = shown = time.monotonic()
    print(f"seed {seed}; {', '.join(instruction_sets())}", flush=True)
    while fuzzer.counts.total() < iterations and time.monotonic() - start < seconds:
        faulthandler.dump_traceback_later(4 * SLOWER * SECONDS, exit=True)
        fuzzer.step()
        if time.monotonic() - shown > 5:
            shown = time.monotonic()
            print(f"{shown - start:.0f} s: {fuzzer.status()}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(f"no findings: {fuzzer.status()}", flush=True)


def supervise(arguments: argparse.Namespace) -> int:
    """Runs the cases in another process, and keeps the file at which that ended badly."""
    memory = Path("/dev/shm")  # files are written and read back all the time
    with tempfile.TemporaryDirectory(prefix="bnn-fuzz-", dir=memory if memory.is_dir() else None) as name:
        command = [sys.executable, *sys.argv, "--folder", name]
        # Threads of numpy's own would only wait for each other.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        status = subprocess.run(command, env=environment, check=False).returncode
        case = Path(name, "case.bnn")
        if status == 0:
            return 0
        if not case.exists():
            print(f"the fuzzer itself ended with status {status}", file=sys.stderr)
            return 1
        content = case.read_bytes()
    kept = Path(tempfile.gettempdir(), f"bnn-fuzz-{hashlib.sha256(content).hexdigest()[:12]}.bnn")
    kept.write_bytes(content)
    here = Path(__file__).resolve().parent
    program = f"{here}/run.sh" if arguments.module else f"{sys.executable} {here}/fuzz_bnn.py"
    print(f"\nFINDING (status {status}): {kept}", file=sys.stderr)
    print(f"reproduce it with:  {program} --file {kept}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=300.0, help="how long; default: 300")
    parser.add_argument("--iterations", type=int, default=sys.maxsize, help="at most that many cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--module", type=Path, help="the compiled engine, a file, in place of the installed one"
    )
    parser.add_argument("--file", type=Path, help="check this one file")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the process that is supervised
    arguments = parser.parse_args()
    faulthandler.enable()
    if arguments.module and (arguments.file or arguments.folder):
        use_module(arguments.module)
    if arguments.file:
        faulthandler.dump_traceback_later(4 * SLOWER * SECONDS, exit=True)
        with tempfile.TemporaryDirectory() as name:
            print(check(arguments.file.read_bytes(), Path(name, "case.bnn"), not arguments.module)[0])
    elif arguments.folder:
        fuzz(arguments.seed, arguments.seconds, arguments.iterations, arguments.folder, not arguments.module)
    else:
        return supervise(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())

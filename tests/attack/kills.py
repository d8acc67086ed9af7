"""kill -9 at random moments, in training and in exports.

    python tests/attack/kills.py [--training N] [--exports N] [--seed N]

A run that was killed and resumed must end as one that was not: the same weights, metrics, result and bytes.
A process that exports, or saves, over and over leaves the old content or the new one, whole; a folder may be
away if the kill came between its two moves, and is then back with the next call. After the next export
nothing hidden is left. Exit status 1: one of that was not so.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

from victims import TRAIN, contents, hidden, outcome, some_model

from bnn.export import export
from bnn.packed.model import PackedModel

TARGETS = ["save", "onnx", "c", "folder"]
if shutil.which("clang") and shutil.which("wasm-ld"):
    TARGETS.append("web")
RUN = [*TRAIN, "--epochs", "12", "--width", "96"]
FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from kills import write
from victims import some_model
models = [some_model(number) for number in range(2)]
print(flush=True)
while True:
    for model in models:
        write(model, sys.argv[2], Path(sys.argv[3]))
        print(flush=True)
"""


# --- training ---------------------------------------------------------------------------------------------


def train(out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*RUN, "--out", str(out), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(out: Path, *more: str) -> None:
    process = train(out, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output


def attack_training(count: int, seed: int, folder: Path) -> list[str]:
    """What was found; prints the figures."""
    begin = monotonic()
    finish(folder / "whole")
    life = monotonic() - begin
    expected = outcome(folder / "whole")
    moments, findings, stages = random.Random(seed), [], Counter[int]()
    for number in range(count):
        out = folder / f"killed-{number}"
        process = train(out)
        sleep(moments.uniform(0, life))
        process.kill()
        process.communicate(timeout=300)
        metrics = out / "metrics.csv"
        stages[len(metrics.read_text().splitlines()) if metrics.exists() else 0] += 1
        finish(out, "--resume")
        if outcome(out) != expected:
            findings.append(f"another outcome after a kill: {sorted(contents(out))}")
        if hidden(out):
            findings.append(f"left behind: {hidden(out)}")
        shutil.rmtree(out)
    if count >= 10 and len(stages) < 4:
        findings.append(f"the kills all came at the same stage: {stages}")
    print(f"{count} kills in training, at {len(stages)} stages: {len(findings)} findings")
    return findings


# --- exports ----------------------------------------------------------------------------------------------


def write(model: PackedModel, to: str, out: Path) -> None:
    """Exports, or saves."""
    if to == "save":
        model.save(out)
    else:
        export(model, to, out, force=True)


def found(out: Path) -> dict[str, bytes] | None:
    """The content of a file or a folder; None: it is not there."""
    if not out.exists():
        return None
    return contents(out) if out.is_dir() else {"": out.read_bytes()}


def attack_exports(to: str, count: int, rng: random.Random, folder: Path) -> list[str]:
    """What was found; prints the figures."""
    folder.mkdir()
    out, wholes = folder / "out", []
    for number in range(2):
        write(some_model(number), to, out)
        wholes.append(found(out))
    findings, left, away = [], 0, 0
    argv = [sys.executable, "-c", FOREVER, str(Path(__file__).parent), to, str(out)]
    for _ in range(count):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        begin = monotonic()
        for _ in range(3):  # ready, and two exports
            process.stdout.readline()
        sleep(rng.uniform(0, min(1, (monotonic() - begin) / 2)))
        process.kill()
        _, error = process.communicate(timeout=300)
        if error:
            findings.append(f"{to}: {error.decode()[-500:]}")
        left += len(hidden(folder))
        between = out.suffix == "" and any(name.endswith(".old") for name in hidden(folder))
        if found(out) is None and between:
            away += 1
        elif found(out) not in wholes:
            findings.append(f"{to}: torn by a kill: {sorted(contents(folder))}")
        write(some_model(0), to, out)
        if found(out) != wholes[0] or [path.name for path in folder.iterdir()] != ["out"]:
            findings.append(f"{to}: left after the next: {sorted(contents(folder))}")
    ending = f", {away} between two moves" * bool(away)
    print(f"{count} kills in {to} left {left} files and folders{ending}: {len(findings)} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=int, default=50)
    parser.add_argument("--exports", type=int, default=50, help="of each target; of the page a fifth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, findings = random.Random(options.seed), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for to in TARGETS if options.exports else ():
            count = options.exports // 5 if to == "web" else options.exports  # which a compiler makes
            findings += attack_exports(to, count, rng, folder / to)
        if options.training:
            findings += attack_training(options.training, options.seed, folder)
    for finding in findings[:10]:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

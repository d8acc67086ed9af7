"""Two runs into one folder, the second with --force, at random moments of each other's life.

    python tests/attack/writers.py [--count N] [--seed N]

Every file of the folder must be of one of them, as it is where that one has a folder for itself. Where they
overlap one ends with status 2 and one line that says why. Exit status 1: a mixture, or another ending.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic, sleep

from victims import TRAIN, contents, hidden, outcome

FIRST = [*TRAIN, "--epochs", "8", "--width", "96"]
SECOND = [*TRAIN, "--epochs", "5", "--width", "64", "--seed", "7", "--force"]


def start(argv: list[str], out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*argv, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = process.communicate(timeout=300)
    return process.returncode, error


def try_once(out: Path, wait: float, alone: list[object]) -> tuple[list[str], str]:
    """Findings, and how it went."""
    first = start(FIRST, out)
    sleep(wait)
    second = start(SECOND, out)
    endings = [end(first), end(second)]
    findings = []
    for status, error in endings:
        told = f"{out} is being written by process" in error or f"{out} holds another run" in error
        if not (told and error.count("\n") == 1 if status == 2 else status == 0 and not error):
            findings.append(f"status {status}: {error[-500:]}")
    statuses = (endings[0][0], endings[1][0])
    if 0 not in statuses:
        findings.append(f"no run ended well: {endings}")
    elif outcome(out) != alone[1 if statuses[1] == 0 else 0]:  # if both ran, the second was the last
        findings.append(f"a mixture, statuses {statuses}: {sorted(contents(out))}")
    if len(list(out.glob("tensorboard/*"))) != 1 or hidden(out):
        findings.append(f"more than one run's files, statuses {statuses}: {sorted(contents(out))}")
    how = {(0, 2): "the second was refused", (2, 0): "the first was refused", (0, 0): "they did not meet"}
    return findings, how.get(statuses, "neither ran")


def attack(count: int, seed: int, folder: Path) -> list[str]:
    """What was found; prints the figures."""
    alone, lives = [], []
    for number, argv in enumerate((FIRST, SECOND)):
        begin = monotonic()
        status, error = end(start(argv, folder / f"alone-{number}"))
        lives.append(monotonic() - begin)
        assert status == 0, error
        alone.append(outcome(folder / f"alone-{number}"))
    rng, findings, how = random.Random(seed), [], Counter[str]()
    for number in range(count):
        more, ending = try_once(folder / f"both-{number}", rng.uniform(0, 1.1 * lives[0]), alone)
        findings += more
        how[ending] += 1
    said = ", ".join(f"{text} {times} times" for text, times in sorted(how.items()))
    print(f"two runs into one folder, {count} tries: {said}; {len(findings)} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        findings = attack(options.count, options.seed, Path(folder))
    for finding in findings[:10]:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

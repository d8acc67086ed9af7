"""Ctrl-C twice, at random moments of `bnn`: no traceback, and exit status 130.

    python tests/attack/twice.py [--count N] [--seed N] [--verbose]

A process that imports PyTorch and trains on the digits, or does less, is sent SIGINT at some moment after it
has come to our first line, and again up to two seconds later: while PyTorch is imported, in a step, while the
first is answered, as the interpreter ends. A finding is another exit status than 130, or its own where it was
done before, a traceback, or a process that lives on. Then the exit status is 1. POSIX only.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = "from bnn.cli import entry; print('ready', flush=True); entry()"
MOST_SECONDS = 60


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """What was wrong, and what was done."""
    command = rng.choice(
        [
            ["train", "digits", "--epochs", "1000", "--out", str(folder / f"run{rng.random()}")],
            ["train", "digits", "--epochs", "1", "--out", str(folder / f"run{rng.random()}")],
            ["study", "from-scratch", "--data", "digits", "--out", str(folder / f"study{rng.random()}")],
            ["info", str(folder / "none.bnn")],
            ["--help"],
        ]
    )
    first = rng.choice([0.2, 2.0, 6.0]) * rng.random()
    second = rng.choice([0.0, 0.02, 0.5, 2.0]) * rng.random()
    done = f"{command[0]} {first:.3f} s, then {second:.3f} s"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for pause in (first, second):
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            return f"it lives on: {errors[-300:]}", done
    done += f": {process.returncode}"
    # what was done before ends as it would have
    if process.returncode != 130 and not (process.returncode in (0, 2) and "interrupted" not in errors):
        return f"exit status {process.returncode}: {errors[-500:]}", done
    if "Traceback" in errors or "Exception ignored" in errors:
        return errors[-2000:], done
    return "", done


def main() -> int:
    parser = argparse.ArgumentParser(description="Ctrl-C twice.")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    findings, statuses = 0, dict[str, int]()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.count):
            wrong, done = attack(rng, Path(folder))
            status = done.rpartition(": ")[2]
            statuses[status] = statuses.get(status, 0) + 1
            findings += bool(wrong)
            if options.verbose or wrong:
                print(done + f"\n  FINDING: {wrong}" * bool(wrong), flush=True)
    print(f"{options.count} processes, statuses {statuses}: {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

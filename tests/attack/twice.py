"""Ctrl-C again and again, at random moments of `bnn`: no traceback, and exit status 130.

    python tests/attack/twice.py [--count N] [--seed N] [--verbose]

A process that imports PyTorch and trains on the digits, or does less, is sent SIGINT at some moment: while
PyTorch is imported, in a step, while an earlier one is answered, as the interpreter ends. It comes again up
to two seconds later, or up to eight times within milliseconds. A finding is another exit status than 130, or
its own where it was done before, a traceback, or a process that lives on. Then the exit status is 1. POSIX
only.

Some come before `bnn.cli.entry` begins, while Python starts and imports the package `bnn`: some hundredths of
a second in which no line of ours could mind them. They are counted as early, unless `entry` is in the
traceback.
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

PROGRAM = "from bnn.cli import entry; entry()"
MOST_SECONDS = 60


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """What was wrong, and what was done."""
    command = rng.choice(
        [
            ["train", "digits", "--epochs", "1000", "--out", str(folder / f"run{rng.random()}")],
            ["train", "digits", "--epochs", "1", "--out", str(folder / f"run{rng.random()}")],
            ["study", "from-scratch", "--data", "digits", "--out", str(folder / f"study{rng.random()}")],
            *([name, str(folder / "none.bnn")] for name in ("info", "eval")),
            ["predict", str(folder / "none.bnn"), "none.png"],
            ["export", str(folder / "none.bnn"), "--to", "c", str(folder / "none")],
            ["--help"],
        ]
    )
    pauses = [rng.choice([0.2, 2.0, 6.0]) * rng.random()]
    if rng.random() < 0.5:
        pauses += [rng.choice([0.0, 0.02, 0.5, 2.0]) * rng.random()]
    else:
        pauses += [rng.choice([0.0, 0.001, 0.005, 0.02])] * rng.randint(0, 7)
    done = f"{command[0]} {', then '.join(f'{pause:.3f} s' for pause in pauses)}"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for pause in pauses:
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
            return f"it lives on: {errors[-300:]}", done
    ignored = "Exception ignored" in errors
    by_python = "KeyboardInterrupt" in errors or (process.returncode == -signal.SIGINT and not errors)
    if by_python and pauses[0] < 2 and "in entry\n" not in errors and not ignored:
        return "", f"{done}: early"
    done += f": {process.returncode}"
    # what was done before ends as it would have
    if process.returncode != 130 and not (process.returncode in (0, 2) and "interrupted" not in errors):
        return f"exit status {process.returncode}: {errors[-500:]}", done
    return errors[-2000:] if ignored or "Traceback" in errors else "", done


def main() -> int:
    parser = argparse.ArgumentParser(description="Ctrl-C again and again.")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `... &` would have it ignored
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

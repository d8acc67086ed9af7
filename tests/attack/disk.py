"""A full disk, at several sizes: in training, saving and exports.

    python tests/attack/disk.py [--sizes N ...] [--tmpfs]

Every file may have so many bytes and no more (RLIMIT_FSIZE), or with --tmpfs, which needs to be root, the
whole disk. A command then ends well, or with status 2 and one line; what it would have replaced is as it was,
and nothing hidden is left. A run that ended so goes on with --resume, where there is room, to the outcome of
one that always had it. Exit status 1: one of that was not so.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from victims import TRAIN, contents, hidden, outcome, some_model

SIZES = (50, 100, 1_000, 4_000, 10_000, 30_000, 60_000, 150_000, 400_000)
RUN = [*TRAIN, "--epochs", "3", "--width", "32"]
BNN = [sys.executable, "-m", "bnn.cli"]
SAVE = "import sys, bnn; bnn.PackedModel.load(sys.argv[1]).save(sys.argv[2])"


def commands(model: Path, out: Path) -> dict[str, list[str]]:
    """What writes to `out` what was made of a model."""
    export = [*BNN, "export", str(model), str(out), "--force", "--to"]
    exports = {to: [*export, to] for to in ("onnx", "c", "folder")}
    return {"save": [sys.executable, "-c", SAVE, str(model), str(out)], **exports}


@contextmanager
def disk(folder: Path, tmpfs: bool) -> Iterator[None]:
    """A folder for a while, with --tmpfs a disk."""
    folder.mkdir()
    if tmpfs:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "bnn", folder], check=True, timeout=300)
    try:
        yield
    finally:
        if tmpfs:
            subprocess.run(["umount", folder], check=True, timeout=300)
        shutil.rmtree(folder)


@contextmanager
def full(folder: Path, size: int, tmpfs: bool) -> Iterator[None]:
    """Little room within it: for each file that a process writes, or on the disk, beside what is there."""
    if tmpfs:
        most = max(shutil.disk_usage(folder).used + size, 4096)  # 0 would be without end
        subprocess.run(["mount", "-o", f"remount,size={most}", folder], check=True, timeout=300)
        yield
        subprocess.run(["mount", "-o", "remount,size=64m", folder], check=True, timeout=300)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(argv: list[str]) -> tuple[int, str]:
    done = subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=300)
    return done.returncode, done.stderr


def one_line(status: int, error: str, of: str) -> list[str]:
    """A finding unless it ended well, or with one line: of Python's traceback the last."""
    if status == 0:
        return []
    last = error.splitlines()[-1] if error else ""
    sound = "OSError" in last if of == "save" else status == 2 and error.count("\n") == 1
    return [] if sound else [f"{of}: status {status}: {error[-500:]}"]


def replace_something(name: str, size: int, folder: Path, tmpfs: bool) -> tuple[list[str], int]:
    """Findings, and the exit status."""
    models = [folder / "0.bnn", folder / "1.bnn"]
    for number, path in enumerate(models):
        some_model(number).save(path)
    out = folder / "out"
    status, error = run(commands(models[0], out)[name])
    assert status == 0, error
    before = contents(folder)
    with full(folder, size, tmpfs):
        status, error = run(commands(models[1], out)[name])
    findings = one_line(status, error, name)
    if status and contents(folder) != before:
        findings.append(f"{name}, {size} bytes: not as it was: {sorted(contents(folder))}")
    if hidden(folder):
        findings.append(f"{name}, {size} bytes: left behind: {hidden(folder)}")
    return findings, status


def train(size: int, folder: Path, expected: object, tmpfs: bool) -> tuple[list[str], int]:
    """Findings, and the exit status."""
    out = folder / "run"
    with full(folder, size, tmpfs):
        status, error = run([*RUN, "--out", str(out)])
    findings = one_line(status, error, "train")
    if hidden(folder):
        findings.append(f"train, {size} bytes: left behind: {hidden(folder)}")
    again, error = run([*RUN, "--out", str(out), "--resume"])
    if again or outcome(out) != expected:
        findings.append(f"train, {size} bytes: another outcome: {error[-500:]}")
    return findings, status


def attack(sizes: Sequence[int], folder: Path, tmpfs: bool = False) -> list[str]:
    """What was found; prints the figures."""
    status, error = run([*RUN, "--out", str(folder / "whole")])
    assert status == 0, error
    expected = outcome(folder / "whole")
    findings, met = list[str](), Counter[str]()
    for size in sizes:
        for name in ("train", *commands(folder, folder)):
            place = folder / f"{name}-{size}"
            with disk(place, tmpfs):
                if name == "train":
                    more, status = train(size, place, expected, tmpfs)
                else:
                    more, status = replace_something(name, size, place, tmpfs)
            findings += more
            met[name] += status != 0
    said = ", ".join(f"{name} {times}" for name, times in met.items())
    print(f"a full disk at {len(sizes)} sizes, too small for {said}: {len(findings)} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--tmpfs", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        findings = attack(options.sizes, Path(folder), options.tmpfs)
    for finding in findings[:10]:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

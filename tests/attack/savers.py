"""Saving to one path from several threads while others load it; then kill -9 of processes that save to it.

    python tests/attack/savers.py [--saves N] [--kills N]

Four threads save different models, two load. No save and no load may fail, and what is loaded is one of the
models, whole. After each kill the file is one of them too, and after the next save nothing else is left in
the folder. Exit status 1: one of that was not so.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import sleep

from victims import contents, some_model

from bnn.packed.model import PackedModel

WRITERS, READERS = 4, 2
FOREVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from victims import some_model
models = [some_model(number) for number in range(4)]
print(flush=True)
while True:
    for model in models:
        model.save(sys.argv[2])
"""


def save_and_load(path: Path, saves: int) -> tuple[list[str], int]:
    """Findings, and how often the file was read."""
    models = [some_model(number) for number in range(WRITERS)]
    wholes = {model.to_bytes() for model in models}
    findings: list[str] = []
    reads: list[int] = []
    done = threading.Event()
    models[0].save(path)

    def save(model: PackedModel) -> None:
        for _ in range(saves // WRITERS):
            try:
                model.save(path)
            except Exception as error:
                findings.append(f"a save raised {error!r}")

    def read() -> None:
        while not done.is_set():
            try:
                if PackedModel.load(path).to_bytes() not in wholes:
                    findings.append("a load gave a model that nobody saved")
            except Exception as error:
                findings.append(f"a load raised {error!r}")
            reads.append(1)

    savers = [threading.Thread(target=save, args=[model]) for model in models]
    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for thread in (*savers, *readers):
        thread.start()
    for thread in savers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    return findings, len(reads)


def kill_while_saving(path: Path, rng: random.Random) -> tuple[list[str], int]:
    """Findings, and how many files the kill left behind."""
    argv = [sys.executable, "-c", FOREVER, str(Path(__file__).parent), str(path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    sleep(rng.uniform(0, 0.05))
    process.kill()
    process.communicate(timeout=300)
    left = len(contents(path.parent)) - 1
    findings = []
    wholes = [some_model(number).to_bytes() for number in range(WRITERS)]
    if path.read_bytes() not in wholes:
        findings.append("a torn file after a kill")
    some_model(0).save(path)
    if contents(path.parent) != {path.name: wholes[0]}:
        findings.append(f"left after a kill and the next save: {sorted(contents(path.parent))}")
    return findings, left


def attack(saves: int, kills: int, folder: Path) -> list[str]:
    """What was found; prints the figures."""
    path = folder / "m.bnn"
    findings, reads = save_and_load(path, saves)
    found = sorted(path.name for path in folder.iterdir())
    findings += [f"left by threads: {found}"] if found != ["m.bnn"] else []
    print(f"{saves} saves by {WRITERS} threads, {reads} loads by {READERS}: {len(findings)} findings")
    rng, left = random.Random(0), 0
    for _ in range(kills):
        more, files = kill_while_saving(path, rng)
        findings += more
        left += files
    print(f"{kills} kills while saving left {left} files; after the next save: {len(findings)} findings")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--saves", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        findings = attack(options.saves, options.kills, Path(folder))
    for finding in findings[:10]:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

"""Ctrl-C while the engine is in the middle of a sample: `bnn predict` and `bnn eval` end at once.

    python tests/attack/interrupts.py [--count N] [--seed N]

Models whose sample takes minutes are run, their limits lifted, and SIGINT comes at a random moment after the
run began. Printed are the longest time from there to the end, and the exit statuses. Exit status 1: one took
more than a second, or ended with another status than 130.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bnn.packed import bits
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    AvgPool2d,
    Conv2d,
    Flatten,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    Sign,
)

SECONDS = 1.0
SIDE = 8
"""Of the digits, which `bnn eval` has without a download."""


def ones(*shape: int) -> PackedWeight:
    return PackedWeight(np.zeros((shape[0], bits.words_per_row(int(np.prod(shape[1:])))), np.uint64), shape)


def model_of(*slow: Node) -> PackedModel:
    """The digits in the middle of a large image, then what is slow, then ten classes."""
    scale, one = np.ones(4, np.float32), np.ones(10, np.float32)
    grown = Conv2d(
        name="grown", inputs=(INPUT,), weight=ones(4, 1, 1, 1), scale=scale, shift=scale, padding=(400,) * 4
    )
    small = AvgPool2d(name="small", inputs=(slow[-1].name,), kernel=(1, 1), stride=(2**20, 2**20))
    flat = Flatten(name="flat", inputs=("small",))
    last = Linear(name="last", inputs=("flat",), weight=ones(10, 4), scale=one, shift=one)
    contract = InputContract((1, SIDE, SIDE), (0.5,), (0.5,), tuple(map(str, range(10))))
    return PackedModel(contract, (grown, *slow, small, flat, last), {"data": "digits"})


def convolutions(packed: bool = True, signs: bool = False, groups: int = 1) -> list[Node]:
    """Many of few weights, so that nearly all of the time goes into running them."""
    nodes, source = list[Node](), "grown"
    for i in range(40):
        if signs:
            nodes.append(Sign(name=f"sign{i}", inputs=(source,)))
            source = f"sign{i}"
        weight = ones(4, 4 // groups, 31, 31)
        dense = np.full(weight.shape, 1e-4, np.float32)
        nodes.append(
            Conv2d(
                name=f"conv{i}",
                inputs=(source,),
                weight=weight if packed else dense,
                padding=(15,) * 4,
                groups=groups,
            )
        )
        source = f"conv{i}"
    return nodes


def pool(cls: type[MaxPool2d] | type[AvgPool2d], source: str) -> Node:
    return cls(name="slow", inputs=(source,), kernel=(401, 401), stride=(1, 1), padding=(200,) * 4)


SIGN = Sign(name="sign", inputs=("grown",))
MODELS: dict[str, Callable[[], PackedModel]] = {
    "float x ±1": lambda: model_of(*convolutions()),
    "±1 x ±1": lambda: model_of(*convolutions(signs=True)),
    "float": lambda: model_of(*convolutions(packed=False)),
    "depthwise": lambda: model_of(*convolutions(groups=4)),
    "largest": lambda: model_of(pool(MaxPool2d, "grown")),
    "largest of signs": lambda: model_of(SIGN, pool(MaxPool2d, "sign")),
    "mean": lambda: model_of(pool(AvgPool2d, "grown")),
}
PROGRAM = (
    "import sys, bnn.cli.options; from bnn.cli import main; print('ready', flush=True); sys.exit(main())"
)


def trial(rng: random.Random, model: Path, picture: Path) -> tuple[float, int]:
    """Seconds from Ctrl-C to the end, and the exit status."""
    lifted = ["--max-work", "none", "--max-memory", "none"]
    threads = ["--threads", rng.choice("123")]
    what = rng.choice([["predict", model, picture, *lifted], ["eval", model, *threads, *lifted]])
    command = [sys.executable, "-c", PROGRAM, *map(str, what)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(1 + 2 * rng.random())
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return time.perf_counter() - start, status


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `... &` would have it ignored
    rng, statuses, slowest = random.Random(arguments.seed), Counter[int](), (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "digit.png")
        Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255).save(picture)
        for name, make in MODELS.items():
            make().save(Path(folder, f"{name}.bnn"))
        for index in range(arguments.count):
            name = list(MODELS)[index % len(MODELS)]
            taken, status = trial(rng, Path(folder, f"{name}.bnn"), picture)
            slowest = max(slowest, (taken, name))
            statuses[status] += 1
            if taken > SECONDS or status != 130:
                print(f"FINDING: {name}: {taken:.2f} s, exit status {status}")
    bad = slowest[0] > SECONDS or set(statuses) != {130}
    print(f"exit statuses: {dict(statuses)}; slowest {slowest[0]:.2f} s ({slowest[1]})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

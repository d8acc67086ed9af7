"""Small files that ask for much: terabytes of values, hours of work, endless headers. Each must be refused.

    python tests/attack/asks_for_much.py [--count N] [--seed N]

One process loads them all, so that what one leaves behind would count as well. Printed are how many were
refused, the longest time and the most memory that one took. Exit status 1: one was not refused, took a
second, or took the process to 200 MB.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bnn.errors import UserError
from bnn.packed import bits, serialization
from bnn.packed.nodes import (
    INPUT,
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    ReLU,
    Sign,
)
from bnn.runtime import load

LARGEST_FILE, SECONDS, BYTES = 10**6, 1.0, 200 * 10**6


def ones(*shape: int) -> PackedWeight:
    return PackedWeight(np.zeros((shape[0], bits.words_per_row(int(np.prod(shape[1:])))), np.uint64), shape)


def file_of(shape: tuple[int, ...], *nodes: Node, mean: tuple[float, ...] = (), std: Any = None) -> bytes:
    contract = InputContract(shape, mean, std or (0.5,) * len(mean))
    return serialization.to_bytes(contract, nodes, {})


def image(rng: random.Random, entries: float) -> tuple[int, int, int]:
    """A shape with about so many entries."""
    channels = rng.choice([1, 2, 3, 8, 64])
    height = rng.randint(1, 4) * 2 ** rng.randint(6, 11)
    return channels, height, max(1, int(entries / channels / height))


def live_values(rng: random.Random) -> bytes:
    """Many values that are needed at once."""
    n = rng.randint(30, 3000)
    names = [f"v{i}" for i in range(n)]
    values = [rng.choice([ReLU, ReLU, Sign])(name=name, inputs=(INPUT,)) for name in names]
    return file_of(
        image(rng, 2**33 / n), *values, rng.choice([Add, Add, Concat])(name="y", inputs=tuple(names))
    )


def many_inputs(rng: random.Random) -> bytes:
    """One sum, or one row of channels, of the same value thousands of times."""
    cls = rng.choice([Add, Concat])
    n = rng.randint(20_000, 90_000)
    shape = (1, 256, 2**28 // 256 // n) if cls is Concat else image(rng, 2**27)
    middle = cls(name="y", inputs=(INPUT,) * n)
    return file_of(
        shape,
        middle,
        *(ReLU(name=f"{i}", inputs=("y",)) for i in range(4)),
        *[Add(name="z", inputs=("0", "1", "2", "3"))],
    )


def doubling(rng: random.Random) -> bytes:
    """A value that is laid beside itself again and again."""
    nodes = [Concat(name="v0", inputs=(INPUT,) * 2)]
    nodes += [Concat(name=f"v{i}", inputs=(f"v{i - 1}",) * 2) for i in range(1, 27)]
    return file_of((1, 2, rng.choice([1, 2])), *nodes, ReLU(name="y", inputs=("v26",)))


def padded(rng: random.Random) -> bytes:
    """Padding around a small image, with a stride that leaves little of it."""
    side = rng.randint(7000, 7900)
    kernel = ones(rng.choice([64, 68]), 1, rng.randint(1, 3), rng.randint(1, 3))
    first = Conv2d(name="c", inputs=(INPUT,), weight=kernel, padding=(side,) * 4, stride=(8, 8))
    parts = [ReLU(name=f"r{i}", inputs=("c",)) for i in range(rng.randint(2, 9))]
    whole = Add(name="y", inputs=tuple(part.name for part in parts))
    kinds = [2**28, 2**40, 2**62]
    last = AvgPool2d(name="p", inputs=("y",), kernel=(1, 1), stride=(rng.choice(kinds), rng.choice(kinds)))
    return file_of((1, 5, 5), first, *parts, whole, last)


def wide_windows(rng: random.Random) -> bytes:
    """A pool that looks at everything from everywhere."""
    side, kernel = rng.randint(700, 4000), rng.randint(300, 600)
    cls = rng.choice([MaxPool2d, AvgPool2d])
    pool = cls(name="p", inputs=(INPUT,), kernel=(kernel, kernel), stride=(1, 1), padding=(kernel - 1,) * 4)
    return file_of((1, side, side), *rng.choice([(pool,), (pool, Sign(name="s", inputs=("p",)))]))


def large_products(rng: random.Random) -> bytes:
    """A convolution of many weights at many places."""
    side, groups = rng.randint(900, 2000), rng.choice([1, 1, 2, 4])
    conv = Conv2d(name="c", inputs=(INPUT,), weight=ones(512, 256 // groups, 7, 7), groups=groups)
    sign = Sign(name="s", inputs=(INPUT,))
    nodes = (sign, Conv2d(name="c", inputs=("s",), weight=conv.weight, groups=groups))
    return file_of((256, side // 4, side), *rng.choice([(conv,), nodes]))


def tables(rng: random.Random) -> bytes:
    """One row of weights, whose input becomes tables many times as large, for each thread."""
    n = rng.randint(6_000_000, 7_000_000)
    layers = [Linear(name=f"l{i}", inputs=(INPUT,), weight=ones(1, n // 2)) for i in range(2)]
    copies = [ReLU(name=f"v{i}", inputs=(INPUT,)) for i in range(200)]
    return file_of((n // 2,), *copies, *layers, Add(name="y", inputs=tuple(v.name for v in copies)))


def borders(rng: random.Random) -> bytes:
    """Pixels at whose border each place has constants of its own."""
    k, outputs = rng.randint(90, 150), rng.randint(150, 300)
    conv = Conv2d(name="c", inputs=(INPUT,), weight=ones(outputs, 1, k, k), padding=(8 * k,) * 4)
    return file_of((1, 3 * k, 3 * k), conv, mean=(0.5,))


def deep(rng: random.Random) -> bytes:
    """Thousands of nodes, each of which passes over a large value."""
    n = rng.randint(4000, 10_000)
    nodes = [ReLU(name=f"{i}", inputs=(f"{i - 1}" if i else INPUT,)) for i in range(n)]
    return file_of(image(rng, 2**25), *nodes)


def too_many_nodes(rng: random.Random) -> bytes:
    """More nodes than a network has."""
    n = rng.randint(2**14 + 1, 2**14 + 500)
    graph = {"about": {}, "format": 1, "input": {"shape": [1]}}
    nodes = [{"op": "ReLU", "name": f"{i:x}", "inputs": [f"{i - 1:x}" if i else "input"]} for i in range(n)]
    return framed(json.dumps(graph | {"nodes": nodes}, separators=(",", ":")))


def header(rng: random.Random) -> bytes:
    """JSON that is large once it is parsed, or never ends."""
    size = rng.randint(200_000, 700_000)
    parts = ["[]", "{}", "[[]]", '{"a":0}', "1e9", "null", '"x"', "-1"]
    text = f"[{','.join([rng.choice(parts)] * (size // 8))}]"
    match rng.randrange(6):
        case 0:
            text = "[" * size
        case 1:
            text = "{" + ",".join(f'"{i}":{i}' for i in range(size // 16)) + "}"
        case 2:
            text = "9" * size
        case 3:
            return rng.choice([2**24 + 1, 10**8, 2**40, 2**63, 2**64 - 1]).to_bytes(8, "little") + b"{" * size
        case _:
            pass
    if rng.random() < 0.5:
        return len(text.encode()).to_bytes(8, "little") + text.encode()
    return framed(text)


def axes(rng: random.Random) -> bytes:
    """A weight with ten thousand axes, whose product has megabytes of digits."""
    shape = [rng.choice([2**62, 2**63 - 1, 3**39])] * rng.randint(10_000, 40_000)
    node = {"op": "Linear", "name": "y", "inputs": ["input"], "weight": {"bits": "w", "shape": shape}}
    node |= {"scale": None, "shift": None}
    graph = {"about": {}, "format": 1, "input": {"shape": [64]}, "nodes": [node]}
    return framed(
        json.dumps(graph), {"w": {"dtype": "U64", "shape": [1, 1], "data_offsets": [0, 8]}}, bytes(8)
    )


def claims(rng: random.Random) -> bytes:
    """Arrays that are said to have terabytes."""
    size = rng.choice([2**31, 2**40, 2**62, 2**64, 10**30])
    return framed("{}", {"w": {"dtype": "U64", "shape": [size // 8], "data_offsets": [0, size]}}, bytes(99))


def framed(graph: str, arrays: dict[str, Any] | None = None, data: bytes = b"") -> bytes:
    text = json.dumps({"__metadata__": {"bnn": graph}, **(arrays or {})}).encode()
    return len(text).to_bytes(8, "little") + text + data


def flattened(rng: random.Random) -> bytes:
    """Images of signs, whole words for each pixel, brought into other orders."""
    shape, n = (1, 1000, rng.randint(3000, 9000)), rng.randint(60, 90)
    nodes: list[Node] = []
    for i in range(n):
        nodes += [Sign(name=f"s{i}", inputs=(INPUT,)), Flatten(name=f"f{i}", inputs=(f"s{i}",))]
    return file_of(shape, *nodes, Add(name="y", inputs=tuple(f"f{i}" for i in range(n))))


KINDS: list[Callable[[random.Random], bytes]] = [
    live_values,
    many_inputs,
    doubling,
    padded,
    wide_windows,
    large_products,
    tables,
    borders,
    deep,
    too_many_nodes,
    header,
    axes,
    claims,
    flattened,
]


def case(seed: int, index: int) -> tuple[str, bytes]:
    """The kind of a file, and its content."""
    kind = KINDS[index % len(KINDS)]
    return kind.__name__, kind(random.Random(f"{seed} {index}"))


def serve() -> None:
    """Loads the files that are named on standard input; what became of each."""
    for line in sys.stdin:
        start, why = time.perf_counter(), ""
        try:
            load(line.strip(), threads=2)
        except UserError as error:
            why = str(error)
        except Exception as error:  # which is a finding, whatever it is
            print(json.dumps(["raised", repr(error)[:300], 0, 0]), flush=True)
            continue
        taken = time.perf_counter() - start
        print(json.dumps(["refused" if why else "loaded", why[:300], taken, peak_memory()]), flush=True)


def peak_memory() -> int:
    """The most bytes that this process has held; 0 where nothing tells."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def attack(count: int, seed: int) -> int:
    """The exit status."""
    found, slowest, largest, kinds = 0, (0.0, ""), (0, ""), dict[str, int]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.bnn")
        command = [sys.executable, __file__, "--serve"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        for index in range(count):
            kind, content = case(seed, index)
            assert len(content) < LARGEST_FILE, kind
            path.write_bytes(content)
            process.stdin.write(f"{path}\n")
            process.stdin.flush()
            outcome, why, taken, peak = json.loads(process.stdout.readline() or '["crashed", "", 0, 0]')
            kinds[kind] = kinds.get(kind, 0) + (outcome == "refused")
            if outcome != "refused" or taken > SECONDS or peak > BYTES:
                found += 1
                print(f"FINDING: {kind}, file {index}: {outcome}, {taken:.2f} s, {peak / 1e6:.0f} MB {why}")
            if outcome == "crashed":
                break
            slowest, largest = max(slowest, (taken, kind)), max(largest, (peak, kind))
        process.stdin.close()
        process.wait()
    print(", ".join(f"{kind} {n}" for kind, n in kinds.items()))
    print(
        f"{sum(kinds.values())} of {count} refused; slowest {slowest[0]:.2f} s ({slowest[1]}), "
        f"largest {largest[0] / 1e6:.0f} MB ({largest[1]}); {found} findings"
    )
    return 1 if found else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return 0
    return attack(arguments.count, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())

"""What an exported model gives and costs, beside the runtime on the same images.

    python benchmarks/export.py runs/mnist [--data mnist] [--data-dir DIR] [--n 10000] [--targets onnx,c]

A row for each way to ship the model; a target is a function that gives them. Differences are relative to the
largest score of the runtime, sizes to the ONNX file of the same network with float weights. Bytes of C are
those of code and constants on this machine, as `make size` counts them.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.bench.machine import describe
from bnn.bench.twins import onnx_twin
from bnn.data import load_dataset
from bnn.export import onnx
from bnn.packed.model import PackedModel
from bnn.runtime import Runner
from bnn.tables import table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # where support/ is
REPEATS = 9
Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A way to ship the model: its bytes, what it makes of the images, seconds to load if there is a load."""

    name: str
    bytes: int
    predicted: Array
    scores: Array
    load: float | None


def run_onnx(model: PackedModel, images: Array) -> Iterator[Row]:
    """Packed, unpacked, and the usual float file, in ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def row(name: str, content: bytes, x: Array) -> Row:
        def load() -> Any:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        net, seconds = load(), median(time_of(load) for _ in range(REPEATS))
        taken = net.get_inputs()[0].name
        batches = (x[start : start + 100] for start in range(0, len(x), 100))
        scores = np.concatenate([net.run(None, {taken: batch})[0] for batch in batches])
        return Row(name, len(content), scores.argmax(1), scores, seconds)

    for name, unpacked in (("ONNX, packed", False), ("ONNX, unpacked", True)):
        (content,) = onnx.make(model, unpacked=unpacked).files.values()
        yield row(name, content, images)
    yield row("ONNX, float twin", onnx_twin(model), normalised(model, images))


def run_c(model: PackedModel, images: Array) -> Iterator[Row]:
    """Compiled for this machine with -O2, as the tests do; its own predictions."""
    from support.c_export import STRICT, in_c

    with tempfile.TemporaryDirectory() as folder:
        predicted, scores = in_c(model, images, Path(folder), *STRICT, "-O2")
        size = ["make", "-s", "-C", f"{folder}/export", "size", "CFLAGS=-O2"]
        said = subprocess.run(size, capture_output=True, text=True, check=True).stdout
    (sizes,) = re.findall(r"^ *(\d+)\s+(\d+)\s+\d+.*TOTALS", said, re.MULTILINE)
    yield Row("C", sum(map(int, sizes)), predicted, scores, None)


TARGETS: dict[str, Callable[[PackedModel, Array], Iterator[Row]]] = {"onnx": run_onnx, "c": run_c}


def time_of(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


def normalised(model: PackedModel, images: Array) -> Array:
    """What a model without raw pixels takes."""
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (model.input.mean, model.input.std))
    return ((images / 255 - mean) / std).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a .bnn file, or a run's folder")
    parser.add_argument("--data", help="(default: the model's)")
    parser.add_argument("--data-dir", help="holds a folder for each data set")
    parser.add_argument("--n", type=int, default=10_000, help="test images, at most (default: 10,000)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="(default: all)")
    options = parser.parse_args()

    model = PackedModel.load(options.model)
    data = load_dataset(options.data or model.about["data"], options.data_dir)
    images, labels = data.test_inputs[: options.n], data.test_targets[: options.n]
    runner = Runner(model, threads=1)
    expected, predicted = runner(images), runner.predict(images)
    seconds = median(
        time_of(lambda: Runner(PackedModel.load(options.model), threads=1)) for _ in range(REPEATS)
    )
    rows = [Row(".bnn, the runtime", len(model.to_bytes()), predicted, expected, seconds)]
    for name in options.targets.split(","):
        rows.extend(TARGETS[name](model, images))

    of_floats = len(onnx_twin(model))
    lines = []
    for row in rows:
        equal = int((row.predicted == predicted).sum())
        difference = np.abs(row.scores - expected).max() / np.abs(expected).max()
        accuracy = 100 * np.mean(row.predicted == labels)
        lines.append(
            [
                *(row.name, f"{equal:,} of {len(images):,}", f"{difference:.1e}", f"{accuracy:.2f} %"),
                *(
                    f"{row.bytes:,}",
                    f"{of_floats / row.bytes:.1f}",
                    "" if row.load is None else f"{1000 * row.load:.1f}",
                ),
            ]
        )
    machine = describe()
    print(f"{machine['cpu']}, {machine['system']}")
    print(f"{options.model}: {len(images):,} test images of {data.name}; one thread\n")
    head = ["", "predictions equal", "difference", "accuracy", "bytes", "times smaller", "ms to load"]
    print(table(head, lines))


if __name__ == "__main__":
    main()

"""Seconds an epoch: ours, deterministic and stochastic, beside the float twin in plain PyTorch, in one run.

    python benchmarks/training.py [--network mlp | cnn] [--batch 256] [--threads 2] [--larq] [--profile]

Networks take turns, a block of steps each, so that what else the machine does falls on all of them alike.
Images are random, of MNIST's or CIFAR-10's shape and number: no data set is needed, and the time does not
depend on them. `--larq` adds Larq on TensorFlow: pip install -r benchmarks/larq.txt.
"""

import argparse
import os
from collections.abc import Callable
from statistics import quantiles
from time import perf_counter
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "50000")  # as `bnn train` does; read when torch is imported

import torch
from torch import nn

from bnn import models
from bnn.bench.machine import describe
from bnn.config import TrainConfig
from bnn.tables import table
from bnn.training.building import begin
from bnn.training.loop import Run, train_epoch
from bnn.training.samples import Samples

Block = Callable[[int], None]
"""Trains for so many steps."""

CLASSES = 10
NETWORKS = {
    "mlp": ("mnist", "binaryconnect_mlp", (1, 28, 28), 50_000),
    "cnn": ("cifar10", "binaryconnect_cnn", (3, 32, 32), 45_000),
}


COMPARED = ("float, float32, Adam", "float, bf16, fused Adam", "deterministic, bf16")
"""Networks that the others' times are divided by."""


def random_samples(shape: tuple[int, ...], n: int) -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (n,), generator=generator)
    moments = (1, shape[0], 1, 1)
    return Samples(images, labels, torch.full(moments, 0.5), torch.full(moments, 0.3))


def ours(options: argparse.Namespace, samples: Samples, **changes: Any) -> Block:
    """The loop of `bnn train`, without validation."""
    data, name, shape, _ = NETWORKS[options.network]
    config = TrainConfig(
        data=data,
        model=name,
        batch_size=options.batch,
        width=options.width,
        loss="cross_entropy",
        schedule="cosine",
        **changes,
    )
    state = begin(config, shape, CLASSES, 1000, torch.device("cpu"))

    def block(steps: int) -> None:
        part = Samples(samples.images[: steps * options.batch], samples.labels, samples.mean, samples.std)
        train_epoch(Run(config, state, part))

    return block


def plain(options: argparse.Namespace, samples: Samples, precision: str, fused: bool) -> Block:
    """The float twin as one writes it in PyTorch."""
    _, name, shape, _ = NETWORKS[options.network]
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)(shape, CLASSES, options.width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    loss_function = nn.CrossEntropyLoss()

    def block(steps: int) -> None:
        model.train()
        order = torch.randperm(steps * options.batch)
        total = 0.0
        for step in range(steps):
            index = order[step * options.batch : (step + 1) * options.batch]
            x = (samples.images[index].float() / 255 - samples.mean) / samples.std
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                logits = model(x)
            loss = loss_function(logits.float(), samples.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()

    return block


def larq(options: argparse.Namespace, samples: Samples) -> Block:
    """The MLP in Larq: ±1 kernels by its `SteSign`, clipped; Adam; compiled by Keras."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import larq as lq  # type: ignore[import-not-found]
    import tensorflow as tf  # type: ignore[import-untyped]

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
    layers: list[Any] = [tf.keras.layers.Flatten(input_shape=(28, 28, 1))]
    for units in (options.width, options.width, options.width, CLASSES):
        layers += [lq.layers.QuantDense(units, **binary), tf.keras.layers.BatchNormalization()]
        layers += [tf.keras.layers.ReLU()] if units != CLASSES else []
    model = tf.keras.Sequential(layers)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(1e-3), loss)
    images = (samples.images.float().numpy().reshape(-1, 28, 28, 1) / 255 - 0.5) / 0.3
    labels = samples.labels.numpy()

    def block(steps: int) -> None:
        n = steps * options.batch
        model.fit(images[:n], labels[:n], batch_size=options.batch, epochs=1, verbose=0)

    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=NETWORKS, default="mlp")
    parser.add_argument(
        "--width", type=int, help="units, or channels of the first layer (default: 1024, 128)"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--blocks", type=int, default=8, help="of each network, at least 2")
    parser.add_argument("--steps", type=int, help="of a block (default: an epoch's; cnn: 2)")
    parser.add_argument("--larq", action="store_true", help="add Larq on TensorFlow (mlp only)")
    parser.add_argument("--profile", action="store_true", help="then print where the time of our step goes")
    options = parser.parse_args()
    if options.blocks < 2:
        parser.error(f"--blocks {options.blocks}: must be at least 2, for quartiles")
    options.width = options.width or (1024 if options.network == "mlp" else 128)
    _, _, shape, epoch = NETWORKS[options.network]
    options.steps = options.steps or (epoch // options.batch if options.network == "mlp" else 2)
    torch.set_num_threads(options.threads)
    samples = random_samples(shape, options.steps * options.batch)
    blocks: dict[str, Block] = {
        "float, float32, Adam": plain(options, samples, "32", fused=False),
        "float, bf16, fused Adam": plain(options, samples, "bf16", fused=True),
        "deterministic, float32": ours(options, samples, weights="deterministic", precision="32"),
        "stochastic, float32": ours(options, samples, weights="stochastic", precision="32"),
        "deterministic, bf16": ours(options, samples, weights="deterministic", precision="bf16"),
        "the same without diagnostics": ours(
            options, samples, weights="deterministic", precision="bf16", diagnostics=False
        ),
        "stochastic, bf16": ours(options, samples, weights="stochastic", precision="bf16"),
    }
    if options.larq:
        blocks["Larq, float32"] = larq(options, samples)
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(options.blocks + 1):
        for name, block in blocks.items():
            block(2)  # the caches are another network's
            start = perf_counter()
            block(options.steps)
            if turn > 0:
                times[name].append((perf_counter() - start) / options.steps * (epoch // options.batch))

    rows = []
    for name, seconds in times.items():
        low, middle, high = quantiles(seconds, n=4)
        ratios = [_ratio(seconds, times[other]) for other in COMPARED]
        rows.append([name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}", *ratios])
    print(f"{describe()['cpu']}, PyTorch {torch.__version__}")
    print(
        f"{options.network}, width {options.width}, batches of {options.batch}, {options.threads} threads\n"
    )
    heads = ["network", "s an epoch", "quartiles", "of float, float32", "of float, bf16", "of ours, bf16"]
    print(table(heads, rows))
    if options.profile:
        _profile(blocks["deterministic, bf16"], options.steps)


def _ratio(seconds: list[float], other: list[float]) -> str:
    """Median and quartiles of the ratios within each turn: what slows a whole turn down is in neither."""
    low, middle, high = quantiles((a / b for a, b in zip(seconds, other, strict=True)), n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})" if low != high else f"{middle:.2f}"


def _profile(block: Block, steps: int) -> None:
    with torch.profiler.profile() as profile:
        block(steps)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)[:14]
    rows = [[e.key[:48], f"{e.self_cpu_time_total / steps:.0f}", f"{e.count / steps:.0f}"] for e in events]
    print("\nour step, bf16, deterministic: where its time goes\n")
    print(table(["operation", "µs a step", "calls"], rows))


if __name__ == "__main__":
    main()

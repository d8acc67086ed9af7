"""What an exported network takes on a Cortex-M: flash, RAM, stack, and instructions a prediction.

    python benchmarks/microcontroller.py --data-dir data         trains two small networks on MNIST, a minute
    python benchmarks/microcontroller.py runs/mnist/model.bnn    or takes packed ones

It needs arm-none-eabi-gcc with newlib, and qemu-system-arm, which runs the M3 and the M4, by
tests/native/export.sh. Flash is of the objects of model and engine, at -Os, without the self-test and the C
library. RAM is their .data and .bss, and the stack of a prediction.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from bnn.export import export
from bnn.packed.model import PackedModel
from bnn.tables import table

ROOT = Path(__file__).parent.parent
CORES = ("m0plus", "m3", "m4", "m7")
HEAD = ["network", "core", "weights", "flash", "beyond them", "arena", "stack", "RAM", "instructions"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", metavar="MODEL", nargs="*", help=".bnn files")
    parser.add_argument("--data-dir", metavar="DIR", help="where MNIST is, to train on")
    options = parser.parse_args()
    models = {path: PackedModel.load(path) for path in options.models} or trained(options.data_dir)
    rows = []
    for name, model in models.items():
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            weights = number(r"([\d,]+) of them packed", "\n".join(export(model, "c", out)))
            for core in CORES:
                cells = measured(out, core, weights)
                rows.append([name, core, *("" if cell is None else f"{cell:,}" for cell in cells)])
    print(table(HEAD, rows))


def measured(folder: Path, core: str, weights: int) -> list[int | None]:
    """The columns from "weights" on; None where there is no board of this core to run on."""
    command = [ROOT / "tests" / "native" / "export.sh", folder, core]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:  # a tool is missing, or the self-test failed
        raise SystemExit(done.stderr.strip() or done.stdout.strip())
    said = done.stdout
    (sizes,) = re.findall(r"^ *(\d+)\s+(\d+)\s+(\d+).*TOTALS", said, re.MULTILINE)
    text, data, bss = map(int, sizes)
    sizes = [weights, text + data, text + data - weights, data + bss]
    if "stack" not in said:
        return [*sizes, None, None, None]
    stack = number(r"stack of a prediction: (\d+)", said)
    return [*sizes, stack, data + bss + stack, number(r"instructions of a prediction: about (\d+)", said)]


def number(pattern: str, text: str) -> int:
    (found,) = re.findall(pattern, text)
    return int(found.replace(",", ""))


def trained(data_dir: str | None) -> dict[str, PackedModel]:
    """784-256-10 with ReLU, and BinaryNet's network with 256 units: ±1 weights, two epochs each."""
    import torch
    from torch import nn

    import bnn
    from bnn.data import load_dataset
    from bnn.models import binarynet_mlp

    torch.manual_seed(0)
    data = load_dataset("mnist", data_dir)
    mean, std = float(data.train_inputs.mean() / 255), float(data.train_inputs.std() / 255)
    x, y = (
        (torch.from_numpy(data.train_inputs) / 255 - mean) / std,
        torch.from_numpy(data.train_targets).long(),
    )

    def train(network: nn.Module) -> PackedModel:
        model, steps = bnn.binarize(network), 2 * len(x) // 100
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        bnn.clip_latent_weights(optimizer, model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        for _ in range(steps):
            batch = torch.randint(0, len(x), (100,))
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        frozen = bnn.recalibrate(bnn.freeze(model), x[:10_000]).eval()
        return bnn.pack(frozen, x[:2], mean=mean, std=std, labels=data.classes)

    relu = [nn.Linear(784, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()]
    output = [nn.Linear(256, 10, bias=False), nn.BatchNorm1d(10)]
    return {
        "784-256-10, ReLU": train(nn.Sequential(nn.Flatten(), *relu, *output)),
        "784-3x256-10, ±1 activations": train(binarynet_mlp((1, 28, 28), 10, 256)),
    }


if __name__ == "__main__":
    main()

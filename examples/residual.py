"""A convolutional network with residual connections, ±1 weights, and both kinds of activations.

    python examples/residual.py residual.bnn --data-dir data

It has what makes exporting hard: raw pixels with three deviations, convolutions padded with 0 and with -1, a
shortcut around layers whose activations are ±1, another around layers with real-valued ones. Trained on
CIFAR-10 for a few minutes it is an example, and no good classifier.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bnn
from bnn.data import load_dataset
from bnn.functional import clipped_ste
from bnn.quantizers import Sign


class PaddedByMinus1(nn.Conv2d):
    """A convolution whose border is -1, so that an image of ±1 stays one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), value=-1))


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


def network(width: int, classes: int) -> nn.Sequential:
    """A network for images with three channels; `width` channels, then twice as many."""

    def conv(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)]

    def conv_of_signs() -> list[nn.Module]:
        layer = PaddedByMinus1(width, width, 3, bias=False)
        return [Sign(clipped_ste), layer, nn.BatchNorm2d(width)]

    return nn.Sequential(
        *(*conv(3, width), nn.Hardtanh()),
        *(Residual(*conv_of_signs(), *conv_of_signs()), nn.MaxPool2d(2)),
        *(*conv(width, 2 * width, stride=2), nn.ReLU()),
        *(Residual(*conv(2 * width, 2 * width), nn.ReLU(), *conv(2 * width, 2 * width)), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, classes)),
    )


def train(
    model: nn.Module, batches: Callable[[int], tuple[Tensor, Tensor]], steps: int, lr: float = 0.01
) -> None:
    """`batches` gives step's inputs and labels."""
    optimizer = torch.optim.Adam(model.parameters(), lr)
    bnn.clip_latent_weights(optimizer, model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        x, labels = batches(step)
        loss = F.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {loss:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the .bnn file to write")
    parser.add_argument("--data-dir", help="holds CIFAR-10; see `bnn train --help`")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--width", type=int, default=16)
    options = parser.parse_args()

    torch.manual_seed(0)
    data = load_dataset("cifar10", options.data_dir)
    sample = data.train_inputs[:5000] / 255
    mean, std = sample.mean((0, 2, 3)), sample.std((0, 2, 3))
    normalisation = [torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (mean, std)]
    images, labels = torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_targets)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(images), (64,))
        return (images[rows] / 255 - normalisation[0]) / normalisation[1], labels[rows]

    model = bnn.binarize(network(options.width, len(data.classes)))
    train(model, batch, options.steps)
    packed = bnn.pack(
        bnn.freeze(model),
        batch(0)[0],
        mean=mean,
        std=std,
        labels=data.classes,
        about={"model": "examples/residual.py", "weights": "sign", "data": "cifar10"},
    )
    packed.save(options.out)
    predicted = bnn.load(options.out).predict(data.test_inputs)
    accuracy = 100 * np.mean(predicted == data.test_targets)
    print(f"{options.out}: {accuracy:.1f} % of {len(predicted):,} test images")


if __name__ == "__main__":
    main()

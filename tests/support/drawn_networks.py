"""PyTorch networks drawn at random."""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.quantizers import Sign


class Pad(nn.Module):
    def __init__(self, sides: tuple[int, ...], value: float) -> None:
        super().__init__()
        self.sides, self.value = sides, value

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.sides, value=self.value)


class Arithmetic(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.factor + 0.3) / -1.7


class Branches(nn.Module):
    """f(x) + g(x), or both and x side by side."""

    def __init__(self, f: nn.Module, g: nn.Module, concat: bool) -> None:
        super().__init__()
        self.f, self.g, self.concat = f, g, concat

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.f(x), self.g(x), x], 1) if self.concat else self.f(x) + self.g(x)


def convolution(rng: random.Random, c: int) -> nn.Module:
    groups = rng.choice([1, 1, c])
    out = groups * rng.randint(1, 3) if groups > 1 else rng.randint(1, 9)
    padding = rng.choice([0, 1, (1, 0), "same"])
    stride = 1 if padding == "same" else rng.choice([1, 1, 2, (1, 2)])
    kernel, dilation = rng.choice([1, 2, 3, (3, 1)]), rng.choice([1, 1, 2])
    bias = rng.random() < 0.5
    return nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, bias)  # type: ignore[arg-type]


def block(rng: random.Random, c: int) -> nn.Module:
    """Some module that takes (c, h, w)."""
    activations = [nn.ReLU(), nn.ReLU(True), nn.PReLU(c), nn.LeakyReLU(0.2), nn.Hardtanh(), nn.ReLU6(True)]
    pools = [
        *(nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d((1, 3), 1)),
        *(nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    ]
    sides = tuple(rng.randint(0, 2) for _ in range(4))
    padded = nn.Sequential(Pad(sides, rng.choice([0, 1, -1, 0.5])), nn.Conv2d(c, rng.randint(1, 6), 3))
    same = [nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c), Sign(), nn.ReLU(True), nn.Conv2d(c, c, 1)]
    f, g = nn.Sequential(*rng.sample(same, rng.randint(1, 3))), rng.choice([nn.Identity(), *same])
    often = [convolution(rng, c), nn.BatchNorm2d(c), Sign()] * 2
    others = [
        rng.choice(activations),
        rng.choice(pools),
        padded,
        Branches(f, g, rng.random() < 0.5),
        Arithmetic(c),
    ]
    return rng.choice([*often, *others])


def network(rng: random.Random) -> nn.Module:
    """A network of (2, 12, 12) images into 5 outputs."""
    modules: list[nn.Module] = []
    x = torch.zeros(2, 2, 12, 12)
    for _ in range(rng.randint(2, 9)):
        module = block(rng, x.shape[1]).eval()
        try:
            y = module(x.clone()).detach()
        except RuntimeError:
            continue  # a window larger than the image
        if y.shape[1] <= 64:
            modules, x = [*modules, module], y
    end = rng.choice([nn.BatchNorm1d(5), nn.Identity()])
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(x[0].numel(), 5), end)

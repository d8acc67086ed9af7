"""Networks drawn at random: packed equals frozen, whatever follows what."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import random_pixels
from torch import Tensor, nn
from torch_helpers import randomise

from bnn.binarization import binarize
from bnn.freezing import freeze
from bnn.packing.packing import pack
from bnn.quantizers import Sign
from bnn.runtime import Runner

MEAN, STD = (0.4137, 0.6093), (0.2113, 0.3071)


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
    """Of (2, 12, 12) images into 5 outputs."""
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


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.filterwarnings("ignore::bnn.packing.PackWarning")
@pytest.mark.parametrize(
    "seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 200))]
)
def test_packed_equals_frozen(seed: int) -> None:
    """To 1e-4 of the largest output, on images where no sign is taken of a value that rounding made not 0."""
    frozen = freeze(randomise(binarize(network(random.Random(seed))), seed)).double()
    packed = pack(frozen, torch.zeros(1, 2, 12, 12), mean=MEAN, std=STD)
    near_0 = [torch.zeros(60, dtype=torch.bool)]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        size = inputs[0].abs().flatten(1)
        near_0.append(((size > 0) & (size < 1e-6 * size.max())).any(1))

    for module in frozen.modules():
        if isinstance(module, Sign):
            module.register_forward_pre_hook(note)
    pixels = random_pixels(60, 2, 12, 12, seed=seed)
    mean, std = (np.array(values).reshape(2, 1, 1) for values in (MEAN, STD))
    expected = frozen(torch.from_numpy((pixels / 255 - mean) / std)).detach().numpy()
    error = np.abs(Runner(packed)(pixels) - expected).max(axis=1)
    sure = ~torch.stack(near_0).any(0).numpy()
    assert sure.sum() > 30
    assert (error[sure] <= 1e-4 * np.abs(expected).max()).all()


def test_the_random_networks_are_of_all_kinds() -> None:
    """Among the first eight already there are all but rare kinds of modules."""
    types = {type(module) for seed in range(8) for module in network(random.Random(seed)).modules()}
    pools = {nn.MaxPool2d, nn.AvgPool2d}
    assert {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, Sign, Branches, Pad, Arithmetic} | pools <= types

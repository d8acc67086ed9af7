"""Networks drawn at random: packed equals frozen, whatever follows what."""

import random

import numpy as np
import pytest
import torch
from support.drawn_networks import Arithmetic, Branches, Pad, network
from support.helpers import random_pixels
from support.torch_helpers import randomise
from torch import Tensor, nn

from bnn.binarization import binarize
from bnn.freezing import freeze
from bnn.packing.packing import pack
from bnn.quantizers import Sign
from bnn.runtime import Runner

MEAN, STD = (0.4137, 0.6093), (0.2113, 0.3071)


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

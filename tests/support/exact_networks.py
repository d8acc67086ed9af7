"""PyTorch networks of ±1 weights and activations, with batch norms of every sign."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from support.torch_helpers import randomise
from torch import Tensor, nn

from bnn.binarization import binarize
from bnn.freezing import freeze


class PaddedByMinus1(nn.Conv2d):
    """A convolution whose border is -1, so that a ±1 image stays one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1, 1, 1, 1), value=-1))


class SignByWhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def mlp(activation: type[nn.Module], bias: bool) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(2 * 36, 97, bias=bias), nn.BatchNorm1d(97), activation()),
        *(nn.Linear(97, 65, bias=bias), nn.BatchNorm1d(65), nn.Hardtanh(), activation()),
        *(nn.Linear(65, 64, bias=bias), nn.BatchNorm1d(64), nn.Dropout(), activation()),
        nn.Linear(64, 10, bias=False),
    )


def conv_net(activation: type[nn.Module], bias: bool) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, 8, 3, padding=1, bias=bias), nn.BatchNorm2d(8), nn.Hardtanh(), activation()),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=bias), nn.MaxPool2d(2), nn.BatchNorm2d(16), activation()),
        *(PaddedByMinus1(16, 16, 3, groups=16, bias=bias), nn.BatchNorm2d(16), nn.MaxPool2d(2, 1)),
        activation(),
        *(nn.Conv2d(16, 9, 1, bias=bias), nn.BatchNorm2d(9), activation()),
        *(nn.Flatten(), nn.Linear(36, 10, bias=False)),
    )  # fmt: skip


def frozen_network(
    network: Callable[[type[nn.Module], bool], nn.Module], *options: object, seed: int
) -> nn.Module:
    """With batch norms of negative and zero factors; where it is 0, of positive, negative and zero shifts."""
    model = randomise(binarize(network(*options)), seed)  # type: ignore[arg-type]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.weight[:3], module.bias[:3] = 0, torch.tensor([0.5, -0.5, 0.0])
                assert (module.weight < 0).any()
    return freeze(model)

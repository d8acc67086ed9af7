"""What several tests need of PyTorch."""

import numpy as np
import torch
from torch import Tensor, nn

from bnn.functional import sign


def assert_close(result: np.ndarray, truth: Tensor) -> None:
    """float32 of the same shape, equal to 1e-5 of the largest entry; float32 itself has 6e-8."""
    assert result.dtype == np.float32
    assert result.shape == tuple(truth.shape)
    if truth.numel():
        assert np.abs(result - truth.numpy()).max() <= 1e-5 * max(1, float(truth.abs().max()))


class ScaledSign(nn.Module):
    """XNOR-Net's: one magnitude for each output."""

    def forward(self, w: Tensor) -> Tensor:
        return w.abs().mean(1, keepdim=True) * sign(w)


class Detached(ScaledSign):
    """The same with the customary one-liner for a straight-through estimator, which rounds."""

    def forward(self, w: Tensor) -> Tensor:
        return w + (super().forward(w) - w).detach()


class Tied(nn.Module):
    """Two layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, num_layers=2, bidirectional=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 4, 2), nn.Flatten(), nn.Linear(4, 3, bias=False)
    )


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Latent weights and batch norms as after training; each norm has negative factors and one that is 0."""
    generator = torch.Generator().manual_seed(seed)

    def fill(tensor: Tensor, deviation: float, mean: float = 0.0) -> None:
        tensor.copy_(mean + deviation * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None
                assert module.running_var is not None
                fill(module.running_mean, 2.0)
                fill(module.running_var, 5.0)
                module.running_var.abs_().add_(0.5)
                fill(module.weight, 1.0)
                fill(module.bias, 0.5)
                module.weight[0] = 0
            else:
                for parameter in module.parameters(recurse=False):
                    fill(parameter, 0.5)
    return model

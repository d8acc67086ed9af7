"""PyTorch networks of every kind that packs, on (2, 6, 6) images."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn.functional import sign
from bnn.quantizers import Sign


class Function(nn.Module):
    """A function as a module, with some constants to use."""

    def __init__(self, function: Callable[["Function", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 24, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("each", torch.tensor([2.0, -1.0, 0.0, 0.5]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Residual(nn.Module):
    """x + f(x), with an in-place ReLU that overwrites what the shortcut reads."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut or nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        out = self.body(x)
        out += self.shortcut(x)
        return self.relu(out)


class Dense(nn.Module):
    """[x, f(x), f(x)] along the channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return torch.cat([x, y, y], dim=1)


def conv(n: int, out: int, kernel: int = 3, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n, out, kernel, **options), nn.BatchNorm2d(out))  # type: ignore[arg-type]


def head(n: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(n, 5), nn.BatchNorm1d(5)]


def between(*modules: nn.Module, out: int = 4 * 36) -> nn.Sequential:
    """These modules between a convolution, giving (4, 6, 6), and a head."""
    return nn.Sequential(conv(2, 4, padding=1), *modules, *head(out))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(), *head(33)
    ),
    "without biases": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5, bias=False)),
    "strides, dilation, asymmetric kernel": lambda: between(
        nn.Conv2d(4, 5, (3, 2), stride=(1, 2), dilation=(2, 1), padding=(2, 0)), nn.ReLU(), out=90
    ),
    "same padding": lambda: between(nn.Conv2d(4, 4, (2, 4), padding="same", dilation=(1, 2))),
    "valid padding": lambda: between(nn.Conv2d(4, 4, 3, padding="valid"), out=64),
    "depthwise": lambda: between(conv(4, 8, padding=1, groups=4), nn.ReLU6(), conv(8, 4, 1)),
    "groups": lambda: between(conv(4, 6, padding=1, groups=2), nn.Hardtanh(), out=216),
    "residual": lambda: between(
        Residual(nn.Sequential(conv(4, 4, padding=1), nn.ReLU(True), conv(4, 4, padding=1))),
        Residual(conv(4, 8, 3, stride=2, padding=1), conv(4, 8, 1, stride=2)),
        out=72,
    ),
    "concat": lambda: between(Dense(conv(4, 3, padding=1)), Dense(nn.ReLU()), out=1080),
    "prelu": lambda: between(nn.PReLU(), nn.PReLU(4), nn.LeakyReLU(0.1)),
    "clamps": lambda: between(
        nn.Hardtanh(-0.5, 2), Function(lambda m, x: x.clamp(-0.4, 1.5).clamp(min=-0.3).clamp(max=1))
    ),
    "max pooling": lambda: between(nn.MaxPool2d(3, stride=2, padding=1), out=36),
    "max pooling, ceil mode": lambda: between(nn.MaxPool2d((5, 3), stride=(3, 4), ceil_mode=True), out=16),
    "average pooling": lambda: between(
        nn.AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(2, 1, 1, count_include_pad=False), out=64
    ),
    "adaptive pooling": lambda: between(nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(1), out=4),
    "global pooling": lambda: nn.Sequential(
        conv(2, 8), Function(lambda m, x: torch.cat([x.mean((2, 3)), x.amax((-1, -2))], 1)), *head(16)
    ),
    "global pooling, kept axes": lambda: nn.Sequential(
        conv(2, 8), Function(lambda m, x: x.mean([2, 3], keepdim=True).squeeze()), *head(8)
    ),
    "padding before a convolution": lambda: between(
        Function(lambda m, x: F.pad(x, (1, 2, 0, 1), value=0.5)), conv(4, 4), out=140
    ),
    "padding twice": lambda: between(nn.ZeroPad2d((1, 0, 2, 0)), conv(4, 4, padding=1), out=4 * 8 * 7),
    "padded signs": lambda: between(
        Sign(),
        Function(lambda m, x: F.pad(x, (1, 1, 1, 1), value=-1)),
        conv(4, 4),
        Sign(),
        Function(lambda m, x: F.pad(x, (1, 1, 1, 1), value=1)),
        conv(4, 4),
        Sign(),
        conv(4, 4, padding=1),
    ),
    "softmax": lambda: nn.Sequential(between(nn.ReLU()), nn.Softmax(dim=1)),
    "arithmetic": lambda: between(
        Function(lambda m, x: 2 - 3 * (x + 1) / 4 - x * m.each + torch.sub(x, x, alpha=0.5) + m.each),
        Function(lambda m, x: -x * torch.ones(1, 4, 1, 1)),
    ),
    "a functional layer": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(72, 24),
        nn.ReLU(),
        Function(lambda m, x: F.linear(x, sign(m.weight) * m.weight.abs().mean(1, keepdim=True))),
    ),
    "sign by where": lambda: between(
        Function(lambda m, x: torch.where(x >= 0, 1.0, -1.0)),
        conv(4, 4, padding=1),
        Function(lambda m, x: torch.where(x < 0, -torch.ones_like(x), torch.full_like(x, 1))),
    ),
    "reshaping": lambda: nn.Sequential(
        conv(2, 4), Function(lambda m, x: x.view(x.size(0), -1).reshape(-1, 64).contiguous()), *head(64)
    ),
    "other precision": lambda: between(Function(lambda m, x: x.double().relu().float().clone().detach())),
}

"""The architectures of the papers, as float networks of stock modules.

`binarize(models.binaryconnect_mlp(...))` makes one binary; left as it is, it is the float twin. They share
a signature, so that a recipe can name any of them:

    shape       of one input, (channels, height, width)
    classes     outputs
    width       see each
    dropout     after each hidden layer; dropout_in: of the inputs
"""

from collections.abc import Callable
from math import prod

from torch import nn

from bnn.functional import clipped_ste
from bnn.quantizers import Sign

__all__ = ["binaryconnect_cnn", "binaryconnect_mlp", "binarynet_mlp", "logistic_regression"]

Shape = tuple[int, int, int]


def logistic_regression(
    shape: Shape, classes: int, width: int = 0, dropout: float = 0.0, dropout_in: float = 0.0
) -> nn.Sequential:
    """One linear layer with a bias; `width` and `dropout` are ignored."""
    return nn.Sequential(nn.Flatten(), *_dropout(dropout_in), nn.Linear(prod(shape), classes))


def binaryconnect_mlp(
    shape: Shape, classes: int, width: int = 1024, dropout: float = 0.0, dropout_in: float = 0.0
) -> nn.Sequential:
    """BinaryConnect's MNIST network: three hidden layers of `width` ReLU, batch norm everywhere.

    Its paper has 1,024 units (section 3.1), its published script 2,048.
    """
    return _mlp(shape, classes, width, dropout, dropout_in, nn.ReLU)


def binarynet_mlp(
    shape: Shape, classes: int, width: int = 4096, dropout: float = 0.0, dropout_in: float = 0.0
) -> nn.Sequential:
    """BinaryNet's MNIST network: three hidden layers whose activations are ±1 (section 2.1; 4,096 units)."""
    return _mlp(shape, classes, width, dropout, dropout_in, lambda: Sign(clipped_ste))


def _mlp(
    shape: Shape,
    classes: int,
    width: int,
    dropout: float,
    dropout_in: float,
    activation: Callable[[], nn.Module],
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten(), *_dropout(dropout_in)]
    fan_in = prod(shape)
    for _ in range(3):
        # No bias: the batch norm that follows would subtract it again.
        layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width), activation()]
        layers += _dropout(dropout)
        fan_in = width
    return nn.Sequential(*layers, nn.Linear(fan_in, classes, bias=False), nn.BatchNorm1d(classes))


def binaryconnect_cnn(
    shape: Shape, classes: int, width: int = 128, dropout: float = 0.0, dropout_in: float = 0.0
) -> nn.Sequential:
    """BinaryConnect's convolutional network (section 3.2), `width` the channels of its first layers.

    (2 x width C3)-MP2-(2 x 2 width C3)-MP2-(2 x 4 width C3)-MP2-(2 x 1024 FC)-classes; 128 is CIFAR-10's,
    64 SVHN's. Pooling comes before the batch norm, as in the authors' code.
    """
    layers: list[nn.Module] = [*_dropout(dropout_in)]
    channels, height, columns = shape
    for out in (width, 2 * width, 4 * width):
        layers += [_conv(channels, out), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [_conv(out, out), nn.MaxPool2d(2), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    layers.append(nn.Flatten())
    fan_in = channels * (height // 8) * (columns // 8)
    for _ in range(2):
        layers += [nn.Linear(fan_in, 1024, bias=False), nn.BatchNorm1d(1024), nn.ReLU(), *_dropout(dropout)]
        fan_in = 1024
    return nn.Sequential(*layers, nn.Linear(fan_in, classes, bias=False), nn.BatchNorm1d(classes))


def _conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)


def _dropout(probability: float) -> list[nn.Module]:
    return [nn.Dropout(probability)] if probability > 0 else []

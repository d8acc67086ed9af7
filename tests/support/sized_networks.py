"""Packed networks of the sizes that people have, their weights at random: what limits must let through."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bnn.packed import bits
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    Add,
    Affine,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    PReLU,
    ReLU,
    Sign,
)

__all__ = ["NETWORKS"]

random = np.random.default_rng(0)


def signs(*shape: int) -> PackedWeight:
    n = int(np.prod(shape[1:]))
    words = random.integers(0, 2**64, (shape[0], bits.words_per_row(n)), np.uint64)
    if n % 64:
        words[:, -1] &= np.uint64(2 ** (n % 64) - 1)
    return PackedWeight(words, shape)


class Graph:
    """Nodes one after the other; each method gives the name of its value."""

    def __init__(self, *shape: int, mean: float | None = 0.5) -> None:
        contract = InputContract(shape, *(((mean,), (0.25,)) if mean is not None else ()))
        self.contract, self.nodes = contract, list[Node]()

    def add(self, cls: type[Node], *inputs: str, **fields: Any) -> str:
        self.nodes.append(cls(name=f"n{len(self.nodes)}", inputs=inputs, **fields))
        return self.nodes[-1].name

    def product(
        self, x: str, shape: tuple[int, ...], dtype: Any = np.float32, packed: bool = True, **f: Any
    ) -> str:
        weight = signs(*shape) if packed else random.standard_normal(shape, np.float32)
        scale, shift = (random.standard_normal(shape[0]).astype(dtype) for _ in range(2))
        if len(shape) == 4 and "padding" not in f:
            f["padding"] = (shape[2] // 2, (shape[2] - 1) // 2) * 2
        cls = Conv2d if len(shape) == 4 else Linear
        return self.add(cls, x, weight=weight, scale=scale, shift=shift, **f)

    def model(self) -> PackedModel:
        return PackedModel(self.contract, tuple(self.nodes))


def mnist() -> PackedModel:
    """784-1024-1024-1024-10, ReLU between."""
    g = Graph(784)
    x = INPUT
    for n in (784, 1024, 1024):
        x = g.add(ReLU, g.product(x, (1024, n)))
    g.product(x, (10, 1024))
    return g.model()


def cifar10() -> PackedModel:
    """The paper's convolutional network, with ±1 activations."""
    g = Graph(3, 32, 32)
    x, n = INPUT, 3
    for width in (128, 256, 512):
        for last in (False, True):
            x = g.product(x, (width, n, 3, 3), np.float64)
            x = g.add(MaxPool2d, x, kernel=(2, 2), stride=(2, 2)) if last else x
            x, n = g.add(Sign, x), width
    x, n = g.add(Flatten, x), 512 * 16
    for _ in range(2):
        x, n = g.add(Sign, g.product(x, (1024, n), np.float64)), 1024
    g.product(x, (10, n))
    return g.model()


def bireal18() -> PackedModel:
    """Bi-Real Net's form of ResNet-18 at 224x224: a shortcut around each ±1 convolution."""
    g = Graph(3, 224, 224)
    x = g.product(INPUT, (64, 3, 7, 7), packed=False, stride=(2, 2))
    x, n = g.add(MaxPool2d, x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), 64
    for width in (64, 128, 256, 512):
        for k in range(4):
            stride = 2 if width > 64 and k == 0 else 1
            y = g.product(g.add(Sign, x), (width, n, 3, 3), stride=(stride, stride), padding=(1, 1, 1, 1))
            if stride == 2:
                x = g.add(AvgPool2d, x, kernel=(2, 2), stride=(2, 2))
                x = g.product(x, (width, n, 1, 1), packed=False)
            x, n = g.add(PReLU, g.add(Add, x, y), slope=np.full(width, 0.25, np.float32)), width
    x = g.add(Flatten, g.add(AvgPool2d, x, kernel=(7, 7), stride=(7, 7)))
    g.product(x, (1000, 512), packed=False)
    return g.model()


def unet(packed: bool = True) -> PackedModel:
    """U-Net at 512x512 with 64 channels, four levels; upsampling is left out, and its sizes are not."""
    g = Graph(64, 512, 512, mean=None)
    size = 512

    def block(x: str, n: int, width: int) -> str:
        for k in (n, width):
            x = g.add(ReLU, g.product(x, (width, k, 3, 3), packed=packed))
        return x

    # What goes down is held until all of it comes up again, at the first level.
    down = block(INPUT, 64, 64)
    x, n = down, 64
    for width in (128, 256, 512, 1024):
        x, size = g.add(MaxPool2d, x, kernel=(2, 2), stride=(2, 2)), size // 2
        x, n = block(x, n, width), width
    y = g.product(down, (64, 64, 1, 1), packed=packed)
    y = block(g.add(Concat, down, y), 128, 64)
    y = g.product(y, (2, 64, 1, 1), packed=False)
    g.add(Concat, g.add(Flatten, y), g.add(Flatten, x))
    return g.model()


def transformer() -> PackedModel:
    """The products of a large vision transformer: 24 blocks of width 1024 over 256 places."""
    g = Graph(3, 224, 224)
    x = g.product(INPUT, (1024, 3, 14, 14), stride=(14, 14), padding=(0, 0, 0, 0))
    for _ in range(24):
        y = g.product(x, (3072, 1024, 1, 1))
        y = g.product(y, (1024, 3072, 1, 1))
        x = g.add(Add, x, y)
        y = g.add(ReLU, g.product(x, (4096, 1024, 1, 1)))
        x = g.add(Add, x, g.product(y, (1024, 4096, 1, 1)))
        x = g.add(Affine, x, scale=np.ones(1024, np.float32), shift=np.zeros(1024, np.float32))
    x = g.add(Flatten, g.add(AvgPool2d, x, kernel=(16, 16), stride=(16, 16)))
    g.product(x, (1000, 1024), packed=False)
    return g.model()


def vgg16(activation: type[Node]) -> PackedModel:
    """VGG-16 at 224x224, one bit a weight."""
    g = Graph(3, 224, 224)
    x, n = INPUT, 3
    for width, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for last in [False] * (layers - 1) + [True]:
            x, n = g.product(x, (width, n, 3, 3)), width
            x = g.add(MaxPool2d, x, kernel=(2, 2), stride=(2, 2)) if last else x
            x = g.add(activation, x)
    x, n = g.add(Flatten, x), 512 * 49
    for _ in range(2):
        x, n = g.add(activation, g.product(x, (4096, n))), 4096
    g.product(x, (1000, n))
    return g.model()


def language_model(width: int, hidden: int, blocks: int, mean: float | None = None) -> PackedModel:
    """The products of a language model's blocks, of ±1 between, for one token."""
    g = Graph(width, mean=mean)
    x = INPUT
    for _ in range(blocks):
        x = g.add(Sign, g.product(x, (hidden, width)))
        x = g.add(Sign, g.product(x, (width, hidden)))
    return g.model()


def mobilenet() -> PackedModel:
    """MobileNet's first form at 224x224: a filter for each channel, then one place at a time."""
    g = Graph(3, 224, 224)
    x, n = g.product(INPUT, (32, 3, 3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), 32
    for width, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5):
        way = {"stride": (stride,) * 2, "padding": (1, 1, 1, 1), "groups": n}
        x = g.add(ReLU, g.product(g.add(ReLU, x), (n, 1, 3, 3), **way))
        x, n = g.product(x, (width, n, 1, 1)), width
    x = g.add(Flatten, g.add(AvgPool2d, x, kernel=(14, 14), stride=(14, 14)))
    g.product(x, (1000, 512))
    return g.model()


NETWORKS: dict[str, Callable[[], PackedModel]] = {
    "MNIST": mnist,
    "CIFAR-10": cifar10,
    "Bi-Real 18, 224x224": bireal18,
    "U-Net, 512x512": unet,
    "ViT-L": transformer,
    "VGG-16, ±1, 224x224": lambda: vgg16(Sign),
    "VGG-16, ReLU, 224x224": lambda: vgg16(ReLU),
    "MobileNet, 224x224": mobilenet,
    "a language model": lambda: language_model(4096, 11008, 10),
    "a language model of pixels": lambda: language_model(12960, 12960, 1, mean=0.5),
}

"""A network of ±1 weights and ±1 activations, from raw pixels, equals its float64 self: bit for bit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.exact_networks import SignByWhere, conv_net, frozen_network, mlp
from support.helpers import every_engine, random_pixels
from support.torch_helpers import randomise
from torch import Tensor, nn

from bnn.binarization import binarize
from bnn.freezing import freeze
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Threshold
from bnn.packing.packing import pack
from bnn.quantizers import Sign
from bnn.runtime import ENGINES, Runner

MEAN, STD = (0.4, 0.6), (0.2, 0.3)


def signs_in_torch(model: nn.Module, x: Tensor) -> dict[str, np.ndarray]:
    """What each activation module gives, by name; "" is the output."""
    seen: dict[str, np.ndarray] = {}
    for name, module in model.named_modules():
        if isinstance(module, Sign | SignByWhere):
            module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out.numpy()}))
    with torch.no_grad():
        seen[""] = model(x).numpy()
    return seen


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("network", "activation"), [(mlp, Sign), (conv_net, Sign), (conv_net, SignByWhere)])
def test_every_sign_and_logit_is_that_of_float64(
    network: Callable[..., nn.Module], activation: type[nn.Module], bias: bool, seed: int
) -> None:
    """On random images every sign in every layer, and the logits, equal the float64 network's."""
    frozen = frozen_network(network, activation, bias, seed=seed)
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=MEAN, std=STD)
    pixels = random_pixels(2000, 2, 6, 6, seed=seed)
    mean, std = (np.array(values).reshape(2, 1, 1) for values in (MEAN, STD))
    seen = signs_in_torch(frozen.double(), torch.from_numpy((pixels / 255 - mean) / std))

    logits = seen.pop("")
    assert all(np.array_equal(Runner(packed, engine)(pixels), logits) for engine in ENGINES)
    names = [node.name for node in packed.nodes]
    for name, expected in seen.items():
        upto = PackedModel(packed.input, packed.nodes[: names.index(name) + 1])
        assert all(np.array_equal(Runner(upto, engine)(pixels), expected) for engine in ENGINES), name
        assert 0.05 < (expected > 0).mean() < 0.95, name
    # All but the first layer, and the one whose maximum is taken after a falling batch norm, are integers.
    assert sum(isinstance(node, Threshold) for node in packed.nodes) == 2


@every_engine
def test_normalised_float32_gives_the_same_classes(engine: str) -> None:
    """From float32 the first layer rounds, so that single signs may differ; here no class does."""
    frozen = frozen_network(conv_net, Sign, False, seed=0)
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=MEAN, std=STD)
    pixels = random_pixels(500, 2, 6, 6)
    mean, std = (np.array(values).reshape(2, 1, 1) for values in (MEAN, STD))
    values = ((pixels / 255 - mean) / std).astype(np.float32)
    assert np.array_equal(Runner(packed, engine).predict(pixels), Runner(packed, engine).predict(values))


@every_engine
@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_epsilon_is_added_to_the_variance(engine: str, factor: float) -> None:
    """scale = gamma / sqrt(variance + epsilon), which matters where the variance is small."""
    norm = nn.BatchNorm1d(4, eps=0.1)
    with torch.no_grad():
        norm.running_var.copy_(factor * torch.tensor([1.0, 2.0, 3.0, 0.0]))
        norm.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    model = nn.Sequential(nn.Linear(8, 4), norm)
    x = torch.randn(50, 8)
    expected = model.eval()(x).detach().numpy()
    assert np.allclose(Runner(pack(model, x), engine)(x.numpy()), expected, rtol=1e-5, atol=1e-5)


@every_engine
def test_a_batch_norm_before_a_padded_convolution(engine: str) -> None:
    """The padding is 0 after the norm: at the border its shift is missing, and packed has it missing too."""
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), Sign())
    frozen = freeze(randomise(binarize(model))).double()
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=0.0, std=1.0)
    pixels = random_pixels(500, 2, 6, 6)
    expected = frozen(torch.from_numpy(pixels / 255)).detach().numpy()
    assert np.array_equal(Runner(packed, engine)(pixels), expected)
    inside = expected[:, :, 1:-1, 1:-1].mean((0, 2, 3)), expected[:, :, 0].mean((0, 2))
    assert np.abs(inside[0] - inside[1]).max() > 0.1


@every_engine
def test_ties_count_as_plus_1(engine: str) -> None:
    """A sum of exactly 0 is +1, in the sign of a product as in PyTorch's, for odd and even lengths."""
    for n in (7, 64):
        model = nn.Sequential(Sign(), binarize(nn.Linear(n, 50, bias=False)), Sign())
        frozen = freeze(randomise(model))
        x = torch.randn(400, n, generator=torch.Generator().manual_seed(1))
        sums = frozen[1](frozen[0](x)).detach().numpy()
        assert ((sums == 0).any()) == (n % 2 == 0)
        result = Runner(pack(frozen, x), engine)(x.numpy())
        assert np.array_equal(result, np.where(sums >= 0, 1, -1))


@every_engine
@pytest.mark.parametrize(
    "between", [[nn.Flatten()], [nn.MaxPool2d(2), nn.Flatten()], [nn.Flatten(), nn.Dropout()]]
)
def test_hardtanh_before_pooling_and_flattening(engine: str, between: list[nn.Module]) -> None:
    """BinaryNet's order: hardtanh, pool, flatten, sign. With borders a millionth beside whole numbers every
    logit is the float64 network's: the hardtanh goes, and what is left before the sign stays float64.

    (Right at whole numbers PyTorch itself gives ±1e-17 or 0, as it fuses multiply and add or does not.)
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 8, 3, bias=False), nn.BatchNorm2d(8), Sign()),
        *(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Hardtanh(), *between, Sign()),
        *(
            nn.Linear(
                16 * 16 if len(between) < 2 or between[0].__class__ is nn.Flatten else 16 * 4, 10, bias=False
            ),
        ),
    )
    randomise(model)
    with torch.no_grad():
        model[4].running_mean.copy_(torch.arange(-8, 8) + 2.0**-20)
        model[4].running_var.copy_(torch.rand(16) + 0.5)
        model[4].bias.zero_()
    frozen = freeze(binarize(model))
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=MEAN, std=STD)
    assert [type(node).__name__ for node in packed.nodes].count("Hardtanh") == 0
    pixels = random_pixels(1000, 2, 6, 6)
    mean, std = (np.array(values).reshape(2, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected = frozen.double()(torch.from_numpy((pixels / 255 - mean) / std)).numpy()
    assert np.array_equal(Runner(packed, engine)(pixels), expected)


@every_engine
def test_logits_through_a_last_batch_norm(engine: str) -> None:
    """An affine map of integers at the end is computed in float64: rounded, it is the float64 network's."""
    model = nn.Sequential(
        nn.Linear(72, 65), nn.BatchNorm1d(65), Sign(), nn.Linear(65, 10), nn.BatchNorm1d(10)
    )
    frozen = freeze(randomise(binarize(nn.Sequential(nn.Flatten(), *model))))
    packed = pack(frozen, torch.zeros(1, 2, 6, 6), mean=MEAN, std=STD)
    pixels = random_pixels(2000, 2, 6, 6)
    mean, std = (np.array(values).reshape(2, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        expected = frozen.double()(torch.from_numpy((pixels / 255 - mean) / std)).float().numpy()
    assert np.array_equal(Runner(packed, engine)(pixels), expected)

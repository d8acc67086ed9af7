"""freeze: the values asked for, exactly ±a in each row, and never NaN."""

import math
from typing import Any

import pytest
import torch
from support.torch_helpers import Detached, ScaledSign, mlp
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bnn.binarization import BinaryLinear, binarize
from bnn.freezing import freeze
from bnn.functional import hard_sigmoid, sign
from bnn.quantizers import Sign, StochasticSign

WAYS = ["sign", "sample", "real"]


# --- values -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", [Sign, StochasticSign])
def test_sign_and_real(quantizer: type[nn.Module]) -> None:
    """Weights "sign" are the signs of the latent ones, 0 counting as +1; "real" are the latent ones."""
    layer = BinaryLinear(5, 3, quantizer=quantizer)
    latent = layer.parametrizations.weight.original
    with torch.no_grad():
        latent[0, :2] = torch.tensor([0.0, -0.0])
    assert torch.equal(freeze(layer).weight, sign(latent))
    assert freeze(layer).weight[0, 1] == 1
    assert torch.equal(freeze(layer, "real").weight, latent)


@pytest.mark.parametrize("quantizer", [Sign, StochasticSign])
def test_sample_has_the_probabilities(quantizer: type[nn.Module]) -> None:
    """A sample is +1 with probability hard_sigmoid(latent), whichever of the two the model trained with."""
    latent = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.3, 0.9, 1.0, 7.0])
    layer = binarize(nn.Linear(8, 10000), quantizer)
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(latent.expand(10000, 8))
    weight = freeze(layer, "sample", seed=0).weight
    assert weight.abs().eq(1).all()
    frequency, expected = (weight == 1).double().mean(0), hard_sigmoid(latent)
    assert torch.equal(frequency[[0, 1, 6, 7]], torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64))
    assert (frequency - expected).abs().max() < 0.025  # five standard deviations


def test_sample_of_other_quantizers_is_as_in_training() -> None:
    """A quantizer of one's own is asked in training mode for "sample", in eval mode for "sign"."""

    class Noisy(StochasticSign):
        def forward(self, w: Tensor) -> Tensor:
            return 0.5 * super().forward(w)

    layer = binarize(nn.Linear(50, 50), Noisy)
    latent = layer.parametrizations.weight.original
    assert torch.equal(freeze(layer).weight, 0.5 * sign(latent))
    sampled = freeze(layer, "sample", seed=1).weight
    assert sampled.abs().eq(0.5).all()
    assert not torch.equal(sampled, 0.5 * sign(latent))


def test_a_seed_makes_the_sample() -> None:
    """The same seed gives the same sample, others another; the global generator is left where it was."""
    model = binarize(mlp(), StochasticSign)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    samples = [freeze(model, "sample", seed=seed)[0].weight for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


def test_without_a_seed_samples_follow_the_global_generator() -> None:
    """Without a seed samples differ from each other, and torch.manual_seed repeats them."""
    model = binarize(mlp(), StochasticSign)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = (freeze(model, "sample")[0].weight for _ in range(2))
        torch.manual_seed(5)
        again = freeze(model, "sample")[0].weight
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_a_quantizer_with_its_own_generator() -> None:
    """A StochasticSign with a generator freezes too, by the seed, and its generator is not advanced."""
    generator = torch.Generator().manual_seed(3)
    model = binarize(mlp(), StochasticSign(generator=generator))
    state = generator.get_state()
    samples = [freeze(model, "sample", seed=seed)[0].weight for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(freeze(model)[0].weight, sign(model[0].parametrizations.weight.original))


def test_learned_scales_are_evaluated() -> None:
    """Parameters and buffers of a quantizer end in the frozen weight, and are gone themselves."""

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.25))

        def forward(self, w: Tensor) -> Tensor:
            return self.scale * sign(w)

    layer = binarize(nn.Linear(5, 3), Learned)
    frozen = freeze(layer)
    assert torch.equal(frozen.weight, 0.25 * sign(layer.parametrizations.weight.original))
    assert list(frozen.state_dict()) == ["weight", "bias"]


def test_other_parametrizations_are_evaluated() -> None:
    """weight_norm and spectral_norm on other layers, or under a quantizer, become plain weights as well."""
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 6)),
        parametrizations.spectral_norm(nn.Linear(6, 6)),
        BinaryLinear(6, 3),
    ).eval()
    frozen, x = freeze(model), torch.randn(5, 4)
    assert torch.equal(frozen(x), model(x))
    assert list(frozen.state_dict()) == [f"{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    assert torch.equal(freeze(model, "real")[0].weight, model[0].weight)


def test_an_unknown_way() -> None:
    """Anything but the three ways is refused, with what came."""
    with pytest.raises(ValueError, match="weights must be 'sign', 'sample' or 'real', not 'mean'"):
        freeze(mlp(), "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_is_never_frozen(way: Any, value: float) -> None:
    """A latent weight that is NaN or infinite is an error that names it: its sign would hide it."""
    model = nn.Sequential(nn.ReLU(), binarize(mlp(), StochasticSign))
    with torch.no_grad():
        model[1][3].parametrizations.weight.original[1, 2] = value
    with pytest.raises(ValueError, match=r"^1\.3\.weight holds NaN or infinity$"):
        freeze(model, way)
    with pytest.raises(ValueError, match=r"^weight holds NaN or infinity$"):
        freeze(model[1][3], way)


# --- rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", [Detached, ScaledSign])
def test_rounding_is_snapped(quantizer: type[nn.Module]) -> None:
    """Rows that are ±a but for rounding get one magnitude, an ulp or so beside what the quantizer gave."""
    layer = binarize(nn.Linear(997, 50), quantizer)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer.weight = torch.distributions.Laplace(0.0, 0.05).sample((50, 997))  # a tail, as trained weights
    given, weight = layer.weight.detach(), freeze(layer).weight
    assert torch.equal(weight.abs(), weight[:, :1].abs().expand_as(weight))
    assert torch.allclose(weight, given, rtol=2e-6)
    one_magnitude = [len(row.abs().unique()) == 1 for row in given]
    assert all(one_magnitude) == (quantizer is ScaledSign)  # else there was something to snap


def test_real_magnitudes_are_not_snapped() -> None:
    """Rows whose magnitudes differ by more than rounding stay as they are, and so do "real" weights."""

    class Uneven(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return sign(w) * torch.tensor([1.0, 1.0 + 1e-5])

    layer = binarize(nn.Linear(2, 3), Uneven)
    assert torch.equal(freeze(layer).weight, layer.weight)
    close = BinaryLinear(4, 1)
    with torch.no_grad():
        close.parametrizations.weight.original.copy_(torch.tensor([[0.5, 0.5 + 2**-24, -0.5, 0.5]]))
    assert torch.equal(freeze(close, "real").weight, close.parametrizations.weight.original)


def test_bfloat16_magnitudes_are_not_snapped() -> None:
    """Neighbouring magnitudes of bfloat16 differ by 1/128: they are two, not one that was rounded."""

    class TwoMagnitudes(nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return torch.where(w >= 0, 1.0, -1.0625).to(w.dtype)

    layer = binarize(nn.Linear(8, 4).bfloat16(), TwoMagnitudes)
    assert set(freeze(layer).weight.float().unique().tolist()) == {1.0, -1.0625}

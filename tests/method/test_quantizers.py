"""Quantizers as modules: Sign, StochasticSign, and one's own."""

import copy
import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from bnn.binarization import binarize
from bnn.functional import clipped_ste, identity_ste, sign
from bnn.quantizers import Sign, StochasticSign

X = torch.tensor([-3.0, -1.0, -0.25, -0.0, 0.0, 0.25, 1.0, 3.0])


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class ScaledSign(nn.Module):
    """The quantizer in the docstring of bnn.quantizers."""

    def forward(self, w: Tensor) -> Tensor:
        scale = w.abs().mean(dim=tuple(range(1, w.dim())), keepdim=True)
        return scale * identity_ste(w, sign(w))


def gradient(quantizer: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    quantizer(x).backward(torch.arange(1.0, x.numel() + 1).reshape(x.shape).to(x.dtype))
    assert x.grad is not None
    return x.grad


def test_sign_module_is_the_function() -> None:
    """Sign computes sign(x), in training and in eval()."""
    assert torch.equal(Sign()(X), sign(X))
    assert torch.equal(Sign().eval()(X), sign(X))


def test_stochastic_sign_is_sign_in_eval() -> None:
    """In eval() StochasticSign is sign, and draws no random number."""
    quantizer, before = StochasticSign().eval(), torch.get_rng_state()
    assert torch.equal(quantizer(X), sign(X))
    assert torch.equal(torch.get_rng_state(), before)


def test_stochastic_sign_samples_in_training() -> None:
    """In train() each call draws anew: both signs at latent 0, in about equal numbers."""
    quantizer = StochasticSign(generator=torch.Generator().manual_seed(0))
    first, second = quantizer(torch.zeros(10_000)), quantizer(torch.zeros(10_000))
    assert first.abs().eq(1).all()
    assert abs(float(first.sum())) < 500  # 5 deviations
    assert not torch.equal(first, second)


def test_generator_decides_the_samples() -> None:
    """Two StochasticSigns with generators of one seed draw the same; PyTorch's global one is not used."""
    before = torch.get_rng_state()
    one, two = (StochasticSign(generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one(torch.zeros(100)), two(torch.zeros(100)))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_generator_the_global_seed_decides() -> None:
    """torch.manual_seed makes StochasticSign() reproducible."""
    samples = []
    for _ in range(2):
        torch.manual_seed(8)
        samples.append(StochasticSign()(torch.zeros(100)))
    assert torch.equal(*samples)


def test_a_copied_generator_goes_on_by_itself() -> None:
    """A deep copy has a generator of its own, in the same state: both draw the same numbers next."""
    quantizer = StochasticSign(generator=torch.Generator().manual_seed(5))
    twin = copy.deepcopy(quantizer)
    assert twin.generator is not quantizer.generator
    assert torch.equal(twin(torch.zeros(100)), quantizer(torch.zeros(100)))


@pytest.mark.parametrize("kind", [Sign, StochasticSign])
@pytest.mark.parametrize("training", [True, False])
def test_default_gradient_is_the_identity(kind: type[nn.Module], training: bool) -> None:
    """By default the gradient goes through unchanged, beyond |x| = 1 as well."""
    assert gradient(kind().train(training), X).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", [Sign, StochasticSign])
@pytest.mark.parametrize("training", [True, False])
def test_clipped_estimator(kind, training: bool) -> None:
    """With ste=clipped_ste the gradient is 0 beyond |x| = 1, and passes on the boundary."""
    assert gradient(kind(ste=clipped_ste).train(training), X).tolist() == [0, 2, 3, 4, 5, 6, 7, 0]


@pytest.mark.parametrize("kind", [Sign, StochasticSign])
def test_any_callable_is_an_estimator(kind) -> None:
    """`ste` is called with (x, value), and what it returns is the result; it need not be a named function."""
    seen = []

    def spy(x: Tensor, value: Tensor, factor: float) -> Tensor:
        seen.append((x, value))
        return factor * identity_ste(x, value)

    quantizer = kind(ste=functools.partial(spy, factor=2.0)).eval()
    y = quantizer(X)
    assert len(seen) == 1
    assert seen[0][0] is X
    assert torch.equal(seen[0][1], sign(X))
    assert torch.equal(y, 2 * sign(X))
    assert "partial" in repr(quantizer)


@pytest.mark.parametrize("kind", [Sign, StochasticSign])
def test_repr_names_the_estimator(kind) -> None:
    """A printed quantizer says what its backward does."""
    assert repr(kind(ste=clipped_ste)) == f"{kind.__name__}(ste=clipped_ste)"


@pytest.mark.parametrize("kind", [Sign, StochasticSign, ScaledSign])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_and_input_are_kept(kind: type[nn.Module], dtype: torch.dtype) -> None:
    """A quantizer keeps dtype and shape, and does not write to its input."""
    x = X.to(dtype).reshape(2, 4)
    before, version = x.clone(), x._version
    y = kind()(x)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert torch.equal(x, before)
    assert x._version == version


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 3, 3)])
def test_a_quantizer_of_ones_own(shape: tuple[int, ...]) -> None:
    """The docstring's ScaledSign: one magnitude for each output, its mean |w|, with the signs of w."""
    w = torch.randn(shape)
    value = ScaledSign()(w)
    for row, latent in zip(value, w, strict=True):
        assert torch.allclose(row.abs(), latent.abs().mean())
        assert row.abs().unique().numel() == 1
        assert torch.equal(row.sign(), sign(latent))


def test_a_quantizer_of_ones_own_trains_a_layer() -> None:
    """As an argument of binarize, ScaledSign gives a layer its weight, and its gradient is the formula's."""
    layer = binarize(nn.Linear(4, 1, bias=False), ScaledSign)
    latent = layer.parametrizations.weight.original
    w = latent.detach().clone().double().requires_grad_()
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    layer(x).sum().backward()
    # y = mean|w| · Σ sᵢ xᵢ, so dy/dwᵢ = mean|w| · xᵢ (straight through) + sᵢ / 4 · Σ sⱼ xⱼ (through the mean)
    s = sign(w.detach())
    expected = w.detach().abs().mean() * x.double() + s / 4 * (s * x.double()).sum()
    assert latent.grad is not None
    assert torch.allclose(latent.grad.double(), expected, rtol=1e-5)


def test_quantizers_binarize_activations() -> None:
    """Between two layers a quantizer makes activations of ±1, and gradients reach the layer before it."""
    net = nn.Sequential(nn.Linear(4, 8), Sign(ste=clipped_ste), nn.Linear(8, 2))
    seen: list[Tensor] = []
    net[2].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    net(torch.randn(5, 4) / 4).sum().backward()
    assert seen[0].abs().eq(1).all()
    assert net[0].weight.grad.abs().sum() > 0


# --- autocast ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", [Sign, StochasticSign])
def test_under_autocast_signs_are_made_in_its_dtype(quantizer: type[nn.Module]) -> None:
    """A binarized weight is bfloat16 there, float32 outside; latent weight and gradient are float32."""
    layer = binarize(nn.Linear(8, 4), quantizer)
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(module.weight.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.randn(3, 8))
    assert (seen, y.dtype) == ([torch.bfloat16], torch.bfloat16)
    assert layer.weight.dtype == torch.float32  # nothing leaks out of autocast
    y.sum().backward()
    latent = layer.parametrizations.weight.original
    assert latent.dtype == latent.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_autocast_leaves_other_dtypes_alone(dtype: torch.dtype) -> None:
    """Only float32 is cast, as autocast itself does."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Sign()(torch.randn(3, dtype=dtype)).dtype == dtype


def test_gradients_under_autocast_are_those_of_a_float_layer() -> None:
    """A layer with ±1 weights gives, bit for bit, what a float layer of the same values gives in bfloat16."""
    torch.manual_seed(0)
    binary = binarize(nn.Linear(64, 32))
    twin = nn.Linear(64, 32)
    twin.weight.data, twin.bias.data = binary.weight.detach().clone(), binary.bias.detach().clone()
    x = torch.randn(16, 64)
    outputs, gradients = [], []
    for layer, weight in ((binary, binary.parametrizations.weight.original), (twin, twin.weight)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = layer(x)
        y.float().square().sum().backward()
        outputs.append(y)
        gradients.append(weight.grad)
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)

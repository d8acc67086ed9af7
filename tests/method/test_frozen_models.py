"""freeze gives a stock model, and the original notices nothing."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.torch_helpers import Recurrent, ScaledSign, Tied, attention, conv_net, mlp
from torch import Tensor, nn

from bnn.binarization import BinaryConv2d, binarize, named_latent_parameters
from bnn.freezing import freeze
from bnn.functional import sign
from bnn.quantizers import Sign, StochasticSign

WAYS = ["sign", "sample", "real"]
NETWORKS: list[Callable[[], nn.Module]] = [mlp, conv_net, Tied, Recurrent, attention]


def batch_for(model: nn.Module, seed: int = 0) -> Tensor:
    shape = (3, 4) if not isinstance(model, Recurrent | nn.TransformerEncoderLayer) else (3, 2, 4)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def train(model: nn.Module, steps: int = 3) -> list[Tensor]:
    """Some steps of gradient descent; returns the parameters after it."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        model(batch_for(model, step)).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


# --- the result is a stock model --------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_result_is_stock(network: Callable[[], nn.Module], way: Any) -> None:
    """Classes, state-dict keys and their order, and hooks are those of the float network; in eval mode."""
    stock = network()
    frozen = freeze(binarize(copy.deepcopy(stock)), way)
    assert [type(module) for module in frozen.modules()] == [type(module) for module in stock.modules()]
    assert list(frozen.state_dict()) == list(stock.state_dict())
    assert [name for name, _ in frozen.named_parameters()] == [name for name, _ in stock.named_parameters()]
    assert not any(module.training for module in frozen.modules())
    for module in frozen.modules():
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._forward_hooks_always_called)
        assert not any(hooks)
    stock.load_state_dict(frozen.state_dict())
    assert torch.allclose(stock.eval()(batch_for(stock)), frozen(batch_for(frozen)), atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_result_computes_the_same(network: Callable[[], nn.Module]) -> None:
    """The frozen network's output is the binarized one's in eval mode; with "real", the float network's."""
    stock = network().eval()
    model = binarize(copy.deepcopy(stock)).eval()
    x = batch_for(model)
    assert torch.allclose(freeze(model)(x), model(x), atol=1e-6)
    assert torch.allclose(freeze(model, "real")(x), stock(x), atol=1e-6)
    assert not torch.allclose(model(x), stock(x), atol=1e-2)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_result_can_be_saved_and_copied(network: Callable[[], nn.Module]) -> None:
    """Its state dict goes through a file with weights_only=True; deepcopy gives an equal model of its own."""
    frozen = freeze(binarize(network()))
    file = io.BytesIO()
    torch.save(frozen.state_dict(), file)
    file.seek(0)
    other, copied = network(), copy.deepcopy(frozen)
    other.load_state_dict(torch.load(file, weights_only=True))
    x = batch_for(frozen)
    expected = frozen(x)
    assert torch.allclose(other.eval()(x), expected, atol=1e-6)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.zero_()
    assert torch.equal(copied(x), expected)


def test_frozen_weights_want_no_gradient() -> None:
    """Frozen weights have requires_grad False; other parameters are what they were."""
    frozen = freeze(binarize(mlp()))
    wanting = [name for name, parameter in frozen.named_parameters() if parameter.requires_grad]
    assert wanting == ["0.bias", "1.weight", "1.bias", "3.bias"]


def test_tied_weights_stay_tied() -> None:
    """Layers that shared a latent weight share the frozen one, and so one sample."""
    for way in WAYS:
        frozen = freeze(binarize(Tied(), StochasticSign), way)  # type: ignore[arg-type]
        assert frozen.a.weight is frozen.b.weight
        assert frozen.a.bias is not frozen.b.bias


def test_tied_latent_weights_under_two_quantizers() -> None:
    """Where two layers share a latent weight but binarize it differently, each gets its own value."""
    model = Tied()
    binarize(model.a, Sign)
    binarize(model.b, ScaledSign)
    expected = [layer.weight.detach() for layer in (model.a, model.b)]
    frozen = freeze(model)
    assert torch.allclose(frozen.a.weight, expected[0])
    assert torch.allclose(frozen.b.weight, expected[1])
    assert not torch.allclose(*expected)


def test_only_a_bias_is_binarized() -> None:
    """A layer whose bias alone was binarized has weight and bias in the stock order."""
    layer = binarize(nn.Linear(4, 3), name="bias")
    frozen = freeze(layer)
    assert list(frozen.state_dict()) == ["weight", "bias"]
    assert frozen.bias.abs().eq(1).all()


def test_a_frozen_or_float_model_is_copied() -> None:
    """Freezing what has nothing to freeze gives an equal model in eval mode."""
    frozen = freeze(binarize(mlp()))
    again, x = freeze(frozen), torch.randn(5, 4)
    assert again is not frozen
    assert torch.equal(again(x), frozen(x))


def test_activations_are_deterministic() -> None:
    """Stochastic activations of the frozen model are signs: it is in eval mode, whatever `weights` says."""
    model = nn.Sequential(nn.Linear(4, 50), StochasticSign())
    x = torch.randn(5, 4)
    for way in WAYS:
        frozen = freeze(model, way)  # type: ignore[arg-type]
        assert torch.equal(frozen(x), sign(model[0](x)))


# --- the original -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_original_trains_on(network: Callable[[], nn.Module], way: Any) -> None:
    """Train, freeze, train on: the same parameters as without freezing, mode and classes included."""
    model = binarize(network())
    twin = copy.deepcopy(model)
    train(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    frozen = freeze(model, way, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(module) for module in model.modules()] == classes
    assert all(module.training for module in model.modules())
    weights = {name: value.clone() for name, value in frozen.state_dict().items()}
    train(twin)
    assert all(torch.equal(a, b) for a, b in zip(train(model), train(twin), strict=True))
    assert all(torch.equal(value, weights[name]) for name, value in frozen.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_copies_of_the_original_stay_whole() -> None:
    """The class that parametrize makes is shared by all copies: freezing one leaves the others' property."""
    model = binarize(mlp())
    copies = [copy.deepcopy(model) for _ in range(2)]
    freeze(copies[0])
    del copies[0]
    for other in (model, *copies):
        assert other[0].weight.abs().eq(1).all()
        assert len(list(named_latent_parameters(other))) == 2


def test_freezing_in_the_middle_of_a_forward() -> None:
    """A frozen copy made inside a forward hook, or after a forward without backward, is whole."""
    model = binarize(Recurrent(), StochasticSign)
    made: list[nn.Module] = []
    handle = model.head.register_forward_hook(lambda *_: made.append(freeze(model)))
    model(batch_for(model)).sum()
    handle.remove()
    made.append(freeze(model))
    x = batch_for(model)
    assert torch.equal(made[0](x), made[1](x))


def test_convolutions_of_every_dimension_freeze() -> None:
    """Transposed, 1-D and 3-D layers freeze, though they do not pack yet."""
    for layer in (BinaryConv2d(2, 3, 3), *map(binarize, (nn.Conv1d(2, 3, 3), nn.ConvTranspose2d(2, 3, 3)))):
        frozen = freeze(layer)
        assert type(frozen) in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)
        assert frozen.weight.abs().eq(1).all()

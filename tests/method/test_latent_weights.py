"""Latent weights: their names, state dicts, and how they are changed."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn.binarization import (
    BinaryLinear,
    binarize,
    latent_parameters,
    load_float_state_dict,
    named_latent_parameters,
)
from bnn.freezing import freeze
from bnn.functional import identity_ste, sign
from bnn.quantizers import StochasticSign


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def latent(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    return layer.parametrizations[name].original


def float_net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight


def test_latent_parameters_once_each() -> None:
    """Names are those of the float model; a tied weight comes once, under its first name."""
    net = nn.ModuleDict({"tied": Tied(), "head": nn.Linear(4, 2)})
    names = [name for name, _ in net.named_parameters()]
    binarize(net)
    assert [name for name, _ in named_latent_parameters(net)] == ["tied.encoder.weight", "head.weight"]
    assert set(dict(named_latent_parameters(net))) < set(names)
    assert [p.shape for p in latent_parameters(net)] == [(4, 4), (2, 4)]
    assert [name for name, _ in named_latent_parameters(binarize(nn.Linear(2, 2), name="bias"))] == ["bias"]
    assert list(latent_parameters(nn.Linear(2, 2))) == []


# --- state dicts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [float_net, Tied, lambda: nn.LSTM(3, 4), lambda: nn.MultiheadAttention(4, 2)]
)
def test_state_dict_round_trip(make) -> None:
    """state_dict holds latent weights, and load_state_dict brings them back, into the same parameters."""
    model, other = binarize(make()), binarize(make())
    parameters = {name: id(p) for name, p in other.named_parameters()}
    state = copy.deepcopy(model.state_dict())
    other.load_state_dict(state)
    assert {name: id(p) for name, p in other.named_parameters()} == parameters
    for (name, one), (_, two) in zip(
        named_latent_parameters(model), named_latent_parameters(other), strict=True
    ):
        assert torch.equal(one, two), name
        assert two.abs().ne(1).any()
    assert set(other.state_dict()) == set(state)


class Shared(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = self.two = nn.Linear(4, 4)


@pytest.mark.parametrize("make", [float_net, Tied, Shared, lambda: nn.LSTM(3, 4)])
def test_a_float_state_dict_gives_the_latent_weights(make) -> None:
    """load_float_state_dict loads the float model's state: its weights become the latent weights."""
    plain = make()
    twin = binarize(make(), StochasticSign)
    load_float_state_dict(twin, plain.state_dict())
    for name, parameter in named_latent_parameters(twin):
        assert torch.equal(parameter, plain.get_parameter(name))
    binarize(plain)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key])


def test_a_float_state_dict_is_loaded_strictly() -> None:
    """A missing key, an unexpected one and a wrong shape are errors."""
    state = float_net().state_dict()
    missing = {key: value for key, value in state.items() if key != "0.weight"}
    for wrong, message in (
        (missing, "Missing key.*0.parametrizations.weight.original"),
        ({**state, "4.weight": torch.ones(2)}, "Unexpected key.*4.weight"),
        ({**state, "0.weight": torch.ones(2, 2)}, "size mismatch for 0.parametrizations.weight.original"),
    ):
        with pytest.raises(RuntimeError, match=f"(?s){message}"):
            load_float_state_dict(binarize(float_net()), wrong)


class LearnedScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, w: Tensor) -> Tensor:
        return self.scale * identity_ste(w, sign(w))


@pytest.mark.parametrize("make", [float_net, Tied])
def test_a_float_state_dict_leaves_quantizers_alone(make) -> None:
    """Parameters of a quantizer, which the float model does not have, keep their values."""
    plain, twin = make(), binarize(make(), LearnedScale)
    with torch.no_grad():
        for module in twin.modules():
            if isinstance(module, LearnedScale):
                module.scale.fill_(0.75)
    load_float_state_dict(twin, plain.state_dict())
    scales = [module.scale.item() for module in twin.modules() if isinstance(module, LearnedScale)]
    assert scales
    assert set(scales) == {0.75}
    for name, parameter in named_latent_parameters(twin):
        assert torch.equal(parameter, plain.get_parameter(name))


# --- changing a weight -------------------------------------------------------------------------------------


def test_assignment_reaches_the_latent_weight_as_a_copy() -> None:
    """`layer.weight = value` sets the latent weight, still the same parameter, to a copy of value."""
    layer = binarize(nn.Linear(3, 2))
    parameter, value = latent(layer), torch.tensor([[0.5, -0.5, 0.0], [2.0, -2.0, 0.125]])
    layer.weight = value
    value.fill_(7.0)
    assert latent(layer) is parameter
    assert parameter.tolist() == [[0.5, -0.5, 0.0], [2.0, -2.0, 0.125]]
    assert layer.weight.tolist() == [[1, -1, 1], [1, -1, 1]]


def test_assigning_another_layers_weight_ties_nothing() -> None:
    """Assigned from another binarized layer, the latent weight takes the ±1 values; the layers stay two."""
    one, other = binarize(nn.Linear(3, 2)), binarize(nn.Linear(3, 2))
    one.weight = other.weight
    assert torch.equal(latent(one), sign(latent(other).detach()))
    with torch.no_grad():
        latent(one).zero_()
    assert latent(other).abs().min() > 0


IN_PLACE: list[Callable[[nn.Linear], object]] = [
    lambda layer: nn.init.uniform_(layer.weight),
    lambda layer: layer.reset_parameters(),
    lambda layer: layer.weight.detach().mul_(0.5),
]


@pytest.mark.parametrize("change", IN_PLACE, ids=["init", "reset_parameters", "mul_"])
@pytest.mark.parametrize("then", [lambda layer: layer.weight, lambda layer: layer(torch.ones(1, 3))])
def test_a_change_in_place_is_loud(change, then) -> None:
    """A change of layer.weight in place cannot reach the latent weight: the next read or forward raises."""
    layer = binarize(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="changed in place"):  # noqa: PT012
        change(layer)
        then(layer)
    then(layer)


def test_the_ways_that_the_error_recommends() -> None:
    """Assigning, and initialising the latent weight itself, work and raise nothing afterwards."""
    layer = BinaryLinear(3, 2)
    nn.init.ones_(layer.weight)
    layer.weight = torch.full((2, 3), -0.5)  # makes good what the line before did in vain
    assert layer.weight.eq(-1).all()
    nn.init.constant_(layer.parametrizations.weight.original, 0.25)
    assert layer(torch.ones(1, 3)).tolist() == (3 + layer.bias).unsqueeze(0).tolist()


def test_reading_is_harmless() -> None:
    """Any number of reads, forwards, steps and evaluations in between raise nothing."""
    layer = binarize(nn.Linear(3, 2), StochasticSign)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    kept = []
    for training in (True, False, True):
        layer.train(training)
        kept += [layer.weight, layer.weight.detach().clone().mul_(2)]
        layer(torch.ones(1, 3)).sum().backward()
        kept.append(layer.weight)
        optimizer.step()
    assert len(kept) == 9


@pytest.mark.parametrize("use", [freeze, copy.deepcopy, lambda layer: layer.state_dict()])
def test_a_change_in_place_is_noticed_before_it_is_lost(use: Callable[[nn.Module], object]) -> None:
    """nn.init on the view fails loudly when the layer is frozen, copied or saved as well."""
    layer = BinaryLinear(8, 4)
    nn.init.ones_(layer.weight)
    with pytest.raises(RuntimeError, match="changed in place"):
        use(layer)


@pytest.mark.parametrize("quantizer", [sign, lambda w: w, lambda: 3, "weight"])
def test_what_is_no_quantizer_is_refused(quantizer: Any) -> None:
    """A function of a tensor, or a string, in the quantizer's place is a ValueError that says the rule."""
    with pytest.raises(ValueError, match=r"quantizer must be an nn\.Module"):
        binarize(nn.Linear(4, 3), quantizer)

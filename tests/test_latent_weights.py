"""Latent weights: optimizers, clipping, learning rates, state dicts, assignment."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bnn.binarize import (
    BinaryLinear,
    binarize,
    clip_latent_weights,
    latent_parameters,
    load_float_state_dict,
    named_latent_parameters,
    scaled_parameter_groups,
)
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


# --- optimizers -------------------------------------------------------------------------------------------

OPTIMIZERS = {
    name: kind
    for name in torch.optim.__all__
    if isinstance(kind := getattr(torch.optim, name), type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
}
ARGUMENTS: dict[str, dict[str, object]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adadelta": {"lr": 1.0},
    "LBFGS": {"lr": 0.1, "max_iter": 4},
    "Muon": {"lr": 0.1},
}


def optimizer_for(name: str, model: nn.Module) -> torch.optim.Optimizer:
    if name == "SparseAdam":
        pytest.skip("SparseAdam takes sparse gradients alone, and those of layers are dense")
    parameters = list(model.parameters())
    if name == "Muon":  # for matrices only
        parameters = [p for p in parameters if p.dim() == 2]
    return OPTIMIZERS[name](parameters, **ARGUMENTS.get(name, {"lr": 0.02}))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 15) -> list[float]:
    x = torch.randn(64, 8)
    target = x[:, :3].argmax(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x) / 16, target)
        loss.backward()
        return loss

    return [float(optimizer.step(closure)) for _ in range(steps)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("made", ["before", "after"])
def test_any_optimizer(name: str, made: str) -> None:
    """Every torch.optim optimizer, made before or after binarize, trains latent weights; clipping keeps them in [-1, 1]."""
    model = float_net()
    optimizer = optimizer_for(name, model)
    binarize(model)
    if made == "after":
        optimizer = optimizer_for(name, model)
    with torch.no_grad():
        for parameter in latent_parameters(model):
            parameter.uniform_(-1, 1)
            parameter[0] = 0.9999  # some are about to leave
    before = [p.detach().clone() for p in latent_parameters(model)]
    clip_latent_weights(optimizer, model)
    losses = train(model, optimizer)
    for parameter, start in zip(latent_parameters(model), before, strict=True):
        assert not torch.equal(parameter, start)
        assert parameter.abs().max() <= 1
    assert min(losses[1:]) < losses[0]


def test_the_list_of_optimizers_is_complete() -> None:
    """The test above meets the optimizers that PyTorch has, the common ones among them."""
    assert len(OPTIMIZERS) >= 14
    assert {"Adam", "AdamW", "LBFGS", "Muon", "RMSprop", "SGD", "SparseAdam"} <= set(OPTIMIZERS)


# --- clipping ---------------------------------------------------------------------------------------------


def test_clipping_is_after_every_step_and_of_latent_weights_alone() -> None:
    """Each step is followed by a clip of the latent weights; biases go where they like."""
    layer = binarize(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    clip_latent_weights(optimizer, layer)
    for push in (5.0, -7.0, 9.0):
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, -push)
        optimizer.step()
        assert latent(layer).eq(1.0 if push > 0 else -1.0).all()
    assert layer.bias.min() > 5


def test_limit_and_remove() -> None:
    """`limit` is the bound, and handle.remove() ends the clipping."""
    layer = binarize(nn.Linear(2, 2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    handle = clip_latent_weights(optimizer, layer, limit=0.25)
    for expected in (0.25, 5.25):
        latent(layer).grad = torch.full((2, 2), -5.0)
        optimizer.step()
        assert latent(layer).eq(expected).all()
        handle.remove()


def test_clipping_with_nothing_to_clip_is_an_error() -> None:
    """No binarized weights, an optimizer without them, or a limit that is not positive: each is a ValueError."""
    plain, layer, other = nn.Linear(2, 2), binarize(nn.Linear(2, 2)), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*layer.parameters(), *plain.parameters()], lr=1.0)
    with pytest.raises(ValueError, match="no binarized weights to clip"):
        clip_latent_weights(optimizer, plain)
    with pytest.raises(ValueError, match="holds none of the model's latent weights"):
        clip_latent_weights(torch.optim.SGD(other.parameters(), lr=1.0), layer)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"limit must be positive, not {limit}"):
            clip_latent_weights(optimizer, layer, limit)


# --- lists and learning rates -----------------------------------------------------------------------------


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


FANS: list[tuple[Callable[[], nn.Module], float]] = [
    (lambda: nn.Linear(784, 2048), 43.45),  # sqrt((784 + 2048) / 1.5): the authors' figures
    (lambda: nn.Linear(2048, 2048), 52.26),
    (lambda: nn.Conv2d(128, 128, 3), 39.19),
    (lambda: nn.Conv2d(128, 64, 3, groups=4), ((32 + 64) * 9 / 1.5) ** 0.5),
    (lambda: nn.Conv1d(4, 8, 5), (12 * 5 / 1.5) ** 0.5),
]


@pytest.mark.parametrize(("make", "scale"), FANS)
def test_learning_rates_are_the_authors(make, scale: float) -> None:
    """A latent weight's rate is lr * sqrt((fan_in + fan_out) / 1.5); a bias keeps lr."""
    layer = make()
    latent_group, others = scaled_parameter_groups(binarize(layer), lr=0.5)
    assert latent_group["lr"] == pytest.approx(0.5 * scale, rel=2e-4)
    assert latent_group["name"] == "weight"
    assert latent_group["params"][0] is latent(layer)
    assert others["lr"] == 0.5
    assert others["params"][0] is layer.bias


def test_every_parameter_is_in_one_group() -> None:
    """The groups hold each parameter of the model exactly once, a tied one too; a binarized bias has no fans."""
    net = nn.ModuleDict({"tied": Tied(), "net": float_net(), "norm": nn.LayerNorm(4)})
    binarize(net, skip="net.3")
    binarize(net["net"][3], name="bias")
    groups = scaled_parameter_groups(net, lr=0.1)
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    rates = {group["name"]: group["lr"] for group in groups}
    assert list(rates) == ["tied.encoder.weight", "net.0.weight", "net.3.bias", "others"]
    assert rates["others"] == rates["net.3.bias"] == 0.1
    torch.optim.Adam(groups)  # raises if a parameter were in two


def test_a_model_without_other_parameters() -> None:
    """Where every parameter is a latent weight there is no empty group."""
    groups = scaled_parameter_groups(binarize(nn.Linear(4, 2, bias=False)), lr=0.1)
    assert [group["name"] for group in groups] == ["weight"]


def test_a_schedule_keeps_the_ratio() -> None:
    """Schedules multiply each group's rate, so that latent weights stay that much faster."""
    model = binarize(float_net())
    optimizer = torch.optim.SGD(scaled_parameter_groups(model, lr=0.1))
    ratio = [group["lr"] / 0.1 for group in optimizer.param_groups]
    assert ratio[0] == pytest.approx(4.0)  # sqrt((8 + 16) / 1.5)
    for schedule in (
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10),
    ):
        for _ in range(3):
            optimizer.step()
            schedule.step()
            rates = [group["lr"] for group in optimizer.param_groups]
            assert rates[-1] < 0.1
            assert [rate / rates[-1] for rate in rates] == pytest.approx(ratio)


# --- state dicts ------------------------------------------------------------------------------------------


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


# --- changing a weight ------------------------------------------------------------------------------------


def test_assignment_reaches_the_latent_weight_as_a_copy() -> None:
    """`layer.weight = value` sets the latent weight, the same parameter as before, and ties nothing to value."""
    layer = binarize(nn.Linear(3, 2))
    parameter, value = latent(layer), torch.tensor([[0.5, -0.5, 0.0], [2.0, -2.0, 1e-9]])
    layer.weight = value
    value.fill_(7.0)
    assert latent(layer) is parameter
    assert parameter.tolist() == [[0.5, -0.5, 0.0], [2.0, -2.0, pytest.approx(1e-9)]]
    assert layer.weight.tolist() == [[1, -1, 1], [1, -1, 1]]
    other = nn.Linear(3, 2)
    layer.weight = other.weight
    with torch.no_grad():
        latent(layer).zero_()
    assert other.weight.abs().min() > 0


IN_PLACE: list[Callable[[nn.Linear], object]] = [
    lambda layer: nn.init.uniform_(layer.weight),
    lambda layer: layer.reset_parameters(),
    lambda layer: layer.weight.data.fill_(1.0),
    lambda layer: layer.weight.detach().mul_(0.5),
]


@pytest.mark.parametrize("change", IN_PLACE, ids=["init", "reset_parameters", "data", "detach"])
@pytest.mark.parametrize("then", [lambda layer: layer.weight, lambda layer: layer(torch.ones(1, 3))])
def test_a_change_in_place_is_loud(change, then) -> None:
    """A change of layer.weight in place never reaches the latent weight: the next read or forward raises, once."""
    layer = binarize(nn.Linear(3, 2))
    change(layer)
    with pytest.raises(RuntimeError, match="changed in place"):
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

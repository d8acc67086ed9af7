"""Latent weights under the user's own optimizer: every one of torch.optim, clipping, learning rates."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from bnn.binarization import binarize, clip_latent_weights, latent_parameters, scaled_parameter_groups


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


# --- optimizers --------------------------------------------------------------------------------------------

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
    "LBFGS": {"lr": 1.0, "max_iter": 4, "line_search_fn": "strong_wolfe"},
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

    return [optimizer.step(closure).item() for _ in range(steps)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("made", ["before", "after"])
def test_any_optimizer(name: str, made: str) -> None:
    """Every torch.optim optimizer, made before or after binarize, trains latent weights within [-1, 1]."""
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


# --- clipping ----------------------------------------------------------------------------------------------


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
    """No binarized weights, an optimizer without them, a limit that is not positive: each is an error."""
    plain, layer, other = nn.Linear(2, 2), binarize(nn.Linear(2, 2)), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*layer.parameters(), *plain.parameters()], lr=1.0)
    with pytest.raises(ValueError, match="no binarized weights to clip"):
        clip_latent_weights(optimizer, plain)
    with pytest.raises(ValueError, match="holds none of the model's latent weights"):
        clip_latent_weights(torch.optim.SGD(other.parameters(), lr=1.0), layer)
    for limit in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"limit must be positive, not {limit}"):
            clip_latent_weights(optimizer, layer, limit)


# --- learning rates ----------------------------------------------------------------------------------------

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
    """The groups hold each parameter exactly once, a tied one too; a binarized bias, without fans, has lr."""
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


def test_weights_of_one_rate_share_a_group() -> None:
    """There are as many groups as rates, in the order of the first weight of each."""
    net = binarize(nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in ((4, 8), (8, 8), (8, 4), (8, 8)))))
    groups = scaled_parameter_groups(net, lr=0.1)
    assert [group["name"] for group in groups] == ["0.weight, 2.weight", "1.weight, 3.weight"]
    assert [p.shape for p in groups[0]["params"]] == [(8, 4), (4, 8)]


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

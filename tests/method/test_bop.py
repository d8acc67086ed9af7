"""Bop: weights that are ±1 themselves, flipped by averages of their gradients."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bnn.binarization import binarize, latent_parameters
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.functional import approx_ste, sign
from bnn.optim import Bop
from bnn.packed.nodes import Linear
from bnn.packing.packing import pack
from bnn.quantizers import Sign


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def step(optimizer: Bop, *gradients: list[float]) -> None:
    """A step in which the parameters of all groups have these gradients."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for p, values in zip(held, gradients, strict=True):
        p.grad = torch.tensor(values, dtype=p.dtype)
    optimizer.step()


# --- the algorithm ----------------------------------------------------------------------------------------

gradients = st.lists(
    st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.125, 0.5]) | st.floats(-1, 1), min_size=3, max_size=3),
    min_size=1,
    max_size=8,
)


@given(steps=gradients, gamma=st.floats(0.01, 1.0), tau=st.sampled_from([0.0, 1e-8, 0.1, 0.4]))
def test_steps_are_the_papers(steps: list[list[float]], gamma: float, tau: float) -> None:
    """m <- (1 - gamma) m + gamma g; a weight flips where |m| >= tau and m has its sign: entry by entry."""
    w, m = [1.0, -1.0, 1.0], [0.0, 0.0, 0.0]
    weights = parameter(*w)
    optimizer = Bop([weights], gamma=gamma, tau=tau)
    for g in steps:
        step(optimizer, g)
        for i in range(3):
            m[i] = (1 - gamma) * m[i] + gamma * g[i]
            if abs(abs(m[i]) - tau) < 1e-12:  # a tie, but for rounding: take what came
                w[i] = weights[i].item()
            elif abs(m[i]) >= tau and m[i] * w[i] > 0:
                w[i] = -w[i]
        assert weights.tolist() == w
        assert optimizer.state[weights]["average"].tolist() == pytest.approx(m, abs=1e-12)


def test_the_threshold_is_reached_by_equality() -> None:
    """An average of exactly tau flips, the next number below does not; neither does one of the other sign."""
    weights = parameter(1, 1, -1, -1, 1)
    below = math.nextafter(0.25, 0)
    step(Bop([weights], gamma=1.0, tau=0.25), [0.25, below, -0.25, -below, -0.25])
    assert weights.tolist() == [-1, 1, 1, -1, 1]


def test_without_a_threshold_an_average_of_0_flips_nothing() -> None:
    """With tau = 0 the least gradient flips, but none, or one of exactly 0, does not, whatever the sign."""
    weights = parameter(1, -1, 1, -1, 1)
    step(Bop([weights], gamma=0.5, tau=0.0), [0.0, 0.0, -0.0, -1e-300, 1e-300])
    assert weights.tolist() == [1, -1, 1, 1, -1]


def test_single_gradients_do_not_flip() -> None:
    """Inertia: at gamma 0.1 and tau 0.2 gradients of 1 flip at the third step, alternating ones never."""
    weights = parameter(1, 1)
    optimizer = Bop([weights], gamma=0.1, tau=0.2)
    seen = []
    for i in range(6):
        step(optimizer, [1.0, (-1.0) ** i])
        seen.append(weights.tolist())
    # 1 - 0.9^n is 0.1, 0.19, 0.271: once flipped, the sign differs from the average's, and stays.
    assert [first for first, _ in seen] == [1, 1, -1, -1, -1, -1]
    assert [second for _, second in seen] == [1] * 6


# --- parameters -------------------------------------------------------------------------------------------


def test_parameters_become_signs() -> None:
    """The constructor takes the signs of weights, +1 for 0 and -0.0; a group that is added, too."""
    weights, others = parameter(0.3, -7.0, 0.0, -0.0), parameter(-0.1, 2.0)
    optimizer = Bop([weights])
    assert weights.tolist() == [1, -1, 1, 1]
    for later in (optimizer, copy.deepcopy(optimizer)):
        with torch.no_grad():
            others.copy_(torch.tensor([-0.1, 2.0]))
        later.add_param_group({"params": [others], "tau": 0.5})
        assert others.tolist() == [-1, 1]
        assert (later.param_groups[1]["tau"], later.param_groups[1]["gamma"]) == (0.5, 1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (parameter(1.0, math.nan), r"a parameter of shape \(2,\) holds NaN or infinity"),
        (parameter(1.0, -math.inf), r"a parameter of shape \(2,\) holds NaN or infinity"),
        (nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), "in float32 or float64, not torch.bfloat16"),
        (nn.Parameter(torch.ones(2, dtype=torch.float16)), "under torch.autocast"),
    ],
)
def test_parameters_that_are_refused(wrong: nn.Parameter, message: str) -> None:
    """NaN, infinity and low precision are errors, after which every parameter and group is what it was."""
    fine = parameter(0.3, -0.4)
    with pytest.raises(ValueError, match=message):
        Bop([{"params": [fine]}, {"params": [wrong]}])
    assert fine.tolist() == [0.3, -0.4]
    optimizer = Bop([parameter(1.0)])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [fine, wrong]})
    assert fine.tolist() == [0.3, -0.4]
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("gamma", [0.0, -0.1, 1.5, math.nan])
def test_gamma_out_of_range(gamma: float) -> None:
    """Gamma is in (0, 1], for all parameters or for a group."""
    for arguments in (([parameter(0.5)], gamma), ([{"params": [parameter(0.5)], "gamma": gamma}],)):
        with pytest.raises(ValueError, match=rf"gamma must be in \(0, 1\], not {gamma}"):
            Bop(*arguments)


@pytest.mark.parametrize("tau", [-1e-9, math.inf, math.nan])
def test_tau_out_of_range(tau: float) -> None:
    """Tau is 0 or more, and finite."""
    with pytest.raises(ValueError, match=f"tau must be 0 or more, and finite, not {tau}"):
        Bop([parameter(0.5)], tau=tau)


def test_groups_and_schedules() -> None:
    """Each group has its gamma and tau, and a change of them counts from the next step on."""
    first, second = parameter(1.0), parameter(1.0)
    optimizer = Bop(
        [{"params": [first], "gamma": 0.5}, {"params": [second], "tau": 0.3}], gamma=0.25, tau=0.2
    )
    step(optimizer, [0.5], [0.5])
    averages = [optimizer.state[p]["average"].item() for p in (first, second)]
    assert averages == [0.25, 0.125]
    assert (first.item(), second.item()) == (-1, 1)
    optimizer.param_groups[1]["gamma"] = 1.0
    step(optimizer, [0.0], [0.25])
    assert optimizer.state[second]["average"].item() == 0.25
    assert second.item() == 1
    optimizer.param_groups[1]["tau"] = 0.25
    step(optimizer, [0.0], [0.25])
    assert second.item() == -1


def test_parameters_without_gradient() -> None:
    """They are left alone, and have no state until they get one; so is an optimizer of nothing but them."""
    first, second = parameter(1.0), parameter(1.0)
    optimizer = Bop([first, second], gamma=1.0)
    optimizer.step()
    first.grad = torch.ones_like(first)
    optimizer.step()
    assert (first.item(), second.item()) == (-1, 1)
    assert list(optimizer.state) == [first]


def test_sparse_gradients_are_refused() -> None:
    """A sparse gradient is an error before any parameter is touched."""
    fine, table = parameter(1.0), nn.Embedding(5, 2, sparse=True)
    optimizer = Bop([{"params": [fine]}, {"params": table.parameters()}], gamma=1.0)
    before = table.weight.detach().clone()
    fine.grad = torch.ones_like(fine)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(ValueError, match="Bop takes dense gradients only"):
        optimizer.step()
    assert fine.item() == 1
    assert torch.equal(table.weight, before)
    assert not optimizer.state


def test_a_nan_stays_where_it_is() -> None:
    """A weight whose gradient was NaN flips no more; its neighbours do."""
    weights = parameter(1.0, 1.0)
    optimizer = Bop([weights], gamma=0.5)
    step(optimizer, [math.nan, -1.0])
    step(optimizer, [1.0, 5.0])
    assert weights.tolist() == [1, -1]


def test_weights_that_were_overwritten() -> None:
    """A float network's weights, loaded later, count by their signs, and are signs after the next step."""
    weights = parameter(1.0, 1.0, 1.0)
    optimizer = Bop([weights], gamma=1.0, tau=0.5)
    with torch.no_grad():
        weights.copy_(torch.tensor([0.1, 30.0, -0.2]))
    step(optimizer, [0.6, 0.1, 0.6])
    assert weights.tolist() == [-1, 1, -1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_and_order_in_memory(dtype: torch.dtype) -> None:
    """Transposed, empty and single weights flip as others do."""
    matrix = nn.Parameter(torch.randn(6, 4, dtype=dtype).t())
    others = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((0, 3), (), (1, 2, 3, 4))]
    before = sign(matrix.detach())
    optimizer = Bop([matrix, *others], gamma=1.0, tau=0.0)
    for p in (matrix, *others):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert torch.equal(matrix, torch.where(before > 0, -1, before))
    assert all(p.eq(-1).all() for p in others)


# --- as an optimizer of PyTorch's -------------------------------------------------------------------------


def test_closure() -> None:
    """The closure runs with gradients on, before the step, and its loss is returned."""
    weights = parameter(1.0, -1.0)
    optimizer = Bop([weights], gamma=1.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (weights * torch.tensor([3.0, 3.0])).sum() + 7
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 7
    assert weights.tolist() == [-1, -1]
    assert optimizer.step() is None


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Weights and state, saved and loaded into new ones, go on as the original does."""

    def some_steps(model: nn.Module, optimizer: Bop, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(16, 8, generator=generator)).square().mean().backward()
            optimizer.step()

    def fresh(gamma: float) -> tuple[nn.Module, Bop]:
        model = binarize(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)))
        return model, Bop(latent_parameters(model), gamma=gamma, tau=1e-3)

    model, optimizer = fresh(0.1)
    start = [p.detach().clone() for p in latent_parameters(model)]
    some_steps(model, optimizer, 1)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    saved = torch.load(tmp_path / "run.pt", weights_only=True)
    other, resumed = fresh(0.7)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["gamma"] == 0.1
    middle = [p.detach().clone() for p in latent_parameters(other)]
    some_steps(model, optimizer, 2)
    some_steps(other, resumed, 2)
    for one, two, then, first in zip(
        latent_parameters(model), latent_parameters(other), middle, start, strict=True
    ):
        assert torch.equal(one, two)
        assert torch.equal(optimizer.state[one]["average"], resumed.state[two]["average"])
        assert not torch.equal(then, first)
        assert not torch.equal(one, then)


def test_copies_go_on_by_themselves() -> None:
    """A deep copy of model and optimizer has averages of its own."""
    weights = parameter(1.0)
    optimizer = Bop([weights], gamma=0.5, tau=0.6)
    step(optimizer, [1.0])
    twin = copy.deepcopy(optimizer)
    step(twin, [1.0])
    assert twin.param_groups[0]["params"][0].item() == -1
    assert (weights.item(), optimizer.state[weights]["average"].item()) == (1, 0.5)


# --- with binarize ----------------------------------------------------------------------------------------


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    data = load_dataset("digits")
    x, x_test = ((torch.from_numpy(a) / 255 - 0.31) / 0.38 for a in (data.train_inputs, data.test_inputs))
    return x, torch.from_numpy(data.train_targets), x_test, torch.from_numpy(data.test_targets)


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 10, bias=False),
        nn.BatchNorm1d(10),
    )


def accuracy_of(model: nn.Module, weights: list[Any], tau: float) -> float:
    """After 200 steps of Bop on the weights and Adam on the rest, on the test images."""
    x, y, x_test, y_test = digits()
    others = [p for p in model.parameters() if all(p is not w for w in weights)]
    bop, adam = Bop(weights, gamma=0.01, tau=tau), torch.optim.Adam(others, lr=0.01)
    for i in range(200):
        rows = torch.randint(0, len(x), (100,))
        bop.param_groups[0]["gamma"] = 0.01 * (1 - i / 200)
        model.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        bop.step()
        adam.step()
    assert all(w.abs().eq(1).all() for w in weights)
    with torch.no_grad():
        return (model.eval()(x_test).argmax(1) == y_test).float().mean().item()


def test_it_learns_the_digits() -> None:
    """With Adam for the batch norms it learns far more than they do alone; the network packs to bits."""
    model = binarize(mlp())
    learned = accuracy_of(model, list(latent_parameters(model)), tau=1e-6)
    untrained = binarize(mlp())
    without_flips = accuracy_of(untrained, list(latent_parameters(untrained)), tau=1e9)
    assert learned > 0.9
    assert learned > without_flips + 0.05
    packed = pack(freeze(model), digits()[0][:2])
    assert all(node.is_packed for node in packed.nodes if isinstance(node, Linear))


def test_parameters_as_they_are() -> None:
    """Without binarize the network computes with the parameters themselves, and packs as it is."""
    model = mlp()
    assert accuracy_of(model, [model[1].weight, model[4].weight], tau=1e-6) > 0.9
    packed = pack(model, digits()[0][:2])
    assert all(node.is_packed for node in packed.nodes if isinstance(node, Linear))


def test_an_estimator_that_ends_at_1_gives_no_gradient() -> None:
    """Weights are at ±1, where the identity lets gradients pass, and approx_ste does not."""
    for quantizer, passes in ((Sign(), True), (Sign(approx_ste), False)):
        layer = binarize(nn.Linear(4, 3), quantizer)
        (weight,) = latent_parameters(layer)
        Bop([weight])
        layer(torch.randn(5, 4)).square().sum().backward()
        assert weight.grad is not None
        assert bool(weight.grad.any()) == passes

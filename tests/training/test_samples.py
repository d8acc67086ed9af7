"""One forward, one sample: what a module reads of its stochastic weights, and what backward makes of it."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from bnn.binarization import binarize, latent_parameters
from bnn.functional import sign
from bnn.quantizers import Sign, StochasticSign


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Recorded(StochasticSign):
    """Keeps a copy of each sample that it draws."""

    def __init__(self) -> None:
        super().__init__()
        self.samples: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        value = super().forward(x)
        self.samples.append(value.detach().clone())
        return value


def recorded(module: nn.Module, name: str | None = None) -> tuple[nn.Module, list[Tensor]]:
    """The module binarized, and the list that takes its samples from now on."""
    quantizer = Recorded()
    binarize(module, quantizer, name)
    quantizer.samples.clear()
    return module, quantizer.samples


def latent(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    return layer.parametrizations[name].original  # type: ignore[index,union-attr,return-value]


class Net(nn.Module):
    """One layer, in a network whose forward is a function of the layer and the input."""

    def __init__(self, layer: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.layer, x)


# --- modules that read a weight several times -------------------------------------------------------------

READERS: list[tuple[Callable[[], nn.Module], str, int]] = [
    (lambda: nn.LSTM(4, 4), "weight_hh_l0", 1),
    (lambda: nn.GRU(4, 4), "weight_ih_l0", 1),
    (lambda: nn.MultiheadAttention(4, 2), "in_proj_weight", 3),
]


@pytest.mark.parametrize("whole", [False, True], ids=["alone", "in a network"])
@pytest.mark.parametrize(("make", "name", "inputs"), READERS, ids=["LSTM", "GRU", "MultiheadAttention"])
def test_a_forward_uses_one_sample(make, name: str, inputs: int, whole: bool) -> None:
    """A forward draws once, for its output and its gradients; the next one draws anew."""
    layer, plain = make(), make()
    plain.load_state_dict(layer.state_dict())
    layer, samples = recorded(layer, name)
    run = Net(layer, lambda layer, x: layer(*[x] * inputs)[0]) if whole else lambda x: layer(*[x] * inputs)[0]
    x = torch.randn(3, 2, 4)
    y = run(x)
    assert len(samples) == 1
    y.square().sum().backward()
    assert len(samples) == 1

    with torch.no_grad():
        plain.get_parameter(name).copy_(samples[0])
    expected = plain(*[x] * inputs)[0]
    expected.square().sum().backward()
    assert torch.allclose(y, expected, atol=1e-6)
    assert torch.allclose(latent(layer, name).grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-6)

    run(x)
    assert len(samples) == 2
    assert not torch.equal(samples[0], samples[1])


def test_a_layer_of_a_network_by_itself() -> None:
    """A layer of a binarized network, called outside of it, uses one sample too."""
    net, samples = recorded(Net(nn.LSTM(4, 4), lambda layer, x: layer(x)[0]))
    net.layer(torch.ones(2, 1, 4))
    assert [sample.shape for sample in samples] == [(16, 4), (16, 4)]


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: nn.LSTM(4, 4)], ids=["Linear", "LSTM"])
def test_a_layer_called_twice_in_a_forward(make) -> None:
    """A layer called twice by its network uses one sample in both, and both calls have their gradient."""
    layer, samples = recorded(make())
    weights = len(list(latent_parameters(layer)))

    def last(layer: nn.Module, x: Tensor) -> Tensor:
        layer(x)
        y = layer(x)
        return y[0] if isinstance(y, tuple) else y

    Net(layer, last)(torch.ones(2, 1, 4)).sum().backward()
    assert len(samples) == 2 * weights  # not known to the network: each call draws
    samples.clear()
    layer.zero_grad()

    net, samples = recorded(Net(make(), last))
    net(torch.ones(2, 1, 4)).sum().backward()
    assert len(samples) == weights
    for parameter in net.parameters():
        assert parameter.grad.abs().sum() > 0


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def test_tied_weights_share_a_sample() -> None:
    """Layers that share a parameter use one sample in a forward, and its gradient is the sum of both."""
    net, samples = recorded(Tied())
    assert latent(net.a) is latent(net.b)
    x = torch.randn(3, 8)
    y = net(x)
    assert len(samples) == 1
    w1, w2 = samples[0].clone().requires_grad_(), samples[0].clone().requires_grad_()
    expected = x @ w1.T @ w2.T
    assert torch.allclose(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(latent(net.a).grad, w1.grad + w2.grad, rtol=1e-4)
    net(x)
    assert not torch.equal(samples[0], samples[1])


def test_a_tie_survives_a_copy() -> None:
    """The copy's layers share a latent weight and a sample with each other, not with the original's."""
    net = binarize(Tied(), Recorded)
    net(torch.ones(1, 8))
    twin = copy.deepcopy(net)
    assert latent(twin.a) is latent(twin.b)
    assert latent(twin.a) is not latent(net.a)
    samples = twin.a.parametrizations.weight[0].quantizer.samples
    samples.clear()
    assert torch.allclose(twin(torch.eye(8)), (samples[0] @ samples[0]).T)
    assert len(samples) == 1


# --- reads on the side ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_read_in_a_forward_costs_no_gradient(mode) -> None:
    """A read without gradient, before the layer's own, sees the same sample and takes nothing away."""
    seen: list[Tensor] = []

    def read_first(layer: nn.Module, x: Tensor) -> Tensor:
        with mode():
            seen.append(layer.weight)
        return layer(x)

    net, samples = recorded(Net(nn.Linear(8, 8, bias=False), read_first))
    y = net(torch.eye(8))
    assert len(samples) == 1
    assert not seen[0].requires_grad
    assert torch.equal(seen[0], samples[0])
    assert torch.equal(y, samples[0].T)
    y.sum().backward()
    assert latent(net.layer).grad.tolist() == torch.ones(8, 8).tolist()


def test_a_read_between_forward_and_backward() -> None:
    """Reads after the forward draw for themselves; backward uses the forward's sample."""
    layer, samples = recorded(nn.Linear(8, 8, bias=False))
    x = torch.eye(8, requires_grad=True)
    y = layer(x)
    with torch.no_grad():
        assert not torch.equal(layer.weight, samples[0])
    layer.weight.sum()
    y.sum().backward()
    assert torch.equal(x.grad, samples[0].sum(0).expand(8, 8))
    assert latent(layer).grad.tolist() == torch.ones(8, 8).tolist()


def test_reads_outside_a_forward_draw_anew() -> None:
    """In train() each read outside of a forward is a sample of its own, with a gradient."""
    layer = binarize(nn.Linear(50, 50), StochasticSign)
    assert not torch.equal(layer.weight, layer.weight)
    layer.weight.sum().backward()
    assert latent(layer).grad.eq(1).all()


def test_micro_batches_accumulate() -> None:
    """The gradient of two forwards before a step is the sum of the single ones, each by its own sample."""
    layer, samples = recorded(nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 1, bias=False)))
    batches = torch.randn(2, 5, 4)
    expected = torch.zeros(4, 4)
    for x in batches:
        layer(x).sum().backward()
        w = samples[-1]  # of the second layer: d sum(w V x) / dV is w times the sum of x
        expected += w.T * x.sum(0)
    assert len(samples) == 4
    assert torch.allclose(latent(layer[0]).grad, expected, atol=1e-5)


# --- how a span ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("then", ["train", "eval"])
def test_an_interrupted_forward_leaves_no_sample_behind(error: type[BaseException], then: str) -> None:
    """After an exception in a forward, Ctrl-C included, the next one draws anew, and eval() is sign."""
    errors = [error]

    def fail_once(layer: nn.Module, x: Tensor) -> Tensor:
        y = layer(x)
        if errors:
            raise errors.pop()
        return y

    net, samples = recorded(Net(nn.Linear(8, 8, bias=False), fail_once))
    with pytest.raises(error):
        net(torch.eye(8))
    if then == "train":
        first, second = net(torch.eye(8)), net(torch.eye(8))
        assert len(samples) == 3
        assert torch.equal(first, samples[1].T)
        assert torch.equal(second, samples[2].T)
    else:
        net.eval()
        assert torch.equal(net.layer.weight, sign(latent(net.layer).detach()))
        assert torch.equal(net(torch.eye(8)), sign(latent(net.layer).detach()).T)


def test_a_failure_that_the_network_handles() -> None:
    """A layer's forward that raised is over: where the network goes on, it goes on with its one sample."""

    def retry(layer: nn.Module, x: Tensor) -> Tensor:
        with pytest.raises(RuntimeError):
            layer(x[:, :5])
        return layer(x) + layer(x)

    net, samples = recorded(Net(nn.Linear(8, 8, bias=False), retry))
    assert torch.equal(net(torch.eye(8)), 2 * samples[0].T)
    assert len(samples) == 1
    assert not torch.equal(net.layer.weight, samples[0])


class Tracked(Sign):
    """Knows whether the memory of what it returned is still held."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[StorageWeakRef] = []

    def forward(self, x: Tensor) -> Tensor:
        value = super().forward(x)
        self.values.append(StorageWeakRef(value.untyped_storage()))
        return value


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize(
    ("make", "inputs"),
    [(lambda: nn.Linear(4, 4), 1), (lambda: nn.LSTM(4, 4), 1), (lambda: nn.MultiheadAttention(4, 2), 3)],
)
def test_a_forward_holds_no_copies(make, inputs: int, training: bool, gradient: bool) -> None:
    """After a forward, and its graph, no binarized weight is alive: memory is that of the latent weights."""
    quantizer = Tracked()
    layer = binarize(make(), quantizer).train(training)
    assert all(value.expired() for value in quantizer.values)
    quantizer.values.clear()
    with torch.set_grad_enabled(gradient):
        y = layer(*[torch.ones(3, 2, 4)] * inputs)
    del y
    assert len(quantizer.values) > 0
    assert all(value.expired() for value in quantizer.values)

"""Binarized modules under PyTorch's own machinery: copies, autocast, compile, checkpoints, torch.func."""

import copy
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bnn.binarization import binarize, latent_parameters, named_latent_parameters
from bnn.functional import clipped_ste, sign
from bnn.quantizers import Sign, StochasticSign


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def latent(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    return layer.parametrizations[name].original


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


# --- copies -----------------------------------------------------------------------------------------------


def as_it_is(layer: nn.Module) -> None:
    pass


def after_a_forward(layer: nn.Module) -> None:
    layer(torch.ones(3, 2, 4, dtype=next(layer.parameters()).dtype))


def after_a_read(layer: nn.Module) -> None:
    assert all(getattr(layer, name) is not None for name, _ in list(named_latent_parameters(layer)))


def after_to(layer: nn.Module) -> None:
    layer.double()


@pytest.mark.parametrize("prepare", [as_it_is, after_a_forward, after_a_read, after_to])
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: nn.LSTM(4, 4)], ids=["Linear", "LSTM"])
def test_copies_are_independent(make, prepare) -> None:
    """A deep copy, made at any time, has latent weights and hooks of its own, and trains by itself."""
    layer = binarize(make(), StochasticSign)
    prepare(layer)
    twin = copy.deepcopy(layer)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    x = torch.ones(3, 2, 4, dtype=next(twin.parameters()).dtype)

    y = twin(x)
    (y[0] if isinstance(y, tuple) else y).sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
        assert not torch.equal(twin.get_parameter(name), before[name])
    own = {id(m) for m in twin.modules()}
    hooks = [*twin._forward_pre_hooks.values(), *twin._forward_hooks.values()]
    assert len(hooks) == 2 * len(list(latent_parameters(twin)))
    assert all(id(hook.__self__) in own for hook in hooks)
    copy.deepcopy(twin)(x)  # and a copy of the copy


# --- PyTorch's machinery ----------------------------------------------------------------------------------


def test_autocast_leaks_nothing() -> None:
    """Under autocast weights and sums are bfloat16; latent weights, gradients, what follows are float32."""
    net = binarize(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), StochasticSign)
    x = torch.ones(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(x)
        inside = net[0].weight
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert (inside.dtype, net[0].weight.dtype) == (torch.bfloat16, torch.float32)
    assert all(p.grad.dtype == torch.float32 for p in latent_parameters(net))
    assert net(x).dtype == torch.float32


def test_a_part_that_autocast_leaves_out() -> None:
    """Tied weights, read under autocast and then outside of it in one forward, are one sample."""

    class HalfCast(Tied):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                first = self.a(x)
            with torch.autocast("cpu", enabled=False):
                second = self.b(x)
            assert (first.dtype, second.dtype) == (torch.bfloat16, torch.float32)
            return first - second

    net = binarize(HalfCast(), StochasticSign)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not net(torch.eye(8)).any()


def compiled_is_eager(backend: str) -> None:
    torch._dynamo.reset()
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), Sign(ste=clipped_ste), nn.Linear(36, 3))
    binarize(net)
    twin, x = copy.deepcopy(net), torch.randn(2, 2, 5, 5)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    for mode in (True, False):
        net.train(mode)
        twin.train(mode)
        y, expected = compiled(x), twin(x)
        assert torch.allclose(y, expected, atol=1e-5)
        y.square().sum().backward()
        expected.square().sum().backward()
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_is_eager() -> None:
    """torch.compile takes a binarized network as one graph: outputs and gradients are those of eager mode."""
    compiled_is_eager("aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_is_eager(tmp_path, monkeypatch) -> None:
    """The same with code generated by inductor."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled_is_eager("inductor")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_forwards_sample_too() -> None:
    """Compiled, each forward in train() draws one sample, another each time; in eval() it is sign."""
    torch._dynamo.reset()
    net = binarize(Tied(), StochasticSign)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    first, second = compiled(torch.eye(8)), compiled(torch.eye(8))
    assert not torch.equal(first, second)
    # With one sample W in both layers the trace is that of W W, Σ Wij Wji, and a multiple of 4: each of the
    # 28 pairs off the diagonal adds ±2, and the 8 on it add 8. With two samples it is any even number.
    outputs = [first, second, *(compiled(torch.eye(8)) for _ in range(8))]
    assert all(int(y.detach().trace()) % 4 == 0 for y in outputs)
    w = sign(latent(net.a).detach())
    net.eval()
    assert torch.equal(compiled(torch.eye(8)), (w @ w).T)

    with torch.no_grad():
        latent(net.a).copy_(w)  # from here on the samples are certain
    twin = copy.deepcopy(net)
    for one in (compiled.train(), twin.train()):
        one(torch.eye(8)).square().sum().backward()
    assert torch.equal(latent(net.a).grad, latent(twin.a).grad)


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x.square(), use_reentrant=False).square()


@pytest.mark.parametrize("where", ["in the network", "in the layers alone"])
def test_checkpointing_recomputes_with_the_same_sample(where: str) -> None:
    """A checkpointed layer draws the same sample again in backward: the gradients are that sample's."""
    samples: list[Tensor] = []

    class Recorded(StochasticSign):
        def forward(self, x: Tensor) -> Tensor:
            value = super().forward(x)
            samples.append(value.detach())
            return value

    body = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False))
    net = Checkpointed(body)
    binarize(net if where == "in the network" else body, Recorded)
    samples.clear()
    x = torch.randn(3, 8, requires_grad=True)
    y = net(x)
    first = list(samples)
    torch.rand(7)  # random numbers are drawn in between
    y.sum().backward()
    assert len(first) == 2
    assert torch.equal(samples[2], first[0])

    plain = Checkpointed(nn.Sequential(nn.Linear(8, 8, bias=False), nn.Tanh(), nn.Linear(8, 8, bias=False)))
    plain.load_state_dict({"body.0.weight": first[0], "body.2.weight": first[1]})
    x_plain = x.detach().clone().requires_grad_()
    plain(x_plain).sum().backward()
    assert torch.allclose(x.grad, x_plain.grad, rtol=1e-4, atol=1e-5)
    for layer, other in ((body[0], plain.body[0]), (body[2], plain.body[2])):
        assert torch.allclose(latent(layer).grad, other.weight.grad, rtol=1e-4, atol=1e-5)

    samples.clear()
    net(x)  # recomputing stops early, by an exception, which left no sample behind
    assert len(samples) == 2
    assert not torch.equal(samples[0], first[0])


def test_functional_call_takes_latent_weights() -> None:
    """torch.func.functional_call replaces a latent weight by its name, and leaves the layer's own alone."""
    layer = binarize(nn.Linear(3, 2, bias=False), StochasticSign)
    before = latent(layer).detach().clone()
    w = torch.tensor([[1.0, -1.0, 2.0], [-2.0, -1.0, 1.0]], requires_grad=True)  # certain signs
    y = torch.func.functional_call(layer, {"parametrizations.weight.original": w}, torch.eye(3))
    assert torch.equal(y, sign(w.detach()).T)
    y.sum().backward()
    assert w.grad.eq(1).all()
    assert latent(layer).grad is None
    assert torch.equal(latent(layer), before)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # ge_ has no batching rule
def test_gradients_of_single_examples() -> None:
    """vmap of grad of functional_call gives each example's gradient of the latent weights."""
    layer = binarize(nn.Linear(3, 2))
    x = torch.randn(5, 3)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, x).square().sum()

    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    layer(x).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert each[name].shape == (5, *parameter.shape)
        assert torch.allclose(each[name].sum(0), parameter.grad, rtol=1e-4)


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 4), lambda: nn.LSTM(4, 4)], ids=["Linear", "LSTM"])
def test_inference_mode(make) -> None:
    """A forward under inference_mode, in train() or eval(), leaves a layer that trains on."""
    layer = binarize(make(), StochasticSign)
    x = torch.ones(3, 2, 4)

    def first(y: Tensor | tuple[Tensor, ...]) -> Tensor:
        return y[0] if isinstance(y, tuple) else y

    with torch.inference_mode():
        assert first(layer(x)).is_inference()
        evaluated = first(layer.eval()(x))
    assert torch.allclose(first(layer(x)), evaluated)
    first(layer.train()(x)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in latent_parameters(layer))

"""binarize: which weights it takes, what it keeps, what it refuses, and the one-line layers."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import bnn
from bnn.binarization import (
    Binarized,
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLinear,
    binarize,
    named_latent_parameters,
)
from bnn.functional import identity_ste, sign
from bnn.quantizers import Sign, StochasticSign


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def latent_names(model: nn.Module) -> list[str]:
    return [name for name, _ in named_latent_parameters(model)]


def latent(layer: nn.Module, name: str = "weight") -> nn.Parameter:
    return layer.parametrizations[name].original  # type: ignore[index,union-attr,return-value]


def small_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


class LearnedScale(nn.Module):
    """A quantizer with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, w: Tensor) -> Tensor:
        return self.scale * identity_ste(w, sign(w))


# --- what becomes binary ----------------------------------------------------------------------------------
LAYERS = [
    (lambda: nn.Linear(4, 3), [(2, 4)], ["weight"]),
    (lambda: nn.Bilinear(4, 3, 2), [(2, 4), (2, 3)], ["weight"]),
    (lambda: nn.Conv1d(4, 6, 3, groups=2), [(2, 4, 8)], ["weight"]),
    (lambda: nn.Conv2d(2, 3, 3, padding=1), [(2, 2, 5, 5)], ["weight"]),
    (lambda: nn.Conv3d(2, 3, 2), [(2, 2, 3, 3, 3)], ["weight"]),
    (lambda: nn.ConvTranspose1d(4, 3, 3), [(2, 4, 8)], ["weight"]),
    (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2), [(2, 2, 5, 5)], ["weight"]),
    (lambda: nn.ConvTranspose3d(2, 3, 2), [(2, 2, 3, 3, 3)], ["weight"]),
    (lambda: nn.RNN(4, 3), [(5, 2, 4)], ["weight_ih_l0", "weight_hh_l0"]),
    (lambda: nn.GRU(4, 3), [(5, 2, 4)], ["weight_ih_l0", "weight_hh_l0"]),
    (lambda: nn.LSTM(4, 3, proj_size=2), [(5, 2, 4)], ["weight_ih_l0", "weight_hh_l0", "weight_hr_l0"]),
    (
        lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True),
        [(5, 2, 4)],
        [f"weight_{way}_l{i}{back}" for i in (0, 1) for back in ("", "_reverse") for way in ("ih", "hh")],
    ),
    (lambda: nn.RNNCell(4, 3), [(2, 4)], ["weight_ih", "weight_hh"]),
    (lambda: nn.GRUCell(4, 3), [(2, 4)], ["weight_ih", "weight_hh"]),
    (lambda: nn.LSTMCell(4, 3), [(2, 4)], ["weight_ih", "weight_hh"]),
    (lambda: nn.MultiheadAttention(4, 2), [(5, 2, 4)] * 3, ["in_proj_weight", "out_proj.weight"]),
    (
        lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
        [(5, 2, 4), (5, 2, 3), (5, 2, 5)],
        ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"],
    ),
    (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0), [(5, 2, 4)], [
        "self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"
    ]),
]  # fmt: skip


def output(layer: nn.Module, shapes: list[tuple[int, ...]]) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    y = layer(*(torch.randn(shape, generator=generator) for shape in shapes))
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("make", "shapes", "names"), LAYERS, ids=[type(make()).__name__ for make, *_ in LAYERS]
)
def test_every_kind_of_layer(make, shapes: list[tuple[int, ...]], names: list[str], training: bool) -> None:
    """A binarized stock layer has the outputs and gradients of the plain one whose weights are sign(w)."""
    layer = make().train(training)
    plain = make().train(training)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name in names:
            parameter = plain.get_parameter(name)
            parameter.copy_(sign(parameter))
    binarize(layer)
    assert sorted(latent_names(layer)) == sorted(names)

    y, expected = output(layer, shapes), output(plain, shapes)
    assert torch.allclose(y, expected, atol=1e-6)
    y.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in named_latent_parameters(layer):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, plain.get_parameter(name).grad, rtol=1e-4, atol=1e-5)


def test_only_weights_of_layers_are_taken() -> None:
    """binarize(network) leaves biases, batch norms and embeddings as they are."""
    net = binarize(nn.ModuleDict({"embed": nn.Embedding(5, 4), "body": small_net(), "norm": nn.LayerNorm(4)}))
    assert latent_names(net) == ["body.0.weight", "body.3.weight"]


@pytest.mark.parametrize("make", [lambda: nn.Embedding(5, 4), lambda: nn.PReLU(4), lambda: nn.LayerNorm(4)])
def test_a_module_of_another_kind_gives_its_weight(make) -> None:
    """Asked of a module that holds no such layer, binarize takes its own `weight`."""
    assert latent_names(binarize(make())) == ["weight"]


def test_a_bias_by_its_name() -> None:
    """name="bias" binarizes the bias alone."""
    layer = nn.Linear(4, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    assert binarize(layer, name="bias") is layer
    assert torch.equal(layer.bias, sign(bias))
    assert torch.equal(layer.weight, weight)
    layer(torch.ones(2, 4)).sum().backward()
    assert latent(layer, "bias").grad.tolist() == [2.0, 2.0, 2.0]


def test_parameters_one_after_the_other() -> None:
    """The weight and then the bias of one layer may be binarized, with different quantizers."""
    layer = binarize(binarize(nn.Linear(4, 3), StochasticSign), LearnedScale, "bias")
    assert latent_names(layer) == ["weight", "bias"]
    assert layer.bias.abs().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize("skip", ["3", ["3"], lambda net: net[3], lambda net: [net[3]]])
def test_skip_by_name_or_module(skip) -> None:
    """`skip` takes one or several layers, as names or as modules, and they stay stock layers."""
    net = small_net()
    binarize(net, skip=skip(net) if callable(skip) else skip)
    assert latent_names(net) == ["0.weight"]
    assert type(net[3]) is nn.Linear


def test_skip_leaves_out_all_that_is_inside() -> None:
    """A skipped module is skipped with all its layers; of a module with two names, each name serves."""
    net = nn.ModuleDict({"a": small_net(), "b": nn.Linear(2, 2)})
    net["c"] = net["a"]
    for skip in ("a", "c"):
        assert latent_names(binarize(nn.ModuleDict(net), skip=skip)) == ["b.weight"]
        nn.utils.parametrize.remove_parametrizations(net["b"], "weight", leave_parametrized=False)


# --- what stays -------------------------------------------------------------------------------------------


def test_values_and_identity_are_kept() -> None:
    """The latent weight is the very parameter that was there, with its values; the module is returned."""
    net = small_net()
    before = {name: (p, p.detach().clone()) for name, p in net.named_parameters()}
    assert binarize(net) is net
    after = dict(net.named_parameters())
    assert {id(p) for p in after.values()} == {id(p) for p, _ in before.values()}
    for name, parameter in named_latent_parameters(net):
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert torch.equal(net[3].weight, sign(before["3.weight"][1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    """A layer of another dtype stays one, and .to() afterwards converts the latent weight."""
    layer = binarize(nn.Linear(4, 3, dtype=dtype))
    assert layer.weight.dtype == dtype
    layer.float()
    assert layer.weight.dtype == latent(layer).dtype == torch.float32


def test_a_frozen_parameter_stays_frozen() -> None:
    """requires_grad=False is kept."""
    layer = binarize(nn.Linear(4, 3).requires_grad_(False))
    assert not latent(layer).requires_grad
    assert not layer.weight.requires_grad


# --- quantizers as arguments ------------------------------------------------------------------------------


def test_a_class_or_factory_makes_one_for_each_weight() -> None:
    """Given a class or a function, each weight has a quantizer of its own, made once; tied ones share it."""
    net = binarize(small_net(), LearnedScale)
    assert len({id(m) for m in net.modules() if isinstance(m, LearnedScale)}) == 2
    net, made = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)), []
    net[2].weight = net[0].weight
    binarize(net, lambda: made.append(Sign()) or made[-1])
    assert [layer.parametrizations.weight[0].quantizer for layer in net] == [*made, made[0]]


def test_an_instance_is_shared() -> None:
    """Given a module, every weight uses that one."""
    shared = LearnedScale()
    owners = [m for m in binarize(small_net(), shared).modules() if isinstance(m, Binarized)]
    assert [m.quantizer for m in owners] == [shared, shared]


def test_a_quantizer_can_learn() -> None:
    """A quantizer's parameters are the model's, and get their gradient: d/da of Σ a sign(w) x."""
    layer = binarize(nn.Linear(3, 1, bias=False), LearnedScale)
    (scale,) = (p for name, p in layer.named_parameters() if name.endswith("scale"))
    layer(torch.tensor([[1.0, 2.0, 4.0]])).sum().backward()
    assert scale.grad == (sign(latent(layer).detach()) * torch.tensor([1.0, 2.0, 4.0])).sum()


def test_mode_follows_the_model() -> None:
    """train() and eval() reach the quantizers: of a model binarized in either mode."""
    layer = binarize(nn.Linear(100, 100).eval(), StochasticSign)
    assert torch.equal(layer.weight, sign(latent(layer).detach()))
    layer.train()
    assert not torch.equal(layer.weight, layer.weight)
    assert torch.equal(layer.eval().weight, sign(latent(layer).detach()))


# --- errors -----------------------------------------------------------------------------------------------


class OneRowLess(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w[1:] if w.shape[0] == 3 else w  # so that it is the last layer that fails


class Doubles(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return w.double() if w.shape[0] == 3 else w


ERRORS = [
    (lambda net: binarize(net, name="weigth"), r"Sequential has no parameter 'weigth' \(it has: none\)"),
    (lambda net: binarize(net[0], name="w"), r"Conv2d has no parameter 'w' \(it has: weight, bias\)"),
    (lambda net: binarize(net[1], name="running_mean"), "BatchNorm2d has no parameter 'running_mean'"),
    (lambda net: binarize(net[2]), "nothing to binarize in Flatten"),
    (lambda net: binarize(net, skip=["0", "3"]), "nothing to binarize in Sequential"),
    (lambda net: binarize(net, skip="body"), "no module 'body' in Sequential$"),
    (lambda net: binarize(net, skip=nn.ReLU()), "this ReLU is not a part of Sequential"),
    (lambda net: binarize(net, OneRowLess), r"keep shape and dtype: OneRowLess made \(2, 8\)"),
    (lambda net: binarize(net, Doubles), r"Doubles made \(3, 8\), torch.float64 of"),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message[:40] for _, message in ERRORS])
def test_a_mistake_is_an_error_and_changes_nothing(call, message: str) -> None:
    """Each mistake is a ValueError that names the values, and the model is as it was."""
    net = small_net()
    parameters, state = dict(net.named_parameters()), list(net.state_dict())
    with pytest.raises(ValueError, match=message):
        call(net)
    assert {name: id(p) for name, p in net.named_parameters()} == {n: id(p) for n, p in parameters.items()}
    assert list(net.state_dict()) == state
    assert [type(m) for m in net] == [nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_an_unknown_name_suggests_the_nearest() -> None:
    """A misspelt `skip` names the module that was probably meant."""
    net = nn.ModuleDict({"stem": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(ValueError, match=r"no module 'haed' in ModuleDict; did you mean 'head'\?"):
        binarize(net, skip="haed")


def test_binarizing_twice_is_an_error() -> None:
    """A weight binarized already is refused, by name or within a network, and the rest is not touched."""
    net = small_net()
    binarize(net[3])
    for call in (lambda: binarize(net), lambda: binarize(net[3]), lambda: binarize(net[3], name="weight")):
        with pytest.raises(ValueError, match="weight of Linear is binarized already"):
            call()
    assert latent_names(net) == ["3.weight"]
    assert latent_names(binarize(net, skip="3")) == ["0.weight", "3.weight"]


def test_other_parametrizations_are_refused() -> None:
    """A weight-normed layer has no single latent weight to binarize."""
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    with pytest.raises(ValueError, match="weight of Linear is parametrized already"):
        binarize(layer)


def test_a_lazy_layer_is_refused() -> None:
    """A layer without a shape yet cannot be binarized, and the layers before it stay as they were."""
    net = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    with pytest.raises(ValueError, match="uninitialized parameter"):
        binarize(net)
    assert type(net[0]) is nn.Linear


# --- conveniences -----------------------------------------------------------------------------------------

one_liners = pytest.mark.parametrize(
    ("make", "stock", "args"),
    [
        (BinaryLinear, nn.Linear, (300, 40)),
        (BinaryConv1d, nn.Conv1d, (30, 40, 9)),
        (BinaryConv2d, nn.Conv2d, (30, 40, 3)),
        (BinaryConv3d, nn.Conv3d, (10, 40, 3)),
    ],
)


@one_liners
def test_one_line_layers(make, stock: type[nn.Module], args: tuple[int, ...]) -> None:
    """BinaryLinear and its like are stock layers, with latent weights uniform in [-1, 1], ±1 when read."""
    layer = make(*args)
    assert isinstance(layer, stock)
    w = latent(layer).detach()
    assert w.abs().max() <= 1
    # Of n uniform numbers a quarter lies in each quarter of [-1, 1], with deviation sqrt(3 n) / 4: 5 of them.
    counts = torch.histc(w, bins=4, min=-1, max=1)
    assert (counts - w.numel() / 4).abs().max() <= 5 * (3 * w.numel()) ** 0.5 / 4
    assert layer.weight.abs().eq(1).all()


@one_liners
def test_one_line_layers_pass_arguments_on(make, stock: type[nn.Module], args: tuple[int, ...]) -> None:
    """Further arguments are the stock layer's; `quantizer` is binarize's."""
    layer = make(*args, bias=False, dtype=torch.float64, quantizer=StochasticSign)
    assert layer.bias is None
    assert latent(layer).dtype == torch.float64
    assert isinstance(layer.parametrizations.weight[0].quantizer, StochasticSign)
    if stock is not nn.Linear:
        assert make(*args, stride=2, padding=1).extra_repr() == stock(*args, stride=2, padding=1).extra_repr()


def test_the_name_is_the_function() -> None:
    """`bnn.binarize` is the function that its module, which has another name, defines."""
    layer = nn.Linear(4, 3)
    assert bnn.binarize(layer, Sign, name="bias") is layer
    assert latent_names(layer) == ["bias"]
    assert bnn.binarize is binarize

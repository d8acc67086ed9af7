"""What a model costs: parameters, bytes and multiply-accumulates, by hand and by `bnn.summary`."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from support.helpers import one_of_each
from support.torch_helpers import ScaledSign, Tied
from torch import Tensor, nn

import bnn
from bnn.binarization import binarize
from bnn.cli import main
from bnn.freezing import freeze
from bnn.functional import sign
from bnn.models import binaryconnect_cnn
from bnn.packed.costs import LayerCost, Summary
from bnn.packing.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.runtime import Runner
from bnn.summarize import summary


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


class Function(nn.Module):
    """A function of (module, input) as a module, its parameters and layers given by name."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *x: Tensor) -> Any:
        return self.function(self, *x)


def mlp() -> nn.Sequential:
    """8 inputs, 6 hidden units of ±1, 4 outputs."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), Sign()),
        *(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)),
    )


def cnn() -> nn.Sequential:
    """(2, 6, 6) images; the second convolution has two groups and ±1 inputs, with zeros around them."""
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), Sign()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(36, 3)),
    )


def costs(result: Summary) -> dict[str, LayerCost]:
    return {layer.name: layer for layer in result.layers}


# --- two networks by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prepare", [binarize, lambda model: freeze(binarize(model))], ids=["latent", "frozen"]
)
def test_an_mlp(prepare) -> None:
    """Latent or frozen: one bit a weight in words of 64 a row, two floats a channel of batch norm."""
    result = summary(prepare(mlp()), torch.randn(5, 1, 8))
    first, second = {"float x ±1": 8 * 6}, {"±1 x ±1": 6 * 4}
    assert result.layers == (
        LayerCost("1", "Linear", (6,), 48, 0, 6 * 8, 4 * 48, first),
        LayerCost("2", "BatchNorm1d", (6,), 0, 12, 48, 48, {}),
        LayerCost("4", "Linear", (4,), 24, 0, 4 * 8, 4 * 24, second),
        LayerCost("5", "BatchNorm1d", (4,), 0, 8, 32, 32, {}),
    )
    assert (result.one_bit_weights, result.float_parameters) == (72, 20)
    assert (result.bytes, result.float_bytes) == (160, 4 * 92)
    assert result.macs == first | second
    assert result.uncounted == ()


def test_a_float_mlp() -> None:
    """Float weights multiply in float, also where their inputs are ±1."""
    result = summary(mlp(), torch.randn(5, 1, 8))
    assert result.macs == {"float": 72}
    assert (result.one_bit_weights, result.float_parameters) == (0, 92)
    assert result.bytes == result.float_bytes == 4 * 92


@pytest.mark.parametrize(
    "prepare", [binarize, lambda model: freeze(binarize(model))], ids=["latent", "frozen"]
)
def test_a_cnn(prepare) -> None:
    """A convolution takes each weight at each place; zeros around ±1 leave it a product of ±1."""
    result = summary(prepare(cnn()), torch.randn(3, 2, 6, 6))
    assert {
        name: (layer.output_shape, layer.macs, layer.macs_kind) for name, layer in costs(result).items()
    } == {
        "0": ((4, 6, 6), 4 * 2 * 9 * 36, "float x ±1"),
        "1": ((4, 6, 6), 0, ""),
        "3": ((4, 6, 6), 4 * 2 * 9 * 36, "±1 x ±1"),
        "7": ((3,), 36 * 3, "float x ±1"),
    }
    assert (result.one_bit_weights, result.float_parameters) == (72 + 72 + 108, 8 + 4 + 3)
    # Rows of 18, 18 and 36 weights: a word each.
    assert result.bytes == 8 * (4 + 4 + 3) + 4 * 15
    assert result.macs == {"±1 x ±1": 2592, "float x ±1": 2592 + 108}


@pytest.mark.parametrize(("make", "shape"), [(mlp, (8,)), (cnn, (2, 6, 6))], ids=["mlp", "cnn"])
@pytest.mark.parametrize("prepare", [lambda model: model, binarize], ids=["float", "one-bit"])
def test_packing_changes_no_total(make, shape, prepare) -> None:
    """One-bit weights and multiply-accumulates of each kind are those of the packed network."""
    model, x = prepare(make()), torch.randn(3, *shape)
    packed = pack(freeze(model), x)
    before, after = summary(model, x), summary(packed)
    assert after.macs == before.macs
    assert after.one_bit_weights == before.one_bit_weights
    assert after.bytes == packed.nbytes
    assert [layer.name for layer in after.layers] == [node.name for node in packed.nodes]
    assert summary(Runner(packed)).layers == after.layers


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Conv2d(4, 4, 2, padding="same"),),
        (nn.ZeroPad2d((1, 0, 2, 0)), nn.Conv2d(4, 4, 3)),
        (nn.ConstantPad2d(1, -1.0), nn.Conv2d(4, 4, 3)),
    ],
    ids=["same", "zeros", "ones"],
)
def test_padding_of_signs(layers) -> None:
    """Padding that is an operation of its own leaves ±1 what it is, as in the packed network."""
    model = binarize(nn.Sequential(Sign(), *layers))
    x = torch.randn(2, 4, 5, 5)
    result = summary(model, x)
    assert set(result.macs) == {"±1 x ±1"}
    assert result.macs == summary(pack(freeze(model), x)).macs


def test_inputs_that_happen_to_be_signs() -> None:
    """What the model is given counts as float, as in the packed network; a zero among values does too."""
    model = binarize(nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False)))
    assert summary(model, torch.ones(2, 4)).macs == {"float x ±1": 16}
    threshold = Function(lambda m, x: x.sign())
    x = torch.randn(3, 4)
    assert summary(nn.Sequential(threshold, model), x).macs == {"±1 x ±1": 16}
    x[1, 2] = 0
    assert summary(nn.Sequential(threshold, model), x).macs == {"float x ±1": 16}


# --- layers of every kind ---------------------------------------------------------------------------------

T, N = 5, 3  # steps or tokens, samples

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # name: layer, shape of its input, weights that binarize takes, multiply-accumulates for one sample
    "linear on tokens": (lambda: nn.Linear(8, 6), (N, T, 8), 48, T * 48),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), (N, 4, 7, 7), 6 * 2 * 9, 6 * 2 * 9 * 25),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (N, 4, 7, 7), 4 * 9, 4 * 9 * 25),
    "strided, dilated": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=1),
        *((N, 4, 7, 7), 6 * 4 * 9, 6 * 4 * 9 * 9),  # (7 + 2 - 5) // 2 + 1 = 3
    ),
    "1-d": (lambda: nn.Conv1d(4, 6, 3), (N, 4, 9), 6 * 4 * 3, 6 * 4 * 3 * 7),
    "3-d": (lambda: nn.Conv3d(2, 3, 2), (N, 2, 4, 4, 4), 3 * 2 * 8, 3 * 2 * 8 * 27),
    # Each place of the input meets each weight.
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (N, 4, 5, 5), 4 * 6 * 9, 4 * 6 * 9 * 25),
    "transposed, grouped": (
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
        *((N, 4, 5), 4 * 3 * 3, 4 * 3 * 3 * 5),
    ),
    # Four gates (three, one) of H units, each a product with I inputs and with H old states.
    "LSTM": (lambda: nn.LSTM(4, 6, batch_first=True), (N, T, 4), 4 * 6 * (4 + 6), T * 4 * 6 * (4 + 6)),
    "GRU": (lambda: nn.GRU(4, 6, batch_first=True), (N, T, 4), 3 * 6 * (4 + 6), T * 3 * 6 * (4 + 6)),
    "RNN": (lambda: nn.RNN(4, 6, batch_first=True), (N, T, 4), 6 * (4 + 6), T * 6 * (4 + 6)),
    # The second layer takes both directions of the first, 2 H inputs; the projection maps H to P.
    "deep LSTM": (
        lambda: nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=5, batch_first=True),
        (N, T, 4),
        2 * (4 * 6 * (4 + 5) + 5 * 6) + 2 * (4 * 6 * (10 + 5) + 5 * 6),
        T * (2 * (4 * 6 * (4 + 5) + 5 * 6) + 2 * (4 * 6 * (10 + 5) + 5 * 6)),
    ),
    "LSTM cell": (lambda: nn.LSTMCell(4, 6), (N, 4), 4 * 6 * (4 + 6), 4 * 6 * (4 + 6)),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str) -> None:
    """Float or one-bit, as many products as the formula has."""
    make, shape, weights, macs = LAYERS[case]
    x = torch.randn(shape)
    layer = make()
    biases = sum(p.numel() for name, p in layer.named_parameters() if "bias" in name)
    (cost,) = summary(layer, x).layers
    assert (cost.one_bit_weights, cost.float_parameters) == (0, weights + biases)
    assert cost.macs_by_kind == {"float": macs}
    (cost,) = summary(binarize(layer), x).layers
    assert (cost.one_bit_weights, cost.float_parameters) == (weights, biases)
    assert cost.macs_by_kind == {"float x ±1": macs}
    assert cost == summary(freeze(layer), x).layers[0]


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention(need_weights: bool) -> None:
    """3 E² and E² a token through the projections, and T E a token each for scores and for their use."""
    E = 8
    attention = nn.MultiheadAttention(E, 2, batch_first=True)
    model = Function(lambda m, x: m.inner(x, x, x, need_weights=need_weights), inner=attention)
    x = torch.randn(N, T, E)
    found = costs(summary(model, x))
    assert found["inner"].macs_by_kind == {"float": T * 3 * E**2 + 2 * T * T * E}
    assert found["inner.out_proj"].macs_by_kind == {"float": T * E**2}
    assert found["inner"].output_shape == (T, E)
    found = costs(summary(binarize(model), x))
    assert found["inner"].macs_by_kind == {"float x ±1": T * 3 * E**2, "float": 2 * T * T * E}
    assert found["inner"].macs == T * 3 * E**2 + 2 * T * T * E
    assert found["inner"].macs_kind == "float x ±1, float"
    assert found["inner.out_proj"].macs_by_kind == {"float x ±1": T * E**2}
    assert [found[name].one_bit_weights for name in ("inner", "inner.out_proj")] == [3 * E**2, E**2]


def test_a_transformer_layer() -> None:
    """The fast path of PyTorch, which is one operation, is not taken; norms multiply nothing."""
    E, H = 8, 16
    result = summary(nn.TransformerEncoderLayer(E, 2, H, batch_first=True), torch.randn(N, T, E))
    assert result.macs == {"float": T * 4 * E**2 + 2 * T * T * E + 2 * T * E * H}
    assert costs(result)["norm1"].macs == 0
    assert summary(nn.Sequential(nn.RMSNorm(E), nn.PReLU(E)), torch.randn(N, E)).uncounted == ()


def test_embeddings_and_bilinear_layers() -> None:
    """A look-up multiplies nothing; a bilinear layer takes each weight once."""
    (cost,) = summary(nn.Embedding(10, 8), torch.zeros(N, T, dtype=torch.long)).layers
    assert (cost.output_shape, cost.float_parameters, cost.macs_by_kind) == ((T, 8), 80, {})
    embedding = binarize(nn.Embedding(10, 8))
    for model in (embedding, freeze(embedding)):
        (cost,) = summary(model, torch.zeros(N, T, dtype=torch.long)).layers
        assert (cost.one_bit_weights, cost.bytes) == (80, 80)
    (cost,) = summary(nn.Bilinear(3, 4, 5), (torch.randn(N, 3), torch.randn(N, 4))).layers
    assert cost.macs_by_kind == {"float": 3 * 4 * 5}


def test_the_papers_network() -> None:
    """BinaryConnect's CIFAR-10 network, 128 wide: 14,022,016 weights of one bit, 1.8 MB instead of 56."""
    model = binarize(binaryconnect_cnn((3, 32, 32), 10))
    result = summary(model, torch.randn(1, 3, 32, 32))
    places = [(3 * 128 + 128**2, 32), (128 * 256 + 256**2, 16), (256 * 512 + 512**2, 8)]
    dense = 512 * 16 * 1024 + 1024**2 + 1024 * 10
    assert result.one_bit_weights == sum(9 * weights for weights, _ in places) + dense == 14_022_016
    assert result.macs == {"float x ±1": sum(9 * weights * size**2 for weights, size in places) + dense}


# --- which weights are one-bit ----------------------------------------------------------------------------


def test_magnitudes_are_floats() -> None:
    """Weights of ±a, one a for each row, are one-bit and a float a row; in float32 the a take no room."""
    model = binarize(nn.Linear(70, 6), ScaledSign)
    for prepared in (model, freeze(model)):
        (cost,) = summary(prepared, torch.randn(2, 70)).layers
        assert (cost.one_bit_weights, cost.float_parameters) == (420, 6 + 6)
        assert (cost.bytes, cost.float_bytes) == (6 * 2 * 8 + 4 * 12, 4 * (420 + 6))
        assert cost.macs_kind == "float x ±1"


def test_rows_too_short_to_pack() -> None:
    """A word and a scale are no less than three floats: `pack` leaves rows of three weights."""
    model, x = binarize(nn.Linear(3, 4)), torch.randn(2, 3)
    assert summary(model, x).one_bit_weights == summary(pack(freeze(model), x)).one_bit_weights == 0
    assert summary(model, x).macs == {"float": 12}


@pytest.mark.filterwarnings("error")
def test_near_misses() -> None:
    """A single 0 makes a weight float, and a summary does not warn of it: `pack` does."""
    layer = freeze(binarize(nn.Linear(64, 4)))
    layer.weight[2, 5] = 0
    (cost,) = summary(layer, torch.randn(2, 64)).layers
    assert (cost.one_bit_weights, cost.macs_kind) == (0, "float")


def test_ones_that_are_no_weights() -> None:
    """The ones that a layer norm starts with are float, for they are not weights of a product."""
    (cost,) = summary(nn.LayerNorm([4, 8]), torch.randn(2, 4, 8)).layers
    assert (cost.one_bit_weights, cost.float_parameters, cost.macs) == (0, 64, 0)


def test_some_layers_left_float() -> None:
    """`skip` leaves a layer float, and its products."""
    model = binarize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)), skip=["0"])
    assert summary(model, torch.randn(2, 8)).macs == {"float x ±1": 32, "float": 64}


def test_other_dtypes() -> None:
    """float64 and autocast have the counts of float32."""
    model, x = binarize(mlp()), torch.randn(5, 8)
    expected = summary(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert summary(model, x) == expected
        assert summary(freeze(model), x) == expected
    assert summary(model.double(), x.double()) == expected


# --- sharing, and products outside of stock layers --------------------------------------------------------


def test_a_layer_used_twice() -> None:
    """Parameters count once, multiply-accumulates twice."""
    layer = nn.Linear(8, 8)
    result = summary(binarize(nn.Sequential(layer, nn.ReLU(), layer)), torch.randn(2, 8))
    assert [(cost.name, cost.one_bit_weights, cost.macs) for cost in result.layers] == [("0", 64, 2 * 64)]


def test_one_layer_on_inputs_of_both_kinds() -> None:
    """Each use counts by what arrives; the shape is that of the first."""
    layer = nn.Linear(8, 8)
    pooled = Function(lambda m, x: m.fc(m.fc(x).mean(1)), fc=layer)
    (cost,) = summary(pooled, torch.randn(2, 3, 8)).layers
    assert (cost.output_shape, cost.macs) == ((3, 8), 3 * 64 + 64)
    (cost,) = summary(binarize(nn.Sequential(layer, Sign(), layer)), torch.randn(2, 8)).layers
    assert cost.macs_by_kind == {"±1 x ±1": 64, "float x ±1": 64}


@pytest.mark.parametrize("prepare", [lambda model: model, binarize, lambda model: freeze(binarize(model))])
def test_tied_weights(prepare) -> None:
    """A weight of two layers counts in the first; both multiply."""
    a, b = summary(prepare(Tied()), torch.randn(2, 4)).layers
    assert (a.one_bit_weights + a.float_parameters, b.float_parameters) == (16 + 4, 4)
    assert (a.float_bytes, b.float_bytes) == (80, 16)
    assert a.macs == b.macs == 16
    assert a.macs_kind == b.macs_kind


def test_products_of_functions() -> None:
    """Products between layers, by functions and operators, belong to the module that computes them."""

    def compute(m: nn.Module, x: Tensor) -> Tensor:
        x = F.linear(x, m.w)  # 2 tokens, 8 to 6
        scores = torch.einsum("nik,njk->nij", x, x)  # 2 x 2 x 6
        return scores @ x + F.scaled_dot_product_attention(x, x, x)  # 2 x 2 x 6, and twice that

    (cost,) = summary(Function(compute, w=torch.randn(6, 8)), torch.randn(3, 2, 8)).layers
    assert (cost.name, cost.operation) == ("", "Function")
    assert cost.macs_by_kind == {"float": 2 * 48 + 4 * 24}


def test_a_product_with_the_weight_first() -> None:
    """Which side the weight stands on does not matter, nor that the product is of a matrix and a vector."""
    w = freeze(binarize(nn.Linear(8, 6))).weight
    model = Function(lambda m, x: m.w @ x, w=w)
    for x, macs in ((torch.randn(8, 3), 3 * 48), (torch.randn(8), 48)):
        (cost,) = summary(model, x, batch_axis=None).layers
        assert (cost.one_bit_weights, cost.macs_by_kind) == (48, {"float x ±1": macs})


def test_copies_of_a_weight() -> None:
    """A weight that is converted or cloned on the way to its product is known as that weight."""
    w = freeze(binarize(nn.Linear(8, 6), ScaledSign)).weight
    model = Function(lambda m, x: F.linear(x, m.w.double().clone().float()), w=w)
    (cost,) = summary(model, torch.randn(3, 8)).layers
    assert (cost.one_bit_weights, cost.macs_by_kind) == (48, {"float x ±1": 48})


def test_signs_that_are_no_parameter() -> None:
    """A layer may take the signs itself: its weight is stored as floats, its products are with ±1."""
    model = Function(lambda m, x: F.linear(x, sign(m.w)), w=torch.randn(6, 8))
    (cost,) = summary(model, torch.randn(3, 8)).layers
    assert (cost.one_bit_weights, cost.float_parameters) == (0, 48)
    assert cost.macs_by_kind == {"float x ±1": 48}


def test_a_weight_that_another_module_borrows() -> None:
    """Products with the weight of a layer inside are that layer's, though it is not called."""
    model = binarize(Function(lambda m, x: F.linear(x, m.fc.weight), fc=nn.Linear(8, 6)))
    (cost,) = summary(model, torch.randn(3, 8)).layers
    assert (cost.name, cost.output_shape, cost.macs_by_kind) == ("fc", None, {"float x ±1": 48})


def test_a_layer_that_is_not_used() -> None:
    """It has parameters, and no output."""
    model = Function(lambda m, x: m.a(x), a=nn.Linear(8, 6), b=nn.Linear(8, 7))
    unused = costs(summary(model, torch.randn(3, 8)))["b"]
    assert (unused.output_shape, unused.float_parameters, unused.macs) == (None, 63, 0)


def test_tokens_and_positions_multiply_nothing() -> None:
    """Parameters that are added, joined or expanded are no reason for doubt."""

    def embed(m: nn.Module, x: Tensor) -> Tensor:
        return torch.cat([m.cls.expand(len(x), -1, -1), m.fc(x)], 1) + m.position

    model = Function(embed, cls=torch.ones(1, 1, 8), position=torch.ones(1, 4, 8), fc=nn.Linear(6, 8))
    result = summary(model, torch.randn(2, 3, 6))
    assert costs(result)[""].macs == 0
    assert (costs(result)[""].one_bit_weights, result.uncounted) == (0, ())


def test_a_norm_of_ones_own_multiplies_nothing() -> None:
    """Nor does one that is derived from PyTorch's."""

    class Norm(nn.LayerNorm):
        pass

    assert summary(Norm(8), torch.randn(2, 8)).uncounted == ()


def test_products_in_hooks() -> None:
    """What a hook of the user's multiplies belongs to the layer that it hangs on."""
    layer = nn.Linear(8, 8)
    layer.register_forward_pre_hook(lambda module, args: (args[0] @ torch.ones(8, 8),))
    found = costs(summary(nn.Sequential(layer), torch.randn(2, 8)))
    assert {name: cost.macs for name, cost in found.items()} == {"0": 2 * 64}


def test_a_part_that_may_fail() -> None:
    """A model may try a layer and do without it: what comes next is the model's own again."""

    def attempt(m: nn.Module, x: Tensor) -> Tensor:
        try:
            return m.fc(x)
        except RuntimeError:
            return x @ m.w

    model = nn.Sequential(Function(attempt, fc=nn.Linear(7, 8), w=torch.randn(8, 8)), nn.Linear(8, 4))
    found = costs(summary(model, torch.randn(2, 8)))
    assert {name: cost.macs for name, cost in found.items()} == {"0": 64, "0.fc": 0, "1": 32}
    model.append(nn.Linear(5, 6))
    try:
        raise KeyError("one that is being handled meanwhile")
    except KeyError:
        with pytest.raises(
            ValueError, match=r"layer '2' \(Linear\) does not take its input of shape \(2, 4\)"
        ):
            summary(model, torch.randn(2, 8))


@pytest.mark.parametrize(
    ("compute", "parts"),
    [
        (lambda m, x: (x * m.w).sum(-1, keepdim=True), {"w": torch.ones(8)}),
        (lambda m, x: torch.sparse.mm(torch.eye(32).to_sparse(), x), {}),
        (lambda m, x: torch._int_mm(x.to(torch.int8), torch.ones(8, 8, dtype=torch.int8)).float(), {}),
    ],
    ids=["by hand", "sparse", "integers"],
)
def test_what_cannot_be_counted_is_unknown(compute: Callable[..., Tensor], parts: dict[str, Tensor]) -> None:
    """A layer that may multiply in ways that are not known is listed with None, shown as ?, and named."""
    inner = Function(compute, **parts)
    result = summary(nn.Sequential(nn.Linear(8, 8), inner), torch.randn(32, 8))
    (_, cost) = result.layers
    assert (cost.name, cost.macs_by_kind, cost.macs, cost.macs_kind) == ("1", None, None, "")
    assert cost.float_parameters == sum(p.numel() for p in inner.parameters())
    assert result.uncounted == ("1",)
    assert result.macs == {"float": 64}
    assert "?" in str(result)
    assert str(result).endswith("not counted, as what they compute is not known: 1")


def test_compiled_modules() -> None:
    """A module of torch.compile's has the layers of the module that it wraps."""
    model, x = binarize(mlp()), torch.randn(2, 8)
    assert summary(torch.compile(model, backend="eager"), x) == summary(model, x)


# --- the model stays as it is -----------------------------------------------------------------------------


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        "gradients": [p.grad for p in model.parameters()],
        "random": torch.get_rng_state(),
        "backends": (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled),
        "attention": (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled()),
    }


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_untouched(fails: bool) -> None:
    """Flags, statistics, buffers, hooks, gradients, random state and settings are those from before."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if fails:
                raise RuntimeError("no")
            return F.dropout(x, 0.5, training=True)

    model = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), Counting(), nn.LSTM(6, 4))
    binarize(model, StochasticSign)
    model[0](torch.randn(3, 8)).sum().backward()
    model[2].eval()
    x = torch.randn(3, 8)
    before, x_before = state_of(model), x.clone()
    assert before["backends"] == (True, True)  # nor has any test before this one changed them
    if fails:
        with pytest.raises(ValueError, match=r"layer '3' \(Counting\) .* \(3, 6\): no"):
            summary(model, x, batch_axis=0)
    else:
        summary(model, x, batch_axis=None)
    after = state_of(model)
    assert torch.equal(x, x_before)
    for name in before["values"]:
        assert torch.equal(before["values"][name], after["values"][name])
    assert torch.equal(before.pop("random"), after.pop("random"))
    for kind in ("training", "hooks", "gradients", "backends", "attention"):
        assert before[kind] is not after[kind]
        assert all(a is b or a == b for a, b in zip(before[kind], after[kind], strict=True))


def test_the_input_is_untouched() -> None:
    """A model that works in place does so on a copy."""
    x = torch.randn(3, 8)
    before = x.clone()
    summary(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 4)), x)
    assert torch.equal(x, before)


def test_eval_mode() -> None:
    """Batch norms take a batch of one, which training mode would refuse."""
    model = binarize(mlp()).train()
    assert summary(model, torch.randn(1, 8)) == summary(model, torch.randn(7, 8))


# --- batches ----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Takes (steps, batch, features)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


@pytest.mark.parametrize("n", [1, 2, 4, 5, 10])
def test_a_batch_along_another_axis(n: int) -> None:
    """Counts are for one sample, wherever the batch lies, and shapes are without it."""
    found = costs(summary(Recurrent(), torch.randn(T, n, 4), batch_axis=1))
    assert found["lstm"].output_shape == (T, 6)
    assert found["head"].output_shape == (T, 3)
    assert (found["lstm"].macs, found["head"].macs) == (T * 4 * 6 * 10, T * 18)


def test_a_batch_along_the_last_axis() -> None:
    """Any axis can be that of the batch."""
    model = Function(lambda m, x: torch.einsum("oi,tin->ton", m.w, x), w=torch.randn(6, 8))
    (cost,) = summary(model, torch.randn(T, 8, N), batch_axis=2).layers
    assert (cost.output_shape, cost.macs) == ((T, 6), T * 48)


@pytest.mark.parametrize("n", [1, 2, 10])
def test_a_batch_along_a_wrong_axis(n: int) -> None:
    """Steps taken for samples would make the counts too small: it is refused, and says what to do."""
    with pytest.raises(
        ValueError, match=rf"layer 'lstm' \(LSTM\) gets a batch of {n}, but axis 0 of x is 5 long"
    ):
        summary(Recurrent(), torch.randn(T, n, 4))


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(8, 6), (8,), 48),
        (nn.Conv2d(3, 3, 3), (3, 5, 5), 81 * 9),
        (nn.LSTM(4, 6), (T, 4), T * 4 * 6 * 10),
    ],
    ids=["Linear", "Conv2d", "LSTM"],
)
def test_a_single_sample(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    """Without a batch axis x is one sample, which has to be said."""
    with pytest.raises(ValueError, match="None for one sample"):
        summary(layer, torch.randn(shape))
    (cost,) = summary(layer, torch.randn(shape), batch_axis=None).layers
    with torch.no_grad():
        out = layer(torch.randn(shape))
    assert cost.output_shape == tuple((out[0] if isinstance(out, tuple) else out).shape)
    assert cost.macs == macs


def test_samples_that_share_an_axis_with_something_else() -> None:
    """Patches moved into the batch axis belong to their sample."""
    model = nn.Sequential(Function(lambda m, x: x.reshape(-1, 1, 4, 4)), nn.Conv2d(1, 2, 3))
    (cost,) = summary(model, torch.randn(3, 5, 4, 4)).layers
    assert (cost.output_shape, cost.macs) == ((5, 2, 2, 2), 5 * 18 * 4)


# --- mistakes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "x", "problem"),
    [
        (3, torch.randn(2, 3), r"model must be an nn.Module, a PackedModel or a Runner, not int"),
        (nn.Linear(3, 4), None, r"x must be a tensor .* not \(NoneType\)"),
        (nn.Linear(3, 4), (torch.randn(2, 3), "y"), r"not \(Tensor, str\)"),
        (nn.Linear(3, 4), (), r"x must be a tensor"),
        (nn.Linear(3, 4), torch.randn(0, 3), r"x, of shape \(0, 3\), is an empty batch"),
        (nn.Linear(3, 4), torch.tensor(1.0), r"batch_axis = 0, but x has the shape \(\)"),
        (
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 6)),
            torch.randn(2, 3),
            r"^layer '2' \(Linear\) does not take its input of shape \(2, 4\): mat1 and mat2 shapes",
        ),
        (
            nn.Linear(3, 4),
            torch.randn(2, 5),
            r"^the model \(Linear\) does not take its input of shape \(2, 5\)",
        ),
        (Function(lambda m, x: m.nothing), torch.randn(2, 5), r"has no attribute 'nothing'"),
        (
            nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
            torch.randn(2, 3, 4, 4),
            r"nothing to count in Sequential",
        ),
        (
            nn.Sequential(nn.LazyLinear(3)),
            torch.randn(2, 3),
            r"0.weight has no values yet: run the model once",
        ),
        (nn.Linear(3, 4, device="meta"), torch.randn(2, 3), r"weight has no values yet$"),
    ],
)
def test_mistakes(model: Any, x: Any, problem: str) -> None:
    """Each is one line that names what is wrong."""
    with pytest.raises(ValueError, match=problem) as caught:
        summary(model, x)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_modules_are_refused() -> None:
    """They call no hooks, and their layers cannot be told apart."""
    with pytest.raises(ValueError, match="is TorchScript; give the module that it was made of"):
        summary(torch.jit.script(nn.Linear(3, 4)), torch.randn(2, 3))


def test_a_model_that_cannot_be_copied() -> None:
    """As `freeze` copies the model; NaN among latent weights is refused there."""
    model = nn.Linear(8, 4)
    model.lock = (step for step in ())
    with pytest.raises(ValueError, match="the model cannot be copied: cannot pickle 'generator' object"):
        summary(model, torch.randn(2, 8))
    latent = binarize(nn.Linear(8, 4))
    with torch.no_grad():
        latent.parametrizations.weight.original[0, 0] = torch.nan
    with pytest.raises(ValueError, match="weight holds NaN or infinity"):
        summary(latent, torch.randn(2, 8))


# --- what is shown ----------------------------------------------------------------------------------------


def small() -> Summary:
    """Everything that a table can have: two kinds of products in a layer, and one that is not known."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
    gain = Function(lambda m, x: x * m.gain, gain=torch.ones(8))
    model = Function(lambda m, x: m.gain(m.attention(x, x, x)[0]), attention=attention, gain=gain)
    return summary(binarize(model, skip=[gain]), torch.randn(2, 3, 8))


def test_the_table() -> None:
    """The text, to the letter."""
    assert f"{small()}\n" == TABLE
    assert repr(small()) == str(small())


TABLE = """\
layer               kind                output  one-bit  float  bytes  in float32  MACs  of
------------------  ------------------  ------  -------  -----  -----  ----------  ----  ----------
attention           MultiheadAttention     3x8      192           192         768   576  float x ±1
                                                                                    144  float
attention.out_proj  Linear                           64            64         256   192  float x ±1
gain                Function               3x8               8     32          32     ?
------------------  ------------------  ------  -------  -----  -----  ----------  ----  ----------
total                                               256      8    288       1,056   912

parameters: 256 one-bit, 8 float
bytes: 288, 3.7 times smaller than in float32
multiply-accumulates (MACs) for one sample: 768 float x ±1, 144 float
not counted, as what they compute is not known: gain
"""


def test_the_table_of_rich() -> None:
    """rich prints the same cells and lines, each row of the text one of its rows."""
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(small())
    printed = [line.split() for line in console.export_text().splitlines()]
    expected = [line.split() for line in str(small()).splitlines() if not line.startswith("---")]
    assert [line for line in printed if line and "─" not in line[0]] == [line for line in expected if line]


def test_names_are_no_markup_for_rich() -> None:
    """Brackets in a name are printed."""
    cost = LayerCost("a[bold]", "Linear", (4,), 0, 4, 16, 16, {})
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(Summary((cost,)))
    assert "a[bold]" in console.export_text()


def test_json() -> None:
    """`as_dict` goes through JSON; its totals are the sums of its layers, without what is unknown."""
    result = small()
    info = json.loads(json.dumps(result.as_dict()))
    for key in ("one_bit_weights", "float_parameters", "bytes", "float_bytes"):
        assert info[key] == sum(layer[key] for layer in info["layers"]) == getattr(result, key)
    assert info["macs"] == {"float x ±1": 3 * 4 * 64, "float": 2 * 9 * 8}
    assert info["uncounted"] == ["gain"]
    first, _, last = info["layers"]
    assert first["macs_by_kind"] == {"float x ±1": 3 * 3 * 64, "float": 2 * 9 * 8}
    assert (first["output_shape"], first["macs"]) == ([3, 8], 9 * 64 + 144)
    assert (last["macs"], last["macs_by_kind"]) == (None, None)


def test_dataframe() -> None:
    """A row for each layer, a column for each kind; integers, <NA> where unknown."""
    frame = small().to_dataframe()
    assert list(frame["name"]) == ["attention", "attention.out_proj", "gain"]
    assert list(frame["float x ±1"].dropna()) == [576, 192]
    assert list(frame["±1 x ±1"].dropna()) == [0, 0]
    assert frame["macs"].isna().tolist() == [False, False, True]
    assert str(frame["macs"].dtype) == "Int64"
    assert frame["bytes"].sum() == small().bytes
    assert frame["output_shape"][0] == (3, 8)


def test_a_dataframe_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is said."""
    result = small()
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'binaryconnect\[train\]'"):
        result.to_dataframe()


# --- packed models and the command line -------------------------------------------------------------------


def test_a_packed_model_needs_no_torch(tmp_path) -> None:
    """Where torch and rich cannot be imported, a packed model has its summary, and `bnn info` prints it."""
    one_of_each().save(tmp_path / "m.bnn")
    program = """
import sys
sys.modules["torch"] = sys.modules["rich"] = None
import bnn
from bnn.cli import main
runner = bnn.load(sys.argv[1])
print(bnn.summary(runner))
print("and")
sys.exit(main(["info", sys.argv[1]]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, str(tmp_path / "m.bnn")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    by_function, by_command = done.stdout.split("\nand\n")
    rows = by_function.split("\n\n")[0]
    assert len(rows.splitlines()) == len(one_of_each().nodes) + 4
    assert rows in by_command


def test_info(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bnn info` prints the summary, with the size of the file; its JSON has that and what the file says."""
    model, path = one_of_each(), tmp_path / "m.bnn"
    model.save(path)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    size, floats = path.stat().st_size, summary(model).float_bytes
    assert f"bytes: {size:,} in the file, {floats / size:.1f} times smaller than in float32" in out
    assert "data: none, weights: sign" in out
    assert str(summary(model)).split("\n\n")[0] in out
    assert main(["info", str(path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    result = json.loads(json.dumps(summary(model).as_dict()))
    assert {key: info[key] for key in result} == result
    assert info["file_bytes"] == size
    assert info["about"] == model.about
    assert info["input"]["shape"] == [2, 6, 6]
    keys = {
        "name",
        "operation",
        "output_shape",
        "one_bit_weights",
        "float_parameters",
        "bytes",
        "macs",
        "macs_kind",
    }
    assert all(keys <= set(layer) for layer in info["layers"])


def test_packed_products_by_hand() -> None:
    """The stem has float inputs, the grouped convolution ±1, the logits float weights."""
    found = costs(summary(one_of_each()))
    assert found["stem"].macs_by_kind == {"float x ±1": 4 * 2 * 9 * 36}
    assert found["conv"].output_shape == (4, 6, 4)  # (6 + 1 - 2) + 1, (6 + 3 - 3) // 2 + 1
    assert found["conv"].macs_by_kind == {"±1 x ±1": 4 * 6 * 24}
    assert found["logits"].macs_by_kind == {"float": 144}
    assert (found["logits"].one_bit_weights, found["logits"].float_parameters) == (0, 144 + 6)
    assert all(found[name].macs == 0 for name in found if name not in ("stem", "conv", "logits"))


@pytest.mark.parametrize("first", ["", "import bnn.summarize", "bnn.summary; import bnn.summarize"])
def test_the_name_is_the_function(first: str, tmp_path) -> None:
    """`bnn.summary(...)` works whether or not the module behind it has been imported."""
    one_of_each().save(tmp_path / "m.bnn")
    program = f"import sys, bnn; {first}\nprint(bnn.summary(bnn.PackedModel.load(sys.argv[1])).macs)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "m.bnn")], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == f"{summary(one_of_each()).macs}\n", done.stderr
    assert bnn.summary(nn.Linear(3, 4), torch.ones(2, 3)).macs == {"float": 12}

"""pack(freeze(model)) computes what the frozen model computes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_helpers import Detached, ScaledSign, randomise

from bnn.binarization import binarize
from bnn.freezing import freeze
from bnn.functional import sign
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear
from bnn.packing.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.runtime import Runner


class Function(nn.Module):
    """A function as a module, with some constants to use."""

    def __init__(self, function: Callable[["Function", Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(6, 24, generator=torch.Generator().manual_seed(1)))
        self.register_buffer("each", torch.tensor([2.0, -1.0, 0.0, 0.5]).view(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Residual(nn.Module):
    """x + f(x), with an in-place ReLU that overwrites what the shortcut reads."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body, self.shortcut, self.relu = body, shortcut or nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        out = self.body(x)
        out += self.shortcut(x)
        return self.relu(out)


class Dense(nn.Module):
    """[x, f(x), f(x)] along the channels."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return torch.cat([x, y, y], dim=1)


def conv(n: int, out: int, kernel: int = 3, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(n, out, kernel, **options), nn.BatchNorm2d(out))  # type: ignore[arg-type]


def head(n: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(n, 5), nn.BatchNorm1d(5)]


def between(*modules: nn.Module, out: int = 4 * 36) -> nn.Sequential:
    """These modules between a convolution, giving (4, 6, 6), and a head."""
    return nn.Sequential(conv(2, 4, padding=1), *modules, *head(out))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(72, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(), *head(33)
    ),
    "without biases": lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 5, bias=False)),
    "strides, dilation, asymmetric kernel": lambda: between(
        nn.Conv2d(4, 5, (3, 2), stride=(1, 2), dilation=(2, 1), padding=(2, 0)), nn.ReLU(), out=90
    ),
    "same padding": lambda: between(nn.Conv2d(4, 4, (2, 4), padding="same", dilation=(1, 2))),
    "valid padding": lambda: between(nn.Conv2d(4, 4, 3, padding="valid"), out=64),
    "depthwise": lambda: between(conv(4, 8, padding=1, groups=4), nn.ReLU6(), conv(8, 4, 1)),
    "groups": lambda: between(conv(4, 6, padding=1, groups=2), nn.Hardtanh(), out=216),
    "residual": lambda: between(
        Residual(nn.Sequential(conv(4, 4, padding=1), nn.ReLU(True), conv(4, 4, padding=1))),
        Residual(conv(4, 8, 3, stride=2, padding=1), conv(4, 8, 1, stride=2)),
        out=72,
    ),
    "concat": lambda: between(Dense(conv(4, 3, padding=1)), Dense(nn.ReLU()), out=1080),
    "prelu": lambda: between(nn.PReLU(), nn.PReLU(4), nn.LeakyReLU(0.1)),
    "clamps": lambda: between(
        nn.Hardtanh(-0.5, 2), Function(lambda m, x: x.clamp(-0.4, 1.5).clamp(min=-0.3).clamp(max=1))
    ),
    "max pooling": lambda: between(nn.MaxPool2d(3, stride=2, padding=1), out=36),
    "max pooling, ceil mode": lambda: between(nn.MaxPool2d((5, 3), stride=(3, 4), ceil_mode=True), out=16),
    "average pooling": lambda: between(
        nn.AvgPool2d(3, stride=2, padding=1), nn.AvgPool2d(2, 1, 1, count_include_pad=False), out=64
    ),
    "adaptive pooling": lambda: between(nn.AdaptiveMaxPool2d(3), nn.AdaptiveAvgPool2d(1), out=4),
    "global pooling": lambda: nn.Sequential(
        conv(2, 8), Function(lambda m, x: torch.cat([x.mean((2, 3)), x.amax((-1, -2))], 1)), *head(16)
    ),
    "global pooling, kept axes": lambda: nn.Sequential(
        conv(2, 8), Function(lambda m, x: x.mean([2, 3], keepdim=True).squeeze()), *head(8)
    ),
    "padding before a convolution": lambda: between(
        Function(lambda m, x: F.pad(x, (1, 2, 0, 1), value=0.5)), conv(4, 4), out=140
    ),
    "padding twice": lambda: between(nn.ZeroPad2d((1, 0, 2, 0)), conv(4, 4, padding=1), out=4 * 8 * 7),
    "padded signs": lambda: between(
        Sign(),
        Function(lambda m, x: F.pad(x, (1, 1, 1, 1), value=-1)),
        conv(4, 4),
        Sign(),
        Function(lambda m, x: F.pad(x, (1, 1, 1, 1), value=1)),
        conv(4, 4),
        Sign(),
        conv(4, 4, padding=1),
    ),
    "softmax": lambda: nn.Sequential(between(nn.ReLU()), nn.Softmax(dim=1)),
    "arithmetic": lambda: between(
        Function(lambda m, x: 2 - 3 * (x + 1) / 4 - x * m.each + torch.sub(x, x, alpha=0.5) + m.each),
        Function(lambda m, x: -x * torch.ones(1, 4, 1, 1)),
    ),
    "a functional layer": lambda: nn.Sequential(
        nn.Flatten(),
        nn.Linear(72, 24),
        nn.ReLU(),
        Function(lambda m, x: F.linear(x, sign(m.weight) * m.weight.abs().mean(1, keepdim=True))),
    ),
    "sign by where": lambda: between(
        Function(lambda m, x: torch.where(x >= 0, 1.0, -1.0)),
        conv(4, 4, padding=1),
        Function(lambda m, x: torch.where(x < 0, -torch.ones_like(x), torch.full_like(x, 1))),
    ),
    "reshaping": lambda: nn.Sequential(
        conv(2, 4), Function(lambda m, x: x.view(x.size(0), -1).reshape(-1, 64).contiguous()), *head(64)
    ),
    "other precision": lambda: between(Function(lambda m, x: x.double().relu().float().clone().detach())),
}


def assert_packed_is_equal(frozen: nn.Module, x: Tensor) -> PackedModel:
    """Packed and frozen agree to 1e-4 of the largest output, and in every class; returns the packed model."""
    packed = pack(frozen, x[:1])
    with torch.no_grad():
        expected = frozen(x).numpy()
    result = Runner(packed)(x.numpy())
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.array_equal(Runner(packed).predict(x.numpy()), expected.argmax(1))
    assert expected.std(axis=0).max() > 0
    return packed


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", NETWORKS)
def test_packed_equals_frozen(name: str) -> None:
    """The packed network's outputs are the frozen network's, and all its larger weights take one bit."""
    frozen = freeze(randomise(binarize(NETWORKS[name]())))
    packed = assert_packed_is_equal(
        frozen, torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    )
    for node in packed.nodes:
        if isinstance(node, Linear | Conv2d) and node.weight.shape[1:] != (4, 1, 1):
            assert node.is_packed, node.name


@pytest.mark.parametrize("quantizer", [Sign, StochasticSign, ScaledSign, Detached])
def test_any_quantizer_packs(quantizer: type[nn.Module]) -> None:
    """A quantizer of one's own packs with nothing registered, and the result is equal to the frozen model."""
    model = nn.Sequential(nn.Linear(72, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Linear(40, 5))
    frozen = freeze(randomise(binarize(model, quantizer)), "sample", seed=0)
    packed = assert_packed_is_equal(frozen, torch.randn(64, 72, generator=torch.Generator().manual_seed(2)))
    weights = [node.weight for node in packed.nodes if isinstance(node, Linear)]
    assert [type(weight).__name__ for weight in weights] == ["PackedWeight", "PackedWeight"]


def test_a_scale_for_each_row_is_kept() -> None:
    """Magnitudes other than 1 become the scale, signs the bits."""
    layer = nn.Linear(70, 3, bias=False)
    magnitudes = torch.tensor([[0.5], [3.0], [1e-3]])
    with torch.no_grad():
        layer.weight.copy_(sign(layer.weight) * magnitudes)
    (node,) = pack(layer, torch.zeros(1, 70)).nodes
    assert isinstance(node, Linear)
    assert node.scale is not None
    assert np.array_equal(node.scale, magnitudes.numpy()[:, 0])
    assert np.array_equal(node.weight.signs(), sign(layer.weight).detach().numpy())  # type: ignore[union-attr]


def test_weights_of_1_and_no_bias_need_no_scale() -> None:
    """A layer of plain ±1 has neither scale nor shift in the file."""
    (node,) = pack(freeze(binarize(nn.Linear(70, 3, bias=False))), torch.zeros(1, 70)).nodes
    assert isinstance(node, Linear)
    assert node.scale is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision_pack(dtype: torch.dtype) -> None:
    """A model in float64 or bfloat16 packs as well; ±1 are exact in both."""
    frozen = freeze(randomise(binarize(nn.Sequential(nn.Linear(72, 9), nn.ReLU())))).to(dtype)
    assert_packed_is_equal_in_float32(frozen, torch.randn(64, 72, generator=torch.Generator().manual_seed(2)))


def assert_packed_is_equal_in_float32(frozen: nn.Module, x: Tensor) -> None:
    result = Runner(pack(frozen, x))(x.numpy())
    assert np.abs(result - frozen.float()(x).detach().numpy()).max() < 1e-4


def test_changes_in_place_do_not_count() -> None:
    """A model that changes its input in place, or counts its calls, has one output all the same."""

    class Counting(nn.Sequential):
        def __init__(self, *modules: nn.Module) -> None:
            super().__init__(*modules)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    model = Counting(nn.ReLU(inplace=True), nn.Linear(72, 5))
    x = torch.randn(64, 72, generator=torch.Generator().manual_seed(2))
    packed = pack(freeze(binarize(model)), x)
    assert [node.name for node in packed.nodes] == ["0", "1"]
    assert np.allclose(Runner(packed)(x.numpy()), freeze(model)(x).detach().numpy(), atol=1e-4)


def test_names_are_the_modules() -> None:
    """A node bears its module's name, numbered at a second use; a larger module's operation its own too."""
    relu = nn.ReLU()
    model = nn.Sequential(
        nn.Linear(8, 8), relu, Residual(nn.Sequential(nn.Linear(8, 8)), nn.Linear(8, 8)), relu
    )
    names = [node.name for node in pack(freeze(binarize(model)), torch.zeros(1, 8)).nodes]
    assert names == ["0", "1", "2.relu", "2.body.0", "2.shortcut", "2.add", "2.relu_1", "3"]
    assert [node.name for node in pack(freeze(binarize(nn.Linear(8, 8))), torch.zeros(1, 8)).nodes] == [
        "linear"
    ]


def test_the_contract_and_notes_are_kept() -> None:
    """Shape, mean, std, labels and notes are the packed model's; one number serves all channels."""
    model = freeze(binarize(nn.Sequential(nn.Flatten(), nn.Linear(75, 2))))
    packed = pack(
        model, torch.zeros(4, 3, 5, 5), mean=0.5, std=[0.1, 0.2, 0.3][:1], labels=["a", "b"], about={"k": "v"}
    )
    contract = packed.input
    assert contract.shape == (3, 5, 5)
    assert (contract.mean, contract.std, contract.labels) == ((0.5,), (0.1,), ("a", "b"))
    assert packed.about == {"k": "v"}


def test_the_model_is_left_as_it_is() -> None:
    """Packing changes neither the model's values, mode, nor gradients, nor the random numbers after it."""
    model = freeze(randomise(binarize(NETWORKS["residual"]()))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    pack(model, torch.zeros(1, 2, 6, 6))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_batch_of_the_example_does_not_matter(batch: int) -> None:
    """Only the example's shape counts, a batch of 1 included; its values, NaN as well, do not."""
    frozen = freeze(randomise(binarize(NETWORKS["max pooling"]())))
    x = torch.randn(5, 2, 6, 6, generator=torch.Generator().manual_seed(2))
    packed = pack(frozen, torch.full((batch, 2, 6, 6), torch.nan))
    assert np.allclose(Runner(packed)(x.numpy()), frozen(x).detach().numpy(), atol=1e-4)

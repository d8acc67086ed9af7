"""What pack refuses, in one line that names the place; what it leaves float, with a word where one helps."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.torch_helpers import Detached
from torch import Tensor, nn

from bnn.binarization import BinaryLinear, binarize
from bnn.freezing import freeze
from bnn.functional import sign
from bnn.packed.nodes import Conv2d, Linear
from bnn.packing import packing
from bnn.packing.aten import OPERATIONS
from bnn.packing.packing import pack
from bnn.packing.weights import PackWarning

IMAGE, FEATURES = torch.zeros(1, 4, 6, 6), torch.zeros(1, 8)


class Function(nn.Module):
    def __init__(self, function: Callable[["Function", Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(6, 8))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def refusal(
    model: nn.Module | Callable[["Function", Tensor], Any], example: Tensor = IMAGE, **options: Any
) -> str:
    """The message with which pack refuses, which is one line."""
    module = model if isinstance(model, nn.Module) else nn.Sequential(nn.ReLU(), Function(model))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the callers look at the message
        pack(module.eval(), example, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- models that are not ready ----------------------------------------------------------------------------


def test_a_model_that_is_not_frozen() -> None:
    """A model that is still parametrized is refused, with what to do."""
    model = nn.Sequential(nn.ReLU(), BinaryLinear(8, 8))
    assert refusal(model, FEATURES) == "module '1' is still parametrized: pack(bnn.freeze(model), ...)"
    assert "the model is still parametrized: pack(bnn.freeze(model), ...)" in refusal(model[1], FEATURES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value: float) -> None:
    """NaN or infinity in a parameter or a buffer is refused by its name."""
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    model[1].running_var[3] = value
    assert refusal(model, FEATURES) == "1.running_var holds NaN or infinity"
    with torch.no_grad():
        model[0].bias[3] = value
    assert refusal(model, FEATURES) == "0.bias holds NaN or infinity"


def test_a_scale_that_is_not_finite() -> None:
    """NaN that arises on the way is refused as well, by the node that it is in."""
    message = refusal(lambda m, x: F.linear(x, m.weight * float("nan")), FEATURES)
    assert message == "node '1' (Linear): weight holds NaN or infinity"


@pytest.mark.parametrize("shape", [(0, 8), (8,), (1, 8, 8), (1, 1, 2, 2, 2)])
def test_examples_that_do_not_fit(shape: tuple[int, ...]) -> None:
    """An example is a batch of features or images that holds at least one."""
    assert "example must be (n, features) or (n, c, h, w) with n > 0" in refusal(
        nn.ReLU(), torch.zeros(shape)
    )


def test_a_model_that_fails_itself() -> None:
    """A model that does not run on the example's shape fails with PyTorch's own error."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        pack(nn.Linear(3, 3), FEATURES)


def test_a_model_that_cannot_be_captured() -> None:
    """Control flow that depends on values, or a batch size built in: torch.export's refusal, in a line."""
    assert "torch.export could not capture the model" in refusal(lambda m, x: x if x.sum() > 0 else -x)
    assert "could not capture" in refusal(lambda m, x: x + torch.ones(2, 1, 1, 1))


def test_the_contract_is_checked() -> None:
    """Wrong numbers of means or labels are refused."""
    assert "2 means for 4 channels" in refusal(nn.ReLU(), IMAGE, mean=[0.0, 0], std=[1.0, 1])
    assert "3 labels for an output of shape (8,)" in refusal(nn.ReLU(), FEATURES, labels=["a", "b", "c"])
    assert "a model needs at least one node" in refusal(nn.Identity())


# --- operations -------------------------------------------------------------------------------------------

REFUSED: list[tuple[Any, Tensor, str]] = [
    (nn.Sequential(nn.ReLU(), nn.Tanh()), IMAGE, "module '1': aten.tanh.default: the runtime does not know"),
    (nn.Sequential(nn.ReLU(), nn.Sequential(nn.GELU())), IMAGE, "module '1.0': aten.gelu.default"),
    (nn.GroupNorm(2, 4), IMAGE, "group_norm"),
    (nn.BatchNorm2d(4, track_running_stats=False), IMAGE, "a batch norm without running statistics"),
    (nn.ConvTranspose2d(4, 4, 3), IMAGE, "the model: ConvTranspose2d cannot be packed yet"),
    (nn.Linear(6, 3), IMAGE, "a linear layer on activations of shape (4, 6, 6); it must be (features,)"),
    (nn.Unflatten(1, (2, 4)), FEATURES, "reshapes (8,) to (2, 4); only flattening is understood"),
    (nn.Upsample(scale_factor=2), IMAGE, "the runtime does not know this operation"),
    (nn.PixelShuffle(2), IMAGE, "the runtime does not know this operation"),
    (nn.AdaptiveAvgPool2d(4), IMAGE, "adaptive pooling of 6x6 to 4x4, which does not divide it"),
    (nn.AdaptiveMaxPool2d((3, 5)), IMAGE, "adaptive pooling of 6x6 to 3x5"),
    (nn.MaxPool2d(2, dilation=2), IMAGE, "max pooling with dilation"),
    (nn.AvgPool2d(4, ceil_mode=True), IMAGE, "average pooling whose windows reach over the edge (ceil_mode)"),
    (nn.AvgPool2d(2, divisor_override=3), IMAGE, "average pooling with divisor_override"),
    (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), IMAGE, "padding other than by a constant"),
    (nn.ConstantPad2d(1, 2.0), IMAGE, "padding is understood only before a convolution"),
    (nn.ConstantPad2d(-1, 0.0), IMAGE, "padding other than by a constant"),
    (nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 4, 3, padding=1)), IMAGE, "1.0 and then with 0"),
    (nn.Softmax(dim=1), IMAGE, "softmax over something other than (batch, classes)"),
    (nn.Softmax(dim=0), FEATURES, "softmax over something other than (batch, classes)"),
    (lambda m, x: x.sign(), IMAGE, "torch.sign gives 0 at 0, which has no bit; use bnn.functional.sign"),
    (lambda m, x: torch.where(x > 0, 1.0, -1.0), IMAGE, "0 counts as +1; use bnn.functional.sign"),
    (lambda m, x: torch.where(x >= 0, 1.0, 0.0), IMAGE, "`where` is understood only as a sign"),
    (lambda m, x: torch.where(x >= 0, -1.0, 1.0), IMAGE, "`where` is understood only as a sign"),
    (lambda m, x: torch.where(x >= 0, x, -x), IMAGE, "`where` is understood only as a sign"),
    (lambda m, x: torch.where(x >= 0.5, 1.0, -1.0), IMAGE, "a comparison with something other than 0"),
    (lambda m, x: torch.where(x >= -x, 1.0, -1.0), IMAGE, "a comparison with something other than 0"),
    (lambda m, x: (x >= 0).float() * 2 - 1, IMAGE, "a comparison is understood only as part of a sign"),
    (lambda m, x: x.int(), IMAGE, "_to_copy changes more than layout and precision"),
    (lambda m, x: (x, x), IMAGE, "the model returns 2 values; one is needed"),
    (lambda m, x: x.reshape(-1, 4, 36), IMAGE, "reshapes (4, 6, 6) to (4, 36)"),
    (lambda m, x: x.reshape(-1, 72), IMAGE, "only flattening is understood"),
    (lambda m, x: x.transpose(2, 3), IMAGE, "aten.transpose.int: the runtime does not know this operation"),
    (lambda m, x: x * x, IMAGE, "a product of two activations"),
    (lambda m, x: x / x, IMAGE, "a divisor that depends on the input"),
    (lambda m, x: x + x.mean((2, 3), keepdim=True), IMAGE, "adds activations of shapes (4, 6, 6) and"),
    (lambda m, x: x + torch.arange(6.0), IMAGE, "a constant of shape (6,) is neither one number nor one"),
    (lambda m, x: x.mean(1), IMAGE, "a reduction over axes other than height and width"),
    (lambda m, x: torch.cat([x, x], 2), IMAGE, "concatenation along another axis than the channels"),
    (lambda m, x: torch.cat([x, torch.ones(2, 4, 6, 6)]), IMAGE, "concatenation along another axis"),
    (lambda m, x: x.clamp(m.weight[0, 0], m.weight[0, 0]), IMAGE, "aten.clamp.Tensor"),
    (lambda m, x: F.dropout(x, 0.5), IMAGE, "dropout that stays on in eval()"),
    (lambda m, x: F.linear(x, torch.bernoulli(m.weight)), FEATURES, "aten.bernoulli.default"),
    (lambda m, x: x + torch.rand(8), FEATURES, "aten.rand.default"),
    (lambda m, x: F.linear(x, m.weight, F.linear(x, m.weight)), FEATURES, "a bias that depends on the input"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "example", "message"), REFUSED)
def test_operations_that_do_not_pack(model: Any, example: Tensor, message: str) -> None:
    """An operation that the runtime does not have is refused in one line, with the rule that it breaks."""
    assert message in refusal(model, example)


def test_an_operation_outside_of_modules_names_its_source_line() -> None:
    """An operation in the model's own forward is found by its file, line and text."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(x)
            return torch.tanh(x)

    message = refusal(Model())
    assert message.startswith("'return torch.tanh(x)' (File ")
    assert 'test_packing_errors.py", line' in message
    assert message.endswith(": aten.tanh.default: the runtime does not know this operation")


def test_every_operation_in_the_table_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ATen operation that pack translates is one that torch.export gives for some program."""
    asked: set[str] = set()

    class Recording(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return super().get(key, default)

    def images(m: Function, x: Tensor) -> Tensor:
        x = F.conv2d(F.pad(x, (1, 1, 1, 1)), torch.ones(4, 4, 3, 3))
        x = F.conv2d(F.leaky_relu(F.prelu(F.relu(x), torch.ones(4))), torch.ones(4, 4, 1, 1), padding="same")
        x = F.batch_norm(F.hardtanh(F.relu6(x)), torch.zeros(4), torch.ones(4))
        x = -((1 - (x + 1) * 2) / 3 - x).clamp(0, 1).clamp_min(0).clamp_max(1)
        x = torch.where(x >= torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, -1))
        x = torch.where(x >= 0, 1.0, -1.0)
        x = torch.where(x < 0, -1.0, torch.tensor(1.0))
        x = torch.where(x < torch.zeros(1), torch.tensor(-1.0), 1.0)
        x = F.max_pool2d(F.avg_pool2d(x, 1), 1).clone().detach().double().float()
        x = F.adaptive_max_pool2d(F.adaptive_avg_pool2d(torch.cat([x, x], 1), 3), 1)
        flat = [x.squeeze(), x.squeeze((2, 3)), x.mean((2, 3)), x.amax((2, 3)), x.flatten(1)]
        return F.linear(sum(flat), torch.ones(3, 8)).softmax(1)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "OPERATIONS", Recording(OPERATIONS))
    pack(Function(images), IMAGE)
    for refused in (
        nn.BatchNorm2d(4, track_running_stats=False),
        lambda m, x: x.sign(),
        lambda m, x: torch.where(x > 0, 1.0, -1.0),
        lambda m, x: F.dropout(x, 0.5),
        lambda m, x: x.amax((2, 3), keepdim=True).squeeze(-1),
    ):
        refusal(refused)
    assert set(OPERATIONS) - asked == set()


# --- weights that stay float ------------------------------------------------------------------------------


def layer_of(weight: Tensor) -> nn.Module:
    layer = (
        nn.Linear(*weight.shape[::-1]) if weight.dim() == 2 else nn.Conv2d(weight.shape[1], len(weight), 3)
    )
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(nn.ReLU(), layer)


def signs(*shape: int) -> Tensor:
    return sign(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


def product(model: nn.Module, example: Tensor) -> Linear | Conv2d:
    (node,) = (node for node in pack(model, example).nodes if isinstance(node, Linear | Conv2d))
    return node


def test_one_zero_is_reported() -> None:
    """A single 0 among ±1 keeps the weight float, with a warning that counts it."""
    weight = signs(5, 200)
    weight[3, 7] = 0
    with pytest.warns(PackWarning) as caught:
        node = product(layer_of(weight), torch.zeros(1, 200))
    assert [str(warning.message) for warning in caught] == ["module '1': not packed, 1 of 1,000 weights is 0"]
    assert np.array_equal(node.weight, weight.numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w[:, :2].zero_(), "20 of 2,000 weights are 0"),
        (lambda w: w[4].zero_(), "200 of 2,000 weights are 0"),
        (lambda w: w[0, :3].mul_(0.5), "3 of 2,000 weights differ from ± their row's magnitude"),
        (lambda w: w[:, 0].mul_(1 + 1e-6), "10 of 2,000 weights differ from ± their row's magnitude"),
    ],
)
def test_near_misses_are_reported(change: Callable[[Tensor], Tensor], message: str) -> None:
    """Some zeros, a row of zeros, some other magnitudes, rounding: counted, for they cost the one bit."""
    weight = signs(10, 200)
    change(weight)
    with pytest.warns(PackWarning, match=f"^module '1': not packed, {message}$"):
        node = product(layer_of(weight), torch.zeros(1, 200))
    assert not node.is_packed


def test_rounding_in_the_model_is_reported() -> None:
    """The rounding straight-through one-liner in a model's own forward, which freeze does not see."""
    weight = torch.randn(10, 200, generator=torch.Generator().manual_seed(0)) / 10
    model = Function(lambda m, x: F.linear(x, Detached()(weight)))
    with pytest.warns(PackWarning, match=r"weights differ from ± their row's magnitude"):
        pack(model, torch.zeros(1, 200))


@pytest.mark.parametrize(
    "weight",
    [
        torch.randn(10, 200, generator=torch.Generator().manual_seed(0)),
        torch.randn(10, 200, generator=torch.Generator().manual_seed(0)).round().clamp(-1, 1),
        torch.zeros(10, 200),
        torch.ones(200, 1),
        signs(200, 3),
        signs(8, 1, 3, 3).cumsum(3),
    ],
)
def test_other_weights_stay_float_in_silence(weight: Tensor) -> None:
    """Real and ternary weights, zeros, and rows too short to gain by packing stay float32, without a word."""
    example = torch.zeros(1, weight.shape[1]) if weight.dim() == 2 else torch.zeros(1, 1, 6, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        node = product(layer_of(weight), example)
    assert not node.is_packed
    assert np.array_equal(node.weight, weight.numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "packed"), [(1, False), (3, False), (4, True), (64, True), (65, True)])
def test_a_row_is_packed_where_it_gets_smaller(n: int, packed: bool) -> None:
    """Words of 8 bytes and a scale of 4 against 4 bytes a weight: from 4 weights a row on."""
    assert product(layer_of(signs(6, n)), torch.zeros(1, n)).is_packed == packed


def test_the_sign_of_a_relu_warns() -> None:
    """sign(relu(x)) is a mistake that pack points out, by the module that takes the sign."""
    model = freeze(binarize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Function(lambda m, x: sign(x)))))
    with pytest.warns(PackWarning, match="^2: the sign of a ReLU is always"):
        pack(model, FEATURES)


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.LSTM(4, 4), "LSTM"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.ConvTranspose2d(4, 4, 3), "ConvTranspose2d"),
    ],
)
def test_layers_that_do_not_pack_yet_are_named(layer: nn.Module, kind: str) -> None:
    """A layer of a kind that version 1 does not pack is named with its kind, before anything is exported."""
    with pytest.raises(
        ValueError, match=rf"module '1': {kind} cannot be packed yet, only trained and frozen"
    ):
        pack(nn.Sequential(nn.ReLU(), layer), IMAGE)


@pytest.mark.parametrize(
    "number", [0.5, np.float32(0.5), torch.tensor(0.5), [0.5], np.array([0.5]), (0.5,) * 4]
)
def test_mean_and_std_may_be_any_numbers(number: Any) -> None:
    """A Python, numpy or torch number, or one for each channel."""
    contract = pack(nn.Conv2d(4, 2, 3), IMAGE, mean=number, std=number).input
    assert set(contract.mean) == set(contract.std) == {0.5}

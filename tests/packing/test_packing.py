"""pack(freeze(model)) computes what the frozen model computes."""

import numpy as np
import pytest
import torch
from support.networks import NETWORKS, Residual
from support.torch_helpers import Detached, ScaledSign, randomise
from torch import Tensor, nn

from bnn.binarization import binarize
from bnn.freezing import freeze
from bnn.functional import sign
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear
from bnn.packing.packing import pack
from bnn.quantizers import Sign, StochasticSign
from bnn.runtime import Runner


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

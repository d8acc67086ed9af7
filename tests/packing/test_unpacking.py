"""to_torch(): a packed model as PyTorch modules computes the same, and packs to the same bytes."""

import copy
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.bnn_files import small
from support.drawn_networks import network
from support.helpers import every_engine, model_of, one_of_each, packed_weight, random_floats, random_pixels
from support.networks import NETWORKS
from support.torch_helpers import ScaledSign, randomise
from torch import Tensor, nn

import bnn
from bnn import models
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    AvgPool2d,
    Conv2d,
    Flatten,
    Hardtanh,
    Linear,
    MaxPool2d,
    PackedWeight,
    Sign,
    Threshold,
)
from bnn.packing.packing import pack
from bnn.packing.unpacking import Normalised, to_torch
from bnn.runtime import Runner

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (make, (2, 6, 6)) for name, make in NETWORKS.items()},
    "BinaryConnect MLP": (lambda: models.binaryconnect_mlp((1, 8, 8), 10, width=70), (1, 8, 8)),
    "BinaryNet MLP": (lambda: models.binarynet_mlp((1, 8, 8), 10, width=70), (1, 8, 8)),
    "BinaryConnect CNN": (lambda: models.binaryconnect_cnn((3, 8, 8), 10, width=4), (3, 8, 8)),
    "ceil mode, a window left out below": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 1), nn.MaxPool2d((2, 3), stride=(4, 2), padding=1, ceil_mode=True)),
            *(nn.Flatten(), nn.Linear(32, 5)),
        ),
        (2, 6, 6),
    ),
    "features": (lambda: nn.Sequential(nn.Linear(65, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)), (65,)),
}


def trained(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    return bnn.freeze(randomise(bnn.binarize(make()), seed))


def packed_model(frozen: nn.Module, shape: tuple[int, ...]) -> PackedModel:
    return pack(frozen, torch.zeros(1, *shape), mean=0.4, std=0.3, about={"weights": "sign"})


def again(model: nn.Module, packed: PackedModel) -> PackedModel:
    """Packs a model with another's contract and notes."""
    contract = packed.input
    return pack(
        model,
        torch.zeros(1, *contract.shape),
        mean=contract.mean,
        std=contract.std,
        labels=contract.labels,
        about=packed.about,
    )


def content(packed: PackedModel, folder: Path) -> bytes:
    packed.save(folder / "m.bnn")
    return (folder / "m.bnn").read_bytes()


def assert_same_outputs(model: nn.Module, packed: PackedModel, engine: str = "native", n: int = 64) -> None:
    """To 1e-4 of the largest output, and in every class."""
    x = random_floats(n, *packed.input.shape, seed=2)
    expected = Runner(packed, engine)(x)
    with torch.no_grad():
        result = model(torch.from_numpy(x))
    assert (result.dtype, tuple(result.shape)) == (torch.float32, expected.shape)
    assert np.abs(result.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    assert np.array_equal(result.flatten(1).argmax(1).numpy(), Runner(packed, engine).predict(x))
    assert expected.std() > 0


# --- there and back ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_packing_again_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    """pack, to_torch, pack: the second file is the first, and the model between computes what they do."""
    make, shape = MODELS[name]
    packed = packed_model(trained(make), shape)
    model = to_torch(packed)
    assert_same_outputs(model, packed)
    assert content(again(model, packed), tmp_path) == content(packed, tmp_path)


@pytest.mark.filterwarnings("ignore::bnn.packing.PackWarning")
@pytest.mark.parametrize(
    "seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 100))]
)
def test_random_networks_come_back(seed: int, tmp_path: Path) -> None:
    """The same of networks drawn at random."""
    packed = packed_model(trained(lambda: network(random.Random(seed)), seed), (2, 12, 12))
    model = to_torch(packed)
    assert_same_outputs(model, packed, "reference")
    assert content(again(model, packed), tmp_path) == content(packed, tmp_path)


def test_a_scale_for_each_row_comes_back(tmp_path: Path) -> None:
    """Magnitudes other than 1, with a bias, and with none: scales are kept beside weights of ±1."""
    layers = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5, bias=False))
    packed = packed_model(bnn.freeze(randomise(bnn.binarize(layers, ScaledSign))), (40,))
    model = to_torch(packed)
    assert set(model.get_parameter("0.weight").unique().tolist()) == {-1.0, 1.0}
    assert_same_outputs(model, packed)
    assert content(again(model, packed), tmp_path) == content(packed, tmp_path)


@pytest.mark.parametrize("flip", [False, True])
def test_every_threshold_comes_back(flip: bool) -> None:
    """Thresholds up to the limits of int32, where float32 has too few bits, and on both sides of a border."""
    limits = np.iinfo(np.int32)
    values = [0, 1, -1, 3, 255, 256, 2**24 + 1, -(2**24) - 1, 123456789, -123456789]
    values += [limits.max, limits.max - 1, limits.min, limits.min + 1]
    threshold = np.array(values, dtype=np.int32)
    packed = model_of(
        (9,),
        Sign(name="s", inputs=("input",)),
        Linear(name="fc", inputs=("s",), weight=packed_weight(len(values), 9)),
        Threshold(name="t", inputs=("fc",), threshold=threshold, flip=np.full(len(values), flip)),
    )
    model = to_torch(packed)
    assert_same_outputs(model, packed)
    node = again(model, packed).nodes[-1]
    assert isinstance(node, Threshold)
    assert node.threshold.tolist() == values
    assert node.flip.tolist() == [flip] * len(values)


# --- what comes out ---------------------------------------------------------------------------------------


def test_weights_are_plus_or_minus_1_and_names_the_layers() -> None:
    """One-bit weights are nn.Linear's and nn.Conv2d's parameters, exactly the packed signs, in eval mode."""
    make, shape = MODELS["BinaryConnect CNN"]
    packed = packed_model(trained(make), shape)
    model = to_torch(packed)
    layers = [node for node in packed.nodes if isinstance(node, Linear | Conv2d)]
    assert len(layers) == 9
    for node in layers:
        module = model.get_submodule(node.name)
        assert type(module) in (nn.Linear, nn.Conv2d)
        assert isinstance(node.weight, PackedWeight)
        assert isinstance(module.weight, nn.Parameter)
        assert np.array_equal(module.weight.detach().numpy(), node.weight.signs())
    assert not any(module.training for module in model.modules())
    ours = {type(module) for module in model.modules() if type(module).__module__.startswith("bnn")}
    assert ours == {Normalised}


@every_engine
def test_every_node_type(engine: str) -> None:
    """A model by hand with every operation and uneven padding: the same outputs."""
    for packed in (one_of_each(), small()):
        assert_same_outputs(to_torch(packed), packed, engine)


@pytest.mark.parametrize("count_padding", [False, True])
def test_pooling_with_any_padding(count_padding: bool) -> None:
    """Padding that no stock module has is computed all the same, of maxima and of means."""
    uneven = {"kernel": (3, 2), "stride": (2, 1), "padding": (2, 0, 0, 1)}
    packed = model_of(
        (2, 6, 6),
        MaxPool2d(name="max", inputs=("input",), **uneven),  # type: ignore[arg-type]
        AvgPool2d(name="avg", inputs=("max",), count_padding=count_padding, **uneven),  # type: ignore[arg-type]
        Flatten(name="flat", inputs=("avg",)),
    )
    model = to_torch(packed)
    assert_same_outputs(model, packed)
    with pytest.raises(ValueError, match="padding is understood only before a convolution"):
        again(model, packed)


def test_it_is_a_model_like_any_other(tmp_path: Path) -> None:
    """deepcopy, state_dict, pickle, torch.export and other precisions work; the copies compute the same."""
    make, shape = MODELS["BinaryNet MLP"]
    packed = packed_model(trained(make), shape)
    model = to_torch(packed)
    other = to_torch(packed_model(trained(make, seed=1), shape))
    other.load_state_dict(model.state_dict())
    x = torch.from_numpy(random_floats(7, *shape))
    exported = torch.export.export(model, (x,)).module()
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other, exported]
    for same in copies:
        assert torch.equal(same(x), model(x))
    assert_same_outputs(copy.deepcopy(model).double(), packed)
    assert copy.deepcopy(model).float()(x).isfinite().all()


def test_it_trains_on() -> None:
    """binarize() takes it, gradients reach its weights, and frozen it packs to one bit again."""
    make, shape = MODELS["BinaryNet MLP"]
    packed = packed_model(trained(make), shape)
    model = bnn.binarize(to_torch(packed))
    model(torch.from_numpy(random_floats(7, *shape))).square().sum().backward()
    latent = bnn.latent_parameters(model)
    gradients = [parameter.grad for parameter in latent]
    assert len(gradients) == 4
    assert all(gradient is not None and gradient.any() for gradient in gradients)
    nodes = [node for node in again(bnn.freeze(model), packed).nodes if isinstance(node, Linear)]
    assert [node.is_packed for node in nodes] == [True] * 4


def test_what_it_takes(tmp_path: Path) -> None:
    """A PackedModel, a Runner and a path give the same model; anything else is a ValueError."""
    packed = one_of_each()
    packed.save(tmp_path / "m.bnn")
    x = torch.from_numpy(random_floats(3, 2, 6, 6))
    results = [
        to_torch(given)(x)
        for given in (
            packed,
            Runner(packed),
            tmp_path / "m.bnn",
            str(tmp_path / "m.bnn"),
            bnn.load(tmp_path / "m.bnn"),
        )
    ]
    assert all(torch.equal(result, results[0]) for result in results)
    with pytest.raises(ValueError, match="not Linear"):
        to_torch(nn.Linear(3, 3))  # type: ignore[arg-type]
    (tmp_path / "no.bnn").write_bytes(b"no")
    with pytest.raises(bnn.FormatError, match=r"no\.bnn"):
        to_torch(tmp_path / "no.bnn")


def test_raw_pixels_are_refused() -> None:
    """uint8 would be computed with as if normalised; normalised by the contract it is the runtime's input."""
    packed = one_of_each()
    model, pixels = to_torch(packed), random_pixels(5, 2, 6, 6)
    with pytest.raises(ValueError, match=r"normalised floats.*not torch\.uint8"):
        model(torch.from_numpy(pixels))
    mean, std = (torch.tensor(values).view(2, 1, 1) for values in (packed.input.mean, packed.input.std))
    x: Tensor = (torch.from_numpy(pixels).double() / 255 - mean) / std
    assert np.abs(model(x).detach().numpy() - Runner(packed)(pixels)).max() < 1e-5


# --- where the bytes differ -------------------------------------------------------------------------------


def chain(*names: str) -> PackedModel:
    """Hardtanhs of these names, one after the other."""
    inputs = ("input", *names)
    nodes = [
        Hardtanh(name=name, inputs=(source,), low=-1.0, high=1.0)
        for name, source in zip(names, inputs, strict=False)
    ]
    return model_of((4,), *nodes)


@pytest.mark.parametrize(
    ("names", "after"),
    [
        (("a.b", "0.c"), ["a.b", "0.c"]),
        (("a", "a.b"), ["a_", "a.b"]),
        (("forward", "a.graph", "class"), ["forward_", "a.graph_", "class_"]),
        (("größer", "日本", "layer-1.a b", "2"), ["größer", "日本", "layer-1.a b", "2"]),
        (("ﬁ", "fi", "²"), ["fi_", "fi", "2"]),
        (("!", "_", "?"), ["__", "_", "___"]),
        (("_.b", "!.b", "!"), ["_.b", "__b_", "__"]),
        (("a..b", '") or exit() or ("', "\n"), ["a._.b", "__ or exit__ or __", "_"]),
    ],
)
def test_names_that_no_module_can_have(names: tuple[str, ...], after: list[str]) -> None:
    """They change, to what is nobody else's; what a name says is never executed; others stay."""
    packed = chain(*names)
    model = to_torch(packed)
    assert_same_outputs(model, packed)
    assert [node.name for node in again(model, packed).nodes] == after


def test_a_negative_zero_may_become_zero() -> None:
    """The sign of a shift of 0 is lost where there is a scale, and kept where it is a bias."""
    for scale, signs in ((2.0, [False]), (1.0, [True])):
        layer = Linear(
            name="fc",
            inputs=("input",),
            weight=packed_weight(1, 9),
            scale=np.array([scale], np.float32),
            shift=np.array([-0.0], np.float32),
        )
        packed = model_of((9,), layer)
        (node,) = again(to_torch(packed), packed).nodes
        assert isinstance(node, Linear)
        assert node.shift is not None
        assert np.signbit(node.shift).tolist() == signs


def test_an_addition_of_three_becomes_two() -> None:
    """PyTorch adds two at a time, so a model by hand has more nodes afterwards; its outputs are the same."""
    packed = model_of((4,), Add(name="sum", inputs=("input", "input", "input")))
    model = to_torch(packed)
    assert_same_outputs(model, packed)
    assert [node.name for node in again(model, packed).nodes] == ["sum", "sum_1"]


def test_bounds_that_are_equal() -> None:
    """A Hardtanh of one value, which nn.Hardtanh's constructor refuses, comes back."""
    packed = model_of(
        (4,), Add(name="s", inputs=("input", "input")), Hardtanh(name="h", inputs=("s",), low=2.0, high=2.0)
    )
    model = to_torch(packed)
    assert (model(torch.zeros(1, 4)) == 2).all()
    node = again(model, packed).nodes[-1]
    assert isinstance(node, Hardtanh)
    assert (node.low, node.high) == (2.0, 2.0)

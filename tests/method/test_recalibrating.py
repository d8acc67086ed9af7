"""recalibrate: batch norms learn the frozen weights' statistics, and nothing else changes."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bnn.binarization import BinaryLinear, clip_latent_weights, latent_parameters
from bnn.freezing import freeze, recalibrate
from bnn.quantizers import StochasticSign


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5)
    )


@pytest.fixture(autouse=True)
def _own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


# --- statistics -------------------------------------------------------------------------------------------


def test_one_batch_gives_its_statistics() -> None:
    """After one batch the running mean and variance are that batch's, the variance unbiased."""
    model, x = conv_net(), 3 * images(10, 2, 6, 6) + 1
    assert recalibrate(model, x) is model
    hidden = model[0](x)
    assert torch.allclose(model[1].running_mean, hidden.mean((0, 2, 3)), atol=1e-6)
    assert torch.allclose(model[1].running_var, hidden.var((0, 2, 3)), rtol=1e-5)
    # The second norm sees what the first gives while it normalises by the batch itself.
    normed = F.batch_norm(hidden, None, None, model[1].weight, model[1].bias, training=True)
    last = model[4](normed.relu().flatten(1))
    assert torch.allclose(model[5].running_mean, last.mean(0), atol=1e-6)
    assert torch.allclose(model[5].running_var, last.var(0), rtol=1e-5)


def test_several_batches_give_the_mean() -> None:
    """Over several batches each statistic is the mean over batches, whatever was there before."""
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.running_mean.fill_(1e6)
    batches = [images(5, 4, seed=1), 7 + images(9, 4, seed=2), 2 * images(3, 4, seed=3)]
    recalibrate(nn.Sequential(norm), batches)
    assert torch.allclose(norm.running_mean, torch.stack([b.mean(0) for b in batches]).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack([b.var(0) for b in batches]).mean(0), rtol=1e-4)
    assert norm.num_batches_tracked == 3


def test_what_data_may_be() -> None:
    """A tensor is one batch; any iterable gives batches, or tuples whose first entry counts."""
    x = images(12, 2, 6, 6)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, torch.zeros(12)), batch_size=4)
    expected = recalibrate(conv_net(), x.split(4))
    for data in (loader, [(part,) for part in x.split(4)], (part for part in x.split(4))):
        model = recalibrate(conv_net(), data)
        assert torch.equal(model[5].running_var, expected[5].running_var)
    assert not torch.equal(recalibrate(conv_net(), x)[5].running_var, expected[5].running_var)


# --- nothing else -----------------------------------------------------------------------------------------


def test_only_batch_norms_train_meanwhile() -> None:
    """Dropout is off and stochastic activations are deterministic while the statistics are taken."""
    seen: list[Tensor] = []
    model = nn.Sequential(
        nn.Dropout(0.5), nn.BatchNorm1d(6), StochasticSign(), nn.Linear(6, 6), nn.BatchNorm1d(6)
    )
    model[3].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = images(20, 6)
    recalibrate(model.train(), [x, x])
    assert torch.allclose(model[1].running_mean, x.mean(0), atol=1e-6)
    assert torch.equal(seen[0], seen[1])


def test_norms_without_statistics_stay_out() -> None:
    """A batch norm that tracks nothing does no harm, and other norms are left in eval mode."""
    model = nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.LayerNorm(6), nn.BatchNorm1d(6))
    modes: list[bool] = []
    model[1].register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    recalibrate(model, images(20, 6))
    assert modes == [False]
    assert model[2].num_batches_tracked == 1


def test_modes_momenta_and_parameters_stay() -> None:
    """Afterwards all is in eval mode, each momentum and parameter what it was, without gradients."""
    model = conv_net().train()
    model[1].momentum, model[5].momentum = 0.3, None
    parameters = copy.deepcopy(list(model.parameters()))
    recalibrate(model, images(10, 2, 6, 6))
    assert not any(module.training for module in model.modules())
    assert (model[1].momentum, model[5].momentum) == (0.3, None)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_after_an_exception_all_is_as_before(error: type[BaseException]) -> None:
    """If the data or the model fails halfway, statistics and momenta are what they were, in eval mode."""

    def failing() -> Iterator[Tensor]:
        yield images(10, 2, 6, 6)
        raise error

    model = recalibrate(conv_net(), images(10, 2, 6, 6, seed=1))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error):
        recalibrate(model, failing())
    with pytest.raises(RuntimeError, match="channels"):
        recalibrate(model, [images(10, 2, 6, 6), images(10, 3, 6, 6)])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].momentum == 0.1
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("data", [[], (), iter([])])
def test_no_data(data: object) -> None:
    """Without a batch there is nothing to learn: an error, and the statistics stay."""
    model = recalibrate(conv_net(), images(10, 2, 6, 6))
    before = model[5].running_var.clone()
    with pytest.raises(ValueError, match="there is no batch in data"):
        recalibrate(model, data)  # type: ignore[arg-type]
    assert torch.equal(model[5].running_var, before)


def test_a_model_without_batch_norm() -> None:
    """Where there is no batch norm nothing changes."""
    model, x = nn.Sequential(nn.Linear(3, 4)), images(5, 3)
    before = model(x)
    assert torch.equal(recalibrate(model, x)(x), before)


# --- why it is there --------------------------------------------------------------------------------------


def stochastic_network(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    """Trained briefly, so that most latent weights are far from ±1 and signs differ much from samples."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for n in (64, 256, 256):
        layers += [BinaryLinear(n, 256, bias=False, quantizer=StochasticSign), nn.BatchNorm1d(256), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(256, 10))
    with torch.no_grad():
        for latent in latent_parameters(model):
            latent.mul_(0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    clip_latent_weights(optimizer, model)
    for _ in range(5):
        for batch in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def test_signs_of_a_stochastic_network_need_it() -> None:
    """A network trained with samples is below 55 % on digits with its signs, above 60 % recalibrated."""
    digits = load_digits()
    x = torch.from_numpy(digits.data.astype(np.float32)) / 8 - 1
    y = torch.from_numpy(digits.target)
    frozen = freeze(stochastic_network(x[:1200], y[:1200], seed=0))

    def accuracy() -> float:
        return (frozen(x[1200:]).argmax(1) == y[1200:]).double().mean().item()

    before = accuracy()
    recalibrate(frozen, x[:1200].split(200))
    assert before < 0.55
    assert accuracy() > 0.6
    assert accuracy() - before > 0.15

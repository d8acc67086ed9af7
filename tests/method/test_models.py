"""The shipped architectures and losses."""

import pytest
import torch
from torch import nn

from bnn import models
from bnn.binarization import binarize, latent_parameters
from bnn.freezing import freeze
from bnn.packing.packing import pack
from bnn.runtime import Runner
from bnn.training.losses import squared_hinge


def _weights(model):
    return sum(p.numel() for p in latent_parameters(binarize(model)))


def test_mnist_network_has_the_papers_layers():
    """784-1024-1024-1024-10: 2,910,208 weights."""
    assert _weights(models.binaryconnect_mlp((1, 28, 28), 10)) == 784 * 1024 + 2 * 1024**2 + 1024 * 10


def test_cifar_network_has_the_papers_layers():
    """(2x128C3)-MP2-(2x256C3)-MP2-(2x512C3)-MP2-(2x1024FC)-10, with 3x3 kernels."""
    convolutions = 9 * (3 * 128 + 128**2 + 128 * 256 + 256**2 + 256 * 512 + 512**2)
    dense = 512 * 4 * 4 * 1024 + 1024**2 + 1024 * 10
    assert _weights(models.binaryconnect_cnn((3, 32, 32), 10)) == convolutions + dense


def test_svhn_network_has_half_the_feature_maps():
    """width=64 halves every convolution's channels and leaves the dense layers."""
    convolutions = 9 * (3 * 64 + 64**2 + 64 * 128 + 128**2 + 128 * 256 + 256**2)
    dense = 256 * 4 * 4 * 1024 + 1024**2 + 1024 * 10
    assert _weights(models.binaryconnect_cnn((3, 32, 32), 10, width=64)) == convolutions + dense


@pytest.mark.parametrize("name", models.__all__)
def test_every_model_trains_freezes_and_packs(name):
    """Each architecture takes a step, and its packed form predicts as its frozen form."""
    torch.manual_seed(0)
    shape = (3, 16, 16) if name == "binaryconnect_cnn" else (1, 8, 8)
    model = binarize(getattr(models, name)(shape, 10, width=8, dropout=0.1, dropout_in=0.1))
    x, labels = torch.randn(20, *shape), torch.arange(20) % 10
    squared_hinge(model(x), labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in latent_parameters(model))
    frozen = freeze(model)
    with torch.no_grad():
        expected = frozen(x)
    got = torch.from_numpy(Runner(pack(frozen, x))(x.numpy()))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(got.argmax(1), expected.argmax(1))


def test_dropout_layers_only_where_asked():
    """With probability 0 there is no dropout layer at all; with others the hidden and input ones differ."""
    plain = models.binaryconnect_mlp((1, 8, 8), 10, width=8)
    assert not any(isinstance(m, nn.Dropout) for m in plain.modules())
    dropped = models.binaryconnect_mlp((1, 8, 8), 10, width=8, dropout=0.5, dropout_in=0.2)
    assert [m.p for m in dropped.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.5, 0.5, 0.5]


def test_squared_hinge_is_the_formula():
    """max(0, 1 - t y)^2, averaged, with t = +1 at the label and -1 elsewhere."""
    logits = torch.tensor([[2.0, -0.5, 0.25], [0.0, 0.0, -3.0]])
    # row 0, label 0: 0, (1 - 0.5)^2, (1 + 0.25)^2; row 1, label 2: 1, 1, (1 + 3)^2
    expected = (0 + 0.25 + 1.5625 + 1 + 1 + 16) / 6
    assert squared_hinge(logits, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_squared_hinge_keeps_dtype_and_gradient():
    """The loss has the logits' dtype, and its gradient is -2 t max(0, 1 - t y) / n."""
    logits = torch.tensor([[0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    loss = squared_hinge(logits, torch.tensor([0]))
    loss.backward()
    assert loss.dtype == torch.float64
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.5, 3.0]], dtype=torch.float64))

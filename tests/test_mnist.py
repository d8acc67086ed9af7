"""The whole path on MNIST: every test image, PyTorch against the packed file. Needs the data."""

import numpy as np
import pytest
import torch

from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.runtime import load
from bnn.training import load_trained, train


@pytest.fixture(scope="module")
def mnist(mnist_dir):
    return load_dataset("mnist", mnist_dir, download=False)


def _run(tmp_path, mnist_dir, model):
    """A short run on the first 10,000 images: (float frozen network, its packed form)."""
    config = TrainConfig.from_recipe("mnist", model=model, width=256, epochs=1, validation=50_000)
    train(config, tmp_path, data_dir=mnist_dir)
    return freeze(load_trained(tmp_path)), load(tmp_path / "model.bnn")


def test_all_predictions_equal_the_frozen_networks(mnist, mnist_dir, tmp_path):
    """10,000 of 10,000 predictions are equal; logits differ by at most 1e-4 of the largest."""
    frozen, net = _run(tmp_path, mnist_dir, "binaryconnect_mlp")
    contract = net.model.input
    x = ((mnist.test_images / 255 - contract.mean[0]) / contract.std[0]).astype(np.float32)
    with torch.no_grad():
        expected = frozen(torch.from_numpy(x)).numpy()
    for images in (mnist.test_images, x):
        got = net(images)
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    assert np.mean(expected.argmax(1) == mnist.test_labels) > 0.8


def test_sign_activations_are_exact_from_raw_pixels(mnist, mnist_dir, tmp_path):
    """A network of ±1 activations gives, from uint8, the float64 frozen network's ±1 and logits exactly.

    Exactly: the logits agree to the last bit of float32, which both are rounded to.
    """
    frozen, net = _run(tmp_path, mnist_dir, "binarynet_mlp")
    frozen = frozen.double()
    contract = net.model.input
    x = (torch.from_numpy(mnist.test_images).double() / 255 - contract.mean[0]) / contract.std[0]
    with torch.no_grad():
        expected = frozen[:-1](x).numpy()  # before the last batch norm: integers
        logits = frozen(x).float().numpy()
    *_, last = net.model.nodes
    integers = (net(mnist.test_images) - last.shift) / last.scale
    np.testing.assert_array_equal(np.rint(integers), expected)
    np.testing.assert_allclose(
        net(mnist.test_images), logits, rtol=0, atol=4 * np.spacing(np.abs(logits).max())
    )
    np.testing.assert_array_equal(net.predict(mnist.test_images), logits.argmax(1))


def test_the_papers_network_is_28_times_smaller(mnist_dir, tmp_path):
    """784-1024-1024-1024-10 in a file takes at most 1/28 of the float state dict; same run, same bytes."""
    config = TrainConfig.from_recipe("mnist", epochs=1, validation=59_800, width=1024)
    results = [train(config, tmp_path / name, data_dir=mnist_dir) for name in "ab"]
    assert results[0].one_bit_weights == 784 * 1024 + 2 * 1024**2 + 1024 * 10
    assert results[0].packed_bytes * 28 <= results[0].float_bytes
    assert (tmp_path / "a" / "model.bnn").read_bytes() == (tmp_path / "b" / "model.bnn").read_bytes()

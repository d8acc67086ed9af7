"""The whole path on MNIST: every test image, PyTorch against the packed file. Needs the data."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from bnn.config import TrainConfig
from bnn.data import load_dataset
from bnn.freezing import freeze
from bnn.runtime import load
from bnn.training.loop import as_tested
from bnn.training.run import load_trained, train
from bnn.training.samples import split


@pytest.fixture(scope="module")
def mnist(mnist_dir):
    return load_dataset("mnist", mnist_dir, download=False)


@pytest.fixture
def first_images(mnist, monkeypatch):
    """Makes runs see only so many of the images to train on, and to test with."""

    def first(train, test=10_000):
        data = dataclasses.replace(
            mnist,
            train_inputs=mnist.train_inputs[:train],
            train_targets=mnist.train_targets[:train],
            test_inputs=mnist.test_inputs[:test],
            test_targets=mnist.test_targets[:test],
        )
        monkeypatch.setattr("bnn.training.run.load_dataset", lambda name, folder: data)
        return data

    return first


def _run(tmp_path, data, model):
    """A short run on the first 10,000 images: (float frozen network, its packed form)."""
    validation = len(data.train_inputs) - 10_000
    config = TrainConfig.from_recipe("mnist", model=model, width=256, epochs=1, validation=validation)
    train(config, tmp_path)
    part, _, _ = split(data, config.validation, torch.device("cpu"))
    frozen = freeze(as_tested(config, load_trained(tmp_path), part))
    return frozen, load(tmp_path / "model.bnn")


@pytest.mark.slow
def test_a_run_finds_mnist_itself(mnist_dir, tmp_path):
    """`train` reads all of MNIST from `data_dir`, and tests with its 10,000 test images."""
    config = TrainConfig.from_recipe("mnist", width=64, epochs=1)
    result = train(config, tmp_path, data_dir=mnist_dir)
    assert result.test_samples == 10_000
    assert result.packed == result.frozen > 0.9
    assert result.validation is not None


def test_all_predictions_equal_the_frozen_networks(mnist, first_images, tmp_path):
    """10,000 of 10,000 predictions are equal; logits differ by at most 1e-4 of the largest."""
    frozen, net = _run(tmp_path, first_images(11_000), "binaryconnect_mlp")
    contract = net.model.input
    x = ((mnist.test_inputs / 255 - contract.mean[0]) / contract.std[0]).astype(np.float32)
    with torch.no_grad():
        expected = frozen(torch.from_numpy(x)).numpy()
    for images in (mnist.test_inputs, x):
        got = net(images)
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(got.argmax(1), expected.argmax(1))
    assert np.mean(expected.argmax(1) == mnist.test_targets) > 0.8


def test_sign_activations_are_exact_from_raw_pixels(mnist, first_images, tmp_path):
    """A network of ±1 activations gives, from uint8, the float64 frozen network's logits to the last bit.

    Both are rounded to float32, the type of the runtime's outputs, and compared for equality.
    """
    frozen, net = _run(tmp_path, first_images(11_000), "binarynet_mlp")
    frozen = frozen.double()
    contract = net.model.input
    x = (torch.from_numpy(mnist.test_inputs).double() / 255 - contract.mean[0]) / contract.std[0]
    with torch.no_grad():
        expected = frozen(x).float().numpy()
    np.testing.assert_array_equal(net(mnist.test_inputs), expected)


def test_the_one_page_example(mnist_dir):
    """Its last line is the frozen sample's test accuracy, at least 92 %; it prints accuracy on its way."""
    done = subprocess.run(
        [sys.executable, "-m", "bnn.binary_connect_fc_example", "--data-dir", mnist_dir],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    *steps, last = done.stdout.splitlines()
    assert len(steps) == 5
    assert all("accuracy" in step for step in steps)
    assert float(re.fullmatch(r"frozen sample: (\d\d\.\d\d) %", last)[1]) >= 92


def test_the_one_page_example_without_data(tmp_path):
    """A wrong --data-dir is one line."""
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte").write_bytes(b"no images")
    done = subprocess.run(
        [sys.executable, "-m", "bnn.binary_connect_fc_example", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("binary_connect_fc_example: ")
    assert done.stderr.count("\n") == 1


def test_the_papers_network_is_28_times_smaller(first_images, tmp_path):
    """784-1024-1024-1024-10 in a file takes at most 1/28 of the float state dict; same run, same bytes."""
    first_images(400, test=1000)
    config = TrainConfig.from_recipe("mnist", epochs=1, validation=200, width=1024)
    results = [train(config, tmp_path / name) for name in "ab"]
    assert results[0].one_bit_weights == 784 * 1024 + 2 * 1024**2 + 1024 * 10
    assert results[0].packed_bytes * 28 <= results[0].float_bytes
    assert (tmp_path / "a" / "model.bnn").read_bytes() == (tmp_path / "b" / "model.bnn").read_bytes()

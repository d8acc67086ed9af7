"""BinaryConnect in plain NumPy: every function against PyTorch's autograd and by finite differences."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from support.paths import ROOT
from torch import nn

from bnn.binarization import binarize as binarize_module
from bnn.from_scratch import (
    accuracy,
    binarize,
    clip,
    cross_entropy,
    gradients,
    load,
    logits,
    softmax,
    train,
)

PAGE = ROOT / "examples" / "from_scratch.py"


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x (7, 5), t (7, 3) one-hot, w (5, 3), b (3,)."""
    rng = np.random.default_rng(seed)
    t = np.eye(3)[rng.integers(0, 3, 7)]
    return rng.standard_normal((7, 5)), t, rng.standard_normal((5, 3)), rng.standard_normal(3)


def test_forward_is_pytorchs() -> None:
    """Logits, softmax, cross-entropy and accuracy are PyTorch's."""
    x, t, w, b = problem()
    v = logits(x, w, b)
    assert np.allclose(v, torch.nn.functional.linear(*map(torch.tensor, (x, w.T, b))))
    assert np.allclose(softmax(v), torch.tensor(v).softmax(1))
    loss = torch.nn.functional.cross_entropy(torch.tensor(v), torch.tensor(t))
    assert cross_entropy(v, t) == pytest.approx(loss.item())
    assert accuracy(v, t) == (v.argmax(1) == t.argmax(1)).mean()


def test_large_logits_do_not_overflow() -> None:
    """Logits in the hundreds, which ±1 weights give, have a finite softmax and loss."""
    v, t = np.array([[800.0, -800.0], [-800.0, 800.0]]), np.eye(2)
    assert softmax(v).tolist() == [[1, 0], [0, 1]]
    assert cross_entropy(v, t) == 0
    assert cross_entropy(-v, t) == 1600


def test_gradients_are_autograds() -> None:
    """The gradients by w and b are those of PyTorch's autograd."""
    x, t, w, b = problem(1)
    tensors = [torch.tensor(v, requires_grad=True) for v in (w, b)]
    torch.nn.functional.cross_entropy(torch.tensor(x) @ tensors[0] + tensors[1], torch.tensor(t)).backward()
    for ours, theirs in zip(gradients(x, logits(x, w, b), t), tensors, strict=True):
        assert np.allclose(ours, theirs.grad, rtol=1e-12)


def test_gradients_are_differences() -> None:
    """And what small changes of each weight and bias do to the loss."""
    x, t, w, b = problem(2)
    for which, gradient in enumerate(gradients(x, logits(x, w, b), t)):
        for index in np.ndindex(gradient.shape):
            losses = []
            for step in (1e-6, -1e-6):
                moved = [w.copy(), b.copy()]
                moved[which][index] += step
                losses.append(cross_entropy(logits(x, *moved), t))
            assert gradient[index] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_binarize_and_clip() -> None:
    """The sign of 0 and of -0 is +1; clipping is to [-1, 1]."""
    w = np.array([-2.0, -0.5, -0.0, 0.0, 1e-300, 3.0])
    assert binarize(w).tolist() == [-1, -1, 1, 1, 1, 1]
    assert clip(w).tolist() == [-1, -0.5, 0, 0, 1e-300, 1]


def test_a_step_is_pytorchs() -> None:
    """One step of training is that of a binarized PyTorch layer."""
    x, t, _, _ = problem(3)
    latent: list[np.ndarray] = []
    signs, bias = train(x, t, epochs=1, batch=7, alpha=0.5, on_step=lambda step, w, b: latent.append(w))
    start = np.random.default_rng(0).uniform(-1, 1, (5, 3))  # as train draws it
    layer = nn.Linear(5, 3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(start.T))
        layer.bias.zero_()
    binarize_module(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    torch.nn.functional.cross_entropy(layer(torch.tensor(x)), torch.tensor(t)).backward()
    optimizer.step()
    after = layer.parametrizations.weight.original.detach().clamp(-1, 1).numpy().T
    assert np.allclose(latent[0], after)
    assert np.allclose(bias, layer.bias.detach())
    assert np.array_equal(signs, binarize(latent[0]))


def test_latent_weights_stay_clipped() -> None:
    """At every step latent weights, and binary biases, lie in [-1, 1]; float ones may leave."""
    x, t, _, _ = problem(4)
    largest = {"w": 0.0, "b": 0.0}

    def watch(step: int, w: np.ndarray, b: np.ndarray) -> None:
        largest["w"], largest["b"] = max(largest["w"], np.abs(w).max()), max(largest["b"], np.abs(b).max())

    w, b = train(x, t, alpha=5, epochs=50, batch=7, binary_biases=True, on_step=watch)
    assert max(largest.values()) == 1
    assert set(np.abs(w).flat) == set(np.abs(b).flat) == {1}
    train(x, t, alpha=5, epochs=50, batch=7, binary=False, on_step=watch)
    assert largest["w"] > 1


def test_it_learns_digits() -> None:
    """BinaryConnect on the digits, and far better than the signs of float weights."""
    x, t, test_x, test_t = load("digits")
    one_bit = accuracy(logits(test_x, *train(x, t, epochs=60)), test_t)
    w, b = train(x, t, binary=False, epochs=60)
    assert one_bit > 0.8
    assert accuracy(logits(test_x, w, b), test_t) > 0.86
    assert accuracy(logits(test_x, binarize(w), b), test_t) < one_bit - 0.05


def test_the_page() -> None:
    """At most 120 lines, and it runs as it says."""
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) <= 120
    done = subprocess.run([sys.executable, PAGE], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split(" test accuracy")[0].strip() for line in lines] == ["float", "one bit"]


def test_on_mnist(mnist_dir: str) -> None:
    """MNIST in its documented setting: float 0.915 or better, one bit 0.895 or better."""
    x, t, test_x, test_t = load("mnist", mnist_dir)
    assert accuracy(logits(test_x, *train(x, t, binary=False, epochs=5)), test_t) > 0.915
    assert accuracy(logits(test_x, *train(x, t)), test_t) >= 0.895

"""BinaryConnect in plain NumPy, on multi-class logistic regression: one page to read and to run.

    python examples/from_scratch.py [--data digits | mnist] [--data-dir DIR]

Shapes: x (samples, features), t (samples, classes) one-hot, w (features, classes), b (classes,).
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bnn.data import DataError, load_dataset

Array = NDArray[np.float64]
Pair = tuple[Array, Array]  # of the weights and of the biases


def softmax(v: Array) -> Array:
    """exp(v_ij) / sum_k exp(v_ik); the largest is taken off first, so that nothing overflows."""
    e = np.exp(v - v.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def logits(x: Array, w: Array, b: Array) -> Array:
    """x w + b."""
    return x @ w + b


def cross_entropy(v: Array, t: Array) -> float:
    """-sum_i t_i log softmax(v)_i, the mean over the samples."""
    v = v - v.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(v).sum(axis=1)) - (t * v).sum(axis=1)))


def gradients(x: Array, v: Array, t: Array) -> Pair:
    """The gradients of the cross-entropy by w and b; that by the logits is (softmax(v) - t) / samples."""
    error = (softmax(v) - t) / len(x)
    return x.T @ error, error.sum(axis=0)


def binarize(w: Array) -> Array:
    """+1 where w >= 0, else -1 (BinaryConnect, equation 1)."""
    return np.where(w >= 0, 1.0, -1.0)


def clip(w: Array) -> Array:
    """w within [-1, 1]: beyond, a latent weight would grow without changing its sign (section 2.4)."""
    return np.clip(w, -1, 1)


def accuracy(v: Array, t: Array) -> float:
    """The share of samples whose largest logit is that of their class."""
    return float(np.mean(v.argmax(axis=1) == t.argmax(axis=1)))


def train(
    x: Array,
    t: Array,
    *,
    binary: bool = True,
    binary_biases: bool = False,
    alpha: float = 0.5,
    decay: bool = True,
    epochs: int = 20,
    batch: int = 100,
    seed: int = 0,
    direction: Callable[[Pair], Pair] = lambda gradient: gradient,
    on_step: Callable[[int, Array, Array], None] = lambda step, w, b: None,
) -> Pair:
    """Gradient descent in small batches, its rate alpha falling to 0 along a line if `decay`.

    BinaryConnect (algorithm 1) is three lines of it: the forward pass and the gradients see binarize(w), the
    update goes to w itself, and w is clipped.

    Returns:
        the weights and biases to test with: binarized where they were in training.
    """
    rng = np.random.default_rng(seed)
    w, b = rng.uniform(-1, 1, (x.shape[1], t.shape[1])) * (1 if binary else 0.01), np.zeros(t.shape[1])
    of_weights, of_biases = (binarize if one_bit else np.array for one_bit in (binary, binary_biases))
    steps, step = epochs * (len(x) // batch), 0
    for _ in range(epochs):
        for rows in rng.permutation(len(x))[: len(x) // batch * batch].reshape(-1, batch):
            v = logits(x[rows], of_weights(w), of_biases(b))  # 1. forward with the binarized weights
            to_w, to_b = direction(gradients(x[rows], v, t[rows]))  # 2. gradients with respect to those
            rate = alpha * (1 - step / steps) if decay else alpha
            w, b = w - rate * to_w, b - rate * to_b  # 3. the update goes to the latent weights
            w, b = clip(w) if binary else w, clip(b) if binary_biases else b
            step += 1
            on_step(step, w, b)
    return of_weights(w), of_biases(b)


def load(name: str, data_dir: str | None = None) -> tuple[Array, Array, Array, Array]:
    """x and t of the training set, and of the test set; pixels from 0 to 1."""
    data = load_dataset(name, data_dir)
    one_hot, images = np.eye(len(data.classes)), (data.train_inputs, data.test_inputs)
    train_x, test_x = (pixels.reshape(len(pixels), -1) / 255 for pixels in images)
    return train_x, one_hot[data.train_targets], test_x, one_hot[data.test_targets]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="BinaryConnect in plain NumPy.")
    parser.add_argument("--data", default="digits", help="digits or mnist")
    parser.add_argument("--data-dir", help="where the data lies")
    options = parser.parse_args()
    try:
        x, t, test_x, test_t = load(options.data, options.data_dir)
    except DataError as error:
        parser.error(str(error))
    for name, binary in (("float", False), ("one bit", True)):
        v = logits(test_x, *train(x, t, binary=binary))
        print(f"{name:8s} test accuracy {accuracy(v, test_t):.4f}, loss {cross_entropy(v, test_t):.3f}")

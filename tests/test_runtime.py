"""load and Runner: what they accept, and what they say of the rest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import model_of, one_of_each, packed_weight, random_floats, random_pixels

from bnn.nodes import Flatten, Linear, Softmax
from bnn.packed import PackedModel
from bnn.runtime import ENGINES, Runner, load
from bnn.serialization import FormatError

MEAN_STD = {"mean": (0.5,), "std": (0.5,)}


def classifier(*, softmax: bool = False, **contract: Any) -> PackedModel:
    """Of (1, 4, 4) images into 3 classes."""
    nodes = [
        Flatten(name="flat", inputs=("input",)),
        Linear(name="fc", inputs=("flat",), weight=packed_weight(3, 16)),
    ]
    end = [Softmax(name="p", inputs=("fc",))] if softmax else []
    return model_of((1, 4, 4), *nodes, *end, **contract)


# --- load -------------------------------------------------------------------------------------------------


def test_load_gives_a_runner(tmp_path: Path) -> None:
    """load(path) is callable and computes what the model in memory computes; a string is a path too."""
    model, x = one_of_each(), random_pixels(3, 2, 6, 6)
    model.save(tmp_path / "m.bnn")
    for path in (tmp_path / "m.bnn", str(tmp_path / "m.bnn")):
        net = load(path)
        assert net.engine in ENGINES
        assert np.array_equal(net(x), Runner(model)(x))


def test_an_unknown_engine(tmp_path: Path) -> None:
    """An engine that does not exist is a ValueError that lists those that do."""
    classifier().save(tmp_path / "m.bnn")
    with pytest.raises(ValueError, match=r"engine must be one of reference.*, not 'warp'"):
        load(tmp_path / "m.bnn", engine="warp")


def test_load_checks_the_file(tmp_path: Path) -> None:
    """What is no .bnn file is a FormatError that names it; a file that is not there is an OSError."""
    (tmp_path / "m.bnn").write_bytes(b"not a model")
    with pytest.raises(FormatError, match=r"m\.bnn"):
        load(tmp_path / "m.bnn")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "other.bnn")


# --- calling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            random_floats(2, 1, 4, 4).astype(np.float64),
            "must be uint8 (raw pixels) or float32 (normalised), not float64",
        ),
        (np.zeros((2, 1, 4, 4), dtype=np.int64), "not int64"),
        (np.zeros((2, 1, 4, 4), dtype=bool), "not bool"),
        (np.zeros((2, 1, 4, 4), dtype=np.float16), "not float16"),
        (np.zeros((2, 1, 4, 4), dtype=">f4"), "not >f4"),
        ([[0.0] * 16], "input must be a numpy array, not list"),
        (None, "input must be a numpy array, not NoneType"),
        (random_floats(1, 4, 4), "input must have shape (batch, 1, 4, 4), not (1, 4, 4)"),
        (random_floats(2, 16), "input must have shape (batch, 1, 4, 4), not (2, 16)"),
        (random_floats(2, 1, 4, 5), "not (2, 1, 4, 5)"),
        (random_floats(2, 4, 4, 1), "not (2, 4, 4, 1)"),
        (np.zeros((), dtype=np.float32), "not ()"),
        (random_floats(0), "not (0,)"),
    ],
)
def test_inputs_that_do_not_fit(x: Any, message: str) -> None:
    """Another dtype, shape or type is refused in one line, with what is due and what came."""
    for call in (Runner(classifier(**MEAN_STD)), Runner(classifier(**MEAN_STD)).predict):
        with pytest.raises(ValueError, match=r"^input must") as error:
            call(x)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_features_in_the_message() -> None:
    """The shape that is due is written as Python writes it, one axis after the batch included."""
    net = Runner(model_of((16,), Linear(name="fc", inputs=("input",), weight=packed_weight(3, 16))))
    with pytest.raises(ValueError, match=r"must have shape \(batch, 16\), not \(16,\)"):
        net(random_floats(16))


def test_pixels_need_mean_and_std() -> None:
    """A model that was packed without mean and std has no raw form: uint8 is refused, float32 is not."""
    net = Runner(classifier())
    assert net(random_floats(2, 1, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="packed without mean and std: give normalised float32, not uint8"):
        net(random_pixels(2, 1, 4, 4))


def test_pixels_and_normalised_values_agree() -> None:
    """uint8 pixels, and the float32 values that they are normalised to, give the same to rounding."""
    net, pixels = Runner(classifier(**MEAN_STD)), random_pixels(50, 1, 4, 4)
    values = ((pixels / 255 - 0.5) / 0.5).astype(np.float32)
    assert np.abs(net(pixels) - net(values)).max() < 1e-5
    assert np.abs(net(pixels)).max() > 1


def test_views_as_input() -> None:
    """A batch that is a transposed, strided or read-only view is taken by its entries."""
    net, x = Runner(classifier(**MEAN_STD)), random_pixels(4, 4, 4, 1)
    view = x.transpose(0, 3, 1, 2)[::2, :, ::-1]
    view.flags.writeable = False
    assert np.array_equal(net(view), net(np.ascontiguousarray(view)))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_batches_of_0_and_1(dtype: type) -> None:
    """An empty batch gives an empty result of the right shape, a batch of one a result of one."""
    net = Runner(classifier(softmax=True, **MEAN_STD))
    for batch in (0, 1):
        x = np.zeros((batch, 1, 4, 4), dtype=dtype)
        assert (net(x).shape, net(x).dtype) == ((batch, 3), np.float32)
        assert net.predict_proba(x).shape == (batch, 3)
        assert net.predict(x).shape == (batch,)
        assert np.issubdtype(net.predict(x).dtype, np.integer)


# --- predict ----------------------------------------------------------------------------------------------


def test_predict_is_the_largest_output() -> None:
    """predict gives each sample's class index: the argmax over its outputs."""
    net, x = Runner(classifier(**MEAN_STD)), random_pixels(40, 1, 4, 4)
    assert np.array_equal(net.predict(x), net(x).argmax(axis=1))
    assert len(set(net.predict(x))) == 3


def test_probabilities_need_a_softmax() -> None:
    """predict_proba gives what a softmax at the end gives; logits are not passed off as probabilities."""
    x = random_pixels(5, 1, 4, 4)
    probabilities = Runner(classifier(softmax=True, **MEAN_STD)).predict_proba(x)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities >= 0).all()
    with pytest.raises(ValueError, match="does not end in a softmax"):
        Runner(classifier(**MEAN_STD)).predict_proba(x)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_runs_every_node(engine: str) -> None:
    """Each engine that is offered runs a model with every operation, and agrees with the reference."""
    model, x = one_of_each(), random_pixels(3, 2, 6, 6)
    truth = Runner(model, "reference")(x)
    assert np.abs(Runner(model, engine)(x) - truth).max() <= 1e-4 * np.abs(truth).max()

"""load and Runner: what they accept, what they say of the rest, and which engine runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.helpers import every_engine, model_of, one_of_each, packed_weight, random_floats, random_pixels
from support.paths import TESTS

from bnn.packed.model import PackedModel
from bnn.packed.nodes import Flatten, Linear, Softmax
from bnn.packed.serialization import FormatError
from bnn.runtime import ENGINES, Runner, load
from bnn.runtime.native import instruction_sets

MEAN_STD = {"mean": (0.5,), "std": (0.5,)}


def classifier(*, softmax: bool = False, **contract: Any) -> PackedModel:
    """A model of (1, 4, 4) images into 3 classes."""
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
    with pytest.raises(ValueError, match=r"engine must be one of native, reference, not 'warp'"):
        load(tmp_path / "m.bnn", engine="warp")


def test_load_checks_the_file(tmp_path: Path) -> None:
    """What is no .bnn file is a FormatError that names it; a file that is not there is an OSError."""
    (tmp_path / "m.bnn").write_bytes(b"not a model")
    with pytest.raises(FormatError, match=r"m\.bnn"):
        load(tmp_path / "m.bnn")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "other.bnn")


# --- calling ----------------------------------------------------------------------------------------------


@every_engine
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
def test_inputs_that_do_not_fit(engine: str, x: Any, message: str) -> None:
    """Another dtype, shape or type is refused in one line, with what is due and what came."""
    for call in (Runner(classifier(**MEAN_STD), engine), Runner(classifier(**MEAN_STD), engine).predict):
        with pytest.raises(ValueError, match=r"^input must") as error:
            call(x)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_features_in_the_message() -> None:
    """The shape that is due is written as Python writes it, one axis after the batch included."""
    net = Runner(model_of((16,), Linear(name="fc", inputs=("input",), weight=packed_weight(3, 16))))
    with pytest.raises(ValueError, match=r"must have shape \(batch, 16\), not \(16,\)"):
        net(random_floats(16))


@every_engine
def test_pixels_need_mean_and_std(engine: str) -> None:
    """A model that was packed without mean and std has no raw form: uint8 is refused, float32 is not."""
    net = Runner(classifier(), engine)
    assert net(random_floats(2, 1, 4, 4)).shape == (2, 3)
    with pytest.raises(ValueError, match="packed without mean and std: give normalised float32, not uint8"):
        net(random_pixels(2, 1, 4, 4))


@every_engine
def test_pixels_and_normalised_values_agree(engine: str) -> None:
    """uint8 pixels, and the float32 values that they are normalised to, give the same to rounding."""
    net, pixels = Runner(classifier(**MEAN_STD), engine), random_pixels(50, 1, 4, 4)
    values = ((pixels / 255 - 0.5) / 0.5).astype(np.float32)
    assert np.abs(net(pixels) - net(values)).max() < 1e-5
    assert np.abs(net(pixels)).max() > 1


@every_engine
def test_views_as_input(engine: str) -> None:
    """A batch that is a transposed, strided or read-only view is taken by its entries."""
    net, x = Runner(classifier(**MEAN_STD), engine), random_pixels(4, 4, 4, 1)
    view = x.transpose(0, 3, 1, 2)[::2, :, ::-1]
    view.flags.writeable = False
    assert np.array_equal(net(view), net(np.ascontiguousarray(view)))


@every_engine
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_batches_of_0_and_1(engine: str, dtype: type) -> None:
    """An empty batch gives an empty result of the right shape, a batch of one a result of one."""
    net = Runner(classifier(softmax=True, **MEAN_STD), engine)
    for batch in (0, 1):
        x = np.zeros((batch, 1, 4, 4), dtype=dtype)
        assert (net(x).shape, net(x).dtype) == ((batch, 3), np.float32)
        assert net.predict_proba(x).shape == (batch, 3)
        assert net.predict(x).shape == (batch,)
        assert np.issubdtype(net.predict(x).dtype, np.integer)


# --- predict ----------------------------------------------------------------------------------------------


@every_engine
def test_predict_is_the_largest_output(engine: str) -> None:
    """predict gives each sample's class index: the argmax over its outputs."""
    net, x = Runner(classifier(**MEAN_STD), engine), random_pixels(40, 1, 4, 4)
    assert np.array_equal(net.predict(x), net(x).argmax(axis=1))
    assert len(set(net.predict(x))) == 3


@every_engine
def test_probabilities_need_a_softmax(engine: str) -> None:
    """predict_proba gives what a softmax at the end gives; logits are not passed off as probabilities."""
    x = random_pixels(5, 1, 4, 4)
    probabilities = Runner(classifier(softmax=True, **MEAN_STD), engine).predict_proba(x)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities >= 0).all()
    with pytest.raises(ValueError, match="does not end in a softmax"):
        Runner(classifier(**MEAN_STD), engine).predict_proba(x)


# --- engines ----------------------------------------------------------------------------------------------


@every_engine
def test_every_engine_runs_every_node(engine: str) -> None:
    """Each engine that is offered runs a model with every operation, and agrees with the reference."""
    model, x = one_of_each(), random_pixels(3, 2, 6, 6)
    truth = Runner(model, "reference")(x)
    assert np.abs(Runner(model, engine)(x) - truth).max() <= 1e-4 * np.abs(truth).max()


def test_the_compiled_engine_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runner and load take it, with the best kernels there are; the reference has none."""
    monkeypatch.delenv("BNN_ISA", raising=False)
    classifier().save(tmp_path / "m.bnn")
    for net in (Runner(classifier()), load(tmp_path / "m.bnn"), Runner(classifier(), "native")):
        assert (net.engine, net.isa) == ("native", instruction_sets()[-1])
    net = Runner(classifier(), "reference")
    assert (net.engine, net.isa) == ("reference", "numpy")


def test_the_variable_chooses_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """$BNN_ISA names the kernels; if it is empty they are the best; each gives the reference's output."""
    model, x = classifier(**MEAN_STD), random_pixels(5, 1, 4, 4)
    for isa in instruction_sets():
        monkeypatch.setenv("BNN_ISA", isa)
        assert Runner(model).isa == isa
        assert np.array_equal(Runner(model)(x), Runner(model, "reference")(x))
    monkeypatch.setenv("BNN_ISA", "")
    assert Runner(model).isa == instruction_sets()[-1]


def test_kernels_that_do_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name in $BNN_ISA is a ValueError that lists those there are; the reference needs none."""
    classifier().save(tmp_path / "m.bnn")
    monkeypatch.setenv("BNN_ISA", "mmx")
    known = ", ".join(instruction_sets())
    message = f"BNN_ISA: kernels must be one of {known} on this processor, not 'mmx'"
    with pytest.raises(ValueError, match=message):
        Runner(classifier())
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m.bnn")
    assert Runner(classifier(), "reference").isa == "numpy"


def python(script: str) -> str:
    """What a fresh interpreter prints, in which the compiled module cannot be imported."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['bnn.runtime._native'] = None\n" + script],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_the_compiled_module_the_reference_runs(tmp_path: Path) -> None:
    """Each load gives one RuntimeWarning, at the caller's line, that says why; results are the same."""
    model, x = one_of_each(), random_pixels(5, 2, 6, 6)
    model.save(tmp_path / "m.bnn")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", Runner(model, "reference")(x))
    printed = python(f"""
import warnings
import numpy as np
import bnn
x, y = np.load({str(tmp_path / "x.npy")!r}), np.load({str(tmp_path / "y.npy")!r})
for _ in range(2):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = bnn.load({str(tmp_path / "m.bnn")!r})
        assert np.array_equal(net(x), y)
    print(net.engine, net.isa, len(caught), caught[0].category.__name__, caught[0].filename)
print(caught[0].message)
""").splitlines()
    assert printed[:2] == ["reference numpy 1 RuntimeWarning <string>"] * 2
    assert printed[2].startswith("the compiled engine cannot be loaded (")
    assert "bnn.runtime._native" in printed[2]
    assert printed[2].endswith("): running the slow reference instead")


def test_the_reference_needs_no_compiled_module() -> None:
    """Asked for by name it runs without a warning, and does not even look for the module."""
    printed = python("""
import warnings
warnings.simplefilter("error")
from support.helpers import one_of_each, random_pixels
from bnn.runtime import Runner
net = Runner(one_of_each(), "reference")
print(net(random_pixels(5, 2, 6, 6)).shape, "bnn.runtime.native" in sys.modules)
""")
    assert printed.strip() == "(5, 3) False"


@every_engine
def test_a_runner_has_what_it_was_made_with(engine: str) -> None:
    """The model and the choices can be read off it."""
    model = classifier()
    net = Runner(model, engine, "int8", threads=2)
    assert net.model is model
    assert (net.engine, net.activations) == (engine, "int8")

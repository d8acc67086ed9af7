"""PackedModel: whoever holds one holds a sound graph."""

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
from support.helpers import model_of, one_of_each, packed_weight, random_floats

from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    Add,
    Affine,
    Concat,
    Conv2d,
    Flatten,
    InputContract,
    Linear,
    Node,
    ReLU,
    Sign,
    Softmax,
    Threshold,
)


def linear(name: str = "fc", source: str = "input", n: int = 5, out: int = 5, **fields: Any) -> Linear:
    return Linear(name=name, inputs=(source,), **{"weight": packed_weight(out, n)} | fields)


def relu(name: str = "relu", *inputs: str) -> ReLU:
    return ReLU(name=name, inputs=inputs or ("input",))


def test_shapes_and_kinds_of_every_value() -> None:
    """A model knows the shape and kind of the input and of each node's value."""
    model = model_of(
        (2, 4, 4),
        Sign(name="a", inputs=("input",)),
        Conv2d(name="b", inputs=("a",), weight=packed_weight(3, 2, 3, 3)),
        Flatten(name="c", inputs=("b",)),
        linear("d", "c", 12, 10),
    )
    assert model.shapes == {"input": (2, 4, 4), "a": (2, 4, 4), "b": (3, 2, 2), "c": (12,), "d": (10,)}
    assert model.kinds == {"input": "input", "a": "sign", "b": "int", "c": "int", "d": "float"}
    assert model.output.name == "d"


def test_nbytes_counts_every_array() -> None:
    """nbytes is the sum over words, float weights, scales, thresholds: one bit a packed weight."""
    ones = np.ones(10, dtype=np.float32)
    model = model_of(
        (128,),
        linear("a", n=128, out=10, scale=ones, shift=ones),
        linear("b", "a", weight=random_floats(3, 10)),
    )
    assert model.nbytes == 10 * 16 + 2 * 40 + 3 * 10 * 4


def test_a_model_is_frozen() -> None:
    """Neither a model's nor a node's fields can be set, so that what was checked stays checked."""
    model = model_of((5,), linear())
    for item, field in [(model, "nodes"), (model.nodes[0], "inputs"), (model.input, "shape")]:
        with pytest.raises(FrozenInstanceError):
            setattr(item, field, ())


def test_a_value_may_be_read_twice_and_by_one_node_twice() -> None:
    """Residual graphs: a value is read by several nodes, or twice by one."""
    model = model_of((5,), linear(), relu("relu", "fc"), Add(name="add", inputs=("relu", "fc", "relu")))
    assert model.shapes["add"] == (5,)


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ((linear("a"), linear("a")), "node 'a' (Linear): the name is taken"),
        ((relu("input"),), "node 'input' (ReLU): the name is taken"),
        ((relu(""),), "node '' (ReLU): it has no name"),
        ((relu("a", "ghost"),), "node 'a' (ReLU): no earlier node is named ['ghost']"),
        ((relu("a", "b"), relu("b")), "node 'a' (ReLU): no earlier node is named ['b']"),
        ((relu("a", "a"),), "node 'a' (ReLU): no earlier node is named ['a']"),
        ((relu("a", "input", "input"),), "node 'a' (ReLU): has 2 inputs"),
        ((ReLU(name="a", inputs=()),), "node 'a' (ReLU): has 0 inputs"),
        ((Add(name="a", inputs=("input",)),), "node 'a' (Add): has 1 inputs"),
        ((Concat(name="a", inputs=()),), "node 'a' (Concat): has 0 inputs"),
        ((linear("a", n=6),), "node 'a' (Linear): takes (6,), got (5,)"),
        ((linear(out=4), linear("b", "fc")), "node 'b' (Linear): takes (5,), got (4,)"),
    ],
)
def test_graphs_that_are_not_sound(nodes: tuple[Node, ...], message: str) -> None:
    """Names given twice or missing, references forwards, to itself or to nothing, wrong numbers of inputs."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        model_of((5,), *nodes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": np.full(5, np.nan, dtype=np.float32)}, "scale holds NaN or infinity"),
        ({"scale": np.full(5, -np.inf)}, "scale holds NaN or infinity"),
        ({"scale": np.ones(5, dtype=np.int64)}, "scale is int64, not float32 or float64"),
        ({"scale": np.ones(4)}, "scale has shape (4,), not (5,)"),
        ({"weight": random_floats(5, 5).astype(np.float16)}, "weight is float16, not float32"),
    ],
)
def test_errors_of_a_node_name_it(fields: dict[str, Any], message: str) -> None:
    """What a node's own check refuses is reported with the node's name and operation."""
    arrays = {"scale": np.ones(5), "shift": np.zeros(5)} | fields
    with pytest.raises(ValueError) as error:  # noqa: PT011
        model_of((5,), linear("first"), linear("second", "first", **arrays))
    assert str(error.value) == f"node 'second' (Linear): {message}"


def test_a_threshold_needs_integers() -> None:
    """A Threshold after anything but a product of ±1 with ±1 is refused."""
    after = Threshold(
        name="t", inputs=("fc",), threshold=np.zeros(5, dtype=np.int32), flip=np.zeros(5, dtype=bool)
    )
    assert model_of((5,), Sign(name="s", inputs=("input",)), linear("fc", "s"), after).kinds["t"] == "sign"
    with pytest.raises(ValueError, match=r"node 't' .Threshold.: takes integers, got float"):
        model_of((5,), linear("fc"), after)


def test_a_value_of_too_many_entries_is_refused() -> None:
    """Small files cannot ask for huge values: doubling by Concat ends with an error that names the node."""
    doubling = [Concat(name="c0", inputs=("input", "input"))]
    doubling += [Concat(name=f"c{i}", inputs=(f"c{i - 1}",) * 2) for i in range(1, 64)]
    with pytest.raises(ValueError, match=r"node 'c26' .Concat.: its output of shape"):
        model_of((4,), *doubling)


def test_a_model_needs_a_node() -> None:
    """A graph without nodes is no model."""
    with pytest.raises(ValueError, match="needs at least one node"):
        model_of((5,))


def test_labels_fit_the_output() -> None:
    """As many labels as outputs, or none; an output that is no vector has no labels."""
    assert model_of((5,), linear(out=2), labels=("cat", "dog")).input.labels == ("cat", "dog")
    with pytest.raises(ValueError, match=r"2 labels for an output of shape \(3,\)"):
        model_of((5,), linear(out=3), labels=("cat", "dog"))
    with pytest.raises(ValueError, match=r"2 labels for an output of shape \(2, 3, 3\)"):
        model_of((2, 3, 3), relu(), labels=("cat", "dog"))


@pytest.mark.parametrize("about", [{"epochs": 3}, {"weights": None}, {3: "epochs"}])
def test_about_maps_strings_to_strings(about: Any) -> None:
    """Anything but strings in `about` is refused at once: a file that holds it could not be read back."""
    with pytest.raises(ValueError, match="about must map strings to strings"):
        PackedModel(InputContract((5,)), (linear(),), about)


def test_texts_have_a_form_in_utf8() -> None:
    """A lone surrogate, as in a file's name that is no UTF-8, is refused at once: no file could hold it."""
    with pytest.raises(ValueError, match=r"label 'c\\udcff' is no UTF-8"):
        InputContract((5,), labels=("a", "b", "c\udcff", "d", "e"))
    with pytest.raises(ValueError, match=r"node '\\ud800' \(Linear\): the name '\\ud800' is no UTF-8"):
        model_of((5,), linear("\ud800"))
    for about in ({"data": "\udc80"}, {"\udc80": "data"}):
        with pytest.raises(ValueError, match=r"about: '\\udc80' is no UTF-8"):
            PackedModel(InputContract((5,)), (linear(),), about)


def test_affine_of_another_width_names_its_node() -> None:
    """A batch norm for 4 channels after a layer of 5 is refused."""
    affine = Affine(name="bn", inputs=("fc",), scale=np.ones(4), shift=np.zeros(4))
    with pytest.raises(ValueError, match=r"node 'bn' .Affine.: takes 4 channels, got shape \(5,\)"):
        model_of((5,), linear(), affine)


def test_softmax_of_an_image_names_its_node() -> None:
    """A softmax over anything but classes is refused."""
    with pytest.raises(ValueError, match=r"node 'p' .Softmax.: takes .classes,."):
        model_of((2, 3, 3), Softmax(name="p", inputs=("input",)))


def test_one_of_each_is_sound() -> None:
    """The model that other tests save and load holds every kind of value."""
    assert set(one_of_each().kinds.values()) == {"input", "sign", "int", "float"}

"""What a model asks for is known before anything is made: never less than it takes, and not far more."""

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz.fuzz_corpus import draw_model
from support.helpers import one_of_each
from support.sized_networks import NETWORKS, unet

from bnn.errors import UserError
from bnn.export import export
from bnn.packed.demand import asks_of, check_limits
from bnn.packed.limits import MAX_MEMORY, MAX_WORK, readable
from bnn.packed.model import PackedModel
from bnn.packed.nodes import (
    INPUT,
    NODES,
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Flatten,
    InputContract,
    Linear,
    MaxPool2d,
    Node,
    PackedWeight,
    ReLU,
    Sign,
)
from bnn.runtime import Runner, load, reference
from bnn.runtime.lowering import lower
from bnn.runtime.native import instruction_sets, plan_of


def peak_of(function: Callable[[], Any]) -> tuple[Any, int]:
    """What a function gives, and the most memory that Python and NumPy held at once meanwhile."""
    tracemalloc.start()
    try:
        return function(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def takes(model: PackedModel) -> tuple[int, float]:
    """The most bytes that lowering or running a sample takes, and the most work by the engine's estimate."""
    most, work = 0, 0.0
    for dtype in ("u8", "f32") if model.input.mean else ("f32",):
        for activations in ("float32", "int8"):
            program, lowered = peak_of(lambda d=dtype, a=activations: lower(model, d, a))
            plans = [plan_of(program, isa) for isa in instruction_sets()]
            most = max(most, lowered, *(plan.bytes(1, 1) for plan in plans))
            work = max(work, plans[0].work)
    return most, work


def peak(model: PackedModel) -> int:
    """The most bytes that a sample takes of the fastest kernels: lowering, and its result beside the plan."""
    most = 0
    for dtype in ("u8", "f32") if model.input.mean else ("f32",):
        tracemalloc.start()
        try:
            program = lower(model, dtype)
            held, lowered = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        most = max(most, lowered, held + plan_of(program, instruction_sets()[-1]).bytes(1, 1))
    return most


def takes_in_numpy(model: PackedModel) -> int:
    """The most bytes that a sample takes in the reference."""
    dtypes = [np.uint8, np.float32] if model.input.mean else [np.float32]
    batches = [np.ones((1, *model.input.shape), dtype) for dtype in dtypes]
    runs = [(x, activations) for x in batches for activations in ("float32", "int8")]
    with np.errstate(all="ignore"):
        return max(peak_of(lambda x=x, a=a: reference.run(model, x, a))[1] for x, a in runs)


def of(shape: tuple[int, ...], *nodes: Node, pixels: bool = False) -> PackedModel:
    return PackedModel(InputContract(shape, *(((0.5,), (0.5,)) if pixels else ())), nodes)


def ones(*shape: int) -> PackedWeight:
    return PackedWeight.from_signs(np.ones(shape, np.int8))


def wide_model(seed: int) -> PackedModel:
    """A model of which one part is large, so that nothing else hides it."""
    rng = random.Random(seed)
    conv = Conv2d(
        name="a",
        inputs=(INPUT,),
        weight=ones(*rng.choice([(8, 1, 9, 9), (64, 1, 40, 40), (1, 1, 99, 99)])),
        padding=(20,) * 4,
        **rng.choice([{}, {"pad_value": 1.0}, {"stride": (3, 5)}, {"pad_value": 0.5}]),
    )
    double = {"scale": np.ones(3), "shift": np.ones(3)}
    of_planes = Conv2d(name="a", inputs=(INPUT,), weight=ones(3, 1, 3, 3), groups=3, **double)
    first = Sign(name="s", inputs=(INPUT,))
    deep = (ReLU(name=f"d{i}", inputs=(INPUT,)) for i in range(20))
    models = [
        lambda: of((1, 200, 200), conv, pixels=rng.random() < 0.5),
        lambda: of((1, 200, 200), first, Conv2d(name="a", inputs=("s",), weight=ones(64, 1, 50, 50))),
        lambda: of((3, 300, 300), of_planes, Sign(name="b", inputs=("a",)), pixels=rng.random() < 0.5),
        lambda: of((3, 300, 300), of_planes, ReLU(name="b", inputs=("a",)), Add(name="y", inputs=("a", "b"))),
        lambda: of((400_000,), Linear(name="a", inputs=(INPUT,), weight=ones(1, 400_000)), pixels=True),
        lambda: of((50,), Linear(name="a", inputs=(INPUT,), weight=ones(9000, 50)), pixels=True),
        lambda: of(
            (2, 500, 400), *deep, Add(name="y", inputs=tuple(f"d{i}" for i in range(20))), pixels=True
        ),
        lambda: of((2, 500, 400), Concat(name="y", inputs=(INPUT,) * 9), Flatten(name="z", inputs=("y",))),
        lambda: of((1, 500, 400), first, Flatten(name="f", inputs=("s",)), ReLU(name="z", inputs=("f",))),
        lambda: of(
            (5, 300, 300),
            rng.choice([AvgPool2d, MaxPool2d])(name="p", inputs=(INPUT,), kernel=(3, 3), stride=(1, 1)),
            pixels=rng.random() < 0.5,
        ),
    ]
    return models[seed % len(models)]()


@pytest.mark.parametrize("seed", range(20))
def test_never_less_than_a_large_model_takes(seed: int) -> None:
    """Windows, borders, tables, copies in other orders and dtypes, one of them large: all of it counts."""
    model = wide_model(seed)
    most, work = takes(model)
    assert most <= asks_of(model).memory
    assert work <= asks_of(model).work
    assert takes_in_numpy(model) <= asks_of(model, None).memory


@pytest.mark.parametrize("part", range(4))
def test_never_less_than_drawn_models_take(part: int) -> None:
    """So it is for networks of every kind of node."""
    for seed in range(15 * part, 15 * part + 15):
        model = draw_model(random.Random(seed))
        most, work = takes(model)
        assert most <= asks_of(model).memory
        assert work <= asks_of(model).work
        assert takes_in_numpy(model) <= asks_of(model, None).memory


def test_every_node_says_what_it_costs() -> None:
    """No node counts for less work than the engine would share among threads for it."""
    model = one_of_each()
    contract = replace(model.input, labels=())
    assert {type(node) for node in model.nodes} == set(NODES.values())
    for i, node in enumerate(model.nodes):
        part = PackedModel(contract, model.nodes[: i + 1])
        before = asks_of(PackedModel(contract, model.nodes[:i])).work if i else 0
        assert asks_of(part).work > before, node.name
        assert plan_of(lower(part, "f32"), "portable").work <= asks_of(part).work, node.name


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_what_people_have_is_let_through(name: str) -> None:
    """Networks of ordinary and of large size may run, and ask for about three times what they take."""
    model = NETWORKS[name]()
    check_limits(model, threads=2)
    check_limits(model, None)
    most, work = takes(model)
    asks = asks_of(model)
    assert max(most, peak(model)) <= asks.memory < 3.5 * peak(model)
    assert work <= asks.work < 30 * work + 1e7  # to prepare it is work as well, and filters of planes


def test_weights_are_counted_once() -> None:
    """What hundreds of megabytes of one-bit weights ask for is little more than themselves."""
    zeros = np.zeros((2**16, 2**9), np.uint64)  # 256 MiB
    names = [INPUT, *(f"s{i}" for i in range(6))]
    nodes: list[Node] = []
    for i in range(6):
        weight = PackedWeight(zeros, (2**16, 2**15))
        if i % 2:
            weight = PackedWeight(zeros.reshape(2**15, 2**10), (2**15, 2**16))
        nodes += [Linear(name=f"a{i}", inputs=(names[i],), weight=weight)]
        nodes += [Sign(name=names[i + 1], inputs=(f"a{i}",))]
    model = of((2**15,), *nodes)
    check_limits(model)
    assert model.nbytes < asks_of(model).memory < 1.3 * model.nbytes
    assert asks_of(model, None).memory < 2**26


def test_a_large_network_of_floats_is_let_through() -> None:
    """A U-Net whose weights are all floats may run, in the reference as well."""
    check_limits(unet(packed=False))
    check_limits(unet(), None)


LARGE = of(
    (16, 1000, 1000),
    *(ReLU(name=f"{i}", inputs=(INPUT,)) for i in range(36)),
    Add(name="y", inputs=tuple(map(str, range(36)))),
)
LONG = of((1, 2000, 2000), MaxPool2d(name="p", inputs=(INPUT,), kernel=(500, 500), stride=(1, 1)))


@pytest.mark.parametrize(("model", "argument"), [(LARGE, "max_memory"), (LONG, "max_work")])
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_refusal_says_both_numbers(model: PackedModel, argument: str, engine: str, tmp_path: Path) -> None:
    """What is asked, what is allowed, and the argument that raises it; None lifts a limit."""
    asks = asks_of(model, 1 if engine == "native" else None)
    asked = {"max_memory": readable(asks.memory), "max_work": f"{asks.work:.3g}"}[argument]
    allowed = {"max_memory": readable(MAX_MEMORY), "max_work": f"{MAX_WORK:.3g}"}[argument]
    with pytest.raises(UserError) as error:
        Runner(model, engine, threads=1)
    assert all(text in str(error.value) for text in (asked, argument, allowed))
    model.save(tmp_path / "m.bnn")
    with pytest.raises(UserError, match=rf"m\.bnn: .*{argument}=, --{argument.replace('_', '-')}"):
        load(tmp_path / "m.bnn", engine)
    assert load(tmp_path / "m.bnn", engine, **{argument: None}).engine == engine


@pytest.mark.parametrize("node", [Add, Concat])
def test_inputs_are_work(node: type[Node]) -> None:
    """Two million inputs of one node, a file of 12 MB, take seconds to read and to run."""
    with pytest.raises(UserError, match="max_work"):
        check_limits(of((1,), node(name="y", inputs=(INPUT,) * 2_000_000)))


@pytest.mark.parametrize("to", ["c", "web"])
def test_exports_refuse_as_well(to: str, tmp_path: Path) -> None:
    """What would be lowered is checked before."""
    model = of((1, 4000, 4000), *LARGE.nodes, Flatten(name="z", inputs=("y",)), pixels=True)
    with pytest.raises(UserError, match=r"more than is allowed: 1\.8 GiB"):
        export(model, to, tmp_path / "out")


def test_gaps_in_the_arena_count() -> None:
    """What a plan takes in the end is compared as well, before it has its arena."""
    model = one_of_each()
    runner = Runner(model, threads=1, max_memory=asks_of(model).memory)
    runner._run.max_memory = 1000  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="running it takes"):
        runner(np.zeros((1, *model.input.shape), np.float32))

"""The fuzzer of the compiled engine, without sanitizers and not for long; `run.sh` is for more."""

import random
from pathlib import Path

import numpy as np
import pytest
from fuzz_bnn import FindingError, Fuzzer, check, compare
from fuzz_bounds import bounded_run
from fuzz_corpus import draw_model, work_of
from fuzz_mutations import File, content_of

from bnn.packed.model import PackedModel
from bnn.packed.nodes import NODES
from bnn.runtime import native, reference


def test_cases_follow_from_the_seed(tmp_path: Path) -> None:
    """The same seed gives the same cases, another one gives others."""
    fuzzers = [Fuzzer(1, tmp_path), Fuzzer(1, tmp_path / "another folder"), Fuzzer(2, tmp_path)]
    first, again, other = ([fuzzer.case(index) for index in range(20)] for fuzzer in fuzzers)
    assert first == again
    assert not set(first) & set(other)


def test_drawn_models_are_of_all_kinds() -> None:
    """Among the models that a run begins with is every operation, on images and on vectors."""
    models = [draw_model(random.Random(seed)) for seed in range(64)]
    assert {type(node) for model in models for node in model.nodes} == set(NODES.values())
    assert {len(model.input.shape) for model in models} == {1, 3}
    assert {bool(model.input.mean) for model in models} == {True, False}


def test_taking_apart_and_joining_is_harmless(tmp_path: Path) -> None:
    """A file taken apart and put together again holds the same model: what is done in between is all."""
    path = tmp_path / "m.bnn"
    for seed in range(10):
        model = draw_model(random.Random(seed))
        path.write_bytes(File.parse(content_of(model)).join())
        assert content_of(PackedModel.load(path)) == content_of(model)


def test_bytes_are_those_of_a_file(tmp_path: Path) -> None:
    """What is changed are the very bytes that `save` writes."""
    model = draw_model(random.Random(0))
    model.save(tmp_path / "m.bnn")
    assert content_of(model) == (tmp_path / "m.bnn").read_bytes()


def test_no_findings_in_200_cases(tmp_path: Path) -> None:
    """Files are refused, or run as the reference does; and enough of them run to test the engine."""
    fuzzer = Fuzzer(0, tmp_path)
    for _ in range(200):
        fuzzer.step()
    assert fuzzer.counts["run"] > 100
    assert fuzzer.counts["refused"] > 20
    assert fuzzer.counts["large"] < 20


def test_most_results_have_to_be_exact_or_nearly() -> None:
    """The bounds would notice a wrong result: most are 0 or small, and few say that anything may be."""
    bounds = []
    for seed in range(60):
        model = draw_model(random.Random(seed))
        if work_of(model) < 50_000:
            x = np.random.default_rng(seed).integers(-9, 10, (3, *model.input.shape)).astype(np.float32)
            _, bound = bounded_run(model, x, "float32")
            bounds.append(
                np.mean([bound == 0, bound < 1e-3, np.isinf(bound)], axis=tuple(range(1, bound.ndim + 1)))
            )
    exact, near, unknown = np.mean(bounds, axis=0)
    assert exact > 0.4
    assert near > 0.6
    assert unknown < 0.2


def test_a_wrong_result_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that is wrong in one entry by a little, or raises, does not go unnoticed."""
    model = draw_model(random.Random(3))
    assert check(content_of(model), tmp_path / "m.bnn")[0] == "run"

    class Wrong(native.Engine):
        def __call__(self, x: np.ndarray) -> np.ndarray:
            result = super().__call__(x)
            result.flat[0] = result.flat[0] * 1.001 + 1
            return result

    monkeypatch.setattr(native, "Engine", Wrong)
    with pytest.raises(FindingError, match=r"portable, .* entries"):
        compare(model, np.ones((3, *model.input.shape), np.float32), "float32")


def test_bounds_are_around_the_reference() -> None:
    """What the bounds go around is the reference's own result."""
    for seed in range(20):
        model = draw_model(random.Random(seed))
        x = np.random.default_rng(seed).standard_normal((2, *model.input.shape)).astype(np.float32)
        with np.errstate(all="ignore"):
            truth, bound = bounded_run(model, x, "int8")
            assert np.array_equal(truth, reference.run(model, x, "int8"), equal_nan=True)
        assert bound.shape == truth.shape
        assert (bound >= 0).all()

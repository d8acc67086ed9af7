"""`bnn bench`: what it compares with computes the same, and it says what was measured. No test times."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support.helpers import Array, model_of, one_of_each, packed_weight, random_floats

from bnn.bench import Report, bench, instruction_sets, model_cases, select, standard_cases
from bnn.bench.cases import Case
from bnn.bench.compare import Agreement, run_case
from bnn.bench.timing import Timing, measure, rouse
from bnn.bench.twins import onnx_twin, torch_twin
from bnn.cli import main
from bnn.packed.model import PackedModel
from bnn.packed.nodes import AvgPool2d, Conv2d, Linear, MaxPool2d, Node, PReLU, ReLU, Sign
from bnn.runtime import reference

SETS = instruction_sets()
BEST = SETS[-1]
RIVALS = ["torch float32", "torch bfloat16", "onnxruntime float32", "onnxruntime int8"]


@pytest.fixture(autouse=True)
def short_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops of native/peak.h run for a moment only."""
    monkeypatch.setattr("bnn.bench.machine.SECONDS", 1e-4)


def small() -> PackedModel:
    """Floats, then ±1."""
    return model_of(
        (70,),
        Linear(
            name="first",
            inputs=("input",),
            weight=packed_weight(40, 70),
            scale=random_floats(40).astype(float),
            shift=random_floats(40, seed=1).astype(float),
        ),
        Sign(name="sign", inputs=("first",)),
        Linear(name="second", inputs=("sign",), weight=packed_weight(30, 40)),
        ReLU(name="relu", inputs=("second",)),
        Linear(name="third", inputs=("relu",), weight=packed_weight(5, 30)),
    )


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A file of it."""
    small().save(tmp_path / "small.bnn")
    return str(tmp_path / "small.bnn")


# --- twins ------------------------------------------------------------------------------------------------


def windows(name: str, **fields: Any) -> list[Node]:
    """One node for (2, 7, 6) images, with padding as PyTorch has it or not."""
    first: dict[str, Any] = {"name": name, "inputs": ("input",)}
    square: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2)}
    conv: dict[str, Any] = {"weight": packed_weight(4, 2, 3, 3)}
    return [
        Conv2d(**first, **conv, **fields),
        Conv2d(**first, **conv, **fields, pad_value=1.0),
        MaxPool2d(**first, **square, **fields),
        AvgPool2d(**first, **square, **fields),
        AvgPool2d(**first, **square, **fields, count_padding=False),
    ]


MODELS = {
    **{f"one of each {seed}": one_of_each(seed) for seed in range(3)},
    "small": small(),
    "one slope": model_of((2, 7, 6), PReLU(name="y", inputs=("input",), slope=np.array([0.5], np.float32))),
    "an awkward name": model_of(
        (2, 7, 6), *windows("output")[:1], ReLU(name="constant 0", inputs=("output",))
    ),
    **{
        f"{type(node).__name__} {i} {padding}": model_of((2, 7, 6), node)
        for padding in ((0, 0, 0, 0), (1, 1, 1, 1), (1, 0, 0, 1), (2, 2, 0, 0))
        for i, node in enumerate(windows("y", padding=padding))
    },
}


def inputs(model: PackedModel) -> Array:
    x = random_floats(5, *model.input.shape, seed=7)
    x[0].flat[::3] = 0
    return x


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_twins_compute_what_the_reference_does(model: PackedModel) -> None:
    """Every node type, in PyTorch in both layouts and in ONNX Runtime, gives the reference's output."""
    x = inputs(model)
    want = reference.run(model, x)
    tolerance = 1e-5 * np.abs(want).max()
    for channels_last in (False, True):
        y = torch_twin(model, "float32", channels_last)(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(y, want, rtol=0, atol=tolerance)
    content = onnx_twin(model)
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x})[0], want, rtol=0, atol=tolerance)


@pytest.mark.parametrize("seed", range(3))
def test_the_bfloat16_twin_is_all_bfloat16(seed: int) -> None:
    """No step falls back to float32, which would be another's time."""
    model = one_of_each(seed)
    assert torch_twin(model, "bfloat16")(torch.from_numpy(inputs(model)).bfloat16()).dtype == torch.bfloat16


# --- timing -----------------------------------------------------------------------------------------------


def test_measure_alternates_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions take turns; a fast one is called until a millisecond has passed, a slow one once."""
    now = 0
    calls: list[str] = []
    monkeypatch.setattr("time.perf_counter_ns", lambda: now)

    def taking(name: str, nanoseconds: int) -> Callable[[], None]:
        def function() -> None:
            nonlocal now
            now += nanoseconds
            calls.append(name)

        return function

    timings = measure({"slow": taking("slow", 3_000_000), "fast": taking("fast", 400_000)}, repeats=4)
    assert calls == ["slow"] * 2 + ["fast"] * 6 + (["slow"] + ["fast"] * 3) * 4
    assert timings["slow"].calls == 1
    assert timings["slow"].seconds == pytest.approx([3e-3] * 4)
    assert timings["fast"].calls == 3
    assert timings["fast"].seconds == pytest.approx([4e-4] * 4)


def test_before_each_timing_there_may_be_something() -> None:
    """It is told what is timed next, once for each function and repeat."""
    told: list[object] = []
    functions = {"a": lambda: None, "b": lambda: None}
    measure(functions, 3, told.append)
    assert told == [*functions.values()] * 3


def test_rouse(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits as long as this process uses a core, then calls for 25 ms."""
    passed: list[float] = []
    calls: list[None] = []

    def call() -> None:
        passed.append(0.01)
        calls.append(None)

    monkeypatch.setattr("time.sleep", passed.append)
    monkeypatch.setattr("time.perf_counter", lambda: sum(passed))
    monkeypatch.setattr("time.process_time", lambda: min(sum(passed), 0.06))
    rouse(call)
    assert sum(passed) == pytest.approx(4 * 0.025 + 3 * 0.01)
    monkeypatch.setattr("time.process_time", lambda: sum(passed))
    rouse(call)
    assert sum(passed) == pytest.approx(4 * 0.025 + 1 + 6 * 0.01)  # it does not wait for ever
    assert len(calls) == 6


def test_quartiles() -> None:
    """One value gives itself; else they are those of the values."""
    assert Timing((2.0,), 1).quartiles == (2, 2, 2)
    assert Timing((5.0, 1.0, 4.0, 2.0, 3.0), 1).quartiles == (2, 3, 4)
    assert Timing((5.0, 1.0, 4.0, 2.0, 3.0), 1).median == 3


# --- cases ------------------------------------------------------------------------------------------------


def test_standard_cases() -> None:
    """The products, with as many multiply-accumulates as their shapes have, of the kind they are."""
    cases, skipped = standard_cases(BEST, 1)
    macs = {case.name: case.macs() for case in cases}
    assert macs["float32 x ±1, 256 rows, 1024x1024"] == {"f32": 2**28}
    assert macs["int8 x ±1, 64 rows, 4096x4096"] == {"i16": 2**30}
    assert macs["±1 x ±1, 512 rows, 4096x4096"] == {"bits": 2**33}
    assert macs["±1 x ±1, convolution 3x3, 64 x 56x56"] == {"bits": 64 * 64 * 9 * 56 * 56}
    network = 784 * 1024 + 2 * 1024 * 1024 + 1024 * 10
    assert macs["MNIST 784-3x1024-10, 1 image, float32"] == {"f32": network}
    assert macs["MNIST 784-3x1024-10, 1 image, int8"] == {"i16": network}
    assert len(macs) == len(cases)
    assert any("2 threads" in name for name in [*macs, *skipped])
    assert any("avx2" in name for name in macs) == ("avx2" in SETS[:-1])


def test_one_core_skips_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one core, the case of two threads is left out, and that is said."""
    monkeypatch.setattr("bnn.bench.cases.available_cores", lambda: 1)
    cases, skipped = standard_cases(BEST, 1)
    assert not [case for case in cases if case.threads == 2]
    assert len(skipped) == 1
    assert "only one core" in skipped[0]


def test_cases_of_a_model() -> None:
    """The whole model on 1 and 64 inputs with either activations, then each layer on what it takes."""
    whole, layers = (cases := model_cases(small(), BEST, 2))[:4], cases[4:]
    assert {(case.batch, case.activations) for case in whole} == {
        *((batch, activations) for batch in (1, 64) for activations in ("float32", "int8"))
    }
    names = ["layer first: Linear 40x70", "layer second: Linear 30x40", "layer third: Linear 5x30"]
    assert [case.name for case in layers] == names
    assert [case.macs() for case in layers] == [{"f32": 2800}, {"bits": 1200}, {"f32": 150}]
    assert {case.threads for case in cases} == {2}
    # What takes signs gets them, and others need not take them.
    assert [case.twin is not None for case in layers] == [False, True, False]
    assert set(np.unique(layers[1].input())) == {-1, 1}


def test_select() -> None:
    """By any part of the name, in capitals or not."""
    cases = model_cases(small(), BEST, 1)
    assert [case.name for case in select(cases, "LAYER t")] == ["layer third: Linear 5x30"]
    assert select(cases, "") == cases
    with pytest.raises(ValueError, match=r"no case has 'x9' in its name; there are: whole model"):
        select(cases, "x9")


# --- agreement --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [one_of_each(), small()])
def test_results_agree(model: PackedModel) -> None:
    """Our engine agrees with the reference and with others, exactly where all are integers."""
    for case in model_cases(model, BEST, 1):
        result = run_case(case, 1, {})
        assert result.wrong() == []
        assert result.agreement.allowed is not None
        theirs = result.rivals["torch float32"]
        assert theirs is not None
        if case.twin and case.model.output.scale is None:  # type: ignore[attr-defined]
            assert (theirs.agreement.difference, theirs.agreement.allowed) == (0, 0)
        convolves = any(isinstance(node, Conv2d) for node in case.model.nodes)
        assert len(theirs.timings) == 1 + convolves  # layouts
        assert ("onnxruntime int8" in result.rivals) == (not convolves)


def test_signs_of_float32_are_not_judged() -> None:
    """About 0 they hang on the order of a sum; those of float64 are judged against our reference."""

    def allowed(**fields: Any) -> tuple[float | None, float | None]:
        first = Linear(name="first", inputs=("input",), weight=packed_weight(8, 64), **fields)
        model = model_of((64,), first, Sign(name="sign", inputs=("first",)))
        result = run_case(Case("y", model, 2, BEST, 1), 1, {})
        assert result.wrong() == []
        theirs = result.rivals["torch float32"]
        assert theirs is not None
        return result.agreement.allowed, theirs.agreement.allowed

    assert allowed() == (None, None)
    assert allowed(scale=np.ones(8, np.float32), shift=np.zeros(8, np.float32)) == (None, None)
    assert allowed(scale=np.ones(8), shift=np.zeros(8)) == (0, None)


def test_nan_agrees_with_nothing() -> None:
    """A difference that is no number is a disagreement, unless nobody judges it."""
    assert not Agreement(float("nan"), 1e-4).holds
    assert Agreement(float("nan"), None).holds


@pytest.mark.parametrize("who", ["torch_twin", "onnx_twin", "reference.run"])
def test_a_disagreement_is_an_error(
    who: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Where the results differ, the command says so on standard error, and exits with 1."""
    wrong: dict[str, Callable[..., Any]] = {
        "torch_twin": lambda *args: lambda x: torch.full((1, 5), 7.5),
        "onnx_twin": lambda model: onnx_twin(
            model_of((30,), Linear(name="y", inputs=("input",), weight=OTHER))
        ),
        "reference.run": lambda model, x, activations: np.full((1, 5), 7.5, np.float32),
    }
    monkeypatch.setattr(f"bnn.bench.compare.{who}", wrong[who])
    out = tmp_path / "out.json"
    assert main(["bench", model, "--repeats", "1", "--only", "third", "--json", str(out)]) == 1
    name = {"torch_twin": "torch float32", "onnx_twin": "onnxruntime float32"}.get(who, "our reference")
    errors = capsys.readouterr().err
    line = (
        rf"layer third: Linear 5x30: differs from {name} by \S+ of the largest magnitude; 0.0001 is allowed"
    )
    assert re.fullmatch(rf"bnn bench: WRONG: {line}\n", errors)
    case = json.loads(out.read_text())["cases"][0]
    agreement = case["agreement"] if name == "our reference" else case["rivals"][name]["agreement"]
    assert agreement["holds"] is False
    assert agreement["difference"] > 0.1


OTHER = packed_weight(5, 30, seed=9)


def test_layers_may_be_named_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is a formula to Matplotlib, or an escape sequence to a terminal, is a name in table and chart."""
    fc = Linear(name="$\\frac{$\x1b[31m\nfc", inputs=("input",), weight=packed_weight(5, 30))
    model_of((30,), fc).save(tmp_path / "m.bnn")
    picture = tmp_path / "out.png"
    assert main(["bench", str(tmp_path / "m.bnn"), "--repeats", "1", "--png", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "layer $\\frac{$\\x1b[31m\\x0afc: Linear 5x30" in out
    assert "\x1b" not in out
    assert picture.read_bytes().startswith(b"\x89PNG")


# --- the command ------------------------------------------------------------------------------------------


def test_the_command(model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It prints machine, table, protocol and verdict, and writes everything as JSON and the ratios as PNG."""
    out, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert main(["bench", model, "--repeats", "1", "--json", str(out), "--png", str(picture)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in (f"{BEST} kernels, 1 thread ", "GB/s from memory", "protocol: both sides", "fewer than 30"):
        assert text in captured.out
    assert captured.out.splitlines()[-1].startswith(("slower: ", "one bit was nowhere slower"))

    report = json.loads(out.read_text())
    assert set(report["versions"]) == {"bnn", "python", "numpy", "torch", "onnx", "onnxruntime"}
    assert report["machine"]["instruction_sets"] == SETS
    assert (report["isa"], report["threads"], report["repeats"]) == (BEST, 1, 1)
    assert set(report["peaks"][BEST]) == {"bits", "f32", "i16"}
    assert set(report["reads"]) == {"memory", "cache"}
    assert len(report["protocol"]) == 3
    assert len(report["cases"]) == 7
    for case in report["cases"]:
        assert case["name"] in captured.out
        assert list(case["rivals"]) == RIVALS
        assert set(case["ours"]) == {"median", "q1", "q3", "calls", "seconds"}
        assert case["macs_per_second"] == pytest.approx(sum(case["macs"].values()) / case["ours"]["median"])
        for rival in case["rivals"].values():
            assert len(rival["seconds"]) == 1
            assert rival["ratio"] == pytest.approx(rival["median"] / case["ours"]["median"])
    with Image.open(picture) as image:
        assert image.format == "PNG"
        assert image.width > 500
    assert picture.stat().st_size < 300_000


def test_where_one_bit_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place where another runtime takes less time has its line, with how much less."""
    factors = {"ours": 1.0, "torch float32": 4.0, "torch bfloat16": 0.5}

    def measured(functions: dict[Any, object], repeats: int, before: None) -> dict[Any, Timing]:
        return {key: Timing((1e-3 * factors.get(key[0], 2),) * repeats, 1) for key in functions}

    monkeypatch.setattr("bnn.bench.compare.measure", measured)
    text = str(bench(select(model_cases(small(), BEST, 1), "layer t"), BEST, 1))
    assert text.splitlines()[-1] == "slower: layer third: Linear 5x30: 2.00 times torch bfloat16's time"
    assert re.search(
        r"layer third: Linear 5x30  1.00 ms  \(1.00-1.00\) .* 4.00 ms  4.00x +500 µs  0.50x", text
    )
    assert "fewer than" not in text
    factors["torch bfloat16"] = 1.5
    report = bench(select(model_cases(small(), BEST, 1), "layer t"), BEST, 1)
    assert str(report).splitlines()[-1] == "one bit was nowhere slower"


def test_threads_beside_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A case may have our own engine on one thread beside it; PyTorch's threads are as they were after it."""
    before = torch.get_num_threads()
    layer = model_of((64,), Linear(name="y", inputs=("input",), weight=packed_weight(8, 64)))
    result = run_case(Case("y", layer, 3, BEST, 2, beside_one_thread=True), 1, {})
    assert list(result.rivals) == [*RIVALS, "ours, 1 thread"]
    assert result.of_peak is None  # as no peak was given
    assert torch.get_num_threads() == before


def test_another_isa(model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--isa, or $BNN_ISA, names the kernels, also where there is no such loop to compare with."""
    argv = ["bench", model, "--repeats", "1", "--only", "layer second"]
    assert main([*argv, "--isa", "portable"]) == 0
    by_option = capsys.readouterr().out
    monkeypatch.setenv("BNN_ISA", "portable")
    assert main(argv) == 0
    assert "portable kernels, 1 thread" in by_option
    assert "portable kernels, 1 thread" in capsys.readouterr().out


MISTAKES = {
    "no such kernels": (
        ["--isa", "avx9"],
        f"--isa: kernels must be one of {', '.join(instruction_sets())} on this processor, not",
    ),
    "no threads": (["--threads", "0"], "threads must be a number from 1 to 1024, not 0"),
    "no repeats": (["--repeats", "0"], "--repeats 0: must be at least 1"),
    "no such case": (["--only", "nothing"], "no case has 'nothing' in its name; there are: whole model"),
    "no such folder": (["--json", "/no/such/folder/x.json"], "/no/such/folder/x.json: cannot be written"),
    "a folder": (["--png", "/"], "/: cannot be written"),
}


@pytest.mark.parametrize(("argv", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(argv: list[str], message: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake is one line and status 2, before anything is measured."""
    assert main(["bench", model, *argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"bnn bench: {message}")
    assert captured.err.count("\n") == 1


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """--help ends with an example."""
    with pytest.raises(SystemExit, match="0"):
        main(["bench", "--help"])
    assert "example: bnn bench" in capsys.readouterr().out


def without(modules: list[str], *argv: str) -> subprocess.CompletedProcess[str]:
    """The command where these cannot be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\nfrom bnn.cli import main\n"
    command = [sys.executable, "-W", "error", "-c", f"{program}sys.exit(main({['bench', *argv]!r}))"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_without_the_others(model: str) -> None:
    """Where neither PyTorch nor ONNX Runtime is installed, their columns say so, and ours are measured."""
    done = without(
        ["torch", "onnx", "onnxruntime", "matplotlib"], model, "--repeats", "1", "--only", "second"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"layer second: Linear 30x40 .*( +not installed){4}\n", done.stdout)
    assert "nothing to compare with" in done.stdout
    assert "slower" not in done.stdout


def test_what_is_needed_is_named(model: str, tmp_path: Path) -> None:
    """Without matplotlib there is no picture, and without the engine nothing: a line and status 2."""
    done = without(["matplotlib"], model, "--png", str(tmp_path / "x.png"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'binaryconnect[bench]'" in done.stderr
    done = without(["bnn.runtime._native"], model)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "bnn bench: the compiled engine cannot be loaded" in done.stderr


def test_a_report_of_nothing_has_a_picture(tmp_path: Path) -> None:
    """Where there was nothing to compare with, the picture has no bars, and is one all the same."""
    machine = {"cpu": "x", "cores": 1, "instruction_sets": ["portable"]}
    Report(machine, {}, "portable", 1, 1, {}, {}, (), ()).draw(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 0

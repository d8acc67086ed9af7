"""The studies: what is done is not done again, and each runs on the digits."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bnn.cli import main
from bnn.errors import UserError
from bnn.studies import NAMES, find
from bnn.studies.study import Cells, Options, Study, StudyError, conduct, difference, markdown

QUICK = ("from-scratch", "test-time")  # the others run shorter in the tests below


def tiny(calls: list[tuple[str, int]], fail_at: tuple[str, int] | None = None) -> Study:
    """A study of two variants, whose result is their name's length and the seed."""

    def run(variant: str, seed: int, options: Options, folder: Path) -> dict[str, Any]:
        if (variant, seed) == fail_at:
            raise KeyboardInterrupt
        calls.append((variant, seed))
        return {"accuracy": len(variant) + seed + options.epochs / 10, "curve": [1, 2, 3]}

    def draw(cells: Cells, options: Options, folder: Path) -> dict[str, str]:
        (folder / "curve.png").write_bytes(b"png")
        return {"curve.png": "A curve."}

    return Study(
        name="tiny",
        title="A tiny study",
        settings={"mnist": Options("mnist", 2, 5, 1), "digits": Options("digits", 2, 3, 1)},
        variants={"one": "the first", "three, too": "the second"},
        run=run,
        draw=draw,
        conclude=lambda summary, cells: [f"There are {len(cells)} variants."],
        weights="none",
    )


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    """A study that was stopped computes what is missing, a complete one nothing, more seeds only those."""
    calls: list[tuple[str, int]] = []
    broken = tiny(calls, fail_at=("three, too", 0))
    with pytest.raises(KeyboardInterrupt):
        conduct(broken, broken.options("digits"), tmp_path / "out")
    assert calls == [("one", 0)]
    study = tiny(calls)
    first = conduct(study, study.options("digits"), tmp_path / "out")
    assert calls == [("one", 0), ("three, too", 0), ("one", 1), ("three, too", 1)]
    assert conduct(study, study.options("digits"), tmp_path / "out").equals(first)
    assert len(calls) == 4
    conduct(study, study.options("digits", seeds=3), tmp_path / "out")
    assert calls[4:] == [("one", 2), ("three, too", 2)]


def test_a_study_has_its_folder_for_itself(tmp_path: Path) -> None:
    """A second one is refused while the first runs, and says who is there; afterwards it goes on."""
    calls: list[tuple[str, int]] = []
    study, out = tiny(calls), tmp_path / "out"

    def again(variant: str, seed: int) -> None:
        with pytest.raises(UserError, match="out is being written by process"):
            conduct(study, study.options("digits"), out)

    conduct(study, study.options("digits"), out, again)
    assert len(calls) == 4
    assert not list(out.glob(".*"))


def test_table_and_report(tmp_path: Path) -> None:
    """table.csv has a row for each cell, without lists; the report says what was run, and how."""
    study = tiny([])
    summary = conduct(study, study.options("digits"), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table.to_dict("list") == {
        "variant": ["one", "one", "three, too", "three, too"],
        "seed": [0, 1, 0, 1],
        "accuracy": [3.3, 4.3, 10.3, 11.3],
    }
    assert "| one | 3.8000 ± 0.7071 |" in markdown(summary)
    report = (tmp_path / "out" / "report.md").read_text()
    for text in (
        "# A tiny study (a reduced run: digits, 3 epochs, width 1)\n",
        "digits, 2 seeds; mean ± standard deviation. Weights at test time: none.",
        "bnn study tiny --data digits --seeds 2 --epochs 3 --width 1",
        "There are 2 variants.",
        "![A curve.](curve.png)",
        "- **three, too**: the second",
    ):
        assert text in report


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    """A folder with other options, or with something else in it, is left as it is."""
    study = tiny([])
    conduct(study, study.options("digits"), tmp_path / "out")
    with pytest.raises(StudyError, match="holds a study with epochs = 3, not 4: choose another --out"):
        conduct(study, study.options("digits", epochs=4), tmp_path / "out")
    with pytest.raises(StudyError, match="holds a study with data = 'digits', not 'mnist'"):
        conduct(study, study.options("mnist"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(StudyError, match="holds something else"):
        conduct(study, study.options("digits"), tmp_path / "full")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nothing"], "there is no study 'nothing'; there are from-scratch"),
        (["from-scrath"], "(did you mean 'from-scratch'?)"),
        (["from-scratch", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["from-scratch", "--data", "svhn"], "study from-scratch runs on mnist, digits, not 'svhn'"),
    ],
)
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names the value, and exit status 2."""
    assert main(["study", *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bnn study: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]
)
def test_every_study_on_the_digits(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its command prints a table with every variant, and writes the report with its figures."""
    out = tmp_path / "study"
    assert main(["study", name, "--data", "digits", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    study = find(name)
    report = (out / "report.md").read_text(encoding="utf-8")
    for variant in study.variants:
        assert f"\n| {variant} | 0." in printed
        assert f"\n| {variant} | 0." in report
    figures = [path.name for path in out.glob("*.png")]
    assert figures
    assert all(f"]({figure})" in report and (out / figure).stat().st_size < 300_000 for figure in figures)
    table = pd.read_csv(out / "table.csv")
    assert len(table) == len(study.variants) * study.settings["digits"].seeds
    assert json.loads((out / "study.json").read_text())["study"] == name


def test_from_scratch_answers_its_questions(tmp_path: Path) -> None:
    """On the digits too: trained signs beat those of float weights, and a decaying rate a constant one."""
    study = find("from-scratch")
    summary = conduct(study, study.options("digits"), tmp_path)
    accuracy = summary["accuracy", "mean"]
    assert accuracy["one bit"] > accuracy["float, then binarized"] + 0.05
    assert accuracy["one bit"] > accuracy["one bit, constant rate"]
    flips = summary["flips_per_step", "mean"]
    assert flips["one bit"] < flips["one bit, constant rate"]


def test_activations_are_packed_as_trained(tmp_path: Path) -> None:
    """The packed network is as accurate as the trained one; scaled products help; epochs.csv has it all."""
    study = find("activations")
    options = study.options("digits", seeds=1, epochs=4)
    conduct(study, options, tmp_path)
    table = pd.read_csv(tmp_path / "table.csv").set_index("variant")
    assert (table["accuracy"] - table["packed"]).abs().max() < 0.01
    assert table["accuracy"]["scaled, clipped, decayed"] > table["accuracy"]["as the source"]
    epochs = pd.read_csv(tmp_path / "epochs.csv")
    assert list(epochs.columns[3:]) == ["loss_train", "loss_test", "acc_train", "acc_test"]
    assert len(epochs) == len(study.variants) * 4


def test_damaged_files_are_named(tmp_path: Path) -> None:
    """A cell or a marker that cannot be read is named, with what to do."""
    study = tiny([])
    conduct(study, study.options("digits"), tmp_path)
    for path, content in (
        (tmp_path / "cells" / "one-0.json", '{"accuracy": 0.'),
        (tmp_path / "cells" / "one-0.json", "{}"),
        (tmp_path / "study.json", "[]"),
    ):
        whole = path.read_bytes()
        path.write_text(content)
        with pytest.raises(
            StudyError, match=f"{path.name} is damaged .*: delete it, and run the study again"
        ):
            conduct(study, study.options("digits"), tmp_path)
        path.write_bytes(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="needs links")
def test_what_is_planted_in_a_study_is_not_followed(tmp_path: Path) -> None:
    """Cells are not written elsewhere, and a device is not read without end."""
    study, out, elsewhere = tiny([]), tmp_path / "study", tmp_path / "elsewhere"
    conduct(study, study.options("digits"), out)
    (out / "cells").rename(elsewhere)
    (out / "cells").symlink_to(elsewhere)
    with pytest.raises(UserError, match="cells is no folder, or leads to another"):
        conduct(study, study.options("digits"), out)
    (out / "cells").unlink()
    (out / "cells").mkdir()
    (out / "cells" / "one-0").symlink_to(elsewhere)
    with pytest.raises(UserError, match="one-0 is no folder, or leads to another"):
        conduct(study, study.options("digits"), out)
    (out / "study.json").unlink()
    (out / "study.json").symlink_to("/dev/zero")
    with pytest.raises(OSError, match="a device, not a file"):
        conduct(study, study.options("digits"), out)


@pytest.mark.parametrize("name", ["from-scratch", "activations"])
def test_studies_that_take_no_device_refuse_one(name: str) -> None:
    """Rather than to ignore it."""
    with pytest.raises(StudyError, match=f"study {name} runs on the CPU, not on 'cuda'"):
        find(name).options("digits", device="cuda")


def test_a_study_is_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Under torchrun it is refused, and a device that is not there as well, before a folder is made."""
    assert main(["study", "baseline", "--data", "digits", "--device", "tpu", "--out", "nowhere"]) == 2
    assert "device = 'tpu' cannot be used" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["study", "baseline", "--data", "digits", "--out", "nowhere"]) == 2
    assert "a study runs in one process" in capsys.readouterr().err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("name", ["from-scratch", "regularizer", "baseline"])
def test_one_seed_and_one_epoch(name: str, tmp_path: Path) -> None:
    """The shortest run reports what it can, and claims nothing of a spread."""
    study = find(name)
    conduct(study, study.options("digits", seeds=1, epochs=1), tmp_path)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "one seed, so no spread" in report
    assert "nan" not in report.lower()
    assert "one seed." in report


def test_differences() -> None:
    """Means, and intervals by Student's t: the closed form for two pairs of three."""
    a, b = [0.01, 0.02, 0.03], [0.03, 0.05, 0.07]
    apart = difference(a, b)
    # Variances 1 and 4 points squared: standard error sqrt(5 / 3), by Welch 2.94 degrees of freedom, t 3.22.
    assert (apart.mean, apart.certain) == (pytest.approx(-3), False)
    assert (apart.low, apart.high) == (pytest.approx(-7.15, abs=0.02), pytest.approx(1.15, abs=0.02))
    # Paired: differences -2, -3, -4, standard error 1 / sqrt(3), t(2) = 4.303.
    together = difference(a, b, paired=True)
    assert (together.low, together.high) == (pytest.approx(-5.484, abs=1e-3), pytest.approx(-0.516, abs=1e-3))
    assert together.certain
    assert str(together) == "-3.00 (95 % interval -5.48 to -0.52)"
    assert str(difference([0.5], [0.25])) == "+25.00 (one seed, so no spread)"
    assert not difference([0.5], [0.25]).certain

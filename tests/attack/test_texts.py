"""Hostile text gets through no door: the attack with few texts, and doors with whatever Hypothesis draws."""

from pathlib import Path

import numpy as np
import pytest
import texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnn.cli import main
from bnn.export.folder import make
from bnn.packed.model import PackedModel

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60).filter(str.strip)


@pytest.mark.slow
def test_no_text_gets_through(tmp_path: Path) -> None:
    """Pieces alone, and pieces together."""
    assert texts.attack(texts.texts(130, seed=1), tmp_path) == []


@pytest.mark.parametrize(
    "door", texts.DOORS[:2] + texts.DOORS[3:5] + texts.DOORS[6:]
)  # no compiler, no files
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXTS)
def test_any_text(door: texts.Door, text: str, tmp_path: Path) -> None:
    """For any label, name and note: what is printed and written is safe, and built as it would be."""
    door(text, tmp_path)


def test_names_of_spaces_are_none(tmp_path: Path) -> None:
    """A data set or network named by white space alone is not named in the card."""
    readme = make(texts.model_of("\xa0")).files["README.md"].decode()
    assert "datasets:" not in readme
    assert "\n# network\n" in readme


def test_a_door_that_leaks_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack would notice commands that print what they are given."""
    for module in ("models", "text"):
        monkeypatch.setattr(f"bnn.cli.{module}.printable", lambda text, limit=None: str(text))
    findings = texts.attack(["\x1b[31m", "a\nb"], tmp_path)
    assert {finding.split(":")[0] for finding in findings} == {"through_commands", "through_paths"}


def test_a_model_names_no_folder_to_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bnn eval` takes a data set's name from a model, never a path: that is for the user to give."""
    (tmp_path / "private" / "a").mkdir(parents=True)
    model = texts.model_of("x")
    for data in (str(tmp_path / "private"), "~", "../..", "/dev"):
        PackedModel(model.input, model.nodes, {"data": data}).save(tmp_path / "m.bnn")
        assert main(["eval", str(tmp_path / "m.bnn")]) == 2
        assert "which is none of digits, mnist, cifar10, svhn: give --data" in capsys.readouterr().err


def test_formulas_in_titles_are_words(tmp_path: Path) -> None:
    """Matplotlib reads a folder or a layer named `$\\frac{$` as it stands, where it would see a formula."""
    from bnn.training.reports import Row, draw_curves

    row = Row(1, 1.0, None, 0.5, None, *[None] * 5, lr=0.1, seconds=1.0)
    draw_curves([row], [], "mlp, $\\frac{$ \x1b", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert np.isfinite(row.loss_train)

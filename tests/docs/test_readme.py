"""What the README shows works as it stands."""

import re

import pytest
import torch
from support.paths import DOCS, ROOT

README = ROOT / "README.md"


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_first_network_runs_and_learns(tmp_path, monkeypatch, capsys):
    """The README's Python, as it stands, trains, freezes, packs and runs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(_blocks("python")[0], {})
    assert float(capsys.readouterr().out) > 0.9
    assert (tmp_path / "digits.bnn").stat().st_size < 6000


@pytest.mark.parametrize("page", [README, DOCS / "results.md", DOCS / "exports.md", DOCS / "experiments.md"])
def test_its_figures_name_their_commands(page):
    """Every table of figures is followed or preceded by the command that prints it."""
    text = page.read_text(encoding="utf-8")
    for table in re.finditer(r"(?:^\|.*\n)+", text, re.MULTILINE):
        around = text[max(0, table.start() - 700) : table.end() + 700]
        assert re.search(r"`[^`]*(?:bnn |make |python )[^`]*`|```", around), table.group()


def test_it_is_short():
    """Whoever opens it is running something within a minute."""
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120

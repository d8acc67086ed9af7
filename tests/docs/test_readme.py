"""What the README shows works as it stands."""

import re

import numpy as np
import pytest
import torch
from support.paths import DOCS, ROOT
from torch import nn

from bnn.data import load_dataset

README = ROOT / "README.md"


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_the_ten_lines_run_and_learn(tmp_path, monkeypatch):
    """The README's Python, with a reader's network and data put in, trains, freezes, packs and runs."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = load_dataset("digits")
    x = (torch.from_numpy(digits.train_images) / 255 - 0.1307) / 0.3081
    y = torch.from_numpy(digits.train_labels)
    names = {
        "my_network": nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU()),
            *(nn.Linear(128, 10), nn.BatchNorm1d(10)),
        ),
        "batches": [(x[rows], y[rows]) for _ in range(10) for rows in torch.randperm(len(x)).split(50)],
        "images": digits.test_images,
    }
    *lines, prediction = _blocks("python")[0].strip().splitlines()
    exec("\n".join(lines), names)
    predicted = eval(prediction.partition("#")[0], names)
    assert np.mean(predicted == digits.test_labels) > 0.75
    assert (tmp_path / "model.bnn").stat().st_size < 6000


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


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")))
def test_its_links_lead_somewhere(target):
    """Every relative link and picture in the README is in the repository."""
    assert (README.parent / target).exists()

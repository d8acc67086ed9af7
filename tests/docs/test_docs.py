"""What the pages in docs/ show works as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.helpers import one_of_each, random_pixels
from support.paths import DOCS

import bnn
from bnn.data import load_dataset
from bnn.packed.costs import layer_costs

PAGES = sorted(DOCS.glob("*.md"))


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """Files that a page links to, and those of the repository that it names, are there."""
    text = page.read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert [target for target in linked if not (DOCS / target).exists()] == []
    named = re.findall(r"`((?:native|tests|examples|benchmarks)/[\w./*-]+)", text)
    root = DOCS.parent
    assert [name for name in named if not list(root.glob(name))] == []


def test_concepts() -> None:
    """What the page claims of the mathematics holds."""
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for code in blocks("concepts.md"):
            exec(code, names)
    assert len(blocks("concepts.md")) == 4


def test_figures_of_concepts_and_estimators(tmp_path: Path) -> None:
    """The program that draws the two pages' figures draws those that they show."""
    subprocess.run([sys.executable, DOCS / "figures.py", tmp_path], check=True)
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("concepts.md", "estimators.md"))
    shown = re.findall(r"\]\(([\w-]+\.png)\)", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(shown)


def test_quick_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From stock layers to a packed file that is as good as the page says."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for code in blocks("quick-start.md"):
            exec(code, names)
    (accuracy,) = re.findall(r"test accuracy ([\d.]+) %", capsys.readouterr().out)
    assert float(accuracy) > 80


def test_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways to load a model that "How a packed network runs" shows."""
    monkeypatch.chdir(tmp_path)
    one_of_each().save("model.bnn")
    x, names = random_pixels(3, 2, 6, 6), dict[str, Any](bnn=bnn)
    (code,) = blocks("runtime.md")
    truth = bnn.load("model.bnn", engine="reference")(x)
    lines = [line for line in code.splitlines() if line.startswith("net = ")]
    assert len(lines) == 4
    for line in lines:
        exec(line, names)
        assert np.abs(names["net"](x) - truth).max() < 1e-4
    exec(code, names)
    assert names["net"].isa == "numpy"


def test_a_quantizer_and_a_layer_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's code trains, freezes and packs: it learns, with one bit a weight in three layers."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    digits = load_dataset("digits")
    x = (torch.from_numpy(digits.train_images) / 255 - 0.3064) / 0.3753
    y = torch.from_numpy(digits.train_labels)
    batches = [(x[rows], y[rows]) for _ in range(15) for rows in torch.randperm(len(x)).split(50)]
    names: dict[str, Any] = {"batches": batches}
    for code in blocks("your-own.md"):
        exec(code, names)
    net = bnn.load("mine.bnn")
    assert np.mean(net.predict(digits.test_images) == digits.test_labels) > 0.75
    one_bit = [cost.one_bit_weights for cost in layer_costs(net.model) if cost.one_bit_weights]
    assert one_bit == [64 * 100, 100 * 100, 100 * 10]

"""What the pages in docs/ show works as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.helpers import one_of_each, random_pixels
from support.paths import DOCS, ROOT

import bnn
from bnn.cli.options import make_parser
from bnn.data import load_dataset
from bnn.packed.costs import layer_costs

PAGES = sorted(
    page
    for pages in (
        DOCS.rglob("*.md"),
        ROOT.glob("*.md"),
        (ROOT / "src").rglob("README.md"),
        ROOT.glob("native/*.md"),
    )
    for page in pages
)


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    """Files that a page links to, and those of the repository that it names, are there."""
    text = page.read_text(encoding="utf-8")
    linked = [target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in target]
    assert [target for target in linked if not (page.parent / target).exists()] == []
    named = re.findall(r"`((?:native|tests|examples|benchmarks|docs|src|\.ci)/[\w./*-]+)", text)
    assert [name for name in named if "NAME" not in name and not list(ROOT.glob(name))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands(page: Path) -> None:
    """Targets of the Makefile and commands of `bnn` are there, and whole lines of the latter parse."""
    text = page.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z]+(?:-[a-z]+)*)(?=`| *#| *$)", text, re.MULTILINE))
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
    for line in re.findall(r"^bnn (.*)", text, re.MULTILINE):
        make_parser().parse_args(shlex.split(line, comments=True))
    known = {"train", "eval", "predict", "info", "bench", "export", "study"}
    assert set(re.findall(r"`bnn ([a-z]+)", text)) <= known


def drawn(folder: Path, program: str) -> list[str]:
    """Names of the pictures that a program of docs/ draws into the folder."""
    subprocess.run([sys.executable, DOCS / program, folder], check=True)
    return sorted(path.name for path in folder.iterdir())


def test_diagrams(tmp_path: Path) -> None:
    """The diagrams that pages show are those that their program draws of code and tables as they are."""
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = drawn(tmp_path, "diagrams.py")
    assert (
        names
        == sorted(path.name for path in DOCS.glob("*.svg"))
        == sorted({*re.findall(r"([\w-]+\.svg)\)", text)})
    )
    for name in names:
        made, shown = (
            re.findall(r"<dc:description>(.*?)</dc:description>", (folder / name).read_text(encoding="utf-8"))
            for folder in (tmp_path, DOCS)
        )
        assert made == shown != [], f"run docs/diagrams.py: {name} is out of date"
        assert (DOCS / name).stat().st_size < 300_000


def test_concepts() -> None:
    """What the page claims of the mathematics holds."""
    names: dict[str, Any] = {}
    with torch.random.fork_rng():
        for code in blocks("concepts.md"):
            exec(code, names)
    assert len(blocks("concepts.md")) == 4


def test_figures_of_concepts_and_estimators(tmp_path: Path) -> None:
    """The program that draws the two pages' figures draws those that they show."""
    names = drawn(tmp_path, "figures.py")
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in ("concepts.md", "estimators.md"))
    shown = re.findall(r"\]\(([\w-]+\.png)\)", text)
    assert names == sorted(shown)


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
    x = (torch.from_numpy(digits.train_inputs) / 255 - 0.3064) / 0.3753
    y = torch.from_numpy(digits.train_targets)
    batches = [(x[rows], y[rows]) for _ in range(15) for rows in torch.randperm(len(x)).split(50)]
    names: dict[str, Any] = {"batches": batches}
    for code in blocks("your-own.md"):
        exec(code, names)
    net = bnn.load("mine.bnn")
    assert np.mean(net.predict(digits.test_inputs) == digits.test_targets) > 0.75
    one_bit = [cost.one_bit_weights for cost in layer_costs(net.model) if cost.one_bit_weights]
    assert one_bit == [64 * 100, 100 * 100, 100 * 10]

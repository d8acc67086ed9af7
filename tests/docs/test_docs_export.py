"""The pages on exporting, and the readers of the file format in other languages, work as they stand."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bnn_files import small
from support.helpers import one_of_each, random_pixels
from support.onnx_helpers import mnist_network
from support.paths import DOCS

from bnn.cli import main
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Linear, PackedWeight
from bnn.runtime import Runner


def blocks(page: str, language: str = "python") -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def run_page(page: str, **names: Any) -> dict[str, Any]:
    """The names after executing a page's Python."""
    for code in blocks(page):
        exec(code, names)
    return names


def command(page: str) -> list[str]:
    """The arguments of the first command that a page shows."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (line,) = re.findall(r"```\nbnn (export .*)\n```", text)
    return line.split()


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackedModel:
    """A network like that of `bnn train mnist`, where the pages have it."""
    monkeypatch.chdir(tmp_path)
    Path("runs/mnist").mkdir(parents=True)
    model = mnist_network(width=65)
    model.save("runs/mnist/model.bnn")
    return model


def test_onnx(model: PackedModel) -> None:
    """The page's session predicts what the runtime does, and its reader finds the packed signs."""
    assert main(command("export-onnx.md")) == 0
    images = random_pixels(20, 1, 28, 28)
    names = run_page("export-onnx.md", images=images)
    np.testing.assert_array_equal(names["predicted"], Runner(model).predict(images))
    layers = [node for node in model.nodes if isinstance(node, Linear)]
    assert [f"{node.name}.weight" for node in layers] == list(names["weights"])
    for node, weight in zip(layers, names["weights"].values(), strict=True):
        assert isinstance(node.weight, PackedWeight)
        np.testing.assert_array_equal(weight, node.weight.signs())
    assert Path("plain.onnx").stat().st_size > 10 * Path("mnist.onnx").stat().st_size


def test_overview(model: PackedModel) -> None:
    """The page on all exports writes one."""
    model.save("model.bnn")
    run_page("exports.md")
    assert Path("model.onnx").stat().st_size > 0


def test_folder(model: PackedModel) -> None:
    """The page's folder loads, predicts, and exports again."""
    assert main(command("export-folder.md")) == 0
    images = random_pixels(20, 1, 28, 28)
    names = run_page("export-folder.md", images=images)
    np.testing.assert_array_equal(names["predicted"], Runner(model).predict(images))
    assert Path("again/model.bnn").read_bytes() == Path("mnist-1bit/model.bnn").read_bytes()


def packed_layers(model: PackedModel) -> dict[str, list[list[int]]]:
    """The signs of each layer, a flat list for each output."""
    layers = [node for node in model.nodes if isinstance(node, Linear | Conv2d)]
    weights = {node.name: node.weight for node in layers}
    signs = {name: weight.signs() for name, weight in weights.items() if isinstance(weight, PackedWeight)}
    return {name: values.reshape(len(values), -1).tolist() for name, values in signs.items()}


@pytest.mark.parametrize("make", [small, one_of_each, mnist_network])
def test_the_reader_in_javascript(make: Any, tmp_path: Path) -> None:
    """Node reads the signs of every packed layer with the page's function."""
    if not shutil.which("node"):
        pytest.skip("needs node")
    model = make()
    model.save(tmp_path / "m.bnn")
    expected = packed_layers(model)
    (code,) = blocks("file-format.md", "js")
    program = (
        code
        + """
const bytes = require("fs").readFileSync(process.argv[2]);
const content = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
const rows = (name) => weights(content, name).map((row) => Array.from(row));
console.log(JSON.stringify(Object.fromEntries(process.argv.slice(3).map((name) => [name, rows(name)]))));
"""
    )
    (tmp_path / "reader.cjs").write_text(program, encoding="utf-8")
    call = ["node", tmp_path / "reader.cjs", tmp_path / "m.bnn", *expected]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=True)
    assert json.loads(done.stdout) == expected


RUST_MAIN = """
fn main() {
    let mut arguments = std::env::args().skip(1);
    let content = std::fs::read(arguments.next().unwrap()).unwrap();
    for layer in arguments {
        println!("{:?}", weights(&content, &layer).unwrap());
    }
}
"""


DEBIANS = Path("/usr/share/cargo/registry")  # where Debian's librust-serde-json-dev puts it


@pytest.mark.slow
def test_the_reader_in_rust(tmp_path: Path) -> None:
    """The same in Rust, where cargo has serde_json already: no test needs the network."""
    if not shutil.which("cargo"):
        pytest.skip("needs cargo")
    (code,) = blocks("file-format.md", "rust")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.rs").write_text(code + RUST_MAIN, encoding="utf-8")
    manifest = (
        '[package]\nname = "reader"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nserde_json = "1"\n'
    )
    (tmp_path / "Cargo.toml").write_text(manifest)
    build: list[Any] = ["cargo", "build", "--quiet", "--offline", "--manifest-path", tmp_path / "Cargo.toml"]
    if DEBIANS.is_dir():
        sources = ('source.crates-io.replace-with="debian"', f'source.debian.directory="{DEBIANS}"')
        build += [argument for source in sources for argument in ("--config", source)]
    built = subprocess.run(build, capture_output=True, text=True, timeout=300)
    if "serde_json" in built.stderr and "offline" in built.stderr:
        pytest.skip("needs serde_json, in cargo's cache or from Debian's librust-serde-json-dev")
    assert built.returncode == 0, built.stderr
    for model in (small(), one_of_each()):
        model.save(tmp_path / "m.bnn")
        expected = packed_layers(model)
        call = [tmp_path / "target" / "debug" / "reader", tmp_path / "m.bnn", *expected]
        done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=True)
        assert [json.loads(line) for line in done.stdout.splitlines()] == list(expected.values())

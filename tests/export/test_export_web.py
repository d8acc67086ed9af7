"""The exported page: one file, the weights in it once, nothing that asks the network."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.browser import needs_compiler
from support.helpers import model_of, one_of_each, packed_weight, random_floats
from support.paths import DOCS
from support.web_models import conv_net, mlp

from bnn.cli import main
from bnn.export import ExportError, export, web
from bnn.export.web import document, wasm
from bnn.packed.costs import packed_summary
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Flatten, Linear


class Elements(HTMLParser):
    """The elements of a page: name, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}, ""))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(("", {}, ""))  # whose text belongs to no element

    def handle_data(self, data: str) -> None:
        if self.found:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def of(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        return [
            (a, text)
            for t, a, text in self.found
            if t == tag and all(a.get(k) == v for k, v in attributes.items())
        ]


def page_of(model: PackedModel) -> str:
    (content,) = web.make(model).files.values()
    return content.decode()


def binary(page: str, name: str) -> bytes:
    ((_, text),) = Elements(page).of("script", id=name)
    return base64.b64decode(text, validate=True)


@pytest.fixture(scope="module")
def mnist_page() -> str:
    """The page of the network 784-3x1024-10."""
    return page_of(mlp(784, 1024, 1024, 1024, 10))


# --- the file ---------------------------------------------------------------------------------------------


@needs_compiler
def test_it_is_small(mnist_page: str) -> None:
    """With 394,576 bytes of weights the page has at most 700 KB, scripts and two engines among them."""
    assert len(mnist_page.encode()) <= 700_000


@needs_compiler
def test_weights_are_in_it_once(mnist_page: str) -> None:
    """Each layer's packed words lie in `constants`, and none of them in either build."""
    constants = binary(mnist_page, "constants")
    builds = [binary(mnist_page, name) for name in ("simd", "scalar")]
    model = mlp(784, 1024, 1024, 1024, 10)
    words = [node.weight.words for node in model.nodes if isinstance(node, Linear)]
    assert len(words) == 4
    for layer in words:
        assert constants.count(layer.tobytes()) == 1
        assert not any(layer[0].tobytes() in build for build in builds)
    assert all(len(build) < 32_000 for build in builds)


@needs_compiler
def test_it_loads_nothing(mnist_page: str) -> None:
    """No address in any attribute but the empty icon's, none in styles; scripts name none."""
    elements = Elements(mnist_page)
    addresses = [
        value
        for _, a, _ in elements.found
        for name, value in a.items()
        if name in ("src", "href", "action", "srcset")
    ]
    assert addresses == ["data:,"]
    ((_, style),) = elements.of("style")
    ((_, script),) = elements.of("script", type="module")
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"https?:|\bimport\b|\bfetch\b|XMLHttpRequest|WebSocket|sendBeacon", script)


@needs_compiler
def test_its_policy_allows_this_script_and_style_alone(mnist_page: str) -> None:
    """The policy starts from 'none', and the hashes in it are those of what the page has."""
    elements = Elements(mnist_page)
    (meta,) = [a for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    policy = dict(part.split(" ", 1) for part in meta["content"].split("; "))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    ((_, style),) = elements.of("style")
    ((_, script),) = elements.of("script", type="module")
    assert policy == {
        "default-src": "'none'",
        "script-src": f"{digest(script)} 'wasm-unsafe-eval'",
        "style-src": digest(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert not [a for _, a, _ in elements.found if "style" in a or any(name.startswith("on") for name in a)]


@needs_compiler
def test_the_same_model_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, with other hashes and another folder for temporary files; and no path is in it."""
    model = conv_net()
    model.save(tmp_path / "m.bnn")
    here = page_of(model)
    (tmp_path / "elsewhere").mkdir()
    code = "import sys; from bnn.cli import main; sys.exit(main(sys.argv[1:]))"
    argv = ["export", str(tmp_path / "m.bnn"), "--to", "web", str(tmp_path / "m.html")]
    for name, value in (("PYTHONHASHSEED", "7"), ("TMPDIR", str(tmp_path / "elsewhere"))):
        monkeypatch.setenv(name, value)
    subprocess.run([sys.executable, "-c", code, *argv], check=True, capture_output=True)
    assert (tmp_path / "m.html").read_text() == here
    assert str(tmp_path) not in here
    assert not list((tmp_path / "elsewhere").iterdir())


@needs_compiler
def test_a_class_may_be_named_anything() -> None:
    """Names that would end an element, or a string, stay data."""
    labels = ("</script><script>alert(1)</script>", "<!--", '"', "\\", "±1", "&amp;", "\u2028", "g", "h", "i")
    page = page_of(mlp(784, 16, 10, labels=labels))
    assert len(Elements(page).of("script", type="module")) == 1
    ((_, about),) = Elements(page).of("script", id="about")
    assert tuple(json.loads(about)["labels"]) == tuple(label.replace("\u2028", "\\u2028") for label in labels)


@needs_compiler
def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`bnn export --to web` writes one file, and says its size and that of its parts."""
    mlp(784, 64, 10).save(tmp_path / "m.bnn")
    out = tmp_path / "m.html"
    assert main(["export", str(tmp_path / "m.bnn"), "--to", "web", str(out)]) == 0
    first, size, constants, engine = capsys.readouterr().out.splitlines()
    assert first == f"{out}: one HTML page that runs by itself"
    assert f"{out.stat().st_size:,} bytes" in size
    assert "once" in constants
    assert re.search(r"[\d,]+ bytes simd, [\d,]+ bytes scalar", engine)


@needs_compiler
def test_the_docs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's code writes a page and prints what is in it."""
    monkeypatch.chdir(tmp_path)
    mlp(784, 64, 10).save("model.bnn")
    text = (DOCS / "export-web.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    assert f"{Path('model.html').stat().st_size:,} bytes" in capsys.readouterr().out


# --- the data section -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1, 63, 64, 127, 128, 300, 8191, 8192, 2**31 - 1])
def test_leb128(value: int) -> None:
    """Numbers are read back, also those with a sign whose highest bit would be taken for it."""
    for write in (wasm._unsigned, wasm._signed):
        encoded = write(value)
        assert wasm._read_unsigned(encoded + b"\x55", 0) == (value, len(encoded))
    assert not wasm._signed(value)[-1] & 0x40


def test_builds_keep_what_they_do_not_share() -> None:
    """Each build's own data stay its segments; with the shared spans, its memory is as it was linked."""
    rng = np.random.default_rng(0)
    simd = rng.integers(0, 256, 5000, np.uint8)
    scalar = np.concatenate([simd, rng.integers(0, 256, 30, np.uint8)])
    scalar[[0, 1000, 1001, 1100, 4999]] += 1
    header = b"\0asm\1\0\0\0"
    linked = [wasm.Linked(header, 65536, data.tobytes()) for data in (simd, scalar)]
    builds = wasm._share(*linked)
    assert builds.spans == ((65537, 999), (65536 + 1101, 3898))
    for name, expected in zip(("simd", "scalar"), linked, strict=True):
        memory = bytearray(len(expected.data))
        module, at = builds.modules[name], 0
        for _, _, content, _ in wasm._sections(module):
            for address, segment in wasm._segments(module, content):
                memory[address - 65536 : address - 65536 + len(segment)] = segment
        for address, length in builds.spans:
            memory[address - 65536 : address - 65536 + length] = builds.constants[at : at + length]
            at += length
        assert bytes(memory) == expected.data
        assert wasm.without_data(module).code == header


# --- what is refused --------------------------------------------------------------------------------------


def linear(out: int, n: int) -> Linear:
    return Linear(
        name="scores",
        inputs=("input",),
        weight=packed_weight(out, n),
        scale=np.ones(out, np.float32),
        shift=random_floats(out),
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: one_of_each(), "one channel or three to the network, not of 2"),
        (
            lambda: model_of((64,), linear(10, 64), mean=(0.5,), std=(0.5,)),
            r"inputs of shape \(64,\) are none",
        ),
        (lambda: mlp(784, 8, 10, mean=(), std=()), "packed without mean and std"),
        (
            lambda: model_of((1, 8, 8), conv_net(channels=1).nodes[0], mean=(0.5,), std=(0.5,)),
            r"node 'stem' gives shape \(16, 8, 8\)",
        ),
    ],
)
def test_models_that_a_page_cannot_show(
    model: Any, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says why, and nothing is written."""
    model().save(tmp_path / "m.bnn")
    with pytest.raises(ExportError, match=reason):
        web.make(model())
    assert main(["export", str(tmp_path / "m.bnn"), "--to", "web", str(tmp_path / "m.html")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["m.bnn"]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ([], "clang and wasm-ld are not installed"),
        (["clang"], "wasm-ld is not installed"),
        (["wasm-ld"], "clang is not installed"),
    ],
)
def test_missing_programs(
    there: list[str],
    missing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line names the program that is missing, and how to install it; nothing is written."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in there:
        (programs / name).touch(0o755)
    monkeypatch.setenv("PATH", str(programs))
    mlp(784, 8, 10).save(tmp_path / "m.bnn")
    assert main(["export", str(tmp_path / "m.bnn"), "--to", "web", str(tmp_path / "m.html")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert missing in err
    assert "apt install clang lld" in err
    assert "brew install llvm lld" in err
    assert not (tmp_path / "m.html").exists()


def test_a_clang_without_webassembly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's has none: the same advice."""
    for name in ("clang", "wasm-ld"):
        program = tmp_path / name
        program.write_text(
            "#!/bin/sh\necho \"error: unable to create target: 'No available targets'\" >&2\nexit 1\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ExportError, match=r"clang cannot make WebAssembly: .*brew install llvm lld"):
        export(mlp(784, 8, 10), "web", tmp_path / "m.html")
    assert not (tmp_path / "m.html").exists()


def test_a_float_network_says_what_it_is() -> None:
    """A model without one-bit weights is not called one."""
    nodes = (
        Flatten(name="flat", inputs=("input",)),
        Linear(name="scores", inputs=("flat",), weight=random_floats(10, 784), scale=None, shift=None),
    )
    text = document._summary(packed_summary(model_of((1, 28, 28), *nodes, mean=(0.1,), std=(0.3,))))
    assert "7,840 floats" in text
    assert "one-bit" not in text

"""Hostile text in every place where a stranger may put some, through every door by which it comes out again.

    python tests/attack/texts.py [--count N] [--seed N]

Labels, names of nodes, notes, recipes, paths and options hold escape sequences, bidirectional marks, ends of
lines, Markdown, HTML, YAML, C. What a door shows may hold no control or format character and no line more
than with harmless text; what it writes must be built as it would be with harmless text, or be read back as
it was. A line says how many texts went through how many doors, and how many got through to do harm.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import unicodedata
from collections.abc import Callable
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from bnn.cli import main
from bnn.config import TrainConfig
from bnn.errors import UserError
from bnn.export import c as c_export
from bnn.export import onnx as onnx_export
from bnn.export.folder import make
from bnn.export.web import _about
from bnn.export.web.document import assemble
from bnn.export.web.wasm import Builds
from bnn.packed.costs import packed_summary
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Flatten, InputContract, Linear, PackedWeight

LONGEST = 2000
"""Characters of a line, at most, that shows what others wrote."""

PIECES = (
    "\x1b[31m", "\x1b]0;owned\x07", "\x9b2J", "\x00", "\x08" * 9, "\r", "\n", "\t", "\x0b\x0c", "\x7f",
    "\x85", "\u2028", "\u2029", "\u202e", "\u2066\u202d", "\u200f", "\u061c", "\ufeff", "\u00ad", "\ue000",
    "\ufffe", "\U000e0041", "\U0010ffff", "\ufdd0", "\u200b", "\u2060", "\ufff9", "\U0001d173", "\u0600",
    "\n\n# head\n", "\n---\n", "\n===\n", "\n```\n", "~~~", "````", "`", "\n- item", "1. one", "> quote",
    "| a | b |", "[x](http://e.test)", "![x](http://e.test/x.png)", "<http://e.test>", "http://e.test",
    "www.e.test", "a@e.test", "[a]: http://e.test", "[^1]", "\\", "\\\\", "**b**", "__b__", "~~s~~", "&lt;",
    "&#60;", "  \n", "\n    code", "<script>alert(1)</script>", "</script>", "<!--", "-->",
    "<img src=x onerror=alert(1)>", "]]>", "<![CDATA[", '"', "'", '\\"', ": ", "- ",
    "!!python/object/apply:os.system ['x']", "&a", "*a", "{", "}", "[", "%", "@", "? ", "*/", "/*", "//",
    "??/", "???/", "*??/\n/", '??"', "\\\n", "%s%n", "#include </etc/passwd>", "${HOME}", "$title",
    "=cmd|' /C calc'!A0", "$\\frac{", "; rm -rf ~", "$(id)", "../..", "ünïcödé", "日本語", "עברית", "नमस्ते",
    "👩‍👧",
)  # fmt: skip


class FindingError(Exception):
    """A text got through; the message says by which door and as what."""


def texts(count: int, seed: int) -> list[str]:
    """Each piece alone, two long texts, and pieces at random."""
    chance = random.Random(seed)
    drawn = ("".join(chance.choices(PIECES, k=chance.randint(2, 6))) for _ in range(count))
    return [*PIECES, "\x1b" * 2**16, "long " * 2**16, *drawn][:count]


def ensure(condition: bool, door: str, what: object) -> None:
    if not condition:
        raise FindingError(f"{door}: {str(what)[:300]!a}")


def is_safe(text: str) -> bool:
    """Whether a terminal shows it as it stands."""
    others = re.sub("[\n -~\u200c\u200d]", "", text)
    return not {unicodedata.category(c) for c in others} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


# --- a model that says it ---------------------------------------------------------------------------------


def model_of(text: str) -> PackedModel:
    """A network for images of 8x8 whose labels, nodes and notes are the text."""
    name = text if text not in ("", "input") else f"{text}."
    signs = np.where(np.arange(640).reshape(10, 64) % 3 == 0, 1, -1)
    ones = np.ones(10, np.float32)
    nodes = (
        Flatten(name=f"{name}\u202e0", inputs=("input",)),
        Linear(
            name=name,
            inputs=(f"{name}\u202e0",),
            weight=PackedWeight.from_signs(signs),
            scale=ones,
            shift=ones,
        ),
    )
    contract = InputContract((1, 8, 8), mean=(0.3,), std=(0.4,), labels=(text,) * 10)
    about = {text: text, "data": text, "model": text, "weights": text, "trained": text}
    return PackedModel(contract, nodes, about)


# --- what is shown ----------------------------------------------------------------------------------------


def command(*argv: str) -> str:
    """All that `bnn` prints, and its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return f"{out.getvalue()}{err.getvalue()}exit status {status}"


def shown(door: str, text: str, harmless: str) -> None:
    """The text is safe and has as many lines as the harmless one."""
    ensure(is_safe(text), door, next((c for c in text if not is_safe(c)), ""))
    ensure(text.count("\n") == harmless.count("\n"), door, text)
    ensure(max(map(len, text.splitlines())) <= LONGEST, door, "a line without end")


def through_commands(text: str, folder: Path) -> None:
    """`bnn info`, `eval`, `predict`: the lines that they print of a model."""
    for name, said in (("hostile", text), ("harmless", "x")):
        model_of(said).save(folder / f"{name}.bnn")
    picture = folder / "picture.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(picture)
    for argv in (("info",), ("eval",), ("predict", str(picture)), ("eval", "--data", "digits")):
        answers = [
            command(argv[0], str(folder / f"{name}.bnn"), *argv[1:]) for name in ("hostile", "harmless")
        ]
        shown(f"bnn {argv[0]}", *answers)


def through_json(text: str, folder: Path) -> None:
    """`--json`: the text itself, in ASCII."""
    model_of(text).save(folder / "m.bnn")
    answer = command("info", str(folder / "m.bnn"), "--json").removesuffix("exit status 0")
    ensure(answer.isascii() and is_safe(answer), "bnn info --json", answer)
    ensure(json.loads(answer)["about"]["data"] == text, "bnn info --json", answer)


def through_paths(text: str, folder: Path) -> None:
    """A file of that name: one that is there and no model, one that is not there, and an option."""
    try:
        name = os.fsencode(re.sub("[/\0]", "", text))[:200] or b"x"
    except UnicodeEncodeError:  # no file can have it
        return
    path = folder / os.fsdecode(name)
    for argv in (("info", str(path)), ("predict", str(folder / "m.bnn"), str(path)), ("train", str(path))):
        shown(f"bnn {argv[0]} PATH", command(*argv), "\n")
    for option in (f"--{text}", text):
        if not option.startswith("--h"):
            shown("an option", command("info", "m.bnn", "more", option), "\n")
    if name in (b".", b".."):
        return
    with contextlib.suppress(OSError):  # Windows and macOS have rules of their own for names
        path.write_bytes(b"no model, no picture")
        for argv in (("info", str(path)), ("predict", str(folder / "m.bnn"), str(path))):
            shown(f"bnn {argv[0]} FILE", command(*argv), "\n")
        path.unlink()


def through_errors(text: str, folder: Path) -> None:
    """Every kind of error that quotes."""
    kinds = [UserError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        shown(kind.__name__, str(kind(f"it is {text}, which is wrong")), "")
    shown("a summary", str(packed_summary(model_of(text))), str(packed_summary(model_of("x"))))


# --- what is written --------------------------------------------------------------------------------------


def outline(markdown: str) -> list[tuple[str, str, object]]:
    """How a page is built: blocks, headings, links, images, HTML, code; not what its words are."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    flat = [part for token in tokens for part in (token, *(token.children or []))]
    return [
        (token.type, token.tag, token.attrs.get("href") or token.attrs.get("src"))
        for token in flat
        if token.type not in ("text", "inline")
    ]


def through_cards(text: str, folder: Path) -> None:
    """The README of `--to folder`, of a run whose recipe and result say it too."""
    pages = []
    for said in (text, "x"):
        run = folder / "run"
        run.mkdir(exist_ok=True)
        model = model_of(said)
        model.save(run / "model.bnn")
        config = TrainConfig(data=re.sub("[\ud800-\udfff]", "", said)[:1000])
        (run / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        result = {"packed": 0.5, "frozen": 0.5, "frozen_weights": said[:1000], "test_samples": 3}
        (run / "result.json").write_text(json.dumps(result))
        files = make(model, run=run).files
        pages.append(files["README.md"].decode())
        ensure(set(files) == {"README.md", "model.bnn", "config.toml", "result.json"}, "a card", set(files))
    page = pages[0]
    ensure(is_safe(page), "a card", next((c for c in page if not is_safe(c)), ""))
    (_, front, body), (_, harmless_front, harmless_body) = (p.split("---\n", 2) for p in pages)
    ensure(shape_of(yaml.safe_load(front)) == shape_of(yaml.safe_load(harmless_front)), "front matter", front)
    ensure(outline(body) == outline(harmless_body), "a card", page)
    prose = re.sub(r"(?ms)^(`{3,})\w*$.*?^\1$", "", body)
    ensure(not re.search(r"://|www\.|(?<!\\)@|(?<!\\)<", prose), "an address in a card", prose)
    ensure(max(map(len, page.splitlines())) <= 25_000, "a card", "a line without end")


def shape_of(value: object) -> object:
    """YAML's keys and types."""
    if isinstance(value, dict):
        return {key: shape_of(v) for key, v in value.items()}
    return [shape_of(v) for v in value] if isinstance(value, list) else type(value)


def through_c(text: str, folder: Path) -> None:
    """The C export: its README built like the harmless one, and no warning of a strict compiler."""
    files, harmless = (c_export.make(model_of(said)).files for said in (text[:1000], "x"))
    ensure(files.keys() == harmless.keys(), "C", files.keys())
    readme, twin = (outline(made["README.md"].decode()) for made in (files, harmless))
    ensure(readme == twin, "C's README", files["README.md"])
    for name, content in files.items():
        ensure(is_safe(content.decode().replace("\t", "")), name, text)
        (folder / "c" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "c" / name).write_bytes(content)
    if compiler := shutil.which("gcc"):
        strict = ("-std=c11", "-trigraphs", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")
        done = subprocess.run(
            [compiler, *strict, "model.c"], cwd=folder / "c", capture_output=True, text=True
        )
        ensure(done.returncode == 0, "a compiler", done.stderr)


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.about, self.inside = "", False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))
        self.inside = ("id", "about") in attrs

    def handle_data(self, data: str) -> None:
        self.about += data * self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def through_pages(text: str, folder: Path) -> None:
    """The page of `--to web`, with the engine's place left empty."""
    builds = Builds({"simd": b"", "scalar": b""}, (), b"")
    pages = []
    for said in (text, "x"):
        model = model_of(said)
        pages.append(assemble(_about(model, builds), builds, packed_summary(model)).decode())
    page, harmless = map(Elements, pages)
    ensure(is_safe(pages[0].replace("\t", "")), "a page", text)
    ensure(page.found == harmless.found, "a page", pages[0])
    ensure(all(map(is_safe, json.loads(page.about)["labels"])), "a page", page.about)


def through_onnx(text: str, folder: Path) -> None:
    """The ONNX file: a checker takes it, names are printable, and the notes are what they were."""
    model = model_of(text)
    (content,) = onnx_export.make(model).files.values()
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto)
    names = [name for node in proto.graph.node for name in (node.name, *node.input, *node.output)]
    ensure(all(is_safe(name) and "\n" not in name for name in names), "ONNX", names)
    notes = {entry.key: entry.value for entry in proto.metadata_props}
    ensure(json.loads(notes["bnn.about"]) == dict(model.about), "ONNX", notes)
    ensure(all(map(is_safe, notes.values())), "ONNX", notes)


def through_recipes(text: str, folder: Path) -> None:
    """A recipe that says it is read back as it was."""
    config = TrainConfig(data=text)
    written = config.to_toml()
    ensure(tomllib.loads(written) == asdict(config) and is_safe(written), "a recipe", written)


Door = Callable[[str, Path], None]
DOORS: tuple[Door, ...] = (
    through_commands,
    through_json,
    through_paths,
    through_errors,
    through_cards,
    through_c,
    through_pages,
    through_onnx,
    through_recipes,
)


def attack(tried: list[str], folder: Path) -> list[str]:
    """What got through, a line each."""
    findings = []
    model_of("x").save(folder / "m.bnn")
    for text in tried:
        for door in DOORS:
            try:
                door(text, folder)
            except Exception as error:  # a crash is a finding too
                findings.append(f"{door.__name__}: {text[:60]!a}: {type(error).__name__}: {str(error)[:300]}")
    return findings


def run() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="hostile texts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tried = texts(options.count, options.seed)
    with tempfile.TemporaryDirectory() as folder:
        findings = attack(tried, Path(folder))
    for line in findings:
        print(line, file=sys.stderr)
    print(f"{len(tried)} hostile texts through {len(DOORS)} doors, {len(findings)} got through")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(run())

"""Text from others is shown as text: what `printable` does with each character, and who uses it."""

import ast
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.structure import SOURCE

from bnn.config import ConfigError
from bnn.data.dataset import DataError
from bnn.errors import LINE, UserError, printable, warn
from bnn.export import ExportError
from bnn.packed.serialization import FormatError
from bnn.runtime.images import ImageError
from bnn.tables import CELL, table

EVERY = [chr(code) for code in range(0x110000)]


def test_every_character() -> None:
    """What is no character of a script, or steers how others are shown, is spelled out; all else stays."""
    for character in EVERY:
        category, shown = unicodedata.category(character), printable(character)
        if character in "\u200c\u200d" or category[0] in "LMNPS" or category == "Zs":
            assert shown == character
        else:
            assert category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
            assert shown.isascii()
            assert shown.encode().decode("unicode_escape", "surrogatepass") == character


def test_examples() -> None:
    """As they are written in the docs: escapes, marks, separators, surrogates; scripts, emoji, paths."""
    assert printable("\x1b[31m\x00\x7f\x9b") == r"\x1b[31m\x00\x7f\x9b"
    assert printable("\u202eexe.\u2066\u2028\ud800\ufffe") == r"\u202eexe.\u2066\u2028\ud800\ufffe"
    assert printable("\U000e0041\U0010ffff") == r"\U000e0041\U0010ffff"
    ordinary = "Größe 日本語 עברית नमस्ते می‌خواهم 👩‍👧 ±1\u00a0%\u3000 C:\\new\\table"
    assert printable(ordinary) == ordinary
    assert printable(Path("a\nb")) == r"a\x0ab"


@given(st.text(), st.integers(1, 50))
def test_limits(text: str, limit: int) -> None:
    """What is too long keeps both ends, and exactly as many characters as allowed."""
    whole, cut = printable(text), printable(text, limit)
    assert cut == whole if len(whole) <= limit else len(cut) == limit
    if cut != whole:
        end = limit // 3
        assert cut == whole[: limit - 1 - end] + "…" + whole[len(whole) - end :]


@given(st.text())
def test_what_is_shown_stays_as_it_is(text: str) -> None:
    """Twice is as once: an error that quotes another error's words changes nothing."""
    assert printable(printable(text)) == printable(text)


def test_a_megabyte_is_cut() -> None:
    """A line that names a label of a million characters stays a line."""
    assert len(str(UserError("\x1b" * 10**6))) == LINE
    assert len(printable("x" * 10**6, 100)) == 100


@pytest.mark.parametrize("kind", [UserError, ConfigError, DataError, ExportError, FormatError, ImageError])
def test_errors(kind: type[UserError]) -> None:
    """Every error of a user's mistake says it safely; its arguments are what was raised."""
    error = kind("no class \x1b]0;owned\x07\nbnn: all is well")
    assert str(error) == r"no class \x1b]0;owned\x07\x0abnn: all is well"
    assert error.args == ("no class \x1b]0;owned\x07\nbnn: all is well",)
    assert str(FormatError.of("a\x1b.bnn", error)).startswith(r"a\x1b.bnn: no class \x1b]0;owned")


def test_tables() -> None:
    """Cells of a table end no line, move no cursor, and are of bounded width."""
    shown = table(["name", "n"], [["a\nb\x1b[2J", "1"], ["x" * 1000, "2"]])
    head, rule, first, second = shown.split("\n")
    assert first.split() == [r"a\x0ab\x1b[2J", "1"]
    assert max(map(len, (head, rule, first, second))) == CELL + len("  n")


def test_commands_print_in_one_place() -> None:
    """No command calls `print`: all goes through `bnn.cli.text`, which escapes."""
    calls = [
        path.name
        for path in (SOURCE / "cli").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name) and node.id == "print"
    ]
    assert set(calls) == {"text.py"}


def test_warnings_go_through_one_place() -> None:
    """No module calls `warnings.warn`: all goes through `bnn.errors.warn`, which escapes."""
    calls = [
        path.name
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "warn"
    ]
    assert calls == ["errors.py"]
    with pytest.warns(RuntimeWarning, match=r"^left out: x\\x1b\[31mRED$") as caught:
        warn("left out: x\x1b[31mRED", RuntimeWarning)
    assert caught[0].filename == __file__

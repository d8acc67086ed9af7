"""Text from others in Markdown: as words, and as a block of code. Nothing of it is Markdown or HTML there."""

import re

from bnn.errors import printable

__all__ = ["fenced", "words"]

WORDS = 100
"""Characters of a label or name, at most."""

# All punctuation of ASCII, but - and _ within a word: names are full of them, and there they mean nothing.
_PUNCTUATION = re.compile(r"[!-,./:-@\[-^`{-~]|(?<![0-9A-Za-z])[-_]|[-_](?![0-9A-Za-z])")


def words(text: object) -> str:
    """Text within a paragraph, a heading or a table's cell, on one line, as it reads.

    Whatever could start a link, an address that becomes one, an image, HTML, code or a cell has a backslash
    before it.
    """
    return _PUNCTUATION.sub(r"\\\g<0>", " ".join(printable(text, WORDS).split()))


def fenced(text: str, language: str = "") -> str:
    """Lines as a block of code, as they are, whose fence is longer than any that stands in them."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}{language}\n{text}\n{fence}"

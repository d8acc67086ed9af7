"""SECURITY.md names every attack that there is, and limits as the code has them."""

import re

from support.paths import DOCS, ROOT, TESTS

from bnn.export.folder import LARGE, SMALL
from bnn.packed.limits import MAX_MEMORY, MAX_WORK
from bnn.pictures import MOST_BYTES, MOST_PIXELS

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_attack_is_named() -> None:
    """A program of tests/attack that the page lacks, nobody would know to run; all of the page are there."""
    texts = [path.read_text(encoding="utf-8") for path in (TESTS / "attack").glob("*.py")]
    commands = {name for text in texts for name in re.findall(r"    (python tests/attack/\w+\.py) ?", text)}
    assert commands == set(re.findall(r"`(python tests/attack/\w+\.py)", PAGE))
    programs = re.findall(r"tests/\w+/\w+\.\w+", PAGE)
    assert [name for name in programs if not (ROOT / name).is_file()] == []
    assert len(programs) >= 10


def test_options_of_the_page_are_the_programs() -> None:
    """Every option that the page gives an attack is one that it takes."""
    for name, options in re.findall(r"`python tests/(\w+/\w+\.py)([^`]*)`", PAGE):
        text = (TESTS / name).read_text(encoding="utf-8")
        assert all(f'"{option}"' in text for option in re.findall(r"--\w+", options))


def test_limits_are_those_of_the_code() -> None:
    """1.8 GiB, and ten seconds of a core of 3 GHz; and those of files that are read or copied."""
    words = " ".join(PAGE.split())
    assert "1.8 GiB of memory, and for a sample about ten seconds of one core" in words
    assert (MAX_MEMORY, MAX_WORK) == (18 * 2**30 // 10, 10 * 3_000_000_000)
    assert "A picture may have 64 MiB and 67 million pixels" in words
    assert (MOST_BYTES, MOST_PIXELS // 10**6) == (64 * 2**20, 67)
    assert "recipe or result that is exported 64 KiB, a table or figure 64 MiB" in words
    assert (SMALL, LARGE) == (64 * 2**10, 64 * 2**20)


def test_it_is_linked() -> None:
    """From the README, from CONTRIBUTING, and in the site."""
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "](SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8")
    assert "\nsecurity\n" in (DOCS / "index.md").read_text(encoding="utf-8")

"""SECURITY.md names every attack that there is, and limits as the code has them."""

import re

from support.paths import DOCS, ROOT, TESTS

from bnn.packed.limits import MAX_MEMORY, MAX_WORK

PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_attack_is_named() -> None:
    """A program of tests/attack that the page lacks, nobody would know to run."""
    programs = {path.name for path in (TESTS / "attack").glob("*.py") if not path.name.startswith("test_")}
    assert programs <= set(re.findall(r"`python tests/attack/(\w+\.py)", PAGE))
    assert len(programs) >= 3


def test_limits_are_those_of_the_code() -> None:
    """2 GiB, and ten seconds of a core of 3 GHz."""
    assert "2 GiB of memory" in PAGE
    assert MAX_MEMORY == 2 * 2**30
    assert "about ten seconds of one core" in PAGE
    assert MAX_WORK == 10 * 3_000_000_000


def test_it_is_linked() -> None:
    """From the README, from CONTRIBUTING, and in the site."""
    for page in ("README.md", "CONTRIBUTING.md"):
        assert "](SECURITY.md)" in (ROOT / page).read_text(encoding="utf-8")
    assert "\nsecurity\n" in (DOCS / "index.md").read_text(encoding="utf-8")

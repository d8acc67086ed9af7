"""The attack by pictures, with a few of each kind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = Path(__file__).parent / "pictures.py"


@pytest.mark.skipif(os.name != "posix", reason="makes pipes and sockets")
@pytest.mark.parametrize("only", ["postscript", "cut", "link"])
def test_a_hostile_picture_is_one_line(only: str) -> None:
    """It starts no program, touches no file, and the others in its folder are read."""
    done = subprocess.run(
        [sys.executable, str(ATTACK), "--only", only], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 findings" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="makes pipes and sockets")
def test_all_hostile_pictures() -> None:
    """All of them, bombs too, within their bounds of time and memory."""
    done = subprocess.run([sys.executable, str(ATTACK)], capture_output=True, text=True, timeout=1800)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 findings" in done.stdout

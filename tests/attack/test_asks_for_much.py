"""Small files that ask for much, some of each kind."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_small_files_that_ask_for_much_are_refused() -> None:
    """Each is refused within a second, and without taking memory; how they look is in the program."""
    program = Path(__file__).with_name("asks_for_much.py")
    done = subprocess.run(
        [sys.executable, program, "--count", "42"], capture_output=True, text=True, check=False
    )
    assert "42 of 42 refused" in done.stdout, done.stdout + done.stderr

"""The attack by data sets and servers, with few mutants."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="makes pipes, bounds the memory")
def test_hostile_data_is_one_line() -> None:
    """Each is a DataError of one line that names the file or URL, soon, in little memory; nothing is left."""
    attack = Path(__file__).parent / "data.py"
    done = subprocess.run(
        [sys.executable, str(attack), "--mutants", "100"], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert " 0 findings" in done.stdout

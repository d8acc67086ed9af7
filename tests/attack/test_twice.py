"""Ctrl-C twice, a few times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_twice_is_no_traceback() -> None:
    """Whenever it is pressed, the process ends with exit status 130."""
    attack = Path(__file__).parent / "twice.py"
    done = subprocess.run(
        [sys.executable, str(attack), "--count", "12"], capture_output=True, text=True, timeout=1200
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout

"""Ctrl-C while the engine computes."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_ends_predict_and_eval() -> None:
    """Each kind of operation is left in the middle, with exit status 130; how soon, the program prints."""
    program = Path(__file__).with_name("interrupts.py")
    command = [sys.executable, program, "--count", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert "exit statuses: {130: 7}" in done.stdout, done.stdout + done.stderr

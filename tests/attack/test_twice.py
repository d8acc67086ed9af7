"""Ctrl-C again and again, a few times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_again_and_again_is_no_traceback() -> None:
    """Whenever it is pressed, the process ends with exit status 130."""
    attack = Path(__file__).parent / "twice.py"
    done = subprocess.run(
        [sys.executable, str(attack), "--count", "16"], capture_output=True, text=True, timeout=1200
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize(("handler", "status"), [("default_int_handler", 130), ("SIG_IGN", 0)])
def test_what_a_script_ignores_is_ignored(handler: str, status: int) -> None:
    """`bnn ... &` in a script is not ended by the Ctrl-C that ends the script."""
    program = (
        "import signal, bnn.cli\n"
        f"signal.signal(signal.SIGINT, signal.{handler})\n"
        "bnn.cli.main = lambda: signal.raise_signal(signal.SIGINT) or 0\n"
        "bnn.cli.entry()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (status, "")

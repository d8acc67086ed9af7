"""The C tests of the engine, tests/native: as they are, with sanitizers, and for aarch64."""

import shutil
import subprocess

import pytest
from support.paths import TESTS

RUN = TESTS / "native" / "run.sh"

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler, cc")


def run(mode: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RUN, mode], capture_output=True, text=True, check=False)


def test_kernels_and_engine() -> None:
    """On every instruction set of this machine: equal to the definition, and no allocation while running."""
    done = run("plain")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "portable: network, 5 rows, 0 allocations" in done.stdout


@pytest.mark.slow
def test_with_sanitizers() -> None:
    """Nothing is read or written where it should not be, and nothing is undefined."""
    done = run("asan")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_on_aarch64() -> None:
    """The same for ARM, cross-compiled and emulated: NEON equals the definition."""
    done = run("aarch64")
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "neon: network, 5 rows" in done.stdout

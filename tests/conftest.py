"""Fixtures that several test files share."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before numpy and torch load: test processes run side by side, and threads of several wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from support.bnn_files import small

# In a shell's background Ctrl-C is ignored, and would be by the programs that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow machine is no failure.
settings.register_profile("bnn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bnn")


def pytest_collection_finish() -> None:
    """Freezes what is loaded by now, so that the collector does not scan it: a sixth of the suite's time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and their processes leave in the temporary folder lies in pytest's, which it clears."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="session")
def bnn_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bnn") / "m.bnn"


@pytest.fixture(scope="session")
def sound(bnn_path: Path) -> bytes:
    """The bytes of a sound file."""
    small().save(bnn_path)
    return bnn_path.read_bytes()


@pytest.fixture(scope="session")
def mnist_dir() -> str:
    """The data folder with MNIST in it; skips, and says so, where there is none."""
    folder = os.environ.get("BNN_DATA_DIR", "")
    if not Path(folder, "mnist").is_dir() or not folder:
        pytest.skip("needs MNIST: set BNN_DATA_DIR to a folder that holds mnist/")
    return folder

"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

# Before numpy and torch load: test processes run side by side, and threads of several wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from bnn_files import small


@pytest.fixture(scope="session")
def bnn_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bnn") / "m.bnn"


@pytest.fixture(scope="session")
def sound(bnn_path: Path) -> bytes:
    """The bytes of a sound file."""
    small().save(bnn_path)
    return bnn_path.read_bytes()

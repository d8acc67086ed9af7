"""Kills, full disks, several threads and processes leave what is written whole; a few of each trial."""

import random
from pathlib import Path

import kills
import pytest
import savers
import writers


@pytest.mark.slow
def test_threads_and_killed_processes_save_to_one_path(tmp_path: Path) -> None:
    """No save fails, no read is torn, and nothing is left after a kill and the next save."""
    assert savers.attack(saves=200, kills=4, folder=tmp_path) == []


@pytest.mark.slow
def test_two_runs_in_one_folder(tmp_path: Path) -> None:
    """What is there is of one of them, and the other is told why."""
    assert writers.attack(count=3, seed=0, folder=tmp_path) == []


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_were(tmp_path: Path) -> None:
    """Whenever it was killed, it ends in the same bytes."""
    assert kills.attack_training(10, seed=0, folder=tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("to", kills.TARGETS)
def test_a_killed_export_is_whole_or_not_there(to: str, tmp_path: Path) -> None:
    """The old one or the new one, and nothing beside it after the next."""
    assert kills.attack_exports(to, 2 if to == "web" else 6, random.Random(0), tmp_path / to) == []


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    """One line, and what was there is as it was; a run goes on when there is room."""
    pytest.importorskip("resource", reason="limits of a process are POSIX's")
    import disk

    assert disk.attack([100, 30_000], tmp_path) == []

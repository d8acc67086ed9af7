"""How many threads to use: what is asked for, else what this process may have."""

import os
from math import ceil
from operator import index
from pathlib import Path

from bnn.errors import UserError

__all__ = ["available_cores", "thread_count"]

MOST = 1024


def thread_count(asked: int | None = None) -> int:
    """The argument, else $BNN_NUM_THREADS, else the cores that are available.

    Raises:
        UserError: the one or the other is no sensible number.
    """
    if asked is not None:
        try:
            count = 0 if isinstance(asked, bool) else index(asked)
        except TypeError:
            count = 0
        if not 1 <= count <= MOST:
            raise UserError(f"threads must be a number from 1 to {MOST}, not {asked!r}")
        return count
    variable = os.environ.get("BNN_NUM_THREADS", "")
    if not variable:
        return available_cores()
    if not variable.isdecimal() or not 1 <= int(variable) <= MOST:
        raise UserError(f"BNN_NUM_THREADS must be a number from 1 to {MOST}, not {variable!r}")
    return int(variable)


def available_cores(
    cgroup: Path = Path("/sys/fs/cgroup"), of_process: Path = Path("/proc/self/cgroup")
) -> int:
    """Cores that this process may run on: its affinity, and the share of time its control group is given."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    cores: int = len(affinity(0)) if affinity else os.cpu_count() or 1
    quotas = [_quota(group) for group in _groups(cgroup, of_process)]
    return max(1, min([cores, *(ceil(quota) for quota in quotas if quota)]))


def _groups(root: Path, of_process: Path) -> list[Path]:
    """The process's control group, and those that it lies in, up to the root: each may have a limit."""
    try:
        lines = of_process.read_text().splitlines()
    except OSError:
        lines = []
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::/")]
    groups = [root]
    for part in Path(paths[0]).parts[1:] if paths else ():
        groups.append(groups[-1] / part)
    return groups


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time: cpu.max of control groups 2, cpu.cfs_* of 1; None if there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None  # "max", or -1
    return int(quota) / int(period)

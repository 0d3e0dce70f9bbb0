"""How much of the machine this process may use: in a container that is less than what the machine has."""

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_LEAST = 0.01  # processors: below that a limit is a file that nobody can mean


def processors(root: Path = _ROOT) -> float:
    """How many processors' worth of time there is, by the container's limit and the cores that we may run on."""
    cores = float(len(os.sched_getaffinity(0)))
    limit = _limit(root)
    return cores if limit is None else min(cores, limit)


def _limit(root: Path) -> float | None:
    """Of control groups, version 2 or 1, as a container sees its own; None: there is none."""
    try:
        quota, period = (root / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text("ascii").strip()
        except (OSError, ValueError):
            return None
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None  # "max"
    return share if share >= _LEAST else None  # version 1 has -1 for none

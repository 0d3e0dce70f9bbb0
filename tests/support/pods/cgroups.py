"""Memory limits of containers, where this machine lets us set them."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.pods.quantities import number_of

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class Cgroups:
    """Those of one pod. CPU is not limited: all pods share the few cores of one machine with the tests."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._made: list[Path] = []

    def limited(self, container: str, limits: Mapping[str, Any]) -> list[Path]:
        """The groups that a container's processes must join for its limits."""
        if "memory" not in limits:
            return []
        parent, limit = _parent()
        if parent is None:
            return []
        group = parent / f"{self._prefix}-{container}"
        if group not in self._made:
            group.mkdir(exist_ok=True)
            (group / limit).write_text(str(int(number_of(limits["memory"]))))
            self._made.append(group)
        return [group]

    def used(self, container: str) -> tuple[int, int]:
        """The most that it has used so far, and its limit; zeros where there is none."""
        for group in self._made:
            if group.name == f"{self._prefix}-{container}":
                for most, limit in (
                    ("memory.max_usage_in_bytes", "memory.limit_in_bytes"),
                    ("memory.peak", "memory.max"),
                ):
                    if (group / most).exists():
                        return int((group / most).read_text()), int((group / limit).read_text())
        return 0, 0

    def remove(self) -> None:
        for group in self._made:
            with contextlib.suppress(OSError):  # a process that the kernel is still taking away
                group.rmdir()


def remove_dead_groups() -> None:
    """Those of test processes that were killed."""
    parent, _ = _parent()
    for group in parent.glob("sluice-*-*-*") if parent is not None else ():
        if not Path("/proc", group.name.split("-")[1]).exists():
            with contextlib.suppress(OSError):
                group.rmdir()


def _parent() -> tuple[Path | None, str]:
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1, "memory.limit_in_bytes"
    control = _V2 / "cgroup.subtree_control"
    if control.exists() and "memory" in control.read_text().split():
        return _V2, "memory.max"
    return None, ""

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

    def remove(self) -> None:
        for group in self._made:
            with contextlib.suppress(OSError):  # a process that the kernel is still taking away
                group.rmdir()


def _parent() -> tuple[Path | None, str]:
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1, "memory.limit_in_bytes"
    control = _V2 / "cgroup.subtree_control"
    if control.exists() and "memory" in control.read_text().split():
        return _V2, "memory.max"
    return None, ""

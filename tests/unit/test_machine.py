"""What a container may use of its machine."""

import os
from pathlib import Path

import pytest

from extproc.cli import processes
from extproc.cli.machine import processors
from extproc.cli.processes import State


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "6400000 100000\n"}, 8),  # more than there is
        ({"cpu.max": "torn"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "0\n"}, 8),
        ({}, 8),
    ],
    ids=["v2", "v2 part of one", "v2 none", "v2 more", "v2 torn", "v1", "v1 none", "v1 broken", "no group"],
)
def test_the_limit_of_the_container_is_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: float
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == expected


@pytest.mark.parametrize(("available", "threads"), [(0.5, 1), (1, 1), (2, 1), (3, 1), (4, 2), (32, 16)])
def test_envoy_gets_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: float, threads: int) -> None:
    monkeypatch.setattr(processes, "processors", lambda: available)
    argv = processes.envoy(State(tmp_path)).argv
    assert argv[argv.index("--concurrency") + 1] == str(threads)

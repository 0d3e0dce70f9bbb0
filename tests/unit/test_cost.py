"""What a call costs may not rise unseen: the guard of loadtest/guard.py, and that it would tell."""

import subprocess

import pytest

from extproc.interpreter import python
from loadtest import guard, recording
from loadtest.setups import ROOT

BEFORE = {"json": 1000, "sse": 2000}


def test_a_call_costs_no_more_than_a_tenth_above_what_it_did() -> None:
    """In a process of its own: what is counted there may not be what this one does."""
    done = subprocess.run(python("loadtest.guard"), cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_of_call_is_guarded() -> None:
    assert set(guard.baseline()) == set(recording.KINDS)


@pytest.mark.parametrize(("now", "told"), [(1000, 0), (1100, 0), (900, 0), (1101, 1)])
def test_what_has_risen_is_told(now: int, told: int) -> None:
    found = guard.risen(BEFORE, {"json": now, "sse": 2000})
    assert len(found) == told
    assert all("json" in line for line in found)


def _of(steps: int) -> int:
    work = guard.Work()
    try:
        before = work()
        _some(steps)
        return (work() - before) // 1000
    finally:
        work.end()


def _some(steps: int) -> list[int]:
    return [len(str(step)) for step in range(steps)]


def test_work_is_what_is_done() -> None:
    little, much = _of(1_000), _of(2_000)
    assert little == pytest.approx(much / 2, rel=0.05)
    assert _of(1_000) == little > 10_000

"""What a call costs may not rise unseen: the guard of loadtest/guard.py, and that it would tell."""

import asyncio
import subprocess

import hyperscan
import pytest
import uvloop

from extproc.interpreter import python
from extproc.stores.redis.batch import SharedConnection, words
from loadtest import guard, recording
from loadtest.setups import ROOT
from tests.support.redis_server import redis_server

INCREMENT = b"*2\r\n" + words(b"INCR", b"key")

BEFORE: dict[str, dict[str, float]] = {
    "json": {"work": 1000, "tasks": 1.5, "scans": 1.0, "redis_commands": 5.0, "redis_writes": 4.0, "redis_bytes": 4700},
    "sse": {"work": 2000},
}


def test_a_call_costs_no_more_than_a_tenth_above_what_it_did() -> None:
    """In a process of its own: what is counted there may not be what this one does."""
    done = subprocess.run(python("loadtest.guard"), cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_kind_of_call_is_guarded_in_every_way() -> None:
    before = guard.baseline()
    assert set(before) == set(recording.KINDS)
    for figures in before.values():
        assert {*guard.COUNTED, "redis_work", *guard.COUNTED_WITH_REDIS} <= set(figures)


@pytest.mark.parametrize(
    ("name", "now", "told"),
    [
        ("work", 1000, 0),
        ("work", 1100, 0),
        ("work", 900, 0),
        ("work", 1101, 1),
        ("tasks", 2, 0),
        ("tasks", 2.5, 1),
        ("scans", 2, 1),
        ("redis_commands", 6, 1),
        ("redis_writes", 4.6, 0),
        ("redis_writes", 5, 1),
        ("redis_bytes", 5300, 1),
    ],
)
def test_what_has_risen_is_told(name: str, now: float, told: int) -> None:
    found = guard.risen(BEFORE, {"json": {**BEFORE["json"], name: now}, "sse": {"work": 2000}})
    assert len(found) == told
    assert all("json" in line and name in line for line in found)


def test_what_goes_to_redis_is_counted() -> None:
    """By a real connection: one write for what is asked within one turn of the loop."""

    async def asked(url: str) -> None:
        connection = SharedConnection(url, 1, [], lambda: None)
        await connection.ask(INCREMENT)
        await asyncio.gather(*[connection.ask(INCREMENT) for _ in range(3)])
        await connection.close()

    counts = guard.Counts()
    with redis_server() as server, counts.of_redis():
        uvloop.run(asked(server.url), loop_factory=counts.loop)
    assert (counts["redis_commands"], counts["redis_writes"]) == (4, 2)
    assert counts["redis_bytes"] == 4 * len(INCREMENT)
    assert counts["tasks"] >= 5  # the first, three more, and one that connects
    assert counts["handles"] >= counts["tasks"]


def test_scans_are_counted() -> None:
    counts = guard.Counts()
    work = guard.Work(counts)
    database = hyperscan.Database()
    database.compile(expressions=[b"a"], ids=[1], flags=[0])
    try:
        work()
        for _ in range(3):
            database.scan(b"banana", match_event_handler=lambda *_: None)
    finally:
        work.end()
    assert counts["scans"] == 3


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

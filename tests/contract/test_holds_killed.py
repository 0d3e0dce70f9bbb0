"""A worker that is killed at any step of a call: no event is lost or told twice, and nothing stays held."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from extproc.stores.redis import counters
from extproc.stores.redis.counters import RedisCounters
from tests.support.counters import events_of
from tests.support.holds import CALLS, idle, running, spent, told, until
from tests.support.redis_server import RedisServer, redis_server

LIFE = 1_000
PATIENT = 10.0
AT_ONCE = 20
STEP = int(os.environ.get("SLUICE_KILL_STEP", "4"))


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


async def recover(server: RedisServer, folder: Path, point: int) -> tuple[int, int, int]:
    """What the next process makes of it: tokens, calls and holds that are left."""
    store = RedisCounters(server.url, PATIENT, f"kill{point}")
    async with running(store, folder / str(point)) as holds:
        await until(lambda: holds._connections > 0 and idle(holds))
        left = await asyncio.to_thread(server.call, "ZCARD", f"kill{point}:{{gateway}}:ends")
        return await spent(store), await spent(store, CALLS), left


def is_spooled(folder: Path) -> bool:
    """Whether the call's settlement had been written when its process was killed."""
    return any(path.read_bytes().endswith(b"\n") for path in folder.glob("*.jsonl"))


@pytest.mark.timeout(600)
async def test_at_any_step(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every STEP-th line; with SLUICE_KILL_STEP=1 at each."""
    monkeypatch.setattr(counters, "CALM", 0)  # nobody else lives whose holds the next process must not close
    words = [sys.executable, "-m", "tests.support.hold_kills", server.url, str(tmp_path), str(LIFE), str(STEP)]
    await asyncio.to_thread(subprocess.run, words, check=True, timeout=400)
    marks = {int(path.stem): path.read_text().split() for path in tmp_path.glob("*.marks")}
    assert len(marks) > 150 // STEP
    assert marks[max(marks)] == ["granted", "extended", "told", "settled"]
    spooled = {point for point in marks if is_spooled(tmp_path / str(point))}
    assert 0 < len(spooled) < len(marks)
    await asyncio.sleep(2 * LIFE / 1000)
    for _ in range(2):  # the second process finds nothing to do
        for first in range(1, max(marks), AT_ONCE * STEP):
            points = range(first, min(first + AT_ONCE * STEP, max(marks)), STEP)
            found = await asyncio.gather(*[recover(server, tmp_path, point) for point in points])
            for point, (tokens, calls, left) in zip(points, found, strict=True):
                told_of = told(events_of(server, f"kill{point}"))
                settled, expired = told_of["call", False], told_of["call", True]
                reached = marks.get(point, [])
                state = f"point {point}, after {reached}: {told_of}, {tokens} tokens"
                assert (calls, left) == (0, 0), state
                assert settled <= 1, state
                assert expired <= 1, state
                assert settled or expired or "granted" not in reached, state
                assert settled or point not in spooled, state
                assert settled or "settled" not in reached, state
                assert tokens == (30 if settled else 10 if expired else 0), state

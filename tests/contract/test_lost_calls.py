"""Calls whose worker died are told of by whoever inherits its spool, once, and as far as they were known."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from extproc.holds import Holds
from extproc.ledger.consumer import Consumer
from extproc.stores import spool, sql
from extproc.stores.counters import Counters
from extproc.stores.ledger import CallRow, Question, Told
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.spool_bus import SpoolBus
from tests.support import call_kills
from tests.support.holds import event, hold, idle, running, until, used
from tests.support.ledger import AT, call, ledger_on

NOTE = json.dumps(
    {
        **{"id": "w.1", "time": AT / 1000, "request_id": "r-1", "key_id": "key_1", "team": "search"},
        **{"model": "gpt-4o", "usage": {"input": 7, "source": "estimated"}, "cost": 21, "currency": "USD"},
    }
).encode()


def memory() -> Counters:
    return MemoryCounters(lambda: AT)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[sql.Stores]:
    with ledger_on("sqlite", tmp_path) as made:
        yield made


async def died(root: Path, *begun: str, told: tuple[str, ...] = ()) -> None:
    """A worker that began calls, ended some of them, and was killed."""
    log = spool.begin(root)
    holds = Holds(memory(), [log])
    for name in begun:
        holds.begun(name, NOTE.replace(b"w.1", name.encode()))
    for name in told:
        holds.tell(name, call(name).data)
    await holds._write()
    log.close()


def read_all(stores: sql.Stores, root: Path) -> None:
    with closing(SpoolBus(root)) as bus:
        consumer = Consumer(bus, stores.ledger)
        while consumer.step():
            pass


def rows(stores: sql.Stores, root: Path) -> dict[str, CallRow]:
    read_all(stores, root)
    found = [row for row, _ in stores.ledger.call("r-1")]
    assert len({row.id for row in found}) == len(found)
    return {row.id: row for row in found}


async def test_a_call_that_did_not_end_is_a_row(stores: sql.Stores, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    await died(root, "w.1", "w.2", told=("w.2",))
    async with running(memory(), root) as holds:
        await until(lambda: idle(holds))
    found = rows(stores, root)
    assert {name: row.told for name, row in found.items()} == {"w.1": Told.SPOOL, "w.2": Told.WORKER}
    lost = found["w.1"]
    assert (lost.ending, lost.blame, lost.status) == ("lost", "gateway", None)
    assert (lost.team, lost.key_id, lost.model) == ("search", "key_1", "gpt-4o")
    assert (lost.input, lost.output, lost.source, lost.cost, lost.currency) == (7, 0, "estimated", 21, "USD")


async def test_however_often_it_is_inherited_it_is_one_row(stores: sql.Stores, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    await died(root, "w.1")
    for _ in range(3):
        async with running(memory(), root) as holds:
            await until(lambda: idle(holds))
        assert set(rows(stores, root)) == {"w.1"}


async def test_a_call_that_goes_on_is_not_told(stores: sql.Stores, tmp_path: Path) -> None:
    """A spool of a worker that lives is nobody else's."""
    root = tmp_path / "spool"
    async with running(memory(), root) as alive:
        alive.begun("w.1", NOTE)
        await asyncio.sleep(0.05)
        async with running(memory(), root) as other:
            await until(lambda: idle(other))
        assert rows(stores, root) == {}
        alive.tell("w.1", call("w.1").data)
    assert [row.told for row in rows(stores, root).values()] == [Told.WORKER]


async def test_the_own_account_of_a_call_counts_whenever_it_comes(stores: sql.Stores, tmp_path: Path) -> None:
    root = tmp_path / "spool"
    await died(root, "w.1")
    async with running(memory(), root) as holds:
        await until(lambda: [row.told for row in rows(stores, root).values()] == [Told.SPOOL])
        holds.tell("w.1", call("w.1").data)
    (row,) = rows(stores, root).values()
    assert (row.told, row.cost, row.ending) == (Told.WORKER, 5_000, "complete")


async def test_what_begins_does_not_wait_for_a_settlement(tmp_path: Path) -> None:
    async with running(memory(), tmp_path) as holds:
        holds.begun("w.1", NOTE)
        await until(lambda: any(path.stat().st_size for path in tmp_path.glob("*.jsonl")))


async def test_a_full_disk_delays_and_loses_no_settlement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has begun is only written once: whoever ends it is told of it anyway."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    told: list[bytes] = []
    counters = MemoryCounters(lambda: AT, lambda _slot, said: told.append(said))
    async with running(counters, tmp_path) as holds:
        monkeypatch.setattr(spool.Spool, "write", full)
        one = hold("w.1")
        await holds.reserve(one)
        holds.begun("w.1", NOTE)
        holds.settle(one, used(3), event("w.1"))
        await until(lambda: told == [event("w.1")])
        assert holds.unspooled == 1


async def test_a_gateway_that_was_away_for_hours_tells_of_it_yet(
    stores: sql.Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is old, and in the ledger, is let go of, but not before that."""
    told, may_tell = Holds._tell_of_the_dead, asyncio.Event()
    root = tmp_path / "spool"
    await died(root, "w.1", "w.2", told=("w.2",))
    (segment,) = root.glob("*.jsonl")
    async with running(memory(), root):
        await until(lambda: "w.2" in rows(stores, root))
        await died(root, "w.3")
    old = time.time() - 10 * spool.KEPT_MS / 1000
    for path in root.glob("*.jsonl"):
        os.utime(path, (old, old))

    async def late(holds: Holds) -> None:
        await may_tell.wait()
        await told(holds)

    monkeypatch.setattr(Holds, "_tell_of_the_dead", late)
    async with running(memory(), root) as holds:
        await until(lambda: bool(holds._since))
        await holds._keep_spools()
        assert segment.exists()
        may_tell.set()
        await until(lambda: idle(holds) and not segment.exists())
    assert {name: row.told for name, row in rows(stores, root).items()} == {
        **{"w.1": Told.SPOOL, "w.2": Told.WORKER},
        "w.3": Told.SPOOL,
    }


async def test_a_spool_that_cannot_be_read_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await died(tmp_path, "w.1")

    def unreadable(_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(spool.Spool, "unended", unreadable)
    async with running(memory(), tmp_path) as holds:
        holds.tell("w.2", call("w.2").data)
        await until(lambda: idle(holds) and not holds._again)


# ---- kill -9 ---------------------------------------------------------------------------------------

STEP = int(os.environ.get("SLUICE_KILL_STEP", "13"))


@pytest.mark.timeout(300 + 1_500 // STEP)
async def test_killed_at_any_step_a_call_that_was_sent_is_one_row(stores: sql.Stores, tmp_path: Path) -> None:
    """At every STEP-th line of the worker that the call passes; with SLUICE_KILL_STEP=1 at each."""
    words = [sys.executable, "-m", "tests.support.call_kills", str(tmp_path), str(STEP)]
    await asyncio.to_thread(subprocess.run, words, check=True, timeout=200 + 700 // STEP)
    marks = {int(path.stem): path.read_text().split() for path in tmp_path.glob("*.marks")}
    assert marks[max(marks)] == ["sent", "answered", "written"]
    found = {point: [await recovered(stores, tmp_path, point) for _ in range(2)][-1] for point in marks}
    for point, (row, *more) in {point: rows for point, rows in found.items() if rows or "sent" in marks[point]}.items():
        state = f"point {point}, after {marks[point]}"
        assert not more, state
        assert (row.model, row.key_id) == ("gpt-4o", "key_1"), state
        if "written" in marks[point] or row.told == Told.WORKER:
            assert (row.told, row.input, row.output, row.source) == (Told.WORKER, 8, 2, "reported"), state
        else:
            assert (row.told, row.ending, row.output, row.source) == (Told.SPOOL, "lost", 0, "estimated"), state
    kinds = Counter(row.told for rows in found.values() for row in rows)
    assert min(kinds[Told.SPOOL], kinds[Told.WORKER]) >= 2, "the points are not where they were"
    today = datetime.now(UTC).date()
    (total,) = stores.ledger.usage(Question(today - timedelta(days=1), today, "UTC", ("model",)))
    assert total.calls == sum(kinds.values())


async def recovered(stores: sql.Stores, folder: Path, point: int) -> list[CallRow]:
    """What the next worker and the ledger make of it."""
    root = folder / str(point)
    async with running(call_kills.counters(), root) as holds:
        await until(lambda: bool(holds._since) and idle(holds))
    read_all(stores, root)
    return [row for row, _ in stores.ledger.call(f"r-{point}")]

"""What writes the ledger, while the bus, the database or itself fails: each call once, and nothing lost."""

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date
from pathlib import Path

import pytest

from extproc.ledger import consumer as module
from extproc.ledger.bus import StreamAndSpools
from extproc.ledger.consumer import Consumer
from extproc.ledger.events import refused
from extproc.limits.limit import Limit, Measure, Period
from extproc.limits.sums import Sums
from extproc.stores import spool, sql
from extproc.stores.counters import Counter, Draw
from extproc.stores.ledger import (
    AttemptRow,
    Batch,
    BusUnavailable,
    CallRow,
    Event,
    Question,
    RowRefused,
    Sum,
    Told,
    Written,
)
from extproc.stores.ports import StoreUnavailable
from extproc.stores.redis import counters as redis_counters
from extproc.stores.redis.bus import RedisBus
from extproc.stores.redis.counters import RedisCounters
from extproc.stores.spool import Settlement, Spool
from extproc.stores.spool_bus import SpoolBus
from extproc.stores.sql.ledger import SqlLedger
from tests.support import ledger_kills
from tests.support.gateway import until
from tests.support.ledger import AT, call, event, expired, ledger_on
from tests.support.ports import free_port
from tests.support.redis_server import redis_server

DAY = date(2026, 1, 31)
DOWN = StoreUnavailable("the database is down")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", (0.001, 0.01))
    monkeypatch.setattr(module, "_LOOK_S", 0.05)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[sql.Stores]:
    with ledger_on("sqlite", tmp_path) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Spool]:
    made = spool.begin(tmp_path / "spool")
    yield made
    made.close()


def write(log: Spool, *events: Event) -> None:
    log.write([Settlement(f"{number}", (), one.data, one.at) for number, one in enumerate(events)])
    log.keep(log.end, AT)


def known(ledger: SqlLedger) -> dict[str, str]:
    """Whose calls there are, by their ids."""
    return {name: row.team for name in ("w.1", "w.2", "w.3") for row, _ in ledger.call(name)}


@dataclass
class Failing:
    """A ledger that fails so many times; always where a batch has a call that it does not take."""

    ledger: SqlLedger
    times: int = 0
    refuses: str = ""
    error: Exception = DOWN
    tries: int = 0

    def write(self, batch: Batch) -> Written:
        self.tries += 1
        if self.tries <= self.times or self.refuses in batch.calls:
            raise self.error
        return self.ledger.write(batch)

    def zone(self) -> str:
        return self.ledger.zone()

    def rebuild(self, zone: str) -> int:
        return self.ledger.rebuild(zone)

    def remake(self, zone: str) -> None:
        self.ledger.remake(zone)

    def mend(self) -> bool:
        return self.ledger.mend()

    def usage(self, question: Question) -> Sequence[Sum]:
        return self.ledger.usage(question)

    def call(self, request_id: str) -> Sequence[tuple[CallRow, Sequence[AttemptRow]]]:
        return self.ledger.call(request_id)


@dataclass
class Heard:
    """What a consumer tells."""

    rows: list[Written] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def __call__(self, written: Written, lag: float) -> None:
        self.rows.append(written)
        self.lags.append(lag)


@contextmanager
def running(consumer: Consumer) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield thread
    finally:
        consumer.stop()
        thread.join(10)
        assert not thread.is_alive()


def test_what_comes_is_written_and_told(stores: sql.Stores, log: Spool, tmp_path: Path) -> None:
    told = Heard()
    consumer = Consumer(SpoolBus(tmp_path / "spool"), stores.ledger, currency="CHF", told=told)
    write(log, call("w.1"), event([]), expired("w.2", money=4))
    with running(consumer):
        until(lambda: Written(calls=2, odd=1) in told.rows)
        write(log, call("w.2", team="late"))
        until(lambda: known(stores.ledger) == {"w.1": "search", "w.2": "late"})
    assert Written(replaced=1) in told.rows


def test_what_waits_when_it_is_told_to_stop_is_written_yet(stores: sql.Stores, log: Spool, tmp_path: Path) -> None:
    consumer = Consumer(SpoolBus(tmp_path / "spool"), stores.ledger)
    consumer.stop()
    write(log, call("w.1"), call("w.2"))
    consumer.run()
    assert set(known(stores.ledger)) == {"w.1", "w.2"}


def test_a_database_that_fails_in_the_end_is_tried_again(stores: sql.Stores, log: Spool, tmp_path: Path) -> None:
    consumer = Consumer(SpoolBus(tmp_path / "spool"), Failing(stores.ledger, times=2))
    consumer.stop()
    write(log, call("w.1"), call("w.2"))
    consumer.run()
    assert set(known(stores.ledger)) == {"w.1", "w.2"}


def test_a_database_that_stays_away_is_given_up_and_what_stays_is_told(
    stores: sql.Stores, log: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ALONE_S", 0.5)
    consumer = Consumer(SpoolBus(tmp_path / "spool"), Failing(stores.ledger, times=1_000_000))
    consumer.stop()
    write(log, call("w.1"), call("w.2"))
    consumer.run()
    assert f"2 events stay in {tmp_path / 'spool'}" in caplog.text
    assert consumer.behind == (2, str(tmp_path / "spool"))


def test_what_stays_and_cannot_be_counted_is_not_taken_for_nothing(
    stores: sql.Stores, log: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def left(_: SpoolBus) -> tuple[int, str]:
        raise BusUnavailable("the spool cannot be read")

    monkeypatch.setattr(module, "_ALONE_S", 0.5)
    monkeypatch.setattr(SpoolBus, "left", left)
    consumer = Consumer(SpoolBus(tmp_path / "spool"), Failing(stores.ledger, times=1_000_000))
    consumer.stop()
    write(log, call("w.1"))
    consumer.run()
    assert consumer.behind is None
    assert "the ledger may not have all" in caplog.text


@pytest.mark.parametrize("with_redis", [False, True])
def test_what_the_store_of_the_counters_never_took_is_written_in_the_end(
    stores: sql.Stores, log: Spool, tmp_path: Path, with_redis: bool
) -> None:
    """The spool may go with its pod. A line that a dying worker did not finish is none."""
    spools = SpoolBus(tmp_path / "spool")
    nowhere = RedisBus(f"redis://127.0.0.1:{free_port()}/0", "sluice", "gateway", "one")
    consumer = Consumer(StreamAndSpools(nowhere, spools) if with_redis else spools, stores.ledger)
    write(log, call("w.1"))
    log.write([Settlement("w.2", (), call("w.2").data, AT)])
    (path,) = (tmp_path / "spool").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"hold":"w.3","at":17')
    consumer.stop()
    consumer.run()
    assert set(known(stores.ledger)) == {"w.1", "w.2"}


def test_it_waits_for_a_database_that_is_down(
    stores: sql.Stores, log: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, told = Failing(stores.ledger, times=30), Heard()
    write(log, call("w.1"))
    with caplog.at_level(logging.WARNING), running(Consumer(SpoolBus(tmp_path / "spool"), failing, told=told)):
        until(lambda: known(stores.ledger))
        until(lambda: "the ledger goes on" in caplog.messages)
    assert caplog.messages.count("the ledger waits: the database is down") == 1
    assert sum(written.calls for written in told.rows) == 1
    assert max(told.lags) > 0


@pytest.mark.parametrize("error", [RowRefused("DataError"), OverflowError("a bug")])
def test_an_event_that_cannot_be_written_holds_nobody_up(
    stores: sql.Stores, log: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    failing, told = Failing(stores.ledger, refuses="w.2", error=error), Heard()
    write(log, call("w.1"), call("w.2"), call("w.3"))
    assert Consumer(SpoolBus(tmp_path / "spool"), failing, told=told).step() == 3
    assert told.rows == [Written(calls=2, odd=1)]
    assert set(known(stores.ledger)) == {"w.1", "w.3"}
    assert stores.ledger.write(Batch(odd=[refused(Event(None, AT, call("w.2").data))])) == Written()  # is there
    assert type(error).__name__ in caplog.text
    assert "ann@example.com" not in caplog.text


def test_one_that_cannot_be_written_costs_the_others_a_few_transactions(
    stores: sql.Stores, log: Spool, tmp_path: Path
) -> None:
    failing, told = Failing(stores.ledger, refuses="w.77", error=RowRefused("DataError")), Heard()
    write(log, *[call(f"w.{number}") for number in range(256)])
    assert Consumer(SpoolBus(tmp_path / "spool"), failing, told=told).step() == 256
    assert told.rows == [Written(calls=255, odd=1)]
    assert failing.tries <= 2 * 8 + 2  # 256 halved until one is left: both halves each time, and the odd row


def test_sums_that_cannot_be_made_hold_up_no_rows(
    stores: sql.Stores, log: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(stores.ledger, refuses="none")
    consumer = Consumer(SpoolBus(tmp_path / "spool"), failing, "Asia/Tokyo")
    with monkeypatch.context() as broken:
        broken.setattr(failing, "mend", _overflows)
        for name in ("w.1", "w.2"):
            write(log, call(name))
            assert consumer.step() == 1
    assert set(known(stores.ledger)) == {"w.1", "w.2"}
    assert len([line for line in caplog.messages if "integer overflow" in line]) == 1  # and is tried a minute later
    consumer._mends = time.monotonic()
    consumer.step()
    assert not stores.ledger.mend()
    assert len(stores.ledger.usage(Question(DAY, DAY, "Asia/Tokyo"))) == 1


def _overflows() -> bool:
    raise StoreUnavailable("integer overflow")


def test_a_database_that_fails_is_no_fault_of_the_events(stores: sql.Stores, log: Spool, tmp_path: Path) -> None:
    """However often, and also in the middle of looking which of them it refuses."""
    write(log, call("w.1"), call("w.2"), call("w.3"))
    failing, told = Failing(stores.ledger, refuses="w.2", error=RowRefused("DataError")), Heard()
    consumer = Consumer(SpoolBus(tmp_path / "spool"), failing, told=told)
    wanted = failing.write

    def broken(batch: Batch) -> Written:
        if failing.tries in (0, 2, 5):
            failing.tries += 1
            raise DOWN
        return wanted(batch)

    failing.write = broken  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            consumer.step()
    assert consumer.step() == 3
    assert set(known(stores.ledger)) == {"w.1", "w.3"}
    assert sum(written.odd for written in told.rows) == 1


class Broken(SpoolBus):
    """A bus of which a step fails, once."""

    def __init__(self, root: Path, step: str, error: Exception) -> None:
        super().__init__(root)
        self._step, self._error = step, error

    def _fail(self, step: str) -> None:
        if step == self._step:
            self._step = ""
            raise self._error

    def take(self, most: int) -> list[Event]:
        self._fail("take")
        return list(super().take(most))

    def done(self, events: object) -> None:
        self._fail("done")
        super().done(events)  # type: ignore[arg-type]

    def lag(self) -> float:
        self._fail("lag")
        return super().lag()


@pytest.mark.parametrize("error", [BusUnavailable("the bus is down"), RuntimeError("a bug")])
@pytest.mark.parametrize("step", ["take", "done", "lag"])
def test_it_goes_on_whatever_fails(stores: sql.Stores, log: Spool, tmp_path: Path, step: str, error: Exception) -> None:
    write(log, call("w.1"))
    with running(Consumer(Broken(tmp_path / "spool", step, error), stores.ledger)):
        until(lambda: known(stores.ledger))
        write(log, call("w.2"))
        until(lambda: len(known(stores.ledger)) == 2)
    (used,) = stores.ledger.usage(Question(DAY, DAY, "UTC"))
    assert used.calls == 2


def test_sums_are_made_by_the_days_that_are_configured(stores: sql.Stores, log: Spool, tmp_path: Path) -> None:
    write(log, call("w.1"))
    Consumer(SpoolBus(tmp_path / "spool"), stores.ledger).step()
    other = Consumer(SpoolBus(tmp_path / "none"), stores.ledger, "Asia/Tokyo")
    for _ in range(3):
        other.step()
    assert not stores.ledger.mend()
    assert stores.ledger.zone() == "Asia/Tokyo"
    assert len(stores.ledger.usage(Question(DAY, DAY, "Asia/Tokyo"))) == 1


async def test_a_redis_that_dies_and_comes_back_costs_no_call(stores: sql.Stores, tmp_path: Path) -> None:
    with redis_server(appendonly="yes", appendfsync="always") as server:
        bus = StreamAndSpools(RedisBus(server.url, "own", ledger_kills.SLOT, "one"), SpoolBus(tmp_path / "none"))
        with running(Consumer(bus, stores.ledger)):
            await ledger_kills.publish(server.url, "own", call("w.1"))
            await asyncio.to_thread(until, lambda: known(stores.ledger))
            server.kill()
            await asyncio.sleep(0.1)
            server.start()
            await ledger_kills.publish(server.url, "own", call("w.1"), call("w.2"), call("w.3"))
            await asyncio.to_thread(until, lambda: len(known(stores.ledger)) == 3)
        assert server.call("XLEN", f"own:{{{ledger_kills.SLOT}}}:usage") == 0


def counter(measure: Measure) -> Counter:
    """The sum of a limit as calls draw on it: its key tells what it counts."""
    limit = Limit("l", measure, 10**9, period=Period.MONTH)
    return Sums().counter(limit, (), limit.amount, time.time_ns() // 1_000_000)


async def test_a_hold_that_expired_is_a_row_until_its_call_tells(
    stores: sql.Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the very events of the counters in Redis."""
    monkeypatch.setattr(redis_counters, "CALM", 0)
    with redis_server() as server:
        counters = RedisCounters(server.url, 10.0, "own")
        draws = [Draw(counter(Measure.MONEY), 90, kept=7), Draw(counter(Measure.INPUT_TOKENS), 50, kept=40)]
        await counters.renew(ledger_kills.SLOT, [], 1)
        assert (await counters.reserve(ledger_kills.SLOT, "w.1", draws, 1)).granted
        await asyncio.sleep(0.05)
        await counters.renew(ledger_kills.SLOT, [], 1)
        assert await counters.expire(ledger_kills.SLOT) == 1
        bus = StreamAndSpools(RedisBus(server.url, "own", ledger_kills.SLOT, "one"), SpoolBus(tmp_path / "none"))
        consumer = Consumer(bus, stores.ledger, currency="CHF")
        consumer.step()
        assert consumer.step() == 1
        ((row, _),) = stores.ledger.call("w.1")
        assert (row.told, row.cost, row.currency, row.input, row.ending) == (Told.EXPIRY, 7, "CHF", 40, "expired")
        assert abs(row.ended_at.replace(tzinfo=UTC).timestamp() - time.time()) < 60
        await counters.settle(ledger_kills.SLOT, "w.1", [], call("w.1").data)
        assert consumer.step() == 1
        ((row, _),) = stores.ledger.call("w.1")
        assert (row.told, row.cost, row.team) == (Told.WORKER, 5_000, "search")
        bus.close()
        await counters.close()


# ---- kill -9 ---------------------------------------------------------------------------------------

STEP = int(os.environ.get("SLUICE_KILL_STEP", "13"))


@pytest.mark.timeout(300 + 1_500 // STEP)
def test_killed_at_any_step_each_call_is_there_once(tmp_path: Path) -> None:
    """At every STEP-th line that it passes; with SLUICE_KILL_STEP=1 at each."""
    sql.upgrade(f"sqlite:///{tmp_path}/empty.db")
    with redis_server() as server:
        words = [sys.executable, "-m", "tests.support.ledger_kills", server.url, str(tmp_path), str(STEP)]
        subprocess.run(words, check=True, timeout=200 + 700 // STEP)
        points = sorted(int(path.stem) for path in tmp_path.glob("*.db") if path.stem != "empty")
        assert len(points) > 200 // STEP
        half_done = 0
        for point in points:
            database = tmp_path / f"{point}.db"
            half_done += check_killed(server.url, f"kill{point}", database)
        assert half_done > 20 // STEP  # had written some, and not all


def check_killed(url: str, prefix: str, database: Path) -> bool:
    """That the next consumer makes it whole; whether the killed one had begun to."""
    with closing(sql.open_stores(f"sqlite:///{database}")) as stores:
        before = set(known(stores.ledger))
        for _ in range(2):  # the second finds nothing to do
            ledger_kills.consume(url, prefix, database, f"heir-{time.monotonic_ns()}", take_over_ms=0)
            assert known(stores.ledger) == {"w.1": "search", "w.2": "search", "w.3": ""}, prefix
            ((_, tried), *_) = stores.ledger.call("w.1")
            assert len(tried) == 2, prefix
            fast = stores.ledger.usage(Question(DAY, DAY.replace(year=2099), "UTC", ("team",)))
            assert sum(one.calls for one in fast) == 3, prefix
            assert sum(one.cost for one in fast) == 5_000 + 5_000 + 4, prefix
    return bool(before) and len(before) < 3

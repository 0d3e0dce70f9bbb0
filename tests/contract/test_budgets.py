"""Counters made again from the ledger: a Redis that forgot everything stands as before, and no lower meanwhile."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.ledger.budgets import readings
from extproc.ledger.bus import StreamAndSpools
from extproc.ledger.consumer import Consumer
from extproc.ledger.events import read
from extproc.limits import booking
from extproc.limits.booking import Booking
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Limit, Measure, Period, Scope
from extproc.limits.sums import Sums
from extproc.model import Demand
from extproc.stages.budget import SLOT
from extproc.stores import sql
from extproc.stores.counters import Draw
from extproc.stores.ledger import Event
from extproc.stores.redis.bus import RedisBus
from extproc.stores.redis.counters import RedisCounters, slot_keys
from extproc.stores.spool_bus import SpoolBus
from extproc.stores.sql.engine import alone
from tests.support.ledger import CALL
from tests.support.redis_server import RedisServer, redis_server

DATABASE = "sqlite:///ledger.db"
GATEWAY = """\
stores: {database: "sqlite:///ledger.db", counters: "COUNTERS", counters_prefix: "PREFIX"}
backends: {one: {dialect: openai, url: "https://one.example"}}
models: {gpt-4o: {targets: [[{backend: one}]]}}
"""
DAILY = Limit("daily", Measure.REQUESTS, 100, scope=(Scope.TEAM,), period=Period.DAY)
SPENT = Limit("spent", Measure.MONEY, 10**12, scope=(Scope.USER,), period=Period.MONTH, zone="Asia/Kolkata")
ROLLING = Limit("rolling", Measure.TOKENS, 10**6, sliding=86_400_000)
QUICK = Limit("quick", Measure.TOKENS, 10**6, period=Period.MINUTE)
OPEN = Limit("open", Measure.CONCURRENT, 5)
LIMITS = (DAILY, SPENT, ROLLING, QUICK, OPEN)
SUMS = Sums()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> Iterator["Counted"]:
    monkeypatch.chdir(tmp_path)
    prefix = f"t{time.time_ns()}"
    Path("gateway.yaml").write_text(GATEWAY.replace("COUNTERS", server.url).replace("PREFIX", prefix))
    sql.upgrade(DATABASE)
    server.flush()
    with closing(sql.open_stores(DATABASE)) as stores:
        yield Counted(server, prefix, stores)


def now() -> int:
    return time.time_ns() // 1_000_000


class Counted:
    """Calls as a worker settles them, and the ledger that is told of them."""

    def __init__(self, server: RedisServer, prefix: str, stores: sql.Stores) -> None:
        self.server = server
        self._prefix = prefix
        self.stores = stores
        self._calls = 0

    def _counters(self) -> RedisCounters:
        return RedisCounters(self.server.url, wait=5, prefix=self._prefix)

    def call(self, user: str = "ann", tokens: int = 10, ended_ago: int = 0) -> None:
        """`ended_ago`: milliseconds."""
        asyncio.run(self._call(user, tokens, ended_ago))

    async def _call(self, user: str, tokens: int, ended_ago: int) -> None:
        self._calls += 1
        values = {"daily": ("search",), "spent": (f"user/{user}",)}
        ended = now() - ended_ago
        stakes = tuple(
            Stake(one, Draw(SUMS.counter(one, values.get(one.name, ()), one.amount, ended), 0)) for one in LIMITS
        )
        used = {"daily": 1, "spent": tokens * 1_000, "rolling": tokens, "quick": tokens, "open": 0}
        draws = [Draw(stake.draw.counter, used[stake.limit.name]) for stake in stakes]
        name = f"w.{self._calls}"
        held = Hold(name, stakes, Demand())
        event = {"id": name, **CALL, "time": ended / 1000, "booked": booking.told(held, draws, ended)}
        counters = self._counters()
        await counters.settle(SLOT, name, draws, orjson.dumps(event), ended_ago)
        await counters.close()

    def say_again(self) -> None:
        """What a worker tells a Redis that forgot."""
        self._calls -= 1
        telling = Thread(target=self.call)  # a loop of its own
        telling.start()
        telling.join()
        self.book()

    @property
    def sums(self) -> str:
        return slot_keys(self._prefix, SLOT)[0]

    def book(self) -> None:
        """The ledger reads what has come."""
        bus = StreamAndSpools(RedisBus(self.server.url, self._prefix, SLOT, "c"), SpoolBus(Path("spool")))
        consumer = Consumer(bus, self.stores.ledger)
        while consumer.step() or bus.lag():
            pass
        bus.close()

    def stand(self) -> dict[str, int]:
        """What each counter that the ledger knows has, by its limit and the first letters of its digest."""
        return asyncio.run(self._stand())

    async def _stand(self) -> dict[str, int]:
        known = self.stores.budgets.current(now())
        titles = {one.counter: one.limit for one in known}
        counters = self._counters()
        found = await readings(counters, SLOT, known)
        await counters.close()
        return {f"{titles[which[0]]} {which[0][-4:]}": used for which, used in found.items()}


def rebuild(*more: str) -> Result:
    return CliRunner().invoke(app, ["budgets", "rebuild", *more], catch_exceptions=False)


def rebuilt() -> list[dict[str, Any]]:
    result = rebuild("--yes", "--json")
    assert result.exit_code == 0, result.output
    told: list[dict[str, Any]] = json.loads(result.stdout)
    return told


def test_a_redis_that_forgot_everything_stands_as_before(store: Counted) -> None:
    for user, tokens, ago in (("ann", 10, 0), ("ann", 5, 0), ("bob", 7, 0)):
        store.call(user, tokens, ago)
    store.book()
    before = store.stand()
    assert sorted(before.values()) == [3, 22, 7_000, 15_000]
    store.server.flush()
    assert set(store.stand().values()) == {0}
    assert sum(one["added"] for one in rebuilt()) == sum(before.values())
    assert store.stand() == before


def test_again_adds_nothing(store: Counted) -> None:
    store.call()
    store.book()
    store.server.flush()
    rebuilt()
    before = store.stand()
    assert [one["added"] for one in rebuilt()] == [0, 0, 0]
    assert store.stand() == before
    assert "Nothing lacks in 3 counters" in rebuild("--yes").stdout


def test_what_was_used_since_is_counted_once(store: Counted) -> None:
    store.call(tokens=10)
    store.book()
    store.server.flush()
    store.call(tokens=1)
    store.book()
    store.call(tokens=2)  # the ledger does not have it yet

    def wait_for(*_: object) -> bool:
        store.book()
        return True

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("extproc.ledger.budgets.wait_for", wait_for)
        rebuilt()
    assert sorted(store.stand().values()) == [3, 13, 13_000]


def test_what_is_told_again_while_somebody_thinks_is_not_added_twice(
    store: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.call(tokens=10)
    store.book()
    before = store.stand()
    store.server.flush()
    monkeypatch.setattr("extproc.cli.budgets._ask", lambda *_: store.say_again())
    assert rebuild().exit_code == 0
    assert store.stand() == before


def test_workers_are_waited_for_where_the_counters_are_new(store: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cli.budgets._AGAIN_MS", 1_500)
    store.call()
    store.book()
    store.server.call("HSET", store.sums, "since", now())
    assert "workers tell them the last hour again" in rebuild("--yes").stderr
    assert "last hour" not in rebuild("--yes").stderr


def test_one_person_at_a_time(store: Counted) -> None:
    with alone(store.stores.engine, "budgets"):
        result = rebuild("--yes")
    assert (result.exit_code, "Somebody else" in result.stderr) == (1, True)


def test_a_reading_that_was_killed_is_no_call(store: Counted) -> None:
    events = [Event("p", now(), orjson.dumps({"id": name, "expired": True, "kept": {}})) for name in ("look.1", "w.1")]
    assert list(read(events).calls) == ["w.1"]


def test_a_ledger_that_stays_behind_is_waited_for_in_vain(store: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extproc.cli.budgets._PATIENCE_S", 0.3)
    store.call()
    result = rebuild("--yes")
    assert result.exit_code == 1
    assert "waiting for it" in result.stderr
    assert "does not catch up" in result.stderr


def test_what_is_in_the_past_stays_there(store: Counted) -> None:
    """In a sliding window what was used long ago counts no more when it would not have counted before."""
    store.call(tokens=10, ended_ago=80_000_000)
    store.call(tokens=5)
    store.book()
    store.server.flush()
    rebuilt()
    known = [one for one in store.stores.budgets.current(now()) if one.sliding]
    assert [one.units for one in known] == [10, 5]
    assert [one.units for one in store.stores.budgets.current(now() + 10_000_000) if one.sliding] == [5]
    assert store.stand()[f"rolling {known[0].counter[-4:]}"] == 15


def test_nobody_is_asked_without_a_terminal(store: Counted) -> None:
    store.call()
    store.book()
    store.server.flush()
    result = rebuild()
    assert result.exit_code == 1
    assert "give --yes" in result.stderr
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["limit", "counters", "have", "ledger", "lack"],
        ["daily", "(requests)", "1", "0", "1", "1"],
        ["rolling", "(tokens)", "1", "0", "10", "10"],
        ["spent", "(USD)", "1", "0.00", "0.00001", "0.00001"],
    ]
    assert set(store.stand().values()) == {0}


def test_a_redis_that_is_away_and_one_that_is_none(store: Counted) -> None:
    Path("gateway.yaml").write_text(GATEWAY.replace("COUNTERS", "redis://127.0.0.1:1").replace("PREFIX", "x"))
    result = rebuild("--yes")
    assert (result.exit_code, "The counters do not answer" in result.stderr) == (1, True)
    Path("gateway.yaml").write_text(GATEWAY.replace("COUNTERS", "memory://").replace("PREFIX", "x"))
    result = rebuild("--yes")
    assert (result.exit_code, "memory://" in result.stderr) == (1, True)


def test_windows_that_are_over_are_let_go_of(store: Counted) -> None:
    store.call()
    store.book()
    assert store.stores.budgets.forget(now()) == 0
    assert store.stores.budgets.forget(now() + 40 * 86_400_000) == 3
    assert store.stores.budgets.current(0) == []


BOOKINGS = st.builds(Booking, st.text(max_size=64), st.text(max_size=200), *(st.integers(0, 2**53 - 1),) * 4)


@given(some=st.lists(BOOKINGS, max_size=5))
def test_what_is_told_is_read(some: list[Booking]) -> None:
    assert list(booking.read(orjson.dumps([list(one) for one in some]).decode())) == some


@given(
    value=st.recursive(
        st.none() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
        st.lists,
        max_leaves=12,
    )
)
def test_nonsense_is_left_out(value: object) -> None:
    assert all(isinstance(one, Booking) for one in booking.read(json.dumps(value)))

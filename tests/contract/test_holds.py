"""What calls have reserved, as a worker settles it: with both stores, while all is well and while the disk is not."""

import asyncio
import errno
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from extproc import holds as module
from extproc import outage
from extproc.limits.hold import Hold, Stake
from extproc.model import Demand
from extproc.stores import spool
from extproc.stores.counters import MOST, Answer, Counter, Counters, CountersUnavailable, Draw, Renewal, Window
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.redis.batch import words
from extproc.stores.redis.counters import RedisCounters
from extproc.stores.spool import Begun, Settlement, Spool
from tests.support.counters import events_of
from tests.support.holds import (
    AGE,
    CALLS,
    HOUR,
    SLOT,
    TOKENS,
    event,
    hold,
    idle,
    running,
    spent,
    spent_becomes,
    stake,
    told,
    until,
    used,
)
from tests.support.redis_server import RedisServer, redis_server

PATIENT = 10.0  # seconds: what the machine may keep a Redis waiting is not under test


@dataclass(frozen=True, slots=True)
class Ground:
    """A store, and what came onto its usage bus."""

    store: Counters
    events: Callable[[], Sequence[bytes]]
    again: Callable[[], Counters]  # as the next process sees it


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running_server:
        yield running_server


@pytest.fixture(params=["memory", "redis"])
def ground(request: pytest.FixtureRequest) -> Ground:
    if request.param == "memory":
        events: list[bytes] = []
        memory = MemoryCounters(lambda: time.time_ns() // 1_000_000, lambda _slot, told: events.append(told))
        return Ground(memory, lambda: events, lambda: memory)
    server: RedisServer = request.getfixturevalue("server")
    server.flush()
    return Ground(
        RedisCounters(server.url, PATIENT), lambda: events_of(server), lambda: RedisCounters(server.url, PATIENT)
    )


class Broken:
    """A store that can be switched off, in which nothing is reserved, settled or renewed then."""

    def __init__(self, store: Counters) -> None:
        self._store = store
        self.down = False
        self.connections = 0

    async def reserve(
        self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0, note: bytes = b""
    ) -> Answer:
        self._check()
        return await self._store.reserve(slot, hold, draws, life, since, note)

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0) -> Answer:
        self._check()
        return await self._store.extend(slot, hold, draws, life, since)

    async def retake(self, slot: str, hold: str, draws: Sequence[Draw], life: int, note: bytes = b"") -> None:
        self._check()
        await self._store.retake(slot, hold, draws, life, note)

    async def renew(self, slot: str, holds: Sequence[str], life: int, since: int = 0) -> Renewal:
        self._check()
        return await self._store.renew(slot, holds, life, since)

    async def settle(
        self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
    ) -> bool:
        self._check()
        return await self._store.settle(slot, hold, draws, event, ago)

    async def expire(self, slot: str) -> int:
        self._check()
        return await self._store.expire(slot)

    def be_patient(self, seconds: float) -> None:
        self._store.be_patient(seconds)

    async def close(self) -> None:
        await self._store.close()

    def _check(self) -> None:
        if self.down:
            raise CountersUnavailable("switched off")


class Slow(Broken):
    """One that is too slow for more than a few settlements at once, and then takes none of them in time."""

    def __init__(self, store: Counters, most: int) -> None:
        super().__init__(store)
        self._most = most
        self._under_way = 0

    async def settle(
        self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
    ) -> bool:
        self._under_way += 1
        try:
            await asyncio.sleep(0)
            self.down = self._under_way > self._most or (self.down and self._under_way > 1)
            await asyncio.sleep(0)
            return await super().settle(slot, hold, draws, event, ago)
        finally:
            self._under_way -= 1


@pytest.fixture
async def broken(ground: Ground) -> AsyncIterator[Broken]:
    yield Broken(ground.store)
    await ground.store.close()


class TestAllIsWell:
    async def test_a_call(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            one = hold("one")
            answer = await holds.reserve(one)
            assert answer.granted
            assert [reading.used for reading in answer.readings] == [100, 1]
            assert (holds.open, holds.pending, holds.oldest) == (1, 0, 0.0)
            assert (await holds.extend(one, [Draw(TOKENS, 150)])).granted
            assert await spent(ground.store) == 150
            holds.settle(one, used(30), event("one"))
            assert (holds.open, holds.pending) == (0, 1)
            await until(lambda: idle(holds))
            assert (await spent(ground.store), await spent(ground.store, CALLS)) == (30, 0)
            assert ground.events() == [event("one")]
            assert (holds.lost, holds.unspooled) == (0, 0)

    async def test_what_ends_at_about_the_same_time_is_written_together(
        self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []
        write = Spool.write

        def counted(spool: Spool, some: Sequence[Settlement | Begun]) -> None:
            written.append(len(some))
            write(spool, some)

        monkeypatch.setattr(Spool, "write", counted)
        monkeypatch.setattr(module, "_GATHER_S", 0.5)
        async with running(ground.store, tmp_path) as holds:
            for number in range(5):
                holds.settle(hold(f"{number}"), used(1), event(f"{number}"))
                await until(lambda: bool(written))
                await asyncio.sleep(0)
            await until(lambda: idle(holds))
            await spent_becomes(ground.store, [5], TOKENS)
        assert written == [1, 4]

    async def test_a_refused_call_has_no_hold(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            assert not (await holds.reserve(hold("one", units=1_000_001))).granted
            assert holds.open == 0

    async def test_settled_twice_counts_once(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            one = hold("one")
            await holds.reserve(one)
            for _ in range(3):
                holds.settle(one, used(30), event("one"))
            await until(lambda: idle(holds))
            assert await spent(ground.store) == 30
            assert told(ground.events()) == {("one", False): 1}

    async def test_what_was_never_reserved_is_booked(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            holds.settle(hold("one"), used(30), event("one"))
            await until(lambda: idle(holds))
            assert await spent(ground.store) == 30

    async def test_holds_live_for_as_long_as_their_calls(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path, life=600) as holds:
            await holds.reserve(hold("alive"))
            await ground.store.reserve(SLOT, "dead", [Draw(TOKENS, 7, kept=2)], 600)
            await asyncio.sleep(2.5)
            assert await spent(ground.store) == 102
            assert told(ground.events()) == {("dead", True): 1}
            holds.settle(hold("alive"), used(30), event("alive"))
            await until(lambda: idle(holds))
            assert told(ground.events()) == {("dead", True): 1, ("alive", False): 1}
            assert await spent(ground.store) == 32

    async def test_many_at_once(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            names = [f"{number}" for number in range(1_000)]
            await asyncio.gather(*[holds.reserve(hold(name)) for name in names])
            for name in names:
                holds.settle(hold(name), used(3), event(name))
            await until(lambda: idle(holds))
            assert told(ground.events()) == {(name, False): 1 for name in names}
            assert await spent(ground.store) == 3_000

    async def test_the_next_process_finds_nothing_to_do(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            holds.settle(hold("one"), used(30), event("one"))
        (log,) = spool.inherit(tmp_path)
        assert log.taken == log.end > 0
        log.close()


async def test_workers_with_a_store_each_have_their_part(tmp_path: Path) -> None:
    """Repeats of a call are looked for as far as the worker sees them."""
    few = Counter("few", 10, AGE)
    once = Draw(Counter("once", 1), 1)
    store = MemoryCounters(lambda: time.time_ns() // 1_000_000)
    async with running(store, tmp_path, workers=4) as holds:
        tries = [Hold(f"{number}", (stake(few, 1),), Demand()) for number in range(4)]
        answers = [await holds.reserve(one) for one in tries]
        assert [answer.granted for answer in answers] == [True, True, False, False]
        assert [(r.used, r.held, r.wait is None) for answer in answers for r in answer.readings] == [
            (9, 1, False),
            (10, 2, False),
            (10, 2, False),
            (10, 2, False),
        ]
        refused = await holds.extend(tries[0], [Draw(few, 2)])
        assert (refused.granted, refused.readings[0].used) == (False, 10)
        holds.settle(tries[0], [], event("0"))
        await until(lambda: idle(holds))
        first, second = (Hold(name, (stake(few, 1),), Demand(), once=once) for name in ("first", "second"))
        answer = await holds.reserve(first)
        assert (answer.granted, len(answer.readings)) == (True, 2)
        holds.settle(tries[1], [], event("1"))
        await until(lambda: idle(holds))
        assert not (await holds.reserve(second)).granted


@pytest.mark.parametrize(("capacity", "admitted"), [(0, 0), (1, 1), (3, 1), (4, 1), (7, 1), (8, 2)])
async def test_a_part_is_never_nothing_of_something(tmp_path: Path, capacity: int, admitted: int) -> None:
    store = MemoryCounters(lambda: time.time_ns() // 1_000_000)
    async with running(store, tmp_path, workers=4) as holds:
        tries = [Hold(f"{n}", (stake(Counter("few", capacity), 1),), Demand()) for n in range(4)]
        answers = [await holds.reserve(one) for one in tries]
        assert [answer.granted for answer in answers].count(True) == admitted
        assert {answer.readings[0].used for answer in answers if not answer.granted} == {capacity}


class TestWhatNoLimitCounts:
    async def test_is_in_the_spool_and_on_the_bus_of_a_redis(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path) as holds:
            holds.tell("call", event("call"))
            await until(lambda: idle(holds))
        (path,) = tmp_path.glob("*.jsonl")
        assert [line.event for line in map(spool.settlement_in, path.read_bytes().splitlines()) if line] == [
            event("call")
        ]
        is_redis = isinstance(ground.store, RedisCounters)
        assert list(ground.events()) == ([event("call")] if is_redis else [])

    async def test_a_store_in_memory_remembers_nothing_of_it(self, tmp_path: Path) -> None:
        """There may be hundreds a second, for which nobody set a limit: neither now, nor in the next process."""
        for _ in range(2):
            store = MemoryCounters(lambda: time.time_ns() // 1_000_000)
            async with running(store, tmp_path) as holds:
                holds.tell("call", event("call"))
                await until(lambda: idle(holds))
                await until(lambda: all(one.taken == one.end for one in holds._spools))
            assert await store.settle(SLOT, "call", ())

    async def test_a_disk_that_fails_is_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(self: Spool, settlements: object) -> None:
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(Spool, "write", full)
        async with running(MemoryCounters(lambda: time.time_ns() // 1_000_000), tmp_path) as holds:
            holds.tell("call", event("call"))
            await until(lambda: holds.unspooled == 1)


class TestOpenCallsKeepWhatTheyHave:
    """Whatever the store did with their holds, as long as their worker lives."""

    LIMIT = Counter("few", 100, AGE)

    def call(self, name: str, units: int = 100) -> Hold:
        return Hold(name, (stake(self.LIMIT, units), stake(CALLS, 1)), Demand())

    async def test_after_an_outage_longer_than_their_life(self, ground: Ground, broken: Broken, tmp_path: Path) -> None:
        async with running(broken, tmp_path, life=400) as holds:
            await holds.reserve(self.call("open"))
            broken.down = True
            await asyncio.sleep(0.8)
            await ground.store.expire(SLOT)  # some other worker is there already
            assert await spent(ground.store, self.LIMIT) == 0
            broken.down = False
            await spent_becomes(ground.store, (100, 1), self.LIMIT, CALLS)
            assert not (await holds.reserve(self.call("other", 1))).granted
            holds.settle(self.call("open"), [Draw(self.LIMIT, 60)], event("open"))
            await until(lambda: idle(holds))
            assert (await spent(ground.store, self.LIMIT), await spent(ground.store, CALLS)) == (60, 0)

    async def test_where_the_store_has_never_heard_of_them(self, ground: Ground, tmp_path: Path) -> None:
        """As after a fail-over to a replica that lacks the last writes."""
        async with running(ground.store, tmp_path, life=2_000) as holds:
            await holds.reserve(self.call("open", 40))
            await holds.extend(self.call("open"), [Draw(self.LIMIT, 70), Draw(TOKENS, 5)])  # and of a sum that is new
            await asyncio.sleep(0.5)
            await ground.store.settle(SLOT, "open", [])
            assert await spent(ground.store, self.LIMIT) == 0
            await forget(ground.store, "open")
            await spent_becomes(ground.store, (70, 1, 5), self.LIMIT, CALLS, TOKENS)

    async def test_a_lease_goes_on_at_once(self, ground: Ground, tmp_path: Path) -> None:
        async with running(ground.store, tmp_path, life=60_000) as holds:
            one = self.call("open", 40)
            await holds.reserve(one)
            closed = 0
            while not closed:  # its worker may come in between
                await ground.store.renew(SLOT, ["open"], 0)
                closed = await ground.store.expire(SLOT)
            assert (await holds.extend(one, [Draw(self.LIMIT, 100)])).granted
            assert await spent(ground.store, self.LIMIT) == 100
            assert not (await holds.extend(one, [Draw(self.LIMIT, 101)])).granted
            assert (await spent(ground.store, self.LIMIT), await spent(ground.store, CALLS)) == (100, 1)

    async def test_what_a_worker_counted_alone_is_held_when_the_store_is_back(
        self, ground: Ground, broken: Broken, tmp_path: Path
    ) -> None:
        async with running(broken, tmp_path, life=600) as holds:
            broken.down = True
            await holds.reserve(Hold("open", (stake(self.LIMIT, 90, allow=True),), Demand()))
            broken.down = False
            await spent_becomes(ground.store, (90,), self.LIMIT)
            assert not (await holds.reserve(self.call("other", 20))).granted


async def forget(store: Counters, name: str) -> None:
    """Have a store forget that a hold was settled."""
    if isinstance(store, MemoryCounters):
        del store._slots[SLOT]._marks[name]
    elif isinstance(store, RedisCounters):
        await store._connection.send(b"*2\r\n" + words(b"DEL", b"sluice:{gateway}:done:%b" % name.encode()))


class TestOperatorsAreTold:
    async def test_when_the_store_goes_and_when_it_is_back(
        self, broken: Broken, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Once each, however many calls notice; and of the next outage soon after nothing."""
        async with running(broken, tmp_path) as holds:
            for _ in range(2):
                broken.down = True
                for number in range(5):
                    with pytest.raises(CountersUnavailable):
                        await holds.reserve(hold(f"{number}"))
                holds.settle(hold("one"), used(1), event("one"))
                await asyncio.sleep(0.3)
                broken.down = False
                await until(lambda: idle(holds) and not holds._outage._is_on)
        said = [record.message for record in caplog.records if record.name == outage.__name__]
        assert said == [
            "the store of the counters does not answer: switched off",
            "the store of the counters answers again",
        ]

    async def test_of_the_next_outage_after_a_while(
        self, broken: Broken, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outage, "_TELL_S", 0.0)
        async with running(broken, tmp_path) as holds:
            for _ in range(2):
                broken.down = True
                with pytest.raises(CountersUnavailable):
                    await holds.reserve(hold("one"))
                broken.down = False
                await holds.reserve(hold("two"))
        assert [record.message for record in caplog.records].count("the store of the counters answers again") == 2


async def test_what_is_booked_late_counts_when_its_call_ended(ground: Ground, broken: Broken, tmp_path: Path) -> None:
    """Used before midnight in an outage, booked after it."""
    now = time.time_ns() // 1_000_000
    before, after = Window(now - 1_000_000, now + 1_000), Window(now + 1_000, now + 1_000_000)
    day = Counter("day", 100, (before, after))
    async with running(broken, tmp_path) as holds:
        broken.down = True
        holds.settle(hold("one"), [Draw(day, 50)], event("one"))
        await asyncio.sleep(1.5)
        broken.down = False
        await until(lambda: idle(holds))
        assert await spent(ground.store, replace(day, windows=(after,))) == 0
        assert await spent(ground.store, replace(day, windows=(before,))) == 50


class TestTheStoreIsDown:
    """What a limit allows then, and that everything is booked when it is back."""

    async def test_by_default_a_call_is_refused(self, broken: Broken, tmp_path: Path) -> None:
        async with running(broken, tmp_path) as holds:
            broken.down = True
            for one in (hold("one"), with_stake(hold("two", allow=True), stake(HOUR, 1))):
                with pytest.raises(CountersUnavailable):
                    await holds.reserve(one)
                assert not one.local
            assert holds.open == 0

    async def test_where_all_limits_allow_it_a_worker_counts_alone(
        self, ground: Ground, broken: Broken, tmp_path: Path
    ) -> None:
        """By its own share of the capacity, with no look at what the store has, and none at repeats."""
        four = Counter("few", 10, AGE)
        once = Draw(Counter("once", 1), 1)
        async with running(broken, tmp_path, workers=3) as holds:
            broken.down = True
            stakes = stake(four, 1, allow=True), stake(replace(CALLS, enforced=False), 1)
            tries = [Hold(f"{number}", stakes, Demand(), once=once) for number in range(5)]
            answers = [await holds.reserve(one) for one in tries]
            assert [answer.granted for answer in answers] == [True, True, True, False, False]
            assert [len(answer.readings) for answer in answers] == [2] * 5
            assert all(one.local for one in tries)
            assert holds.open == 3
            holds.settle(tries[0], [Draw(four, 0), Draw(CALLS, 1)], event("0"))
            await until(lambda: holds.pending == 1 and not holds._fresh)
            assert (await holds.reserve(Hold("6", stakes, Demand()))).granted
            broken.down = False
            for one in (tries[1], tries[2], Hold("6", stakes, Demand())):
                holds.settle(one, [Draw(four, 1)], event(one.id))
            await until(lambda: idle(holds))
            assert await spent(ground.store, four) == 3
            assert told(ground.events()) == {(name, False): 1 for name in "0126"}

    async def test_a_lease_goes_on_alone(self, ground: Ground, broken: Broken, tmp_path: Path) -> None:
        few = Counter("few", 20, AGE)
        async with running(broken, tmp_path, workers=2) as holds:
            once = Draw(Counter("once", 1), 1)
            one = Hold("one", (stake(few, 4, allow=True),), Demand(), once=once)
            assert (await holds.reserve(one)).granted
            broken.down = True
            assert [(await holds.extend(one, [Draw(few, units), once])).granted for units in (8, 10, 11)] == [
                True,
                True,
                False,
            ]
            assert one.local
            broken.down = False
            assert not (await holds.extend(one, [Draw(few, 12)])).granted
            assert await spent(ground.store, few) == 4
            holds.settle(one, [Draw(few, 10)], event("one"))
            await until(lambda: idle(holds))
            assert await spent(ground.store, few) == 10

    async def test_what_is_counted_alone_lives_for_as_long_as_its_call(self, broken: Broken, tmp_path: Path) -> None:
        single = stake(Counter("single", 1), 1, allow=True)
        async with running(broken, tmp_path, life=600) as holds:
            broken.down = True
            one = Hold("one", (single,), Demand())
            assert (await holds.reserve(one)).granted
            await asyncio.sleep(1.5)
            assert not (await holds.reserve(Hold("two", (single,), Demand()))).granted
            holds.settle(one, [], event("one"))
            await until(lambda: not holds._fresh)
            await asyncio.sleep(0.1)
            assert (await holds.reserve(Hold("three", (single,), Demand()))).granted

    async def test_a_lease_that_may_not_ends(self, broken: Broken, tmp_path: Path) -> None:
        async with running(broken, tmp_path) as holds:
            one = hold("one")
            await holds.reserve(one)
            broken.down = True
            with pytest.raises(CountersUnavailable):
                await holds.extend(one, [Draw(TOKENS, 200)])
            assert not one.local

    async def test_settlements_wait_and_none_is_lost(
        self, ground: Ground, broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """More than fit into memory."""
        monkeypatch.setattr(module, "_MOST_PENDING", 20)
        async with running(broken, tmp_path) as holds:
            broken.down = True
            for number in range(100):
                holds.settle(hold(f"{number}"), used(1), event(f"{number}"))
                if number % 7 == 0:
                    await until(lambda: not holds._fresh)
            await until(lambda: not holds._fresh)
            assert 0 < holds.pending <= 40
            assert holds.oldest > 0
            await asyncio.sleep(0.3)
            assert ground.events() == []
            broken.down = False
            await until(lambda: idle(holds))
            assert told(ground.events()) == {(f"{number}", False): 1 for number in range(100)}
            assert await spent(ground.store) == 100
            assert holds.lost == 0

    async def test_what_is_left_at_the_end_is_for_the_next_process(
        self, ground: Ground, broken: Broken, tmp_path: Path
    ) -> None:
        async with running(broken, tmp_path, within=0.2) as holds:
            broken.down = True
            holds.settle(hold("one"), used(30), event("one"))
            holds.settle(hold("two"), used(30), event("two"))
        (log,) = spool.inherit(tmp_path)
        assert (log.taken, log.end > 0) == (0, True)
        log.close()
        store = ground.again()
        assert ground.events() == []
        async with running(store, tmp_path) as holds:
            await until(lambda: idle(holds))
            assert told(ground.events()) == {("one", False): 1, ("two", False): 1}
            assert await spent(store) == 60

    async def test_another_connection_is_told_the_last_minute_again(
        self, ground: Ground, broken: Broken, tmp_path: Path
    ) -> None:
        """The store lost the last of what it had taken, and remembers the rest."""
        async with running(broken, tmp_path) as holds:
            holds.settle(hold("one"), used(30), event("one"))
            await until(lambda: idle(holds) and holds._since > 0)
            said: list[str] = []
            settle = ground.store.settle

            async def listen(
                slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
            ) -> bool:
                said.append(hold)
                return await settle(slot, hold, draws, event, ago)

            await asyncio.sleep(0.5)
            broken.settle = listen  # type: ignore[method-assign]
            broken.connections += 1
            await until(lambda: said == ["one"])


class TestTheDiskFails:
    async def test_the_store_gets_it_all_the_same(
        self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(self: Spool, settlements: object) -> None:
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(Spool, "write", full)
        async with running(ground.store, tmp_path) as holds:
            holds.settle(hold("one"), used(30), event("one"))
            await until(lambda: idle(holds))
            assert await spent(ground.store) == 30
            assert (holds.unspooled, holds.lost) == (1, 0)
        assert "no space" in caplog.text

    async def test_and_the_store_is_down(self, broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then memory is all there is, and what does not fit there is counted as lost."""

        def full(self: Spool, settlements: object) -> None:
            raise OSError(errno.ENOSPC, "no space")

        monkeypatch.setattr(Spool, "write", full)
        monkeypatch.setattr(module, "_MOST_PENDING", 5)
        async with running(broken, tmp_path, within=0.1) as holds:
            broken.down = True
            for number in range(30):
                holds.settle(hold(f"{number}"), used(1), b"")
                await until(lambda: not holds._fresh)
            assert holds.pending + holds.lost == 30
            assert 5 <= holds.pending <= 10  # as many again may be on their way to the store just then

    async def test_it_hangs(self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Calls go on, holds live on, and what calls used is booked; only the spool goes without."""
        write, hangs = Spool.write, [True]

        def hanging(self: Spool, settlements: Sequence[spool.Settlement]) -> None:
            while hangs[0]:
                time.sleep(0.01)
            write(self, settlements)

        monkeypatch.setattr(Spool, "write", hanging)
        monkeypatch.setattr(module, "_MOST_PENDING", 5)
        async with running(ground.store, tmp_path, life=600) as holds:
            try:
                await holds.reserve(hold("alive"))
                for number in range(8):
                    holds.settle(hold(f"{number}"), used(1), event(f"{number}"))
                    await until(lambda: holds.pending == 0)
                assert (holds.lost, holds.unspooled) == (0, 3)
                await asyncio.sleep(1.5)
                assert len(ground.events()) == 8
                assert await spent(ground.store) == 108
            finally:
                hangs[0] = False
            await until(lambda: idle(holds))
            (log,) = holds._spools
            assert [one.hold for one in log.read(0, log.end, 10)[0]] == [f"{number}" for number in range(5)]

    async def test_it_hangs_and_the_store_is_down(
        self, broken: Broken, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory is full at some time, and what comes then is lost, and counted."""
        hangs = [True]

        def hanging(self: Spool, settlements: Sequence[spool.Settlement]) -> None:
            while hangs[0]:
                time.sleep(0.01)

        monkeypatch.setattr(Spool, "write", hanging)
        monkeypatch.setattr(module, "_MOST_PENDING", 5)
        async with running(broken, tmp_path, within=0.5) as holds:
            broken.down = True
            for number in range(8):
                holds.settle(hold(f"{number}"), used(1), event(f"{number}"))
            assert (holds.pending, holds.lost) == (5, 3)
            hangs[0] = False

    async def test_what_ends_meanwhile_is_settled_at_the_end_all_the_same(
        self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hangs = [True]

        def hanging(self: Spool, settlements: Sequence[spool.Settlement]) -> None:
            while hangs[0]:
                time.sleep(0.01)

        monkeypatch.setattr(Spool, "write", hanging)
        holds = module.Holds(ground.store, [spool.begin(tmp_path)])
        holds.settle(hold("one"), used(3), event("one"))
        await holds.close(0.5)
        hangs[0] = False
        assert ground.events() == [event("one")]

    async def test_what_cannot_be_read_back_does_not_hold_up_the_rest(
        self, ground: Ground, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        log = spool.begin(tmp_path)
        log.write([spool.Settlement("lost", (), b"", 1)])
        (path,) = tmp_path.glob("*.jsonl")
        log.close()
        logs = [spool.begin(tmp_path), *spool.inherit(tmp_path)]
        path.unlink()
        holds = module.Holds(ground.store, logs)
        background = asyncio.ensure_future(holds.run())
        await until(lambda: idle(holds))
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)
        await holds.close(1)
        assert "cannot be read" in caplog.text


class TestTheStoreIsSlow:
    async def test_what_is_too_much_at_once_goes_there_in_smaller_parts(self, ground: Ground, tmp_path: Path) -> None:
        """Else the more were pending, the surer none of them would be taken."""
        async with running(Slow(ground.store, most=20), tmp_path) as holds:
            for number in range(200):
                holds.settle(hold(f"{number}"), used(1), event(f"{number}"))
            await until(lambda: holds.pending == 0)
            assert {name for name, _ in told(ground.events())} == {f"{number}" for number in range(200)}


class TestMistakes:
    async def test_one_that_cannot_be_booked_holds_up_no_other(
        self, ground: Ground, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with running(ground.store, tmp_path) as holds:
            await until(lambda: holds._since > 0)  # what comes before may be said twice
            holds.settle(hold("wrong"), used(MOST + 1), event("wrong"))
            holds.settle(hold("right"), used(3), event("right"))
            await until(lambda: idle(holds))
            assert told(ground.events()) == {("right", False): 1}
            assert holds.lost == 1
        assert "cannot be booked: ValueError" in caplog.text

    async def test_whatever_breaks_inside_the_work_goes_on(
        self, ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        keep, broken = Spool.keep, [True]

        def breaks_once(self: Spool, taken: int, now: int) -> None:
            if broken.pop() if broken else False:
                raise RuntimeError("secret words")
            keep(self, taken, now)

        monkeypatch.setattr(Spool, "keep", breaks_once)
        with caplog.at_level(logging.ERROR):
            async with running(ground.store, tmp_path) as holds:
                await until(lambda: not broken)
                holds.settle(hold("one"), used(3), event("one"))
                await until(lambda: idle(holds))
        assert "RuntimeError" in caplog.text
        assert "secret" not in caplog.text


def with_stake(held: Hold, more: Stake) -> Hold:
    held.stakes = (*held.stakes, more)
    return held

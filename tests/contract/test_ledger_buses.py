"""The buses that the ledger reads: what was taken and is not done comes again, to somebody, and nothing else does."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from extproc.ledger.bus import StreamAndSpools
from extproc.stores import spool
from extproc.stores.ledger import Bus, BusUnavailable, Event
from extproc.stores.redis import bus as redis_bus
from extproc.stores.redis.bus import GROUP, RedisBus
from extproc.stores.redis.counters import RedisCounters
from extproc.stores.spool import KEPT_MS, LEDGER_MS, Begun, Settlement, Spool
from extproc.stores.spool_bus import SpoolBus
from tests.support.counters import PATIENCE
from tests.support.gateway import until
from tests.support.redis_server import RedisServer, redis_server

SLOT = "gateway"
MANY = 100


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


_prefixes = (f"bus{number}" for number in itertools.count())


@pytest.fixture
def prefix() -> str:
    return next(_prefixes)


@pytest.fixture
def consumer(server: RedisServer, prefix: str) -> Iterator[Callable[..., RedisBus]]:
    """Makes consumers of one stream."""
    made: list[RedisBus] = []

    def make(name: str = "one", take_over_ms: int = 60_000, most: int = 1_000) -> RedisBus:
        made.append(RedisBus(server.url, prefix, SLOT, name, take_over_ms, most))
        return made[-1]

    yield make
    for one in made:
        one.close()


async def publish(server: RedisServer, prefix: str, *names: str) -> None:
    """As settlements do."""
    store = RedisCounters(server.url, PATIENCE, prefix)
    for name in names:
        await store.settle(SLOT, name, (), data(name))
    await store.close()


def data(name: str) -> bytes:
    return orjson.dumps({"id": name})


def names(events: Sequence[Event]) -> list[str]:
    return [orjson.loads(event.data)["id"] for event in events]


def taken(bus: Bus) -> list[str]:
    return names(bus.take(MANY))


def finish(bus: Bus) -> list[str]:
    """Take all that is there, and be done with it."""
    found: list[str] = []
    while events := bus.take(2):
        bus.done(events)
        found += names(events)
    return found


def is_up(bus: Bus) -> bool:
    try:
        bus.lag()
    except BusUnavailable:
        return False
    return True


# ---- Redis -----------------------------------------------------------------------------------------


class TestRedis:
    async def test_events_come_in_order_and_leave_when_they_are_done(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b", "c")
        bus = consumer()
        assert taken(bus) == []  # which makes the group
        assert finish(bus) == ["a", "b", "c"]
        assert server.call("XLEN", f"{prefix}:{{{SLOT}}}:usage") == 0
        assert taken(bus) == []

    async def test_an_event_tells_when_it_came(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        before = time.time() * 1000 - 1_000
        await publish(server, prefix, "a")
        bus = consumer()
        bus.take(MANY)
        assert 0 <= bus.lag() < 30
        (event,) = bus.take(MANY)
        assert before < event.at < time.time() * 1000 + 1_000
        bus.done([event])
        assert bus.lag() == 0.0

    def test_where_there_is_no_stream_yet_nothing_comes(self, consumer: Callable[..., RedisBus]) -> None:
        bus = consumer()
        assert taken(bus) == []
        assert bus.lag() == 0.0
        bus.done([])

    async def test_two_share_what_there_is(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b", "c", "d")
        one, two = consumer("one"), consumer("two")
        assert taken(one) == []
        assert (names(one.take(2)), names(two.take(2))) == (["a", "b"], ["c", "d"])
        assert taken(one) + taken(two) == []

    async def test_what_was_not_done_comes_again(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b", "c")
        bus = consumer()
        assert taken(bus) == []
        bus.done(bus.take(1))
        assert taken(bus) == ["b", "c"]
        bus.again()
        assert finish(bus) == ["b", "c"]

    async def test_what_a_dead_one_took_is_taken_over(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b", "c")
        dead, patient, heir = consumer("dead"), consumer("patient"), consumer("heir", take_over_ms=0)
        assert taken(dead) == []
        assert taken(dead) == ["a", "b", "c"]
        assert taken(patient) == []
        assert finish(heir) == ["a", "b", "c"]

    async def test_the_name_of_one_who_is_long_gone_is_forgotten(
        self,
        server: RedisServer,
        prefix: str,
        consumer: Callable[..., RedisBus],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await publish(server, prefix, "a")
        busy, idle = consumer("busy"), consumer("idle")
        assert [taken(busy), taken(busy), taken(idle)] == [[], ["a"], []]
        assert self.known(server, prefix) >= {b"busy", b"idle"}
        monkeypatch.setattr(redis_bus, "_FORGET_MS", -1)
        taken(consumer("last"))
        assert self.known(server, prefix) - {b"last"} == {b"busy"}

    def known(self, server: RedisServer, prefix: str) -> set[bytes]:
        """The names of the group's consumers."""
        found = server.call("XINFO", "CONSUMERS", f"{prefix}:{{{SLOT}}}:usage", GROUP)
        return {one[b"name"] for one in found}

    async def test_where_redis_lost_its_memory_there_is_a_gap(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a")
        bus = consumer()
        taken(bus)
        gaps = bus.gaps
        taken(bus)
        server.flush()
        await publish(server, prefix, "b")
        assert taken(bus) == []
        assert bus.gaps == gaps + 1
        assert finish(bus) == ["b"]

    async def test_a_stream_that_is_not_there_any_more_is_a_gap_once_and_its_return_another(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a")
        bus = consumer()
        taken(bus)
        finish(bus)
        gaps, newest = bus.gaps, bus.newest()
        assert bus.has_passed(newest)
        server.flush()
        assert not bus.has_passed(newest)  # nobody knows what waited
        for _ in range(3):
            assert taken(bus) == []
        assert (bus.gaps, bus.newest(), bus.lag()) == (gaps + 1, b"", 0.0)
        await publish(server, prefix, "b")
        assert finish(bus) + finish(bus) == ["b"]
        assert bus.gaps == gaps + 2

    async def test_each_consumer_learns_of_a_loss_whoever_came_first(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a")
        first, second = consumer("first"), consumer("second")
        for bus in (first, second):
            taken(bus)
            finish(bus)
        gaps, newest = (first.gaps, second.gaps), second.newest()
        server.flush()
        await publish(server, prefix, "b")
        taken(first)
        assert not second.has_passed(newest)
        finish(second)
        assert (first.gaps, second.gaps) == (gaps[0] + 1, gaps[1] + 1)

    @pytest.mark.parametrize("lost", ["entries", "place"])
    async def test_a_stream_of_an_earlier_time_is_a_gap(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus], lost: str
    ) -> None:
        """As a replica that lagged, or a snapshot, has it: the group knows us, and the last entries are gone."""
        key = f"{prefix}:{{{SLOT}}}:usage"
        await publish(server, prefix, "a")
        bus = consumer()
        taken(bus)
        finish(bus)
        earlier = server.call("DUMP", key)
        await publish(server, prefix, "b", "c")
        bus.lag()
        gaps = bus.gaps
        server.call("RESTORE", key, "0", earlier, "REPLACE")
        if lost == "entries":  # what came since then is newer
            await publish(server, prefix, "d")
        bus.lag()
        assert bus.gaps == gaps + 1
        bus.lag()
        assert bus.gaps == gaps + 1

    async def test_where_the_stream_is_full_there_may_be_a_gap(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b", "c")
        bus = consumer(most=3)
        taken(bus)
        gaps = bus.gaps
        bus.lag()
        assert bus.gaps == gaps + 1
        finish(bus)
        bus.lag()
        assert bus.gaps == gaps + 1

    async def test_an_entry_that_was_trimmed_away_is_a_gap_and_holds_nobody_up(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus]
    ) -> None:
        await publish(server, prefix, "a", "b")
        bus = consumer()
        taken(bus)
        gaps = bus.gaps
        assert taken(bus) == ["a", "b"]
        server.call("XTRIM", f"{prefix}:{{{SLOT}}}:usage", "MAXLEN", "1")
        bus.again()
        assert finish(bus) == ["b"]
        assert bus.gaps == gaps + 1
        assert server.call("XPENDING", f"{prefix}:{{{SLOT}}}:usage", GROUP)["pending"] == 0

    async def test_a_server_that_does_not_answer_is_waited_for(
        self, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_bus, "_ANSWER_S", 0.3)
        with redis_server(appendonly="yes", appendfsync="always") as own:
            await publish(own, prefix, "a", "b")
            bus = RedisBus(own.url, prefix, SLOT, "one")
            taken(bus)
            events = bus.take(1)
            own.stall()
            for step in (lambda: bus.take(1), lambda: bus.done(events), bus.lag):
                with pytest.raises(BusUnavailable):
                    step()
            own.resume()
            own.restart()
            until(lambda: is_up(bus), PATIENCE)  # it loads its data first
            assert finish(bus) in (["a", "b"], ["b"])  # whether the first was done was not known
            bus.close()


# ---- spools ----------------------------------------------------------------------------------------


def settlement(name: str, at: int | None = None) -> Settlement:
    return Settlement(name, (), data(name), time.time_ns() // 1_000_000 if at is None else at)


def begun(name: str) -> Begun:
    return Begun(name, b'{"id":"%b"}' % name.encode(), 0)


def write(log: Spool, *written: str, is_taken: bool = True) -> None:
    log.write([settlement(name) for name in written])
    if is_taken:
        log.keep(log.end, time.time_ns() // 1_000_000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Spool]:
    made = spool.begin(tmp_path)
    yield made
    made.close()


class TestSpools:
    def test_what_the_store_has_taken_comes_in_order(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a", "b")
        write(log, "c", is_taken=False)
        bus = SpoolBus(tmp_path)
        assert finish(bus) == ["a", "b"]
        log.keep(log.end, 0)
        assert finish(bus) == ["c"]

    def test_of_several_spools_all_comes_and_of_dead_workers_too(self, tmp_path: Path) -> None:
        logs = [spool.begin(tmp_path) for _ in range(3)]
        for number, one in enumerate(logs):
            write(one, f"{number}a", f"{number}b", f"{number}c")
        logs[1].close()
        assert sorted(finish(SpoolBus(tmp_path))) == [f"{n}{x}" for n in range(3) for x in "abc"]

    def test_the_next_one_goes_on_behind_what_is_done(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a", "b", "c")
        first = SpoolBus(tmp_path)
        first.done(first.take(1))
        assert names(first.take(1)) == ["b"]
        first.close()
        assert finish(SpoolBus(tmp_path)) == ["b", "c"]

    def test_what_was_not_done_comes_again(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a", "b")
        bus = SpoolBus(tmp_path)
        assert taken(bus) == ["a", "b"]
        assert taken(bus) == []
        bus.again()
        assert finish(bus) == ["a", "b"]

    def test_one_reads_at_a_time(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a")
        first, second = SpoolBus(tmp_path), SpoolBus(tmp_path)
        assert taken(first) == ["a"]
        assert taken(second) == []
        first.close()
        assert taken(second) == ["a"]

    def test_where_no_worker_has_begun_yet_nothing_comes(self, tmp_path: Path) -> None:
        bus = SpoolBus(tmp_path / "none")
        assert taken(bus) == []
        assert bus.lag() == 0.0

    def test_segments_are_read_one_after_the_other(self, log: Spool, tmp_path: Path) -> None:
        for number in range(5):
            write(log, f"{number}")
            log._end_segment()
        assert len(list(tmp_path.glob("*.jsonl"))) == 5
        bus = SpoolBus(tmp_path)
        assert bus.lag() < 60
        assert names(bus.take(3)) == ["0", "1", "2"]
        assert taken(bus) == ["3", "4"]

    def test_calls_that_have_begun_are_no_events_and_are_passed(self, log: Spool, tmp_path: Path) -> None:
        log.write([begun("a"), begun("b"), settlement("a"), begun("c"), settlement("b"), begun("d")])
        log.keep(log.end, 0)
        bus = SpoolBus(tmp_path)
        assert names(bus.take(1)) == ["a"]
        last = bus.take(1)
        assert names(last) == ["b"]
        bus.done(last)
        assert bus.lag() == 0
        assert taken(bus) == []
        assert spool.noted_of(tmp_path, log._name, -1) == log.end

    def test_the_last_segment_of_who_died_in_the_middle_of_a_call_goes_too(self, tmp_path: Path) -> None:
        dead = spool.begin(tmp_path)
        write(dead, "a")
        dead.write([begun("b")])
        dead.keep(dead.end, 0)
        dead.close()
        (heir,) = spool.inherit(tmp_path)
        assert finish(SpoolBus(tmp_path)) == ["a"]
        heir.keep(heir.end, time.time_ns() // 1_000_000 + 2 * spool.KEPT_MS)
        assert heir.is_empty
        heir.close()

    def test_where_nothing_but_that_was_written_nothing_is_read_twice(self, log: Spool, tmp_path: Path) -> None:
        log.write([begun("a"), begun("b")])
        log.keep(log.end, 0)
        bus = SpoolBus(tmp_path)
        assert taken(bus) == []
        assert spool.noted_of(tmp_path, log._name, -1) == log.end
        write(log, "a")
        assert finish(bus) == ["a"]

    def test_a_damaged_line_goes_on_as_it_is(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a", "b")
        (path,) = tmp_path.glob("*.jsonl")
        path.write_bytes(path.read_bytes().replace(b'{"hold":"a"', b'{"hold"!"a"'))
        bus = SpoolBus(tmp_path)
        first, second = bus.take(MANY)
        assert first.data.startswith(b'{"hold"!"a"')
        assert names([second]) == ["b"]

    def test_a_damaged_note_has_all_read_again(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a", "b")
        bus = SpoolBus(tmp_path)
        finish(bus)
        (note,) = tmp_path.glob("*.ledger")
        note.write_bytes(b"?")
        bus.close()
        assert finish(SpoolBus(tmp_path)) == ["a", "b"]

    def test_how_long_the_oldest_waits(self, log: Spool, tmp_path: Path) -> None:
        log.write([settlement("a", at=time.time_ns() // 1_000_000 - 90_000)])
        write(log, "b")
        bus = SpoolBus(tmp_path)
        assert 90 <= bus.lag() < 150
        bus.done(bus.take(1))
        assert bus.lag() < 60


class TestKeptForTheLedger:
    """A spool keeps what the ledger lacks beyond its hour, for as long as there is a ledger."""

    def aged(self, root: Path) -> int:
        """The time, after the hour for which everything is kept."""
        return time.time_ns() // 1_000_000 + KEPT_MS + 60_000

    def test_until_it_has_it(self, log: Spool, tmp_path: Path) -> None:
        bus = SpoolBus(tmp_path)
        bus.take(1)
        write(log, "a")
        bus._tended = -100.0
        bus.take(0)
        log.keep(log.end, self.aged(tmp_path))
        assert not log.is_empty
        bus.again()
        assert finish(bus) == ["a"]
        log.keep(log.end, self.aged(tmp_path))
        assert log.is_empty

    def test_no_longer_than_a_day_after_it_was_heard_of(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a")
        SpoolBus(tmp_path).take(0)
        (note,) = tmp_path.glob("*.ledger")
        long_ago = time.time_ns() - (LEDGER_MS + 60_000) * 1_000_000
        os.utime(note, ns=(long_ago, long_ago))
        log.keep(log.end, self.aged(tmp_path))
        assert log.is_empty

    def test_no_longer_than_ever_where_there_is_none(self, log: Spool, tmp_path: Path) -> None:
        write(log, "a")
        log.keep(log.end, self.aged(tmp_path))
        assert log.is_empty

    def test_with_a_spool_goes_what_was_noted_of_it(self, tmp_path: Path) -> None:
        log = spool.begin(tmp_path)
        write(log, "a")
        bus = SpoolBus(tmp_path)
        finish(bus)
        log.keep(log.end, self.aged(tmp_path))
        log.discard()
        assert [path.name for path in tmp_path.iterdir()] == ["ledger.lock"]
        (tmp_path / "stale.ledger").touch()
        bus._tended = -100.0
        bus.take(1)
        assert not list(tmp_path.glob("*.ledger"))


# ---- both ------------------------------------------------------------------------------------------


class TestStreamAndSpools:
    async def test_what_the_stream_has_lost_is_in_the_spools(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus], log: Spool, tmp_path: Path
    ) -> None:
        bus = StreamAndSpools(consumer(), SpoolBus(tmp_path))
        await publish(server, prefix, "a")
        write(log, "a")
        assert finish(bus) == ["a"]  # from the spool
        assert set(finish(bus)) == {"a"}  # and from the stream, whose group was made by the first look
        await publish(server, prefix, "b")
        write(log, "b")
        server.flush()
        await publish(server, prefix, "c")
        found = finish(bus) + finish(bus)
        assert set(found) == {"b", "c"}

    async def test_what_left_the_stream_is_not_read_again_from_the_spools(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus], log: Spool, tmp_path: Path
    ) -> None:
        spools = SpoolBus(tmp_path)
        bus = StreamAndSpools(consumer(), spools)
        finish(bus)
        await publish(server, prefix, "a", "b")
        write(log, "a", "b")
        for _ in range(4):
            finish(bus)
            bus.lag()
        spools.close()
        assert finish(SpoolBus(tmp_path)) == []

    async def test_what_still_waits_on_the_stream_is_not_noted(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus], log: Spool, tmp_path: Path
    ) -> None:
        spools = SpoolBus(tmp_path)
        bus = StreamAndSpools(consumer(), spools)
        await publish(server, prefix, "a")
        for _ in range(3):
            finish(bus)
            bus.lag()
        await publish(server, prefix, "b")
        write(log, "b")
        for _ in range(3):
            bus.take(MANY)
            bus.lag()
        spools.close()
        assert finish(SpoolBus(tmp_path)) == ["b"]

    @pytest.mark.parametrize("together", [False, True], ids=["alone", "together"])
    async def test_a_loss_while_the_database_is_away_costs_nothing(
        self,
        server: RedisServer,
        prefix: str,
        consumer: Callable[..., RedisBus],
        log: Spool,
        tmp_path: Path,
        together: bool,
    ) -> None:
        """What waits on the stream is lost with it, and nothing new comes for a while."""
        spools = SpoolBus(tmp_path)
        bus = StreamAndSpools(consumer(), spools)
        await publish(server, prefix, "a")
        write(log, "a")
        for _ in range(4):
            finish(bus)
            bus.lag()
        await publish(server, prefix, "b", "c")
        write(log, "b", "c")
        bus.take(MANY)
        bus.again()
        bus.lag()
        server.flush()
        if together:  # somebody else, who has other spools, is there first
            await publish(server, prefix, "d")
            other = consumer("other")
            assert taken(other) == []
            assert finish(other) == ["d"]
        bus.lag()
        found: list[str] = []
        for _ in range(3):
            found += taken(bus)
            bus.again()
            bus.lag()
        assert set(found) == {"b", "c"}
        spools.close()
        assert finish(SpoolBus(tmp_path)) == ["b", "c"]

    async def test_a_gap_is_told_and_a_beginning_is_none(
        self,
        server: RedisServer,
        prefix: str,
        consumer: Callable[..., RedisBus],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        gaps: list[None] = []
        bus = StreamAndSpools(consumer(), SpoolBus(tmp_path), lambda: gaps.append(None))
        finish(bus)
        await publish(server, prefix, "a")
        assert set(finish(bus) + finish(bus)) == {"a"}
        assert (gaps, caplog.messages) == ([], [])
        for lost in (1, 2):
            server.flush()
            await publish(server, prefix, "b")
            assert set(finish(bus) + finish(bus)) == {"b"}
            assert len(gaps) == lost
        assert caplog.messages == ["events may be missing on the stream: the spools of this machine are read"]

    async def test_lag_is_that_of_the_stream(
        self, server: RedisServer, prefix: str, consumer: Callable[..., RedisBus], tmp_path: Path
    ) -> None:
        bus = StreamAndSpools(consumer(), SpoolBus(tmp_path))
        await publish(server, prefix, "a")
        time.sleep(0.05)
        assert bus.lag() >= 0.04

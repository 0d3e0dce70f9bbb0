"""Counters under test: in memory, and in a Redis of our own."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from extproc.stores.counters import QUIET, Counter, Counters, Draw, Reading, Window
from extproc.stores.memory_counters import MemoryCounters
from extproc.stores.redis.counters import RedisCounters
from tests.support.redis_server import RedisServer

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
PATIENCE = 10.0  # seconds: what the machine may keep a Redis waiting is not under test


class Clock:
    """A clock in milliseconds that stands until it is moved. It begins near the end of a minute, day and month."""

    def __init__(self) -> None:
        self.now = int(datetime(2026, 1, 31, 23, 59, 17, 123_000, tzinfo=UTC).timestamp() * 1000)

    def __call__(self) -> int:
        return self.now


@dataclass(frozen=True, slots=True)
class Ground:
    """A store, empty at first, the clock that it goes by, and what came onto the usage bus from any slot."""

    store: Counters
    clock: Clock
    events: Callable[[], list[bytes]]

    async def look(self, counter: Counter, slot: str = "slot", units: int = 0) -> Reading:
        """How a counter stands, and how long units would wait, without a trace: nobody's hold cannot be extended."""
        answer = await self.store.extend(slot, "nobody", [Draw(counter, units)], 1)
        assert not answer.granted
        return answer.readings[0]

    async def wait(self, ms: int, slot: str = "slot") -> None:
        """Let time pass while somebody renews holds, though none of these."""
        end = self.clock.now + ms
        while self.clock.now < end:
            await self.store.renew(slot, [], 1)
            self.clock.now = min(self.clock.now + QUIET, end)

    async def used(self, counter: Counter, slot: str = "slot") -> int:
        return (await self.look(counter, slot)).used


_prefixes = (f"test{number}" for number in itertools.count())


@asynccontextmanager
async def ground_on(server: RedisServer | None) -> AsyncIterator[Ground]:
    """Counters in this Redis, or in memory where there is none."""
    clock = Clock()
    if server is None:
        events: list[bytes] = []
        memory = MemoryCounters(clock, lambda _slot, event: events.append(event))
        yield Ground(memory, clock, lambda: events)
        return
    prefix = next(_prefixes)
    store = RedisCounters(server.url, PATIENCE, prefix, clock)
    try:
        yield Ground(store, clock, lambda: events_of(server, prefix))
    finally:
        await store.close()


def events_of(server: RedisServer, prefix: str = "sluice") -> list[bytes]:
    """What is on the usage bus of a Redis, from any slot."""
    keys = server.call("KEYS", f"{prefix}:*")
    streams = [key for key in keys if server.call("TYPE", key) == b"stream"]
    entries = [fields for key in streams for _, fields in server.call("XRANGE", key, "-", "+")]
    return [value for fields in entries for value in fields.values()]


def minute(now: int) -> tuple[Window, Window]:
    """The minute of a moment, and the next."""
    start = now - now % MINUTE
    return Window(start, start + MINUTE), Window(start + MINUTE, start + 2 * MINUTE)


def month(now: int) -> tuple[Window, Window]:
    """The month of a moment in UTC, and the next."""
    here = datetime.fromtimestamp(now / 1000, UTC)
    edges = [datetime(*_month_of(here.year, here.month + ahead), 1, tzinfo=UTC) for ahead in range(3)]
    first, second, third = (int(edge.timestamp() * 1000) for edge in edges)
    return Window(first, second), Window(second, third)


def _month_of(year: int, number: int) -> tuple[int, int]:
    return year + (number - 1) // 12, (number - 1) % 12 + 1

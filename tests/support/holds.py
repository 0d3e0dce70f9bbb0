"""Holds as a worker has them, and a look at what came of them."""

import asyncio
import json
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from extproc.holds import Holds
from extproc.limits.hold import Hold, Stake
from extproc.limits.limit import Limit, Measure
from extproc.model import Demand
from extproc.stores import spool
from extproc.stores.counters import Counter, Counters, Draw, Window

SLOT = "gateway"
AGE = (Window(0, 2**43),)  # one calendar window for everything
TOKENS = Counter("tokens", 1_000_000, AGE)
CALLS = Counter("calls", 1_000)
HOUR = Counter("hour", 1_000_000, sliding=3_600_000)
PATIENCE = 20.0


def stake(counter: Counter, units: int, kept: int = 0, allow: bool = False) -> Stake:
    limit = Limit(counter.key, Measure.TOKENS, max(counter.capacity, 1), allow_on_error=allow)
    return Stake(limit, Draw(counter, units, kept))


def hold(name: str, units: int = 100, kept: int = 10, allow: bool = False) -> Hold:
    """Of so many tokens, and of one call."""
    return Hold(name, (stake(TOKENS, units, kept, allow), stake(CALLS, 1, allow=allow)), Demand())


def used(units: int) -> list[Draw]:
    return [Draw(TOKENS, units)]


def event(name: str) -> bytes:
    return json.dumps({"id": name}).encode()


def told(events: Sequence[bytes]) -> Tally[tuple[str, bool]]:
    """How often the bus was told of each hold, and whether it had expired."""
    records = [json.loads(one) for one in events]
    return Tally((record["id"], record.get("expired", False)) for record in records)


async def spent(store: Counters, counter: Counter = TOKENS) -> int:
    return (await store.extend(SLOT, "nobody", [Draw(counter, 0)], 1)).readings[0].used


async def spent_becomes(store: Counters, wanted: Sequence[int], *counters: Counter) -> None:
    """Wait for what has been spent of some counters."""
    limit = time.monotonic() + PATIENCE
    while (found := [await spent(store, counter) for counter in counters]) != [*wanted]:
        assert time.monotonic() < limit, found
        await asyncio.sleep(0.01)


async def until(what: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < limit, "it did not happen"
        await asyncio.sleep(0.01)


def idle(holds: Holds) -> bool:
    """Whether everything is settled, and said again that was to be."""
    return not (holds.pending or holds._fresh or holds._again or holds._doubted or holds._untold)


@asynccontextmanager
async def running(
    counters: Counters, root: Path, workers: int = 1, life: int = 60_000, within: float = 5.0
) -> AsyncIterator[Holds]:
    """Holds with their background, closed at the end as a worker does."""
    holds = Holds(counters, [spool.begin(root), *spool.inherit(root)], workers, life)
    background = asyncio.ensure_future(holds.run())
    try:
        yield holds
    finally:
        background.cancel()
        await asyncio.gather(background, return_exceptions=True)
        await holds.close(within)

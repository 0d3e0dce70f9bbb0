"""A consumer of the ledger, killed at every step: `python -m tests.support.ledger_kills URL FOLDER`.

For each n a process of its own takes events from a stream, writes them and is done with them, and kills itself before
the n-th line of what does that; the first that comes to its end is the last. Each has a stream and a database of its
own, with what an expired hold and the call itself say, once each. `FOLDER/n.db` is what it leaves.
"""

import asyncio
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from extproc.ledger import bus, consumer, events
from extproc.ledger.consumer import Consumer
from extproc.stores import ledger, rollups, spool_bus, sql
from extproc.stores.ledger import Event
from extproc.stores.redis import bus as redis_bus
from extproc.stores.redis.bus import RedisBus
from extproc.stores.redis.counters import RedisCounters
from extproc.stores.spool_bus import SpoolBus
from extproc.stores.sql import ledger as sql_ledger
from tests.support import kill_points
from tests.support.ledger import attempts, call, expired

_MODULES = (bus, consumer, events, ledger, rollups, spool_bus, redis_bus, sql_ledger)
EVENTS = (
    expired("w.1", money=3),
    call("w.1"),
    call("w.2"),
    attempts("a.1", {}, {}),
    call("w.2"),
    expired("w.3", money=4),
)
SLOT = "gateway"


async def publish(url: str, prefix: str, *events: Event) -> None:
    """Put events onto the stream, each under a name of its own, as the bus may have what is said again."""
    store = RedisCounters(url, 10.0, prefix)
    for event in events:
        await store.settle(SLOT, os.urandom(8).hex(), (), event.data)
    await store.close()


def consume(url: str, prefix: str, database: Path, name: str, take_over_ms: int = 60_000) -> None:
    """Until nothing is left, two events at a time."""
    stream = bus.StreamAndSpools(
        RedisBus(url, prefix, SLOT, name, take_over_ms), SpoolBus(database.with_suffix(".none"))
    )
    with closing(sql.open_stores(f"sqlite:///{database}")) as stores:
        one = Consumer(stream, stores.ledger)
        while one.step() or one.step():
            pass
    stream.close()


def work(url: str, folder: Path, point: int) -> None:
    database = folder / f"{point}.db"
    shutil.copy(folder / "empty.db", database)
    asyncio.run(publish(url, f"kill{point}", *EVENTS))
    consume(url, f"kill{point}", database, "killed")


def main() -> None:
    url, folder, step = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    consumer.MOST = 2
    kill_points.at_each(step, _MODULES, lambda point: work(url, folder, point))


if __name__ == "__main__":
    main()

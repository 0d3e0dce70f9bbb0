"""What the ledger's database takes and gives, on an empty one; PostgreSQL or SQLite.

python -m loadtest.bench_ledger [URL] [--rows N] [--redis URL] [--made N]

Without a URL a PostgreSQL that syncs, and a Redis, of the bench's own.

Rows a second through a consumer, from the stream of a Redis that is given for it alone, or without a bus; and for each
second of CPU time of this process. Then how long the questions of a dashboard take over all of them. Before those,
PostgreSQL can make so many rows more by itself, of which the sums by day are made again. Whether it syncs is the
server's to say. The tables stay.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime

import redis
from sqlalchemy import text

from extproc.ledger.consumer import MOST, Consumer
from extproc.stages.budget import SLOT
from extproc.stores import sql
from extproc.stores.ledger import Bus, Event, Question
from extproc.stores.redis.bus import RedisBus
from extproc.stores.redis.counters import slot_keys
from loadtest.ledger_traffic import events
from tests.support.postgres_server import postgres_server
from tests.support.redis_server import redis_server

_LAST = datetime(2026, 3, 31, 22, tzinfo=UTC)
_DAYS = 90
_TRIES = 5
MARCH = (date(2026, 3, 1), date(2026, 3, 31))
QUARTER = (date(2026, 1, 1), date(2026, 3, 31))

DASHBOARD = {
    "cost by team, a month": Question(*MARCH, "UTC", ("team",)),
    "cost by team, a quarter": Question(*QUARTER, "UTC", ("team",)),
    "cost by day and model, a month": Question(*MARCH, "UTC", ("day", "model")),
    "cost by day and model, a quarter": Question(*QUARTER, "UTC", ("day", "model")),
    "cost by backend and day of one team, a quarter": Question(
        *QUARTER, "UTC", ("backend", "day"), {"team": "team-007"}
    ),
    "cost by user, a month": Question(*MARCH, "UTC", ("user",)),
    "cost by user, a quarter": Question(*QUARTER, "UTC", ("user",)),
    "cost by key and day of one user, a quarter": Question(
        *QUARTER, "UTC", ("key", "day"), {"user": "user-00042@example.com"}
    ),
}
FROM_ROWS = {
    "cost by user and model, one day (from rows)": Question(MARCH[0], MARCH[0], "UTC", ("user", "model")),
    "cost by team, a week of another zone (from rows)": Question(MARCH[0], date(2026, 3, 7), "Asia/Kolkata", ("team",)),
}


class Made:
    """A bus that makes its events as they are taken."""

    name = "made"

    def __init__(self, given: Iterator[Event]) -> None:
        self._given = given

    def take(self, most: int) -> Sequence[Event]:
        return list(itertools.islice(self._given, most))

    def done(self, events: Sequence[Event]) -> None:
        pass

    def again(self) -> None:
        pass

    def lag(self) -> float:
        return 0.0

    def finish(self) -> None:
        pass

    @property
    def is_alone(self) -> bool:
        return True

    def left(self) -> tuple[int, str]:
        return 0, ""

    def close(self) -> None:
        pass


def stream(url: str, given: Iterator[Event]) -> Bus:
    """The stream of a Redis, with all events on it."""
    with redis.Redis.from_url(url) as client:
        while some := list(itertools.islice(given, MOST)):
            with client.pipeline(transaction=False) as steps:
                for event in some:
                    steps.xadd(slot_keys("bench", SLOT)[3], {"event": event.data})
                steps.execute()
    bus = RedisBus(url, "bench", SLOT, "bench", most=sys.maxsize)
    bus.take(1)  # makes the group
    return bus


def fill(stores: sql.Stores, count: int, url: str | None) -> None:
    """A busy hour, of 200 calls a second."""
    last = int(_LAST.timestamp() * 1000)
    given = events(count, last - count * 5, last)
    bus = Made(given) if url is None else stream(url, given)
    consumer = Consumer(bus, stores.ledger)
    written, began, spent = 0, time.perf_counter(), time.process_time()
    while some := consumer.step():
        written += some
    wall, cpu = time.perf_counter() - began, time.process_time() - spent
    print(
        f"{written:,} rows: {count / wall:,.0f} a second, {count / cpu:,.0f} for each second of this process' CPU time"
    )


_MADE = """
INSERT INTO calls (id, told, request_id, ended_at, area, team, user_name, key_id, key_name, surface, model, backend,
    stream, status, ending, source, input, output, cached_input, cache_write, audio_input, audio_output, image_input,
    image_output, reasoning, other_input, other_output, audio_ms, images, hosted_calls, cost, currency, redacted,
    duration_ms)
SELECT 'made.' || n, 3, md5(n::text), timestamp '2026-01-01' + n * (interval '90 days' / :count),
    'area-' || u % 60 % 8, 'team-' || lpad((u % 60)::text, 3, '0'), 'user-' || lpad(u::text, 5, '0') || '@example.com',
    'key_' || u || '_' || n % 2, 'laptop', 'chat', 'model-' || (u * 7 + m) % 20, 'backend-' || m % 3,
    true, 200, 'complete', 'reported', 1000 + n % 7000, n % 1500, n % 300, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    (1000 + n % 7000) * 2500 + n % 1500 * 10000, 'USD', 0, 2000 + n % 1500
FROM (SELECT n, n * 7919 % 2000 AS u, n / 2000 % 4 AS m FROM generate_series(1::bigint, :count) AS n) AS made
"""


def make(stores: sql.Stores, count: int) -> None:
    began = time.perf_counter()
    with stores.engine.begin() as connection:
        connection.execute(text(_MADE), {"count": count})
    print(f"{count:,} rows made in {time.perf_counter() - began:,.0f} s")
    began = time.perf_counter()
    counted = stores.ledger.rebuild("UTC")
    print(f"sums by day of {counted:,} rows made again in {time.perf_counter() - began:,.0f} s")


def ask(stores: sql.Stores) -> None:
    for name, question in {**DASHBOARD, **FROM_ROWS}.items():
        times = []
        for _ in range(_TRIES):
            began = time.perf_counter()
            found = stores.ledger.usage(question)
            times.append(time.perf_counter() - began)
        print(f"{name}: {statistics.median(times) * 1000:.0f} ms, {len(found):,} sums")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--redis", help="the URL of a Redis for this alone: its stream is filled first")
    parser.add_argument("--made", type=int, default=0, help="rows that PostgreSQL makes by itself, such as 10000000")
    given = parser.parse_args()
    with ExitStack() as started:
        if given.url is None:
            given.url = started.enter_context(postgres_server(synced=True)).url
            given.redis = started.enter_context(redis_server()).url
        sql.upgrade(given.url)
        stores = started.enter_context(closing(sql.open_stores(given.url)))
        fill(stores, given.rows, given.redis)
        if given.made:
            make(stores, given.made)
        ask(stores)


if __name__ == "__main__":
    main()

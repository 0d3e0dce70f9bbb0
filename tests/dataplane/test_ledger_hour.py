"""An hour of mixed traffic, compressed, with everything going wrong that does: in the end the ledger has each call
once, and what it used as its provider counted it.

`SLUICE_HOUR_CALLS` says how many calls there are, `SLUICE_HOUR_SEED` which: `make deep-ledger` makes 20,000. The table
that the test prints says of which calls nobody told what they used, and how far the ledger is from the provider there.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.hour import BACKENDS, Hour, settings, trouble
from tests.support.hour_callers import Callers
from tests.support.hour_faults import Troubles, Writers
from tests.support.hour_verdict import Books, Verdict, Why, verdict
from tests.support.postgres_server import PostgresServer, postgres_server
from tests.support.redis_server import RedisServer, redis_server

CALLS = int(os.environ.get("SLUICE_HOUR_CALLS", "600"))
SEED = int(os.environ.get("SLUICE_HOUR_SEED", "1"))
IS_DEEP = CALLS > 600
PER_SECOND = 100 if IS_DEEP else 70
ROUND = 1_500 if IS_DEEP else CALLS  # calls in which each fault happens once
EXPIRY_S = 75.0 if IS_DEEP else 0.0  # for the holds of killed workers to end, where there is time for that
QUIET_S = 2.0  # in which nothing has come any more
PATIENCE_S = 30.0  # the same where something is wrong: what a killed writer took is another's after 15 s


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that takes part."""

    fake: FakeProvider
    redis: RedisServer
    postgres: PostgresServer
    gateway: RunningGateway
    writers: Writers


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider(*BACKENDS, options=("--keep-bills",)))
        redis = stack.enter_context(redis_server(appendonly="yes"))
        postgres = stack.enter_context(postgres_server())
        gateway = stack.enter_context(RunningGateway(settings(fake, redis.url, postgres.url)))
        yield Site(fake, redis, postgres, gateway, stack.enter_context(Writers(gateway, 2)))


async def hour(site: Site) -> tuple[Callers, Troubles]:
    """All calls, and all that goes wrong beside them."""
    callers = Callers(site.gateway.port, PER_SECOND)
    troubles = Troubles(site.gateway, site.writers, site.redis, site.postgres, random.Random(SEED))
    async with asyncio.TaskGroup() as beside:
        tending = beside.create_task(_tended(site.writers))
        async with asyncio.TaskGroup() as both:
            both.create_task(callers.call(Hour(SEED, CALLS)))
            both.create_task(troubles.run(callers, CALLS, -(-CALLS // ROUND)))
        tending.cancel()
    return callers, troubles


async def _tended(writers: Writers) -> None:
    while True:
        writers.tend()
        await asyncio.sleep(0.5)


def drained(site: Site, books: Books, check: Callable[[], Verdict]) -> Verdict:
    """The verdict, when nothing has come to the ledger for a while; where something is wrong, for a longer one."""
    began = quiet = time.monotonic()
    size = 0
    while True:
        site.writers.tend()
        time.sleep(0.5)
        now = time.monotonic()
        if (there := books.size()) != size:
            size, quiet = there, now
        if now - began < EXPIRY_S or now - quiet < QUIET_S:
            continue
        found = check()
        if not found.wrong or now - quiet > PATIENCE_S:
            return found


@pytest.mark.timeout(3600)
def test_the_ledger_has_each_call_of_an_hour_once(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.fake.script("shaky", trouble(SEED, CALLS))
    callers, troubles = asyncio.run(hour(site))
    with closing(Books(site.postgres.url)) as books:

        def check() -> Verdict:
            bills = [bill for name in BACKENDS for bill in site.fake.bills(name)]
            return verdict(callers.told, bills, books, troubles.deaths)

        found = drained(site, books, check)
    with capsys.disabled():
        print(f"\nseed {SEED}, {len(callers.told):,} calls\n{found.table()}")
    logs = [*[str(line.get("text", "")).strip() for line in site.gateway.records("log")], site.writers.log()]
    story = "\n".join((*found.wrong[:30], f"seed {SEED}", *troubles.happened, *logs))
    assert not found.wrong, story
    assert found.lines[Why.TOLD].calls > len(callers.told) / 3, story  # else nothing much was shown

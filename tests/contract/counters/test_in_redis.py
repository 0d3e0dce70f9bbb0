"""What only Redis can do, or lose."""

import asyncio
import time

import pytest

from extproc.stores.counters import GRACE, Counter, Draw, MemoryLost, Renewal, Window
from extproc.stores.redis.counters import RedisCounters
from tests.contract.counters.steps import LIFE, OPEN, extend, reserve, settle, sliding
from tests.support.counters import DAY, HOUR, MINUTE, PATIENCE, SECOND, ground_on, minute
from tests.support.redis_server import RedisServer


class TestRedis:
    """What only the store in Redis can be asked."""

    async def test_the_time_is_the_servers(self, server: RedisServer) -> None:
        store = RedisCounters(server.url, PATIENCE, "time")
        try:
            now = int(time.time() * 1000)
            past, here = Window(now - 2 * HOUR, now - HOUR), Window(now - HOUR, now + HOUR)
            counters = [Counter("hours", 10, (past, here)), Counter("rate", 10, sliding=HOUR)]
            answer = await store.reserve("slot", "one", [Draw(counter, 10) for counter in counters], MINUTE)
            assert answer.granted
            assert 0 < HOUR - answer.readings[0].reset < MINUTE
            refused = await store.reserve("slot", "two", [Draw(counters[0], 1)], MINUTE)
            assert not refused.granted
            assert await store.expire("slot") == 0
        finally:
            await store.close()

    async def test_a_store_that_lost_its_memory_is_not_trusted_at_once(self, server: RedisServer) -> None:
        """Whoever was here before tells it first what was used; what is told and retaken counts meanwhile."""
        server.flush()
        async with ground_on(server) as ground:
            rate, store = sliding(), ground.store
            since = (await store.renew("slot", [], LIFE)).since
            assert since == ground.clock.now
            await store.reserve("slot", "open", [Draw(rate, 3)], HOUR, since)
            server.flush()
            ground.clock.now += SECOND
            for known in (since, since - HOUR, 0):  # the next ones change nothing
                told = await store.renew("slot", ["open"], LIFE, known)
                assert told == Renewal(since + SECOND + GRACE, ("open",))
            for known in (since, told.since):
                with pytest.raises(MemoryLost):
                    await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, known)
                with pytest.raises(MemoryLost):
                    await store.extend("slot", "open", [Draw(rate, 4)], LIFE, known)
            await store.retake("slot", "open", [Draw(rate, 3)], HOUR)
            await store.settle("slot", "before", [Draw(rate, 6)])
            ground.clock.now += GRACE - 1
            with pytest.raises(MemoryLost):
                await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, told.since)
            ground.clock.now += 1
            assert not (await store.reserve("slot", "two", [Draw(rate, 2)], LIFE, told.since)).granted
            assert (await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, told.since)).granted

    async def test_workers_share_one_budget(self, server: RedisServer) -> None:
        stores = [RedisCounters(server.url, PATIENCE, "shared") for _ in range(4)]
        try:
            for turn in range(20):
                budget = Counter(f"budget {turn}", 7 * turn, sliding=DAY)
                calls = [
                    (store, f"{turn}.{number}.{call}") for call in range(50) for number, store in enumerate(stores)
                ]
                steps = [store.reserve("slot", hold, [Draw(budget, 1)], MINUTE) for store, hold in calls]
                assert sum(answer.granted for answer in await asyncio.gather(*steps)) == 7 * turn
        finally:
            await asyncio.gather(*(store.close() for store in stores))

    async def test_no_key_lives_for_ever(self, server: RedisServer) -> None:
        server.flush()
        async with ground_on(server) as ground:
            draws = [Draw(Counter("tokens", 10, minute(ground.clock.now)), 3), Draw(sliding(), 3), Draw(OPEN, 1)]
            await reserve(ground, "one", *draws)
            await extend(ground, "one", *draws)
            await reserve(ground, "two", *draws)
            await settle(ground, "two", *draws, event=b"event")
            await settle(ground, "unknown", *draws)
            await ground.store.renew("slot", ["one"], LIFE)
            await ground.store.renew("empty", [], LIFE)
            keys = server.call("KEYS", "*")
            assert keys
            assert [key for key in keys if server.call("PTTL", key) < 0 and server.call("TYPE", key) != b"stream"] == []

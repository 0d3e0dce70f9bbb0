"""Every store of cool-downs keeps the same promises; Redis also while it fails."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from redis.asyncio import Redis

from extproc.stores.cooldowns import Cooldowns, CooldownsUnavailable, Entry, MemoryCooldowns
from extproc.stores.redis.cooldowns import RedisCooldowns
from tests.support.counters import Clock
from tests.support.redis_server import RedisServer, redis_server

WAIT = 0.3
PATIENCE = 15.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Cooldowns, Clock]]:
    clock = Clock()
    if request.param == "memory":
        yield MemoryCooldowns(clock), clock
        return
    running = request.getfixturevalue("server")
    running.flush()
    async with closing(RedisCooldowns(running.url, WAIT, clock=clock)) as store:
        yield store, clock


@asynccontextmanager
async def closing(store: RedisCooldowns) -> AsyncIterator[RedisCooldowns]:
    try:
        yield store
    finally:
        await store.close()


COOL = Entry(3000, 0, "rate_limited")
OPEN = Entry(10_000, 10_000, "circuit_open")


class TestThePort:
    async def test_empty_at_first(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, _ = ground
        assert await store.all() == {}
        await store.put({})
        await store.drop([])
        await store.drop(["nobody"])
        assert await store.all() == {}

    async def test_waits_run_down_by_the_stores_own_clock(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one": OPEN, "one/large:v1 ü": COOL})
        assert await store.all() == {"one": OPEN, "one/large:v1 ü": COOL}
        clock.now += 1200
        assert await store.all() == {"one": OPEN._replace(wait=8800), "one/large:v1 ü": COOL._replace(wait=1800)}

    async def test_what_is_over_is_gone(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one": OPEN, "one/large": COOL})
        clock.now += 2999
        assert (await store.all())["one/large"].wait == 1
        clock.now += 1
        assert set(await store.all()) == {"one"}

    async def test_what_is_kept_is_told_after_its_wait(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one": OPEN})
        clock.now += 12_000
        assert await store.all() == {"one": OPEN._replace(wait=-2000)}
        clock.now += 8000
        assert await store.all() == {}

    async def test_of_two_the_later_end_wins(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one/large": Entry(9000, 0, "spent")})
        await store.put({"one/large": COOL})
        assert await store.all() == {"one/large": Entry(9000, 0, "spent")}
        clock.now += 7000
        await store.put({"one/large": COOL})
        assert await store.all() == {"one/large": COOL}

    async def test_a_repeat_changes_nothing(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one": OPEN})
        clock.now += 500
        await store.put({"one": OPEN._replace(wait=9500)})
        assert await store.all() == {"one": OPEN._replace(wait=9500)}

    async def test_what_was_dropped_may_come_back_for_less(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, _ = ground
        await store.put({"one": OPEN, "two": OPEN, "one/large": COOL})
        await store.drop(["one", "one/large", "nobody"])
        assert set(await store.all()) == {"two"}
        await store.put({"one": Entry(1000, 1000, "circuit_open")})
        assert (await store.all())["one"].wait == 1000

    async def test_a_new_opening_takes_the_place_of_one_that_is_kept(self, ground: tuple[Cooldowns, Clock]) -> None:
        store, clock = ground
        await store.put({"one": OPEN})
        clock.now += 15_000
        await store.put({"one": Entry(20_000, 20_000, "circuit_open")})
        assert await store.all() == {"one": Entry(20_000, 20_000, "circuit_open")}


class TestRedis:
    async def test_it_goes_by_the_time_of_redis(self, server: RedisServer) -> None:
        server.flush()
        async with closing(RedisCooldowns(server.url, WAIT)) as store:
            await store.put({"one/large": Entry(60_000, 0, "spent")})
            assert 50_000 < (await store.all())["one/large"].wait <= 60_000

    async def test_gateways_of_another_prefix_know_nothing_of_it(self, server: RedisServer) -> None:
        async with closing(RedisCooldowns(server.url, WAIT)) as one:
            await one.put({"one": OPEN})
            async with closing(RedisCooldowns(server.url, WAIT, prefix="another")) as other:
                assert await other.all() == {}

    async def test_nothing_stays_for_ever(self, server: RedisServer) -> None:
        server.flush()
        clock = Clock()
        async with closing(RedisCooldowns(server.url, WAIT, clock=clock)) as store:
            await store.put({"one": OPEN})
            assert 15_000 < server.call("PTTL", "sluice:cooldowns") <= 21_000
            clock.now += 30_000
            await store.put({"two/large": COOL})
        assert server.call("HKEYS", "sluice:cooldowns") == [b"two/large"]

    async def test_a_look_is_one_command(self, server: RedisServer) -> None:
        async with closing(RedisCooldowns(server.url, WAIT)) as store:
            await store.all()
            before = commands(server)
            for _ in range(20):
                await store.all()
            more = {name: count - before.get(name, 0) for name, count in commands(server).items()}
        assert {name: count for name, count in more.items() if count} == {
            "evalsha": 20,
            "hgetall": 20,  # by the script, as the next
            "time": 20,
            "info": 1,
        }

    async def test_scripts_that_redis_has_forgotten(self, server: RedisServer) -> None:
        async with closing(RedisCooldowns(server.url, WAIT)) as store:
            await store.put({"one": OPEN})
            server.call("SCRIPT", "FLUSH")
            assert "one" in await store.all()
            server.call("SCRIPT", "FLUSH")
            await store.put({"two": OPEN})

    async def test_stalled_it_says_so_in_time_and_comes_back(self, server: RedisServer) -> None:
        async with closing(RedisCooldowns(server.url, WAIT)) as store:
            await store.put({"one": OPEN})
            server.stall()
            try:
                began = time.monotonic()
                await is_unavailable(store)
                assert time.monotonic() - began < 20 * WAIT
            finally:
                server.resume()
            assert "one" in await eventually(store)

    async def test_gone_and_back(self) -> None:
        with redis_server() as own:
            async with closing(RedisCooldowns(own.url, WAIT)) as store:
                await store.put({"one": OPEN})
                own.kill()
                await is_unavailable(store)
                own.start()
                assert await eventually(store) == {}

    async def test_an_error_says_nothing_of_the_server_or_its_data(self, server: RedisServer) -> None:
        server.call("SET", "sluice:cooldowns", "canary")
        try:
            async with closing(RedisCooldowns(server.url, WAIT)) as store:
                with pytest.raises(CooldownsUnavailable) as told:
                    await store.all()
            assert str(told.value) == "Redis does not do its part (ResponseError)"
            assert told.value.__cause__ is None
        finally:
            server.flush()

    async def test_close_leaves_no_connection(self, server: RedisServer) -> None:
        async with closing(RedisCooldowns(server.url, WAIT)) as store:
            await asyncio.gather(*[store.all() for _ in range(5)])
        client = Redis.from_url(server.url)
        try:
            assert len(await client.client_list()) == 1
        finally:
            await client.aclose()


async def is_unavailable(store: Cooldowns) -> None:
    for step in (store.put({"one": OPEN}), store.all(), store.drop(["one"])):
        with pytest.raises(CooldownsUnavailable):
            await step


async def eventually(store: Cooldowns) -> dict[str, Entry]:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return dict(await store.all())
        except CooldownsUnavailable:
            assert time.monotonic() < until, "the store did not come back"
            await asyncio.sleep(0.02)


def commands(server: RedisServer) -> dict[str, int]:
    """How often each was carried out."""
    return {
        name.removeprefix("cmdstat_"): stat["calls"]
        for name, stat in server.call("INFO", "commandstats").items()
        if name not in ("cmdstat_client|setinfo", "cmdstat_hello")  # of redis-py, on each new connection
    }

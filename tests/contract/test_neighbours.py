"""Neighbours of questions: what every store does, in memory and in Redis."""

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from extproc.stores.memory_neighbours import MemoryNeighbours
from extproc.stores.neighbours import (
    BESIDE,
    LARGEST,
    MOST,
    PAGE,
    NeighbourStore,
    NeighboursUnavailable,
    News,
    Row,
)
from extproc.stores.redis.answers import RedisAnswers
from extproc.stores.redis.neighbours import RedisNeighbours, neighbour_keys
from tests.support.counters import PATIENCE, Clock
from tests.support.redis_server import RedisServer, redis_server

LIFE = 60_000
MIB = 2**20
A, B = "a" * 64, "b" * 64

_prefixes = (f"near{number}" for number in itertools.count())


@dataclass
class Ground:
    """A store, empty at first, and the clock that it goes by. `epoch` is that of the answers beside it."""

    store: NeighbourStore
    clock: Clock
    epoch: int

    async def add(self, digest: str, sealed: bytes = b"sealed", partition: str = A, life: int = LIFE) -> bool:
        return await self.store.add(partition, digest, sealed, life, self.epoch)

    async def all(self, partition: str = A, number: int = 0) -> list[Row]:
        """All pages."""
        found: list[Row] = []
        while True:
            news = await self.store.since(partition, number, self.epoch)
            found += news.rows
            if len(news.rows) < PAGE:
                return found
            number = news.rows[-1].number

    async def digests(self, partition: str = A) -> list[str]:
        return [row.digest for row in await self.all(partition)]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


async def in_redis(server: RedisServer, clock: Clock, most: int = MIB) -> AsyncIterator[Ground]:
    prefix = next(_prefixes)
    answers = RedisAnswers(server.url, PATIENCE, prefix, MIB, clock)
    store = RedisNeighbours(server.url, PATIENCE, prefix, most, clock)
    try:
        yield Ground(store, clock, (await answers.look("one")).epoch)
    finally:
        await store.close()
        await answers.close()


@pytest.fixture(params=["memory", "redis"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    most, clock = getattr(request.function, "most", 2 * MIB), Clock()
    if request.param == "memory":
        store = MemoryNeighbours(clock, most)
        yield Ground(store, clock, (await store.since(A, 0)).epoch)
        return
    async for made in in_redis(request.getfixturevalue("server"), clock, most):
        yield made


async def test_nothing_at_first(ground: Ground) -> None:
    assert await ground.store.since(A, 0) == News(ground.epoch)
    assert ground.epoch > 0


@pytest.mark.parametrize("sealed", [bytes(range(256)), b"\r\n$5\r\n", b"", b"x" * LARGEST])
async def test_a_neighbour_is_given_as_it_was_added(ground: Ground, sealed: bytes) -> None:
    assert await ground.add("d1", sealed)
    (row,) = await ground.all()
    assert (row.digest, row.sealed) == ("d1", sealed)


async def test_a_partition_shows_its_own_alone(ground: Ground) -> None:
    await ground.add("d1", b"one")
    await ground.add("d1", b"other", partition=B)
    await ground.add("d2", b"longer", partition=A + "0")
    assert [row.sealed for row in await ground.all()] == [b"one"]
    assert [row.sealed for row in await ground.all(B)] == [b"other"]


async def test_only_what_is_new_is_told(ground: Ground) -> None:
    for digest in ("d1", "d2"):
        await ground.add(digest)
    first, second = await ground.all()
    assert first.number < second.number
    assert await ground.all(number=first.number) == [second]
    assert await ground.all(number=second.number) == []
    ground.clock.now += 1000
    await ground.add("d3")
    assert [row.digest for row in await ground.all(number=second.number)] == ["d3"]


async def test_of_another_epoch_everything_is_told(ground: Ground) -> None:
    await ground.add("d1")
    (row,) = await ground.all()
    news = await ground.store.since(A, row.number, ground.epoch - 1)
    assert (news.epoch, list(news.rows)) == (ground.epoch, [row])


async def test_a_row_takes_the_place_of_one_with_the_same_digest(ground: Ground) -> None:
    await ground.add("d1", b"old")
    await ground.add("d2")
    (last,) = await ground.all(number=(await ground.all())[0].number)
    await ground.add("d1", b"new")
    assert [(row.digest, row.sealed) for row in await ground.all()] == [("d2", b"sealed"), ("d1", b"new")]
    assert [row.sealed for row in await ground.all(number=last.number)] == [b"new"]
    await ground.add("d3")
    assert await ground.digests() == ["d2", "d1", "d3"]


async def test_it_ends(ground: Ground) -> None:
    await ground.add("d1")
    await ground.add("d2", life=2 * LIFE)
    ground.clock.now += LIFE
    assert await ground.digests() == ["d2"]
    await ground.add("d3")
    assert await ground.digests() == ["d2", "d3"]


async def test_numbers_go_on_where_all_have_ended(ground: Ground) -> None:
    for number in range(5):
        await ground.add(f"d{number}")
    last = (await ground.all())[-1].number
    ground.clock.now += LIFE
    await ground.add("d9")
    assert [row.digest for row in await ground.all(number=last)] == ["d9"]


async def test_the_oldest_of_a_partition_go(ground: Ground) -> None:
    count = MOST + 5
    for number in range(count):
        await ground.add(f"{number:x}", life=LIFE + count - number)
    assert await ground.digests() == [f"{number:x}" for number in range(5, count)]


async def test_ended_ones_between_do_not_hide_the_others(ground: Ground) -> None:
    for number in range(PAGE + 50):
        await ground.add(f"{number:x}", life=LIFE if 10 <= number < PAGE + 10 else 2 * LIFE)
    ground.clock.now += LIFE
    assert await ground.digests() == [f"{number:x}" for number in (*range(10), *range(PAGE + 10, PAGE + 50))]


async def test_without_room_those_go_that_end_soonest(ground: Ground) -> None:
    assert await ground.add("d1", b"x" * 400, life=LIFE)
    assert await ground.add("d2", b"x" * 400, life=3 * LIFE, partition=B)
    assert await ground.add("d3", b"x" * 400, life=2 * LIFE)
    assert await ground.digests() == ["d3"]
    assert await ground.digests(B) == ["d2"]
    assert not await ground.add("d4", b"x" * 2_000)


test_without_room_those_go_that_end_soonest.most = 2 * (BESIDE + 400) + 100  # type: ignore[attr-defined]


async def test_one_that_is_too_large_is_not_kept(ground: Ground) -> None:
    assert not await ground.add("d1", b"x" * (LARGEST + 1))
    assert await ground.all() == []


async def test_under_another_epoch_nothing_is_kept(ground: Ground) -> None:
    assert not await ground.store.add(A, "d1", b"sealed", LIFE, ground.epoch - 1)
    assert await ground.all() == []


async def test_a_purge_forgets_all(ground: Ground) -> None:
    await ground.add("d1")
    await ground.add("d2", partition=B)
    await ground.store.purge()
    assert await ground.all() == await ground.all(B) == []


class TestMemory:
    async def test_a_purge_begins_another_epoch(self) -> None:
        store = MemoryNeighbours(Clock(), MIB)
        epoch = (await store.since(A, 0)).epoch
        await store.purge()
        assert not await store.add(A, "d1", b"", LIFE, epoch)
        now = (await store.since(A, 0)).epoch
        assert now > epoch
        assert await store.add(A, "d1", b"", LIFE, now)

    async def test_ends_of_what_was_replaced_do_not_pile_up(self) -> None:
        store = MemoryNeighbours(Clock(), MIB)
        epoch = (await store.since(A, 0)).epoch
        for _ in range(5_000):
            await store.add(A, "d1", b"", LIFE, epoch)
        assert len(store._ends) < 1_100


class TestRedis:
    @pytest.fixture
    async def ground(self, server: RedisServer) -> AsyncIterator[Ground]:
        async for made in in_redis(server, Clock()):
            yield made

    def keys(self, ground: Ground) -> list[str]:
        assert isinstance(ground.store, RedisNeighbours)
        return [key.decode() for key in ground.store._own]

    async def test_every_key_has_a_time_to_live(self, ground: Ground, server: RedisServer) -> None:
        await ground.add("d1")
        for key in self.keys(ground):
            assert LIFE < server.call("PTTL", key) < LIFE + 10 * 60_000

    async def test_what_has_ended_goes_with_the_next(self, ground: Ground, server: RedisServer) -> None:
        await ground.add("d1")
        await ground.add("d2", partition=B)
        ground.clock.now += LIFE
        await ground.add("d3")
        rows, order, ends = self.keys(ground)
        assert (server.call("HLEN", rows), server.call("ZCARD", order), server.call("ZCARD", ends)) == (2, 1, 1)
        assert int(server.call("HGET", rows, "")) == len(b"sealed") + BESIDE

    async def test_a_purge_of_the_answers_forgets_them(self, server: RedisServer) -> None:
        clock, prefix = Clock(), next(_prefixes)
        answers = RedisAnswers(server.url, PATIENCE, prefix, MIB, clock)
        store = RedisNeighbours(server.url, PATIENCE, prefix, MIB, clock)
        epoch = (await answers.look("one")).epoch
        assert await store.add(A, "d1", b"text", LIFE, epoch)
        await answers.purge(lambda _: False)
        assert server.call("EXISTS", *[key.decode() for key in neighbour_keys(prefix)]) == 0
        news = await store.since(A, 0, epoch)
        assert news.epoch > epoch
        assert not news.rows
        assert not await store.add(A, "d1", b"text", LIFE, epoch)
        await store.close()
        await answers.close()

    @pytest.mark.parametrize("which", [0, 1, 2])
    async def test_a_key_of_another_kind_or_lost_is_as_if_nothing_were_there(
        self, ground: Ground, server: RedisServer, which: int
    ) -> None:
        for spoil in (("SET", self.keys(ground)[which], "x"), ("DEL", self.keys(ground)[which])):
            await ground.add("d1")
            server.call(*spoil)
            assert await ground.digests() == [] or which == 2
            assert await ground.add("d2")
            assert await ground.digests() == ["d2"]

    async def test_a_row_that_is_none_of_ours_is_passed_over(self, ground: Ground, server: RedisServer) -> None:
        await ground.add("d1")
        await ground.add("d2")
        server.call("HSET", self.keys(ground)[0], f"{A}:d1", "rubbish")
        assert await ground.digests() == ["d2"]
        assert await ground.add("d1", b"again")
        assert await ground.digests() == ["d2", "d1"]

    async def test_scripts_that_were_forgotten_are_loaded_again(self, ground: Ground, server: RedisServer) -> None:
        await ground.add("d1")
        server.call("SCRIPT", "FLUSH")
        assert await ground.digests() == ["d1"]

    async def test_without_an_epoch_nothing_is_kept(self, ground: Ground, server: RedisServer) -> None:
        server.flush()
        assert await ground.store.since(A, 0, ground.epoch) == News(0)
        assert not await ground.add("d1")

    async def test_a_server_that_does_not_answer_is_unavailable(self) -> None:
        with redis_server() as own:
            store = RedisNeighbours(own.url, 0.1, "p", MIB)
            await store.since(A, 0)
            own.stall()
            with pytest.raises(NeighboursUnavailable):
                await store.since(A, 0)
            own.kill()
            for asked in (store.since(A, 0), store.add(A, "d", b"", LIFE, 1), store.purge()):
                with pytest.raises(NeighboursUnavailable):
                    await asked
            await store.close()

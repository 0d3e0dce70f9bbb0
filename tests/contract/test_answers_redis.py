"""Answers in Redis while Redis fails, forgets or holds what is not ours: a miss in time, and back."""

import asyncio
import os
import random
import select
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeVar

import pytest
import redis

from extproc.stores.answers import BESIDE, AnswersUnavailable, Found, Labels
from extproc.stores.redis import answers
from extproc.stores.redis.answers import RedisAnswers
from extproc.stores.redis.batch import _Line
from tests.support.answers import LABELS, LIFE, MIB
from tests.support.redis_server import RedisServer, redis_server

WAIT = 0.3  # longer than in production: the machine of a test is busy with other things
PATIENCE = 15.0
MOST = 4 * MIB
KEYS = ("bodies", "records", "ends", "epoch", "claim:one")
T = TypeVar("T")


def key(name: str) -> str:
    return f"sluice:{{gateway}}:answers:{name}"


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    """One that is up and empty; tests that end it have one of their own."""
    shared.flush()
    return shared


@pytest.fixture
def mortal() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisAnswers]:
    async with connected(server.url) as made:
        yield made


@asynccontextmanager
async def answers_at(url: str, most: int = MOST, wait: float = WAIT) -> AsyncIterator[RedisAnswers]:
    made = RedisAnswers(url, wait, "sluice", most)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def connected(url: str, most: int = MOST, wait: float = PATIENCE) -> AsyncIterator[RedisAnswers]:
    """Where Redis is there: it is not under test how long a busy machine takes."""
    async with answers_at(url, most, wait) as made:
        await eventually(lambda: made.look("nobody"))
        yield made


async def keep(store: RedisAnswers, digest: str = "one", sealed: bytes = b"sealed", life: int = LIFE) -> bool:
    epoch = (await store.look(digest)).epoch
    return await store.keep(digest, sealed, LABELS, life, epoch)


async def sealed(store: RedisAnswers, digest: str = "one") -> bytes | None:
    return (await store.look(digest)).sealed


async def digests(store: RedisAnswers) -> set[str]:
    return {one.digest async for some in store.all() for one in some}


async def eventually(what: Callable[[], Awaitable[T]], is_so: Callable[[T], bool] = lambda _: True) -> T:
    """Its result as soon as the store is available, and it is as expected."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            result = await what()
            if is_so(result):
                return result
        except AnswersUnavailable:
            pass
        assert time.monotonic() < until, "the store did not come back"
        await asyncio.sleep(0.01)


async def is_unavailable(store: RedisAnswers) -> None:
    """Every method says so, and before anybody would give up on it."""
    steps: list[Awaitable[object]] = [
        store.look("one"),
        store.look("one", "claim", LIFE),
        store.keep("one", b"sealed", LABELS, LIFE, 1),
        store.keep("one", b"sealed", LABELS, LIFE, 1, "claim"),
        store.renew("one", "claim", LIFE),
        store.release("one", "claim"),
        digests(store),
        store.purge(lambda _one: True),
    ]
    results = await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), 20 * WAIT)
    assert [result for result in results if not isinstance(result, AnswersUnavailable)] == []


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listener(serve: Serve) -> AsyncIterator[str]:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


class TestTheServerIsGone:
    async def test_killed_and_started_again(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=WAIT) as store:
            await eventually(lambda: keep(store))
            mortal.kill()
            await is_unavailable(store)
            await is_unavailable(store)
            mortal.start()
            assert (await eventually(lambda: store.look("one"))).sealed is None
            assert await keep(store)
            assert await sealed(store) == b"sealed"

    async def test_it_was_never_there(self, mortal: RedisServer) -> None:
        mortal.kill()
        async with answers_at(mortal.url) as store:
            await is_unavailable(store)
            mortal.start()
            assert await eventually(lambda: keep(store))

    async def test_stalled(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=WAIT) as store:
            await eventually(lambda: keep(store))
            mortal.stall()
            await is_unavailable(store)
            waited = 0
            for number in range(500):  # once it is known, nobody waits for it
                began = time.monotonic()
                with pytest.raises(AnswersUnavailable):
                    await store.look(f"{number}", "claim", LIFE)
                waited += time.monotonic() - began > WAIT / 2
            assert waited < 5, "a busy machine may hold up a few"
            mortal.resume()
            assert await eventually(lambda: sealed(store)) == b"sealed"

    async def test_that_calls_go_out_is_no_sign_of_life(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=0.02) as store:
            mortal.stall()
            until = time.monotonic() + PATIENCE
            while store._connection._line is not None:
                assert time.monotonic() < until, "the connection was kept"
                with pytest.raises(AnswersUnavailable):
                    await store.look("one")

    async def test_something_that_is_not_redis(self) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with listener(other) as url, answers_at(url) as store:
            await is_unavailable(store)

    async def test_closed(self, store: RedisAnswers) -> None:
        await store.close()
        await is_unavailable(store)


class TestTheServerSaysNo:
    async def test_no_memory(self, server: RedisServer, store: RedisAnswers) -> None:
        """What is there is given, and can be purged; a claim that its answer could not end is ended all the same."""
        await keep(store, "here")
        await keep(store, "there")
        await keep(store, "ended", life=1)  # which the next would drop before it writes
        await asyncio.sleep(0.01)
        found = await store.look("one", "mine", LIFE)
        server.call("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(AnswersUnavailable, match="OOM"):
                await store.keep("one", b"sealed", LABELS, LIFE, found.epoch, "mine")
            await eventually(lambda: store.look("one"), lambda seen: not seen.made_by_another)
            with pytest.raises(AnswersUnavailable, match="OOM"):
                await store.look("one", "mine", LIFE)
            assert await sealed(store, "here") == b"sealed"
            assert await store.purge(lambda one: one.digest == "here") == 1
            assert await digests(store) == {"there"}
        finally:
            server.call("CONFIG", "SET", "maxmemory", "0")
        assert await keep(store)
        assert await digests(store) == {"one", "there"}

    async def test_a_replica(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=WAIT) as store:
            await eventually(lambda: keep(store))
            mortal.call("REPLICAOF", "127.0.0.1", "1")
            for step in (
                lambda: store.look("two", "claim", LIFE),
                lambda: keep(store),
                lambda: store.purge(lambda _: True),
            ):
                with pytest.raises(AnswersUnavailable):
                    await step()
            mortal.call("REPLICAOF", "NO", "ONE")
            assert await eventually(lambda: sealed(store)) == b"sealed"

    async def test_still_loading(self) -> None:
        slow = {"key_load_delay": "2000", "loading_process_events_interval_bytes": "1024", "hz": "100"}
        with redis_server(**slow) as server:
            server.call("MSET", *[word for number in range(500) for word in (f"key{number}", "x" * 100)])
            server.call("SAVE")
            server.restart()
            async with answers_at(server.url) as store:
                await is_unavailable(store)
                assert await eventually(lambda: keep(store))

    async def test_a_wrong_password(self, mortal: RedisServer) -> None:
        mortal.call("CONFIG", "SET", "requirepass", "right")
        async with answers_at(mortal.url.replace("//", "//:wrong@")) as store:
            await is_unavailable(store)
        async with connected(mortal.url.replace("//", "//:right@")) as store:
            assert await keep(store)

    async def test_only_what_is_needed_may_be_done(self, server: RedisServer) -> None:
        server.call("ACL", "SETUSER", "gateway", "on", ">secret", "~sluice:*", "+@all", "-eval", "-client")
        async with connected(server.url.replace("//", "//gateway:secret@")) as store:
            assert await keep(store)
            server.call("SCRIPT", "FLUSH")
            assert await keep(store, "two")
            assert await store.purge(lambda _one: True) == 2

    async def test_more_than_can_be_under_way(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=WAIT) as store:
            await eventually(lambda: keep(store))
            mortal.stall()
            many = [store.look("one") for _ in range(answers._MOST_UNDER_WAY + 1)]
            results = await asyncio.gather(*many, return_exceptions=True)
            assert [result for result in results if not isinstance(result, AnswersUnavailable)] == []
            assert "too many" in str(results[-1])
            assert "too many" not in str(results[-2])

    async def test_more_bytes_than_may_wait_to_be_written(
        self, mortal: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(answers, "_MOST_WRITING", 1000)
        async with connected(mortal.url) as store:
            found = await store.look("one", "mine", LIFE)
            mortal.stall()
            first = asyncio.ensure_future(store.keep("two", b"x" * 2000, LABELS, LIFE, found.epoch))
            await asyncio.sleep(0)
            with pytest.raises(AnswersUnavailable, match="too many"):
                await store.keep("one", b"x", LABELS, LIFE, found.epoch, "mine")
            mortal.resume()
            assert await first
            await eventually(lambda: store.look("one"), lambda seen: not seen.made_by_another)
            assert await store.keep("one", b"x" * 2000, LABELS, LIFE, found.epoch)


class TestTheServerForgets:
    async def test_everything(self, server: RedisServer, store: RedisAnswers) -> None:
        """Nobody knows then whether there was a purge: what was asked before is not kept."""
        await keep(store)
        before = (await store.look("two", "mine", LIFE)).epoch
        await asyncio.sleep(0.002)
        server.flush()
        assert not await store.renew("two", "mine", LIFE)
        assert not await store.keep("two", b"sealed", LABELS, LIFE, before, "mine")
        assert await sealed(store) is None
        assert await digests(store) == set()
        assert not await store.keep("two", b"sealed", LABELS, LIFE, before, "mine")
        assert await keep(store, "two")

    async def test_scripts(self, server: RedisServer, store: RedisAnswers) -> None:
        await keep(store)
        server.call("SCRIPT", "FLUSH")
        assert await asyncio.gather(*[sealed(store) for _ in range(20)]) == [b"sealed"] * 20

    @pytest.mark.parametrize("lost", KEYS[:4])
    async def test_one_key(self, server: RedisServer, store: RedisAnswers, lost: str) -> None:
        """A server that evicts: what is left of an answer is a miss, and its room is not lost."""
        for number in range(3):
            await keep(store, f"{number}", b"x" * MIB)
        server.call("DEL", key(lost))
        assert await sealed(store) is None
        for number in range(10, 17):
            assert await keep(store, f"{number}", b"y" * MIB)
            assert await sealed(store, f"{number}") == b"y" * MIB
        assert await digests(store) == {f"{number}" for number in range(14, 17)}
        assert server.call("HLEN", key("bodies")) == 3
        assert int(server.call("HGET", key("records"), "")) == 3 * (MIB + BESIDE)


class TestWhatSomebodyElseWrote:
    TYPES = (
        ("SET", "x"),
        ("RPUSH", "x"),
        ("HSET", "x", "y"),
        ("ZADD", "1", "x"),
        ("SADD", "x"),
        ("XADD", "*", "x", "y"),
    )

    @pytest.mark.parametrize("name", KEYS)
    @pytest.mark.parametrize("words", TYPES, ids=lambda words: str(words[0]))
    async def test_of_another_type(
        self, server: RedisServer, store: RedisAnswers, name: str, words: tuple[str, ...]
    ) -> None:
        await keep(store)
        server.call("DEL", key(name))
        server.call(words[0], key(name), *words[1:])
        expected = b"sealed" if name in ("records", "epoch", "claim:one") else None
        assert await sealed(store) == expected
        assert not (await store.look("two", "mine", LIFE)).made_by_another
        assert await keep(store)
        assert await sealed(store) == b"sealed"
        assert await digests(store) == {"one"}

    @pytest.mark.parametrize("name", KEYS)
    async def test_a_purge_mends_it(self, server: RedisServer, store: RedisAnswers, name: str) -> None:
        await keep(store)
        server.call("DEL", key(name))
        server.call("RPUSH", key(name), "x")
        assert await store.purge(lambda _one: True) == (0 if name in KEYS[:3] else 1)
        assert await digests(store) == set()
        assert await keep(store)

    @pytest.mark.parametrize("bytes_", ["", "x", "-1", "nan", "inf", "1e400", "-inf", "0x10"])
    async def test_how_much_there_is(self, server: RedisServer, store: RedisAnswers, bytes_: str) -> None:
        await keep(store, "old")
        server.call("HSET", key("records"), "", bytes_)
        for number in range(5):
            assert await keep(store, f"{number}", b"x" * MIB)
        assert len(await digests(store)) == 3
        assert server.call("HLEN", key("bodies")) == 3

    @pytest.mark.parametrize("epoch", ["", "x", "-1", "1.5", "9" * 16, "9" * 5000, "nan", "1 2"])
    async def test_an_epoch(self, server: RedisServer, store: RedisAnswers, epoch: str) -> None:
        before = (await store.look("one", "mine", LIFE)).epoch
        server.call("SET", key("epoch"), epoch)
        assert not await store.keep("one", b"old", LABELS, LIFE, before, "mine")
        assert await keep(store)
        assert server.call("PTTL", key("epoch")) > 0

    @pytest.mark.parametrize("claim", ["", "x", "1", "1 2", "1 2 3", "9" * 400 + " 1 mine", "nan 1 mine"])
    async def test_a_claim(self, server: RedisServer, store: RedisAnswers, claim: str) -> None:
        server.call("SET", key("claim:one"), claim)
        assert not await store.renew("one", "mine", LIFE)
        assert (await store.look("one", "mine", LIFE)).leads
        assert (await store.look("one", "yours", LIFE)).made_by_another

    @pytest.mark.parametrize(
        "record",
        [
            "",
            "x",
            "null",
            "[]",
            "{}",
            '[1,2,3,"a","b"]',
            '["1",2,3,"a","b","c"]',
            "[" * 10_000,
            b"\xff\xfe",
            b"\x80\x04.",
        ],
    )
    async def test_what_is_known_of_an_answer(
        self, server: RedisServer, store: RedisAnswers, record: str | bytes
    ) -> None:
        await keep(store, "one")
        await keep(store, "two")
        with redis.Redis(port=server.port) as client:
            client.hset(key("records"), "one", record)
        assert await digests(store) == {"two"}
        assert await store.purge(lambda _one: False) == 1
        assert await sealed(store, "one") is None
        assert await sealed(store, "two") == b"sealed"
        assert int(server.call("HGET", key("records"), "")) == len(b"sealed") + BESIDE

    async def test_a_large_answer(self, server: RedisServer) -> None:
        """As large as all may be it comes, and is no answer for whoever opens it; a larger one does not even come."""
        with redis.Redis(port=server.port) as client:
            async with connected(server.url, 10 * MIB) as store:
                await keep(store)
                await keep(store, "two")
                client.hset(key("bodies"), "one", junk := os.urandom(10 * MIB))
                assert await sealed(store) == junk
                client.hset(key("bodies"), "one", junk + b"x")
                assert (await store.look("one", "mine", LIFE)).leads
                assert await sealed(store, "two") == b"sealed"
                assert store._connection.made == 1

    async def test_an_answer_under_a_digest_that_is_not_text(self, server: RedisServer, store: RedisAnswers) -> None:
        await keep(store)
        with redis.Redis(port=server.port) as client:
            client.hset(key("records"), b"\xff", '[1,2,3,"a","b","c"]')
            client.hset(key("bodies"), b"\xff", "x")
            client.zadd(key("ends"), {b"\xff": 2**60})
        assert await digests(store) == {"one"}
        assert await store.purge(lambda _one: False) == 1
        assert server.call("HLEN", key("bodies")) == 1


async def test_a_loop_that_was_busy_itself_reads_what_lies_there(server: RedisServer) -> None:
    async with connected(server.url, wait=0.05) as store:
        await eventually(lambda: keep(store))
        looking = asyncio.ensure_future(sealed(store))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is on its way
        assert select.select([_line(store)._transport.get_extra_info("socket")], [], [], PATIENCE)[0]
        time.sleep(0.1)
        assert await looking == b"sealed"


class TestClaimsThatNobodyHeardOf:
    async def test_a_look_that_is_given_up(self, store: RedisAnswers) -> None:
        await store.look("one")
        looking = asyncio.ensure_future(store.look("one", "mine", LIFE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is on its way
        looking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await looking
        assert (await store.look("one", "yours", LIFE)).leads

    async def test_a_look_that_timed_out(self, mortal: RedisServer) -> None:
        async with connected(mortal.url, wait=0.05) as store:
            mortal.stall()
            with pytest.raises(AnswersUnavailable, match="in time"):
                await store.look("one", "mine", LIFE)
            mortal.resume()
            assert await eventually(lambda: store.look("one", "yours", LIFE), lambda found: found.leads)

    async def test_a_look_whose_connection_was_lost(self, server: RedisServer, store: RedisAnswers) -> None:
        await store.look("one")
        looking = asyncio.ensure_future(store.look("one", "mine", LIFE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _line(store).abort()
        with pytest.raises(AnswersUnavailable):
            await looking
        async with connected(server.url) as other:
            await other.look("one", "mine", LIFE)  # claimed for certain now, whatever came over
            assert await eventually(lambda: store.look("one", "yours", LIFE), lambda found: found.leads)
            assert not store._unheard

    async def test_who_asks_again_has_it(self, server: RedisServer, store: RedisAnswers) -> None:
        await store.look("one")
        looking = asyncio.ensure_future(store.look("one", "mine", LIFE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _line(store).abort()
        with pytest.raises(AnswersUnavailable):
            await looking
        assert (await eventually(lambda: store.look("one", "mine", LIFE))).leads
        server.call("CLIENT", "KILL", "TYPE", "normal")
        assert await eventually(lambda: store.renew("one", "mine", LIFE))

    async def test_no_more_than_can_be_released_at_once(self, mortal: RedisServer) -> None:
        """Nothing of it waits on a connection: there is none, and none is being made."""
        async with connected(mortal.url, wait=WAIT) as store:
            await eventually(lambda: keep(store))
            mortal.kill()
            await is_unavailable(store)
            while not store._connection._down:
                await asyncio.sleep(0.01)
            looks = [store.look(f"{number}", "mine", LIFE) for number in range(3 * answers._UNHEARD)]
            await asyncio.gather(*looks, return_exceptions=True)
            assert len(store._unheard) == answers._UNHEARD
            mortal.start()
            await eventually(lambda: keep(store))
            assert not store._unheard


class Slow:
    """A network between a store and Redis, that takes its time: `piece` bytes each way every `pause` seconds."""

    def __init__(self, server: RedisServer, piece: int, pause: float) -> None:
        self._port = server.port
        self._piece = piece
        self._pause = pause
        self._carrying = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def there(self) -> AsyncIterator[str]:
        """Nothing waits in buffers that are much larger than a piece."""
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._piece)
        async with await asyncio.start_server(self._serve, sock=listening, limit=self._piece):
            yield f"redis://127.0.0.1:{listening.getsockname()[1]}/0"
            await asyncio.wait(self._carrying)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to = await asyncio.open_connection("127.0.0.1", self._port, limit=self._piece)
        both = {asyncio.ensure_future(self._carry(*way)) for way in ((reader, to), (there, writer))}
        self._carrying |= both
        await asyncio.wait(both)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(self._piece):
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(self._pause)
        writer.close()


class TestLargeAnswersOnASlowNetwork:
    """It takes twice as long for an answer as a connection may be silent."""

    PIECES, PAUSE = 40, 0.03

    @asynccontextmanager
    async def slowly(
        self, server: RedisServer, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[RedisAnswers]:
        monkeypatch.setattr(answers, "_SILENCE_S", self.PIECES * self.PAUSE / 2)
        network = Slow(server, size // self.PIECES, self.PAUSE)
        async with network.there() as url, answers_at(url, 2 * size, wait=0.05) as store:
            await eventually(lambda: store.look("small"))
            own = _line(store)._transport.get_extra_info("socket")
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size // self.PIECES)
            yield store

    async def test_a_look_misses_and_no_connection_is_lost(
        self, server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with connected(server.url) as other:
            await keep(other, "large", os.urandom(MIB))
            await keep(other, "small")
        async with self.slowly(server, MIB, monkeypatch) as store:
            with pytest.raises(AnswersUnavailable, match="in time"):
                await store.look("large", "mine", LIFE)
            with pytest.raises(AnswersUnavailable, match="in time"):
                await store.look("small")
            assert await eventually(lambda: sealed(store, "small")) == b"sealed"
            assert store._connection.made == 1

    async def test_keeping_takes_the_time_that_it_takes(
        self, server: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        large = os.urandom(8 * MIB)
        async with self.slowly(server, len(large), monkeypatch) as store:
            epoch = (await eventually(lambda: store.look("large", "mine", LIFE))).epoch
            assert await store.keep("large", large, LABELS, LIFE, epoch, "mine")
            assert store._connection.made == 1
        async with connected(server.url, 2 * len(large)) as other:
            assert await sealed(other, "large") == large


def _line(store: RedisAnswers) -> _Line:
    line = store._connection._line
    assert line is not None
    return line


async def test_nobody_gets_anothers_answer_whatever_breaks(server: RedisServer) -> None:
    """Callers with an answer each, of another size, while connections are cut at random."""
    dice, hits = random.Random(1), 0
    texts = [os.urandom(dice.choice([1, 100, 50_000])) + b"\r\n$1" for _ in range(12)]

    async def caller(store: RedisAnswers, number: int) -> None:
        nonlocal hits
        digest, text = f"of {number}", texts[number]
        while store._connection.made < 6:
            found = await eventually(partial(store.look, digest, f"claim {number}", LIFE))
            assert found.sealed == text or (found.sealed is None and found.leads)
            hits += found.sealed is not None
            if dice.random() < 0.2:
                await eventually(partial(store.keep, digest, text, Labels("", "", ""), LIFE, found.epoch))

    async def saboteur() -> None:
        while True:
            await asyncio.sleep(dice.uniform(0.01, 0.05))
            await asyncio.to_thread(server.call, "CLIENT", "KILL", "TYPE", "normal")
            if dice.random() < 0.3:
                await asyncio.to_thread(server.call, "SCRIPT", "FLUSH")

    async with connected(server.url) as store:
        breaking = asyncio.ensure_future(saboteur())
        try:
            await asyncio.gather(*[caller(store, number) for number in range(len(texts))])
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        assert hits > 100


class TestWhatIsLeftInRedis:
    async def test_one_step_each(self, server: RedisServer, store: RedisAnswers) -> None:
        found = await store.look("one", "mine", LIFE)
        server.call("CONFIG", "RESETSTAT")
        await store.keep("one", b"sealed", LABELS, LIFE, found.epoch, "mine")
        assert await store.look("one") == Found(b"sealed", epoch=found.epoch)
        assert server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"] == 2

    async def test_everything_has_an_end(self, server: RedisServer, store: RedisAnswers) -> None:
        """A minute after the last answer has ended, but for the epoch."""
        await store.look("claimed", "mine", LIFE)
        for life in (1, LIFE, 2 * LIFE, LIFE):
            await keep(store, f"{life}", life=life)
        keys = [text.decode() for text in server.call("KEYS", "*")]
        assert len(keys) == 5
        left = {name: server.call("PTTL", name) for name in keys}
        assert [name for name, ms in left.items() if ms < LIFE] == []
        del left[key("epoch")]
        assert [name for name, ms in left.items() if ms > 3 * LIFE] == []
        await store.purge(lambda _one: True)
        await keep(store, life=1)
        assert [name for name in server.call("KEYS", "*") if server.call("PTTL", name) < 1] == []

    async def test_an_epoch_lives_on_with_every_answer(self, server: RedisServer, store: RedisAnswers) -> None:
        await keep(store)
        life = server.call("PTTL", key("epoch"))
        server.call("PEXPIRE", key("epoch"), LIFE)
        await keep(store)
        assert server.call("PTTL", key("epoch")) > life - LIFE > LIFE

    async def test_what_has_ended_goes_with_the_next(self, server: RedisServer, store: RedisAnswers) -> None:
        await keep(store, "ended", life=1)
        await asyncio.sleep(0.01)
        await keep(store, "here")
        assert server.call("HKEYS", key("bodies")) == server.call("ZRANGE", key("ends"), 0, -1) == [b"here"]

    async def test_what_has_ended_goes_with_a_purge(self, server: RedisServer, store: RedisAnswers) -> None:
        await keep(store, "here")
        await keep(store, "ended", life=1)
        await asyncio.sleep(0.01)
        assert server.call("HLEN", key("bodies")) == 2
        assert await store.purge(lambda _one: False) == 0
        assert server.call("HLEN", key("bodies")) == 1
        assert await sealed(store, "here") == b"sealed"

    async def test_many_small_ones_make_room_for_a_large_one_in_some_steps(self, server: RedisServer) -> None:
        """None of them keeps Redis from others for long; the answer is not kept until there is room."""
        most = 2_500 * BESIDE
        async with connected(server.url, most) as store:
            epoch = (await store.look("one")).epoch
            await asyncio.gather(
                *[store.keep(f"{number}", b"", LABELS, LIFE, epoch) for number in range(900)],
            )
            await asyncio.gather(
                *[store.keep(f"{number}", b"", LABELS, LIFE, epoch) for number in range(900, 1800)],
            )
            await asyncio.gather(
                *[store.keep(f"{number}", b"", LABELS, LIFE, epoch) for number in range(1800, 2500)],
            )
            assert server.call("HLEN", key("bodies")) == 2500
            large = b"x" * (most - BESIDE)
            kept = [await keep(store, "large", large) for _ in range(3)]
            assert kept == [False, False, True]
            assert await digests(store) == {"large"}
            assert await sealed(store, "large") == large

    async def test_all_lies_where_the_counters_are(self) -> None:
        """One slot of a cluster has all that a gateway asks for."""
        with redis_server(cluster_enabled="yes") as server:
            server.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with answers_at(server.url) as store:
                await eventually(lambda: store.look("}{x}", "mine", LIFE))
                assert await keep(store, "{}")
                assert await store.purge(lambda _one: False) == 0
            slots = {server.call("CLUSTER", "KEYSLOT", name) for name in server.call("KEYS", "*")}
            assert slots == {server.call("CLUSTER", "KEYSLOT", "sluice:{gateway}:sums")}

"""Counters in Redis while Redis fails: an error in time, nothing counted twice, nobody else's answer, and back."""

import asyncio
import logging
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import pytest
import redis
import uvloop
from redis.backoff import NoBackoff
from redis.retry import Retry

from extproc.stores.counters import Answer, Counter, CountersUnavailable, Draw, Window
from extproc.stores.redis import batch
from extproc.stores.redis.counters import RedisCounters
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server

CALLS = Counter("calls", 10)
AGE = (Window(0, 2**43),)  # one calendar window for everything
TOKENS = Counter("tokens", 1_000_000, AGE)
LIFE = 60_000
WAIT = 0.3  # longer than in production: the machine of a test is busy with other things
PATIENCE = 15.0
T = TypeVar("T")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisCounters]:
    async with counters(server.url) as made:
        await used(made)  # connected
        yield made


@asynccontextmanager
async def counters(url: str) -> AsyncIterator[RedisCounters]:
    made = RedisCounters(url, wait=WAIT)
    try:
        yield made
    finally:
        await made.close()


async def used(store: RedisCounters, counter: Counter = TOKENS, slot: str = "slot") -> int:
    """What is used; nobody's hold cannot be extended, so this takes nothing."""
    answer = await store.extend(slot, "nobody", [Draw(counter, 0)], 1)
    return answer.readings[0].used


async def take(store: RedisCounters, hold: str, units: int = 1) -> Answer:
    return await store.reserve("slot", hold, [Draw(TOKENS, units)], LIFE)


async def eventually(what: Callable[[], Awaitable[T]]) -> T:
    """Its result as soon as the store is available."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await what()
        except CountersUnavailable:
            assert time.monotonic() < until, "the store did not come back"
            await asyncio.sleep(0.01)


class Blocks:
    """Keeps its loop busy where sockets are read, for as long as `until` takes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, until: Callable[[], None]) -> None:
        self._told, self._tells = socket.socketpair()
        self._loop, self._until = loop, until
        loop.add_reader(self._told, self._block)

    def begin(self) -> None:
        self._tells.send(b"!")

    def _block(self) -> None:
        self._told.recv(1)
        self._until()

    def close(self) -> None:
        self._loop.remove_reader(self._told)
        self._told.close()
        self._tells.close()


async def is_unavailable(store: RedisCounters) -> None:
    """Every method says so, and before anybody would give up on it."""
    steps = [
        store.reserve("slot", "r", [Draw(TOKENS, 1)], LIFE),
        store.extend("slot", "r", [Draw(TOKENS, 1)], LIFE),
        store.settle("slot", "r", [], b"event"),
        store.expire("slot"),
        store.renew("slot", ["r"], LIFE),
        store.retake("slot", "r", [Draw(TOKENS, 1)], LIFE),
    ]
    results = await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), 10 * WAIT)
    assert [result for result in results if not isinstance(result, CountersUnavailable)] == []


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listener(serve: Serve) -> AsyncIterator[str]:
    """Where something listens that may not be Redis."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


class TestTheServerIsGone:
    async def test_killed_and_started_again(self, server: RedisServer, store: RedisCounters) -> None:
        server.kill()
        await is_unavailable(store)
        await is_unavailable(store)
        server.start()
        assert await eventually(lambda: used(store)) == 0
        assert (await take(store, "after")).granted

    async def test_it_was_never_there(self, server: RedisServer) -> None:
        server.kill()
        async with counters(server.url) as store:
            await is_unavailable(store)
            server.start()
            assert await eventually(lambda: used(store)) == 0

    async def test_stalled(self, server: RedisServer, store: RedisCounters) -> None:
        await take(store, "before", 5)
        server.stall()
        await is_unavailable(store)
        await is_unavailable(store)
        server.resume()
        assert await eventually(lambda: used(store)) == 5

    async def test_once_it_is_known_nobody_waits_for_it(self, server: RedisServer, store: RedisCounters) -> None:
        """Neither for a server that is gone, nor for one that takes connections and is silent."""
        for end in (server.stall, server.kill):
            end()
            await is_unavailable(store)
            waited = 0
            for number in range(500):
                began = time.monotonic()
                with pytest.raises(CountersUnavailable):
                    await take(store, str(number))
                waited += time.monotonic() - began > WAIT / 2
            assert waited < 5, "a busy machine may hold up a few"

    async def test_restarted_without_anybody_noticing(self, server: RedisServer, store: RedisCounters) -> None:
        server.restart()
        assert (await eventually(lambda: take(store, "after"))).granted

    async def test_a_host_that_takes_connections_and_says_nothing(self) -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with listener(silent) as url, counters(url) as store:
            await is_unavailable(store)

    async def test_an_end_while_callers_wait_is_told_to_all(self, server: RedisServer, store: RedisCounters) -> None:
        server.stall()
        waiting = [asyncio.ensure_future(take(store, str(number))) for number in range(50)]
        await asyncio.sleep(0)
        server.kill()
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), PATIENCE)
        assert [result for result in results if not isinstance(result, CountersUnavailable)] == []

    async def test_closed(self, store: RedisCounters) -> None:
        await store.close()
        await is_unavailable(store)

    async def test_closed_while_it_connects(self, server: RedisServer) -> None:
        server.stall()
        async with counters(server.url) as store:
            waiting = asyncio.ensure_future(take(store, "one"))
            await asyncio.sleep(0)
        with pytest.raises(CountersUnavailable):
            await waiting


class TestTheServerSaysNo:
    async def test_no_memory(self, server: RedisServer, store: RedisCounters) -> None:
        await take(store, "one", 3)
        server.call("CONFIG", "SET", "maxmemory", "1")
        for step in (take(store, "two"), store.settle("slot", "one", [Draw(TOKENS, 3)])):
            with pytest.raises(CountersUnavailable, match="OOM"):
                await step
        server.call("CONFIG", "SET", "maxmemory", "0")
        assert await used(store) == 3
        assert await store.settle("slot", "one", [Draw(TOKENS, 2)])
        assert await used(store) == 2

    async def test_a_replica_decides_nothing(self, server: RedisServer, store: RedisCounters) -> None:
        await take(store, "one", 3)
        server.call("REPLICAOF", "127.0.0.1", "1")
        full = [Draw(Counter("tokens", 3, AGE), 1)]
        steps = [
            store.reserve("slot", "two", full, LIFE),  # which has no room, and would have nothing to write
            store.reserve("slot", "one", full, LIFE),
            store.extend("slot", "none", full, LIFE),
        ]
        for step in steps:
            with pytest.raises(CountersUnavailable):
                await step
        await is_unavailable(store)
        server.call("REPLICAOF", "NO", "ONE")
        assert await eventually(lambda: used(store)) == 3

    async def test_still_loading(self) -> None:
        slow = {"key_load_delay": "2000", "loading_process_events_interval_bytes": "1024", "hz": "100"}
        with redis_server(**slow) as server:
            server.call("MSET", *[word for number in range(1000) for word in (f"key{number}", "x" * 100)])
            server.call("SAVE")
            server.restart()
            with (
                redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client,
                pytest.raises(redis.BusyLoadingError),
            ):
                client.get("key1")
            async with counters(server.url) as store:
                await is_unavailable(store)
                assert await eventually(lambda: used(store)) == 0

    async def test_a_wrong_password(self, server: RedisServer) -> None:
        server.call("CONFIG", "SET", "requirepass", "right")
        async with counters(server.url.replace("//", "//:wrong@")) as store:
            await is_unavailable(store)
        async with counters(server.url.replace("//", "//:right@")) as store:
            assert await used(store) == 0

    async def test_too_many_clients(self, server: RedisServer) -> None:
        with redis.Redis(port=server.port) as first:
            first.config_set("maxclients", 1)
            async with counters(server.url) as store:
                await is_unavailable(store)
                first.config_set("maxclients", 100)
                assert await eventually(lambda: used(store)) == 0

    async def test_something_that_is_not_redis(self) -> None:
        async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with listener(other) as url, counters(url) as store:
            await is_unavailable(store)

    async def test_a_node_of_a_cluster_goes_on_with_what_it_has(self, caplog: pytest.LogCaptureFixture) -> None:
        """Another area's keys are nowhere, or at another node: that costs the others nothing, not even a connection."""
        ours = "0-8191"
        options = {"cluster_enabled": "yes", "cluster_require_full_coverage": "no", "cluster_port": str(free_port())}
        with redis_server(**options) as node:
            node.call("CLUSTER", "ADDSLOTSRANGE", *ours.split("-"))
            names = [f"area-{number}" for number in range(64)]
            slots = {name: int(node.call("CLUSTER", "KEYSLOT", f"{{{name}}}")) for name in names}
            here = next(name for name, slot in slots.items() if slot <= 8191)
            there = next(name for name, slot in slots.items() if slot > 8191)
            async with counters(node.url) as store:
                assert await eventually(lambda: used(store, slot=here)) == 0
                for _ in range(3):
                    served, refused = await asyncio.gather(
                        used(store, slot=here), used(store, slot=there), return_exceptions=True
                    )
                    assert served == 0
                    assert isinstance(refused, CountersUnavailable)
                    assert "CLUSTERDOWN" in str(refused)
                assert store.connections == 1
        assert [record.levelno for record in caplog.records if "EnterpriseCluster" in record.message] == [logging.ERROR]

    @pytest.mark.parametrize(
        "error", ["MOVED 9000 127.0.0.1:1", "ASK 9000 127.0.0.1:1", "CLUSTERDOWN no slot", "TRYAGAIN"]
    )
    async def test_keys_of_another_node_are_refused_by_themselves(
        self, error: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As above, for what one node alone does not say."""
        ended = asyncio.Event()

        async def node(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(2**16):
                for _ in re.findall(rb"\*\d+\r\n", data):
                    writer.write(b"-%b\r\n" % error.encode() if b"theirs" in data else b":1\r\n")
            writer.close()
            await writer.wait_closed()
            ended.set()

        async with listener(node) as url:
            connection = batch.SharedConnection(url, WAIT, [], lambda: None)
            theirs = b"*2\r\n" + batch.words(b"GET", b"theirs")
            ours = b"*2\r\n" + batch.words(b"GET", b"ours")
            for _ in range(3):
                with pytest.raises(CountersUnavailable, match=error.partition(" ")[0]):
                    await connection.ask(theirs)
                assert await connection.ask(ours) == [1]
            assert connection.made == 1
            await connection.close()
            await ended.wait()
        assert len([record for record in caplog.records if "EnterpriseCluster" in record.message]) == 1

    async def test_more_than_can_be_under_way(self, server: RedisServer, store: RedisCounters) -> None:
        server.stall()
        many = [store.expire("slot") for _ in range(batch.MOST_UNDER_WAY + 1)]
        results = await asyncio.gather(*many, return_exceptions=True)
        assert [result for result in results if not isinstance(result, CountersUnavailable)] == []
        assert "too many" in str(results[-1])
        assert "too many" not in str(results[-2])


class TestTheServerForgets:
    async def test_scripts(self, server: RedisServer, store: RedisCounters) -> None:
        server.call("CONFIG", "RESETSTAT")
        server.call("SCRIPT", "FLUSH")
        answers = await asyncio.gather(*[take(store, str(number)) for number in range(20)])
        assert all(answer.granted for answer in answers)
        assert await used(store) == 20
        assert server.call("INFO", "commandstats")["cmdstat_script|load"]["calls"] == 7

    async def test_scripts_where_eval_is_forbidden(self, server: RedisServer) -> None:
        server.call("ACL", "SETUSER", "gateway", "on", ">secret", "~sluice:*", "+@all", "-eval", "-client")
        async with counters(server.url.replace("//", "//gateway:secret@")) as store:
            await take(store, "one")
            server.call("SCRIPT", "FLUSH")
            assert (await take(store, "two")).granted
            assert await used(store) == 2

    async def test_a_user_who_may_not_load_scripts(self, server: RedisServer) -> None:
        server.call("ACL", "SETUSER", "gateway", "on", ">secret", "~*", "+@all", "-script")
        async with counters(server.url.replace("//", "//gateway:secret@")) as store:
            await is_unavailable(store)

    async def test_everything(self, server: RedisServer, store: RedisCounters) -> None:
        await take(store, "one", 10)
        since = (await store.renew("slot", [], LIFE)).since
        await asyncio.sleep(0.002)
        server.flush()
        told = await store.renew("slot", ["one"], LIFE, since)
        assert told.since > since
        assert told.gone == ("one",)
        assert await used(store) == 0
        assert await store.settle("slot", "one", [Draw(TOKENS, 7)])
        assert await used(store) == 7

    async def test_that_we_were_connected(self, server: RedisServer, store: RedisCounters) -> None:
        assert store.connections == 1
        server.call("CLIENT", "KILL", "TYPE", "normal")
        assert (await eventually(lambda: take(store, "one"))).granted
        assert store.connections == 2


class TestWhatNobodyKnows:
    async def test_a_reserve_without_an_answer_goes_back(self, server: RedisServer, store: RedisCounters) -> None:
        """It was taken, its answer was lost, and its caller never came again."""
        taken = asyncio.ensure_future(take(store, "lost", 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # it is on its way
        _line(store).abort()
        with pytest.raises(CountersUnavailable):
            await taken
        async with counters(server.url) as other:
            await other.reserve("slot", "lost", [Draw(TOKENS, 100)], LIFE)  # taken for certain now, whatever came over
        assert await eventually(lambda: used(store)) == 0

    async def test_one_that_is_asked_again_stays(self, store: RedisCounters) -> None:
        taken = asyncio.ensure_future(take(store, "again", 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _line(store).abort()
        with pytest.raises(CountersUnavailable):
            await taken
        assert (await eventually(lambda: take(store, "again", 100))).granted
        assert await used(store) == 100
        assert await store.settle("slot", "again", [Draw(TOKENS, 30)])
        assert await used(store) == 30

    async def test_one_that_is_retaken_stays(self, server: RedisServer, store: RedisCounters) -> None:
        taken = asyncio.ensure_future(take(store, "mine", 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _line(store).abort()
        with pytest.raises(CountersUnavailable):
            await taken
        await eventually(lambda: store.retake("slot", "mine", [Draw(TOKENS, 100)], LIFE))
        server.call("CLIENT", "KILL", "TYPE", "normal")
        assert await eventually(lambda: used(store)) == 100

    async def test_one_that_is_settled_counts_what_was_used(self, store: RedisCounters) -> None:
        taken = asyncio.ensure_future(take(store, "settled", 100))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        _line(store).abort()
        with pytest.raises(CountersUnavailable):
            await taken
        assert await eventually(lambda: store.settle("slot", "settled", [Draw(TOKENS, 30)]))
        assert await used(store) == 30

    async def test_a_caller_that_leaves_disturbs_nobody(self, store: RedisCounters) -> None:
        calls = [asyncio.ensure_future(take(store, str(number), number)) for number in range(1, 21)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert all(isinstance(result, Answer) and result.granted for result in results[1::2])


def test_a_loop_that_is_late_reads_what_has_come_before_it_gives_up(server: RedisServer) -> None:
    """The reply comes while the loop is busy elsewhere, between its look at the sockets and its timers."""

    def answered() -> None:
        server.resume()
        time.sleep(0.2)  # the reply lies in the socket, and the timer is long due

    async def ask() -> int:
        loop = asyncio.get_running_loop()
        async with counters(server.url) as store:
            await used(store)
            blocks = Blocks(loop, answered)
            server.stall()
            asked = asyncio.ensure_future(used(store))
            await asyncio.sleep(0)
            loop.call_later(WAIT - batch._GRACE_S + 0.001, blocks.begin)  # the command is late, and not yet given up
            try:
                return await asked
            finally:
                blocks.close()

    assert uvloop.run(ask()) == 0


def _line(store: RedisCounters) -> batch._Line:
    line = store._connection._line
    assert line is not None
    return line


@pytest.mark.parametrize("seed", range(3))
async def test_everybody_gets_his_own_answer_whatever_breaks(server: RedisServer, seed: int) -> None:
    """Callers with a counter each, whose figures are theirs alone, while connections are cut at random."""
    dice = random.Random(seed)
    rounds = 40

    async def caller(store: RedisCounters, number: int) -> None:
        counter, step = Counter(f"of{number}", 10**12, AGE), 10**6 * (number + 1)
        for done in range(rounds):
            draws = [Draw(counter, step)] + [Draw(Counter(f"more{n}", 10**12, AGE), 0) for n in range(number % 4)]
            hold = f"{number}-{done}"
            answer = await eventually(partial(store.reserve, "slot", hold, draws, LIFE))
            assert answer.granted
            assert len(answer.readings) == len(draws)
            assert answer.readings[0].used == done + step
            await eventually(partial(store.settle, "slot", hold, [Draw(counter, 1)]))
        assert await eventually(lambda: used(store, counter)) == rounds

    async def saboteur() -> None:
        while True:
            await asyncio.sleep(dice.uniform(0.02, 0.2))
            await asyncio.to_thread(server.call, "CLIENT", "KILL", "TYPE", "normal")
            if dice.random() < 0.3:
                await asyncio.to_thread(server.call, "SCRIPT", "FLUSH")

    async with counters(server.url) as store:
        breaking = asyncio.ensure_future(saboteur())
        try:
            await asyncio.gather(*[caller(store, number) for number in range(12)])
        finally:
            breaking.cancel()
            await asyncio.gather(breaking, return_exceptions=True)
        await eventually(lambda: store.expire("slot"))
        assert server.call("ZCARD", "sluice:{slot}:ends") == 0


class TestWhatIsLeftInRedis:
    SLOTS = ("slot", "", "{", "}", "{}", "{a}b", "a%7Bb", "%", "ü 🙂\r\n")

    async def test_one_call_before_and_one_after(self, server: RedisServer, store: RedisCounters) -> None:
        server.call("CONFIG", "RESETSTAT")
        draws = [Draw(CALLS, 1), Draw(TOKENS, 5), Draw(Counter("rate", 5, sliding=1000), 1)]
        await store.reserve("slot", "hold", draws, LIFE)
        await store.settle("slot", "hold", draws, b"event")
        stats = server.call("INFO", "commandstats")
        assert stats["cmdstat_evalsha"]["calls"] == 2
        assert server.call("INFO", "stats")["total_commands_processed"] - stats["cmdstat_evalsha"]["calls"] <= sum(
            value["calls"] for value in stats.values()
        )

    async def test_everything_has_an_end(self, server: RedisServer, store: RedisCounters) -> None:
        rate = Counter("rate", 100, sliding=1000)
        for round_ in range(3):  # the second and third time, keys that were emptied come into being again
            for life in (1, LIFE):
                await store.reserve("slot", f"{round_}-{life}", [Draw(CALLS, 1), Draw(rate, 1, 1)], life)
            await asyncio.sleep(0.01)
            await store.expire("slot")
            await store.settle("slot", f"{round_}-{LIFE}", [Draw(rate, 2)], b"event")
            await store.settle("other", f"{round_}", [Draw(rate, 2)], b"event")
        keys = server.call("KEYS", "*")
        assert len(keys) > 8
        assert [key for key in keys if server.call("PTTL", key) < 1] == []

    async def test_a_slot_is_one_slot_of_a_cluster(self) -> None:
        with redis_server(cluster_enabled="yes") as server:
            server.call("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            async with counters(server.url) as store:
                for number, slot in enumerate(self.SLOTS):
                    draws = [Draw(Counter("{x}", 100, AGE), number + 1), Draw(Counter("calls{", 9), 1)]
                    await eventually(partial(store.reserve, slot, "}hold{", draws, LIFE))
                    assert await store.settle(slot, "}hold{", draws, b"event")
                for number, slot in enumerate(self.SLOTS):
                    assert await used(store, Counter("{x}", 100, AGE), slot) == number + 1
            keys = [server.call("CLUSTER", "KEYSLOT", key) for key in server.call("KEYS", "*")]
            assert len(set(keys)) == len(self.SLOTS)

"""Holds while Redis fails: calls wait for a bounded time, nothing is lost or told twice, and it heals by itself."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from extproc.holds import Holds
from extproc.limits.hold import Hold
from extproc.model import Demand
from extproc.stores.counters import GRACE, Counter, CountersUnavailable, Draw
from extproc.stores.redis.counters import RedisCounters
from tests.support.counters import events_of
from tests.support.holds import AGE, TOKENS, event, hold, idle, running, spent, stake, told, until, used
from tests.support.redis_server import RedisServer, redis_server

WAIT = 0.3  # longer than in production: the machine of a test is busy with other things
PATIENCE = 15.0


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@asynccontextmanager
async def worker(
    server: RedisServer, root: Path, life: int = 3_000, wait: float = WAIT, within: float = 5.0
) -> AsyncIterator[Holds]:
    async with running(RedisCounters(server.url, wait), root, life=life, within=within) as holds:
        yield holds


async def settled(holds: Holds, *names: str, units: int = 1) -> None:
    """Calls that were reserved and have ended, as far as the store knows, too."""
    for name in names:
        assert (await holds.reserve(hold(name))).granted
        holds.settle(hold(name), used(units), event(name))
    await until(lambda: idle(holds))


async def reserve_when_it_is_back(holds: Holds, name: str) -> None:
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            assert (await holds.reserve(hold(name))).granted
        except CountersUnavailable:
            assert time.monotonic() < limit, "the store did not come back"
            await asyncio.sleep(0.02)
        else:
            return


async def is_refused_in_time(holds: Holds) -> None:
    """Many calls at once, and none waits for longer than it may."""
    began = time.monotonic()
    results = await asyncio.gather(*[holds.reserve(hold(f"r{n}")) for n in range(50)], return_exceptions=True)
    assert all(isinstance(result, CountersUnavailable) for result in results)
    assert time.monotonic() - began < 5 * WAIT


def total(server: RedisServer) -> dict[str, Any]:
    """What stands in Redis: of the two counters, and how many holds are open."""
    tokens = server.call("HGET", "sluice:{gateway}:sums", "c0_8796093022208:tokens")
    return {
        "tokens": int(server.call("EVAL", "return (cmsgpack.unpack(ARGV[1]))", 0, tokens)) if tokens else 0,
        "calls": int(server.call("HGET", "sluice:{gateway}:sums", "o:calls") or 0),
        "open": server.call("ZCARD", "sluice:{gateway}:ends"),
    }


def spied(store: Any, *names: str) -> list[str]:
    """Which of these methods are called from now on."""
    called: list[str] = []

    def spy(name: str) -> Callable[..., Any]:
        method = getattr(store, name)

        def call(*args: Any) -> Any:
            called.append(name)
            return method(*args)

        return call

    for name in names:
        setattr(store, name, spy(name))
    return called


NAMES = [f"n{number}" for number in range(60)]


class TestItGoesAway:
    @pytest.mark.parametrize("how", ["kill", "stall"])
    async def test_and_comes_back(self, server: RedisServer, tmp_path: Path, how: str) -> None:
        """Calls end meanwhile, and go on meanwhile. Killed, it comes back empty."""
        async with worker(server, tmp_path) as holds:
            await settled(holds, *NAMES[:20])
            for name in NAMES[20:]:
                await holds.reserve(hold(name))
            getattr(server, how)()
            for name in NAMES[20:40]:
                holds.settle(hold(name), used(1), event(name))
            await is_refused_in_time(holds)
            await asyncio.sleep(1)
            assert holds.pending == 20
            server.start() if how == "kill" else server.resume()
            await reserve_when_it_is_back(holds, "after")
            for name in [*NAMES[40:], "after"]:
                holds.settle(hold(name), used(1), event(name))
            await until(lambda: idle(holds) and total(server)["tokens"] == 61)
            assert told(events_of(server)) == {(name, False): 1 for name in [*NAMES, "after"]}
            await until(lambda: total(server) == {"tokens": 61, "calls": 0, "open": 0})

    async def test_a_worker_that_counts_alone_meanwhile(self, server: RedisServer, tmp_path: Path) -> None:
        """Its reserves were perhaps taken, and are undone when the connection is back; what was used is booked."""
        async with worker(server, tmp_path) as holds:
            await settled(holds, "before")
            server.stall()
            alone = [hold(name, allow=True) for name in NAMES[:10]]
            answers = await asyncio.gather(*[holds.reserve(one) for one in alone])
            assert all(answer.granted for answer in answers)
            assert all(one.local for one in alone)
            for one in alone[:5]:
                holds.settle(one, used(2), event(one.id))
            server.resume()
            await until(lambda: idle(holds) and total(server)["tokens"] == 11)
            for one in alone[5:]:
                holds.settle(one, used(2), event(one.id))
            await until(lambda: idle(holds))
            assert total(server) == {"tokens": 21, "calls": 0, "open": 0}
            assert told(events_of(server)) == {(name, False): 1 for name in ["before", *NAMES[:10]]}

    async def test_it_was_never_there(self, server: RedisServer, tmp_path: Path) -> None:
        server.kill()
        async with worker(server, tmp_path) as holds:
            await is_refused_in_time(holds)
            holds.settle(hold("early"), used(5), event("early"))
            server.start()
            await reserve_when_it_is_back(holds, "one")
            holds.settle(hold("one"), used(5), event("one"))
            await until(lambda: idle(holds))
            assert told(events_of(server)) == {("early", False): 1, ("one", False): 1}

    async def test_and_the_worker_ends_meanwhile(self, server: RedisServer, tmp_path: Path) -> None:
        async with running(RedisCounters(server.url, WAIT), tmp_path, within=0.5) as holds:
            await settled(holds, "before")
            await holds.reserve(hold("one"))
            server.stall()
            holds.settle(hold("one"), used(5), event("one"))
        server.resume()
        async with worker(server, tmp_path) as holds:
            await until(lambda: idle(holds) and len(events_of(server)) == 2)
            assert total(server) == {"tokens": 6, "calls": 0, "open": 0}

    async def test_under_load(self, server: RedisServer, tmp_path: Path) -> None:
        """Calls one after the other while connections are cut, scripts forgotten, and the server stalls."""
        admitted = []

        async def caller(holds: Holds, number: int) -> None:
            for turn in range(25):
                one = hold(f"{number}-{turn}")
                try:
                    answer = await holds.reserve(one)
                except CountersUnavailable:
                    await asyncio.sleep(0.02)
                    continue
                assert answer.granted
                admitted.append(one.id)
                await asyncio.sleep(0.005)
                holds.settle(one, used(7), event(one.id))

        async def saboteur() -> None:
            for blow in range(100):
                await asyncio.sleep(0.1)
                await asyncio.to_thread(server.call, "CLIENT", "KILL", "TYPE", "normal")
                if blow % 3 == 0:
                    await asyncio.to_thread(server.call, "SCRIPT", "FLUSH")
                if blow % 5 == 0:
                    server.stall()
                    await asyncio.sleep(WAIT + 0.1)
                    server.resume()

        async with worker(server, tmp_path) as holds:
            breaking = asyncio.ensure_future(saboteur())
            try:
                await asyncio.gather(*[caller(holds, number) for number in range(8)])
            finally:
                breaking.cancel()
                await asyncio.gather(breaking, return_exceptions=True)
                server.resume()
            await until(lambda: idle(holds))
            events = told(events_of(server))
            assert {name: count for (name, expired), count in events.items() if not expired} == dict.fromkeys(
                admitted, 1
            )
            await until(lambda: total(server) == {"tokens": 7 * len(admitted), "calls": 0, "open": 0})


class TestItForgets:
    async def test_everything(self, server: RedisServer, tmp_path: Path) -> None:
        """The usage of the last hour comes back, with its events, and open calls hold what they held."""
        async with worker(server, tmp_path, life=1_500) as holds:
            await settled(holds, *NAMES, units=2)
            await holds.reserve(hold("open"))
            await until(lambda: holds._since > 0)
            server.flush()
            await until(lambda: total(server) == {"tokens": 220, "calls": 1, "open": 1})
            assert told(events_of(server)) == {(name, False): 1 for name in NAMES}
            holds.settle(hold("open"), used(2), event("open"))
            await until(lambda: total(server) == {"tokens": 122, "calls": 0, "open": 0})

    async def test_and_gives_no_budget_out_again(self, server: RedisServer, tmp_path: Path) -> None:
        """Half of it is known to a worker that has no calls, and half to one that has: neither is forgotten."""
        full = Counter("full", 2_000, AGE)
        ends = [Hold(f"{number}", (stake(full, 1),), Demand()) for number in range(2_000)]
        async with worker(server, tmp_path) as idler, worker(server, tmp_path) as busy:
            for number, one in enumerate(ends):
                (idler if number % 2 else busy).settle(one, [Draw(full, 1)], event(one.id))
            await until(lambda: idle(idler) and idle(busy))
            await until(lambda: idler._since > 0 and busy._since > 0)  # else a flush is nothing that they could notice
            server.flush()
            flushed, waited = time.monotonic(), 0.0
            while not waited:
                one = Hold(f"{time.monotonic()}", (stake(full, 1),), Demand())
                with contextlib.suppress(CountersUnavailable):
                    assert not (await busy.reserve(one)).granted
                    waited = time.monotonic() - flushed
                await asyncio.sleep(0.01)
            assert waited < 3 * GRACE / 1000
            assert await spent(busy._counters, full) == 2_000

    async def test_what_the_process_before_had_settled(self, server: RedisServer, tmp_path: Path) -> None:
        """It was flushed while no gateway ran."""
        async with worker(server, tmp_path) as holds:
            await settled(holds, *NAMES)
            await until(lambda: holds._connections > 0)
        server.flush()
        async with worker(server, tmp_path) as holds:
            await until(lambda: holds._connections > 0 and idle(holds))
            assert total(server)["tokens"] == 60
        async with worker(server, tmp_path) as holds:
            await until(lambda: holds._connections > 0 and idle(holds))
            assert total(server)["tokens"] == 60
            assert told(events_of(server)) == {(name, False): 1 for name in NAMES}

    async def test_scripts(self, server: RedisServer, tmp_path: Path) -> None:
        async with worker(server, tmp_path) as holds:
            await settled(holds, "one")
            await holds.reserve(hold("two"))
            server.call("SCRIPT", "FLUSH")
            holds.settle(hold("two"), used(1), event("two"))
            await until(lambda: idle(holds))
            assert total(server) == {"tokens": 2, "calls": 0, "open": 0}

    async def test_the_last_writes_in_a_fail_over(self, tmp_path: Path) -> None:
        """The replica that takes over has seen nothing for a while; clients are sent there as by a name or a proxy."""
        with redis_server(repl_diskless_sync_delay="0") as primary, redis_server() as replica:
            replica.call("REPLICAOF", "127.0.0.1", primary.port)
            async with (
                _proxy(lambda: target[0].port) as port,
                running(RedisCounters(f"redis://127.0.0.1:{port}/0", WAIT), tmp_path, life=3_000) as holds,
            ):
                target = [primary]
                await reserve_when_it_is_back(holds, "first")
                holds.settle(hold("first"), used(1), event("first"))
                await settled(holds, *NAMES[:20])
                await until(lambda: total(replica) == total(primary))
                replica.call("REPLICAOF", "127.0.0.1", 1)  # it is cut off
                await settled(holds, *NAMES[20:])
                await holds.reserve(hold("open"))
                assert total(primary)["tokens"] == 161
                primary.kill()
                replica.call("REPLICAOF", "NO", "ONE")
                assert total(replica)["tokens"] == 21
                target[0] = replica
                holds.settle(hold("open"), used(1), event("open"))
                await reserve_when_it_is_back(holds, "after")
                holds.settle(hold("after"), used(1), event("after"))
                await until(lambda: idle(holds) and total(replica)["tokens"] == 63)
                assert told(events_of(replica)) == {(name, False): 1 for name in [*NAMES, "first", "open", "after"]}
                assert total(replica) == {"tokens": 63, "calls": 0, "open": 0}


class TestItSaysNo:
    async def test_no_memory(self, server: RedisServer, tmp_path: Path) -> None:
        async with worker(server, tmp_path) as holds:
            await settled(holds, "one")
            await holds.reserve(hold("two"))
            server.call("CONFIG", "SET", "maxmemory", "1")
            holds.settle(hold("two"), used(1), event("two"))
            await is_refused_in_time(holds)
            assert holds.pending == 1
            server.call("CONFIG", "SET", "maxmemory", "0")
            await until(lambda: idle(holds))
            await reserve_when_it_is_back(holds, "three")
            assert total(server) == {"tokens": 102, "calls": 1, "open": 1}

    async def test_it_has_become_a_replica(self, server: RedisServer, tmp_path: Path) -> None:
        async with worker(server, tmp_path) as holds:
            await settled(holds, "one")
            await holds.reserve(hold("two"))
            server.call("REPLICAOF", "127.0.0.1", "1")
            holds.settle(hold("two"), used(1), event("two"))
            await is_refused_in_time(holds)
            server.call("REPLICAOF", "NO", "ONE")
            await until(lambda: idle(holds))
            assert total(server) == {"tokens": 2, "calls": 0, "open": 0}
            assert told(events_of(server)) == {("one", False): 1, ("two", False): 1}


class TestWhatItCosts:
    async def test_one_step_before_a_call_and_one_after(self, server: RedisServer, tmp_path: Path) -> None:
        async with worker(server, tmp_path, life=60_000, wait=PATIENCE) as holds:  # else a busy machine says it twice
            await settled(holds, "warm")
            await asyncio.sleep(1)
            renewals = spied(holds._counters, "renew", "expire")
            server.call("CONFIG", "RESETSTAT")
            await settled(holds, *NAMES)
            steps = server.call("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
            assert 2 * len(NAMES) <= steps <= 2 * len(NAMES) + len(renewals)

    async def test_many_open_calls_disturb_nobody(self, server: RedisServer, tmp_path: Path) -> None:
        """10,000 of them, renewed at once after a lost connection, and then in turn."""
        async with worker(server, tmp_path, life=8_000) as holds:
            many = [Hold(f"open {number}", (stake(TOKENS, 1),), Demand()) for number in range(10_000)]
            for at in range(0, len(many), 500):
                await asyncio.gather(*[holds.reserve(one) for one in many[at : at + 500]])
            server.call("CLIENT", "KILL", "TYPE", "normal")
            await reserve_when_it_is_back(holds, "after")
            connections = holds._counters.connections
            for number in range(400):
                assert (await holds.reserve(hold(f"{number}", units=1))).granted
                await asyncio.sleep(0.025)
            assert holds._counters.connections == connections
            assert total(server)["open"] == 10_401
            assert events_of(server) == []

    async def test_a_call_whose_client_left_while_it_waited(self, server: RedisServer, tmp_path: Path) -> None:
        """Nobody knows whether it was reserved. Its settlement closes it, and runs into no late reserve."""
        async with worker(server, tmp_path) as holds:
            await settled(holds, "warm")
            for turns in range(6):
                one = hold(f"left{turns}")
                waiting = asyncio.ensure_future(holds.reserve(one))
                for _ in range(turns):
                    await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                holds.settle(one, [], event(one.id))
            await until(lambda: idle(holds))
            assert total(server) == {"tokens": 1, "calls": 0, "open": 0}
            assert holds.open == 0


class TestTheEnd:
    async def test_a_store_that_is_too_slow_for_calls_has_everything_in_the_end(
        self, server: RedisServer, tmp_path: Path
    ) -> None:
        late = 0.0
        async with _proxy(lambda: server.port, lambda: late) as port:
            store = RedisCounters(f"redis://127.0.0.1:{port}/0", WAIT)
            async with running(store, tmp_path, within=PATIENCE) as holds:
                await settled(holds, "warm")
                for name in NAMES:
                    holds.settle(hold(name), used(1), event(name))
                late = 1.5 * WAIT
        assert holds.pending == 0
        assert told(events_of(server)) == {(name, False): 1 for name in ["warm", *NAMES]}

    async def test_a_store_that_is_gone_is_waited_for_no_longer_than_was_said(
        self, server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with worker(server, tmp_path, within=1.0) as holds:
            await settled(holds, "warm")
            server.kill()
            for name in NAMES:
                holds.settle(hold(name), used(1), event(name))
        assert "did not take all in time: 60 settlements stay in the spool" in caplog.text
        assert str(tmp_path) in caplog.text
        server.start()
        async with worker(server, tmp_path) as heir:
            await until(lambda: idle(heir) and len(events_of(server)) >= len(NAMES))
            assert {name for name, _ in told(events_of(server))} >= set(NAMES)


@asynccontextmanager
async def _proxy(port: Callable[[], int], late: Callable[[], float] = lambda: 0.0) -> AsyncIterator[int]:
    """Passes connections on to the server of the moment; whatever goes either way comes so many seconds late."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await asyncio.sleep(late())
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port())
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, back_writer), pump(back_reader, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        yield listener.sockets[0].getsockname()[1]

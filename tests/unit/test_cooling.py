"""From Envoy's record of an attempt to what every worker knows of the backend."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from extproc.adapter.access_log import AccessLog
from extproc.contract import ATTEMPT_LOG, DEPLOYED_HEADER, LISTENER_LOG
from extproc.cooling import Cooler
from extproc.dataplane.policy import access_log
from extproc.routing.attempt import Attempt, Meaning, Why
from extproc.routing.health import Health
from extproc.routing.policy import Cooling, Watched
from extproc.routing.waits import HEADERS
from extproc.stores.cooldowns import Cooldowns, CooldownsUnavailable, Entry, MemoryCooldowns
from extproc.stores.redis.cooldowns import RedisCooldowns
from protos.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage
from tests.support.playbook import Records
from tests.support.redis_server import RedisServer, redis_server

BACKENDS = {
    "one": Watched(frozenset({"large", "small"}), Cooling(failures=2, open_for=30)),
    "two": Watched(frozenset({"large"})),
}
PATIENCE = 10.0
KNOWN_IN = 1.0  # seconds, to all workers and replicas
WAIT = 0.3

REFUSED = Attempt("one", 429, (), {"retry-after": "20"}, "large")
FAILED = Attempt("one", 0, ("upstream_connection_failure",))
GOOD = Attempt("one", 200)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def working(
    store: Cooldowns, cooling: Cooling | None = None, elapsed: Callable[[], float] = time.monotonic
) -> AsyncIterator[Cooler]:
    """A worker that runs; `cooling` in place of what BACKENDS say of one."""
    backends = BACKENDS if cooling is None else {"one": Watched(frozenset({"large"}), cooling)}
    cooler = Cooler(Health(backends, lambda: 0.0), store, elapsed)
    running = asyncio.ensure_future(cooler.run())
    try:
        yield cooler
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await cooler.close()


async def until(what: Callable[[], bool], within: float = PATIENCE) -> None:
    """Of the time in which the machine did something else, and no worker here could do anything, little counts."""
    last, passed = time.monotonic(), 0.0
    while not what():
        assert passed < within, "it did not happen in time"
        await asyncio.sleep(0.005)
        passed, last = passed + min(time.monotonic() - last, 0.02), time.monotonic()


def why(cooler: Cooler, model: str = "large") -> Why | None:
    return cooler.health.until("one", model, cooler.now())[1]


class Unreliable(MemoryCooldowns):
    """Does what it is told to, or fails."""

    def __init__(self) -> None:
        super().__init__(wall_ms)
        self.trouble: Exception | None = None
        self.asked = 0
        self.puts: list[Mapping[str, Entry]] = []
        self.is_closed = False

    async def put(self, entries: Mapping[str, Entry]) -> None:
        self._fail()
        self.puts.append(entries)
        await super().put(entries)

    async def all(self) -> Mapping[str, Entry]:
        self.asked += 1
        self._fail()
        return await super().all()

    async def drop(self, names: Collection[str]) -> None:
        self._fail()
        await super().drop(names)

    async def close(self) -> None:
        self.is_closed = True

    def _fail(self) -> None:
        if self.trouble is not None:
            raise self.trouble


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


class TestTwoReplicasOnOneRedis:
    @pytest.fixture
    async def both(self, server: RedisServer) -> AsyncIterator[tuple[Cooler, Cooler]]:
        server.flush()
        async with (
            working(RedisCooldowns(server.url, WAIT)) as one,
            working(RedisCooldowns(server.url, WAIT)) as two,
        ):
            await asyncio.sleep(0.3)  # both are in the middle of their pauses
            yield one, two

    async def test_a_pause_is_known_to_both_within_a_second(self, both: tuple[Cooler, Cooler]) -> None:
        one, two = both
        one.take(REFUSED)
        assert why(one) is Why.RATE_LIMITED
        await until(lambda: why(two) is Why.RATE_LIMITED, KNOWN_IN)
        for cooler in both:
            assert 15 < cooler.health.until("one", "large", cooler.now())[0] - cooler.now() <= 20
            assert why(cooler, "small") is None

    async def test_a_circuit_opens_and_closes_for_both(self, server: RedisServer) -> None:
        server.flush()
        brief = Cooling(failures=2, open_for=0.5)
        async with (
            working(RedisCooldowns(server.url, WAIT), brief) as one,
            working(RedisCooldowns(server.url, WAIT), brief) as two,
        ):
            for _ in range(2):
                one.take(FAILED)
            await until(lambda: why(two) is Why.CIRCUIT_OPEN, KNOWN_IN)
            await until(lambda: two.health.may_probe("one", two.now()), KNOWN_IN)
            two.take(GOOD)
            assert why(two) is None
            await until(lambda: why(one) is None, KNOWN_IN)

    async def test_a_lift_holds_for_both(self, both: tuple[Cooler, Cooler]) -> None:
        one, two = both
        one.take(REFUSED)
        for _ in range(2):
            one.take(FAILED)
        await until(lambda: why(two) is Why.CIRCUIT_OPEN, KNOWN_IN)
        two.forget("one")
        assert why(two) is None
        await until(lambda: why(one) is None, KNOWN_IN)

    async def test_while_redis_is_away_each_knows_what_it_saw(
        self, server: RedisServer, both: tuple[Cooler, Cooler], caplog: pytest.LogCaptureFixture
    ) -> None:
        one, two = both
        server.kill()
        try:
            one.take(REFUSED)
            await until(lambda: "not shared" in caplog.text)
            assert why(one) is Why.RATE_LIMITED
            assert why(two) is None
        finally:
            server.start()
        await until(lambda: why(two) is Why.RATE_LIMITED)


class TestWhileTheStoreFails:
    async def test_it_is_told_once_and_so_is_that_it_is_back(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        store = Unreliable()
        store.trouble = CooldownsUnavailable("it does not answer")
        async with working(store) as cooler:
            cooler.take(REFUSED)
            await asyncio.sleep(0.8)
            assert caplog.messages == ["cool-downs are not shared, as their store does not answer: it does not answer"]
            store.trouble = None
            await until(lambda: "one/large" in (store.puts[0] if store.puts else {}))
            assert 15_000 < store.puts[0]["one/large"].wait < 20_000  # what is left of it
            await until(lambda: len(caplog.messages) == 2)
        assert caplog.messages[1] == "cool-downs are shared again"

    async def test_an_error_that_nobody_thought_of_ends_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        store = Unreliable()
        store.trouble = ValueError("canary")
        async with working(store) as cooler:
            cooler.take(REFUSED)
            await until(lambda: "ValueError" in caplog.text)
            store.trouble = None
            await until(lambda: bool(store.puts))
        assert "canary" not in caplog.text

    async def test_what_is_over_by_then_is_not_told(self) -> None:
        store, now = Unreliable(), 1000.0
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), store, elapsed=lambda: now)
        cooler.take(REFUSED)
        now += 60
        await cooler.close()
        assert store.puts == []


class TestInTheBackground:
    async def test_a_storm_is_told_in_few_steps(self) -> None:
        store = Unreliable()
        async with working(store) as cooler:
            for number in range(400):
                wait = str(10 + number / 100)
                cooler.take(Attempt("one", 429, (), {"retry-after": wait}, "large"))
                await asyncio.sleep(0.001)
        assert 1 <= len(store.puts) <= 60

    async def test_good_attempts_are_not_told(self) -> None:
        store = Unreliable()
        async with working(store) as cooler:
            for _ in range(10):
                cooler.take(GOOD)
            await until(lambda: store.asked >= 2)
        assert store.puts == []

    async def test_an_older_word_of_the_store_undoes_nothing(self) -> None:
        class Slow(Unreliable):
            is_read = asyncio.Event()

            async def all(self) -> Mapping[str, Entry]:
                found = await super().all()
                if found:
                    cooler.take(GOOD)  # closes what was just read as open
                    self.is_read.set()
                return found

        store, now = Slow(), 0.0
        async with working(store, Cooling(failures=1, open_for=30), lambda: now) as cooler:
            cooler.take(FAILED)
            now = 31.0
            await asyncio.wait_for(store.is_read.wait(), PATIENCE)
            assert store.puts
            assert why(cooler) is None
            await until(lambda: store.asked >= 3)
            assert why(cooler) is None

    async def test_closing_tells_what_is_left(self) -> None:
        store = Unreliable()
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), store)
        cooler.take(REFUSED)
        await cooler.close()
        assert set(await store.all()) == {"one/large"}
        assert store.is_closed

    async def test_closing_waits_for_no_store_that_is_away(self) -> None:
        store = Unreliable()
        store.trouble = CooldownsUnavailable("away")
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), store)
        cooler.take(REFUSED)
        await cooler.close()
        assert store.is_closed


class TestAnswersThatWereWatched:
    """Of those that the policy ended, as their backend fell silent, Envoy tells that all went well."""

    @staticmethod
    def silent(call: str) -> Attempt:
        return Attempt("one", 200, call=call, judged=Meaning.FAILED)

    def test_envoys_record_of_a_silent_one_clears_nobody(self) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        for number in range(5):
            cooler.judge(self.silent(f"call-{number}"))
            cooler.take(Attempt("two", 200, call=f"call-{number}"))  # another attempt of the same call
            cooler.take(Attempt("one", 200, call=f"call-{number}"))
        assert why(cooler) is Why.FAILING, "it is tried last, and left out by nobody"

    def test_a_whole_one_in_between_does(self) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        for number in range(12):
            cooler.judge(self.silent(f"call-{number}"))
            cooler.judge(Attempt("one", 200, judged=Meaning.ALIVE))
        assert why(cooler) is None

    def test_its_record_tells_what_is_left_all_the_same(self) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        cooler.judge(self.silent("call"))
        spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4s"}
        cooler.take(Attempt("one", 200, (), spent, "large", call="call"))
        assert why(cooler) is Why.SPENT

    def test_what_goes_to_other_workers_does_not_pile_up(self) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        for number in range(5_000):
            cooler.judge(self.silent(f"call-{number}"))
        assert len(cooler._failed) == 1_000


class TestWhatOperatorsRead:
    def test_a_circuit_that_opens_or_closes_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        now = 0.0
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: now)
        for _ in range(5):
            cooler.take(FAILED)
        now = 31.0
        cooler.take(FAILED)  # the probe: it stays open
        now = 100.0
        for _ in range(3):
            cooler.take(GOOD)
        assert [record.getMessage() for record in caplog.records] == [
            "backend one fails: it gets no calls until one that tries it is answered",
            "backend one answers again",
        ]

    def test_what_answers_by_errors_is_told_apart(self, caplog: pytest.LogCaptureFixture) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        for status in (500, 500, 500, 503, 503):
            cooler.take(Attempt("one", status))
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "backend one answers with errors",
            "backend one fails",
        ]

    def test_a_pause_is_no_trouble(self, caplog: pytest.LogCaptureFixture) -> None:
        cooler = Cooler(Health(BACKENDS, lambda: 0.0), MemoryCooldowns(lambda: 0), lambda: 0.0)
        cooler.take(REFUSED)
        assert not caplog.records


# ---- from Envoy's records ----------------------------------------------------------------------------


class Stream:
    def __init__(self, *messages: StreamAccessLogsMessage) -> None:
        self._messages = list(messages)

    async def read(self) -> Any:
        return self._messages.pop(0) if self._messages else grpc.aio.EOF


def entry(status: int, *flags: str, cluster: str = "backend_one", **headers: str) -> HTTPAccessLogEntry:
    made = HTTPAccessLogEntry()
    made.common_properties.upstream_cluster = cluster
    made.request.request_id = f"call-{status}"
    made.response.response_code.value = status
    made.response.response_headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    for flag in flags:
        setattr(made.common_properties.response_flags, flag, True)
    return made


async def learnt(name: str, *entries: HTTPAccessLogEntry) -> list[Attempt]:
    message = StreamAccessLogsMessage(http_logs=StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries))
    message.identifier.log_name = name
    attempts: list[Attempt] = []
    await AccessLog(Records(), attempts.append).stream(None, Stream(message))
    return attempts


async def test_every_attempt_at_a_backend_is_learnt_from() -> None:
    refused = entry(429, retry_after="3", x_sluice_deployed="large")
    failed = entry(0, "upstream_connection_failure", "upstream_retry_limit_exceeded")
    assert await learnt(ATTEMPT_LOG, entry(200), refused, failed, entry(421, cluster="sink")) == [
        Attempt("one", 200, [], call="call-200"),
        Attempt("one", 429, [], {"retry-after": "3", DEPLOYED_HEADER: "large"}, "large", "call-429"),
        Attempt("one", 0, ["upstream_connection_failure", "upstream_retry_limit_exceeded"], call="call-0"),
    ]


async def test_a_calls_own_record_is_no_attempt() -> None:
    assert await learnt(LISTENER_LOG, entry(429, retry_after="3")) == []


def test_envoy_tells_the_headers_that_are_read() -> None:
    config = access_log(ATTEMPT_LOG, HEADERS).typed_config
    assert config is not None
    assert all(header.encode() in config.value for header in HEADERS)

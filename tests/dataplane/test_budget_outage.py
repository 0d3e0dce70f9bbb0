"""Redis killed, stalled, started again and flushed, with and without load: what callers meet, and what is left."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.limits import Client, limited
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]

MANY = 100_000
LIMITS: dict[str, Json] = {
    "deny": {"requests": MANY, "per": "hour"},
    "allow": {"requests": MANY, "per": "hour", "on_error": "allow"},
    "few": {"requests": 6, "per": "hour", "on_error": "allow"},
    "loaded": {"requests": MANY, "per": "hour"},
    "places": {"concurrent": 4, "only": {"models": ["loaded"]}},
    "free": {"requests": 1, "per": "hour", "mode": "off"},
}
WORKERS = 2
PROMPT = 2.0
"""Seconds within which a refusal must have come: the machine may be busy, and the wait is a twentieth of one."""


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai", "azure", "anthropic") as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(scope="module")
def shared(provider: FakeProvider, server: RedisServer) -> Iterator[RunningGateway]:
    settings = limited(provider, LIMITS, workers=WORKERS, stores={"counters": server.url})
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture
def client(shared: RunningGateway, provider: FakeProvider) -> Iterator[Client]:
    """With the same workers at the end as at the beginning: nothing is mended by starting them again."""
    provider.reset()
    before = [child.pid for child in shared.processes("extproc.worker")]
    yield Client(shared)
    assert [child.pid for child in shared.processes("extproc.worker")] == before


@contextmanager
def outage(server: RedisServer, way: str) -> Iterator[None]:
    """A Redis that is gone, or that takes connections and says nothing; afterwards it is there again."""
    if way == "stall":
        server.stall()
    else:
        server.kill()
    try:
        yield
    finally:
        if way == "stall":
            server.resume()
        else:
            server.start()


def back(client: Client, model: str = "deny") -> None:
    """Wait until calls are served that need the store, by every worker."""

    def often() -> bool:
        return all(client.call(model).status_code == 200 for _ in range(4 * WORKERS))

    until(often, 15, "the store to be used again")


@pytest.mark.parametrize("way", ["kill", "stall"])
def test_without_the_store_calls_are_refused_at_once(
    way: str, client: Client, server: RedisServer, provider: FakeProvider
) -> None:
    back(client)
    provider.reset()
    with outage(server, way):
        for _ in range(2 * WORKERS):
            began = time.monotonic()
            answer = client.call("deny")
            assert time.monotonic() - began < PROMPT
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "store_unavailable")
            assert answer.headers["x-should-retry"] == "true"
        assert client.call("free").status_code == 200  # no limit, no store
        assert provider.totals("openai")["calls"] == 1
    back(client)


@pytest.mark.parametrize("way", ["kill", "stall"])
def test_a_limit_may_allow_calls_that_each_worker_counts(way: str, client: Client, server: RedisServer) -> None:
    back(client)
    with outage(server, way):
        began = time.monotonic()
        assert [client.call("allow").status_code for _ in range(4)] == [200] * 4
        assert time.monotonic() - began < 4 * PROMPT
    back(client)


def test_what_a_worker_counts_alone_is_limited_and_counted_later(client: Client, server: RedisServer) -> None:
    """Each of two workers has half of six; what was used meanwhile is in the counters when the store is back."""
    back(client)
    with outage(server, "stall"):
        told = Counter(client.call("few").status_code for _ in range(30))
        assert told == {200: 6, 429: 24}
    back(client)
    until(lambda: "Used 6," in client.probe("few").text, what="the calls to be counted")


def test_a_store_that_has_forgotten_learns_again_what_was_used(client: Client, server: RedisServer) -> None:
    back(client, "allow")
    used = until(lambda: client.left("allow", "requests"), what="the counter")
    server.flush()
    until(lambda: client.left("allow", "requests") == used, 40, "the flushed counter to be made again")
    server.restart()
    until(lambda: lost(client) == used, 40, "the counter of an empty Redis to be made again")


def lost(client: Client) -> int | None:
    """What is left by the store, and not by a worker's own count: nothing is told while that counts."""
    return None if client.call("deny").status_code != 200 else client.left("allow", "requests")


# ---- under load ----------------------------------------------------------------------------------------


class Load:
    """Callers that call without a pause; `told` counts the statuses that they met."""

    def __init__(self, client: Client, callers: int = 4) -> None:
        self.told: Counter[int] = Counter()
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number % 2 == 1,)) for number in range(callers)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def served(self, count: int) -> None:
        """Wait for so many more."""
        aim = self.told[200] + count
        until(lambda: self.told[200] >= aim, 20, "calls to be served")

    def _call(self, stream: bool) -> None:
        while not self._stop.is_set():
            answer: httpx.Response = self._client.call("loaded", stream=stream)
            self.told[answer.status_code] += 1


@pytest.mark.parametrize("way", ["kill", "stall", "restart", "flush"])
def test_nothing_is_lost_or_held_after_trouble_under_load(
    way: str, client: Client, server: RedisServer, provider: FakeProvider
) -> None:
    """Calls end whole or are refused; then the counter says what the provider counted, and every place is free."""
    back(client, "loaded")
    until(lambda: client.left("loaded", "requests"), what="the counter")
    before = settled_count(client)
    provider.reset()
    with Load(client) as load:
        load.served(20)
        if way in ("kill", "stall"):
            with outage(server, way):
                time.sleep(0.5)
        else:
            getattr(server, way)()
        load.served(20)
    assert set(load.told) <= {200, 429, 503}, load.told  # 429: a place is given back only when the store is back
    assert way not in ("kill", "stall") or load.told[503], load.told
    counted = provider.totals("openai")["by_model"]["loaded"]["calls"]
    assert counted == load.told[200]
    until(lambda: client.left("loaded", "requests") == before - counted, 40, "the counter to say what was used")
    until(lambda: places(client, provider) == 4, 20, "every place to be free")


def settled_count(client: Client) -> int:
    """What is left when two looks in a row agree: nothing is on its way any more."""
    looks: list[int | None] = [None]

    def steady() -> bool:
        looks.append(client.left("loaded", "requests"))
        return looks[-1] is not None and looks[-1] == looks[-2]

    until(steady, what="the counter to be steady")
    assert looks[-1] is not None
    return looks[-1]


def places(client: Client, provider: FakeProvider) -> int:
    """How many calls may be open at one time now."""
    told: list[int] = []

    def call() -> None:
        told.append(client.call("loaded", x_fake={"held": 0, "status": 500}).status_code)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: len(told) + provider.totals("openai")["open"] == len(callers), what="the calls to be decided")
    found = int(provider.totals("openai")["open"])
    provider.release("openai")
    for caller in callers:
        caller.join(10)
    return found

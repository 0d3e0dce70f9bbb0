"""Orders that follow the traffic, through the real Envoy: the backends' own counts are the oracle."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

NAMES = ("a", "b")
SAY: Any = [{"role": "user", "content": "hi"}]
CALLS = 30


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(providers: FakeProvider) -> Iterator[RunningGateway]:
    """A heavy backend and a light one."""
    backends = {name: {"dialect": "openai", "url": providers.url(name)} for name in NAMES}
    group = [{"backend": "a", "weight": 3}, {"backend": "b"}]
    models = {
        f"{order}-{number}": {"targets": [group], "order": order}
        for order in ("least_latency", "least_busy")
        for number in range(3)
    }
    with RunningGateway({"backends": backends, "models": models}) as running:
        yield running


@pytest.fixture
def client(gateway: RunningGateway, providers: FakeProvider) -> Iterator[httpx.Client]:
    providers.reset()
    with gateway.client() as client:
        yield client


def served(providers: FakeProvider, name: str) -> int:
    return len([call for call in providers.calls(name) if call["status"] == 200])


def ask(client: httpx.Client, model: str, stream: bool = False) -> None:
    answer = client.post("/v1/chat/completions", json={"model": model, "messages": SAY, "stream": stream})
    assert answer.status_code == 200


@pytest.mark.parametrize(("number", "stream"), [(0, False), (1, True)])
def test_most_calls_go_where_they_are_answered_soonest(
    number: int, stream: bool, client: httpx.Client, providers: FakeProvider
) -> None:
    """By weight the slow one would get three of four; it gets the first few and the share that is explored."""
    providers.script("a", [{"delay_ms": 300}] * CALLS)
    for _ in range(CALLS):
        ask(client, f"least_latency-{number}", stream)
    assert served(providers, "b") > CALLS * 0.7


def test_failures_that_come_at_once_are_not_what_is_fast(client: httpx.Client, providers: FakeProvider) -> None:
    """A 404 cools nothing: only that the next one had to answer speaks against it."""
    providers.script("a", [{"status": 404}] * CALLS)
    for _ in range(CALLS):
        ask(client, "least_latency-2")
    assert served(providers, "b") == CALLS
    assert len(providers.calls("a")) < CALLS / 2


def test_calls_go_where_the_fewest_are_under_way(client: httpx.Client, providers: FakeProvider) -> None:
    """One answer that does not end keeps others away from the light backend, none from the heavy one."""
    providers.script("b", [{"held": 2}])

    def hold() -> None:
        with client.stream("POST", "/v1/chat/completions", json=streamed) as answer:
            answer.read()

    streamed = {"model": "least_busy-0", "messages": SAY, "stream": True}
    holders: list[threading.Thread] = []
    try:
        while not providers.totals("b")["open"]:  # one after the other, until the light one is drawn
            holders.append(threading.Thread(target=hold))
            holders[-1].start()
            until(lambda: providers.totals("b")["open"] or not holders[-1].is_alive(), what="where it went")
        before = len(providers.calls("b"))
        for _ in range(CALLS):
            ask(client, "least_busy-0")
        assert len(providers.calls("b")) == before
    finally:
        providers.release("b")
        for holder in holders:
            holder.join()

    def gets_calls_again() -> bool:
        ask(client, "least_busy-0")
        return len(providers.calls("b")) > before

    until(gets_calls_again, what="the light backend to get calls again")

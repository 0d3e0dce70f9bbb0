"""More calls than a worker takes on: the others are refused at their heads, and those that it has are served."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

from extproc.admission import FEW
from loadtest import load, overload
from loadtest.open_loop import Told
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until

SAY: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


@pytest.fixture(scope="module")
def gateway(provider: FakeProvider) -> Iterator[RunningGateway]:
    url = provider.url()
    settings = {
        "overload": {"open_calls": 1, "wait": "1h"},
        "backends": {"fake": {"dialect": "openai", "url": url}, "claude": {"dialect": "anthropic", "url": url}},
        "models": {"gpt": {"targets": [[{"backend": "fake"}]]}, "opus": {"targets": [[{"backend": "claude"}]]}},
    }
    with RunningGateway(settings) as running:
        yield running


@pytest.fixture
def busy(gateway: RunningGateway, provider: FakeProvider) -> Iterator[None]:
    """A call that holds the only place."""
    before = len(gateway.records())
    with gateway.client() as client, ThreadPoolExecutor(1) as caller:
        body = {"model": "gpt", "messages": SAY, "stream": True, "x_fake": {"held": 1}}
        held = caller.submit(client.post, "/v1/chat/completions", json=body)
        until(lambda: "sluice_calls_in_flight 1.0" in gateway.metrics(), what="the call to be open")
        yield
        provider.release()
        assert held.result(30).status_code == 200
    until(lambda: "sluice_calls_in_flight 0.0" in gateway.metrics(), what="the call to end")
    assert len(gateway.records()) > before


def refusals(gateway: RunningGateway) -> float:
    """How many calls were refused for that, as the metrics tell."""
    lines = [line for line in gateway.metrics().splitlines() if 'code="overloaded"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("sluice_refusals_total"))


def test_one_more_is_refused_and_told_when_to_come_again(gateway: RunningGateway, busy: None) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)
    with client, pytest.raises(openai.InternalServerError) as refused:
        client.chat.completions.create(model="gpt", messages=SAY)
    assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
    headers = refused.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 2
    assert headers["x-should-retry"] == "true"


def test_each_api_says_it_in_its_own_words(gateway: RunningGateway, busy: None) -> None:
    client = anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0)
    with client, pytest.raises(anthropic.InternalServerError) as refused:
        client.messages.create(model="opus", max_tokens=5, messages=SAY)
    assert refused.value.status_code == 503
    body: Any = refused.value.body
    assert body["error"]["type"] == "overloaded_error"


def test_the_official_sdk_comes_again_by_itself_and_is_served(
    gateway: RunningGateway, provider: FakeProvider, busy: None
) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=8)
    before = refusals(gateway)
    with client, ThreadPoolExecutor(1) as caller:
        asked = caller.submit(client.chat.completions.create, model="gpt", messages=SAY)
        until(lambda: refusals(gateway) > before, what="a refusal")
        provider.release()
        assert asked.result(60).choices


def test_probes_are_answered_all_the_same(gateway: RunningGateway, busy: None) -> None:
    with gateway.client() as client:
        assert client.get("/readyz").status_code == 200


def test_a_call_that_has_waited_too_long_is_refused_where_all_have(provider: FakeProvider) -> None:
    """A bound that no call can keep: after the grace only refusals come, each within its own right."""
    settings = {
        "overload": {"wait": "0.001ms"},
        "backends": {"fake": {"dialect": "openai", "url": provider.url()}},
        "models": {"bench-model": {"targets": [[{"backend": "fake"}]]}},
    }
    with RunningGateway(settings) as running, running.client() as client, ThreadPoolExecutor(FEW) as callers:
        body = {"model": "bench-model", "messages": SAY}
        held = body | {"stream": True, "x_fake": {"held": 1}}
        waiting = [callers.submit(client.post, "/v1/chat/completions", json=held) for _ in range(FEW)]
        until(lambda: f"sluice_calls_in_flight {FEW}.0" in running.metrics(), what="a line")

        def refused() -> bool:
            return client.post("/v1/chat/completions", json=body).status_code == 503

        until(refused, what="a refusal")
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.json()["error"]["code"] == "overloaded"
        assert "retry-after" in answer.headers
        provider.release()
        assert {call.result(30).status_code for call in waiting} == {200}


def test_the_bench_tells_right_refusals_from_others() -> None:
    def told(status: int, later: bool = False, began: float = 0.0, seconds: float = 0.1) -> Told:
        return Told(began, seconds, status, "code", later)

    calls = [told(200), told(503, later=True), told(429, later=True), told(503), told(0), told(504, later=True)]
    found = overload.phase(calls, 3.0, 2.0)
    assert (found.served_per_second, found.refused, found.right) == (0.5, 5, 0.4)
    assert sum(found.others.values()) == 3
    assert overload.recovered([told(200, began=3, seconds=9), told(503, began=1), told(200, began=7)], 1.0) == 3
    judged = overload.targets(load.WARM_UP, found, 9.0)
    assert [target.met for target in judged] == [False, True, True, False]

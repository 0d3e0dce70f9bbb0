"""Failover and cool-downs, as the callers and the backends see them: the backends' own counts are the oracle."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, free_port, until
from tests.support.redis_server import RedisServer, redis_server

Json = dict[str, Any]
SAY: Any = [{"role": "user", "content": "hi"}]
NAMES = ("a", "b", "c")
COOLING = {"default_wait": "1s", "longest_wait": "5s", "failures": 3, "open_for": "1s", "longest_open": "2s"}


def _settings(providers: FakeProvider) -> Json:
    """Each test has a model, and so targets, of its own; a circuit is shared by all who use the backend."""
    urls = {name: providers.url(name) for name in NAMES} | {"dead": f"http://127.0.0.1:{free_port()}"}
    backends = {name: {"dialect": "openai", "url": url, "cooling": COOLING} for name, url in urls.items()}
    chain = [[{"backend": name}] for name in NAMES]
    models: Json = {f"m-{number}": {"targets": chain} for number in range(10)}
    models["weighted"] = {"targets": [[{"backend": "a", "weight": 3}, {"backend": "b"}], [{"backend": "c"}]]}
    models["dead-first"] = {"targets": [[{"backend": "dead"}], [{"backend": "a"}]]}
    models["dead-only"] = {"targets": [[{"backend": "dead"}]]}
    models["b-first"] = {"targets": [[{"backend": "b"}], [{"backend": "a"}]]}
    return {"backends": backends, "models": models}


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway, one client of it, and the providers."""

    gateway: RunningGateway
    client: httpx.Client
    providers: FakeProvider

    def chat(self, model: str) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": SAY})

    def seen(self, name: str) -> list[int]:
        """The statuses that a backend gave."""
        return [call["status"] for call in self.providers.calls(name)]

    def spares(self, name: str, model: str) -> bool:
        """Whether a call is answered and does not ask this backend."""
        before = len(self.seen(name))
        assert self.chat(model).status_code == 200
        return len(self.seen(name)) == before

    def failed_attempts(self, request_id: str, number: int) -> set[tuple[str, int]]:
        """Where so many attempts of a call failed, and how, by Envoy's records, which are waited for."""

        def told() -> list[Json] | None:
            records = [record for record in self.gateway.records("attempt") if record["request_id"] == request_id]
            return records if len(records) == number else None

        return {(record["backend"], record["status"]) for record in until(told, what="the records of the attempts")}


@contextmanager
def _site(settings: Json, providers: FakeProvider) -> Iterator[Site]:
    with RunningGateway(settings) as gateway, gateway.client() as client:
        yield Site(gateway, client, providers)


@pytest.fixture(scope="module")
def providers() -> Iterator[FakeProvider]:
    with FakeProvider(*NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def running(providers: FakeProvider) -> Iterator[Site]:
    with _site(_settings(providers), providers) as site:
        yield site


@pytest.fixture
def site(running: Site) -> Site:
    running.providers.reset()
    return running


def test_a_call_goes_on_to_the_backend_that_answers_and_is_one_call(site: Site) -> None:
    site.providers.script("a", [{"status": 429, "retry_after": 1}])
    site.providers.script("b", [{"status": 503}])
    with openai.OpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.gateway.key, max_retries=0) as client:
        answer = client.chat.completions.with_raw_response.create(model="m-0", messages=SAY)
    assert [site.seen(name) for name in NAMES] == [[429], [503], [200]]
    request_id = answer.headers["x-request-id"]
    assert site.failed_attempts(request_id, 2) == {("a", 429), ("b", 503)}
    (record,) = [one for one in site.gateway.records() if one["request_id"] == request_id]
    assert (record["status"], record["backend"], record["ending"]) == (200, "c", "complete")
    assert not [name for name in answer.headers if name.startswith("x-sluice-")]


@pytest.mark.parametrize(
    ("model", "faults", "wait"),
    [
        ("m-1", {"retry_after": 2}, 2.0),
        ("m-2", {"retry_after_ms": 1500}, 1.5),
        ("m-3", {"retry_after": "soon"}, 1.0),  # the default
        ("m-4", {"retry_after": 3600}, 5.0),  # the longest
    ],
)
def test_a_backend_that_asks_for_a_pause_gets_it_and_comes_back(
    model: str, faults: Json, wait: float, site: Site
) -> None:
    site.providers.script("a", [{"status": 429, **faults}])
    begun = time.monotonic()
    assert site.chat(model).status_code == 200
    assert [site.seen(name) for name in NAMES] == [[429], [200], []]
    until(lambda: site.spares("a", model), what="the pause to be known")
    until(lambda: not site.spares("a", model), what="the backend to come back")
    assert time.monotonic() - begun > wait - 0.3


def test_when_all_cool_the_caller_is_told_the_shortest_wait_and_no_backend_is_asked(site: Site) -> None:
    for name, wait in zip(NAMES, (5, 3, 5), strict=True):
        site.providers.script(name, [{"status": 429, "retry_after": wait}])
    assert site.chat("m-5").status_code == 429

    def refused_here() -> httpx.Response | None:
        answer = site.chat("m-5")
        return answer if answer.json().get("error", {}).get("code") == "upstream_rate_limited" else None

    refused: httpx.Response = until(refused_here, what="the gateway to refuse")
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after-ms"]) <= 3000
    assert refused.headers["x-should-retry"] == "true"
    asked = [site.seen(name) for name in NAMES]
    assert site.chat("m-5").status_code == 429
    assert [site.seen(name) for name in NAMES] == asked
    with openai.OpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.gateway.key, max_retries=3) as client:
        assert client.chat.completions.create(model="m-5", messages=SAY).choices, "the SDK waits as it is told"


def test_a_backend_that_says_that_nothing_is_left_is_spared_before_it_fails(site: Site) -> None:
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "4s"}
    site.providers.script("a", [{"headers": spent}])
    assert site.chat("m-6").status_code == 200
    until(lambda: site.spares("a", "m-6"), what="it to be spared")


@pytest.mark.parametrize(
    ("fault", "times"), [({"status": 500}, 3), ({"reset": "before"}, 3), ({"status": 529}, 1)], ids=str
)
def test_a_circuit_opens_after_a_run_of_failures_and_closes_by_a_probe(fault: Json, times: int, site: Site) -> None:
    """529 asks for a pause. Either way nobody waits for a backend that is known to fail, and no caller notices."""
    site.providers.script("b", [fault] * times)
    for _ in range(times):
        assert site.chat("b-first").status_code == 200
    until(lambda: site.spares("b", "b-first"), what="the circuit to open")
    until(lambda: not site.spares("b", "b-first"), what="the circuit to close")
    assert site.seen("b")[-1] == 200


def test_a_backend_that_is_not_there_costs_no_call(site: Site) -> None:
    assert {site.chat("dead-first").status_code for _ in range(5)} == {200}
    assert site.seen("a") == [200] * 5


def test_without_any_backend_callers_get_a_fast_503_in_their_own_shape(site: Site) -> None:
    answers = [site.chat("dead-only") for _ in range(6)]
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in answers} == {
        (503, "upstream_unavailable")
    }
    until(lambda: "retry-after-ms" in site.chat("dead-only").headers, what="the wait to be told")


def test_shares_are_those_of_the_weights(site: Site) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(lambda _: site.chat("weighted").status_code, range(400)))
    assert answers == {200}
    asked = {name: len(site.seen(name)) for name in NAMES}
    assert (asked["a"] + asked["b"], asked["c"]) == (400, 0)
    assert 255 < asked["a"] < 345  # 300 are due; 45 are five standard deviations


# ---- several workers -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


def test_all_workers_and_replicas_know_of_a_pause_within_a_second(providers: FakeProvider, redis: RedisServer) -> None:
    shared = _settings(providers) | {"workers": 2, "stores": {"counters": redis.url}}
    with ExitStack() as stack:
        sites = [stack.enter_context(_site(shared, providers)) for _ in range(2)]
        providers.reset()
        providers.script("a", [{"status": 429, "retry_after": 5}])
        assert sites[0].chat("m-9").status_code == 200
        time.sleep(1)  # what is promised
        assert {site.chat("m-9").status_code for site in sites for _ in range(10)} == {200}
        assert sites[0].seen("a") == [429]
        assert sites[0].seen("b") == [200] * 21

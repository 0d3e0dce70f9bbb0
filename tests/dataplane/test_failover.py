"""Failover and cool-downs, as the callers and the backends see them: the backends' own counts are the oracle."""

import subprocess
import sys
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
from tests.support.gateway import RunningGateway, until
from tests.support.ports import free_port
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


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_backend_that_does_not_know_us_or_the_model_is_passed_by(status: int, site: Site) -> None:
    site.providers.script("a", [{"status": status}] * 2)
    assert [site.chat("m-7").status_code for _ in range(2)] == [200, 200]
    assert (site.seen("a"), site.seen("b")) == ([status] * 2, [200] * 2), "it cools nothing: the next may be served"


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
    until(lambda: not any(site.spares("b", "b-first") for _ in range(2)), what="the last probe to be over")
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


# ---- what the catalogue says ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(providers: FakeProvider) -> Iterator[Site]:
    """Backends in two regions, a bound model, a retired name, one that takes long to begin; answers tell who served."""
    backends = {
        name: {"dialect": "openai", "url": providers.url(name), "region": region}
        for name, region in (("a", "eu"), ("b", "us"), ("c", "eu"))
    }
    group = [{"backend": name} for name in NAMES]
    models: Json = {
        "bound": {"targets": [group], "affinity": "header:x-session"},
        "named": {"targets": [group], "retired": {"from-before": {"since": "2026-01-31", "sunset": "2027-12-31"}}},
        "slow": {"targets": [[one] for one in group], "first_byte": "0.5s"},
        "embeds": {"targets": [group], "modality": "embeddings"},
        "off": {"targets": [group], "enabled": False},
    }
    routing = {"tell_backend": True, "attempts": 2, "cooling": {"longest_wait": "0s", "failures": 1000}}
    with _site({"backends": backends, "models": models, "routing": routing}, providers) as site:
        yield site


def test_calls_of_one_session_go_to_one_backend(catalogue: Site) -> None:
    catalogue.providers.reset()
    ask: Json = {"model": "bound", "messages": SAY}
    served = {
        session: {
            catalogue.client.post("/v1/chat/completions", json=ask, headers={"x-session": session}).headers[
                "x-sluice-backend"
            ]
            for _ in range(4)
        }
        for session in (f"session-{number}" for number in range(12))
    }
    assert {len(backends) for backends in served.values()} == {1}
    assert len(set.union(*served.values())) > 1
    assert "x-session" not in {name for call in catalogue.providers.calls("a") for name, _ in call["headers"]}


def test_a_retired_name_works_and_says_so(catalogue: Site) -> None:
    answer = catalogue.chat("from-before")
    assert answer.status_code == 200
    assert answer.headers["deprecation"] == "@1769817600"
    assert answer.headers["sunset"] == "Fri, 31 Dec 2027 00:00:00 GMT"
    assert "deprecation" not in catalogue.chat("named").headers


def test_a_backend_that_takes_too_long_to_begin_is_left(catalogue: Site) -> None:
    catalogue.providers.reset()
    catalogue.providers.script("a", [{"hang": True}])
    answer = catalogue.chat("slow")
    assert (answer.status_code, answer.headers["x-sluice-backend"], answer.headers["x-sluice-attempts"]) == (
        200,
        "b",
        "2",
    )


def test_an_answer_that_has_begun_may_take_its_time(catalogue: Site) -> None:
    catalogue.providers.reset()
    catalogue.providers.script("a", [{"events": 8, "tokens_per_second": 5}])
    ask: Json = {"model": "slow", "messages": SAY, "stream": True}
    with catalogue.client.stream("POST", "/v1/chat/completions", json=ask) as answer:
        assert answer.read().rstrip().endswith(b"[DONE]")
    assert answer.headers["x-sluice-attempts"] == "1"


def test_a_call_is_tried_at_no_more_backends_than_it_may(catalogue: Site) -> None:
    catalogue.providers.reset()
    for name in NAMES:
        catalogue.providers.script(name, [{"status": 503}])
    assert catalogue.chat("slow").status_code == 503
    assert [len(catalogue.seen(name)) for name in NAMES] == [1, 1, 0]


def test_a_model_that_is_off_or_for_something_else_is_refused(catalogue: Site) -> None:
    assert catalogue.chat("off").json()["error"]["code"] == "model_not_found"
    refused = catalogue.chat("embeds")
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_by_model")


def test_a_backend_and_a_model_can_be_stopped_within_five_seconds(catalogue: Site) -> None:
    def stop(*arguments: str) -> None:
        command = [
            sys.executable,
            "-m",
            "extproc.cli",
            "emergency",
            *arguments,
            "--config",
            str(catalogue.gateway.config),
        ]
        subprocess.run(command, check=True, capture_output=True)

    stop("stop", "backend", "a")
    until(lambda: catalogue.chat("slow").headers["x-sluice-backend"] == "b", 5, "the backend to be left out")
    stop("lift", "backend", "a")
    stop("stop", "model", "slow")
    until(lambda: catalogue.chat("slow").status_code == 403, 5, "the model to be stopped")
    assert catalogue.chat("named").status_code == 200
    stop("lift", "model", "slow")
    until(lambda: catalogue.chat("slow").status_code == 200, 5, "the model to be back")

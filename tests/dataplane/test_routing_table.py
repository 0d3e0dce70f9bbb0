"""What is promised of failing backends, row by row, through the real Envoy; the backends' own counts are the oracle.

Where each row is shown; F is test_failover, T test_translation:

| what happens | shown by |
|---|---|
| weights | test_weights; 0 and 100 here |
| groups of falling priority | here |
| session affinity | F::test_calls_of_one_session_go_to_one_backend; one replica less here |
| 429 | here; F::test_a_backend_that_asks_for_a_pause_gets_it_and_comes_back |
| 429, for everybody | F::test_all_workers_and_replicas_know_of_a_pause_within_a_second |
| 429 of all | F::test_when_all_cool_the_caller_is_told_the_shortest_wait_and_no_backend_is_asked |
| nothing left | F::test_a_backend_that_says_that_nothing_is_left_is_spared_before_it_fails |
| 5xx, 529, reset, no connection | F::test_a_circuit_opens_after_a_run_of_failures_and_closes_by_a_probe |
| no TLS; half-open circuits; a budget of retries | here |
| no first byte | F::test_a_backend_that_takes_too_long_to_begin_is_left |
| a stream that stalls or breaks | test_stalls |
| an error in a 200, before the content | not offered: docs/models.md |
| context window, content filter | test_fallback |
| all hosts unhealthy, a name without an address | test_backend_settings, test_unresolved |
| a target that cannot express the call | T::test_a_field_that_no_backend_can_express_is_named |
| emergency stop of backend, model | F::test_a_backend_and_a_model_can_be_stopped_within_five_seconds |
| emergency stop of team, key | test_directory::test_the_end_of_a_key_is_in_force_within_seconds_on_every_route |
| all backends gone | here, every surface |
| retry of a redacted call | here |
| credentials | T::test_a_second_attempt_has_nothing_of_the_first, test_desync |
| never a hedged duplicate | here, test_storm |

A pause is for one model of a backend, and each row has its own. A circuit is for all of the backend: whoever opens one
waits until it is closed again.
"""

import time
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

import httpx
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.ports import free_port
from tests.support.raw_http import form

Json = dict[str, Any]
SAY: Any = [{"role": "user", "content": "hi"}]
NAMES = ("a", "b", "c", "claude", "gemini")
LONGEST = 4
COOLING = {
    "default_wait": "1s",
    "longest_wait": f"{LONGEST}s",
    "failures": 3,
    "open_for": "1s",
    "longest_open": "1s",
}
PRICE = {"input": "2", "output": "8"}  # for a million tokens


WAITS: dict[str, tuple[Json, float]] = {
    "seconds": ({"retry_after": 2}, 2.0),
    "decimals": ({"retry_after_ms": 1500.5}, 1.5),
    "date": ({}, 1.0),  # of three seconds from then on, in whole ones
    "reset": ({"headers": {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}}, 2.0),
    "endless": ({"retry_after": 1e9}, LONGEST),
    "garbage": ({"retry_after": "when it is ready"}, 1.0),
}


def _settings(fake: FakeProvider) -> Json:
    urls = {name: fake.url(name) for name in NAMES} | {"no-tls": fake.url("c").replace("http://", "https://")}
    urls |= {name: f"http://127.0.0.1:{free_port()}" for name in ("gone-1", "gone-2", "gone-claude")}
    dialects = {"claude": "anthropic", "gone-claude": "anthropic", "gemini": "gemini"}
    models = {
        "weights": [[{"backend": "a", "weight": 0}, {"backend": "b", "weight": 100}]],
        "groups": _groups("ab", "c"),
        "sessions": _groups("abc"),
        "bill": _groups("a", "b", "c"),
        "circuit": _groups("a", "b"),
        "slow": _groups("a", "b"),
        "redacted": _groups(["a"], ["claude"], ["gemini"]),
        "tls": _groups(["no-tls"], "b"),
        "gone": _groups(["gone-1"], ["gone-2"]),
        "gone-claude": _groups(["gone-claude"]),
        **{f"waits-{name}": _groups("a", "b") for name in WAITS},
    }
    more: Json = {"bill": {"price": PRICE}, "sessions": {"affinity": "header:x-session"}}
    return {
        "backends": {name: {"dialect": dialects.get(name, "openai"), "url": url} for name, url in urls.items()},
        "models": {name: {"targets": targets, **more.get(name, {})} for name, targets in models.items()},
        "routing": {"cooling": COOLING, "tell_backend": True},
        "policies": {"redaction": {"default": {}}},
    }


def _groups(*groups: Iterable[str]) -> list[list[Json]]:
    return [[{"backend": name} for name in group] for group in groups]


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway, one client of it, and the providers."""

    gateway: RunningGateway
    client: httpx.Client
    fake: FakeProvider

    def chat(self, model: str, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        asked = {"model": model, "messages": SAY, **fields}
        return self.client.post("/v1/chat/completions", json=asked, headers=headers)

    def served(self, model: str, headers: dict[str, str] | None = None) -> str:
        """Who answered a call, which nobody refused."""
        answer = self.chat(model, headers)
        assert answer.status_code == 200, answer.text
        return answer.headers["x-sluice-backend"]

    def seen(self, name: str, model: str | None = None) -> list[int | None]:
        """The statuses that a backend gave, of the calls of one model or of all."""
        return [call["status"] for call in self.fake.calls(name) if model in (None, call["model"])]

    def counted(self, metric: str, **labels: str) -> float:
        """A sample of the metrics; 0 where there is none yet."""
        lines = (line for line in self.gateway.metrics().splitlines() if line.startswith(metric + "{"))
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        return sum(float(line.rpartition(" ")[2]) for line in lines if all(one in line for one in wanted))


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider(*NAMES) as running:
        yield running


@pytest.fixture(scope="module")
def running(fake: FakeProvider) -> Iterator[Site]:
    with RunningGateway(_settings(fake)) as gateway, gateway.client() as client:
        yield Site(gateway, client, fake)


@pytest.fixture
def site(running: Site) -> Site:
    running.fake.reset()
    return running


def test_case_52_weight_0_is_never_drawn_and_100_always(site: Site) -> None:
    assert {site.served("weights") for _ in range(20)} == {"b"}
    assert site.seen("a") == []


def test_a_lower_group_serves_when_all_of_the_higher_one_cool_or_were_tried(site: Site) -> None:
    assert {site.served("groups") for _ in range(30)} == {"a", "b"}
    site.fake.script("a", [{"status": 503}])
    site.fake.script("b", [{"status": 503}])
    assert site.served("groups") == "c", "both were tried"
    site.fake.script("a", [{"status": 429, "retry_after": 3}])
    until(lambda: {site.served("groups") for _ in range(6)} == {"b"}, what="one to cool")
    site.fake.script("b", [{"status": 429, "retry_after": 2}])
    until(lambda: {site.served("groups") for _ in range(6)} == {"c"}, what="the other one to cool")
    until(lambda: {site.served("groups") for _ in range(6)} == {"a", "b"}, what="them to come back")


def test_a_session_keeps_its_replica_when_another_one_is_lost(site: Site) -> None:
    sessions = [{"x-session": f"session-{number}"} for number in range(12)]
    before = [site.served("sessions", session) for session in sessions]
    lost = before[0]
    site.fake.script(lost, [{"status": 503}] * 100)
    for _ in range(3):
        assert site.served("sessions", sessions[0]) != lost
    until(lambda: site.counted("sluice_circuit_state", backend=lost) == 2, what="its circuit to open")
    during = [site.served("sessions", session) for session in sessions]
    assert [is_ for is_, was in zip(during, before, strict=True) if was != lost] == [
        one for one in before if one != lost
    ]
    assert [site.served("sessions", session) for session in sessions] == during, "those that move have a new one"
    site.fake.unscript(lost)
    until(lambda: [site.served("sessions", session) for session in sessions] == before, what="it to be back")


def test_case_50_429_then_503_then_200_is_one_answer_three_attempts_and_one_bill(site: Site) -> None:
    labels = {"a": "429", "b": "503", "c": "200"}
    before = _settled(site, labels)
    site.fake.script("a", [{"status": 429, "retry_after": 1}])
    site.fake.script("b", [{"status": 503}])
    answer = site.chat("bill")
    assert (answer.status_code, answer.headers["x-sluice-attempts"]) == (200, "3")
    assert [site.seen(name) for name in labels] == [[429], [503], [200]]
    record = site.gateway.record(answer.headers["x-request-id"])
    (call,) = site.fake.calls("c")
    assert record["chain"] == [*labels]
    assert [record["usage"][kind] for kind in ("input", "output")] == [call["input_tokens"], call["output_tokens"]]
    assert record["cost"] == 2_000 * call["input_tokens"] + 8_000 * call["output_tokens"]
    assert [now - then for now, then in zip(_settled(site, labels), before, strict=True)] == [1, 1, 1]
    assert site.counted("sluice_cost_nano_total", model="bill") == record["cost"]
    assert site.counted("sluice_failovers_total", model="bill", backend="c") == 1
    assert len([one for one in site.gateway.records() if one["request_id"] == record["request_id"]]) == 1


def _settled(site: Site, statuses: Mapping[str, str]) -> list[float]:
    """Attempts by backend and status, when no more are told: that is done once a second."""

    def read() -> list[float]:
        return [site.counted("sluice_attempts_total", backend=name, status=of) for name, of in statuses.items()]

    def unchanged() -> list[float] | None:
        now = read()
        time.sleep(2)
        return now if read() == now else None

    settled: list[float] = until(unchanged, what="the metrics to be told")
    return settled


def test_case_50_a_pause_is_as_long_as_it_is_said_in_any_form(site: Site) -> None:
    """All at one time."""
    for name, (fault, _) in WAITS.items():
        said = {"retry_after": formatdate(time.time() + 3, usegmt=True)} if name == "date" else fault
        site.fake.script("a", [{"status": 429, **said}])
        assert site.served(f"waits-{name}") == "b"

    def are_back() -> bool:
        back = [name for name in WAITS if len(site.seen("a", f"waits-{name}")) < 2]
        return all(site.served(f"waits-{name}") for name in back) and not back

    until(are_back, 20, "all of them to come back")
    for name, (_, wait) in WAITS.items():
        refused, served, *_ = (call["began"] for call in site.fake.calls("a") if call["model"] == f"waits-{name}")
        assert served - refused > wait - 0.1, name


def test_a_backend_without_tls_is_passed_by_like_one_that_is_not_there(site: Site) -> None:
    assert [site.served("tls") for _ in range(4)] == ["b"] * 4
    until(lambda: site.counted("sluice_circuit_state", backend="no-tls") == 2, what="its circuit to open")
    assert site.counted("sluice_attempts_total", backend="no-tls", status="upstream_connection_failure") > 0


def test_case_52_a_flapping_backend_is_left_alone_tried_by_one_call_and_taken_back(site: Site) -> None:
    site.fake.script("a", [{"status": 502}, {"reset": "before"}, {"status": 503}, {"held": 0}])
    assert [site.served("circuit") for _ in range(3)] == ["b"] * 3
    until(lambda: site.counted("sluice_circuit_state", backend="a") == 2, what="its circuit to open")
    assert site.served("circuit") == "b"
    assert len(site.seen("a")) == 3, "open"
    with ThreadPoolExecutor(1) as pool:
        probe = pool.submit(until, lambda: site.served("circuit") == "a", 20.0, "a call to try it")
        until(lambda: len(site.seen("a")) == 4, what="the probe")
        with httpx.Client(headers=site.client.headers, base_url=site.gateway.url, trust_env=False) as client:
            others = [client.post("/v1/chat/completions", json={"model": "circuit", "messages": SAY}) for _ in range(5)]
        assert {answer.headers["x-sluice-backend"] for answer in others} == {"b"}
        assert len(site.seen("a")) == 4, "half-open: no second call while one tries it"
        site.fake.release("a")
        probe.result()
    until(lambda: site.served("circuit") == site.served("circuit") == "a", what="the circuit to close")
    told = site.gateway.log()
    assert told.count("backend a fails") == told.count("backend a answers again") == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_every_attempt_of_a_redacted_call_has_the_redacted_body(stream: bool, site: Site) -> None:
    for name, status in (("a", 503), ("claude", 502)):
        site.fake.script(name, [{"status": status}])
    said = [{"role": "user", "content": "mail ann@example.com"}]
    answer = site.chat("redacted", messages=said, stream=stream)
    assert answer.headers["x-sluice-backend"] == "gemini"
    for name in ("a", "claude", "gemini"):
        (call,) = site.fake.calls(name)
        body = b64decode(call["body_base64"])
        assert (b"ann@example.com" in body, b"<EMAIL_ADDRESS_1>" in body) == (False, True), name


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_slow_backend_is_waited_for_and_nobody_else_is_asked_meanwhile(stream: bool, site: Site) -> None:
    site.fake.script("a", [{"delay_ms": 1500}])
    assert site.chat("slow", stream=stream).status_code == 200
    assert (site.seen("a"), site.seen("b")) == ([200], [])


# ---- all of them gone ----------------------------------------------------------------------------------

CHAT: Json = {"model": "gone", "messages": SAY}
SURFACES: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat-stream": ("/v1/chat/completions", CHAT | {"stream": True}),
    "azure": ("/openai/deployments/gone/chat/completions?api-version=2024-10-21", {"messages": SAY}),
    "azure-v1": ("/openai/v1/chat/completions", CHAT),
    "completions": ("/v1/completions", {"model": "gone", "prompt": "hi"}),
    "responses": ("/v1/responses", {"model": "gone", "input": "hi"}),
    "responses-stream": ("/v1/responses", {"model": "gone", "input": "hi", "stream": True}),
    "messages": ("/v1/messages", CHAT | {"model": "gone-claude", "max_tokens": 9}),
    "messages-stream": ("/v1/messages", CHAT | {"model": "gone-claude", "max_tokens": 9, "stream": True}),
    "messages-translated": ("/v1/messages", CHAT | {"max_tokens": 9}),
    "chat-translated": ("/v1/chat/completions", CHAT | {"model": "gone-claude"}),
    "count-tokens": ("/v1/messages/count_tokens", CHAT | {"model": "gone-claude"}),
    "embeddings": ("/v1/embeddings", {"model": "gone", "input": "hi"}),
    "speech": ("/v1/audio/speech", {"model": "gone", "input": "hi", "voice": "alloy"}),
    "images": ("/v1/images/generations", {"model": "gone", "prompt": "hi"}),
    "moderations": ("/v1/moderations", {"model": "gone", "input": "hi"}),
    "rerank": ("/v1/rerank", {"model": "gone", "query": "hi", "documents": ["a"]}),
}
ANTHROPICS = ("messages", "messages-stream", "messages-translated", "count-tokens")


@pytest.mark.parametrize("surface", SURFACES)
def test_case_52_all_backends_gone_is_a_fast_503_in_the_shape_of_the_surface(surface: str, site: Site) -> None:
    path, body = SURFACES[surface]
    begun = time.monotonic()
    answer = site.client.post(path, json=body)
    assert time.monotonic() - begun < 5
    assert_unavailable(answer, anthropic=surface in ANTHROPICS)


def test_case_52_all_backends_gone_is_a_fast_503_for_a_form(site: Site) -> None:
    content_type, body = form({"model": "gone"}, b"RIFF" * 100)
    answer = site.client.post("/v1/audio/transcriptions", content=body, headers={"content-type": content_type})
    assert_unavailable(answer, anthropic=False)


def assert_unavailable(answer: httpx.Response, anthropic: bool) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    assert answer.headers["x-should-retry"] == "true"
    said = answer.json()
    if anthropic:
        assert (said["type"], said["error"]["type"]) == ("error", "overloaded_error")
    else:
        assert said["error"]["code"] == "upstream_unavailable"
    assert "gone-" not in answer.text
    assert "127.0.0.1" not in answer.text


# ---- a storm of failures that no circuit ends ----------------------------------------------------------

CROWD = 400


def test_case_50_repeats_are_bounded_where_everything_fails(fake: FakeProvider) -> None:
    """Backends that answer by errors are left out by nobody, so that each call would be tried at all of them."""
    names = ("a", "b")
    settings = {
        "backends": {name: {"dialect": "openai", "url": fake.url(name)} for name in names},
        "models": {"m": {"targets": _groups("a", "b")}},
        "routing": {"retry_share": 0.2},
    }
    fake.reset()
    for name in names:
        fake.script(name, [{"status": 500}] * CROWD)
    with RunningGateway(settings) as gateway, gateway.client() as client, ThreadPoolExecutor(8) as pool:
        site = Site(gateway, client, fake)
        begun = time.monotonic()
        calls = [pool.submit(site.chat, "m") for _ in range(CROWD)]
        until(lambda: "sluice_retries_spent 1.0" in gateway.metrics(), 30, "it to be told")
        assert Counter(call.result().status_code for call in calls) == {500: CROWD}
        spans = int((time.monotonic() - begun) / 10) + 1
        attempts = sum(len(site.seen(name)) for name in names)
        assert attempts > CROWD + 100
        assert attempts < CROWD * 1.2 + spans * 100 + 40, "and those under way when it was spent"
        fake.reset()
        until(lambda: "sluice_retries_spent 0.0" in gateway.metrics(), 20, "calls to be tried again")

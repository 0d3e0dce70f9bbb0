"""Envoy's own log has what the policy knows of each call: the same as our own record, which is the oracle here."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from extproc.contract import LOGGED
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.ports import free_port
from tests.support.raw_http import Connection, request
from tests.support.scripted import running_gateway

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
SECRET = "Zanzibar"  # what is never told: it stands in prompts, queries, paths and keys
TRACE = "7" * 32
SAY = [{"role": "user", "content": f"Tell me of {SECRET}."}]
DEAR = 9_000_000  # of a million tokens: the cost of a call must come through as the whole number that it is


def settings(fake: FakeProvider) -> Json:
    backends: Json = {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "two")}
    backends["claude"] = {"dialect": "anthropic", "url": fake.url("claude")}
    price = {"input": 2.5, "output": DEAR}
    to_one = {"targets": [[{"backend": "one"}]], "price": price}
    models: Json = dict.fromkeys(("plain", "kept"), to_one)
    models["whisper-1"] = models["tts-1"] = {"targets": [[{"backend": "one"}]]}
    models["chain"] = {"targets": [[{"backend": "one"}], [{"backend": "two"}]], "price": price}
    models["ended"] = {**to_one, "stall": "0.8s"}
    models["leased"] = {**to_one, "max_output": 100_000}
    models["claude"] = {"targets": [[{"backend": "claude"}]], "price": price}
    lease = {"tokens": 50_000, "per": "hour", "when_short": "lease", "only": {"models": ["leased"]}}
    return {
        "backends": backends,
        "models": models,
        "cache": {"mode": "off", "rules": [{"models": ["kept"], "mode": "enforce"}]},
        "policies": {"limits": {"lease": lease, "none": {"requests": 1, "per": "day", "only": {"models": ["tts-1"]}}}},
        "telemetry": {
            "access_log": {},
            "server_timing": True,
            "traces": {"endpoint": f"http://127.0.0.1:{free_port()}", "sample": 1},
        },
    }


@dataclass(frozen=True)
class Site:
    gateway: RunningGateway
    fake: FakeProvider

    def chat(self, model: str, stream: bool = False, **more: Any) -> httpx.Response:
        with self.gateway.client() as client:
            return client.post(CHAT, json={"model": model, "messages": SAY, "stream": stream, **more})

    def get(self, path: str, **more: str) -> httpx.Response:
        with self.gateway.client() as client:
            return client.get(path, headers=more)

    def line(self, answer: httpx.Response) -> Json:
        """What Envoy logged of a call."""
        return self.gateway.record(answer.headers["x-request-id"], "access")


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider("one", "two", "claude"))
        yield Site(stack.enter_context(RunningGateway(settings(fake))), fake)


@pytest.fixture
def site(running: Site) -> Site:
    running.fake.reset()
    return running


def of_record(record: Json) -> Json:
    """The facts of LOGGED as our own record tells them."""
    usage, cache = record.get("usage"), record.get("cache")
    told = {name: record.get(name) for name in LOGGED}
    told |= {"cost_nano": record.get("cost"), "currency": record["currency"] if "cost" in record else None}
    told |= {"cache": cache["result"] if cache else None}
    told |= {"input": usage["input"], "output": usage["output"], "usage": usage["source"]} if usage else {}
    return {name: value for name, value in told.items() if value is not None}


def again(site: Site) -> httpx.Response:
    site.chat("kept")
    return site.chat("kept")


def after_a_failure(site: Site) -> httpx.Response:
    site.fake.script("one", [{"status": 503}])
    return site.chat("chain")


def an_error(site: Site) -> httpx.Response:
    site.fake.script("one", [{"status": 400}])
    return site.chat("plain")


def a_stall(site: Site) -> httpx.Response:
    site.fake.script("one", [{"stall_after": 4, "events": 40}])
    return site.chat("ended", stream=True)


def a_form(site: Site) -> httpx.Response:
    with site.gateway.client() as client:
        return client.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": b"RIFF"})


def speech(site: Site) -> httpx.Response:
    with site.gateway.client() as client:
        return client.post("/v1/audio/speech", json={"model": "tts-1", "input": SECRET, "voice": "alloy"})


def too_many(site: Site) -> httpx.Response:
    speech(site)
    return speech(site)


def a_stranger(site: Site) -> httpx.Response:
    with httpx.Client(base_url=site.gateway.url, trust_env=False) as client:
        return client.post(CHAT, json={}, headers={"authorization": f"Bearer sk-{SECRET}"})


def too_large(site: Site) -> httpx.Response:
    with site.gateway.client() as client:
        return client.post(CHAT, content=b" " * (9 * 2**20), headers={"content-type": "application/json"})


CALLS: dict[str, tuple[Callable[[Site], httpx.Response], Json]] = {
    "whole": (lambda site: site.chat("plain"), {"ending": "complete", "backend": "one", "attempts": 1}),
    "traced": (lambda site: site.get("/v1/models", traceparent=f"00-{TRACE}-{'3' * 16}-01"), {"trace_id": TRACE}),
    "stream": (lambda site: site.chat("plain", stream=True), {"ending": "complete", "usage": "reported"}),
    "duplex": (lambda site: site.chat("ended", stream=True), {"ending": "complete", "usage": "reported"}),
    "leased": (lambda site: site.chat("leased", stream=True), {"ending": "complete"}),
    "stalled": (a_stall, {"ending": "stalled", "usage": "estimated"}),
    "translated": (lambda site: site.chat("claude"), {"ending": "complete", "backend": "claude"}),
    "translated stream": (lambda site: site.chat("claude", stream=True), {"ending": "complete", "backend": "claude"}),
    "from the cache": (again, {"ending": "cached", "cache": "hit", "details": "sluice_cached"}),
    "after a failure": (after_a_failure, {"backend": "two", "attempts": 2}),
    "an error": (an_error, {"ending": "failed", "status": 400}),
    "a form": (a_form, {"surface": "transcriptions", "ending": "complete"}),
    "speech": (speech, {"surface": "speech", "ending": "complete"}),
    "limited": (too_many, {"status": 429, "ending": "refused"}),
    "no model": (lambda site: site.chat("nope"), {"refusal": "model_not_found", "attempts": 0}),
    "models": (lambda site: site.get("/v1/models"), {"ending": "answered", "surface": "models"}),
    "a stranger": (a_stranger, {"refusal": "invalid_api_key", "status": 401}),
    "too large": (too_large, {"refusal": "request_too_large", "status": 413}),
    "unknown": (lambda site: site.get(f"/{SECRET}?{SECRET}"), {"refusal": "unknown_url", "status": 404}),
}


@pytest.fixture(scope="module")
def answers(running: Site) -> dict[str, httpx.Response]:
    """All of them at once: Envoy writes its log once a second."""
    found = {}
    for name, (ask, _) in CALLS.items():
        running.fake.reset()
        found[name] = ask(running)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_the_log_has_what_the_record_has(site: Site, answers: dict[str, httpx.Response], name: str) -> None:
    answer, expected = answers[name], CALLS[name][1]
    line, record = site.line(answer), site.gateway.record(answer.headers["x-request-id"])
    assert {fact: line[fact] for fact in LOGGED if fact in line} == of_record(record)
    assert {fact: line.get(fact) for fact in expected} == expected
    assert line["status"] == answer.status_code


def test_nothing_that_a_caller_wrote_is_logged(site: Site) -> None:
    site.get(f"/v1/models?{SECRET}", **{"user-agent": SECRET, "x-user": SECRET})
    site.get(f"/v1/models/{SECRET}")
    last = site.line(site.get("/v1/models"))
    assert last["status"] == 200
    lines = json.dumps(site.gateway.records("access"))
    assert SECRET not in lines
    assert site.gateway.key not in lines


def test_probes_are_not_logged(site: Site) -> None:
    for path in ("/healthz", "/readyz", "/readyz?now"):
        assert site.get(path).status_code == 200
    site.line(site.get("/v1/models"))
    fine = [line for line in site.gateway.records("access") if line["status"] == 200]
    assert {line.get("surface", "") for line in fine} <= {"chat", "models", "transcriptions", "speech"}


def left(site: Site, fault: Json, pieces: int) -> Json:
    """The line of a call whose client leaves after so many pieces of its answer."""
    before = len(site.gateway.records("access"))
    with Connection(site.gateway.port) as connection:
        body = {"model": "plain", "messages": SAY, "stream": True, "x_fake": fault}
        connection.send(request(CHAT, json.dumps(body).encode(), site.gateway.key))
        if pieces:
            arriving = connection.pieces()
            for _ in range(pieces):
                next(arriving)
        else:
            until(lambda: site.fake.calls("one"))
    found: Json = until(lambda: site.gateway.records("access")[before:], what="the line of a call that broke off")[0]
    return found


@pytest.mark.parametrize(("fault", "pieces"), [({"stall_after": 2}, 1), ({"delay_ms": 5000}, 0)])
def test_of_a_call_that_its_client_left_it_is_told_whose_it_was(site: Site, fault: Json, pieces: int) -> None:
    line = left(site, fault, pieces)
    known = {"surface": "chat", "model": "plain", "key_id": "quickstart", "upstream_cluster": "backend_one"}
    assert {name: line[name] for name in known} == known
    assert "DC" in line["flags"] or "DR" in line["flags"]
    assert "ending" not in line
    assert line["config"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_tells_how_long_its_stages_took(site: Site, stream: bool) -> None:
    told = site.chat("plain", stream=stream).headers["server-timing"]
    spent = {name: float(dur) for name, dur in (part.split(";dur=") for part in told.split(", "))}
    assert {"identify", "read", "route", "reserve", "forward", "answer", "upstream", "total"} <= spent.keys()
    assert spent["total"] >= spent["upstream"] > 0


@pytest.mark.parametrize("ask", [lambda site: site.chat("nope"), again, lambda site: site.get("/v1/models")])
def test_so_does_one_of_the_gateways_own(site: Site, ask: Callable[[Site], httpx.Response]) -> None:
    told = ask(site).headers["server-timing"]
    assert told.startswith("identify;dur=")
    assert ", total;dur=" in told
    assert "upstream" not in told


async def test_a_file_is_written_and_a_policy_that_tells_nothing_costs_no_line(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    async with running_gateway(tmp_path, more={"telemetry": {"access_log": {"to": str(log)}}}) as running:
        answer = await running.post(CHAT, b"{}", "content-type: application/json\r\n")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["kind"], line["status"], line["method"]) for line in lines] == [("access", answer.status, "POST")]
    assert not lines[0].keys() & set(LOGGED)

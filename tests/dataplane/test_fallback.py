"""Models that stand in where a provider refuses a call for its length or contents: what the providers count tells."""

import json
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import ROOT, RunningGateway, until

Json = dict[str, Any]
SAY: Any = [{"role": "user", "content": "hi"}]
NAMES = ("a", "b", "claude", "gemini", "c")
FAR = {"longest_wait": "60s", "failures": 1000}
LONG = {"error": {"message": "Too long.", "type": "invalid_request_error", "code": "context_length_exceeded"}}
FILTERED = {"error": {"message": "Filtered.", "type": None, "param": "prompt", "code": "content_filter", "status": 400}}
WRONG = {"error": {"message": "No \"code\": 'content_filter' here.", "type": "invalid_request_error", "code": None}}
WORDED: dict[str, tuple[Json, str]] = {
    # as the providers word it, and what it is
    "openai-responses": (
        {"error": {"message": "Your input exceeds the context window of this model.", "code": None}},
        "context_window",
    ),
    "vllm": (
        {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
        "context_window",
    ),
    "github": (
        {"error": {"code": "tokens_limit_reached", "message": "Request body too large for gpt-4o model."}},
        "context_window",
    ),
    "xai": (
        {"code": "Client specified an invalid argument", "error": "This model's maximum prompt length is 131072."},
        "context_window",
    ),
    "llama.cpp": (
        {"error": {"code": 400, "message": "It is full.", "type": "exceed_context_size_error"}},
        "context_window",
    ),
    "anthropic-cap": (
        {"error": {"message": "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000"}},
        "context_window",
    ),
    "azure": (
        {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}, "status": 400}},
        "content_filter",
    ),
    "azure-front": ({"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}}}, "content_filter"),
    "openai-flagged": (
        {"error": {"message": "Invalid prompt: your prompt was flagged as potentially violating our usage policy."}},
        "content_filter",
    ),
    "anthropic-filter": (
        {"error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"}},
        "content_filter",
    ),
    "both": (
        {"error": {"code": "content_filter", "message": "The maximum context length was not the trouble."}},
        "content_filter",
    ),
}


def _refusal(body: Json | str, status: int = 400, **more: Any) -> Json:
    return {"status": status, "error_body": body if isinstance(body, str) else json.dumps(body), **more}


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway, one client of it, and the providers."""

    gateway: RunningGateway
    client: httpx.Client
    providers: FakeProvider

    def chat(self, model: str, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": SAY, **fields})

    def seen(self) -> dict[str, list[int]]:
        """The statuses that each backend gave that was asked at all."""
        by_name = {name: [call["status"] for call in self.providers.calls(name)] for name in NAMES}
        return {name: statuses for name, statuses in by_name.items() if statuses}

    def record(self, answer: httpx.Response) -> Json:
        return self.gateway.record(answer.headers["x-request-id"])


def _settings(providers: FakeProvider) -> Json:
    backends: Json = {name: {"dialect": "openai", "url": providers.url(name)} for name in ("a", "b", "c")}
    backends["claude"] = {"dialect": "anthropic", "url": providers.url("claude")}
    backends["gemini"] = {"dialect": "gemini", "url": providers.url("gemini")}
    backends["c"]["cooling"] = FAR

    def model(*targets: str, **fields: Any) -> Json:
        """Its targets by backend and deployed name, one after the other."""
        given = [target.partition("/") for target in targets]
        return {"targets": [[{"backend": backend, "model": name}] for backend, _, name in given], **fields}

    large = {"context_window": "large"}
    price = {"price": {"input": 1, "output": 1}}
    dear = {"price": {"input": 1000, "output": 1000}}
    return {
        "backends": backends,
        "models": {
            "small": model("a/s", "b/s", context=1000, fallback={**large, "content_filter": "other"}),
            "large": model("b/large", context=100_000),
            "hasty": model("a/s", first_byte="0.3s", fallback={"context_window": "slow"}),
            "slow": model("b/slow", "a/slow", first_byte="20s"),
            "other": model("a/other", "b/other"),
            "messages": model("claude/sonnet", fallback=large),
            "told": model("gemini/flash", fallback=large),
            "to-claude": model("a/s", "b/s", fallback={"content_filter": "claude"}),
            "claude": model("claude/sonnet"),
            "to-cooling": model("a/s", fallback={"context_window": "cooling"}),
            "cooling": model("c/large"),
            "rationed": model("a/s", fallback={"context_window": "dear"}, **price),
            "dear": model("b/dear", **dear),
        },
        "policies": {
            "guardrails": {"default": {"content": {"projects": {"words": ["Blue Heron"]}}}},
            "limits": {
                "few": {"requests": 2, "per": "month", "only": {"models": ["dear"]}},
                "money": {"money": "100000", "per": "month", "only": {"models": ["rationed", "dear"]}},
            },
        },
        "routing": {"tell_backend": True, "cooling": {"longest_wait": "0s", "failures": 1000}},
    }


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with (
        FakeProvider(*NAMES, options=["--keep-bodies"]) as providers,
        RunningGateway(_settings(providers)) as gateway,
        gateway.client() as client,
    ):
        yield Site(gateway, client, providers)


@pytest.fixture
def site(running: Site) -> Site:
    running.providers.reset()
    return running


# ---- what the provider says ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "seen", "served", "told"),
    [
        (LONG, {"a": [400], "b": [200]}, "large", 'context_window; model="large"'),
        (FILTERED, {"a": [400, 200]}, "other", 'content_filter; model="other"'),
    ],
    ids=["context_window", "content_filter"],
)
def test_what_a_provider_refuses_another_model_answers(
    refusal: Json, seen: Json, served: str, told: str, site: Site
) -> None:
    """Siblings would refuse it as well, so they are passed by; the same backend may have the other model."""
    site.providers.script("a", [_refusal(refusal)])
    answer = site.chat("small")
    assert (answer.status_code, answer.json()["model"], site.seen()) == (200, served, seen)
    headers = {name: value for name, value in answer.headers.items() if name.startswith("x-sluice-") or "envoy" in name}
    assert headers == {
        "x-sluice-fallback": told,
        "x-sluice-model": served,
        "x-sluice-backend": next(reversed(seen)),
        "x-sluice-attempts": "2",
    }
    record = site.record(answer)
    assert (record["asked"], record["model"], record["fallback"]) == ("small", served, told.partition(";")[0])
    assert (record["status"], record["ending"], record["usage"]["source"]) == (200, "complete", "reported")
    attempt = site.gateway.record(record["request_id"], "attempt")
    assert (attempt["backend"], attempt["status"]) == ("a", 400), "what it was"


@pytest.mark.parametrize("worded", WORDED)
def test_the_providers_say_it_in_many_ways(worded: str, site: Site) -> None:
    body, cause = WORDED[worded]
    site.providers.script("a", [_refusal(body, 413 if worded == "github" else 400, content_length=worded != "vllm")])
    answer = site.chat("small")
    assert (answer.status_code, answer.headers["x-sluice-fallback"].partition(";")[0]) == (200, cause)


def test_a_stream_comes_from_the_other_model_from_its_first_event(site: Site) -> None:
    site.providers.script("a", [_refusal(LONG)])
    with openai.OpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.gateway.key, max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(model="small", messages=SAY, stream=True)
        chunks = list(raw.parse())
    assert {chunk.model for chunk in chunks} == {"large"}
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert raw.headers["x-sluice-fallback"] == 'context_window; model="large"'
    assert site.seen() == {"a": [400], "b": [200]}
    assert site.gateway.record(raw.headers["x-request-id"])["usage"]["source"] == "reported"


@pytest.mark.parametrize("stream", [False, True])
def test_messages_are_translated_for_the_other_model(stream: bool, site: Site) -> None:
    too_long = {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"}}
    site.providers.script("claude", [_refusal(too_long)])
    asked: Json = {"model": "messages", "messages": SAY, "max_tokens": 100}
    with anthropic.Anthropic(base_url=site.gateway.url, api_key=site.gateway.key, max_retries=0) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                message: Any = events.get_final_message()
                headers = events.response.headers
        else:
            raw = client.messages.with_raw_response.create(**asked)
            message, headers = raw.parse(), raw.headers
    assert (message.model, message.stop_reason) == ("large", "end_turn")
    assert headers["x-sluice-model"] == "large"
    assert site.seen() == {"claude": [400], "b": [200]}
    (call,) = site.providers.calls("b")
    assert not {name for name, _ in call["headers"]} & {"anthropic-version", "x-api-key"}


@pytest.mark.parametrize("stream", [False, True])
def test_chats_are_translated_for_the_other_model(stream: bool, site: Site) -> None:
    site.providers.script("a", [_refusal(FILTERED)])
    answer = site.chat("to-claude", stream=stream)
    assert answer.status_code == 200, answer.text
    assert '"model":"sonnet"' in answer.text.replace(" ", "")
    assert site.seen() == {"a": [400], "claude": [200]}


def test_an_attempt_behind_a_translated_one_is_the_callers_own_again(site: Site) -> None:
    full = {
        "error": {"code": 400, "message": "The input token count (9) exceeds the maximum number of tokens allowed."}
    }
    site.providers.script("gemini", [_refusal(full)])
    headers = {"openai-beta": "assistants=v2", "content-type": "application/json"}
    body = b'{ "model":"told", "messages":[{"role":"user","content":"h\\u0069"}] }'
    answer = site.client.post("/v1/chat/completions", content=body, headers=headers)
    assert (answer.status_code, site.seen()) == (200, {"gemini": [400], "b": [200]})
    (call,) = site.providers.calls("b")
    assert b64decode(call["body_base64"]) == body.replace(b"told", b"large")
    assert ["openai-beta", "assistants=v2"] in call["headers"]


def test_a_model_that_the_path_names_has_another_one_too(site: Site) -> None:
    site.providers.script("a", [_refusal(LONG)])
    path = "/openai/deployments/small/chat/completions?api-version=2024-10-21"
    answer = site.client.post(path, json={"messages": SAY})
    assert (answer.status_code, answer.json()["model"], site.seen()) == (200, "large", {"a": [400], "b": [200]})
    assert [call["model"] for name in ("a", "b") for call in site.providers.calls(name)] == ["s", "large"]


def test_responses_that_lean_on_no_other_are_answered_by_the_other_model(site: Site) -> None:
    site.providers.script("a", [_refusal(LONG)])
    answer = site.client.post("/v1/responses", json={"model": "small", "input": "hi"}).json()
    assert (answer["model"], site.seen()) == ("large", {"a": [400], "b": [200]})
    site.providers.script("b", [_refusal(LONG)])
    more = {"model": "large", "input": "hi", "previous_response_id": answer["id"]}
    assert site.client.post("/v1/responses", json=more).json() == LONG, "its state is where the first one was made"


# ---- what is no reason for another model ----------------------------------------------------------------


@pytest.mark.parametrize(
    "refusal",
    [
        _refusal(WRONG),
        _refusal(WRONG, content_length=False),
        _refusal("", content_length=False),
        _refusal("not json"),
        _refusal({**LONG, "padding": "x" * 2**17}),  # nobody reads so much
        _refusal({**LONG, "padding": "x" * 2**17}, content_length=False),
        _refusal(LONG, 402),
    ],
)
def test_a_call_that_is_wrong_stays_wrong(refusal: Json, site: Site) -> None:
    site.providers.script("a", [refusal])
    answer = site.chat("small")
    assert (answer.status_code, answer.text) == (refusal["status"], refusal["error_body"])
    assert site.seen() == {"a": [refusal["status"]]}
    assert "x-sluice-fallback" not in answer.headers
    assert site.record(answer)["model"] == "small"


def test_a_cause_for_which_no_model_is_named_is_none(site: Site) -> None:
    site.providers.script("a", [_refusal(LONG)])
    answer = site.chat("to-claude")
    assert (answer.status_code, answer.json(), site.seen()) == (400, LONG, {"a": [400]})


@pytest.mark.parametrize(("status", "told"), [(429, 429), (503, 503), (500, 500), (401, 401)])
def test_backends_that_fail_are_no_reason_and_each_is_tried_once(status: int, told: int, site: Site) -> None:
    for name in ("a", "b"):
        site.providers.script(name, [_refusal(LONG, status)] * 2)
    answer = site.chat("small")
    assert (answer.status_code, site.seen()) == (told, {"a": [status], "b": [status]})
    assert not {"x-sluice-fallback", "x-envoy-ratelimited", "x-sluice-again"} & set(answer.headers)


def test_backends_that_break_off_are_no_reason_either(site: Site) -> None:
    for name in ("a", "b"):
        site.providers.script(name, [{"reset": "before"}] * 3)
    answer = site.chat("small")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert {name: len(site.providers.calls(name)) for name in ("a", "b")} == {"a": 1, "b": 1}


# ---- with other trouble ---------------------------------------------------------------------------------


def test_the_first_that_serves_may_be_the_one_that_refuses(site: Site) -> None:
    site.providers.script("a", [{"status": 503}])
    site.providers.script("b", [_refusal(LONG)])
    answer = site.chat("small")
    assert (answer.status_code, site.seen()) == (200, {"a": [503], "b": [400, 200]})
    assert (answer.headers["x-sluice-model"], answer.headers["x-sluice-attempts"]) == ("large", "3")


def test_the_other_model_fails_over_among_its_own_backends(site: Site) -> None:
    site.providers.script("a", [_refusal(FILTERED), {"status": 503}])
    answer = site.chat("small")
    assert (answer.status_code, answer.json()["model"], site.seen()) == (200, "other", {"a": [400, 503], "b": [200]})


def test_the_other_model_has_its_own_time(site: Site) -> None:
    """Were it cut off by that of the model that was asked for, each of its backends would be paid for nothing."""
    site.providers.script("a", [_refusal(LONG)])
    site.providers.script("b", [{"delay_ms": 1000}])
    answer = site.chat("hasty")
    assert (answer.status_code, answer.json()["model"], site.seen()) == (200, "slow", {"a": [400], "b": [200]})


def test_when_the_other_model_fails_the_caller_gets_what_it_said_last(site: Site) -> None:
    site.providers.script("a", [_refusal(FILTERED), {"status": 503}, {"status": 503}])
    site.providers.script("b", [_refusal(WRONG, 503)] * 2)
    answer = site.chat("small")
    assert (answer.status_code, answer.json(), site.seen()) == (503, WRONG, {"a": [400, 503], "b": [503]})
    assert answer.headers["x-sluice-fallback"] == 'content_filter; model="other"'


def test_what_the_other_model_refuses_nobody_else_is_asked(site: Site) -> None:
    site.providers.script("a", [_refusal(FILTERED), _refusal(FILTERED)])
    answer = site.chat("small")
    assert (answer.status_code, answer.json(), site.seen()) == (400, FILTERED, {"a": [400, 400]})
    assert site.record(answer)["model"] == "other"


def test_a_translated_refusal_of_the_other_model_has_the_shape_of_the_surface(site: Site) -> None:
    site.providers.script("a", [_refusal(FILTERED)])
    site.providers.script("claude", [_refusal({"type": "error", "error": {"type": "x", "message": "No."}})])
    answer = site.chat("to-claude")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "No.")


def test_while_the_other_model_cools_the_refusal_stands(site: Site) -> None:
    site.providers.script("c", [{"status": 429, "retry_after": 60}])
    assert site.chat("cooling").status_code == 429
    until(lambda: site.chat("cooling").status_code == 429, what="it to cool")
    before = len(site.providers.calls("c"))
    site.providers.script("a", [_refusal(LONG)])
    answer = site.chat("to-cooling")
    assert (answer.status_code, answer.json()) == (400, LONG)
    assert len(site.providers.calls("c")) == before


# ---- what the other model's policies say ----------------------------------------------------------------


def test_a_key_that_may_not_use_the_other_model_gets_the_refusal(site: Site) -> None:
    command = [sys.executable, "-m", "extproc.cli", "keys", "create", "narrow", "--json", "--model", "small"]
    command += ["--config", str(site.gateway.config)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    headers = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}
    until(lambda: site.client.get("/v1/models", headers=headers).status_code == 200, what="the key to be in force")
    site.providers.script("a", [_refusal(LONG)])
    asked = {"model": "small", "messages": SAY}
    answer = site.client.post("/v1/chat/completions", json=asked, headers=headers)
    assert (answer.status_code, answer.json(), site.seen()) == (400, LONG, {"a": [400]})


def test_the_one_bill_is_that_of_the_model_that_served_and_counts_there_alone(site: Site) -> None:
    """Where the limits of the other model have no room for it, the refusal stands."""
    for _ in range(4):  # more than the other one may be asked
        assert site.chat("rationed").json()["model"] == "s"
    records = []
    for _ in range(3):
        site.providers.script("a", [_refusal(LONG)])
        records.append(site.record(site.chat("rationed")))
    assert [(record["model"], record["status"]) for record in records] == [
        *[("dear", 200)] * 2,
        ("rationed", 400),
    ]
    for record in records[:2]:
        usage = record["usage"]
        assert record["cost"] == (usage["input"] + usage["output"]) * 1_000_000
    assert records[2]["cost"] == 0
    assert len(site.providers.calls("b")) == 2


def test_what_the_gateway_itself_refuses_goes_nowhere(site: Site) -> None:
    answer = site.chat("small", messages=[{"role": "user", "content": "Tell me of Blue Heron."}])
    assert (answer.status_code, answer.json()["error"]["code"], site.seen()) == (400, "policy_violation", {})


# ---- what is known beforehand ---------------------------------------------------------------------------

BOOK = "The cat sat on the mat and was as glad as it was tired. " * 120  # some 1,700 tokens


def test_a_call_that_is_surely_too_long_goes_to_the_larger_model_at_once(site: Site) -> None:
    answer = site.chat("small", messages=[{"role": "user", "content": BOOK}])
    assert (answer.json()["model"], site.seen()) == ("large", {"b": [200]})
    assert answer.headers["x-sluice-fallback"] == 'context_window; model="large"'
    record = site.record(answer)
    assert (record["asked"], record["model"], record["fallback"]) == ("small", "large", "context_window")


def test_a_call_of_which_that_is_in_doubt_is_the_providers_to_refuse(site: Site) -> None:
    answer = site.chat("small", messages=[{"role": "user", "content": " \n" * 20_000}])
    assert (answer.json()["model"], site.seen()) == ("s", {"a": [200]})

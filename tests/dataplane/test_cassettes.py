"""Recorded exchanges replayed through the gateway: what comes out on either side is what was recorded.

The project's own recordings are always replayed; those of the shared folder where it is present.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.support import cassettes
from tests.support.cassettes import OWN, Exchange
from tests.support.gateway import RunningGateway
from tests.support.replay import ReplayBackend

Json = dict[str, Any]

REFUSED = {
    "chat-no-messages": (400, "invalid_value", "messages"),
    "chat-unknown-model": (404, "model_not_found", "model"),
    "completion-bad-request": (400, "invalid_value", "max_tokens"),
    "completion-unknown-model": (404, "model_not_found", "model"),
}
"""The recordings whose request is invalid: the gateway's own status, code and param."""

PROVIDERS = {"api.openai.com": "openai", "example-swe.openai.azure.com": "azure", "api.anthropic.com": "anthropic"}
SECRETS = {"OPENAI_SECRET": "secret-openai", "AZURE_SECRET": "secret-azure", "ANTHROPIC_SECRET": "secret-anthropic"}

# Named by us or by Envoy, or about the provider's connection and session instead of the answer.
REPLACED = {
    "alt-svc",
    "content-length",
    "date",
    "server",
    "set-cookie",
    "x-envoy-upstream-service-time",
    "x-request-id",
}
FORM_MODEL = "whisper-1"


def exchanges() -> list[Any]:
    folder = cassettes.shared()
    if folder is None:
        missing = pytest.param(
            None, id="shared", marks=pytest.mark.skip(reason="no shared recordings beside the project")
        )
        extra = [missing]
    else:
        extra = [pytest.param(exchange, id=f"shared/{exchange.name}") for exchange in cassettes.load(folder)]
    return [pytest.param(exchange, id=exchange.name) for exchange in cassettes.load(OWN)] + extra


EXCHANGES = exchanges()
INVALID = [param for param in EXCHANGES if param.values[0] is None or param.values[0].name in REFUSED]
VALID = [param for param in EXCHANGES if param.values[0] is None or param.values[0].name not in REFUSED]


# ---- the gateway, and a backend for each provider -----------------------------------------------------


@pytest.fixture(scope="module")
def backends() -> Iterator[Mapping[str, ReplayBackend]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(ReplayBackend()) for name in PROVIDERS.values()}


@pytest.fixture(scope="module")
def replaying(backends: Mapping[str, ReplayBackend]) -> Iterator[RunningGateway]:
    dialects = {"openai": "openai", "azure": "azure-openai", "anthropic": "anthropic"}
    settings: Json = {
        "backends": {
            name: {"dialect": dialects[name], "url": backend.url, "credential": {"env": f"{name.upper()}_SECRET"}}
            for name, backend in backends.items()
        },
        "models": {FORM_MODEL: {"targets": [[{"backend": "openai"}]]}},
    }
    settings["backends"]["azure"]["api_version"] = "2024-10-21"
    for exchange in [param.values[0] for param in EXCHANGES if param.values[0] is not None]:
        if exchange.model:
            known = exchange.answer.status != 404
            public = exchange.model if known else f"configured-{exchange.model}"
            target = {"backend": PROVIDERS[exchange.host], "model": exchange.model}
            settings["models"][public] = {"targets": [[target]]}
    with RunningGateway(settings, SECRETS) as running:
        yield running


def as_sent(exchange: Exchange) -> bytes:
    """The recorded request body; in place of a form that the recording left out, one with its boundary."""
    if not is_form(exchange):
        return exchange.body
    boundary = exchange.content_type.rpartition("boundary=")[2].encode()
    fields = b'Content-Disposition: form-data; name="model"\r\n\r\n' + FORM_MODEL.encode()
    file = (
        b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\x00\xff'
    )
    return b"--%b\r\n%b\r\n--%b\r\n%b\r\n--%b--\r\n" % (boundary, fields, boundary, file, boundary)


def is_form(exchange: Exchange) -> bool:
    return exchange.content_type.startswith("multipart/")


def send(gateway: RunningGateway, exchange: Exchange, body: bytes) -> httpx.Response:
    """The recorded request with our key; the answer's bytes are not decoded by the client."""
    headers = {name: value for name, value in exchange.headers if name.lower() != "content-length"}
    with (
        gateway.client() as client,
        client.stream(exchange.method, exchange.path, content=body, headers=headers) as answer,
    ):
        raw = b"".join(answer.iter_raw())
        return httpx.Response(answer.status_code, headers=answer.headers.multi_items(), content=raw)


# ---- what must come out -------------------------------------------------------------------------------


def asks_usage(fields: Json) -> bool:
    return bool((fields.get("stream_options") or {}).get("include_usage"))


def assert_request_as_recorded(sent: bytes, exchange: Exchange, body: bytes) -> None:
    """The backend has the very bytes, but for one insertion into a stream's request that asks for its usage."""
    streams_tokens = exchange.fields.get("stream") and "/completions" in exchange.path.replace("/chat", "")
    if not streams_tokens or asks_usage(exchange.fields):
        assert sent == body
        return
    grown = len(sent) - len(body)
    same = next((at for at, (old, new) in enumerate(zip(body, sent, strict=False)) if old != new), len(body))
    assert sent[same + grown :] == body[same:]
    wanted = {**exchange.fields, "stream_options": {**exchange.fields.get("stream_options", {}), "include_usage": True}}
    assert json.loads(sent) == wanted


def expected_answer(exchange: Exchange) -> bytes:
    """The recorded answer without the usage event, where the client had not asked for one."""
    body = exchange.answer.body
    if not exchange.fields.get("stream") or asks_usage(exchange.fields) or "/completions" not in exchange.path:
        return body
    end = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    return b"".join(event + end for event in body.split(end)[:-1] if not is_usage_event(event))


def is_usage_event(event: bytes) -> bool:
    return b'"choices":[],' in event and b'"usage":{' in event


def expected_usage(exchange: Exchange) -> Json | None:
    """The recorded usage in the words of the access record; kinds that were not used are left out."""
    reported = exchange.usage()
    if reported is None:
        return None
    of_input = first(reported, "prompt_tokens_details", "input_tokens_details", "input_token_details") or {}
    of_output = first(reported, "completion_tokens_details", "output_tokens_details") or {}
    cached = reported.get("cache_read_input_tokens", 0)
    written = reported.get("cache_creation_input_tokens", 0)
    counts = {
        "input": (first(reported, "prompt_tokens", "input_tokens") or 0) + cached + written,
        "output": first(reported, "completion_tokens", "output_tokens") or 0,
        "cached_input": of_input.get("cached_tokens", 0) + cached,
        "cache_write": written,
        "audio_input": of_input.get("audio_tokens", 0),
        "audio_output": of_output.get("audio_tokens", 0),
        "reasoning": of_output.get("reasoning_tokens", 0),
    }
    told = {name: count for name, count in counts.items() if count or name in ("input", "output")}
    return {**told, "source": "reported"}


def first(source: Json, *names: str) -> Any:
    return next((source[name] for name in names if name in source), None)


# ---- the tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exchange", VALID)
def test_a_recorded_exchange_replays_byte_for_byte(
    exchange: Exchange, replaying: RunningGateway, backends: Mapping[str, ReplayBackend]
) -> None:
    backend, body = backends[PROVIDERS[exchange.host]], as_sent(exchange)
    backend.replay(exchange.answer)
    answer = send(replaying, exchange, body)
    (asked,) = backend.asked
    assert (asked.method, asked.path) == (exchange.method, exchange.path)
    assert_request_as_recorded(asked.body, exchange, body)
    for name, value in exchange.headers:
        if name.lower().startswith("anthropic-"):
            assert asked.header(name.lower()) == [value]
    assert answer.status_code == exchange.answer.status
    assert answer.content == expected_answer(exchange)
    passed = {(name.lower(), value) for name, value in exchange.answer.headers if name.lower() not in REPLACED}
    assert passed <= {(name.lower(), value) for name, value in answer.headers.multi_items()}
    assert_recorded(replaying.record(answer.headers["x-request-id"]), exchange)


def assert_recorded(record: Json, exchange: Exchange) -> None:
    assert (record["status"], record["backend"]) == (exchange.answer.status, PROVIDERS[exchange.host])
    if exchange.answer.status >= 400:
        assert (record["ending"], record.get("usage")) == ("failed", None)
        return
    assert record["ending"] == "complete"
    wanted = expected_usage(exchange)
    if wanted is None:
        assert record["usage"]["source"] == "estimated"
    else:
        assert {name: count for name, count in record["usage"].items() if name != "images"} == wanted


@pytest.mark.parametrize("exchange", INVALID)
def test_an_invalid_recorded_request_is_refused_before_it_costs_a_call(
    exchange: Exchange, replaying: RunningGateway, backends: Mapping[str, ReplayBackend]
) -> None:
    backend = backends[PROVIDERS[exchange.host]]
    backend.replay(exchange.answer)
    answer = send(replaying, exchange, exchange.body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == REFUSED[exchange.name]
    assert answer.status_code == exchange.answer.status  # the SDKs raise the class that the provider's answer has
    assert error["type"] == json.loads(exchange.answer.body)["error"]["type"]
    assert backend.asked == []
    record = replaying.record(answer.headers["x-request-id"])
    assert (record["ending"], record["refusal"], "usage" in record) == ("refused", error["code"], False)


@pytest.mark.parametrize("exchange", [param for param in INVALID if "unknown-model" in str(param.id)])
def test_a_model_that_the_provider_does_not_know_is_told_in_the_providers_own_words(
    exchange: Exchange, replaying: RunningGateway, backends: Mapping[str, ReplayBackend]
) -> None:
    backend = backends[PROVIDERS[exchange.host]]
    backend.replay(exchange.answer)
    public = f"configured-{exchange.model}".encode()
    answer = send(replaying, exchange, exchange.body.replace(exchange.model.encode(), public))
    assert backend.asked[0].body == exchange.body  # the deployed name in place of the public one
    assert (answer.status_code, answer.content) == (404, exchange.answer.body)


@pytest.mark.parametrize("exchange", [param for param in VALID if "audio-trans" in str(param.id)])
def test_the_placeholder_of_a_recorded_form_is_refused_as_the_form_that_it_is_not(
    exchange: Exchange, replaying: RunningGateway, backends: Mapping[str, ReplayBackend]
) -> None:
    backends["openai"].replay(exchange.answer)
    answer = send(replaying, exchange, exchange.body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert backends["openai"].asked == []


def test_the_own_recordings_cover_what_the_shared_ones_do() -> None:
    """Same surfaces, outcomes and ways of answering, so that nothing is lost where the shared folder is absent."""
    folder = cassettes.shared()
    if folder is None:
        pytest.skip("no shared recordings beside the project")

    def kinds(listed: list[Exchange]) -> set[tuple[str, int, bool]]:
        return {(one.path, one.answer.status, bool(one.fields.get("stream"))) for one in listed}

    assert kinds(cassettes.load(folder)) <= kinds(cassettes.load(OWN))

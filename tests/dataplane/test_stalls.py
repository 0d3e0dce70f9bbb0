"""Streams whose backend falls silent, breaks off or says an error in the middle: case 49 and 51 of the fault list.

The backends' own counts are the oracle. Whoever reads slowly, or is held up, is no silent backend.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import anthropic
import h2.config
import h2.connection
import h2.events
import h2.settings
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import Answer, Connection, form, request
from tests.support.replay import Recorded, ReplayBackend

Json = dict[str, Any]

STALL_S = 0.8
IDLE_S = 4.0
SAY: Any = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
BACKENDS = ("openai", "azure", "claude", "gemini", "plain", "weak", "spare")
DIALECTS: Mapping[str, Json] = {
    "azure": {"dialect": "azure-openai", "api_version": "2024-10-21"},
    "claude": {"dialect": "anthropic"},
    "gemini": {"dialect": "gemini"},
    "plain": {"dialect": "openai", "surfaces": ["chat"]},
}
LONG = 100_000
PRICE = {"input": 1, "output": 2}
_EVENT = {"choices": [{"index": 0, "delta": {"content": "x" * 64_000}, "finish_reason": None}]}
EVENT = b"data: %b\n\n" % json.dumps(_EVENT).encode()
DONE = b"data: [DONE]\n\n"
STREAM = (("content-type", "text/event-stream"),)


def _settings(fake: FakeProvider, replayed: ReplayBackend) -> Json:
    backends: Json = {name: {"url": fake.url(name), **DIALECTS.get(name, {"dialect": "openai"})} for name in BACKENDS}
    backends["replayed"] = {"dialect": "openai", "url": replayed.url}
    backends["weak"]["cooling"] = {"failures": 2, "open_for": "1m"}
    stall = {"stall": f"{STALL_S}s", "price": PRICE}
    models: Json = {name: {"targets": [[{"backend": name}]], **stall} for name in (*BACKENDS[:5], "replayed")}
    models["leased"] = {"targets": [[{"backend": "openai"}]], "price": PRICE, "max_output": LONG}
    models["started"] = {"targets": [[{"backend": "claude"}], [{"backend": "openai"}], [{"backend": "spare"}]], **stall}
    models["half-open"] = {"targets": [[{"backend": "openai"}], [{"backend": "spare"}]], "first_byte": "0.5s", **stall}
    models["weak"] = {"targets": [[{"backend": "weak"}], [{"backend": "spare"}]], **stall}
    models["plain-mode"] = {"targets": [[{"backend": "openai"}]]}
    lease = {"tokens": LONG // 2, "per": "hour", "when_short": "lease", "only": {"models": ["leased"]}}
    return {
        "backends": backends,
        "models": models,
        "limits": {"json_answer": "64KiB"},
        "timeouts": {"idle": f"{IDLE_S}s"},
        "policies": {"limits": {"lease": lease}},
    }


@dataclass(frozen=True)
class Site:
    gateway: RunningGateway
    fake: FakeProvider
    replayed: ReplayBackend

    def says(self, *pieces: bytes | float) -> None:
        """What `replayed` answers: bytes, and seconds of silence."""
        self.replayed.replay(Recorded(200, STREAM, Paced(pieces)))

    def record(self, call: Json) -> Json:
        """Ours of a call that a backend saw."""
        return self.gateway.record(dict(call["headers"])["x-request-id"])


class Paced(tuple[Any, ...]):
    """Pieces of an answer, with the seconds to wait among them."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        for piece in super().__iter__():
            if isinstance(piece, float):
                time.sleep(piece)
            else:
                yield piece


@pytest.fixture(scope="module")
def running() -> Iterator[Site]:
    with ExitStack() as stack:
        fake = stack.enter_context(FakeProvider(*BACKENDS))
        replayed = stack.enter_context(ReplayBackend())
        yield Site(stack.enter_context(RunningGateway(_settings(fake, replayed))), fake, replayed)


@pytest.fixture
def site(running: Site) -> Site:
    running.fake.reset()
    return running


def ask(site: Site, model: str, path: str = CHAT, **fields: Any) -> bytes:
    return request(
        path, json.dumps({"model": model, "stream": True, "messages": SAY, **fields}).encode(), site.gateway.key
    )


def call(site: Site, model: str, path: str = CHAT, **fields: Any) -> Answer:
    with Connection(site.gateway.port) as connection:
        connection.send(ask(site, model, path, **fields))
        return connection.answer()


# ---- each surface, by its SDK ----------------------------------------------------------------------------


def _chat(client: Any, model: str) -> Iterator[Any]:
    yield from client.chat.completions.create(model=model, messages=SAY, stream=True)


def _completion(client: Any, model: str) -> Iterator[Any]:
    yield from client.completions.create(model=model, prompt="hi", stream=True)


def _response(client: Any, model: str) -> Iterator[Any]:
    yield from client.responses.create(model=model, input="hi", stream=True)


def _message(client: Any, model: str) -> Iterator[Any]:
    yield from client.messages.create(model=model, messages=SAY, max_tokens=1000, stream=True)


ASK = {"chat": _chat, "completion": _completion, "response": _response, "message": _message}
CASES = [
    *(("chat", model) for model in ("openai", "azure", "claude", "gemini", "leased")),
    *(("completion", "openai"), ("response", "openai"), ("response", "plain")),
    *(("message", "claude"), ("message", "openai")),
]


def _client(site: Site, surface: str, **more: Any) -> Any:
    if surface == "message":
        return anthropic.Anthropic(base_url=site.gateway.url, api_key=site.gateway.key, max_retries=2, **more)
    return openai.OpenAI(base_url=f"{site.gateway.url}/v1", api_key=site.gateway.key, max_retries=2, **more)


@dataclass
class Told:
    """What an SDK made of a stream, and what the backend and the gateway say of it."""

    events: list[Any]
    error: Any
    record: Json


def _told(site: Site, surface: str, model: str, fault: Json) -> Told:
    """The fault goes by script: bodies are translated."""
    backend = "openai" if model == "leased" else model
    seen = len(site.fake.calls(backend))
    site.fake.script(backend, [fault])
    told = Told([], None, {})
    with _client(site, surface) as client:
        try:
            told.events.extend(ASK[surface](client, model))
        except (openai.OpenAIError, anthropic.AnthropicError) as error:
            told.error = error
    calls = site.fake.calls(backend)
    assert len(calls) == seen + 1, "a stream that has begun is asked for once"
    told.record = site.record(calls[-1])
    until(lambda: site.fake.totals(backend)["open"] == 0, what="the backend's call to end")
    return told


@pytest.mark.parametrize(("surface", "model"), CASES)
def test_a_backend_that_falls_silent_is_an_error_that_the_sdk_raises(surface: str, model: str, site: Site) -> None:
    """Ten events, then nothing. `leased` has no `stall`: what may end early anyhow ends before Envoy cuts it."""
    told = _told(site, surface, model, {"stall_after": 10, "events": 40})
    assert told.events
    assert told.error is not None, told.record
    assert told.error.body is not None, told
    assert isinstance(told.error, openai.APIError | anthropic.APIStatusError)
    error = told.error.body["error"] if surface == "message" else told.error.body
    assert error["code"] == "upstream_timeout"
    assert error["type"] == ("overloaded_error" if surface == "message" else "api_error")
    record = told.record
    assert (record["ending"], record["status"], record["usage"]["source"]) == ("stalled", 200, "estimated")
    assert record["backend"] == ("openai" if model == "leased" else model)
    usage = record["usage"]
    assert 0 < usage["output"] < 20
    assert record["cost"] == 1_000 * (usage["input"] * PRICE["input"] + usage["output"] * PRICE["output"])


def test_the_stream_ends_in_words_and_the_connection_serves_on(site: Site) -> None:
    with Connection(site.gateway.port) as connection:
        connection.send(ask(site, "openai", x_fake={"stall_after": 4, "events": 40}))
        answer = connection.answer()
        assert (answer.status, answer.whole) == (200, True)
        *_, last = answer.body.strip().split(b"\n\n")
        name, _, data = last.partition(b"\ndata: ")
        assert (name, json.loads(data)["type"]) == (b"event: error", "error")
        assert b"[DONE]" not in answer.body
        connection.send(ask(site, "openai", x_fake={"events": 4}))
        assert connection.answer().body.endswith(DONE)
    until(lambda: 'sluice_broken_calls_total{by="upstream"}' in site.gateway.metrics(), what="it to be counted")


def test_the_answer_to_an_upload_ends_so_too(site: Site) -> None:
    kind, body = form({"model": "openai", "stream": "true"}, b"RIFF" * 100)
    site.fake.script("openai", [{"stall_after": 2, "text": "one two three"}])
    with Connection(site.gateway.port) as connection:
        connection.send(request("/v1/audio/transcriptions", body, site.gateway.key, kind))
        answer = connection.answer()
    assert answer.whole
    assert b"one" in answer.body
    assert b"upstream_timeout" in answer.body
    assert site.gateway.record(answer.request_id)["ending"] == "stalled"


def test_half_an_event_is_not_glued_to_the_error(site: Site) -> None:
    """What cannot be ended in words must not have gone out, even where nothing is to be hidden."""
    site.says(EVENT, EVENT[:40], 3.0)
    answer = call(site, "replayed", stream_options={"include_usage": True})
    assert answer.whole
    whole, _, rest = answer.body.partition(b"event: error\n")
    assert whole == EVENT
    assert json.loads(rest.partition(b"data: ")[2])["error"]["code"] == "upstream_timeout"


def test_one_that_has_said_all_and_does_not_hang_up_has_not_failed(site: Site) -> None:
    site.says(EVENT, DONE, 3.0)
    answer = call(site, "replayed")
    assert (answer.whole, answer.body) == (True, EVENT + DONE)
    assert site.gateway.record(answer.request_id)["ending"] == "complete"


def test_the_time_until_an_answer_begins_and_whole_answers_are_none_of_it(site: Site) -> None:
    late = call(site, "openai", x_fake={"delay_ms": 1000 * 1.5 * STALL_S, "events": 4})
    assert late.body.endswith(DONE)
    whole = call(site, "openai", stream=False, x_fake={"delay_ms": 1000 * 1.5 * STALL_S})
    assert whole.json()["choices"]


def test_a_slow_backend_is_no_silent_one(site: Site) -> None:
    """A token now and then, for longer in all than it may be silent."""
    fault = {"events": 12, "tokens_per_second": 4 / STALL_S}
    answer = call(site, "openai", x_fake=fault)
    assert answer.body.endswith(DONE)
    assert site.gateway.record(answer.request_id)["ending"] == "complete"


def test_a_token_now_and_then_is_too_slow(site: Site) -> None:
    answer = call(site, "openai", x_fake={"events": 8, "tokens_per_second": 1 / (2 * STALL_S)})
    assert b"upstream_timeout" in answer.body
    assert site.gateway.record(answer.request_id)["ending"] == "stalled"


def test_a_backend_that_takes_a_call_and_never_answers_is_left_before_anything_was_said(site: Site) -> None:
    """Case 49: only then."""
    site.fake.script("openai", [{"hang": True}])
    answer = call(site, "half-open", x_fake={"events": 4})
    assert answer.body.endswith(DONE)
    assert [len(site.fake.calls(name)) for name in ("openai", "spare")] == [1, 1]
    attempt = site.gateway.record(answer.request_id, "attempt")
    assert (attempt["backend"], attempt["flag"]) == ("openai", "upstream_request_timeout")


# ---- who is silent ---------------------------------------------------------------------------------------

FLOOD = 200  # events, 13 MB: more than Envoy and the sockets hold


def test_a_client_that_does_not_read_is_no_silent_backend(site: Site) -> None:
    """Envoy reads the backend no more, so that nothing comes: from a backend that would send, and one that has."""
    site.says(*[EVENT] * FLOOD, DONE)
    with Connection(site.gateway.port) as connection:
        connection.send(ask(site, "replayed"))
        read = connection.progress()
        next(read)
        time.sleep(3 * STALL_S)
        answer = [*read][-1]
    assert answer.whole
    assert len(answer.body) == FLOOD * len(EVENT) + len(DONE)
    assert site.gateway.record(answer.request_id)["ending"] == "complete"


def test_nor_is_one_of_http_2(site: Site) -> None:
    """For its stream Envoy holds 64 KiB, and stops reading the backend then; what comes at once, it has read."""
    slowly: list[bytes | float] = [EVENT, 0.05]
    site.says(*slowly * 20, DONE)
    with Connection(site.gateway.port) as connection:
        body = _over_http_2(site, connection, pause=3 * STALL_S)
    assert body == EVENT * 20 + DONE


def test_a_short_answer_over_http_2_that_stalls_ends_in_words(site: Site) -> None:
    site.says(b"data: {}\n\n", 3.0)
    with Connection(site.gateway.port) as connection:
        body = _over_http_2(site, connection, pause=0)
    assert b"upstream_timeout" in body


def _over_http_2(site: Site, connection: Connection, pause: float) -> bytes:
    """The body of an answer to a client that lets Envoy send 1,000 bytes, and reads on after a pause."""
    link = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    link.initiate_connection()
    link.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    head, _, body = ask(site, "replayed").partition(b"\r\n\r\n")
    fields = [line.partition(": ")[::2] for line in head.decode().split("\r\n")[2:]]
    asked = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost"), (":path", CHAT), *fields]
    link.send_headers(1, asked)
    link.send_data(1, body, end_stream=True)
    connection.send(link.data_to_send())
    time.sleep(pause)
    answer = b""
    while data := connection._receive():
        for event in link.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                answer += event.data
                link.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.StreamEnded):
                return answer
            assert not isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated), "the answer was cut"
        connection.send(link.data_to_send())
    raise AssertionError("the connection was closed")


def test_a_worker_that_is_held_up_is_no_silent_backend(site: Site) -> None:
    """What came meanwhile is read before anybody is blamed."""
    (worker,) = site.gateway.processes("extproc.worker")
    with Connection(site.gateway.port) as connection:
        connection.send(ask(site, "openai", x_fake={"events": 20, "tokens_per_second": 10}))
        read = connection.pieces()
        next(read)
        worker.suspend()
        try:
            time.sleep(2 * STALL_S)
        finally:
            worker.resume()
        answer = [*read][-1]
    assert answer.whole
    assert answer.body.endswith(DONE)


# ---- a stream that has begun is never asked for again ----------------------------------------------------


def test_a_started_stream_stays_where_it_is_and_both_tries_are_told(site: Site) -> None:
    """Case 51: the one that refused is tried no more, the one that began and fell silent is not replaced."""
    site.fake.script("claude", [{"status": 503}])
    site.fake.script("openai", [{"stall_after": 10, "events": 40}])
    answer = call(site, "started")
    assert b"upstream_timeout" in answer.body
    assert [len(site.fake.calls(name)) for name in ("claude", "openai", "spare")] == [1, 1, 0]
    record = site.gateway.record(answer.request_id)
    assert (record["ending"], record["backend"], record["cost"] > 0) == ("stalled", "openai", True)
    attempt = site.gateway.record(answer.request_id, "attempt")
    assert (attempt["backend"], attempt["status"]) == ("claude", 503)
    told = [one for one in site.gateway.records() if one["request_id"] == answer.request_id]
    assert told == [record], "one call, one charge"


def test_a_backend_that_goes_on_falling_silent_is_tried_last(site: Site) -> None:
    """Its circuit opens, though each attempt was a 200 for Envoy. Nobody else's answer is lost by that."""
    stalls = [{"stall_after": 4, "events": 40}] * 2
    site.fake.script("weak", stalls)
    for _ in stalls:
        assert b"upstream_timeout" in call(site, "weak").body
        time.sleep(0.3)  # until Envoy has told what it knows
    until(lambda: 'sluice_circuit_state{backend="weak"} 2.0' in site.gateway.metrics(), what="the open circuit")
    assert call(site, "weak", x_fake={"events": 4}).body.endswith(DONE)
    assert (len(site.fake.calls("weak")), len(site.fake.calls("spare"))) == (2, 1)


# ---- what else may happen in the middle ------------------------------------------------------------------


@pytest.mark.parametrize("model", ["openai", "plain-mode"])
def test_a_backend_that_breaks_off_can_only_be_cut_and_is_to_blame(model: str, site: Site) -> None:
    answer = call(site, model, x_fake={"reset": 6, "events": 40})
    assert (answer.status, answer.whole) == (200, False)
    assert site.gateway.record(answer.request_id)["ending"] == "cut"
    attempt = site.gateway.record(answer.request_id, "attempt")
    assert (attempt["backend"], attempt["status"]) == ("openai", 200)
    assert attempt["flag"].startswith("upstream_")
    assert [len(site.fake.calls(name)) for name in ("openai", "spare")] == [1, 0]


@pytest.mark.parametrize("model", ["openai", "plain-mode"])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_an_error_inside_a_stream_passes_and_is_the_backends(path: str, model: str, site: Site) -> None:
    name = "claude" if path == "/v1/messages" else model
    more: Json = {"prompt": "hi"} if path == "/v1/completions" else {"input": "hi"}
    more = {"max_tokens": 1000} if path == "/v1/messages" else more
    answer = call(site, name, path, **more, x_fake={"error_event_after": 4, "events": 40})
    assert answer.whole
    assert b'"error"' in answer.body
    assert b"upstream_timeout" not in answer.body
    record = site.gateway.record(answer.request_id)
    assert (record["ending"], record["backend"]) == ("failed", "claude" if path == "/v1/messages" else "openai")

"""A client that leaves, at whatever point: its call ends at the provider, too, and has exactly one record with usage.

The fake provider stops after a given frame and stays silent, so that a client leaves exactly there. It sends a
comment after each frame: comments reach the client even where the frame itself, the usage that only the gateway had
asked for, does not.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import Connection, form, request

Json = dict[str, Any]

TEXT = "one two three four five six seven eight nine ten"
SAY = [{"role": "user", "content": "Please count to ten, slowly and with feeling."}]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A surface that streams. `told`: which frame, counted from the end, tells the usage (1 is the last)."""

    path: str
    fields: Json
    backend: str
    told: int
    form: bool = False

    def request(self, key: str, fault: Json) -> bytes:
        if self.form:
            fields = {**self.fields, "x_fake": json.dumps(fault)}
            kind, body = form(fields, b"RIFF")
            return request(self.path, body, key, kind)
        body = json.dumps({**self.fields, "stream": True, "x_fake": fault}).encode()
        return request(self.path, body, key, anthropic_version="2023-06-01")


SURFACES = {
    "chat": Streaming("/v1/chat/completions", {"model": "gpt-4o", "messages": SAY}, "openai", told=2),
    "chat with usage": Streaming(
        "/v1/chat/completions",
        {"model": "gpt-4o", "messages": SAY, "stream_options": {"include_usage": True}},
        "openai",
        told=2,
    ),
    "two choices": Streaming("/v1/chat/completions", {"model": "gpt-4o", "messages": SAY, "n": 2}, "openai", told=2),
    "completions": Streaming("/v1/completions", {"model": "gpt-4o", "prompt": "Please count."}, "openai", told=2),
    "responses": Streaming("/v1/responses", {"model": "gpt-4o", "input": "Please count to ten."}, "openai", told=1),
    "messages": Streaming(
        "/anthropic/v1/messages",
        {"model": "claude-sonnet-5-5", "messages": SAY, "max_tokens": 100},
        "anthropic",
        told=2,
    ),
    "transcriptions": Streaming(
        "/v1/audio/transcriptions", {"model": "whisper-1", "stream": "true"}, "openai", told=1, form=True
    ),
}


def close(connection: Connection) -> None:
    connection.close()


def reset(connection: Connection) -> None:
    connection.reset()


WAYS: dict[str, Callable[[Connection], None]] = {"close": close, "reset": reset}


def frames(gateway: RunningGateway, fake: FakeProvider, streaming: Streaming, fault: Json) -> int:
    """How many frames the stream has when nobody leaves."""
    with Connection(gateway.port) as connection:
        connection.send(streaming.request(gateway.key, fault))
        answer = connection.answer()
    assert (answer.status, answer.whole) == (200, True)
    assert gateway.record(answer.request_id)["usage"]["source"] == "reported"
    sent: int = fake.calls(streaming.backend)[0]["events_sent"]
    fake.reset()
    return sent


def leave_after(
    gateway: RunningGateway, streaming: Streaming, fault: Json, count: int, leave: Callable[[Connection], None]
) -> str:
    """Read exactly so many frames, then leave; returns the id of the call."""
    connection = Connection(gateway.port)
    try:
        connection.send(streaming.request(gateway.key, {**fault, "stall_after": count}))
        for answer in connection.progress():
            if answer.headers and answer.body.count(b": keepalive") >= count:
                return answer.request_id
        raise AssertionError("the stream ended before its time")
    finally:
        leave(connection)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("surface", SURFACES)
def test_a_client_may_leave_after_any_frame(
    surface: str, way: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    streaming = SURFACES[surface]
    fault: Json = {"text": TEXT, "comments": True}
    whole = frames(gateway, fake, streaming, fault)
    ids = []
    estimates = []
    for count in range(whole + 1):
        fake.reset()
        ids.append(leave_after(gateway, streaming, fault, count, WAYS[way]))
        record = gateway.record(ids[-1])
        (seen,) = fake.calls(streaming.backend)
        usage = record["usage"]
        assert record["status"] == 200
        if count > whole - streaming.told:
            assert usage["source"] == "reported"
            if streaming.form:  # the fake bills audio by its length
                assert usage["seconds"] == 1.0
            else:
                assert (usage["input"], usage["output"]) == (seen["input_tokens"], seen["output_tokens"])
        else:
            assert (usage["source"], record["ending"]) == ("estimated", "cut")
            assert usage["input"] > 0 or streaming.form  # what a provider makes of audio nobody can estimate
            estimates.append(usage["output"])
        until(lambda: fake.totals(streaming.backend)["open"] == 0, what="the provider's call to end")
    assert record["ending"] == "complete"
    assert estimates == sorted(estimates)
    assert estimates[-1] > estimates[0] == 0
    told = Counter(line["request_id"] for line in gateway.records())
    assert {told[request_id] for request_id in ids} == {1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_client_may_leave_before_the_first_byte(
    stream: bool, way: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": SAY, "stream": stream, "x_fake": {"hang": True}}).encode()
    connection = Connection(gateway.port)
    connection.send(request("/v1/chat/completions", body, gateway.key))
    until(lambda: fake.totals("openai")["complete"] or any(call["complete"] for call in fake.calls("openai")))
    WAYS[way](connection)
    record = gateway.record(dict(fake.calls("openai")[0]["headers"])["x-request-id"])
    assert (record["ending"], record["usage"]["source"]) == ("cut", "estimated")
    assert record["usage"]["input"] > 0
    # What is written of a whole answer shows nowhere: it goes by the time. A stream would have shown it.
    assert (record["usage"]["output"] > 0) is not stream
    until(lambda: fake.totals("openai")["disconnected"] == 1, what="the provider's call to end")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sized", [True, False], ids=["sized", "chunked"])
def test_a_client_may_leave_within_a_json_answer(
    sized: bool, way: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """A large answer that stops coming: its tokens cannot be known, the input's can be estimated."""
    fault = {"text": TEXT * 2000, "reset": 50_000, "content_length": sized}
    body = json.dumps({"model": "gpt-4o", "messages": SAY, "x_fake": fault}).encode()
    connection = Connection(gateway.port)
    connection.send(request("/v1/chat/completions", body, gateway.key))
    until(lambda: fake.calls("openai"), what="the provider to be called")
    request_id = dict(fake.calls("openai")[0]["headers"])["x-request-id"]
    WAYS[way](connection)
    record = gateway.record(request_id)
    assert record["ending"] in ("cut", "refused")
    assert len([line for line in gateway.records() if line["request_id"] == request_id]) == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sent", [0, 1, 40])
def test_a_client_may_leave_within_its_own_request(
    sent: int, way: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """Nothing was decided, so nothing was used; the record says that somebody with this key began a call."""
    before = {line["request_id"] for line in gateway.records()}
    told = gateway.envoy_stat("http.gateway.ext_proc.stream_msgs_received")
    data = SURFACES["chat"].request(gateway.key, {})
    body = data.index(b"\r\n\r\n") + 4
    connection = Connection(gateway.port)
    connection.send(data[: body + sent])
    until(lambda: gateway.envoy_stat("http.gateway.ext_proc.stream_msgs_received") > told, what="the identification")
    WAYS[way](connection)

    def new() -> list[Json]:
        return [line for line in gateway.records() if line["request_id"] not in before and line["surface"] == "chat"]

    (record,) = until(new, what="the record")
    assert (record["ending"], record["key"]) == ("cut", "quickstart")
    assert "usage" not in record
    assert not fake.calls("openai")


def test_a_client_that_says_it_sends_no_more_is_served(gateway: RunningGateway, fake: FakeProvider) -> None:
    """A half-closed connection: served whole or cut, but with one record that says which."""
    streaming = SURFACES["chat"]
    with Connection(gateway.port) as connection:
        connection.send(streaming.request(gateway.key, {"text": TEXT, "tokens_per_second": 100}))
        until(lambda: fake.calls("openai"), what="the provider to be called")
        connection.half_close()
        answer = connection.answer()
    request_id = dict(fake.calls("openai")[0]["headers"])["x-request-id"]
    record = gateway.record(request_id)
    assert (record["ending"] == "complete") == answer.whole
    assert record["usage"]["source"] == ("reported" if answer.whole else "estimated")


def test_envoys_own_record_tells_that_the_client_left(gateway: RunningGateway) -> None:
    """The policy sees only that the exchange broke off; the listener's record says who did it."""
    request_id = leave_after(gateway, SURFACES["chat"], {"text": TEXT, "comments": True}, 3, close)
    assert gateway.record(request_id)["ending"] == "cut"
    listener = gateway.record(request_id, "listener")
    assert listener["flag"] in ("downstream_connection_termination", "downstream_remote_reset")


def test_a_provider_that_breaks_off_is_told_apart(gateway: RunningGateway) -> None:
    streaming = SURFACES["chat"]
    with Connection(gateway.port) as connection:
        connection.send(streaming.request(gateway.key, {"text": TEXT, "comments": True, "reset": 4}))
        answer = connection.answer()
    assert not answer.whole
    record = gateway.record(answer.request_id)
    assert (record["ending"], record["usage"]["source"]) == ("cut", "estimated")
    assert record["usage"]["output"] > 0
    assert gateway.record(answer.request_id, "listener")["flag"].startswith("upstream")

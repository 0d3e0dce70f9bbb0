"""Backends that answer badly: broken streams, pages in place of JSON, errors inside a 200, wrong usage, encodings.

What a backend says is the caller's to read: it passes as it came. What it costs is ours to know: one record each, the
last usage counted once, an estimate marked as one.
"""

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.raw_http import Answer, Connection, request

Json = dict[str, Any]

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/anthropic/v1/messages", "/v1/responses"
SAY = [{"role": "user", "content": "Hello!"}]
TEXT = "one two three four five six"


def call(gateway: RunningGateway, fault: Json, stream: bool = True, path: str = CHAT, **fields: Any) -> Answer:
    basic: dict[str, Json] = {
        CHAT: {"model": "gpt-4o", "messages": SAY},
        MESSAGES: {"model": "claude-sonnet-5-5", "messages": SAY, "max_tokens": 90},
        RESPONSES: {"model": "gpt-4o", "input": "Hello!"},
    }
    body = {**basic[path], "stream": stream, "x_fake": fault, **fields}
    data = request(path, json.dumps(body).encode(), gateway.key, anthropic_version="2023-06-01")
    with Connection(gateway.port) as connection:
        connection.send(data)
        return connection.answer()


def only_record(gateway: RunningGateway, answer: Answer) -> Json:
    record = gateway.record(answer.request_id)
    assert len([line for line in gateway.records() if line["request_id"] == answer.request_id]) == 1
    return record


@pytest.fixture(autouse=True)
def steady(gateway: RunningGateway) -> Iterator[None]:
    before = [child.pid for child in gateway.processes("")]
    yield
    assert [child.pid for child in gateway.processes("")] == before
    assert call(gateway, {}, stream=False).status == 200


# ---- streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("pieces", [None, 1], ids=["events", "bytes"])
def test_a_broken_event_passes_and_what_surrounds_it_counts(
    pieces: int | None, path: str, gateway: RunningGateway
) -> None:
    fault: Json = {"malformed_sse": True, "text": TEXT}
    if pieces is not None:
        fault["chunk_bytes"] = pieces
    answer = call(gateway, fault, path=path)
    assert (answer.status, answer.whole) == (200, True)
    assert b'data: {"id": "chatcmpl-broken", "choi\n\n' in answer.body
    record = only_record(gateway, answer)
    assert (record["ending"], record["usage"]["source"]) == ("complete", "reported")


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_line_ends_and_comments_pass_as_they_came(path: str, gateway: RunningGateway) -> None:
    answer = call(gateway, {"crlf": True, "comments": True, "text": TEXT, "chunk_bytes": 7}, path=path)
    assert answer.whole
    assert answer.body.count(b"\n") == answer.body.count(b"\r\n")
    assert answer.body.count(b": keepalive\r\n\r\n") > 3
    assert b"total_tokens" not in answer.body or path == RESPONSES
    assert only_record(gateway, answer)["usage"]["source"] == "reported"


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_stream_without_its_last_event_ends_all_the_same(path: str, gateway: RunningGateway) -> None:
    answer = call(gateway, {"done": False, "text": TEXT}, path=path)
    assert answer.whole
    assert b"[DONE]" not in answer.body
    record = only_record(gateway, answer)
    assert (record["ending"], record["usage"]["source"]) == ("complete", "reported")


_SPEAKS = {CHAT: 2, MESSAGES: 1, RESPONSES: 4}
"""How many events of a stream have told that something was used. An error before that used nothing."""


@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_an_error_inside_a_stream_reaches_the_client_and_fails_the_call(
    path: str, after: int, gateway: RunningGateway
) -> None:
    answer = call(gateway, {"error_event_after": after, "text": TEXT}, path=path)
    assert (answer.status, answer.whole) == (200, True)
    assert b"error" in answer.body
    record = only_record(gateway, answer)
    assert record["ending"] == "failed"
    assert record.get("usage", {}).get("source") == ("estimated" if after >= _SPEAKS[path] else None)


@pytest.mark.parametrize("after", [0, 1, 4])
@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
def test_a_stream_that_is_reset_is_cut_for_the_client(path: str, after: int, gateway: RunningGateway) -> None:
    """A client must see that there was more: no clean end is made up for it."""
    answer = call(gateway, {"reset": after, "text": TEXT}, path=path)
    assert not answer.whole or answer.status >= 500
    record = only_record(gateway, answer)
    assert record["ending"] in ("cut", "refused", "failed")


def test_a_stream_that_stalls_is_ended_by_the_idle_timeout(fake: FakeProvider) -> None:
    settings = {
        "backends": {"openai": {"dialect": "openai", "url": fake.url("openai")}},
        "models": {"gpt-4o": {"targets": [[{"backend": "openai"}]]}},
        "timeouts": {"idle": "1s"},
    }
    fake.reset()
    with RunningGateway(settings) as impatient:
        answer = call(impatient, {"stall_after": 3, "text": TEXT})
        assert (answer.status, answer.whole) == (200, False)
        record = only_record(impatient, answer)
        assert (record["ending"], record["usage"]["source"]) == ("cut", "estimated")
        until(lambda: fake.totals("openai")["open"] == 0, what="the provider's call to be ended")


# ---- usage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": "9", "completion_tokens": "4"},
        {"prompt_tokens": -5, "completion_tokens": -1},
        {"prompt_tokens": 1e300, "completion_tokens": 1.5},
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": [1], "completion_tokens": {"a": 1}},
        {"prompt_tokens": 10**30, "completion_tokens": 10**30},
        {"prompt_tokens_details": [1], "completion_tokens_details": "none"},
        {"prompt_tokens_details": {"cached_tokens": "all"}, "completion_tokens_details": {"reasoning_tokens": -3}},
    ],
    ids=range(8),
)
def test_nonsense_as_usage_is_not_booked(usage: Json, stream: bool, gateway: RunningGateway) -> None:
    """A record never holds less than nothing, nor what is no count."""
    answer = call(gateway, {"usage": usage, "text": TEXT}, stream=stream)
    assert (answer.status, answer.whole) == (200, True)
    booked = only_record(gateway, answer)["usage"]
    counts = {name: count for name, count in booked.items() if name != "source"}
    assert all(isinstance(count, int) and 0 <= count < 10**9 for count in counts.values())
    assert booked["source"] in ("reported", "estimated")


def test_usage_within_the_caller_s_own_text_is_not_booked(gateway: RunningGateway) -> None:
    """An answer that talks about usage, in a stream and whole."""
    text = '{"usage": {"prompt_tokens": 1000000, "completion_tokens": 1000000}} data: [DONE]'
    for stream in (True, False):
        answer = call(gateway, {"text": text}, stream=stream)
        usage = only_record(gateway, answer)["usage"]
        assert usage["source"] == "reported"
        assert usage["input"] + usage["output"] < 1000


# ---- what is not what was asked for --------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_page_in_place_of_an_answer_passes_as_it_is(stream: bool, gateway: RunningGateway) -> None:
    answer = call(gateway, {"html": True}, stream=stream)
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.body.startswith(b"<!doctype html>")
    assert only_record(gateway, answer)["usage"]["source"] == "estimated"


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_an_error_with_status_200_passes_as_it_is(stream: bool, path: str, gateway: RunningGateway) -> None:
    answer = call(gateway, {"error_in_200": True}, stream=stream, path=path)
    assert answer.status == 200
    assert answer.json()["error"]
    assert "usage" not in only_record(gateway, answer)


BODIES = ["", "null", "[]", "1", '"text"', "{", '{"choices":null}', '{"usage":1}', '{"usage":[]}', "\x00", "not json"]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "text/plain", "application/x-ndjson"])
def test_any_body_of_a_200_passes_byte_for_byte(kind: str, body: str, gateway: RunningGateway) -> None:
    fault = {"status": 200, "error_body": body, "error_content_type": kind}
    answer = call(gateway, fault, stream=kind == "text/event-stream")
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body == body.encode()
    assert only_record(gateway, answer)["usage"]["source"] in ("estimated", "reported")


@pytest.mark.parametrize("status", [201, 202, 206, 299, 300, 302, 307, 400, 403, 404, 418, 451, 499])
def test_any_status_passes(status: int, gateway: RunningGateway) -> None:
    """A redirect is not followed: it would lead past the gateway's list of backends."""
    answer = call(gateway, {"status": status, "error_body": '{"error":"x"}'}, stream=False)
    assert (answer.status, answer.body) == (status, b'{"error":"x"}')
    assert only_record(gateway, answer)["status"] == status


# ---- encodings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_answer_encoded_against_our_wish_passes_with_its_label(
    path: str, stream: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """It is not read, so it is counted by an estimate. Clients' own wishes for an encoding never reach a backend."""
    answer = call(gateway, {"gzip": True, "text": TEXT}, stream=stream, path=path)
    assert (answer.status, answer.whole, answer.headers["content-encoding"]) == (200, True, "gzip")
    assert b"three" in gzip.decompress(answer.body)
    assert only_record(gateway, answer)["usage"]["source"] == "estimated"
    (seen,) = [seen for name in ("openai", "anthropic") for seen in fake.calls(name)]
    assert [value for name, value in seen["headers"] if name == "accept-encoding"] == ["identity"]


def test_a_client_is_not_given_an_encoding_that_it_asked_for(gateway: RunningGateway, fake: FakeProvider) -> None:
    body = json.dumps({"model": "gpt-4o", "messages": SAY}).encode()
    with Connection(gateway.port) as connection:
        connection.send(request(CHAT, body, gateway.key, accept_encoding="gzip, br"))
        answer = connection.answer()
    assert "content-encoding" not in answer.headers
    assert answer.json()["choices"]


# ---- bytes that are no HTTP -----------------------------------------------------------------------------------


class Wire:
    """A backend of bytes: it reads one request per connection and sends what it is given, then closes."""

    def __init__(self) -> None:
        self.says = b""
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._answer(peer)

    def _answer(self, peer: socket.socket) -> None:
        peer.settimeout(5)
        received = b""
        try:
            while b"\r\n\r\n" not in received or not received.endswith(b"}"):
                data = peer.recv(65536)
                if not data:
                    return
                received += data
            self.asked += 1
            peer.sendall(self.says)
        except OSError:
            return


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    running = Wire()
    yield running
    running.close()


@pytest.fixture(scope="module")
def wired(wire: Wire, fake: FakeProvider) -> Iterator[RunningGateway]:
    """One model at the hostile backend alone, one with an honest one behind it."""
    settings = {
        "backends": {
            "wire": {"dialect": "openai", "url": wire.url},
            "openai": {"dialect": "openai", "url": fake.url("openai")},
        },
        "models": {
            "gpt-4o": {"targets": [[{"backend": "wire"}]]},
            "saved": {"targets": [[{"backend": "wire"}], [{"backend": "openai"}]]},
        },
        "timeouts": {"idle": "5s"},
    }
    with RunningGateway(settings) as running:
        yield running


def response(*lines: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b"")) + body


JSON_TYPE = b"content-type: application/json"
CANARY = b"canary-of-the-backend"
NO_ANSWERS = {
    "nothing": b"",
    "rubbish": CANARY * 10,
    "another protocol": b"SSH-2.0-OpenSSH_9.7 " + CANARY + b"\r\n",
    "head cut off": b"HTTP/1.1 200 OK\r\ncontent-type: appl",
    "bad status": b"HTTP/1.1 abc " + CANARY + b"\r\n\r\n",
    "two lengths": response(JSON_TYPE, b"content-length: 2", b"content-length: 3", body=CANARY),
    "negative length": response(JSON_TYPE, b"content-length: -1", body=CANARY),
    "huge head": response(JSON_TYPE, b"x-large: " + b"a" * 300_000, b"content-length: 2", body=b"{}"),
    "thousand headers": response(JSON_TYPE, *[b"x-%d: a" % number for number in range(1000)], b"content-length: 0"),
    "bad name": response(JSON_TYPE, b"x a: b", b"content-length: 2", body=b"{}"),
}


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_what_is_no_answer_is_a_503_in_our_words(case: str, wired: RunningGateway, wire: Wire) -> None:
    wire.says = NO_ANSWERS[case]
    answer = call(wired, {}, stream=False)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert CANARY not in answer.body
    assert only_record(wired, answer)["status"] == 503
    assert CANARY.decode() not in wired.log()


@pytest.mark.parametrize("case", NO_ANSWERS)
def test_another_backend_answers_in_its_place(case: str, wired: RunningGateway, wire: Wire) -> None:
    wire.says = NO_ANSWERS[case]
    answer = call(wired, {}, stream=False, model="saved")
    assert answer.status == 200
    record = only_record(wired, answer)
    assert (record["backend"], record["chain"]) == ("openai", ["wire", "openai"])


STREAM = b"content-type: text/event-stream"
CUT_ANSWERS = {
    "JSON cut off": response(JSON_TYPE, b"content-length: 100", body=b'{"id":"a",'),
    "large JSON cut off": response(JSON_TYPE, b"content-length: 9000000", body=b'{"id":"a",' + b" " * 1000),
    "chunk cut off": response(JSON_TYPE, b"transfer-encoding: chunked", body=b'64\r\n{"id":"a",'),
    "no last chunk": response(STREAM, b"transfer-encoding: chunked", body=b"a\r\ndata: {}\n\n\r\n"),
    "bad chunk size": response(STREAM, b"transfer-encoding: chunked", body=b"zz\r\ndata: {}\n\n\r\n"),
}


@pytest.mark.parametrize("case", CUT_ANSWERS)
def test_an_answer_that_breaks_off_is_never_made_to_look_whole(
    case: str, wired: RunningGateway, wire: Wire, fake: FakeProvider
) -> None:
    """Nor is it tried elsewhere: the client may have its start already."""
    fake.reset()
    wire.says = CUT_ANSWERS[case]
    answer = call(wired, {}, stream=STREAM in wire.says, model="saved")
    assert not answer.whole or answer.status >= 500
    assert only_record(wired, answer)["ending"] in ("cut", "refused", "failed")
    assert not fake.calls("openai")


def test_an_answer_without_length_ends_with_its_connection(wired: RunningGateway, wire: Wire) -> None:
    wire.says = response(JSON_TYPE, b"connection: close", body=b'{"id":"a","usage":{"prompt_tokens":3}}')
    answer = call(wired, {}, stream=False)
    assert (answer.status, answer.json()["id"]) == (200, "a")
    assert only_record(wired, answer)["usage"]["input"] == 3


FORWARDED_HEADERS = {
    "x-sluice-routed": b"x-sluice-routed: 1",
    "x-envoy-upstream-service-time": b"x-envoy-upstream-service-time: 7",
    "set-cookie": b"set-cookie: a=b",
    "alt-svc": b'alt-svc: h3=":443"',
}


@pytest.mark.parametrize("name", FORWARDED_HEADERS)
def test_a_header_that_is_not_the_backends_to_set_is_removed(name: str, wired: RunningGateway, wire: Wire) -> None:
    wire.says = response(JSON_TYPE, FORWARDED_HEADERS[name], b"content-length: 2", body=b"{}")
    assert name not in call(wired, {}, stream=False).headers


def test_a_backend_cannot_speak_to_the_sdk_as_the_gateway(wired: RunningGateway, wire: Wire) -> None:
    """An answer that looks like the sink's, or like a refusal of ours, is the backend's all the same."""
    wire.says = b"HTTP/1.1 421 Misdirected\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    answer = call(wired, {}, stream=False)
    assert (answer.status, answer.body) == (421, b"{}")
    assert only_record(wired, answer)["backend"] == "wire"


INTERIM = [
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 102 Processing\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
]


@pytest.mark.parametrize("interim", INTERIM, ids=["100", "102", "103"])
def test_interim_answers_are_passed_over(interim: bytes, wired: RunningGateway, wire: Wire) -> None:
    wire.says = interim + response(JSON_TYPE, b"content-length: 10", body=b'{"id":"a"}')
    answer = call(wired, {}, stream=False)
    assert answer.status in (200, 503)
    assert only_record(wired, answer)["status"] == answer.status


def test_two_answers_to_one_request_are_not_two_answers(wired: RunningGateway, wire: Wire) -> None:
    """The second would be the answer to the next caller's request (response splitting)."""
    one = response(JSON_TYPE, b"content-length: 10", body=b'{"id":"a"}')
    wire.says = one + one.replace(b'"a"', b'"b"')
    for _ in range(5):
        assert call(wired, {}, stream=False).json()["id"] == "a"
    assert wire.asked >= 5


@pytest.mark.parametrize("fault", [{"reset": 3}, {"error_event_after": 3}], ids=["cut", "error event"])
def test_the_sdk_is_told_of_a_stream_that_goes_wrong(fault: Json, gateway: RunningGateway) -> None:
    said: list[str] = []
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
        stream = client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "Hello!"}], stream=True, extra_body={"x_fake": fault}
        )
        with pytest.raises((openai.APIError, httpx.RemoteProtocolError)):
            said.extend(chunk.id for chunk in stream)
    assert said

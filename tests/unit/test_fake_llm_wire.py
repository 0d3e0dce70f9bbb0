"""The fake on the wire: faults, framing, what it records, and bytes that are no request."""

import base64
import gzip
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice, pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fake import FakeProvider, Json

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("one", "two") as started:
        yield started


@pytest.fixture
def fake(provider: FakeProvider) -> FakeProvider:
    provider.reset()
    return provider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fake.url("one"), trust_env=False, timeout=10) as made:
        yield made


def chat(client: httpx.Client, *, stream: bool = False, **faults: Any) -> httpx.Response:
    return client.post(CHAT, json={"model": "m", "messages": MESSAGES, "stream": stream, "x_fake": faults})


def request_bytes(body: Json, *, path: str = CHAT, headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: fake\r\nContent-Length: {len(content)}\r\n{headers}\r\n"
    return head.encode() + content


def connect(fake: FakeProvider, name: str = "one") -> socket.socket:
    return socket.create_connection(("127.0.0.1", fake.port(name)), timeout=10)


def read_all(peer: socket.socket, into: bytearray | None = None) -> bytes:
    """What comes until the peer closes; `into` keeps it when the end is an error."""
    received = bytearray() if into is None else into
    while data := peer.recv(65536):
        received += data
    return bytes(received)


def until(what: Callable[[], bool]) -> None:
    """Wait for something the fake learns by itself; the limit only ends a test that fails."""
    deadline = time.monotonic() + 10
    while not what():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


# ---- faults: instead of an answer ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "error"),
    [
        (CHAT, {"type": "requests", "param": None, "code": "rate_limit_exceeded"}),
        ("/openai" + CHAT, {"code": "rate_limit_exceeded"}),
        ("/v1/messages", {"type": "rate_limit_error"}),
    ],
)
def test_status_in_the_shape_of_the_surface(client: httpx.Client, path: str, error: Json) -> None:
    fault = {"status": 429, "retry_after": 2, "retry_after_ms": 1500}
    answer = client.post(path, json={"x_fake": fault})
    assert answer.status_code == 429
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "1500")
    given = answer.json()["error"]
    assert given.pop("message") == "The fake was asked to answer 429."
    if path == "/openai" + CHAT:
        error = {"code": "429"}
    assert given == error


def test_verbatim_error_html_and_an_error_with_status_200(client: httpx.Client) -> None:
    verbatim = chat(client, status=502, error_body="<b>bad</b>", error_content_type="text/html")
    assert (verbatim.status_code, verbatim.text) == (502, "<b>bad</b>")
    assert verbatim.headers["content-type"] == "text/html"
    page = chat(client, html=True)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    hidden = chat(client, stream=True, error_in_200=True)
    assert (hidden.status_code, hidden.json()["error"]["type"]) == (200, "server_error")


@pytest.mark.parametrize(
    "fault", [{"stauts": 500}, {"status": "often"}, {"reset": "after"}, {"status": 204}, {"chunk_bytes": 0}, 7]
)
def test_a_fault_that_is_not_understood_is_refused(client: httpx.Client, fault: object) -> None:
    answer = client.post(CHAT, json={"model": "m", "messages": MESSAGES, "x_fake": fault})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_x_fake")


def test_hang_lasts_until_the_peer_leaves(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(request_bytes({"x_fake": {"hang": True}}))
        until(lambda: fake.totals("one")["complete"] == 0 and fake.totals("one")["open"] == 1)
        peer.settimeout(0.1)
        with pytest.raises(TimeoutError):
            peer.recv(1)
    until(lambda: fake.totals("one")["disconnected"] == 1)
    (call,) = fake.calls("one")
    assert (call["status"], call["complete"], call["finished"]) == (None, True, False)


@pytest.mark.parametrize(
    ("fault", "stream", "events"),
    [({"reset": "before"}, True, 0), ({"reset": "head"}, True, 0), ({"reset": 4}, True, 4), ({"reset": 10}, False, 0)],
)
def test_reset_is_an_rst_after_exactly_so_much(fake: FakeProvider, fault: Json, stream: bool, events: int) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(request_bytes({"model": "m", "messages": MESSAGES, "stream": stream, "x_fake": fault}))
        received = bytearray()
        with pytest.raises(ConnectionResetError):
            read_all(peer, into=received)
    assert received.count(b"data: ") == events
    if fault in ({"reset": "before"}, {"reset": "head"}):
        assert bytes(received) == (b"" if fault == {"reset": "before"} else b"HTTP/1.1 200 OK\r\ncontent-type: applic")
    if fault == {"reset": 10}:
        assert received.endswith(b'\r\n\r\na\r\n{"id":"cha\r\n')
    (call,) = fake.calls("one")
    assert (call["events_sent"], call["finished"], call["disconnected"]) == (events, False, False)


def test_stall_sends_n_events_and_then_nothing(fake: FakeProvider, client: httpx.Client) -> None:
    body = {"model": "m", "messages": MESSAGES, "stream": True, "x_fake": {"stall_after": 3}}
    with client.stream("POST", CHAT, json=body, timeout=0.2) as answer:
        lines = answer.iter_lines()
        assert [line[:5] for line in islice(lines, 6)] == ["data:", "", "data:", "", "data:", ""]
        with pytest.raises(httpx.ReadTimeout):
            next(lines)
    until(lambda: fake.totals("one")["disconnected"] == 1)
    (call,) = fake.calls("one")
    # The first event carries the role, the other two a token each.
    assert (call["events_sent"], call["output_tokens"], call["finished"]) == (3, 2, False)


# ---- faults: how it is sent ------------------------------------------------------------------------


def stream_text(client: httpx.Client, **faults: Any) -> str:
    answer = chat(client, stream=True, **faults)
    assert answer.status_code == 200
    return answer.text


def without_ids(text: str) -> str:
    head, _, rest = text.partition("chatcmpl-")
    return text if not rest else head + without_ids(rest[len("one000000") :])


@pytest.fixture
def normal(client: httpx.Client) -> str:
    return without_ids(stream_text(client))


@pytest.mark.parametrize(
    "faults", [{"chunk_bytes": 1}, {"chunk_bytes": 7}, {"gzip": True}, {"gzip": True, "chunk_bytes": 3}]
)
def test_splits_and_compression_change_no_byte(client: httpx.Client, normal: str, faults: Json) -> None:
    assert without_ids(stream_text(client, **faults)) == normal


def test_gzip_of_a_whole_body(fake: FakeProvider) -> None:
    body = {"model": "m", "messages": MESSAGES, "x_fake": {"gzip": True, "content_length": True}}
    with closing(connect(fake)) as peer:
        peer.sendall(request_bytes(body, headers="Connection: close\r\n"))
        head, _, content = read_all(peer).partition(b"\r\n\r\n")
    assert b"content-encoding: gzip" in head
    assert b"content-length: %d" % len(content) in head
    assert json.loads(gzip.decompress(content))["object"] == "chat.completion"


def test_line_ends_and_comments(client: httpx.Client, normal: str) -> None:
    assert without_ids(stream_text(client, crlf=True)) == normal.replace("\n", "\r\n")
    assert without_ids(stream_text(client, comments=True)).replace(": keepalive\n\n", "") == normal


def test_malformed_event_and_missing_end(client: httpx.Client, normal: str) -> None:
    frames = without_ids(stream_text(client, malformed_sse=True)).split("\n\n")
    broken = frames.pop(3)
    assert "\n\n".join(frames) == normal
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken.removeprefix("data: "))
    assert without_ids(stream_text(client, done=False)) == normal.removesuffix("data: [DONE]\n\n")


def test_error_event_ends_the_stream(client: httpx.Client) -> None:
    frames = stream_text(client, error_event_after=2).removesuffix("\n\n").split("\n\n")
    assert len(frames) == 3
    assert json.loads(frames[-1].removeprefix("data: "))["error"]["code"] == "server_error"


def test_an_answer_has_a_length_only_when_asked(client: httpx.Client) -> None:
    assert chat(client).headers.get("transfer-encoding") == "chunked"
    assert "content-length" not in chat(client).headers
    assert int(chat(client, content_length=True).headers["content-length"]) == len(
        chat(client, content_length=True).content
    )
    assert "content-length" in chat(client, status=500).headers


def test_pad_bytes_events_text_and_tool_calls(client: httpx.Client) -> None:
    padded = chat(client, pad_bytes=70_000)
    assert len(padded.content) >= 70_000
    assert padded.json()["choices"]
    long = chat(client, events=500).json()
    assert long["usage"]["completion_tokens"] == 500
    assert chat(client, text="Exactly this.").json()["choices"][0]["message"]["content"] == "Exactly this."
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": '{"b":'}]
    message = chat(client, tool_calls=calls).json()["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ['{"a":1}', '{"b":']


@pytest.mark.parametrize(
    ("usage", "figures"),
    [("none", []), ("double", [16, 16]), ("decreasing", [16, 8]), ({"completion_tokens": 5}, [5])],
)
def test_usage_faults_change_what_is_reported_and_not_what_is_recorded(
    fake: FakeProvider, client: httpx.Client, usage: object, figures: list[int]
) -> None:
    body = {
        "model": "m",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "x_fake": {"usage": usage},
    }
    frames = client.post(CHAT, json=body).text.split("\n\n")[:-2]
    reported = [json.loads(frame.removeprefix("data: "))["usage"] for frame in frames]
    assert [one["completion_tokens"] for one in reported if one] == figures
    assert fake.calls("one")[-1]["output_tokens"] == 16


# ---- where faults come from ------------------------------------------------------------------------


def test_the_script_comes_before_the_header_and_the_header_before_the_body(
    fake: FakeProvider, client: httpx.Client
) -> None:
    fake.script("one", [{"status": 500}, {}])
    body = {"model": "m", "messages": MESSAGES, "x_fake": {"status": 502}}
    headers = {"x-fake": '{"status":501}'}
    statuses = [client.post(CHAT, json=body, headers=headers).status_code for _ in range(3)]
    assert statuses == [500, 200, 501]
    assert client.post(CHAT, json=body).status_code == 502


def test_a_script_is_of_one_instance_and_can_be_dropped(fake: FakeProvider, client: httpx.Client) -> None:
    fake.script("two", [{"status": 500}])
    assert chat(client).status_code == 200
    fake.script("one", [{"status": 500}])
    fake.unscript("one")
    assert chat(client).status_code == 200
    refused = client.post("/_fake/script", json=[{}, {"nonsense": 1}])
    assert refused.status_code == 400
    assert chat(client).status_code == 200


def test_latency_and_pace_of_the_command_line_hold_unless_a_call_asks_otherwise() -> None:
    with (
        FakeProvider(options=("--latency-ms", "60000", "--tokens-per-second", "0.001")) as slow,
        httpx.Client(base_url=slow.url(), trust_env=False, timeout=10) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json={"model": "m", "messages": MESSAGES}, timeout=0.2)
        assert chat(client, delay_ms=0).status_code == 200
        assert chat(client, stream=True, delay_ms=0, tokens_per_second=10_000).text.endswith("[DONE]\n\n")


# ---- what is recorded ------------------------------------------------------------------------------


def test_a_call_is_recorded_as_it_came(fake: FakeProvider) -> None:
    body = {"model": "m", "messages": MESSAGES}
    before = time.monotonic()
    with closing(connect(fake)) as peer:
        peer.sendall(
            request_bytes(body, path=CHAT + "?a=1&b", headers="X-Twice: 1\r\nx-twice: 2\r\nConnection: close\r\n")
        )
        read_all(peer)
    (call,) = fake.calls("one")
    content = json.dumps(body).encode()
    assert before < call["began"] < time.monotonic()
    assert (call["n"], call["method"], call["path"], call["query"]) == (1, "POST", CHAT, "a=1&b")
    assert call["headers"] == [
        ["host", "fake"],
        ["content-length", str(len(content))],
        ["x-twice", "1"],
        ["x-twice", "2"],
        ["connection", "close"],
    ]
    assert base64.b64decode(call["body_base64"]) == content
    assert (call["body_bytes"], call["body_sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (call["complete"], call["status"], call["finished"], call["malformed"]) == (True, 200, True, False)
    assert fake.calls("two") == []


def test_totals_add_up_and_are_reset(fake: FakeProvider, client: httpx.Client) -> None:
    chat(client)
    chat(client, stream=True)
    chat(client, status=503)
    totals = fake.totals("one")
    assert totals == {
        "calls": 3,
        "finished": 3,
        "disconnected": 0,
        "malformed": 0,
        "complete": 3,
        "input_tokens": 2,
        "output_tokens": 32,
        "events_sent": 1 + 16 + 1 + 1,
        "open": 0,
        "most_open": 1,
        "by_status": {"200": 2, "503": 1},
        "by_model": {"m": {"calls": 2, "input_tokens": 2, "output_tokens": 32}},
    }
    fake.reset()
    assert fake.totals("one")["calls"] == 0
    chat(client)
    assert [call["n"] for call in fake.calls("one")] == [1]


@pytest.mark.parametrize(("options", "kept"), [((), 0), (("--keep-bodies",), 200_000)])
def test_a_large_body_is_kept_only_on_demand(options: tuple[str, ...], kept: int) -> None:
    with FakeProvider(options=options) as fake:
        large = b"x" * 200_000
        httpx.post(fake.url() + CHAT, content=large, trust_env=False)
        (call,) = fake.calls()
    assert (call["body_bytes"], call["body_sha256"]) == (200_000, hashlib.sha256(large).hexdigest())
    assert len(base64.b64decode(call["body_base64"])) == kept


def test_a_peer_that_leaves_a_stream_is_charged_for_what_was_sent(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        body = {"model": "m", "messages": MESSAGES, "stream": True, "x_fake": {"events": 50_000}}
        peer.sendall(request_bytes(body))
        peer.recv(1000)
        # It stops reading without leaving: buffers fill and the fake waits, at an early event.
        until(lambda: _stands_still(fake))
    until(lambda: fake.totals("one")["disconnected"] == 1)
    (call,) = fake.calls("one")
    assert not call["finished"]
    assert 0 < call["output_tokens"] == call["events_sent"] - 1 < 50_000


def _stands_still(fake: FakeProvider) -> bool:
    before = fake.calls("one")[0]["events_sent"]
    time.sleep(0.05)
    return bool(before) and before == fake.calls("one")[0]["events_sent"]


# ---- requests on the wire ---------------------------------------------------------------------------

_PIPELINE = [
    request_bytes({"model": "m", "messages": MESSAGES, "x_fake": {"delay_ms": 20}}),
    request_bytes({"model": "m", "messages": MESSAGES, "stream": True}),
    b"GET /v1/models HTTP/1.1\r\nHost: fake\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: fake\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'1d\r\n{"model":"m","input":"hello"}\r\n0\r\n\r\n',
    request_bytes({"model": "m", "messages": MESSAGES, "x_fake": {"status": 429}}, headers="Connection: close\r\n"),
]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(1, sum(map(len, _PIPELINE))), max_size=12))
def test_pipelined_requests_cut_anywhere_are_answered_in_order(provider: FakeProvider, cuts: list[int]) -> None:
    provider.reset()
    sent = b"".join(_PIPELINE)
    places = [0, *sorted(cuts), len(sent)]
    with closing(connect(provider)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in pairwise(places):
            peer.sendall(sent[start:end])
        received = read_all(peer)
    order = [received.find(mark) for mark in (b'"chat.completion"', b"[DONE]", b'"owned_by"', b'"embedding"', b" 429 ")]
    assert -1 not in order
    assert order == sorted(order)
    calls = provider.calls("one")
    assert [call["status"] for call in calls] == [200, 200, 200, 200, 429]
    assert all(call["complete"] and call["finished"] and not call["malformed"] for call in calls)
    assert len({call["connection"] for call in calls}) == 1


def test_byte_by_byte_on_a_kept_connection(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"".join(_PIPELINE):
            peer.sendall(bytes([byte]))
        read_all(peer)
    assert [call["status"] for call in fake.calls("one")] == [200, 200, 200, 200, 429]


@pytest.mark.parametrize(
    "offending",
    [
        b'"}POST /v1/chat/completions HTTP/1.1\r\n\r\n',
        b"\0\0\0",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_bytes_that_are_no_request_are_recorded_and_the_connection_closed(fake: FakeProvider, offending: bytes) -> None:
    good = request_bytes({"model": "m", "messages": MESSAGES})
    with closing(connect(fake)) as peer:
        peer.sendall(good)
        peer.recv(65536)
        peer.sendall(offending)
        rest = read_all(peer)
    assert b"HTTP/1.1" not in rest
    first, second = fake.calls("one")
    assert (first["malformed"], first["finished"]) == (False, True)
    assert (second["malformed"], second["connection"]) == (True, first["connection"])
    assert base64.b64decode(second["body_base64"]) == offending
    assert fake.totals("one")["malformed"] == 1


def test_trailing_garbage_does_not_harm_the_request_before_it(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(request_bytes({"model": "m", "messages": MESSAGES}) + b"garbage\r\n\r\n")
        received = read_all(peer)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"0\r\n\r\n")
    assert sorted((call["malformed"], call["finished"]) for call in fake.calls("one")) == [(False, True), (True, False)]


@pytest.mark.parametrize(
    ("left_at", "malformed"), [(b"POST /v1/chat/comp", True), (request_bytes({"model": "m"})[:-3], False)]
)
def test_a_request_that_breaks_off(fake: FakeProvider, left_at: bytes, malformed: bool) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(left_at)
    until(lambda: fake.totals("one")["calls"] == 1 and fake.totals("one")["open"] == 0)
    (call,) = fake.calls("one")
    assert (call["malformed"], call["complete"], call["status"]) == (malformed, False, None)
    assert call["disconnected"] is not malformed


def test_a_websocket_upgrade_is_answered_as_a_plain_request(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(b"GET /v1/responses HTTP/1.1\r\nHost: fake\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert read_all(peer).startswith(b"HTTP/1.1 405 ")
    assert fake.totals("one")["malformed"] == 0


def test_a_head_request_gets_no_body(fake: FakeProvider) -> None:
    with closing(connect(fake)) as peer:
        peer.sendall(b"HEAD /v1/models HTTP/1.1\r\nHost: fake\r\nConnection: close\r\n\r\n")
        assert read_all(peer).endswith(b"\r\n\r\n")


# ---- the process -----------------------------------------------------------------------------------


def test_help_shows_examples() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "loadtest.fake_llm", "--help"], capture_output=True, text=True, check=True
    )
    assert "examples:" in shown.stdout
    assert "--listen NAME=PORT" in shown.stdout


def test_sigterm_ends_it_quietly_in_the_middle_of_a_call() -> None:
    with FakeProvider("one") as fake, closing(connect(fake)) as peer:
        peer.sendall(request_bytes({"x_fake": {"hang": True}}))
        until(lambda: fake.totals("one")["open"] == 1)
        assert fake.stop() == 0


def test_a_taken_port_is_one_sentence(fake: FakeProvider) -> None:
    port = str(fake.port("one"))
    ended = subprocess.run(
        [sys.executable, "-m", "loadtest.fake_llm", "--port", port],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"cannot listen on 127.0.0.1:{port} (fake): ")
    assert ended.stderr.count("\n") == 1

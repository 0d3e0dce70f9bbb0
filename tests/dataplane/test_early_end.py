"""Answers that the policy ends before the backend does, and the headers that it sets on answers.

The policy is scripted by each call; what is tested is the product's codec and adapter, and what Envoy makes of them.
"""

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from extproc.call import BodyMode
from tests.support.duplex import DuplexGateway, Hose
from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.raw_http import Answer, Connection, request

Json = dict[str, Any]

HEALTHY = "cluster.extproc.membership_healthy"
CHAT = "/v1/chat/completions"
FAREWELL = 'data: {"over":true}\n\ndata: [DONE]\n\n'
SETTINGS: Json = {
    "limits": {"json_request": "1MiB", "json_answer": "1MiB"},
    "timeouts": {"policy": "1s", "idle": "3s", "drain": "20s"},
}


@pytest.fixture(scope="module")
def provider() -> Iterator[FakeProvider]:
    with FakeProvider("openai") as running:
        yield running


@pytest.fixture(scope="module")
def shared(provider: FakeProvider) -> Iterator[DuplexGateway]:
    with DuplexGateway(provider.port("openai"), SETTINGS) as running:
        yield running


@pytest.fixture
def gateway(shared: DuplexGateway, provider: FakeProvider) -> DuplexGateway:
    provider.reset()
    return shared


def chat(policy: Json, stream: bool = True, **fault: Any) -> bytes:
    fields = {"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "Count."}]}
    return request(CHAT, json.dumps({**fields, "x_policy": policy, "x_fake": fault}).encode(), None)


def call(gateway: DuplexGateway, policy: Json, stream: bool = True, **fault: Any) -> Answer:
    with Connection(gateway.port) as connection:
        connection.send(chat(policy, stream, **fault))
        return connection.answer()


def _same(body: bytes) -> bytes:
    """Without what the provider gives each answer of its own."""
    return re.sub(rb'"chatcmpl-[^"]*"|"created":\s*\d+', b"", body)


# ---- duplex ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"text": "one two three"}, {"text": "word " * 60_000}, {"chunk_bytes": 1}])
def test_what_is_not_ended_early_passes_as_it_came(fault: Json, gateway: DuplexGateway) -> None:
    plain, duplex = (call(gateway, {"mode": mode}, **fault) for mode in ("NONE", "DUPLEX"))
    assert (duplex.status, duplex.whole) == (200, True)
    assert duplex.body.endswith(b"data: [DONE]\n\n")
    assert _same(duplex.body) == _same(plain.body)


@pytest.fixture
def unharmed(gateway: DuplexGateway) -> Iterator[None]:
    """Envoy found nothing wrong with what it was sent, and lives."""
    told = [f"http.gateway.ext_proc.{name}" for name in ("spurious_msgs_received", "streams_failed")]
    before = [gateway.stat(name) for name in told]
    yield
    assert gateway.envoy.is_running()
    assert [gateway.stat(name) for name in told] == before


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("speed", [20, 0], ids=["slow", "fast"])
def test_the_client_reads_a_clean_end_and_the_backend_is_told_to_stop(
    speed: int, gateway: DuplexGateway, provider: FakeProvider
) -> None:
    fault: Json = {"events": 50_000} | ({"tokens_per_second": speed} if speed else {})
    answer = call(gateway, {"events": 3, "farewell": FAREWELL}, **fault)
    assert (answer.status, answer.whole) == (200, True)
    assert answer.body.endswith(FAREWELL.encode())
    until(lambda: provider.totals("openai")["disconnected"] == 1, 2, "the provider's call to end")
    assert provider.totals("openai")["open"] == 0
    assert call(gateway, {}, text="Hello").whole


@pytest.mark.usefixtures("unharmed")
def test_a_large_farewell_arrives_whole(gateway: DuplexGateway) -> None:
    farewell = ": " + "x" * 300_000 + "\n\n"
    answer = call(gateway, {"events": 1, "farewell": farewell}, events=50, tokens_per_second=20)
    assert answer.whole
    assert answer.body.endswith(farewell.encode())


@pytest.mark.usefixtures("unharmed")
def test_a_connection_serves_on_after_an_early_end(gateway: DuplexGateway, provider: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        for _ in range(3):
            connection.send(chat({"events": 2, "farewell": FAREWELL}, events=100, tokens_per_second=50))
            assert connection.answer().body.endswith(FAREWELL.encode())
    until(lambda: provider.totals("openai")["disconnected"] == 3, 2, "the provider's calls to end")


def test_a_client_may_leave(gateway: DuplexGateway, provider: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        connection.send(chat({}, events=1000, tokens_per_second=50))
        next(connection.pieces())
    until(lambda: provider.totals("openai")["disconnected"] == 1, 2, "the provider's call to end")
    until(lambda: gateway.stat("cluster.extproc.upstream_rq_active") <= 2, 5, "the policy's stream to end")


def test_an_answer_that_breaks_off_is_no_clean_end(gateway: DuplexGateway) -> None:
    answer = call(gateway, {}, text="word " * 50, reset=20)
    assert answer.status == 200
    assert answer.body
    assert not answer.whole


def test_a_worker_that_is_killed_takes_its_answers_with_it(gateway: DuplexGateway, provider: FakeProvider) -> None:
    """There is no timeout in duplex: the broken connection must do it."""
    try:
        with Connection(gateway.port) as connection:
            connection.send(chat({}, events=1000, tokens_per_second=50))
            read = connection.pieces()
            last = next(read)
            gateway.worker.kill()
            gateway.worker.wait()
            killed = time.monotonic()
            last = [last, *read][-1]
        assert not last.whole
        assert time.monotonic() - killed < 5
        until(lambda: provider.totals("openai")["disconnected"] == 1, 2, "the provider's call to end")
    finally:
        gateway.start_worker()
        until(lambda: gateway.stat(HEALTHY) == 1, 30, "the next worker")
    assert call(gateway, {}, text="Hello").whole


def test_a_worker_that_hangs_holds_its_answers_no_longer_than_silence_may_last(
    gateway: DuplexGateway, provider: FakeProvider
) -> None:
    """Envoy stops reading the backend when enough waits for the worker; from then on there is silence."""
    try:
        with Connection(gateway.port) as connection:
            connection.send(chat({}, events=200_000))
            read = connection.pieces()
            last = next(read)
            gateway.worker.suspend()
            last = [last, *read][-1]
        assert not last.whole
        until(lambda: provider.totals("openai")["disconnected"] == 1, 2, "the provider's call to end")
    finally:
        gateway.worker.resume()
        until(lambda: gateway.stat(HEALTHY) == 1, 30, "the worker")
    assert call(gateway, {}, text="Hello").whole


# ---- headers ---------------------------------------------------------------------------------------------

SET = {
    "x-ratelimit-limit-requests": "100",
    "x-ratelimit-remaining-requests": "99",
    "x-ratelimit-reset-requests": "1m2.5s",
    "x-budget-remaining": "USD 1.50",
}
OF_THE_PROVIDER = {
    "x-ratelimit-limit-requests": "7",
    "X-RateLimit-Remaining-Project-Tokens": "7",
    "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z",
    "anthropic-priority-input-tokens-remaining": "7",
    "anthropic-fast-input-tokens-remaining": "7",
    "x-ratelimitbysize-remaining-minute": "7",
    "x-rate-limit-remaining": "7",
    "ratelimit-reset": "7",
    "Rate-Limit-Reset": "7",
    "RateLimit": '"default";r=7;t=7',
    **{f"x-ratelimit-remaining-{number}": "7" for number in range(60)},
}
KEPT = {"retry-after": "7", "x-ratelimit": "7", "openai-processing-ms": "7"}
ANSWERS = {
    "json": (200, "application/json", b'{"a":1}'),
    "events": (200, "text/event-stream", b'data: {"a":1}\n\ndata: [DONE]\n\n'),
    "refused by the backend": (400, "application/json", b'{"error":{}}'),
    "failed at the backend": (500, "application/json", b'{"error":{}}'),
    "empty": (200, "application/json", b""),
}


class _Answering(BaseHTTPRequestHandler):
    """A provider that answers as the body of the call says."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        status, kind, body = ANSWERS[json.loads(self.rfile.read(int(self.headers["content-length"])))["answer"]]
        self.send_response(status)
        for name, value in {"content-type": kind, **OF_THE_PROVIDER, **KEPT}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None: ...


@pytest.fixture(scope="module")
def answering() -> Iterator[DuplexGateway]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with DuplexGateway(server.server_port, SETTINGS) as running:
            yield running
        server.shutdown()


def ask(gateway: DuplexGateway, answer: str, policy: Json) -> Answer:
    with Connection(gateway.port) as connection:
        connection.send(request(CHAT, json.dumps({"answer": answer, "x_policy": policy}).encode(), None))
        return connection.answer()


@pytest.mark.parametrize("mode", [mode.name for mode in BodyMode])
@pytest.mark.parametrize("kind", ANSWERS)
def test_headers_take_the_place_of_the_providers(kind: str, mode: str, answering: DuplexGateway) -> None:
    answer = ask(answering, kind, {"mode": mode, "headers": SET})
    status, content_type, body = ANSWERS[kind]
    assert (answer.status, answer.headers["content-type"], answer.body) == (status, content_type, body)
    assert of_limits(answer) == SET | {"x-ratelimit": "7"}
    assert KEPT.items() <= answer.headers.items()


def of_limits(answer: Answer) -> dict[str, str]:
    others = {"date", "server", "content-type", "content-length", "x-request-id", "retry-after", "openai-processing-ms"}
    return {name: value for name, value in answer.headers.items() if name not in others}


@pytest.mark.parametrize("kind", ANSWERS)
def test_under_limits_that_tell_nothing_the_providers_are_told_to_nobody(kind: str, answering: DuplexGateway) -> None:
    answer = ask(answering, kind, {"mode": "NONE", "limited": True})
    assert of_limits(answer) == {"x-ratelimit": "7"}
    assert KEPT.items() <= answer.headers.items()


def test_without_limits_of_ours_the_providers_pass(answering: DuplexGateway) -> None:
    assert len(of_limits(ask(answering, "json", {"mode": "NONE"}))) > 60


def test_a_refusal_in_place_of_an_answer_has_its_own_headers_only(answering: DuplexGateway) -> None:
    answer = ask(answering, "json", {"refuse": 429, "headers": SET})
    assert (answer.status, answer.body) == (429, b'{"ours":true}')
    assert of_limits(answer) == SET


# ---- slow readers ----------------------------------------------------------------------------------------

READERS = int(os.environ.get("SLUICE_READERS", "100"))  # 500 in `make deep-budget`: they want 2 GB and two idle cores
LARGE = 64 << 20  # bytes of each answer: more than the sockets on its way can hold
BUFFER = (1 << 20) + 1024  # bytes that Envoy may hold for one connection, by the configuration
MARGIN = 4 << 20  # for each reader beside that: what is on its way to the worker and back, and what is left empty


async def test_what_slow_readers_leave_lying_is_bounded() -> None:
    """All stop reading, and the provider sends as fast as it can: what does not fit must wait with the provider."""
    hose = Hose(LARGE)
    async with hose.serving(), AsyncExitStack() as stack:
        settings: Json = {"limits": {"json_answer": "1KiB"}, "timeouts": {"policy": "30s"}}
        gateway = DuplexGateway(hose.port, settings)
        await asyncio.to_thread(gateway.__enter__)
        stack.callback(gateway.__exit__, None, None, None)
        before = _resident(gateway)
        for _ in range(READERS):
            stack.callback((await _begin(gateway)).close)
        hose.tap.set()
        await _still(hose)
        grown = [now - then for now, then in zip(_resident(gateway), before, strict=True)]
        assert (hose.open, hose.torn) == (READERS, 0), "each answer waits, none was cut"
        assert hose.sent < READERS * LARGE
        assert grown[0] < READERS * (BUFFER + MARGIN)
        assert grown[1] < READERS * MARGIN


def _resident(gateway: DuplexGateway) -> tuple[int, int]:
    """Bytes of Envoy and of the worker."""
    return gateway.envoy.memory_info().rss, gateway.worker.memory_info().rss


async def _begin(gateway: DuplexGateway) -> socket.socket:
    """Ask for an answer, and read no more than its beginning."""
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(reader, ("127.0.0.1", gateway.port))
    await loop.sock_sendall(reader, chat({}))
    assert await loop.sock_recv(reader, 15) == b"HTTP/1.1 200 OK"
    return reader


async def _still(hose: Hose) -> None:
    """Wait until nothing flows any more."""
    sent = -1
    async with asyncio.timeout(120):
        while hose.sent != sent:
            sent = hose.sent
            await asyncio.sleep(2)

"""HTTP at the edge: ambiguous framing, path tricks, spoofed headers, odd methods, slow and huge heads.

Each is refused or made harmless before a backend sees a byte, and the next request on a connection is the next
request. What Envoy refuses by itself has OpenAI's error shape, for it cannot know the surface.
"""

import json
import select
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset

from extproc.contract import CREDENTIAL_HEADERS
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway
from tests.support.raw_http import Answer, Connection, chunk, head, request

Json = dict[str, Any]

CHAT = "/v1/chat/completions"
BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}]}).encode()
SIZED = {"content-type": "application/json", "content-length": str(len(BODY))}
CHUNKED = {"content-type": "application/json", "transfer-encoding": "chunked"}
BACKENDS = ("openai", "azure", "azure-v1", "anthropic")


@pytest.fixture(autouse=True)
def steady(gateway: RunningGateway, fake: FakeProvider) -> Iterator[None]:
    """Worker and Envoy live on, and no backend ever saw bytes that are no request."""
    before = [child.pid for child in gateway.processes("")]
    yield
    assert [child.pid for child in gateway.processes("")] == before
    assert not any(call["malformed"] for name in BACKENDS for call in fake.calls(name))


def send(gateway: RunningGateway, data: bytes, patience: float = 30.0) -> Answer:
    with Connection(gateway.port, patience) as connection:
        connection.try_send(data)
        return connection.answer()


def seen(fake: FakeProvider) -> list[Json]:
    return [call for name in BACKENDS for call in fake.calls(name)]


def post(gateway: RunningGateway, headers: Mapping[str, str] | list[tuple[str, str]], path: str = CHAT) -> bytes:
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    return head("POST", path, [*SIZED.items(), *pairs], gateway.key) + BODY


# ---- framing: where a request ends ------------------------------------------------------------------------

SMUGGLED = b"GET /v1/models HTTP/1.1\r\nhost: smuggled\r\n\r\n"
LENGTH = str(len(BODY)).encode()


def opening(*lines: bytes) -> bytes:
    return b"\r\n".join((b"POST " + CHAT.encode() + b" HTTP/1.1", b"host: localhost", *lines, b"", b""))


KIND = b"content-type: application/json"
FRAMINGS = {
    "CL and TE": opening(KIND, b"content-length: " + LENGTH, b"transfer-encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "TE and CL": opening(KIND, b"transfer-encoding: chunked", b"content-length: 4") + chunk(BODY) + chunk(b""),
    "two lengths": opening(KIND, b"content-length: " + LENGTH, b"content-length: 5") + BODY,
    "list of lengths": opening(KIND, b"content-length: " + LENGTH + b", 5") + BODY,
    "negative length": opening(KIND, b"content-length: -1") + BODY,
    "length with a sign": opening(KIND, b"content-length: +" + LENGTH) + BODY,
    "length in hex": opening(KIND, b"content-length: 0x10") + BODY,
    "huge length": opening(KIND, b"content-length: " + b"9" * 40) + BODY,
    "empty length": opening(KIND, b"content-length:") + BODY,
    "chunked, identity": opening(KIND, b"transfer-encoding: chunked, identity") + chunk(BODY) + chunk(b""),
    "identity": opening(KIND, b"transfer-encoding: identity") + BODY,
    "xchunked": opening(KIND, b"transfer-encoding: xchunked") + chunk(BODY) + chunk(b""),
    "chunked twice": opening(KIND, b"transfer-encoding: chunked", b"transfer-encoding: chunked")
    + chunk(BODY)
    + chunk(b""),
    "gzip, chunked": opening(KIND, b"transfer-encoding: gzip, chunked") + chunk(BODY) + chunk(b""),
    "TE with a tab": opening(KIND, b"transfer-encoding:\tchunked", b"content-length: 5") + chunk(BODY) + chunk(b""),
    "space before the colon": opening(KIND, b"content-length : " + LENGTH) + BODY,
    "space before TE's colon": opening(KIND, b"transfer-encoding : chunked", b"content-length: " + LENGTH) + BODY,
    "bad chunk size": opening(KIND, b"transfer-encoding: chunked") + b"zz\r\n" + BODY,
    "negative chunk size": opening(KIND, b"transfer-encoding: chunked") + b"-1\r\n" + BODY,
    "chunk size too large": opening(KIND, b"transfer-encoding: chunked") + b"f" * 17 + b"\r\n" + BODY,
    "no host": b"POST " + CHAT.encode() + b" HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "HTTP/0.9": b"GET /v1/models\r\n\r\n",
    "HTTP/3.7": b"GET /v1/models HTTP/3.7\r\nhost: a\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + b"\0" * 40,
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("case", FRAMINGS)
def test_a_request_whose_end_is_unclear_is_refused_and_the_connection_closed(
    case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """Not one of them gets as far as a missing key would: they carry none, and are a 400 all the same."""
    with Connection(gateway.port) as connection:
        connection.send(FRAMINGS[case])
        received = connection.rest()
    assert received.count(b"HTTP/1.1 ") <= 1
    assert not received or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 426 ", b"HTTP/1.1 501 ", b"HTTP/1.0 426"))
    assert b"smuggled" not in received
    assert not seen(fake)


@pytest.mark.parametrize("case", ["CL and TE", "TE and CL", "two lengths", "bad chunk size", "chunked, identity"])
def test_with_a_key_it_is_no_better(case: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    key = f"authorization: Bearer {gateway.key}\r\n".encode()
    data = FRAMINGS[case].replace(b"host: localhost\r\n", b"host: localhost\r\n" + key)
    with Connection(gateway.port) as connection:
        connection.send(data)
        received = connection.rest()
    assert not received or received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert received.count(b"HTTP/1.1 ") <= 1
    assert not seen(fake)


def test_what_envoy_forgives_a_backend_never_sees(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Two hosts, folded lines, rubbish behind a chunk: Envoy writes each request anew, framed by what was decided."""
    folded = post(gateway, {"x-client-request-id": "PLACE"}).replace(b"PLACE", b"a\r\n b")
    rubbish = head("POST", CHAT, CHUNKED, gateway.key) + b"%x\r\n%brubbish\r\n0\r\n\r\n" % (len(BODY), BODY)
    for data in (post(gateway, {"host": "other.example"}), folded, rubbish):
        assert send(gateway, data).status in (200, 400)
    for call in seen(fake):
        assert call["body_bytes"] == len(BODY)
        assert [value for name, value in call["headers"] if name == "host"] == [
            fake.url("openai").removeprefix("http://")
        ]
        assert not [pair for pair in call["headers"] if set(pair[1]) & set("\r\n")]


def test_what_follows_a_request_is_the_next_request(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Pipelined, in one packet: two whole calls, in order, no byte of one in the other."""
    with Connection(gateway.port) as connection:
        connection.send(request(CHAT, BODY, gateway.key))
        connection.send(head("GET", "/v1/models", {"connection": "close"}, gateway.key))
        received = connection.rest()
    first, second = received.split(b"HTTP/1.1 200 OK")[1:]
    assert b"Hello!" in first
    assert b'"object":"list"' in second
    assert [call["body_bytes"] for call in seen(fake)] == [len(BODY)]


def test_a_body_longer_than_told_is_the_next_request_and_no_part_of_this(
    gateway: RunningGateway, fake: FakeProvider
) -> None:
    with Connection(gateway.port) as connection:
        connection.send(request(CHAT, BODY, gateway.key) + b"trailing garbage\r\n\r\n")
        received = connection.rest()
    assert received.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in received
    assert [call["complete"] for call in seen(fake)] == [True]


def test_a_body_shorter_than_told_is_never_sent(gateway: RunningGateway, fake: FakeProvider) -> None:
    headers = {**SIZED, "content-length": str(len(BODY) + 10)}
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT, headers, gateway.key) + BODY)
        connection.half_close()
        assert connection.answer().status in (0, 400)
    assert not seen(fake)


def test_expect_100_is_answered_before_the_body(gateway: RunningGateway, fake: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT, {**SIZED, "expect": "100-continue"}, gateway.key))
        connection.send(BODY)
        assert connection.answer().status == 200
    assert len(seen(fake)) == 1


def test_a_wrong_key_with_expect_100_is_refused(gateway: RunningGateway, fake: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT, {**SIZED, "expect": "100-continue"}, "wrong"))
        assert connection.answer().status == 401
    assert not seen(fake)


# ---- paths ------------------------------------------------------------------------------------------------

# What is served, in other spellings of the same path: the decision is that of the normalised one.
SAME_PATHS = [
    "//v1/chat/completions",
    "/v1//chat/completions",
    "/v1/./chat/completions",
    "/x/../v1/chat/completions",
    "/v1/models/../chat/completions",
    "/v1/chat/completions?",
    "/v1/chat/completions?beta=true",
    "/v1/chat/completions?x=/../admin",
    "/%76%31/chat/completions",
    "http://elsewhere.example/v1/chat/completions",
]
OTHER_PATHS = [
    "/V1/Chat/Completions",
    "/v1/chat/completions/",
    "/v1/chat/completions;x=1",
    "/v1/chat/completions%20",
    "/v1/chat/completions.json",
    "/v1/chat%2520completions",
    "/v1/chat/completions%00",
    "/v1%252fchat/completions",
    "/v1/../admin",
    "/v1/../../etc/passwd",
    "/v1/%2e%2e/admin",
    "/v1/..;/admin",
    "/v1/unknown",
    "/",
    "/metrics",
    "/stats",
    "/config_dump",
    "/v1/files",
    "/v1/fine_tuning/jobs",
    "/_fake/calls",
    "/openai/deployments/gpt-4o-azure/extensions/chat/completions",
    "/openai/deployments/../chat/completions",
    "/v1/chat/completions/../../v1/admin",
    "*",
]
REJECTED_PATHS = [
    "/v1%2fchat/completions",
    "/v1%2Fchat%2Fcompletions",
    "/v1%5cchat%5ccompletions",
    "/v1/chat/completions#fragment",
    "/v1/chat/com\x7fpletions",
    "/v1/chat/\x00completions",
    "/v1/chat/complétions",
]


@pytest.mark.parametrize("path", SAME_PATHS)
def test_another_spelling_of_a_path_is_decided_as_the_path(
    path: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    unkeyed = head("POST", path, SIZED) + BODY
    assert send(gateway, unkeyed).status == 401
    assert not seen(fake)
    assert send(gateway, post(gateway, {}, path)).status == 200
    (call,) = seen(fake)
    assert call["path"] == CHAT


@pytest.mark.parametrize("path", OTHER_PATHS)
def test_a_path_that_is_not_served_is_404_for_everyone(path: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, post(gateway, {}, path))
    assert answer.status in (400, 404)
    if answer.status == 404:
        record = gateway.record(answer.request_id)
        assert (record["refusal"], record["status"]) == ("unknown_url", 404)
    assert answer.json()["error"]["code"] in ("unknown_url", "bad_request")
    assert not seen(fake)


@pytest.mark.parametrize("path", REJECTED_PATHS)
def test_a_path_with_two_readings_is_rejected(path: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, post(gateway, {}, path))
    assert answer.status in (400, 404)
    assert answer.json()["error"]["code"] in ("bad_request", "unknown_url")
    assert not seen(fake)


def test_backslashes_are_slashes_to_some(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Whatever the edge makes of them, the decision and the upstream path are one and the same."""
    for path in ("/v1\\chat\\completions", "\\v1/chat/completions", "/v1/models\\..\\chat/completions"):
        fake.reset()
        answer = send(gateway, post(gateway, {}, path))
        assert answer.status in (200, 400, 404)
        assert [call["path"] for call in seen(fake)] == ([CHAT] if answer.status == 200 else [])


DEPLOYMENTS = ["..", "%2e%2e", "gpt-4o-azure%2f..", "gpt-4o-azure?x=", "gpt-4o-azure%3fx", "gpt-4o-azure#", "%00"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_cannot_be_a_path(name: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    path = f"/openai/deployments/{name}/chat/completions?api-version=2024-10-21"
    assert send(gateway, post(gateway, {}, path)).status in (400, 404)
    assert not seen(fake)


@pytest.mark.parametrize("item", ["..", "a%2f..%2fb", "a/../../v1/files", "resp_1/cancel/../input_items", "a" * 500])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_id_cannot_be_a_path(method: str, item: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, head(method, f"/v1/responses/{item}", {}, gateway.key))
    assert answer.status in (400, 404, 405)
    assert not seen(fake)


# ---- headers ----------------------------------------------------------------------------------------------

INTERNAL = [
    "x-sluice-routed",
    "x-sluice-team",
    "x-sluice-order",
    "X-Sluice-Routed",
    "x-team-id",
    "x-user",
    "x-user-id",
    "x-route",
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-original-path",
    "x-envoy-decorator-operation",
    "x-envoy-internal",
    "x-envoy-force-trace",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-uri",
    "x-forwarded-user",
    "x-forwarded-client-cert",
    "x-original-url",
    "x-rewrite-url",
    "x-real-ip",
    "x-http-method-override",
    "x-portkey-custom-host",
    "x-api-base",
    "forwarded",
    "via",
    "proxy-authorization",
    "openai-organization",
    "openai-project",
    "cookie",
    "traceparent",
    "x-b3-traceid",
    "x-amzn-trace-id",
    "te",
]


@pytest.mark.parametrize("name", INTERNAL)
def test_no_header_that_is_ours_to_set_reaches_a_backend(
    name: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    """Neither in the client's spelling nor repeated, and it changes nothing of the call."""
    values = [(name, "canary-one"), (name.upper(), "canary-two")]
    answer = send(gateway, post(gateway, values))
    if answer.status == 400 and name == "te":  # HTTP/1.1 clients may send it for the next hop only
        return
    assert answer.status == 200
    (call,) = seen(fake)
    assert call["path"] == CHAT
    assert not [pair for pair in call["headers"] if "canary" in pair[1]]
    assert not [pair for pair in call["headers"] if pair[0].startswith(("x-sluice-", "x-envoy-", "x-forwarded-"))]


@pytest.mark.parametrize("name", ["x_sluice_routed", "X_Team_Id", "x-sluice_routed", "authorization_", "api_key"])
def test_a_name_with_an_underscore_is_refused(name: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    """Servers behind CGI-like interfaces cannot tell it from the one with a dash."""
    answer = send(gateway, post(gateway, {name: "canary"}))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "bad_request")
    assert not seen(fake)


def test_the_count_of_attempts_is_not_the_callers(gateway: RunningGateway, fake: FakeProvider) -> None:
    fake.script("openai", [{"status": 503}] * 5)
    answer = send(gateway, post(gateway, {"x-envoy-max-retries": "4", "x-envoy-retry-on": "5xx"}))
    assert answer.status == 503
    assert len(seen(fake)) == 1


@pytest.mark.parametrize("name", ["x-sluice-routed", "authorization", "x-request-id", "content-length", "host"])
def test_connection_cannot_take_away_a_header(name: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    """Hop-by-hop tricks: what `Connection` names would be dropped by a naive proxy behind the check."""
    answer = send(gateway, post(gateway, {"connection": f"close, {name}"}))
    assert answer.status in (200, 400, 401)  # 401: Envoy took the key away before the policy looked for it
    for call in seen(fake):
        named = dict(call["headers"])
        assert named["authorization"] == "Bearer secret-openai"
        assert named["content-length"] == str(len(BODY))
        assert named["x-request-id"] == answer.request_id


BAD_VALUES = {
    "bare CR": b"a\rb",
    "bare LF": b"a\nx-evil: 1",
    "NUL": b"a\x00b",
    "DEL": b"a\x7fb",
    "escape": b"a\x1b[31mb",
}


@pytest.mark.parametrize("case", BAD_VALUES)
@pytest.mark.parametrize("name", ["user-agent", "x-client-request-id", "idempotency-key", "anthropic-beta"])
def test_a_value_with_a_control_character_injects_nothing(
    name: str, case: str, gateway: RunningGateway, fake: FakeProvider
) -> None:
    data = post(gateway, {name: "PLACE"}).replace(b"PLACE", BAD_VALUES[case])
    answer = send(gateway, data)
    assert answer.status in (0, 200, 400)
    for call in seen(fake):
        assert not [pair for pair in call["headers"] if pair[0] == "x-evil" or set(pair[1]) & set("\r\n\0")]


@pytest.mark.parametrize("value", [b"\xff\xfe\xfd", "ключ".encode(), "é".encode("latin-1"), b"\xc0\xaf"])
@pytest.mark.parametrize(
    "name", ["user-agent", "x-client-request-id", "x-whatever", "content-type", "x-stainless-lang"]
)
def test_a_value_that_is_not_utf8_crashes_nothing(
    name: str, value: bytes, gateway: RunningGateway, fake: FakeProvider
) -> None:
    headers = {key: text for key, text in SIZED.items() if key != name}
    data = head("POST", CHAT, {**headers, name: "PLACE"}, gateway.key).replace(b"PLACE", value) + BODY
    answer = send(gateway, data)
    expected = 415 if name == "content-type" else 200
    assert answer.status == expected
    assert gateway.record(answer.request_id)["status"] == expected


def test_credentials_of_every_provider_stay_here(gateway: RunningGateway, fake: FakeProvider) -> None:
    foreign = [(name, "canary-credential") for name in CREDENTIAL_HEADERS if name != "authorization"]
    assert send(gateway, post(gateway, foreign)).status == 200
    (call,) = seen(fake)
    assert not [pair for pair in call["headers"] if "canary" in pair[1] or gateway.key in pair[1]]


# ---- sizes and times of a head -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [62_000, 100_000, 1_000_000])
@pytest.mark.parametrize("name", ["x-large", "cookie", "authorization"])
def test_a_head_that_is_too_large_is_431(name: str, size: int, gateway: RunningGateway, fake: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        connection.try_send(head("POST", CHAT, {**SIZED, name: "a" * size}) + BODY)
        answer = connection.answer()
    assert answer.status == 431
    assert answer.json()["error"]["code"] == "headers_too_large"
    assert not seen(fake)


def test_a_large_head_within_the_limit_is_served(gateway: RunningGateway) -> None:
    assert send(gateway, post(gateway, {"x-large": "a" * 50_000})).status == 200


@pytest.mark.parametrize("count", [101, 1000])
def test_too_many_headers_are_431(count: int, gateway: RunningGateway, fake: FakeProvider) -> None:
    answer = send(gateway, post(gateway, [(f"x-{number}", "a") for number in range(count)]))
    assert (answer.status, answer.json()["error"]["code"]) == (431, "headers_too_large")
    assert not seen(fake)


def test_a_long_path_is_refused(gateway: RunningGateway, fake: FakeProvider) -> None:
    assert send(gateway, post(gateway, {}, "/v1/" + "a" * 100_000)).status == 431
    assert send(gateway, post(gateway, {}, "/v1/" + "a" * 20_000)).status == 404
    assert not seen(fake)


def test_slow_heads_and_bodies_hold_nobody_up(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Fifty callers that never finish their heads or bodies, and one that does."""
    with_heads = [Connection(gateway.port) for _ in range(25)]
    with_bodies = [Connection(gateway.port) for _ in range(25)]
    try:
        for connection in with_heads:
            connection.send(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        for connection in with_bodies:
            connection.send(head("POST", CHAT, SIZED, gateway.key) + BODY[:5])
        for _ in range(5):
            for connection in with_heads:
                connection.send(b"a")
            assert send(gateway, post(gateway, {})).status == 200
        assert len(seen(fake)) == 5
        for connection in with_bodies:
            connection.send(BODY[5:])
        assert {connection.answer().status for connection in with_bodies} == {200}
    finally:
        for connection in with_heads + with_bodies:
            connection.close()


def test_a_head_that_never_ends_is_408(gateway: RunningGateway, fake: FakeProvider) -> None:
    with Connection(gateway.port) as connection:
        connection.send(b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\nx-slow: ")
        answer = connection.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (408, "request_timeout")
    assert not seen(fake)


# ---- methods ------------------------------------------------------------------------------------------------

METHODS = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "post", "FOO"]


@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_is_not_served_is_refused(
    method: str, keyed: bool, gateway: RunningGateway, fake: FakeProvider
) -> None:
    target = "localhost:443" if method == "CONNECT" else CHAT
    data = head(method, target, {}, gateway.key if keyed else None)
    with Connection(gateway.port) as connection:
        connection.send(data)
        status = status_of(connection)
    assert status in ((404, 405) if method in METHODS[:6] else (400, 403, 404, 405))
    assert not seen(fake)


def status_of(connection: Connection) -> int:
    """Of an answer that may have no body by its nature (HEAD)."""
    for answer in connection.progress():
        if answer.status:
            return answer.status
    return 0


@pytest.mark.parametrize("name", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_method_cannot_be_overridden(name: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    assert send(gateway, head("GET", CHAT, {name: "POST"}, gateway.key)).status == 405
    assert send(gateway, post(gateway, {name: "DELETE"})).status == 200
    assert [call["method"] for call in seen(fake)] == ["POST"]


@pytest.mark.parametrize("protocol", ["websocket", "h2c", "TLS/1.0", "foo/2"])
def test_an_upgrade_is_refused(protocol: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    headers = {"connection": "upgrade", "upgrade": protocol, "http2-settings": "AAMAAABkAAQCAAAAAAIAAAAA"}
    answer = send(gateway, head("GET", "/v1/responses", headers, gateway.key))
    assert answer.status in (400, 403, 405, 426)
    assert not seen(fake)


def test_an_upgrade_smuggles_no_body(gateway: RunningGateway, fake: FakeProvider) -> None:
    headers = {**SIZED, "connection": "upgrade", "upgrade": "h2c"}
    with Connection(gateway.port) as connection:
        connection.send(head("POST", CHAT, headers, gateway.key) + BODY + SMUGGLED)
        connection.half_close()
        received = connection.rest()
    assert b"101 Switching" not in received
    assert b"smuggled" not in received
    assert all(call["path"] == CHAT for call in seen(fake))


# ---- resets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [0, 10, len(BODY)])
def test_a_reset_right_after_the_data_is_no_bypass(sent: int, gateway: RunningGateway, fake: FakeProvider) -> None:
    """With a key that is none: whatever the race, no backend is called."""
    for _ in range(20):
        connection = Connection(gateway.port)
        connection.send(head("POST", CHAT, SIZED, "wrong") + BODY[:sent])
        connection.reset()
    assert send(gateway, post(gateway, {})).status == 200
    assert len(seen(fake)) == 1


def test_a_flood_of_resets_hurts_nobody_else(gateway: RunningGateway, fake: FakeProvider) -> None:
    for _ in range(200):
        connection = Connection(gateway.port)
        connection.send(post(gateway, {}))
        connection.reset()
    assert send(gateway, post(gateway, {})).status == 200
    assert all(call["complete"] or call["disconnected"] for call in seen(fake))


# ---- HTTP/2 -------------------------------------------------------------------------------------------------


class Http2:
    """One HTTP/2 connection without TLS that checks nothing of what it sends."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        config = H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        self._h2 = H2Connection(config)
        self._h2.initiate_connection()

    def call(self, headers: list[tuple[str, str]], body: bytes) -> int:
        """Send a call; its status, or 0 where the stream or the connection is reset."""
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, headers)
        self._h2.send_data(stream, body, end_stream=True)
        self._socket.sendall(self._h2.data_to_send())
        while data := self._socket.recv(65536):
            for event in self._h2.receive_data(data):
                if isinstance(event, ResponseReceived) and event.stream_id == stream:
                    return int(dict(event.headers)[b":status"])
                if isinstance(event, StreamReset | ConnectionTerminated):
                    return 0
        return 0

    def close(self) -> None:
        self._socket.close()


def http2(gateway: RunningGateway, *more: tuple[str, str], **pseudo: str) -> list[tuple[str, str]]:
    names = {"method": "POST", "scheme": "http", "authority": "localhost", "path": CHAT, **pseudo}
    key = ("authorization", f"Bearer {gateway.key}")
    return [*((f":{name}", value) for name, value in names.items()), key, ("content-type", "application/json"), *more]


def call_http2(gateway: RunningGateway, headers: list[tuple[str, str]]) -> int:
    connection = Http2(gateway.port)
    try:
        return connection.call(headers, BODY)
    finally:
        connection.close()


def test_http2_is_served(gateway: RunningGateway, fake: FakeProvider) -> None:
    assert call_http2(gateway, http2(gateway, ("content-length", str(len(BODY))))) == 200
    assert [call["body_bytes"] for call in seen(fake)] == [len(BODY)]


ODD_HTTP2: dict[str, list[tuple[str, str]]] = {
    "length too short": [("content-length", str(len(BODY) - 1))],
    "length too long": [("content-length", str(len(BODY) + 1))],
    "two lengths": [("content-length", str(len(BODY))), ("content-length", "5")],
    "transfer-encoding": [("transfer-encoding", "chunked")],
    "connection": [("connection", "close")],
    "line break in a value": [("x-a", "b\r\nx-evil: 1")],
    "line break in a name": [("x-a\r\nx-evil", "1")],
    "NUL": [("x-a", "b\x00c")],
    "capitals": [("X-Capital", "1")],
    "pseudo-header of an answer": [(":status", "200")],
    "path again": [(":path", "/v1/models")],
    "space in a name": [("x a", "1")],
    "underscore": [("x_team", "1")],
}


@pytest.mark.parametrize("case", ODD_HTTP2)
def test_a_bad_head_of_http2_is_refused(case: str, gateway: RunningGateway, fake: FakeProvider) -> None:
    assert call_http2(gateway, http2(gateway, *ODD_HTTP2[case])) in (0, 400)
    assert not seen(fake)


@pytest.mark.parametrize(
    "pseudo",
    [
        {"path": "/v1/../admin"},
        {"path": "v1/chat/completions"},
        {"path": "/v1%2fchat/completions"},
        {"path": "/v1/chat completions"},
        {"path": ""},
        {"method": "PO ST"},
        {"path": "/v1/chat/completions HTTP/1.1\r\nx-evil: 1\r\n\r\n"},
    ],
    ids=str,
)
def test_a_bad_target_of_http2_is_refused(pseudo: Json, gateway: RunningGateway, fake: FakeProvider) -> None:
    assert call_http2(gateway, http2(gateway, **pseudo)) in (0, 400, 404, 405)
    assert not seen(fake)


def test_streams_that_are_reset_at_once_hurt_nobody_else(gateway: RunningGateway, fake: FakeProvider) -> None:
    """Rapid reset: a connection that opens and resets without end is closed, the others are served."""
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as flood:
        state = H2Connection(H2Configuration())
        state.initiate_connection()
        for _ in range(500):
            stream = state.get_next_available_stream_id()
            state.send_headers(stream, http2(gateway))
            state.reset_stream(stream)
        flood.sendall(state.data_to_send())
        assert send(gateway, post(gateway, {})).status == 200
    assert len(seen(fake)) == 1


def test_the_admin_interface_is_on_no_port(gateway: RunningGateway) -> None:
    ports = {
        connection.laddr.port
        for child in gateway.processes("envoy")
        for connection in child.net_connections("inet")
        if connection.status == "LISTEN"
    }
    assert ports == {gateway.port}
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(gateway.folder / "var/run/admin.sock"))
        assert select.select([], [admin], [], 5)[1]
    mode = (gateway.folder / "var/run/admin.sock").stat().st_mode
    assert mode & 0o077 == 0

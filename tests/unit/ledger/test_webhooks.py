"""One try at a webhook, whatever the other side does."""

import socket
import threading
import time

import pytest

from extproc.ledger import webhooks
from extproc.ledger.webhooks import Answer, WebhookUnusable
from tests.support.ports import free_port
from tests.support.webhook import FakeWebhook, status


def test_a_message_arrives_as_it_is() -> None:
    with FakeWebhook() as hook:
        assert webhooks.post(hook.url, b'{"text": "a"}', "id-1") == Answer("status_200", is_taken=True)
    (message,) = hook.got
    assert (message.target, message.body) == ("/services/T0/B0?x=1", {"text": "a"})
    assert message.headers["x-sluice-alert"] == "id-1"
    assert message.headers["content-type"] == "application/json"
    assert message.headers["host"] == f"127.0.0.1:{hook.port}"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (status(204), Answer("status_204", is_taken=True)),
        (status(500), Answer("status_500")),
        (status(404), Answer("status_404")),
        (status(302, location="http://127.0.0.1:1/"), Answer("status_302")),
        (status(429, retry_after="7"), Answer("status_429", pause=7)),
        (status(503, retry_after="999999"), Answer("status_503", pause=3600)),
        (status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT"), Answer("status_429")),
        (status(429, retry_after="-5"), Answer("status_429")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf", Answer("status_200", is_taken=True)),
        (b"", Answer("no_connection")),
        (b"HTTP/1.1 200", Answer("no_connection")),
        (b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + status(201), Answer("status_201", is_taken=True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Answer("no_connection")),
        (b"HTTP/1.1 2000 OK\r\n\r\n", Answer("no_connection")),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Answer("no_connection")),
        (b"\xff\r\n\r\n", Answer("no_connection")),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000 + b"\r\n", Answer("no_connection")),
    ],
)
def test_what_the_other_side_answers_is_told(answer: bytes, told: Answer) -> None:
    with FakeWebhook() as hook:
        hook.script = [answer]
        assert webhooks.post(hook.url, b"{}", "id-1") == told


def test_one_who_says_nothing_is_left_soon() -> None:
    with FakeWebhook() as hook:
        hook.script = [None]
        began = time.monotonic()
        assert webhooks.post(hook.url, b"{}", "id-1", wait=0.2) == Answer("timeout")
        assert time.monotonic() - began < 10


def test_a_name_that_nobody_tells_the_address_of_is_left_as_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()

    def hangs(*_args: object, **_more: object) -> list[object]:
        told.wait(30)
        raise OSError("too late")

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    began = time.monotonic()
    assert webhooks.post("https://hooks.example.com/x", b"{}", "id-1", wait=0.2) == Answer("timeout")
    assert time.monotonic() - began < 10
    told.set()


def test_a_name_without_an_address() -> None:
    assert webhooks.post("https://none.invalid/x", b"{}", "id-1").outcome == "no_connection"
    assert webhooks.post(f"https://{'a' * 70}.invalid/x", b"{}", "id-1").outcome == "no_connection"


def test_of_several_addresses_the_next_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", 0)) for last in (9, 1)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: pairs)
    with FakeWebhook() as hook:
        assert webhooks.post(hook.url.replace("127.0.0.1", "localhost"), b"{}", "id-1").is_taken


def test_nobody_there() -> None:
    assert webhooks.post(f"http://127.0.0.1:{free_port()}/", b"{}", "id-1") == Answer("no_connection")


def test_one_without_tls_where_it_is_wanted() -> None:
    with FakeWebhook() as hook:
        assert webhooks.post(hook.url.replace("http://", "https://"), b"{}", "id-1").outcome == "no_tls"


@pytest.mark.parametrize(
    "url", ["https://hooks.example.com/x", "http://127.0.0.1:9/x", "http://localhost/x", "http://[::1]/x"]
)
def test_urls_that_may_be_posted_to(url: str) -> None:
    assert webhooks.check(url, plain_http=False).geturl() == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example.com/secret", "is http"),
        ("ftp://hooks.example.com/secret", "https URL"),
        ("secret", "https URL"),
        ("", "https URL"),
        ("https:///secret", "https URL"),
        ("https://hooks.example.com:99999/secret", "https URL"),
        ("https://[secret", "https URL"),
        ("https://hooks.example.com/secret\r\nx: y", "https URL"),
        ("https://hooks.example.com/secr\u00e9t", "https URL"),
        ("https://user:secret@hooks.example.com/", "user"),
    ],
)
def test_urls_that_may_not_and_the_error_does_not_repeat_them(url: str, why: str) -> None:
    with pytest.raises(WebhookUnusable, match=why) as raised:
        webhooks.check(url, plain_http=False)
    assert "secret" not in str(raised.value)
    assert webhooks.post(url, b"{}", "id-1") == Answer("bad_url")


def test_plain_http_where_it_is_allowed() -> None:
    assert webhooks.check("http://hooks.internal/x", plain_http=True).hostname == "hooks.internal"

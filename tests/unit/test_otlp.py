"""What is sent to a collector that is well, and what becomes of it where it is not."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from extproc.telemetry import otlp
from extproc.telemetry.otlp import Endpoint, Outbox
from tests.support.gateway import until
from tests.support.otlp import Collector, certificate, collector
from tests.support.ports import free_port


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_LOOK", 0.01)
    monkeypatch.setattr(otlp, "_PERIOD", 0.01)
    monkeypatch.setattr(otlp, "_PAUSES", (0.01, 0.02))


@pytest.fixture
def at() -> Iterator[Collector]:
    with collector() as running:
        yield running


def joined(items: Sequence[bytes]) -> bytes:
    return b",".join(items)


def outbox(at: Collector, **more: Any) -> Outbox[bytes]:
    return Outbox(Endpoint(f"{at.url}/v1/raw"), joined, **more)


def counted(box: Outbox[bytes], sent_and_dropped: tuple[int, int]) -> bool:
    return (box.sent, box.dropped) == sent_and_dropped


def closed(box: Outbox[bytes]) -> float:
    """The seconds that closing it took."""
    began = time.monotonic()
    box.close()
    return time.monotonic() - began


def test_what_is_put_in_is_sent_in_order(at: Collector) -> None:
    box = outbox(at)
    for number in range(2000):
        box.put(b"%d" % number)
    box.close()
    assert b",".join(at.raw).split(b",") == [b"%d" % number for number in range(2000)]
    assert (box.sent, box.dropped) == (2000, 0)
    assert all(body.count(b",") < 512 for body in at.raw)


def test_headers_are_those_of_the_moment(at: Collector) -> None:
    secrets = iter(["one", "two"])
    box = Outbox(Endpoint(f"{at.url}/v1/raw", lambda: {"authorization": next(secrets)}), joined)
    box.put(b"a")
    until(lambda: box.sent == 1)
    box.put(b"b")
    until(lambda: box.sent == 2)
    box.close()
    assert [headers["authorization"] for headers in at.headers] == ["one", "two"]
    assert {headers["content-type"] for headers in at.headers} == {"application/x-protobuf"}


def test_a_certificate_must_be_one_that_the_machine_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(tls=certificate(tmp_path)) as at:
        box = outbox(at)
        box.put(b"a")
        until(lambda: box.dropped == 1)
        assert at.asked == 0
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "trusted.pem"))
        box.put(b"b")
        until(lambda: box.sent == 1)
        box.close()
    assert at.raw == [b"b"]


def test_above_its_capacity_items_are_dropped_and_counted(at: Collector) -> None:
    at.status = 0
    box = outbox(at, capacity=10)
    box.put(b"first")
    until(lambda: at.asked == 1)
    for _ in range(25):
        box.put(b"x")
    assert box.dropped == 15
    at.ended.set()  # it hangs up without an answer, and gets it again
    at.status = 200
    until(lambda: box.sent == 11)
    box.close()
    assert box.dropped == 15


@pytest.mark.parametrize("status", [429, 502, 503, 504, -1])
def test_what_may_pass_is_tried_again(at: Collector, status: int) -> None:
    at.status = status
    box = outbox(at)
    box.put(b"a")
    until(lambda: at.asked == 1)
    at.status = 200
    until(lambda: box.sent == 1)
    box.close()
    assert (at.raw, box.dropped) == ([b"a"], 0)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500])
def test_what_is_refused_is_not_tried_again(at: Collector, status: int, caplog: pytest.LogCaptureFixture) -> None:
    at.status = status
    box = outbox(at)
    box.put(b"a")
    until(lambda: box.dropped == 1)
    box.close()
    assert at.asked == 1
    assert [record.message for record in caplog.records] == [
        f"telemetry cannot be sent to {at.url.removeprefix('http://')}: status {status}"
    ]


def test_one_that_is_never_there_costs_the_batch_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    box: Outbox[bytes] = Outbox(Endpoint(f"http://127.0.0.1:{free_port()}/v1/raw"), joined)
    for expected in (1, 2):
        box.put(b"a")
        until(partial(counted, box, (0, expected)))
    box.close()
    assert (box.sent, len(caplog.records)) == (0, 1)


def test_one_that_comes_back_is_told_of_when_it_goes_again(at: Collector, caplog: pytest.LogCaptureFixture) -> None:
    box = outbox(at)
    for status, expected in ((400, (0, 1)), (200, (1, 1)), (400, (1, 2))):
        at.status = status
        box.put(b"a")
        until(partial(counted, box, expected))
    box.close()
    assert len(caplog.records) == 2


def test_how_long_it_asks_to_wait_is_kept_to(at: Collector) -> None:
    at.status, at.more = 503, {"retry-after": "1"}
    box = outbox(at)
    box.put(b"a")
    until(lambda: at.asked == 1)
    at.status = 200
    until(lambda: box.sent == 1)
    box.close()
    before, after = at.times
    assert after - before > 0.9


@pytest.mark.parametrize("header", ["soon", "-5", "9" * 30, "0.1"])
def test_a_pause_that_cannot_be_meant_is_none(header: str) -> None:
    assert otlp._pause(header) <= 60


def test_what_a_collector_says_it_did_not_take_is_counted(at: Collector) -> None:
    box = outbox(at, rejected=lambda answer: int(answer or b"0"))
    at.answer = b"2"
    for item in (b"a", b"b", b"c"):
        box.put(item)
    box.close()
    assert (box.sent, box.dropped) == (1, 2)


def test_what_cannot_be_encoded_costs_its_batch_alone(at: Collector) -> None:
    def encode(items: Sequence[bytes]) -> bytes:
        if b"bad" in items:
            raise ValueError(items)
        return joined(items)

    box = Outbox(Endpoint(f"{at.url}/v1/raw"), encode)
    box.put(b"bad")
    until(lambda: box.dropped == 1)
    box.put(b"good")
    until(lambda: box.sent == 1)
    box.close()


def test_a_collector_that_hangs_does_not_hold_up_the_end(at: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_CLOSE_SECONDS", 0.2)
    at.status = 0
    box = outbox(at)
    box.put(b"a")
    until(lambda: at.asked == 1)
    box.put(b"b")
    assert closed(box) < 5  # of the ten that a step may take
    assert box.dropped == 1


def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    box: Outbox[bytes] = Outbox(Endpoint(f"http://127.0.0.1:{free_port()}/v1/raw"), joined)
    for _ in range(1000):
        box.put(b"a")
    box.close()
    assert (box.sent, box.dropped) == (0, 1000)


def test_putting_in_never_waits(at: Collector) -> None:
    at.status = 0
    box = outbox(at, capacity=100)
    longest = 0.0
    for _ in range(20_000):
        began = time.perf_counter()
        box.put(b"a")
        longest = max(longest, time.perf_counter() - began)
    assert longest < 1  # a lock of the thread that sends would take the ten seconds of its timeout
    at.ended.set()
    box.close()


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """The URL of one that answers `head`, and then a byte now and then, for as long as anybody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asked, _ = server.accept()
                    with asked, contextlib.suppress(OSError):
                        asked.recv(65536)
                        asked.sendall(head)
                        while True:
                            asked.sendall(b"x")
                            time.sleep(0.02)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1/raw"
        server.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
    thread.join()


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1."],
    ids=["body", "header", "status"],
)
def test_one_that_drips_holds_nobody_for_long(
    head: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(otlp, "_TIMEOUT", 0.2)
    with dripping(head) as url:
        box: Outbox[bytes] = Outbox(Endpoint(url), joined)
        box.put(b"a")
        until(lambda: counted(box, (0, 1)))
        assert "TimeoutError" in caplog.text
        box.close()

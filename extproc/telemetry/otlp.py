"""OTLP over HTTP: what waits to be sent to a collector, and the thread that sends it.

A collector that is down, slow or hanging costs what it would have been told, and nothing else: whatever does not fit
into the queue is dropped and counted, and nobody waits for the thread but, for a moment, the end of the process.
"""

import contextlib
import http.client
import logging
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

_LOOK = 0.1  # seconds between two looks at how much waits: who puts in wakes nobody
_PERIOD = 1.0  # seconds between two batches, where less than a whole one waits
_BATCH = 512
_TIMEOUT = 10.0  # seconds for a connection, and then for all of the request and its answer
_CLOSE_SECONDS = 3.0
_PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0)  # seconds between tries to send one batch
_AGAIN = frozenset({429, 502, 503, 504})  # by the protocol, statuses after which to try again
_LARGEST_ANSWER = 65536

T = TypeVar("T")


class Endpoint(NamedTuple):
    """Where a signal goes: the whole URL, and the headers that are wanted there, which are secrets, as they are now."""

    url: str
    headers: Callable[[], Mapping[str, str]] = dict


class _Refused(Exception):
    """The collector takes no such batch, ever."""


class _Unreachable(Exception):
    """It may take it later; `pause` is the seconds that it asked for."""

    def __init__(self, why: str, pause: float = 0.0) -> None:
        super().__init__(why)
        self.pause = pause


class Outbox(Generic[T]):
    """Sends what is put in, in batches. `sent` counts items."""

    def __init__(
        self,
        endpoint: Endpoint,
        encode: Callable[[Sequence[T]], bytes],
        capacity: int = 4096,
        rejected: Callable[[bytes], int] = lambda _answer: 0,
    ) -> None:
        """`encode` makes a request of items. `rejected` tells how many of them an answer says were not taken."""
        self._endpoint = endpoint
        self._encode = encode
        self._rejected = rejected
        self._capacity = capacity
        self._waiting: deque[T] = deque()
        self._closing = threading.Event()
        self._is_well = True
        self._overflowed = 0  # noted by who puts in
        self._lost = 0  # noted by the thread
        self.sent = 0
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Items that were not sent, and never will be."""
        return self._overflowed + self._lost

    def put(self, item: T) -> None:
        """Queue an item; never blocks."""
        if len(self._waiting) < self._capacity:
            self._waiting.append(item)
        else:
            self._overflowed += 1

    def close(self) -> None:
        """Send what is queued, once, then stop. What cannot be sent within three seconds is dropped."""
        self._closing.set()
        self._thread.join(_CLOSE_SECONDS)
        self._overflowed += len(self._waiting)

    def _run(self) -> None:
        sent = time.monotonic()
        while not self._closing.wait(_LOOK):
            if len(self._waiting) >= _BATCH or time.monotonic() - sent >= _PERIOD:
                self._flush()
                sent = time.monotonic()
        self._flush()

    def _flush(self) -> None:
        """Send what waits now, and not what comes meanwhile."""
        for _ in range(-(-len(self._waiting) // _BATCH)):
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                self._deliver(batch, self._encode(batch))
            except Exception as error:  # a bug, which must cost no more than the batch
                self._lose(len(batch), type(error).__name__)

    def _deliver(self, batch: Sequence[T], body: bytes) -> None:
        for pause in (*_PAUSES, None):
            try:
                rejected = min(self._rejected(_post(self._endpoint, body)), len(batch))
            except _Refused as refused:
                return self._lose(len(batch), str(refused))
            except (_Unreachable, OSError, http.client.HTTPException) as error:
                why = str(error) if isinstance(error, _Unreachable) else type(error).__name__
                asked = getattr(error, "pause", 0.0)
                if pause is None or self._closing.is_set():
                    return self._lose(len(batch), why)
                self._warn(why)
                self._closing.wait(max(pause, asked))
            else:
                self.sent += len(batch) - rejected
                self._lost += rejected
                self._is_well = True
                return None
        return None

    def _lose(self, items: int, why: str) -> None:
        self._lost += items
        self._warn(why)

    def _warn(self, why: str) -> None:
        """Once, until it works again. Never what the collector says: nobody knows what that repeats."""
        if self._is_well:
            log.warning("telemetry cannot be sent to %s: %s", urlsplit(self._endpoint.url).netloc, why)
        self._is_well = False


def _post(endpoint: Endpoint, body: bytes) -> bytes:
    """What the collector answers. Raises _Refused, _Unreachable, OSError, HTTPException."""
    parts = urlsplit(endpoint.url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    headers = {**endpoint.headers(), "content-type": "application/x-protobuf", "user-agent": "sluice"}
    try:
        connection.connect()
        with _ended_in_time(connection.sock):
            connection.request("POST", parts.path, body, headers)
            answer = connection.getresponse()
            told = answer.read(_LARGEST_ANSWER)
    finally:
        connection.close()
    if answer.status in _AGAIN:
        raise _Unreachable(f"status {answer.status}", _pause(answer.getheader("retry-after")))
    if not 200 <= answer.status < 300:
        raise _Refused(f"status {answer.status}")
    return told


@contextlib.contextmanager
def _ended_in_time(connected: socket.socket) -> Iterator[None]:
    """Raises TimeoutError where what is done with it takes too long.

    A timeout of the socket is for each read alone: who sends a byte now and then would hold the thread for days.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        with contextlib.suppress(OSError):  # closed meanwhile
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_TIMEOUT, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ValueError, http.client.HTTPException):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


def _pause(given: str | None) -> float:
    """Seconds to wait, no more than a minute."""
    return min(float(given), 60.0) if given is not None and given.isdecimal() and len(given) < 9 else 0.0

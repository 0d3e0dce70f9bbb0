"""The worker's way to the services that policies ask: HTTP over a Unix socket to Envoy, which knows where they are.

Envoy adds TLS and the credential; this process opens no other connection. Whoever can write to that socket can spend
the credentials of the services, so that only its owner can (dataplane/services.py).
"""

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools

LARGEST_ANSWER = 2**20  # bytes
MOST_AT_ONCE = 64  # questions of one worker under way; the others wait for their turn

OK = "ok"
TIMEOUT, NO_CONNECTION, MALFORMED, TOO_LARGE = "timeout", "no_connection", "malformed", "too_large"

Told = Callable[[str, str, float], None]
"""Takes the name of the service, how the question ended (`OK`, or the `result` of a ServiceFailed), and seconds."""


class ServiceFailed(Exception):
    """A service gave no answer that can be used. The text holds nothing of what was asked or answered.

    `result` is one of the constants above, or `status_` and the status of an answer that is not a 200.
    """

    def __init__(self, result: str) -> None:
        super().__init__(f"the service gave no usable answer: {result}")
        self.result = result


class _Lost(Exception):
    """The connection ended before any of the answer had come."""


class Services:
    """Connections to Envoy's listener for services, shared by all calls of a worker."""

    def __init__(self, socket: str, told: Told) -> None:
        self._socket = socket
        self._told = told
        self._free: list[_Connection] = []
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)

    async def ask(self, service: str, path: str, body: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - see below
        """POST JSON to a service of the configuration; its answer with status 200, at most 1 MiB.

        `path` is what follows the service's url, and begins with a slash. `timeout` in seconds, for everything: waiting
        for one of 64 turns, too. Raises ServiceFailed. A question that is cancelled takes its connection with it.
        """
        return await self.send(service, _request(service, path, body), timeout)

    async def send(self, name: str, request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109 - see below
        """The same for a whole request of HTTP/1.1; `name` is told with how it ended."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout), self._turns:
                answer = await self._exchange(request)
        except TimeoutError:
            failed = ServiceFailed(TIMEOUT)
        except (_Lost, OSError):
            failed = ServiceFailed(NO_CONNECTION)
        except ServiceFailed as error:
            failed = error
        else:
            self._told(name, OK, time.monotonic() - began)
            return answer
        self._told(name, failed.result, time.monotonic() - began)
        raise failed

    def close(self) -> None:
        """Close what is free. Nothing is asked any more."""
        while self._free:
            self._free.pop().abort()

    async def _exchange(self, request: bytes) -> bytes:
        """On a free connection first: where Envoy has just closed that, once more on a new one."""
        if self._free:
            try:
                return await self._on(self._free.pop(), request)
            except _Lost:
                pass
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(_Connection, self._socket)
        return await self._on(connection, request)

    async def _on(self, connection: "_Connection", request: bytes) -> bytes:
        try:
            answer = await connection.ask(request)
        finally:
            if connection.keeps:
                self._free.append(connection)
            else:
                connection.abort()
        if connection.status != 200:
            raise ServiceFailed(f"status_{connection.status}")
        return answer


def _request(service: str, path: str, body: bytes) -> bytes:
    head = (
        f"POST /{service}{path} HTTP/1.1\r\n"
        "host: services\r\n"
        "content-type: application/json\r\n"
        "accept: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


class _Connection(asyncio.Protocol):
    """One connection, on which questions follow each other."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[bytes] | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._begun = False  # something of the answer has come
        self.status = 0
        self.keeps = False  # it has given a whole answer, and can be asked again

    async def ask(self, request: bytes) -> bytes:
        """The whole body of the answer, whatever its `status`. Raises _Lost or ServiceFailed."""
        if self._transport.is_closing():
            raise _Lost
        self._answer = asyncio.get_running_loop().create_future()
        self._begun = self.keeps = False
        self._transport.write(request)
        return await self._answer

    def abort(self) -> None:
        self._transport.abort()

    # ---- the transport's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # nobody asked
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(ServiceFailed(MALFORMED))

    def connection_lost(self, _error: Exception | None) -> None:
        self._fail(ServiceFailed(NO_CONNECTION) if self._begun else _Lost())

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # ---- the parser's side ----

    def on_message_begin(self) -> None:
        self.keeps = False  # of a second answer nobody knows whose it is
        self._parts.clear()
        self._size = 0

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= LARGEST_ANSWER:
            self._parts.append(part)
        else:
            self._fail(ServiceFailed(TOO_LARGE))

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200 or self._answer is None or self._answer.done():
            return
        self.keeps = self._parser.should_keep_alive()
        self._answer.set_result(b"".join(self._parts))

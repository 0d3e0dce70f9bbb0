"""One client connection: bytes to requests, answers in their order, and a record of what was neither."""

import asyncio
import socket
import struct
import traceback
from collections import deque
from dataclasses import dataclass, field, replace
from typing import cast

import httptools

from loadtest.fake_llm import control, delivery, provider
from loadtest.fake_llm.delivery import ResetError
from loadtest.fake_llm.faults import NONE
from loadtest.fake_llm.instance import Instance
from loadtest.fake_llm.provider import Request
from loadtest.fake_llm.recorder import Call

_LINGER_ZERO = struct.pack("ii", 1, 0)
_OFFENDING = 4096  # bytes of a broken request that are kept


@dataclass(slots=True)
class _Incoming:
    """A request while it is read. `call` is None for a control call."""

    call: Call | None = None
    method: str = ""
    target: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)
    keep_alive: bool = True

    def request(self) -> Request:
        path, _, query = self.target.decode("latin-1").partition("?")
        headers: dict[str, str] = {}
        for name, value in self.headers:
            headers.setdefault(name, value)
        return Request(self.method, path, query, headers, b"".join(self.body))


class Connection(asyncio.Protocol):
    """A connection to one instance. Requests may be pipelined; the answers come in their order."""

    def __init__(self, instance: Instance, connections: set["Connection"]) -> None:
        self._instance, self._connections = instance, connections
        self._number = next(instance.connections)
        self._parser = httptools.HttpRequestParser(self)
        self._incoming: _Incoming | None = None
        self._last_data = b""
        self._waiting: deque[_Incoming] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False  # no further request is read
        self._transport: asyncio.Transport
        self._flushed = asyncio.Event()
        self._flushed.set()

    # ---- the transport's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        # With no buffer of our own, "written" means that the kernel has it.
        self._transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        self._last_data = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._closing = True  # what follows is another protocol; the request is answered as if it had not asked
        except httptools.HttpParserError:
            self._refuse(data)

    def pause_writing(self) -> None:
        self._flushed.clear()

    def resume_writing(self) -> None:
        self._flushed.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self._connections.discard(self)
        self._abandon()
        if self._task is not None:
            self._task.cancel()
        for incoming in self._waiting:
            self._lose(incoming)
        self._waiting.clear()

    def abort(self) -> None:
        """Drop the connection, at the end of the process."""
        self._transport.abort()

    def _abandon(self) -> None:
        """Record a request that broke off: within its head it is malformed, within its body incomplete."""
        incoming, self._incoming = self._incoming, None
        if incoming is None:
            return
        if incoming.call is None and not self._is_control(incoming):
            self._instance.recorder.malformed(self._number, self._last_data[:_OFFENDING])
        else:
            self._lose(incoming)

    def _refuse(self, data: bytes) -> None:
        """Bytes that are no HTTP: record them, finish what was asked before, close."""
        self._closing = True
        if self._incoming is not None and self._incoming.call is not None:
            self._lose(self._incoming)
        self._incoming = None
        self._instance.recorder.malformed(self._number, data[:_OFFENDING])
        if self._task is None:
            self._transport.close()

    def _lose(self, incoming: _Incoming) -> None:
        if incoming.call is not None:
            incoming.call.disconnected = True
            self._instance.recorder.body(incoming.call, b"".join(incoming.body))
            self._instance.recorder.end(incoming.call)

    # ---- the parser's side -------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._incoming = _Incoming()

    def on_url(self, url: bytes) -> None:
        self._reading.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reading.headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        incoming = self._reading
        incoming.method = self._parser.get_method().decode("latin-1")
        if not self._is_control(incoming):
            call = self._instance.recorder.begin(self._number)
            path, _, query = incoming.target.decode("latin-1").partition("?")
            call.method, call.path, call.query, call.headers = incoming.method, path, query, incoming.headers
            incoming.call = call
        if ("expect", "100-continue") in incoming.headers:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._reading.body.append(body)

    def on_message_complete(self) -> None:
        incoming, self._incoming = self._reading, None
        incoming.keep_alive = self._parser.should_keep_alive()
        if incoming.call is not None:
            incoming.call.complete = True
            self._instance.recorder.body(incoming.call, b"".join(incoming.body))
        self._waiting.append(incoming)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._answer_waiting())

    @property
    def _reading(self) -> _Incoming:
        if self._incoming is None:
            raise RuntimeError("the parser announces a message before its parts")
        return self._incoming

    @staticmethod
    def _is_control(incoming: _Incoming) -> bool:
        return incoming.target.startswith(control.PREFIX.encode())

    # ---- answering -----------------------------------------------------------------------------------

    async def _answer_waiting(self) -> None:
        try:
            while self._waiting:
                incoming = self._waiting.popleft()
                if not await self._answer(incoming):
                    self._closing = True
                    self._transport.close()
                    return
        except ResetError:
            await self._reset()
        except Exception:  # ours to mend: seen in the log, and the peer must not wait for ever
            traceback.print_exc()
            self._closing = True
        finally:
            self._task = None
        if self._closing:
            self._transport.close()

    async def _answer(self, incoming: _Incoming) -> bool:
        """Answer one request; True when the connection lives on."""
        if incoming.call is None:
            await self._answer_control(incoming)
            return incoming.keep_alive
        try:
            await self._answer_call(incoming, incoming.call)
        finally:
            incoming.call.disconnected = not incoming.call.finished and self._transport.is_closing()
            self._instance.recorder.end(incoming.call)
        return incoming.keep_alive

    async def _answer_control(self, incoming: _Incoming) -> None:
        request = incoming.request()
        answer = control.answer(request.method, request.path, request.body, self._instance)
        seen = Call(0, self._number)
        await delivery.deliver(answer, NONE, self, seen, keep_alive=incoming.keep_alive)

    async def _answer_call(self, incoming: _Incoming, call: Call) -> None:
        answer, faults = provider.answer(incoming.request(), self._instance)
        if incoming.method == "HEAD":
            answer = replace(answer, body=b"", events=None)
        latency = self._instance.latency_ms if faults.delay_ms is None else faults.delay_ms
        if latency:
            await asyncio.sleep(latency / 1000)
        if faults.tokens_per_second is None and self._instance.tokens_per_second:
            faults = replace(faults, tokens_per_second=self._instance.tokens_per_second)
        await delivery.deliver(answer, faults, self, call, keep_alive=incoming.keep_alive)

    # ---- the sending half that delivery uses -----------------------------------------------------------

    async def send(self, data: bytes) -> None:
        """Write and wait until the kernel has it all; the task is cancelled when the peer leaves."""
        self._transport.write(data)
        await asyncio.sleep(0)
        await self._flushed.wait()

    async def released(self) -> None:
        """Wait for the control path `release`; the task is cancelled when the peer leaves."""
        await self._instance.release.wait()

    async def _reset(self) -> None:
        await asyncio.sleep(delivery.RESET_GRACE)
        linger = self._transport.get_extra_info("socket")
        linger.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()

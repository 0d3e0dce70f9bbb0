"""Connections that are taken at one address and carried on to another, with their ends and their breaks."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import cast

Address = tuple[str, int]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close is a reset


class Forwarder:
    """`target` tells for each connection where it goes; None: nowhere, it is reset."""

    def __init__(self, target: Callable[[], Address | None]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._halves: set[_Half] = set()
        self._connecting: set[asyncio.Future[None]] = set()
        self.unanswered = 0
        """Connections that led nowhere."""

    async def open(self, address: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Half(self._halves, self._begin), address, port, backlog=4096)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for connecting in self._connecting:
            connecting.cancel()
        for half in list(self._halves):
            half.reset()
        await asyncio.sleep(0)  # for their transports to be closed

    def _begin(self, client: "_Half") -> None:
        client.transport.pause_reading()
        connecting = asyncio.ensure_future(self._connect(client))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)

    async def _connect(self, client: "_Half") -> None:
        address = self._target()
        try:
            if address is None:
                raise ConnectionRefusedError
            _, server = await asyncio.get_running_loop().create_connection(lambda: _Half(self._halves), *address)
        except OSError:
            self.unanswered += 1
            client.reset()
            return
        client.other, server.other = server, client
        if client.transport.is_closing():
            server.transport.close()
        else:
            client.transport.resume_reading()


class _Half(asyncio.Protocol):
    """One of the two connections, that hands all on to the other."""

    def __init__(self, halves: set["_Half"], begin: Callable[["_Half"], None] | None = None) -> None:
        self._halves = halves
        self._begin = begin
        self.other: _Half | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._halves.add(self)
        if self._begin is not None:
            self._begin(self)

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def eof_received(self) -> bool:
        if self.other is not None:
            with contextlib.suppress(OSError, RuntimeError):  # it is closed, or is being closed
                self.other.transport.write_eof()
        return True  # the other direction goes on

    def pause_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._halves.discard(self)
        if self.other is None:
            return
        if exc is not None:
            self.other.reset()
        else:
            self.other.transport.close()

    def reset(self) -> None:
        """Break it off."""
        taken = self.transport.get_extra_info("socket")
        if taken is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

"""Sending an answer: HTTP framing, pace, and the faults of the wire."""

import asyncio
import gzip
import zlib
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

from loadtest.fake_llm.answer import Answer, Event
from loadtest.fake_llm.faults import Faults
from loadtest.fake_llm.recorder import Call
from loadtest.fake_llm.turn import scaled

_FLUSH_AT = 64 * 1024
_PART_OF_A_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: applic"
_MALFORMED_AFTER = 3
_MALFORMED = b'data: {"id": "chatcmpl-broken", "choi\n\n'
RESET_GRACE = 0.02  # seconds: a peer reads what came before a reset, instead of losing it with the reset


class Pipe(Protocol):
    """The sending half of a connection."""

    async def send(self, data: bytes) -> None:
        """Write and wait until the operating system has it all."""

    async def released(self) -> None:
        """Wait until the test lets go what it holds."""


class ResetError(Exception):
    """The connection is to be reset here."""


async def deliver(answer: Answer, faults: Faults, pipe: Pipe, call: Call, *, keep_alive: bool) -> None:
    """Send an answer, keeping `call` up to date with what was sent. Never returns from a hang or a stall.

    Raises ResetError where a fault demands it, what precedes it sent. Sets `call.finished` at the end.
    """
    if faults.hang:
        await _forever()
    if faults.reset == "head":
        await pipe.send(_PART_OF_A_HEAD)
    if faults.reset in ("before", "head"):
        raise ResetError
    if faults.held is not None and (faults.held == 0 or answer.events is None):
        await pipe.released()
    call.input_tokens = answer.input_tokens
    call.status, call.model, call.classes = answer.status, answer.model, answer.classes
    if answer.events is None:
        await _send_whole(answer, faults, pipe, call, keep_alive=keep_alive)
    else:
        await _Stream(answer, faults, pipe, call, keep_alive=keep_alive).send()
    call.finished = True


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


def head(answer: Answer, *, keep_alive: bool, length: int | None, encoding: str = "") -> bytes:
    """Status line and headers; without a length the body is chunked."""
    phrase = HTTPStatus(answer.status).phrase if answer.status in _STATUSES else "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", f"content-type: {answer.content_type}"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
    if encoding:
        lines.append(f"content-encoding: {encoding}")
    if not keep_alive:
        lines.append("connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


_STATUSES = frozenset(status.value for status in HTTPStatus)
_LAST_CHUNK = b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _pieces(data: bytes, size: int | None) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)] if size else [data]


async def _send_whole(answer: Answer, faults: Faults, pipe: Pipe, call: Call, *, keep_alive: bool) -> None:
    body = gzip.compress(answer.body, mtime=0) if faults.gzip else answer.body
    # As OpenAI does: answers are chunked, errors have a length.
    with_length = answer.status != 200 if faults.content_length is None else faults.content_length
    opening = head(
        answer,
        keep_alive=keep_alive,
        length=len(body) if with_length else None,
        encoding="gzip" if faults.gzip else "",
    )
    frame: Callable[[bytes], bytes] = bytes if with_length else _chunk
    ending = b"" if with_length else _LAST_CHUNK
    cut = faults.reset if isinstance(faults.reset, int) else None
    sent = body if cut is None else body[:cut]
    call.output_tokens = answer.output_tokens
    call.ending = True
    if faults.chunk_bytes is None and cut is None:
        await pipe.send(opening + frame(sent) + ending)
        return
    await pipe.send(opening)
    for piece in _pieces(sent, faults.chunk_bytes):
        await pipe.send(frame(piece))
        await asyncio.sleep(0)
    if cut is not None:
        raise ResetError
    await pipe.send(ending)


class _Stream:
    """One stream of events on its way out. Unpaced, events are collected into large writes, a chunk each."""

    def __init__(self, answer: Answer, faults: Faults, pipe: Pipe, call: Call, *, keep_alive: bool) -> None:
        self._answer, self._faults, self._pipe, self._call = answer, faults, pipe, call
        encoding = "gzip" if faults.gzip else ""
        self._out = bytearray(head(answer, keep_alive=keep_alive, length=None, encoding=encoding))
        self._body = bytearray()  # of a body cut into pieces: what is not in pieces yet
        self._gzip = zlib.compressobj(wbits=31) if faults.gzip else None
        self._spoken = 0  # tokens as we count them

    async def send(self) -> None:
        """Send everything, or as much as the faults allow."""
        started = asyncio.get_running_loop().time()
        stop_at = self._stop_at()
        for event in self._answer.events or ():
            if self._call.events_sent == stop_at:
                await self._break_off()
                break
            if self._call.events_sent and self._call.events_sent == self._faults.held:
                await self._flush()
                await self._pipe.released()
            await self._pace(started, event.tokens)
            self._add(event)
            if len(self._out) + len(self._body) >= _FLUSH_AT:
                await self._flush()
        self._frame(self._gzip.flush() if self._gzip else b"")
        self._call.ending = True
        await self._flush(_LAST_CHUNK)

    def _stop_at(self) -> int | None:
        reset = self._faults.reset if isinstance(self._faults.reset, int) else None
        points = [reset, self._faults.stall_after, self._faults.error_event_after]
        return min((point for point in points if point is not None), default=None)

    async def _break_off(self) -> None:
        """Stop in the middle: by an error event (and then a clean end of the body), a stall or a reset."""
        if self._call.events_sent == self._faults.error_event_after:
            self._add(self._answer.error_event or _FAILURE)
            return
        await self._flush()
        if self._call.events_sent == self._faults.stall_after:
            await _forever()
        raise ResetError

    async def _pace(self, started: float, tokens: int) -> None:
        """Wait until the event's tokens are due, counted from the start, so that no error adds up."""
        rate = self._faults.tokens_per_second
        if not rate or not tokens:
            return
        await self._flush()
        due = started + (self._spoken + tokens) / rate
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))

    def _add(self, event: Event) -> None:
        self._write(self._encode(event))
        self._call.events_sent += 1
        self._spoken += event.tokens
        self._call.output_tokens = scaled(self._spoken, self._faults)
        if self._faults.malformed_sse and self._call.events_sent == _MALFORMED_AFTER:
            self._write(_MALFORMED)

    def _encode(self, event: Event) -> bytes:
        frame = b"data: %b\n\n" % event.data
        if event.name:
            frame = b"event: %b\n%b" % (event.name.encode(), frame)
        if self._faults.comments:
            frame += b": keepalive\n\n"
        return frame.replace(b"\n", b"\r\n") if self._faults.crlf else frame

    def _write(self, data: bytes) -> None:
        if self._gzip is not None and data:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        self._frame(data)

    def _frame(self, data: bytes) -> None:
        if self._faults.chunk_bytes is None:
            self._out += _chunk(data)
        else:
            self._body += data

    async def _flush(self, ending: bytes = b"") -> None:
        if self._faults.chunk_bytes is None:
            self._out += ending
            ending = b""
        if self._out:
            data, self._out = bytes(self._out), bytearray()
            await self._pipe.send(data)
        body, self._body = bytes(self._body), bytearray()
        for piece in _pieces(body, self._faults.chunk_bytes) if body else ():
            await self._pipe.send(_chunk(piece))
            await asyncio.sleep(0)
        if ending:
            await self._pipe.send(ending)


_FAILURE = Event(
    b'{"error":{"message":"The server had an error while processing your request.","type":"server_error",'
    b'"param":null,"code":"server_error"}}'
)

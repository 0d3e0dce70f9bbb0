"""Clients of an hour: each call on a connection of its own, read to its end or left in the middle."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.hour import Asked

_PATIENCE_S = 60.0
_PIECE = 1 << 16
_END = b"0\r\n\r\n"


@dataclass(slots=True)
class Told:
    """What a client has of its call. `status` 0: no head of an answer came; `whole`: the answer came to its end.

    `error`: an answer's body where it is an error. `began`, `ended`: seconds of the machine's clock that is never set
    back.
    """

    asked: Asked
    began: float
    ended: float = 0.0
    request_id: str = ""
    status: int = 0
    whole: bool = False
    left: bool = False
    error: bytes = b""


class Callers:
    """They call as often as `per_second` says, or as fast as `most` at a time can; `told` grows as calls end."""

    def __init__(self, port: int, per_second: float, most: int = 48) -> None:
        self.told: list[Told] = []
        self.made = 0
        self._port = port
        self._pause = 1 / per_second
        self._places = asyncio.Semaphore(most)

    async def call(self, asks: Iterable[Asked]) -> None:
        """Make all of these calls. Raises TimeoutError where one does not end."""
        due = time.monotonic()
        async with asyncio.TaskGroup() as running:
            for asked in asks:
                await self._places.acquire()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + self._pause, time.monotonic() - 1.0)  # what a busy machine lags behind is not caught up
                self.made += 1
                running.create_task(self._call(asked))

    async def reached(self, call: int) -> None:
        """Wait until so many calls were made."""
        while self.made < call:
            await asyncio.sleep(0.01)

    async def _call(self, asked: Asked) -> None:
        told = Told(asked, time.monotonic())
        try:
            async with asyncio.timeout(_PATIENCE_S):
                with contextlib.suppress(OSError):  # it broke: `status` and `whole` say how far it came
                    await self._exchange(asked, told)
        finally:
            told.ended = time.monotonic()
            self.told.append(told)
            self._places.release()

    async def _exchange(self, asked: Asked, told: Told) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(asked.message())
            await writer.drain()
            seconds = None if asked.leaves is None else asked.leaves.seconds
            if seconds is None:
                await _read(reader, told)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(_read(reader, told), seconds)
                told.left = not told.whole
        finally:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader, told: Told) -> None:
    """The answer, until it ends or the client has had enough of it."""
    enough = told.asked.leaves.after_bytes if told.asked.leaves is not None else 0
    come, body_at = b"", 0
    length: int | None = None
    while piece := await reader.read(_PIECE):
        come += piece
        if not told.status and (at := come.find(b"\r\n\r\n")) >= 0:
            length, body_at = _note_head(come[:at].decode("latin-1"), told), at + 4
        if told.status:
            told.whole = come.endswith(_END) if length is None else len(come) - body_at >= length
            told.error = come[body_at:] if told.status >= 400 else b""
            if told.whole:
                return
        if enough and len(come) >= enough:
            told.left = True
            return


def _note_head(head: str, told: Told) -> int | None:
    """Take note of a head; the length of its body, None where it comes in chunks."""
    status, *lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    told.status = int(status.split()[1])
    told.request_id = fields.get("x-request-id", "")
    return int(fields["content-length"]) if "content-length" in fields else None

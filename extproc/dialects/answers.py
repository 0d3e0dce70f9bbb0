"""Reading an answer that comes in pieces: an event stream, or a JSON document of any size."""

from collections.abc import Mapping

import orjson

from extproc.dialects import usage
from extproc.dialects.meters import Meter
from extproc.dialects.sse import EventReader

PARSE_WHOLE = 256 * 1024
"""Bytes of JSON that parse in well under a millisecond; of a larger answer only the usage is looked for."""


class Stream:
    """An event stream. Where an event must be hidden, output is held back to whole events; else it is untouched.

    An event that grows beyond `cap` is none that a client could read: from there on all bytes pass unread.
    """

    __slots__ = ("_cap", "_hides", "_meter", "_reader")

    def __init__(self, meter: Meter, hides: bool, cap: int) -> None:
        self._meter = meter
        self._hides = hides
        self._cap = cap
        self._reader: EventReader | None = EventReader()

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """What to send instead of the chunk, or None to send it as it is."""
        if self._reader is None:
            return None
        kept = [event for event in self._reader.feed(chunk) if not self._meter.event(event)]
        if self._reader.held > self._cap:
            kept.append(self._reader.rest())
            self._reader = None
        elif end:
            rest = self._reader.rest()
            if rest and not self._meter.event(rest):
                kept.append(rest)
        if not self._hides:
            return None
        out = b"".join(kept)
        return None if out == chunk else out


class Document:
    """A JSON answer that flows past: the whole of a small one is kept until its end, the tail of a large one."""

    __slots__ = ("_large", "_meter", "_parts", "_size")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._parts: list[bytes] = []
        self._size = 0
        self._large = False

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """Always None: a document passes as it is."""
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size > PARSE_WHOLE:
            self._large = True
            tail = b"".join(self._parts)[-usage.TAIL :]
            self._parts, self._size = [tail], len(tail)
        if end:
            self._finish(b"".join(self._parts))
        return None

    def _finish(self, body: bytes) -> None:
        parsed = self._tail(body) if self._large else self._whole(body)
        if parsed is not None:
            self._meter.answer(parsed)

    @staticmethod
    def _tail(body: bytes) -> Mapping[str, object]:
        found = usage.in_tail(body)
        return {} if found is None else {"usage": found}

    @staticmethod
    def _whole(body: bytes) -> Mapping[str, object] | None:
        try:
            parsed = orjson.loads(body)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else {}


class Opaque:
    """An answer that is neither, audio or text: it passes unread."""

    __slots__ = ()

    def feed(self, chunk: bytes, end: bool) -> bytes | None:  # noqa: ARG002 - the shape of an answer
        """Always None."""
        return None


Answer = Stream | Document | Opaque

"""Reading an answer that comes in pieces: an event stream, or a JSON document of any size."""

import re
from collections.abc import Mapping

import orjson

from extproc.dialects import usage
from extproc.dialects.meters import Meter
from extproc.dialects.sse import EventReader

PARSE_WHOLE = 256 * 1024
"""Bytes of JSON that parse in well under a millisecond; of a larger answer only the usage is looked for."""

_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,256})"')  # as OpenAI writes it


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
    """A JSON answer that flows past: the whole of a small one is kept until its end.

    Of a large one only the ends are read: its id, where it is the first field, and the usage in its tail.
    """

    __slots__ = ("_id", "_large", "_meter", "_parts", "_size")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._parts: list[bytes] = []
        self._size = 0
        self._large = False
        self._id: str | None = None

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """Always None: a document passes as it is."""
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._size > PARSE_WHOLE:
            self._keep_tail(b"".join(self._parts))
        if end:
            self._finish(b"".join(self._parts))
        return None

    def _keep_tail(self, body: bytes) -> None:
        if not self._large:
            self._large = True
            self._id = _first_id(body)
        tail = body[-usage.TAIL :]
        self._parts, self._size = [tail], len(tail)

    def _finish(self, body: bytes) -> None:
        parsed = self._ends(body[-usage.TAIL :]) if self._large else self._whole(body)
        if parsed is not None:
            self._meter.answer(parsed)

    def _ends(self, tail: bytes) -> Mapping[str, object]:
        return {"id": self._id, "usage": usage.in_tail(tail)}

    @staticmethod
    def _whole(body: bytes) -> Mapping[str, object] | None:
        try:
            parsed = orjson.loads(body)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else {}


def _first_id(body: bytes) -> str | None:
    found = _FIRST_ID.match(body)
    return found[1].decode("ascii") if found else None


class Opaque:
    """An answer that is neither, audio or text: it passes unread."""

    __slots__ = ()

    def feed(self, chunk: bytes, end: bool) -> bytes | None:  # noqa: ARG002 - the shape of an answer
        """Always None."""
        return None


Answer = Stream | Document | Opaque

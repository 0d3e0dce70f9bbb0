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


class LeasedStream:
    """An event stream of which each event is paid for before it passes, so that it can be ended after any of them.

    `cap`: bytes of the largest event. `family`: of the model's tokenizer.
    """

    __slots__ = ("_cap", "_hides", "_meter", "_reader")

    def __init__(self, meter: Meter, hides: bool, cap: int, family: str) -> None:
        meter.bound(family)
        self._meter = meter
        self._hides = hides
        self._cap = cap
        self._reader = EventReader()

    @property
    def overlong(self) -> bool:
        """Whether an event has grown beyond the cap: the answer must end, as nobody can say what it weighs."""
        return self._reader.held > self._cap

    def feed(self, chunk: bytes, end: bool) -> list[bytes]:
        """The events that the chunk completes, each of which is to `pass`; at the end the rest as the last."""
        events = self._reader.feed(chunk)
        if end and (rest := self._reader.rest()):
            events.append(rest)
        return events

    def weigh(self, event: bytes) -> int:
        """The most tokens that the event can be."""
        return self._meter.weigh(event)

    def passes(self, event: bytes) -> bytes:
        """Note the event, and give what the client is to see of it."""
        hidden = self._meter.event(event)
        return b"" if hidden and self._hides else event

    def ending(self, estimated_input: int, tells_usage: bool) -> bytes:
        """What ends the answer after the events that passed, as the surface does where a cap is reached."""
        return self._meter.ending(estimated_input, tells_usage)


class Document:
    """A JSON answer that flows past: the whole of a small one is kept until its end.

    Of a large one only the ends are read: its id, where it is the first field, and the usage in its tail. Its images
    are counted as they flow, since an answer that has some is nearly always large.
    """

    __slots__ = ("_id", "_images", "_large", "_meter", "_parts", "_size")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._parts: list[bytes] = []
        self._size = 0
        self._large = False
        self._id: str | None = None
        self._images = [_Occurrences(key) for key in _IMAGE_KEYS]

    @property
    def unread(self) -> bool:
        """Whether its text was not read, as it is large."""
        return self._large

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """Always None: a document passes as it is."""
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._large:
            self._count_images(chunk)
        if self._size > PARSE_WHOLE:
            self._keep_tail(b"".join(self._parts))
        if end:
            self._finish(b"".join(self._parts))
        return None

    def _keep_tail(self, body: bytes) -> None:
        if not self._large:
            self._large = True
            self._id = _first_id(body)
            self._count_images(body)
        tail = body[-usage.TAIL :]
        self._parts, self._size = [tail], len(tail)

    def _count_images(self, piece: bytes) -> None:
        for key in self._images:
            key.feed(piece)

    def _finish(self, body: bytes) -> None:
        parsed = self._ends(body[-usage.TAIL :]) if self._large else self._whole(body)
        if parsed is not None:
            self._meter.answer(parsed)

    def _ends(self, tail: bytes) -> Mapping[str, object]:
        images = max(key.count for key in self._images)  # some servers send both, one of them null
        return {"id": self._id, "data": [{"url": None}] * images, "usage": usage.in_tail(tail)}

    @staticmethod
    def _whole(body: bytes) -> Mapping[str, object] | None:
        try:
            parsed = orjson.loads(body)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else {}


_IMAGE_KEYS = (b'"b64_json"', b'"url"')  # a quote inside a string would be escaped, and no base64 has one


class _Occurrences:
    """How often some bytes stand in a body that comes in pieces."""

    __slots__ = ("_end", "_wanted", "count")

    def __init__(self, wanted: bytes) -> None:
        self._wanted = wanted
        self._end = b""  # of what came: the wanted bytes may have begun there
        self.count = 0

    def feed(self, piece: bytes) -> None:
        joint = len(self._wanted) - 1
        self.count += (self._end + piece[:joint]).count(self._wanted) + piece.count(self._wanted)
        self._end = (self._end + piece[-joint:])[-joint:]


def _first_id(body: bytes) -> str | None:
    found = _FIRST_ID.match(body)
    return found[1].decode("ascii") if found else None


class Opaque:
    """An answer that is neither, audio or text: it passes unread."""

    __slots__ = ()
    unread = True

    def feed(self, chunk: bytes, end: bool) -> bytes | None:  # noqa: ARG002 - the shape of an answer
        """Always None."""
        return None


Answer = Stream | LeasedStream | Document | Opaque

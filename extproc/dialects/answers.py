"""Reading an answer that comes in pieces: an event stream, or a JSON document of any size.

Where texts of an answer are changed, it is held back as far as that needs: a stream to whole events, anything else to
its end. What grows beyond a cap meanwhile is `overlong`: nothing of it goes out until it is released, unread.
"""

import re
from collections.abc import Mapping

import orjson

from extproc.dialects import usage
from extproc.dialects.endings import Reason
from extproc.dialects.meters import Meter
from extproc.dialects.sse import EventReader
from extproc.dialects.texts import EventTexts, Texts, document

PARSE_WHOLE = 256 * 1024
"""Bytes of JSON that parse in well under a millisecond; of a larger answer only the usage is looked for."""

_FIRST_ID = re.compile(rb'\s*\{\s*"id"\s*:\s*"([\x20-\x21\x23-\x5b\x5d-\x7e]{1,256})"')  # as OpenAI writes it


class Stream:
    """An event stream. Where an event must be hidden, output is held back to whole events; else it is untouched.

    An event that grows beyond `cap` is none that a client could read: from there on all bytes pass unread. Where texts
    are changed, it is held back until it is released.
    """

    __slots__ = ("_cap", "_hides", "_meter", "_reader", "_texts")

    def __init__(self, meter: Meter, hides: bool, cap: int, texts: EventTexts | None = None) -> None:
        self._meter = meter
        self._hides = hides
        self._cap = cap
        self._reader: EventReader | None = EventReader()
        self._texts = texts

    @property
    def blocked(self) -> bool:
        """Whether something was said that must not be: nothing goes out any more, the answer must end."""
        return self._texts is not None and self._texts.blocked

    @property
    def overlong(self) -> bool:
        """Whether an event whose texts are to be changed has grown beyond the cap."""
        return self._texts is not None and self._reader is not None and self._reader.held > self._cap

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """What to send instead of the chunk, or None to send it as it is."""
        if self._reader is None:
            return None
        if self._texts is not None:
            return self._changed(self._reader, self._texts, chunk, end)
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

    def _changed(self, reader: EventReader, texts: EventTexts, chunk: bytes, end: bool) -> bytes | None:
        events = reader.feed(chunk)
        is_last = end and reader.held <= self._cap
        if is_last and (rest := reader.rest()):
            events.append(rest)
        meter = self._meter
        out: list[bytes] = []
        for event in events:
            if out and texts.blocked:
                break
            hidden = meter.event(event)
            if not (hidden and self._hides):
                out.append(texts.event(event, meter.piece))
        if is_last:
            out.append(texts.end())
        sent = b"".join(out)
        return None if sent == chunk else sent

    def whole(self, sent: bytes) -> bytes | None:
        """What there is of whole events in a piece that is about to be sent; None where it ends none of them."""
        if self._reader is None:
            return None
        if self._hides or self._texts is not None:
            return sent
        begun = self._reader.held
        return sent[: len(sent) - begun] if begun < len(sent) else None

    def release(self) -> bytes:
        """What is held back, as it came; from here on all bytes pass unread."""
        held = self._texts.end() if self._texts is not None else b""
        rest = self._reader.rest() if self._reader is not None else b""
        self._reader = None
        return held + rest

    def ending(self, estimated_input: int, tells_usage: bool, reason: Reason = Reason.LENGTH) -> bytes:
        """What ends an answer whose texts are changed, after what has gone out, as the surface does."""
        return _ending(self._texts, self._meter, estimated_input, tells_usage, reason)


def _ending(texts: EventTexts | None, meter: Meter, estimated_input: int, tells_usage: bool, reason: Reason) -> bytes:
    return b"" if texts is None else texts.ending(meter.total(estimated_input), tells_usage, reason)


class LeasedStream:
    """An event stream of which each event is paid for before it passes, so that it can be ended after any of them.

    An event is weighed as the provider sent it. `cap`: bytes of the largest event. `family`: of the model's tokenizer.
    """

    __slots__ = ("_cap", "_hides", "_meter", "_reader", "_texts")

    def __init__(self, meter: Meter, hides: bool, cap: int, family: str, texts: EventTexts | None = None) -> None:
        meter.bound(family)
        self._meter = meter
        self._hides = hides
        self._cap = cap
        self._reader = EventReader()
        self._texts = texts

    @property
    def blocked(self) -> bool:
        """Whether something was said that must not be: nothing goes out any more, the answer must end."""
        return self._texts is not None and self._texts.blocked

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
        if hidden and self._hides:
            return b""
        return event if self._texts is None else self._texts.event(event)

    def tail(self) -> bytes:
        """What was held back of the texts, after the last event."""
        return b"" if self._texts is None else self._texts.end()

    def ending(self, estimated_input: int, tells_usage: bool, reason: Reason = Reason.LENGTH) -> bytes:
        """What ends the answer after the events that passed, as the surface does where a cap is reached.

        Another reason there is only where texts are changed.
        """
        if self._texts is None:
            return self._meter.ending(estimated_input, tells_usage)
        return _ending(self._texts, self._meter, estimated_input, tells_usage, reason)


class Document:
    """A JSON answer that flows past: the whole of a small one is kept until its end.

    Of a large one only the ends are read: its id, where it is the first field, and the usage in its tail. Its images
    are counted as they flow, since an answer that has some is nearly always large.

    Where its texts are changed, all of it is held back to its end, up to `cap` bytes.
    """

    __slots__ = ("_held", "_id", "_images", "_large", "_meter", "_parts", "_size")

    def __init__(self, meter: Meter, texts: Texts | None = None, cap: int = PARSE_WHOLE) -> None:
        self._held = None if texts is None else _Held(texts, cap)
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

    @property
    def blocked(self) -> bool:
        """Whether it says something that must not be said: nothing of it goes out."""
        return self._held is not None and self._held.blocked

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return 0 if self._held is None else self._held.size

    @property
    def overlong(self) -> bool:
        """Whether it has grown beyond the cap, and its texts cannot be changed."""
        return self._held is not None and self._held.overlong

    def release(self) -> bytes:
        """What is held back, as it came; from here on all bytes pass."""
        return b"" if self._held is None else self._held.release()

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """What to send instead of the chunk, or None to send it as it is."""
        self.take(chunk, end)
        return self.changed(end)

    def take(self, chunk: bytes, end: bool) -> None:
        """The first half of `feed`, which takes no time."""
        self._read(chunk, end)
        if self._held is not None:
            self._held.take(chunk)

    def changed(self, end: bool) -> bytes | None:
        """The other half, which may take its time, in a thread."""
        return None if self._held is None else self._held.changed(end)

    def _read(self, chunk: bytes, end: bool) -> None:
        self._parts.append(chunk)
        self._size += len(chunk)
        if self._large:
            self._count_images(chunk)
        if self._size > PARSE_WHOLE:
            self._keep_tail(b"".join(self._parts))
        if end:
            self._finish(b"".join(self._parts))

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


class _Held:
    """A body that is held back to its end, and then changed."""

    __slots__ = ("_cap", "_parts", "_released", "_texts", "size")

    def __init__(self, texts: Texts, cap: int) -> None:
        self._texts = texts
        self._cap = cap
        self._parts: list[bytes] = []
        self.size = 0
        self._released = False

    @property
    def blocked(self) -> bool:
        return self._texts.blocked

    @property
    def overlong(self) -> bool:
        return self.size > self._cap

    def take(self, chunk: bytes) -> None:
        if not self._released:
            self._parts.append(chunk)
            self.size += len(chunk)

    def changed(self, end: bool) -> bytes | None:
        """Nothing until the end; nothing at all of what is overlong, until it is released, or blocked.

        None where it is released.
        """
        if self._released:
            return None
        if self.overlong or not end:
            return b""
        body = b"".join(self._parts)
        changed = document(self._texts, body)
        self._parts = [body] if self._texts.blocked else []
        return b"" if self._texts.blocked else changed

    def release(self) -> bytes:
        """What is held back, as it came."""
        held = b"".join(self._parts)
        self._parts, self.size, self._released = [], 0, True
        return held


class PlainText:
    """An answer that is one text, such as a transcript: held back to its end, up to `cap` bytes, and changed."""

    __slots__ = ("_held",)
    unread = True

    def __init__(self, texts: Texts, cap: int) -> None:
        self._held = _Held(texts, cap)

    @property
    def blocked(self) -> bool:
        """Whether it says something that must not be said: nothing of it goes out."""
        return self._held.blocked

    @property
    def held(self) -> int:
        """Bytes that are held back."""
        return self._held.size

    @property
    def overlong(self) -> bool:
        """Whether it has grown beyond the cap."""
        return self._held.overlong

    def feed(self, chunk: bytes, end: bool) -> bytes | None:
        """What to send instead of the chunk, or None to send it as it is."""
        self.take(chunk, end)
        return self.changed(end)

    def take(self, chunk: bytes, end: bool) -> None:  # noqa: ARG002 - the shape of an answer
        """The first half of `feed`, which takes no time."""
        self._held.take(chunk)

    def changed(self, end: bool) -> bytes | None:
        """The other half, which may take its time, in a thread."""
        return self._held.changed(end)

    def release(self) -> bytes:
        """What is held back, as it came; from here on all bytes pass."""
        return self._held.release()


class Opaque:
    """An answer that is neither, audio or text: it passes unread."""

    __slots__ = ()
    unread = True
    blocked = False
    overlong = False

    def feed(self, chunk: bytes, end: bool) -> bytes | None:  # noqa: ARG002 - the shape of an answer
        """Always None."""
        return None


Answer = Stream | LeasedStream | Document | PlainText | Opaque

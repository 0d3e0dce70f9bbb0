"""Changing what an answer says while it streams: values are put back in it, or taken out.

Who changes a text may hold back its end until more is known, for each text apart. So events become longer, shorter,
or none: what is held back goes out with a later delta of its text, and at the latest before the event that ends it.

Only the bytes of changed strings are replaced. Where a text is changed, its probabilities of tokens go: they spell it.
"""

import re
from collections.abc import Container, Hashable
from typing import Any, Protocol

import orjson

from extproc.dialects import json_strings, sse
from extproc.dialects.deltas import Channel, Delta, Object, Reading, Shape
from extproc.dialects.endings import Ending, Reason
from extproc.dialects.json_spans import splice
from extproc.dialects.json_strings import Path
from extproc.dialects.pieces import Piece
from extproc.edits import Edit, Span
from extproc.model import Usage


class Texts(Protocol):
    """Changes the texts of one answer. Errors of whoever looks through them come out of every method."""

    @property
    def blocked(self) -> bool:
        """Whether something was said that must not be: the answer has to end."""

    def feed(self, channel: Hashable, text: str, json: bool) -> str:
        """The next piece of a text; gives what may go out. `json`: it is JSON, in which values are escaped."""

    def finish(self, channel: Hashable, json: bool) -> str:
        """What is held back of a text, at its end."""

    def open_channels(self) -> list[Hashable]:
        """The texts of which something is held back."""

    def document(self, body: bytes, again: bool = False) -> list[Edit]:
        """The edits of all strings of a JSON text. `again`: they have been told before, and do not count."""

    def text(self, text: str, json: bool = False) -> str:
        """What becomes of a whole text. `json`: it looks like JSON, but is none."""


def document(texts: Texts, body: bytes) -> bytes:
    """What is called JSON, or a text, with its texts changed; what is no JSON, as one text.

    What of that is no UTF-8, is replaced only where something else changes.
    """
    if body.startswith(_MARK):
        return _MARK + document(texts, body[len(_MARK) :])
    try:
        orjson.loads(body)
    except ValueError:
        text = body.decode("utf-8", "replace")
        said = texts.text(text, _JSON.match(text) is not None)
        return body if said == text else said.encode()
    return _whole(texts, body)


def _whole(texts: Texts, body: bytes, again: bool = False) -> bytes:
    edits = texts.document(body, again)
    return json_strings.without_logprobs(splice(body, edits)) if edits else body


_DONE = b"[DONE]"
_LAST = ("message_stop", "response.completed", "response.incomplete", "response.failed")
_NUMBER = re.compile(rb'"sequence_number"(?<!\\"sequence_number")[ \t\r\n]*+:[ \t\r\n]*+([0-9]++)')
_ENDS = (b"\n\n", b"\n\r\n", b"\n\r", b"\r\r", b"\r\r\n")  # of an event
_MARK = b"\xef\xbb\xbf"  # of UTF-8, before a stream or a document
_JSON = re.compile(r"\s*+[{\[]\s*+[{\[\"}\]]")  # as it begins, whole or not
_FIELDS = frozenset((b"", b"data", b"event", b"id", b"retry"))  # of an event; a comment has no name
_LINES = re.compile(rb"\r\n|\n|\r")

_Out = tuple[bytes, Object]  # an event, as it goes out and as it is understood


class EventTexts:
    """The events of one stream. `ending`: of its surface, where it has one.

    Data that are no JSON are looked through as one text, so that nothing passes unseen that a client might read. Once
    something is blocked, nothing goes out any more, the event that has it included.
    """

    __slots__ = (
        "_ending",
        "_is_cut",
        "_is_named",
        "_last_piece",
        "_met",
        "_number",
        "_open",
        "_pieces",
        "_shape",
        "_shift",
        "_texts",
        "finished",
    )

    def __init__(self, shape: Shape, texts: Texts, ending: Ending | None = None) -> None:
        self._shape = shape
        self._texts = texts
        self._ending = ending
        self._open: dict[Channel, tuple[Object, Delta]] = {}
        self._pieces: dict[Channel, bytes] = {}  # the last events of channels, where nobody has parsed them yet
        self._last_piece: bytes | None = None  # the last event that went out, where nobody has parsed it yet
        self._met: bytes | None = None  # the last event that came
        self._is_cut = False  # the last event came without its end
        self._is_named = False
        self._number: int | None = None  # of the last event that went out
        self._shift = 0  # of numbers: events that were added, less those that were swallowed
        self.finished = False  # the surface's last event has gone out

    @property
    def blocked(self) -> bool:
        """Whether something was said that must not be: the answer has to end."""
        return self._texts.blocked

    def event(self, raw: bytes, piece: Piece | None = None) -> bytes:
        """What goes out in place of one event: itself, one or more others, or nothing yet.

        `piece`: what it is a piece of, where that is known.
        """
        if self._texts.blocked:
            return b""
        if piece is not None and piece.text:
            channel = piece.channel
            if channel in self._open:
                return self._continued(raw, piece, channel)
        self._catch_up()
        self._is_cut = not raw.endswith(_ENDS)
        data = sse.data(raw)
        event = _load(data)
        if event is None:
            return self._unread(raw, data)
        self._met = raw
        self._is_named = raw.startswith(b"event:")
        return self._sent(self._changed(raw, data, event))

    def _continued(self, raw: bytes, piece: Piece, channel: Channel) -> bytes:
        """The short way of an event that is a mere piece of a text that has begun. It comes to the same as the other.

        Who goes the other way later has to catch up: only the last of such events can matter then.
        """
        self._met = raw
        self._is_cut = self._is_named = False
        said = self._texts.feed(channel, piece.text, self._open[channel][1].json)
        self._pieces[channel] = raw
        if self._texts.blocked or (not said and piece.is_bare):
            return b""
        self._last_piece = raw
        if said == piece.text:
            return raw
        start, end = piece.span
        return b"".join((raw[:start], json_strings.escaped(said), raw[end:]))

    def _catch_up(self) -> None:
        """Read what went the short way, as far as it matters to what comes."""
        for channel, raw in self._pieces.items():
            event = orjson.loads(sse.data(raw))
            (delta,) = self._shape.read(event).deltas
            self._open[channel] = event, delta
        self._pieces.clear()
        if self._last_piece is not None and self._ending is not None:
            self._ending.follow(orjson.loads(sse.data(self._last_piece)))
        self._last_piece = None

    def end(self) -> bytes:
        """What is still held back, at the end of the stream."""
        self._catch_up()
        held = self._sent(self._rests(list(self._open)))
        return b"\n\n" + held if held and self._is_cut else held

    def _unread(self, raw: bytes, data: bytes) -> bytes:
        """What goes out for an event that is no JSON object; before the last one of a stream, what is held back."""
        if raw.startswith(_MARK) and not data:
            return _MARK + self.event(raw[len(_MARK) :])
        if data and data != _DONE:
            out = _framed(raw, data, document(self._texts, data))
        else:
            out = raw if _is_event(raw) else document(self._texts, raw)
        if data == _DONE or self._is_cut:
            self._is_cut = False
            out = self.end() + out
        self.finished = self.finished or (data == _DONE and not self.blocked)
        return b"" if self.blocked else out

    def ending(self, usage: Usage, tells_usage: bool, reason: Reason) -> bytes:
        """End the stream here. What is held back goes out before, unless something is blocked.

        Empty where the surface has no such end, or where it has ended.
        """
        self._catch_up()
        held = b"" if self.blocked or reason is Reason.CONTENT else self.end()
        if self._ending is None or self.finished:
            return held
        self.finished = True
        met = None if self._met is None else _load(sse.data(self._met))
        try:
            return held + self._ending.close(usage, tells_usage, met, reason)
        except orjson.JSONEncodeError:  # the backend nested something deeper than can be written
            return held

    def _sent(self, events: list[_Out]) -> bytes:
        if self.blocked:
            return b""
        for _, event in events:
            if self._ending is not None:
                self._ending.follow(event)
            self.finished = self.finished or event.get("type") in _LAST
        return b"".join([raw for raw, _ in events])

    def _changed(self, raw: bytes, data: bytes, event: dict[str, object]) -> list[_Out]:
        reading = self._shape.read(event)
        deltas = reading.deltas
        ended = dict.fromkeys(self._shape.ends(event, reading, self._open))
        here = {delta.channel for delta in deltas} if ended else ()
        out = self._rests([channel for channel in ended if channel not in here])
        new = data
        tells = json_strings.has_logprobs(data)
        betrays = tells and self._betrays(reading)
        if deltas:
            said = [self._said(event, delta, ended) for delta in deltas]
            if said != [delta.text for delta in deltas]:
                if reading.bare and not any(said):
                    self._shift -= self._is_numbered(event)
                    return out
                new = self._with(data, event, reading, said)
            elif reading.more:
                new = self._with(data, event, reading, said)
        elif reading.more:
            new = _whole(self._texts, data, reading.again)
        if tells and (betrays or new != data or self._betrays(reading)):
            new = json_strings.without_logprobs(new)
        if reading.more and new != data:
            event = orjson.loads(new)
        new = self._numbered(new, event)
        out.append((_framed(raw, data, new), event))
        return out

    def _said(self, event: Object, delta: Delta, ended: Container[Channel]) -> str:
        """What goes out of a delta."""
        channel, _, text, json = delta
        said = self._texts.feed(channel, text, json)
        if channel in ended:
            self._open.pop(channel, None)
            return said + self._texts.finish(channel, json)
        self._open[channel] = event, delta
        return said

    def _betrays(self, reading: Reading) -> bool:
        """Whether the probabilities of tokens may spell what is held back now, or what another event told."""
        held = self._texts.open_channels()
        return any(delta.channel in held for delta in reading.deltas) if reading.deltas else not reading.more

    def _with(self, data: bytes, event: dict[str, object], reading: Reading, said: list[str]) -> bytes:
        """The event with this said in place of its deltas, and with its other texts changed."""
        changed = [(delta, text) for delta, text in zip(reading.deltas, said, strict=True) if text != delta.text]
        if reading.more:
            return self._with_more(data, reading, changed)
        for delta, text in changed:
            _put(event, delta.path, text)
        spans = json_strings.places(data, [(delta.path, delta.text) for delta, _ in changed])
        edits = [Edit(span, json_strings.escaped(text)) for span, (_, text) in zip(spans, changed, strict=True)]
        return splice(data, edits)

    def _with_more(self, data: bytes, reading: Reading, changed: list[tuple[Delta, str]]) -> bytes:
        """As its deltas have been looked through, they are taken out while the rest is."""
        spans = json_strings.strings(data)
        told = {delta.path: data[spans[delta.path].start : spans[delta.path].end] for delta in reading.deltas}
        told |= {delta.path: json_strings.escaped(text) for delta, text in changed}
        put, gone = [], 0
        for path in sorted(told, key=lambda path: spans[path].start):
            at = spans[path].start - gone
            put.append(Edit(Span(at, at), told[path]))
            gone += spans[path].end - spans[path].start
        bare = splice(data, [Edit(spans[path], b"") for path in told])
        return splice(bare, [*self._texts.document(bare, reading.again), *put])

    def _rests(self, channels: list[Channel]) -> list[_Out]:
        """The events that tell what is held back of these channels, which end."""
        out = []
        for channel in channels:
            event, delta = self._open.pop(channel)
            text = self._texts.finish(channel, delta.json)
            if text:
                out.append(self._added(self._shape.like(event, delta, text)))
        return out

    def _added(self, event: dict[str, object]) -> _Out:
        if self._number is not None and self._is_numbered(event):
            self._number += 1
            self._shift += 1
            event["sequence_number"] = self._number
        name = b"event: %s\n" % str(event.get("type")).encode() if self._is_named else b""
        return b"%sdata: %s\n\n" % (name, orjson.dumps(event)), event

    def _numbered(self, data: bytes, event: dict[str, object]) -> bytes:
        """The event with the number that follows the last one, where events have been added or swallowed."""
        number = event.get("sequence_number")
        if not isinstance(number, int):
            return data
        number = event["sequence_number"] = self._number = number + self._shift
        found = _NUMBER.search(data) if self._shift else None
        return data if found is None else b"%s%d%s" % (data[: found.start(1)], number, data[found.end(1) :])

    @staticmethod
    def _is_numbered(event: Object) -> bool:
        return isinstance(event.get("sequence_number"), int)


def _put(event: Any, path: Path, text: str) -> None:
    """Set the string at this path, which the event has."""
    for step in path[:-1]:
        event = event[step]
    event[path[-1]] = text


def _is_event(raw: bytes) -> bool:
    """Whether it is one that the rules of event streams know; else somebody may read it as something else."""
    return all(line.partition(b":")[0] in _FIELDS for line in _LINES.split(raw))


def _load(data: bytes) -> dict[str, object] | None:
    if data[:1] in (b"", b"["):
        return None
    try:
        value = orjson.loads(data)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _framed(raw: bytes, data: bytes, new: bytes) -> bytes:
    """The event with other data, in the place of its own; data of several lines are moved behind what else it has."""
    if new == data:
        return raw
    at = raw.rfind(data)
    if at >= 0 and b"\n" not in data:
        return raw[:at] + b"\ndata: ".join(_LINES.split(new)) + raw[at + len(data) :]
    kept = [line for line in _LINES.split(raw) if line and line.partition(b":")[0] != b"data"]
    return b"\n".join((*kept, *(b"data: " + line for line in _LINES.split(new)))) + b"\n\n"

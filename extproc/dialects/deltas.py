"""Where the texts of an event stand that continue what earlier events said, per surface.

Whatever is a string in a delta is text, unless it is known to be something else: a field may be new to us.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import orjson

from extproc.dialects.json_strings import Path

Object = Mapping[str, object]
Channel = tuple[Hashable, ...]
"""What a text continues; begins with what ends as one: a choice, an item, a block."""


class Delta(NamedTuple):
    """A piece of a text. `json`: it is JSON itself, in which values are escaped."""

    channel: Channel
    path: Path
    text: str
    json: bool


@dataclass(slots=True)
class Reading:
    """The texts of an event.

    `more`: there are others beside the deltas, which are whole; `again`: they repeat what has been told in deltas.
    `bare`: without its deltas the event says nothing. `begins`: deltas of channels that were not there before; `over`:
    choices, items or blocks that are finished.
    """

    deltas: list[Delta] = field(default_factory=list)
    begins: list[Delta] = field(default_factory=list)
    over: set[Hashable] = field(default_factory=set)
    more: bool = False
    again: bool = False
    bare: bool = True


Open = Mapping[Channel, tuple[Object, Delta]]
"""The channels that have not ended, each with the last event that told of it."""


class Shape(Protocol):
    """The events of one surface, of one stream."""

    def read(self, event: Object) -> Reading:
        """The texts of an event."""

    def ends(self, event: Object, reading: Reading, opened: Open) -> list[Channel]:
        """The channels that end with this event or before it, whether it has a delta of them or not."""

    def like(self, event: Object, delta: Delta, text: str) -> dict[str, object]:
        """An event that continues the delta of another one with this text."""


_JSON = frozenset({"arguments", "partial_json"})
_MESSAGE = frozenset({"content", "text"})  # what the caller asked to be JSON, where it did
_SILENT = frozenset({"type", "format", "index"})
_WHOLE = frozenset(
    {
        *("role", "id", "object", "status", "name", "url", "image_url", "file_id", "annotations", "citation"),
        *("citations", "data", "signature", "thought_signature", "encrypted_content"),
    }
)
"""What is told at once, and not in pieces: names, and what only its provider can read."""
_DEEPEST = 16


def _read_delta(reading: Reading, delta: object, at: Path, of: Channel, json_output: bool) -> None:
    """Add the texts in the delta at this path. Parts of a list are told apart by their `index`, where they have one."""
    left = [(delta, at, of)]
    for value, path, channel in left:  # which grows meanwhile
        if isinstance(value, dict):
            parts: Iterable[tuple[str | int, object]] = value.items()
        elif isinstance(value, list):
            parts = enumerate(value)
        else:
            continue
        for step, inner in parts:
            if not inner or step in _SILENT:
                continue
            if step in _WHOLE or len(path) > _DEEPEST:
                reading.more = reading.more or inner != "assistant"  # which some servers repeat in every chunk
            elif isinstance(inner, str):
                is_json = step in _JSON or (json_output and step in _MESSAGE)
                reading.deltas.append(Delta((*channel, step), (*path, step), inner, is_json))
            else:
                name = _index(inner, step) if isinstance(step, int) else step
                left.append((inner, (*path, step), (*channel, name)))


def _index(value: object, at: int) -> int:
    """What tells a part of a list apart: it is said, or it is its place there."""
    index = value.get("index") if isinstance(value, dict) else None
    return index if isinstance(index, int) else at


def _only(value: Any, path: Path, text: str) -> Any:
    """The value along the path alone, with this text at its end, and with what says where that is and of which type."""
    if not path:
        return text
    step = path[0]
    inner = _only(value[step], path[1:], text)
    return [inner] if isinstance(step, int) else {**_copied(value, ("index", "type")), step: inner}


def _copied(event: Object, names: Iterable[str]) -> dict[str, object]:
    """These fields of it. A backend may nest in them what cannot be written."""
    return {name: event[name] for name in names if name in event and not isinstance(event[name], dict | list)}


# ---- chat completions and completions ---------------------------------------------------------------

_CHUNK = ("id", "object", "created", "model", "system_fingerprint", "service_tier", "provider")
_CHUNK_FIELDS = frozenset((*_CHUNK, "choices", "usage", "obfuscation"))
_CHOICE_FIELDS = frozenset({"index", "finish_reason", "native_finish_reason", "logprobs", "content_filter_results"})


class ChatDeltas:
    """Chunks of chat completions and completions: a channel for each string in the delta of each choice.

    A choice ends with its reason to finish. What it has said before its first tool call, or before the next one, has
    ended then, too: SDKs hand it on as whole at that point.
    """

    __slots__ = ("_json_output", "_seen")

    def __init__(self, json_output: bool = False) -> None:
        self._json_output = json_output
        self._seen: set[Channel] = set()

    def read(self, event: Object) -> Reading:
        reading = Reading()
        choices = event.get("choices")
        if isinstance(choices, list):
            for at, choice in enumerate(choices):
                self._read_choice(reading, choice, at)
        if not event.keys() <= _CHUNK_FIELDS and any(event[name] for name in event.keys() - _CHUNK_FIELDS):
            reading.more = True
        reading.begins = [delta for delta in reading.deltas if delta.channel not in self._seen]
        self._seen.update([delta.channel for delta in reading.begins])
        reading.bare = reading.bare and not (reading.begins or reading.more or event.get("usage"))
        return reading

    def _read_choice(self, reading: Reading, choice: object, at: int) -> None:
        if not isinstance(choice, dict):
            reading.more = True
            return
        channel: Channel = (_index(choice, at),)
        for name, value in choice.items():
            if not value or name in ("index", "logprobs"):
                continue
            if name in ("delta", "message"):
                _read_delta(reading, value, ("choices", at, name), channel, self._json_output)
            elif name == "text" and isinstance(value, str):
                reading.deltas.append(Delta((*channel, name), ("choices", at, name), value, self._json_output))
            else:
                reading.bare = False
                if name == "finish_reason":
                    reading.over.update(channel)
                reading.more = reading.more or name not in _CHOICE_FIELDS

    def ends(self, event: Object, reading: Reading, opened: Open) -> list[Channel]:
        if event.get("error"):
            return list(opened)
        if not reading.over and not reading.begins:
            return []
        here = {delta.channel: delta for delta in reading.deltas}
        begun = {delta.channel[0] for delta in reading.begins}
        ended = [
            channel
            for channel, (_, last) in opened.items()
            if channel[0] in reading.over or (channel[0] in begun and channel not in here and _may_be_over(last))
        ]
        arguments = {delta.channel for delta in reading.begins if delta.json and _is_whole(delta.text)}
        new = [channel for channel in here if channel not in opened]
        return ended + [channel for channel in new if channel[0] in reading.over or channel in arguments]

    def like(self, event: Object, delta: Delta, text: str) -> dict[str, object]:
        (choice,) = _only(event["choices"], delta.path[1:], text)
        choices = [{**choice, "logprobs": None, "finish_reason": None}]
        silent = {"usage": None} if "usage" in event else {}
        return {**_copied(event, _CHUNK), "choices": choices, **silent}


def _may_be_over(last: Delta) -> bool:
    """Whether a text may end with this piece: the arguments of a tool call only behind a bracket."""
    return not last.json or last.text.rstrip()[-1:] in ("}", "]")


def _is_whole(text: str) -> bool:
    """Whether arguments came in one piece, as some servers send them."""
    try:
        return text[-1:] == "}" and isinstance(orjson.loads(text), dict)
    except ValueError:
        return False


# ---- events with a type -----------------------------------------------------------------------------

_AGAIN = ("response.completed", "response.incomplete", "response.failed")
_LAST = (*_AGAIN, "response.cancelled", "error")
_PLACE = ("type", "response_id", "item_id", "output_index", "content_index", "summary_index", "sequence_number")
_PLACE_FIELDS = frozenset((*_PLACE, "delta", "logprobs", "obfuscation"))
_ARGUMENTS = ("call_arguments.delta", "call.arguments.delta")


class TypedDeltas:
    """Events of Responses and of what is like it, such as transcripts: `*.delta`, and `*.done` with the whole again."""

    __slots__ = ("_json_output", "_shown")

    def __init__(self, json_output: bool = False) -> None:
        self._json_output = json_output
        self._shown: set[Hashable] = set()  # items that came in deltas

    def read(self, event: Object) -> Reading:
        kind, delta = event.get("type"), event.get("delta")
        if not isinstance(kind, str) or not kind.endswith(".delta") or not delta:
            return Reading(more=True, again=self._is_again(kind, event), bare=False)
        if kind.endswith("audio.delta"):
            return Reading(more=not event.keys() <= _PLACE_FIELDS, bare=False)
        reading = Reading()
        place = _item(event)
        self._shown.add(place)
        channel: Channel = (place, _part(event), kind)
        if isinstance(delta, str):
            is_json = kind.endswith(_ARGUMENTS) or (self._json_output and kind == "response.output_text.delta")
            reading.deltas.append(Delta(channel, ("delta",), delta, is_json))
        else:
            _read_delta(reading, delta, ("delta",), channel, self._json_output)
        if not event.keys() <= _PLACE_FIELDS:
            reading.more = True
        reading.bare = reading.bare and not reading.more
        return reading

    def _is_again(self, kind: object, event: Object) -> bool:
        if not isinstance(kind, str) or not self._shown:
            return kind == "response.in_progress"
        return kind in _AGAIN or (kind.endswith(".done") and _item(event) in self._shown)

    def ends(self, event: Object, reading: Reading, opened: Open) -> list[Channel]:  # noqa: ARG002 - the shape
        kind = event.get("type")
        if not opened or not isinstance(kind, str):
            return []
        if kind in _LAST:
            return list(opened)
        if not kind.endswith(".done"):
            return []
        place, part = _item(event), _part(event)
        return [channel for channel in opened if channel[0] == place and part in (None, channel[1])]

    def like(self, event: Object, delta: Delta, text: str) -> dict[str, object]:
        tokens: dict[str, object] = {"logprobs": []} if "logprobs" in event else {}
        return {**_copied(event, _PLACE), "delta": _only(event["delta"], delta.path[1:], text), **tokens}


def _item(event: Object) -> int | str | None:
    """Of what the event tells. Some servers give an item another id in every event."""
    at, name = event.get("output_index"), event.get("item_id")
    return at if isinstance(at, int) else name if isinstance(name, str) else None


def _part(event: Object) -> int | None:
    part = event.get("content_index", event.get("summary_index"))
    return part if isinstance(part, int) else None


# ---- Anthropic's messages ---------------------------------------------------------------------------

_QUIET = ("ping", "content_block_stop", "message_stop")
_BLOCK_FIELDS = frozenset({"type", "index"})


class BlockDeltas:
    """Events of Anthropic's messages: blocks, each with deltas of texts."""

    __slots__ = ("_json_output",)

    def __init__(self, json_output: bool = False) -> None:
        self._json_output = json_output

    def read(self, event: Object) -> Reading:
        kind = event.get("type")
        if kind != "content_block_delta":
            return Reading(more=kind not in _QUIET or not event.keys() <= _BLOCK_FIELDS, bare=False)
        reading = Reading()
        _read_delta(reading, event.get("delta"), ("delta",), (_block(event),), self._json_output)
        reading.more = reading.more or not event.keys() <= _BLOCK_FIELDS | {"delta"}
        reading.bare = reading.bare and not reading.more
        return reading

    def ends(self, event: Object, reading: Reading, opened: Open) -> list[Channel]:  # noqa: ARG002 - the shape
        kind = event.get("type")
        if kind == "content_block_stop":
            return [channel for channel in opened if channel[0] == _block(event)]
        return list(opened) if kind in ("message_delta", "message_stop", "error") else []

    def like(self, event: Object, delta: Delta, text: str) -> dict[str, object]:
        return dict(_only(event, delta.path, text))


def _block(event: Object) -> int | None:
    index = event.get("index")
    return index if isinstance(index, int) else None

"""The output of a response as it grows: its items, and the events that tell of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import orjson

Out = dict[str, object]

OPEN, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


class Events:
    """The events of one stream, numbered."""

    __slots__ = ("_number",)

    def __init__(self) -> None:
        self._number = -1

    def say(self, kind: str, told: Mapping[str, object]) -> bytes:
        self._number += 1
        event = {"type": kind, "sequence_number": self._number, **told}
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(event))


class Item(Protocol):
    """One item of the output. Its events say where it stands: its id and its place."""

    @property
    def at(self) -> int:
        """Its place in the output."""

    def close(self, events: Events, status: str) -> Iterator[bytes]:
        """The events that end it."""

    def whole(self) -> Out:
        """The item as far as it came."""


class _Kind(NamedTuple):
    """What tells of a part: the name of its events, and its field with the text."""

    events: str
    text: str


TEXT, REFUSAL, REASONING = "output_text", "refusal", "reasoning_text"
_KINDS = {
    TEXT: _Kind("response.output_text", "text"),
    REFUSAL: _Kind("response.refusal", "refusal"),
    REASONING: _Kind("response.reasoning_text", "text"),
}


@dataclass(slots=True)
class _Part:
    """A text of a message or of reasoning."""

    kind: str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Out] = field(default_factory=list)
    annotations: list[Out] = field(default_factory=list)

    def told(self) -> Out:
        """The part as far as it came."""
        part: Out = {"type": self.kind, _KINDS[self.kind].text: "".join(self.pieces)}
        more: Out = {"annotations": self.annotations, "logprobs": self.logprobs}
        return {**part, **more} if self.kind == TEXT else part


@dataclass(slots=True)
class Said:
    """A message, or reasoning: parts one after the other."""

    id: str
    at: int
    reasons: bool
    status: str = OPEN
    _parts: list[_Part] = field(default_factory=list)

    def open(self, events: Events) -> bytes:
        return events.say("response.output_item.added", {"output_index": self.at, "item": self.whole()})

    def add(self, events: Events, kind: str, text: str, logprobs: list[Out]) -> Iterator[bytes]:
        """A piece of a part; one of another kind ends the part before."""
        if not self._parts or self._parts[-1].kind != kind:
            yield from self._close_part(events)
            part = _Part(kind)
            self._parts.append(part)
            yield events.say("response.content_part.added", {**self._place(), "part": part.told()})
        part = self._parts[-1]
        part.pieces.append(text)
        part.logprobs += logprobs
        more: Out = {"logprobs": logprobs} if kind == TEXT else {}
        yield events.say(f"{_KINDS[kind].events}.delta", {**self._place(), "delta": text, **more})

    def annotate(self, events: Events, annotation: Out) -> Iterator[bytes]:
        """A source of the text that is being said."""
        if self._parts and self._parts[-1].kind == TEXT:
            known = self._parts[-1].annotations
            told = {**self._place(), "annotation_index": len(known), "annotation": annotation}
            known.append(annotation)
            yield events.say("response.output_text.annotation.added", told)

    def _close_part(self, events: Events) -> Iterator[bytes]:
        if not self._parts:
            return
        part = self._parts[-1]
        told = part.told()
        text = _KINDS[part.kind].text
        more: Out = {"logprobs": part.logprobs} if part.kind == TEXT else {}
        yield events.say(f"{_KINDS[part.kind].events}.done", {**self._place(), text: told[text], **more})
        yield events.say("response.content_part.done", {**self._place(), "part": told})

    def _place(self) -> Out:
        return {"item_id": self.id, "output_index": self.at, "content_index": len(self._parts) - 1}

    def close(self, events: Events, status: str) -> Iterator[bytes]:
        yield from self._close_part(events)
        self.status = status
        yield events.say("response.output_item.done", {"output_index": self.at, "item": self.whole()})

    def whole(self) -> Out:
        content = [part.told() for part in self._parts]
        if self.reasons:
            return {"id": self.id, "type": "reasoning", "summary": [], "content": content, "status": self.status}
        return {"id": self.id, "type": "message", "status": self.status, "role": "assistant", "content": content}


@dataclass(slots=True)
class Called:
    """A call of a function."""

    id: str
    at: int
    call_id: str
    name: str
    namespace: str | None
    status: str = OPEN
    _pieces: list[str] = field(default_factory=list)

    def open(self, events: Events) -> bytes:
        return events.say("response.output_item.added", {"output_index": self.at, "item": self.whole()})

    def add(self, events: Events, arguments: str) -> bytes:
        self._pieces.append(arguments)
        return events.say("response.function_call_arguments.delta", {**self._place(), "delta": arguments})

    def _place(self) -> Out:
        return {"item_id": self.id, "output_index": self.at}

    def close(self, events: Events, status: str) -> Iterator[bytes]:
        arguments = "".join(self._pieces)
        yield events.say(
            "response.function_call_arguments.done", {**self._place(), "arguments": arguments, "name": self.name}
        )
        self.status = status
        yield events.say("response.output_item.done", {"output_index": self.at, "item": self.whole()})

    def whole(self) -> Out:
        inside: Out = {} if self.namespace is None else {"namespace": self.namespace}
        return {
            "id": self.id,
            "type": "function_call",
            "status": self.status,
            "arguments": "".join(self._pieces),
            "call_id": self.call_id,
            "name": self.name,
            **inside,
        }

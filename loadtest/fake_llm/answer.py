"""What a provider gives back: a whole body, or a stream of events."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

JSON = "application/json"
EVENT_STREAM = "text/event-stream; charset=utf-8"
CREATED = 1767225600
"""The creation time of every answer (seconds since 1970): equal calls have equal answers."""

Json = dict[str, Any]


class Event(NamedTuple):
    """One server-sent event: `data` is one line, `tokens` is what the model generated for it."""

    data: bytes
    tokens: int = 0
    name: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response to be delivered. With `events` it is a stream and `body` is empty.

    `error_event` is what this dialect sends inside a stream that breaks.
    `output_tokens` belongs to the whole body; a stream carries its tokens on its events. `classes`: tokens among
    those of the whole answer that have a price of their own, by name. `model` is as the call names it.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)
    events: Iterator[Event] | None = None
    error_event: Event | None = None
    model: str = ""


def event(payload: Json, tokens: int = 0, *, named: bool = False) -> Event:
    """An event from its JSON payload; `named` repeats the payload's type on an `event:` line."""
    return Event(orjson.dumps(payload), tokens, payload["type"] if named else "")

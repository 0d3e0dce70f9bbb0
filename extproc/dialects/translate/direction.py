"""What one direction of translation consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

Json = Mapping[str, object]


class AnswerTranslation(Protocol):
    """Turns one answer of a backend into what the client's surface would have said. A fresh one for each answer.

    Never raises for what a provider sends: what cannot be read is left out, or said as an error of the surface.
    """

    def document(self, body: bytes) -> bytes:
        """A whole answer with status 200 that is no stream."""

    def event(self, event: bytes) -> bytes:
        """One event of a stream, with its blank line, as `sse.EventReader` gives it: none, one or more in its place."""

    def end(self) -> bytes:
        """What follows the last event; nothing that says the answer is complete where the backend did not say so."""

    def error(self, status: int, body: bytes) -> bytes:
        """The body of an answer with status 400 and more, in the surface's own shape."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer is to: the client's request, the name that the model has at the backend, when the answer began."""

    request: Json
    model: str
    began: int  # Unix time, for answers that must say when they were made


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a request that a direction cannot express. `name` is dotted: `response_format.json_schema.strict`."""

    name: str
    why: str = ""  # a sentence for the caller, where the name alone does not say it


@dataclass(frozen=True, slots=True)
class Direction:
    """From one surface to one dialect.

    `refused`: the first field of a request (parsed JSON) that cannot be expressed; None: all can. Whatever it lets
    pass, `request` translates: the request (as the client may send it: fields in any order, of any type that `refused`
    let pass), the name that the model has at the backend; gives the body's JSON.
    `path`: of the operation, as OPERATION_PATHS have it where the backend serves OpenAI's operations, else from behind
    the backend's prefix: of the deployed model's name and whether it streams.
    """

    refused: Callable[[Json], Field | None]
    request: Callable[[Json, str], dict[str, object]]
    path: Callable[[str, bool], str]
    answer: Callable[[Asked], AnswerTranslation]

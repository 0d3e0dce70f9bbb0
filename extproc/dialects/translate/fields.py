"""Taking a client's request apart, so that no field of it is left behind unseen."""

from collections.abc import Callable

import orjson

from extproc.dialects import json_spans
from extproc.dialects.translate.direction import Field, Json

_ANY = json_spans.Shape({})
_NAME = 64  # characters of a field's name that are told back: it is the caller's text


class Inexpressible(Exception):
    """Raised where a field cannot be expressed in the backend's dialect."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(name)
        self.field = Field(name, why)


def first_inexpressible(request: Json, translate: Callable[[Json], object]) -> Field | None:
    """The field over which a translation of the request stumbles first; None where it goes through."""
    try:
        translate(request)
    except Inexpressible as stumbled:
        return stumbled.field
    return None


class Fields:
    """An object of a request whose fields are taken one by one. Null is absent.

    Each reader takes the field and raises `Inexpressible` with its dotted name where its type is another. `at`: the
    dotted name of the object itself, empty for the whole request.
    """

    __slots__ = ("_left", "at")

    def __init__(self, value: object, at: str = "") -> None:
        self.at = at
        if not isinstance(value, dict):
            raise Inexpressible(at, "It must be an object.")
        self._left = {name: inner for name, inner in value.items() if inner is not None}

    def name(self, field: str) -> str:
        """The dotted name of one of its fields."""
        name = field[:_NAME]
        return f"{self.at}.{name}" if self.at else name

    def cannot(self, field: str, why: str = "") -> Inexpressible:
        """To be raised: this field cannot be expressed."""
        return Inexpressible(self.name(field), why)

    def take(self, field: str) -> object:
        """The field of any type; None where it is absent."""
        return self._left.pop(field, None)

    def text(self, field: str) -> str | None:
        value = self.take(field)
        if value is None or isinstance(value, str):
            return value
        raise self.cannot(field, "It must be a string.")

    def need(self, field: str) -> str:
        """A string that must be there."""
        value = self.text(field)
        if value is None:
            raise self.cannot(field, "It is required.")
        return value

    def flag(self, field: str) -> bool:
        value = self.take(field)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.cannot(field, "It must be true or false.")

    def inner(self, field: str) -> "Fields | None":
        """An object in a field."""
        value = self.take(field)
        return None if value is None else Fields(value, self.name(field))

    def need_inner(self, field: str) -> "Fields":
        """An object that must be there."""
        value = self.inner(field)
        if value is None:
            raise self.cannot(field, "It is required.")
        return value

    def written(self, field: str) -> dict[str, object]:
        """The JSON object that a string says; absent and empty are one without fields."""
        text = (self.text(field) or "{}").encode()
        try:
            json_spans.measure(text)
            json_spans.spans(text, _ANY)  # is nested no deeper than a body may be
            value: dict[str, object] = orjson.loads(text)
        except ValueError:
            raise self.cannot(field, "It must be a JSON object.") from None
        return value

    def inners(self, field: str) -> "list[Fields]":
        """A list of objects in a field; absent is empty."""
        value = self.take(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.cannot(field, "It must be a list.")
        return [Fields(item, self.name(field)) for item in value]

    def only(self, field: str, *allowed: object) -> None:
        """Take a field that says nothing to the backend with one of these values, and cannot be said with another."""
        value = self.take(field)
        if value is not None and value not in allowed:
            raise self.cannot(field)

    def besides(self, *fields: str) -> None:
        """Take fields that mean nothing to the backend, whatever they say."""
        for field in fields:
            self._left.pop(field, None)

    def done(self) -> None:
        """What is left now is what nobody took: the first of it cannot be expressed."""
        for field in self._left:
            raise self.cannot(field)

"""Reading the fields of a JSON request with the types that the provider's API gives them.

A wrong type is the caller's mistake and ends the call here, so that no policy ever has to guess.
Unknown fields are nobody's business: they pass.
"""

from collections.abc import Mapping

import orjson

from extproc.dialects import json_spans
from extproc.dialects.json_spans import Shape
from extproc.edits import Span
from extproc.refusals import DUPLICATE_FIELD, INVALID_JSON, INVALID_VALUE, Refused

Object = Mapping[str, object]
Spans = Mapping[tuple[str, ...], Span]

MAX_TOKENS = 10_000_000
MAX_CHOICES = 128


def parse(body: bytes, shape: Shape, known: dict[str, object] | None = None) -> tuple[dict[str, object], Spans]:
    """The parsed body and the spans of what policy reads in it. `known`: the body, where it has been parsed already."""
    try:
        json_spans.measure(body)
        spans = json_spans.spans(body, shape)
        parsed = orjson.loads(body) if known is None else known
    except json_spans.RepeatedKey as repeated:
        raise Refused(
            DUPLICATE_FIELD,
            f"The field `{repeated.key}` is given twice, or in another spelling, in one object. Send it once.",
            repeated.key,
        ) from None
    except json_spans.TooComplex:
        raise Refused(INVALID_JSON, "The request body is nested too deep or has too many parts.") from None
    except ValueError:
        raise Refused(INVALID_JSON, "The request body is not valid JSON in UTF-8.") from None
    return parsed, spans


def _wrong(name: str, wanted: str) -> Refused:
    return Refused(INVALID_VALUE, f"`{name}` must be {wanted}.", name)


def text(source: Object, name: str) -> str | None:
    """A string, or None where it is absent or null."""
    value = source.get(name)
    if value is None or isinstance(value, str):
        return value
    raise _wrong(name, "a string")


def flag(source: Object, name: str) -> bool:
    """A boolean; absent and null are false."""
    value = source.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _wrong(name, "true or false")


def count(source: Object, name: str, least: int = 1, most: int = MAX_TOKENS) -> int | None:
    """A whole number in bounds, or None where it is absent or null."""
    value = source.get(name)
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _wrong(name, f"a whole number from {least} to {most}")


def mapping(source: Object, name: str) -> Object | None:
    """An object, or None where it is absent or null."""
    value = source.get(name)
    if value is None or isinstance(value, dict):
        return value
    raise _wrong(name, "an object")


def says_json(format_: object) -> bool:
    """Whether this, of a request, asks for an answer in JSON."""
    return isinstance(format_, dict) and format_.get("type") in ("json_object", "json_schema")


def objects(source: Object, name: str) -> list[Object]:
    """A list of objects; absent and null are empty."""
    value = source.get(name)
    if value is None:
        return []
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise _wrong(name, "a list of objects")


def content(source: Object, name: str = "content") -> str | list[Object] | None:
    """Message content: a string, a list of part objects, or None."""
    value = source.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(part, dict) for part in value):
        return value
    raise _wrong(name, "a string or a list of parts")


def required(source: Object, name: str) -> None:
    if source.get(name) is None:
        raise Refused(INVALID_VALUE, f"`{name}` is required.", name)

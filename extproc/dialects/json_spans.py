"""Where the fields that policy reads stand in a JSON body, so that a change replaces only their bytes.

A backend may read duplicate or differently spelled keys in another way than we do, so what is checked
would not be what is sent. Such keys are refused, but only at the places that policy reads (a `Shape`);
anywhere else the body is the caller's own and passes as it came.

The scanner does not validate JSON: `orjson.loads` does, before or after. It only promises never to loop,
to recurse or to grow with hostile input: structure beyond the caps is `TooComplex`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import orjson

from extproc.model import Edit, Span

MAX_DEPTH = 128
MAX_BRACKETS = 100_000
"""Brackets that are looked at in one body (flat containers count nothing)."""
MAX_FIELDS = 50_000
"""Keys of watched objects in one body; a million-token agent conversation has under 20,000."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = rb"[ \t\r\n]*+"
# Anything up to the next bracket that matters: scalars, strings, and flat containers of either, whole.
_JUMP = re.compile(
    rb'(?:[^"\[\]{}]++|' + _STRING + rb'|\[[^"\[\]{}]*+\]|\{(?:[^"\[\]{}]++|' + _STRING + rb")*+\})*+([\[\]{}])",
    re.DOTALL,
)
_KEY = re.compile(_SPACE + rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"' + _SPACE + rb":" + _SPACE, re.DOTALL)
_SCALAR = re.compile(_STRING + rb'|[^\s,\[\]{}"]++', re.DOTALL)
_COMMA = re.compile(_SPACE + rb"," + _SPACE)
_BLANK = re.compile(_SPACE)


class Malformed(ValueError):
    """Not JSON."""


class TooComplex(ValueError):
    """Nested too deep, or too many containers."""


class RepeatedKey(ValueError):
    """A key that policy reads stands twice in one object, or in another spelling. `key` is the known name."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


@dataclass(frozen=True, slots=True)
class Shape:
    """What policy reads: the watched keys of an object, and the shape of the elements of an array."""

    keys: Mapping[str, "Shape | None"] | None = None
    items: "Shape | None" = None


class _Scan:
    """One pass over one body."""

    __slots__ = ("body", "brackets", "fields", "spans")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.brackets = 0
        self.fields = 0
        self.spans: dict[tuple[str, ...], Span] = {}

    def value(self, at: int, shape: Shape | None, path: tuple[str, ...] | None) -> int:
        """The end of the value that starts at `at`; None as its path: inside an array."""
        first = self.body[at : at + 1]
        if first == b"{":
            if shape is not None and shape.keys is not None:
                return self._object(at, shape.keys, path)
            return self._skip(at)
        if first == b"[":
            if shape is not None and shape.items is not None:
                return self._array(at, shape.items)
            return self._skip(at)
        scalar = _SCALAR.match(self.body, at)
        if scalar is None:
            raise Malformed
        return scalar.end()

    def _count(self) -> None:
        self.brackets += 1
        if self.brackets > MAX_BRACKETS:
            raise TooComplex

    def _skip(self, at: int) -> int:
        """The end of a container that nobody watches: only its brackets are looked at."""
        depth = 1
        at += 1
        jump = _JUMP.match
        while depth:
            found = jump(self.body, at)
            if found is None:
                raise Malformed
            self._count()
            at = found.end()
            if self.body[at - 1] in b"[{":
                depth += 1
                if depth > MAX_DEPTH:
                    raise TooComplex
            else:
                depth -= 1
        return at

    def _object(self, at: int, watched: Mapping[str, Shape | None], path: tuple[str, ...] | None) -> int:
        self._count()
        at = self._blank(at + 1)
        if self.body[at : at + 1] == b"}":
            return at + 1
        seen: set[str] = set()
        while True:
            self.fields += 1
            if self.fields > MAX_FIELDS:
                raise TooComplex
            key = _KEY.match(self.body, at)
            if key is None:
                raise Malformed
            name = self._watched_name(key[1], watched, seen)
            start = key.end()
            if name is None:
                at = self.value(start, None, path)
            else:
                inner = None if path is None else (*path, name)
                at = self.value(start, watched[name], inner)
                if inner is not None:
                    self.spans[inner] = Span(start, at)
            comma = _COMMA.match(self.body, at)
            if comma is None:
                return self._close(at, b"}")
            at = comma.end()

    def _watched_name(self, raw: bytes, watched: Mapping[str, Shape | None], seen: set[str]) -> str | None:
        try:
            key = raw.decode() if b"\\" not in raw else str(orjson.loads(b'"' + raw + b'"'))
        except ValueError:
            raise Malformed from None
        if key not in watched:
            # K (Kelvin sign) and ſ (long s) fold to ASCII letters for some case-insensitive parsers.
            folded = key.casefold()
            if folded in watched:
                raise RepeatedKey(folded)
            return None
        if key in seen:
            raise RepeatedKey(key)
        seen.add(key)
        return key

    def _array(self, at: int, items: Shape) -> int:
        self._count()
        at = self._blank(at + 1)
        if self.body[at : at + 1] == b"]":
            return at + 1
        while True:
            at = self.value(at, items, None)
            comma = _COMMA.match(self.body, at)
            if comma is None:
                return self._close(at, b"]")
            at = comma.end()

    def _blank(self, at: int) -> int:
        found = _BLANK.match(self.body, at)
        return found.end() if found else at

    def _close(self, at: int, bracket: bytes) -> int:
        at = self._blank(at)
        if self.body[at : at + 1] != bracket:
            raise Malformed
        return at + 1


def spans(body: bytes, shape: Shape) -> dict[tuple[str, ...], Span]:
    """The spans of the watched values outside arrays, by their path of keys.

    Raises Malformed, TooComplex or RepeatedKey. Linear in the size of the body.
    """
    scan = _Scan(body)
    start = scan._blank(0)
    if body[start : start + 1] != b"{":
        raise Malformed
    scan.value(start, shape, ())
    return scan.spans


def splice(body: bytes, edits: Iterable[Edit]) -> bytes:
    """The body with the edits in place; every other byte is kept. Edits must not overlap."""
    parts: list[bytes] = []
    at = 0
    for edit in sorted(edits, key=lambda edit: (edit.span.start, edit.span.end)):
        parts += (body[at : edit.span.start], edit.text)
        at = edit.span.end
    parts.append(body[at:])
    return b"".join(parts)

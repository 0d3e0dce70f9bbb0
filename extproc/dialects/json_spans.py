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
from functools import cached_property

import orjson

from extproc.edits import Edit, Span

MAX_DEPTH = 128
MAX_BRACKETS = 100_000
"""Brackets that are looked at in one body (flat containers count nothing)."""
MAX_CONTAINERS = 100_000
MAX_PAIRS = 150_000
MAX_ITEMS = 400_000
"""Arrays and objects, keys, and list items in one body: each takes the parser some 50 ms. An embeddings request may
have 300,000 tokens."""
MAX_STRINGS = 600_000
"""Strings in a body with that much structure, to a piece."""
MAX_FIELDS = 50_000
"""Keys of watched objects in one body; a million-token agent conversation has under 20,000."""

# Python before 3.11.5 repeats a group possessively as if it could not fail half-way (gh-106052), so groups that can are
# repeated inside an atomic one. An escape in a string cannot, and is three times as fast like this.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SPACE = rb"[ \t\r\n]*+"
# Anything up to the next bracket that matters: scalars, strings, and flat containers of either, whole.
_JUMP = re.compile(
    rb'(?>(?:[^"\[\]{}]++|' + _STRING + rb'|\[[^"\[\]{}]*+\]|\{(?>(?:[^"\[\]{}]++|' + _STRING + rb")*)\})*)([\[\]{}])",
    re.DOTALL,
)
# A key; and, in the same step, a short plain value with what follows it: most fields are one match.
_MEMBER = re.compile(
    _SPACE
    + rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
    + _SPACE
    + rb":"
    + _SPACE
    + rb'(?:("[^"\\]{0,200}+"|[^\s,\[\]{}"]++)'
    + _SPACE
    + rb"([,}]))?",
    re.DOTALL,
)
_ANY_STRING = re.compile(_STRING, re.DOTALL)
_PIECE = 10_000  # strings that are looked at together
_STRINGS = re.compile(rb'(?>(?:[^"]*+' + _STRING + rb"){0,%d})" % _PIECE, re.DOTALL)
_WORD = re.compile(rb'[^\s,\[\]{}"]++')
_NEXT_MEMBER = re.compile(_SPACE + rb"([,}])")
_NEXT_ITEM = re.compile(_SPACE + rb"([,\]])(?:(?<=,)" + _SPACE + rb")?")
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


@dataclass(frozen=True)
class Shape:
    """What policy reads: the watched keys of an object (lower-case ASCII), and the shape of an array's elements."""

    keys: Mapping[str, "Shape | None"] | None = None
    items: "Shape | None" = None

    @cached_property
    def spelled(self) -> "_Watched | None":
        """The watched keys as the bytes in which they nearly always come."""
        return None if self.keys is None else {key.encode(): (key, shape) for key, shape in self.keys.items()}


_Watched = Mapping[bytes, tuple[str, Shape | None]]


class _Scan:
    """One pass over one body."""

    __slots__ = ("body", "brackets", "fields", "spans")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.brackets = 0
        self.fields = 0
        self.spans: dict[tuple[str, ...], Span] = {}

    def value(self, at: int, shape: Shape | None, path: tuple[str, ...] | None) -> int:
        """The end of the value that starts at `at`. `path` is None inside arrays, where no spans are kept."""
        body = self.body
        first = body[at : at + 1]
        if first == b"{":
            if shape is not None and shape.spelled is not None:
                return self._object(at, shape.spelled, path)
            return self._skip(at)
        if first == b"[":
            if shape is not None and shape.items is not None:
                return self._array(at, shape.items)
            return self._skip(at)
        if first == b'"':
            # A long string without escapes (an image) is found at the speed of memory.
            end = body.find(b'"', at + 1)
            if end >= 0 and body.find(b"\\", at + 1, end) < 0:
                return end + 1
            return self._end(_ANY_STRING.match(body, at))
        return self._end(_WORD.match(body, at))

    @staticmethod
    def _end(found: re.Match[bytes] | None) -> int:
        if found is None:
            raise Malformed
        return found.end()

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

    def _object(self, at: int, watched: _Watched, path: tuple[str, ...] | None) -> int:
        at = self._inside(at)
        if self.body[at : at + 1] == b"}":
            return at + 1
        seen: set[str] = set()
        delimiter = b","
        while delimiter == b",":
            self.fields += 1
            member = _MEMBER.match(self.body, at)
            if member is None:
                raise Malformed
            if self.fields > MAX_FIELDS:
                raise TooComplex
            name, shape = watched.get(member[1]) or self._other_key(member[1], watched)
            inner = None if path is None or name is None else (*path, name)
            if member[2] is not None:
                start, end = member.span(2)
                at, delimiter = member.end(), member[3]
            else:
                start = member.end()
                end = self.value(start, shape, inner)
                at, delimiter = self._next(_NEXT_MEMBER, end)
            if name is not None:
                if name in seen:
                    raise RepeatedKey(name)
                seen.add(name)
            if inner is not None:
                self.spans[inner] = Span(start, end)
        return at

    def _inside(self, at: int) -> int:
        """Where the first thing in the container that opens at `at` stands."""
        self._count()
        return self._end(_BLANK.match(self.body, at + 1))

    def _next(self, pattern: re.Pattern[bytes], at: int) -> tuple[int, bytes]:
        """Where to go on behind a value, and the mark that stands there: a comma or the end of the container."""
        found = pattern.match(self.body, at)
        if found is None:
            raise Malformed
        return found.end(), found[1]

    @staticmethod
    def _other_key(raw: bytes, watched: _Watched) -> tuple[str | None, Shape | None]:
        """A key that is not spelled as a watched one: another key, or a watched one in disguise."""
        try:
            key = raw.decode() if b"\\" not in raw else str(orjson.loads(b'"' + raw + b'"'))
        except ValueError:
            raise Malformed from None
        entry = watched.get(key.encode())
        if entry is not None:
            return entry
        # K (Kelvin sign) and ſ (long s) fold to ASCII letters for some case-insensitive parsers.
        folded = key.casefold()
        if folded.encode() in watched:
            raise RepeatedKey(folded)
        return None, None

    def _array(self, at: int, items: Shape) -> int:
        at = self._inside(at)
        if self.body[at : at + 1] == b"]":
            return at + 1
        delimiter = b","
        while delimiter == b",":
            at, delimiter = self._next(_NEXT_ITEM, self.value(at, items, None))
        return at


def spans(body: bytes, shape: Shape) -> dict[tuple[str, ...], Span]:
    """The spans of the watched values outside arrays, by their path of keys.

    Raises Malformed, TooComplex or RepeatedKey. Linear in the size of the body.
    """
    scan = _Scan(body)
    start = scan._end(_BLANK.match(body))
    if body[start : start + 1] != b"{":
        raise Malformed
    scan.value(start, shape, ())
    return scan.spans


def measure(body: bytes) -> None:
    """Refuse a body that would take the parser long, wherever its parts stand. Raises TooComplex.

    A small body cannot, and few signs of structure in a large one are enough to let it pass; only else are
    its strings, which may quote any amount of JSON, taken out before the signs are counted. That goes piece by
    piece and ends at the first sign too many, so that refusing costs no more than the caps allow.
    """
    if len(body) <= MAX_CONTAINERS or not _crowded(*_signs(body)):
        return
    containers = pairs = items = strings = at = 0
    while at < len(body):
        end = _end_of_strings(body, at)
        more = _signs(_ANY_STRING.sub(b"", body[at:end]))
        containers, pairs, items = containers + more[0], pairs + more[1], items + more[2]
        strings += _PIECE
        if _crowded(containers, pairs, items) or strings > MAX_STRINGS:
            raise TooComplex
        at = end


def _end_of_strings(body: bytes, at: int) -> int:
    """Behind the next strings, at most a piece of them; the end of the body where there are none."""
    found = _STRINGS.match(body, at)
    return len(body) if found is None or found.end() == at else found.end()


def _signs(body: bytes) -> tuple[int, int, int]:
    """How many containers, pairs and list items there are at most."""
    return body.count(b"[") + body.count(b"{"), body.count(b":"), body.count(b",")


def _crowded(containers: int, pairs: int, items: int) -> bool:
    return containers > MAX_CONTAINERS or pairs > MAX_PAIRS or items > MAX_ITEMS


def splice(body: bytes, edits: Iterable[Edit]) -> bytes:
    """The body with the edits in place; every other byte is kept. Raises ValueError where edits overlap."""
    parts: list[bytes] = []
    at = 0
    for edit in sorted(edits, key=lambda edit: (edit.span.start, edit.span.end)):
        if edit.span.start < at:
            raise ValueError("edits overlap")
        parts += (body[at : edit.span.start], edit.text)
        at = edit.span.end
    parts.append(body[at:])
    return b"".join(parts)

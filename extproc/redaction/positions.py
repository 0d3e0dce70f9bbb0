"""Every text of a JSON request that may reach a model, and where its characters stand in the bytes.

All strings, all keys and all long numbers of the body are taken, whatever the surface: a field that is new tomorrow is
looked at tomorrow. What is passed over is listed in `vocabulary`. A string that holds JSON itself, such as the
arguments of a tool call, is opened: its strings could hide behind a second layer of escapes.

A body must have been parsed, and so be known to be JSON, before it comes here. One pass, without recursion.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum, auto

import orjson

from extproc.edits import Edit, Span
from extproc.redaction import vocabulary
from extproc.redaction.changes import Change, apply, named

MAX_POSITIONS = 100_000
"""Texts in one body. A million-token conversation of an agent has under 20,000."""
MAX_LAYERS = 2
"""JSON in strings of JSON in strings of the body is opened; what is deeper still, is looked at as it is written."""
MAX_OPENED = 20_000
"""Brackets and commas of all strings that are opened, so that no parser is kept busy with what is only quoted."""
_LEAD_CHARACTERS = 200
"""Longer values than this say by themselves what they are."""
_LEAST_CHARACTERS = 4
"""Shorter values than this say nothing, whatever their key."""
_LONGEST_LEAD = 48
_LEAST_DIGITS = 9

Path = tuple[str | int, ...]

# A gap without strings and brackets, then: a string, whole or its beginning, or a bracket. (Python before 3.11.5
# repeats possessive groups wrongly if they can fail half-way, gh-106052; that of an escape cannot.)
_TOKEN = re.compile(
    rb'([^"\[\]{}]*+)(?:"([^"\\]{0,2000}+(?:\\.[^"\\]{0,2000}+)*+)("[ \t\r\n]*+:|"?)|([\[\]{}]))', re.DOTALL
)
_REST = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_IS_KEY = re.compile(rb'"[ \t\r\n]*+:')
# A whole number: plain, with a fraction of zeros, or with an exponent that makes it large.
_NUMBER = re.compile(
    rb"(?<![0-9.eE+-])-?(?:[0-9]{%d,}(?:\.0*)?|[0-9]{1,20}(?:\.[0-9]{1,20})?[eE]\+?[0-9]{1,2})(?![0-9.eE+-])"
    % _LEAST_DIGITS
)
_MOST_PLAIN = 11  # digits of a time in seconds, of a count of tokens; a card's number has more
_MOST_EXPONENT = 30
_PIECE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4}|\\u[0-9a-fA-F]{4}|\\.|[^\\]++",
    re.DOTALL,
)
_DATA_URL = re.compile(rb"data:([a-z]+\\?/[a-z0-9.+-]+(?:;charset=[a-z0-9-]+)?)?[^,]{0,200}?;base64,", re.IGNORECASE)
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_WORDS_OF_KEY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[_\W]+")


class TooMany(ValueError):
    """More texts than anybody looks at in one call."""


class Kind(Enum):
    VALUE = auto()
    KEY = auto()
    NUMBER = auto()  # becomes a string when it is changed


@dataclass(slots=True, eq=False)
class Opened:
    """A string that holds JSON, and that JSON in bytes."""

    position: "Position"
    body: bytes = field(repr=False)
    layer: int


_NAMES = frozenset(("call_id", "id", "name", "tool_call_id", "tool_use_id"))
"""Keys of what APIs take letters, digits, `_` and `-` for, and nothing else."""


@dataclass(slots=True, eq=False)
class Position:
    """One text, as it is to be looked at. Its path may hold keys of the caller: only `place` of it may be told.

    The first `lead` characters of `text` are the words of the value's key and stand nowhere in the body; they say what
    a bare number is. `start` and `end` are bytes, between the quotes of a string, of the body or of what `outer` holds.
    """

    kind: Kind
    start: int
    end: int
    text: str = field(repr=False)
    lead: int = 0
    path: Path = field(default=(), repr=False)
    outer: Opened | None = field(default=None, repr=False)

    @property
    def is_name(self) -> bool:
        """Whether it is a key, or stands where APIs take names only."""
        path = self.path
        return self.kind is Kind.KEY or (path != () and (path[-1] in _NAMES or path[-2:-1] == ("required",)))


def read(body: bytes) -> list[Position]:
    """The texts in the order in which placeholders are numbered. Raises TooMany.

    First what stands before a conversation (instructions, tools), then the conversation, then what no model reads: so
    the numbers in a conversation do not change when it grows, wherever its field stands in the body.
    """
    found: list[Position] = []
    _Reader(body, found).read()
    found.sort(key=_turn)
    return found


def _turn(position: Position) -> int:
    first = position.path[0] if position.path else ""
    return 1 if first in vocabulary.CONVERSATION else 2 if first in vocabulary.ASIDE else 0


def place(path: Path) -> str:
    """A path that can be told: keys that are no words of an API are stars. Such as `messages[3].content`."""
    steps = [f"[{step}]" if isinstance(step, int) else f".{_told(step)}" for step in path]
    return "".join(steps).removeprefix(".")


def _told(key: str) -> str:
    return key if key.encode() in vocabulary.KEYS else "*"


# ---- reading ----------------------------------------------------------------------------------------

_QUOTE, _COLON, _OPEN_LIST, _OPEN_OBJECT = b'":[{'
_OPENING = (_OPEN_LIST, _OPEN_OBJECT)


def tokens(body: bytes) -> Iterator[tuple[int, int, int, int]]:
    """What stands in the body: a mark, where the gap before it begins, and the bytes from start to end that it means.

    The mark is a quote for a value and a colon for a key, whose bytes are those between the quotes, or else a bracket.
    """
    at = 0
    match = _TOKEN.match
    while (found := match(body, at)) is not None:
        gap = at
        at = found.end()
        if found[4] is not None:
            yield body[at - 1], gap, at - 1, at
            continue
        start, end = found.span(2)
        if found.end(3) == end:  # a long one
            end = _end_of_string(body, end)
            key = _IS_KEY.match(body, end)
            at = key.end() if key else end + 1
            yield _COLON if key else _QUOTE, gap, start, end
        else:
            yield body[at - 1], gap, start, end


def _end_of_string(body: bytes, at: int) -> int:
    """Where its closing quote stands. One without escapes (an image) is crossed at the speed of memory."""
    end = body.find(b'"', at)
    if body.find(b"\\", at, end) < 0:
        return end
    found = _REST.match(body, at)
    return found.end() if found else end


def decoded(raw: bytes) -> str:
    """The text between the quotes of a JSON string."""
    return raw.decode() if b"\\" not in raw else str(orjson.loads(b'"' + raw + b'"'))


def holds_json(text: str) -> bool:
    """Whether the text is a JSON object or array."""
    bare = text.strip(" \t\r\n")
    if bare[:1] + bare[-1:] not in ("{}", "[]"):
        return False
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


class _Reader:
    """One pass over a body, or over what a string holds."""

    __slots__ = ("_body", "_found", "_outer", "_path", "_spared")

    def __init__(
        self, body: bytes, found: list[Position], spared: list[int] | None = None, outer: Opened | None = None
    ) -> None:
        self._body = body
        self._found = found
        self._outer = outer
        self._path: list[str | int] = [] if outer is None else list(outer.position.path)
        self._spared = [MAX_OPENED] if spared is None else spared  # shared by all layers

    def read(self) -> None:
        body, path, keys = self._body, self._path, vocabulary.KEYS
        for mark, gap, start, end in tokens(body):
            if start - gap > _LEAST_DIGITS:
                self._numbers(gap, start)
            if mark == _COLON:
                key = keys.get(body[start:end])
                if key is None:
                    self._key(start, end)
                else:
                    path[-1] = key
                continue
            if path and isinstance(step := path[-1], int):
                path[-1] = step + body.count(b",", gap, start)
            if mark == _QUOTE:
                if start < end:
                    self._value(start, end)
            elif mark in _OPENING:
                path.append("" if mark == _OPEN_OBJECT else 0)
            else:
                path.pop()

    def _numbers(self, start: int, end: int) -> None:
        is_plain = self._name() in vocabulary.PLAIN_NUMBERS
        if is_plain and len(self._path) == 1 and self._outer is None:
            return
        for number in _NUMBER.finditer(self._body, start, end):
            text = _whole(number[0].decode())
            if text is not None and (not is_plain or len(text) > _MOST_PLAIN):
                self._add(Kind.NUMBER, *number.span(), text)

    def _name(self) -> str:
        """The nearest key."""
        for step in reversed(self._path):
            if isinstance(step, str):
                return step
        return ""

    def _key(self, start: int, end: int) -> None:
        key = decoded(self._body[start:end])
        self._path[-1] = key
        if key:
            self._add(Kind.KEY, start, end, key)

    def _value(self, start: int, end: int) -> None:
        name = self._name()
        raw = self._body[start:end]
        if self._is_structure(name, raw):
            return
        if raw[:5].lower() == b"data:" and (head := _DATA_URL.match(raw)) and _is_base64(raw[head.end() :]):
            if head[1] is not None and head.end() == head.end(1) + len(b";base64,"):
                return
            raw = head[0]  # it has parameters, and says in them what it likes
            end = start + len(raw)
        text = decoded(raw)
        if text[0] in "{[ \t\r\n" and self._open(start, end, text):
            return
        self._add(Kind.VALUE, start, end, text)

    def _is_structure(self, name: str, raw: bytes) -> bool:
        """Whether it is known what this is, by its place and by itself."""
        if name in vocabulary.ENUMERATED:
            return raw in vocabulary.WORDS
        if name in vocabulary.ISSUED:
            return vocabulary.ISSUED_ID.fullmatch(raw) is not None
        if name in vocabulary.SEALED:
            return len(raw) >= vocabulary.SEALED_BYTES and _is_base64(raw)
        return name == "model" and len(self._path) == 1

    def _open(self, start: int, end: int, text: str) -> bool:
        """Read the JSON that the text is, if it is any."""
        layer = 1 if self._outer is None else self._outer.layer + 1
        parts = text.count("{") + text.count("[") + text.count(",")
        if layer > MAX_LAYERS or parts > self._spared[0] or not holds_json(text):
            return False
        self._spared[0] -= parts
        position = Position(Kind.VALUE, start, end, text, 0, tuple(self._path), self._outer)
        body = text.encode()
        _Reader(body, self._found, self._spared, Opened(position, body, layer)).read()
        return True

    def _add(self, kind: Kind, start: int, end: int, text: str) -> None:
        if len(self._found) == MAX_POSITIONS:
            raise TooMany
        lead = ""
        if kind is not Kind.KEY and _LEAST_CHARACTERS <= len(text) <= _LEAD_CHARACTERS:
            lead = _lead(self._name())
        position = Position(kind, start, end, lead + text, len(lead), tuple(self._path), self._outer)
        self._found.append(position)


def _whole(number: str) -> str | None:
    """A number as its digits, where it is a whole one with enough of them."""
    if not number.lstrip("-").isdigit():
        value = Decimal(number)
        if value.adjusted() > _MOST_EXPONENT or value != value.to_integral_value():
            return None
        number = str(int(value))
    return number if len(number) >= _LEAST_DIGITS else None


def _lead(key: str) -> str:
    """`socialSecurity_number` as `social Security number: `; nothing for the words of an API."""
    if not key or len(key) > _LONGEST_LEAD or key.encode() in vocabulary.KEYS:
        return ""
    return f"{_WORDS_OF_KEY.sub(' ', key)}: "


def _is_base64(raw: bytes) -> bool:
    if b"\\" in raw:
        raw = raw.replace(b"\\/", b"/").replace(b"\\n", b"").replace(b"\\r", b"")
    return not raw.translate(None, _BASE64)


# ---- changing ---------------------------------------------------------------------------------------


def fitting(position: Position, changes: Sequence[Change]) -> Sequence[Change]:
    """The changes as they may stand where the text does: names have no brackets."""
    return named(changes) if changes and position.is_name else changes


def edits(body: bytes, changed: Iterable[tuple[Position, Sequence[Change]]]) -> list[Edit]:
    """The changes of texts as edits of the body; changes of what is inside strings become changes of these.

    The changes of a position are in order, do not overlap, and leave its lead alone.
    """
    groups: dict[Opened | None, list[Edit]] = {None: []}
    for position, changes in changed:
        source = body if position.outer is None else position.outer.body
        groups.setdefault(position.outer, []).extend(_edits(source, position, changes))
        outer = position.outer
        while outer is not None:  # a group for each layer around it
            outer = outer.position.outer
            groups.setdefault(outer, [])
    inner = sorted((opened for opened in groups if opened is not None), key=lambda opened: -opened.layer)
    for opened in inner:
        around = opened.position.outer
        source = body if around is None else around.body
        groups[around] += _edits(source, opened.position, _lifted(opened.body, groups[opened]))
    return groups[None]


def _edits(source: bytes, position: Position, changes: Sequence[Change]) -> list[Edit]:
    if not changes:
        return []
    if position.kind is Kind.NUMBER:
        text = apply(position.text, changes)[position.lead :]
        return [Edit(Span(position.start, position.end), orjson.dumps(text))]
    marks = [mark - position.lead for change in changes for mark in (change.start, change.end)]
    places = [position.start + at for at in byte_offsets(source[position.start : position.end], marks)]
    return [
        Edit(Span(start, end), escaped(change.text).encode())
        for change, start, end in zip(changes, places[::2], places[1::2], strict=True)
    ]


def escaped(text: str) -> str:
    """The text as it stands between the quotes of a JSON string."""
    return orjson.dumps(text)[1:-1].decode()


def _lifted(body: bytes, edits: list[Edit]) -> list[Change]:
    """Edits of bytes as changes of the text that they are."""
    result = []
    byte = character = 0
    for edit in sorted(edits, key=lambda edit: edit.span.start):
        start = character + len(body[byte : edit.span.start].decode())
        character = start + len(body[edit.span.start : edit.span.end].decode())
        byte = edit.span.end
        result.append(Change(start, character, edit.text.decode()))
    return result


def byte_offsets(raw: bytes, marks: Sequence[int]) -> list[int]:
    """Where characters of a decoded JSON string begin between its quotes. `marks` rise, and are at most its length."""
    if b"\\" not in raw and raw.isascii():
        return list(marks)
    result: list[int] = []
    character = 0
    for piece in _PIECE.finditer(raw):
        if len(result) == len(marks):
            break
        run = piece[0].decode()
        if run[0] == "\\":
            while len(result) < len(marks) and marks[len(result)] == character:
                result.append(piece.start())
            character += 1
            continue
        character = _offsets_in_run(run, piece.start(), character, marks, result)
    return result + [len(raw)] * (len(marks) - len(result))


def _offsets_in_run(run: str, start: int, character: int, marks: Sequence[int], result: list[int]) -> int:
    """Add the offsets of the marks within unescaped text that begins with this character; gives the next character."""
    end = character + len(run)
    done = 0
    while len(result) < len(marks) and marks[len(result)] < end:
        inside = marks[len(result)] - character
        start += len(run[done:inside].encode())
        done = inside
        result.append(start)
    return end

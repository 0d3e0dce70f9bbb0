"""Where the strings of a small JSON text stand, such as an event of a stream.

The text must have been parsed, and so be known to be JSON. One pass, without recursion.
"""

import re
from collections.abc import Sequence

import orjson

from extproc.dialects.json_spans import splice
from extproc.edits import Edit, Span

Path = tuple[str | int, ...]
"""The keys and places in lists that lead to a value."""

# A gap without strings and brackets, then a string, perhaps a key, or a bracket. (Python before 3.11.5 repeats
# possessive groups wrongly if they can fail half-way, gh-106052; that of an escape cannot.)
_TOKEN = re.compile(rb'([^"\[\]{}]*+)(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"([ \t\r\n]*+:)?|([\[\]{}]))', re.DOTALL)
_STEPS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}
_FEW = 4
# Its first quote must not be escaped. That is asked last, so that the search leaps from one such key to the next.
_LOGPROBS = re.compile(rb'"logprobs"(?<!\\"logprobs")[ \t\r\n]*+:[ \t\r\n]*+(?=\{|\[[ \t\r\n]*+[^ \t\r\n\]])')


def strings(body: bytes) -> dict[Path, Span]:
    """The bytes between the quotes of every string value, by its path. Of a key that is repeated, the last counts."""
    found: dict[Path, Span] = {}
    path: list[str | int] = []
    for token in _TOKEN.finditer(body):
        if token[3] is not None:
            path[-1] = decoded(token[2])
            continue
        if path and isinstance(place := path[-1], int):
            path[-1] = place + token[1].count(b",")
        if token[4] is None:
            found[tuple(path)] = Span(*token.span(2))
        elif token[4] in b"[{":
            path.append(0 if token[4] == b"[" else "")
        else:
            path.pop()
    return found


def places(body: bytes, texts: Sequence[tuple[Path, str]]) -> list[Span]:
    """The bytes between the quotes of the strings with these texts at these paths."""
    if len(texts) <= _FEW:
        found = [_place(body, path, text) for path, text in texts]
        if (spans := [span for span in found if span is not None]) == found:
            return spans
    every = strings(body)
    return [every[path] for path, _ in texts]


def _place(body: bytes, path: Path, text: str) -> Span | None:
    """Of one string, if it is the only one with its key and its text, and written as anybody would write it."""
    if not path or isinstance(path[-1], int):
        return None
    key, raw = orjson.dumps(path[-1]), orjson.dumps(text)
    for gap in (b":", b": "):
        pair = key + gap + raw
        if body.count(pair) == 1:
            at = body.index(pair)
            if body[at - 1 : at] != b"\\":
                return Span(at + len(pair) - len(raw) + 1, at + len(pair) - 1)
    return None


def decoded(raw: bytes) -> str:
    """The text between the quotes of a JSON string."""
    return raw.decode() if b"\\" not in raw else str(orjson.loads(b'"' + raw + b'"'))


def escaped(text: str) -> bytes:
    """The text as it stands between the quotes of a JSON string."""
    return orjson.dumps(text)[1:-1]


def without_logprobs(body: bytes) -> bytes:
    """The body with the probabilities of tokens taken out, which spell a text that has been changed.

    In place of an object stands `null`, in place of a list `[]`, as in an answer that was asked for none.
    """
    edits = []
    at = 0
    while (found := _LOGPROBS.search(body, at)) is not None:
        at = _end(body, found.end())
        empty = b"null" if body[found.end() : found.end() + 1] == b"{" else b"[]"
        edits.append(Edit(Span(found.end(), at), empty))
    return splice(body, edits) if edits else body


def has_logprobs(body: bytes) -> bool:
    """Whether there are probabilities of tokens."""
    return _LOGPROBS.search(body) is not None


def _end(body: bytes, at: int) -> int:
    """Behind the object or list that opens at `at`."""
    depth, end = 0, at
    for token in _TOKEN.finditer(body, at):
        depth += _STEPS.get(token[4], 0)
        end = token.end()
        if not depth:
            break
    return end

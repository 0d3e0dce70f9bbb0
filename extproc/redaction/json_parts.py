"""Where the strings and the literals of a JSON text stand, so that it stays JSON when something in it is replaced.

What is no JSON has parts, too, and they are the same however it came: only what is done to it is of less use.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from extproc.redaction.changes import Change
from extproc.redaction.redactor import OMISSION

_STRUCTURE = r'"\[\]{},:'
_OUTSIDE = re.compile(rf'"|[^\s{_STRUCTURE}][^{_STRUCTURE}]*+')
# With an end of its own, as the group must not fail half-way (see `positions`).
_STRING = re.compile(r'[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+', re.DOTALL)
_LITERAL = re.compile(r"[-+.0-9A-Za-z]*+")


class Kind(Enum):
    STRING = auto()  # between two quotes
    LITERAL = auto()  # a number, or a word such as null
    REST = auto()  # of a literal whose beginning has gone out
    OTHER = auto()  # outside of strings; in JSON there is none


class Part(NamedTuple):
    """Characters from `start` to before `end`. Brackets, colons, commas and the blanks around them are in no part."""

    kind: Kind
    start: int
    end: int

    def holds(self, place: int) -> bool:
        """Whether what stands at the place belongs to what stands before it, or is in the same string."""
        return self.start <= place <= self.end and (self.kind is Kind.STRING or self.start < place)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its JSON a text goes on."""

    in_string: bool = False
    in_literal: bool = False  # or behind one
    is_replaced: bool = False  # that literal


BEGINNING = Place()


def parts(text: str, at: int = 0, place: Place = BEGINNING) -> list[Part]:
    """The parts of a text from `at`, which is such a place."""
    result: list[Part] = []
    inside = place.in_string
    if place.in_literal and (found := _LITERAL.match(text, at)):
        result.append(Part(Kind.REST, at, found.end()))
        at = found.end()
    while True:
        if inside and (found := _STRING.match(text, at)):
            result.append(Part(Kind.STRING, *found.span()))
            at, inside = found.end() + 1, False
        elif (found := _OUTSIDE.search(text, at)) is None:
            return result
        elif found[0] == '"':
            at, inside = found.end(), True
        else:
            at = found.end()
            result.append(_bare(text, found.start(), found.start() + len(found[0].rstrip())))


def _bare(text: str, start: int, end: int) -> Part:
    """What stands outside of strings. No literal touches a quote; what does, may be in a string after all."""
    is_literal = _LITERAL.fullmatch(text, start, end) and '"' not in (text[start - 1 : start], text[end : end + 1])
    return Part(Kind.LITERAL if is_literal else Kind.OTHER, start, end)


def place(cut: int, found: Sequence[Part], changes: Sequence[Change]) -> Place:
    """The place where a text is cut, that has these parts, and these changes as `fitted` gives them."""
    for part in found:
        if not part.holds(cut):
            continue
        if part.kind is Kind.STRING:
            return Place(in_string=True)
        if part.kind is not Kind.OTHER:
            return Place(False, True, any(change.start == part.start for change in changes))
    return BEGINNING


def fitted(changes: Sequence[Change], found: Sequence[Part], before: Place = BEGINNING) -> list[Change]:
    """The changes of a text with these parts, made so that JSON stays JSON. What is between the parts stays as it is.

    A literal is replaced whole, by a string. Of one whose beginning has gone out as a number, the rest becomes a digit.
    """
    result: list[Change] = []
    if before.is_replaced and found and found[0].kind is Kind.REST:
        result.append(Change(found[0].start, found[0].end, ""))
    last: Change | None = None
    for part, change in _pairs(found, changes):
        text = OMISSION if change is last else change.text
        last = change
        if part.kind in (Kind.STRING, Kind.OTHER):
            result.append(Change(max(part.start, change.start), min(part.end, change.end), text))
        elif not result or result[-1].start != part.start:
            result.append(Change(part.start, part.end, "0" if part.kind is Kind.REST else f'"{text}"'))
    return result


def _pairs(found: Sequence[Part], changes: Sequence[Change]) -> Iterator[tuple[Part, Change]]:
    """Each part with each change that is, or reaches, into it."""
    first = 0
    for part in found:
        while first < len(changes) and changes[first].end <= part.start:
            first += 1
        at = first
        while at < len(changes) and changes[at].start < part.end:
            if part.start < part.end:
                yield part, changes[at]
            at += 1

"""What a recognizer is: a trigger that any engine can scan for, and how the values around it are told.

The trigger is a plain regular expression that both Hyperscan and `re` read the same way, without look-around and
without references. Each value that the recognizer finds begins with a match of it, or after the first character of one,
or holds it within `reach` characters from its beginning. So whoever looks at the `reach` characters before the end of
each match misses nothing, and both engines find the same values, however many of the overlapping matches they tell.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from re import _parser  # type: ignore[attr-defined]
from typing import NamedTuple

from extproc.redaction.normalise import Source

WIDTH = 64
"""Characters that a value can have unless its recognizer says more."""

WORD = r"0-9A-Za-z_\xc0"
ALNUM = r"0-9A-Za-z\xc0"

NO_DIGIT = "(?:^|[^0-9])"
"""Before the trigger of a number: with it, a long run of digits is one match, and not one at each of them."""


class Candidate(NamedTuple):
    """A stretch of normalised text that may be a value. `score` as Presidio's, before context; 1 is certain."""

    start: int
    end: int
    entity: str
    score: float


Find = Callable[[Source, int, int], Iterable[Candidate]]
"""Candidates of a text that begin from the first position to the second, both included."""


@dataclass(frozen=True, slots=True)
class Recognizer:
    """Finds the values of one entity, which begin at most `reach` before the end of a trigger's match.

    One that has a `run` of characters looks at all of the run that ends there, or one character before: texts full of
    digits would else have a match at each of them. One that is `is_whole` looks at all of a text in which the trigger
    matches.
    """

    entity: str
    trigger: str
    find: Find = field(repr=False)
    reach: int = WIDTH
    is_whole: bool = False
    run: bytes = b""

    def windows(self, data: bytes, ends: Iterable[int]) -> Iterator[tuple[int, int]]:
        """Where values can begin whose triggers end there, ascending: from and to, both included, and apart."""
        if self.is_whole:
            return iter([(0, len(data))])
        return _runs(data, ends, self.run) if self.run else _windows(ends, self.reach)


def _windows(ends: Iterable[int], reach: int) -> Iterator[tuple[int, int]]:
    first, last = -1, -1
    for end in ends:
        start = max(0, end - reach)
        if start > last:
            if last >= 0:
                yield first, last
            first = start
        last = end
    if last >= 0:
        yield first, last


def _runs(data: bytes, ends: Iterable[int], run: bytes) -> Iterator[tuple[int, int]]:
    """Runs that are close are one: windows cost more than what is between them, and a value may begin in one of two."""
    first, last = -1, -1
    for end in ends:
        if last < 0 or end - last > WIDTH:
            start = _run_start(data, end - 1, run)
            if last < 0 or start - last > WIDTH:
                if last >= 0:
                    yield first, last
                first = start
        last = end
    if last >= 0:
        yield first, last


def _run_start(data: bytes, end: int, run: bytes) -> int:
    length = WIDTH
    while True:
        start = max(0, end - length)
        before = data[start:end].rstrip(run)
        if before or not start:
            return start + len(before)
        length *= 4


def run_of(beginning: str, run: bytes) -> str:
    """A trigger that matches once for each run of these characters with such a beginning in it."""
    characters = re.escape(run.decode())
    return f"{beginning}[{characters}]*(?:[^{characters}]|$)"


def reach_of(trigger: str) -> int:
    """How far the end of a match is from its beginning at most, and so from that of a value which begins there."""
    return int(_parser.parse(trigger).getwidth()[1])


Score = Callable[[bytes], float]
"""The score of a value that has the shape, 0 where it is none."""


def shaped(
    entity: str,
    shape: str,
    score: float | Score,
    *,
    trigger: str = "",
    not_after: str = ALNUM,
    not_before: str = ALNUM,
    width: int = WIDTH,
) -> Recognizer:
    """A recognizer of one shape, which stands neither after a character of one class nor before one of the other.

    The shape is the trigger too where no other is given; then it has no look-around. At each position, what is found
    is the first match that a backtracking engine comes to, so shapes are bounded.
    """
    expression = bounded(shape, not_after, not_before)
    weigh = score if callable(score) else _constant(score)

    def find(source: Source, first: int, last: int) -> list[Candidate]:
        return [
            Candidate(*match.span(1), entity, weight)
            for match in matches(expression, source.data, first, last, width)
            if (weight := weigh(match[1]))
        ]

    is_beginning = not trigger or trigger.startswith(NO_DIGIT)
    return Recognizer(entity, trigger or shape, find, reach_of(trigger or shape) if is_beginning else WIDTH)


def bounded(shape: str, not_after: str = ALNUM, not_before: str = ALNUM) -> re.Pattern[bytes]:
    """The shape in group 1, at each place where it can begin.

    A letter that a backslash makes a line feed, as in JSON, is no letter.
    """
    before = rf"(?:(?<![{not_after}])|(?<=\\[nrt]))" if not_after else ""
    after = f"(?![{not_before}])" if not_before else ""
    return re.compile(f"{before}(?=({shape}){after})".encode("latin-1"))


def matches(expression: re.Pattern[bytes], data: bytes, first: int, last: int, width: int) -> list[re.Match[bytes]]:
    """Matches that begin from `first` to `last` and have `width` characters at most."""
    found = expression.finditer(data, first, last + width + 1)
    return [match for match in found if match.start() <= last]


def apart(expression: re.Pattern[bytes], data: bytes, first: int, last: int, width: int) -> Iterator[re.Match[bytes]]:
    """The same, but each begins where the one before ends, or later."""
    while (match := expression.search(data, first, last + width + 1)) and match.start() <= last:
        yield match
        first = match.end(1)


def _constant(score: float) -> Score:
    return lambda _: score

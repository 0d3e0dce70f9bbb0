"""What expressions say of digits, as a table that is walked a digit at a time.

A numbering plan is some hundred kilobytes of expressions, and nearly every group of digits begins like a number of some
region. A table tells in one walk, for each number of digits, what all expressions together make of it.
"""

from collections.abc import Callable, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Generic, NamedTuple, TypeVar

_ANY_DIGIT = (1 << 10) - 1
_DEAD = (0,) * 10
_VALUES = bytes.maketrans(b"0123456789", bytes(range(10)))
_OTHERS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_Nodes = frozenset[int]
Mark = TypeVar("Mark")
Mapped = TypeVar("Mapped")
Key = TypeVar("Key")


def values(text: bytes) -> bytes:
    """The digits of a text as values from 0 to 9, without what stands between them."""
    return text.translate(_VALUES, _OTHERS)


class Table(NamedTuple, Generic[Mark]):
    """States from 0, where nothing matches any more. `rows` has by state and digit the next state.

    `marks` has by state what is known of the digits that lead there, None where that is nothing. No state comes again
    on a walk, so each walk comes to an end.
    """

    rows: tuple[tuple[int, ...], ...]
    marks: tuple[Mark | None, ...]
    start: int

    def walk(self, digits: bytes) -> list[tuple[int, Mark]]:
        """For values from 0 to 9: how many of the first of them have a mark, and which; ascending."""
        rows, marks, state = self.rows, self.marks, self.start
        found = []
        for count, digit in enumerate(digits, 1):
            state = rows[state][digit]
            if not state:
                break
            mark = marks[state]
            if mark is not None:
                found.append((count, mark))
        return found

    def after(self, digits: str) -> "Table[Mark]":
        """The table of the same with these digits before it."""
        rows, marks, start = list(self.rows), list(self.marks), self.start
        for digit in reversed(digits):
            rows.append(tuple(start if place == int(digit) else 0 for place in range(10)))
            marks.append(None)
            start = len(rows) - 1
        return Table(tuple(rows), tuple(marks), start)

    def mapped(self, change: Callable[[Mark], Mapped | None]) -> "Table[Mapped]":
        """The same table with other marks."""
        return Table(self.rows, tuple(None if mark is None else change(mark) for mark in self.marks), self.start)

    def lengths(self, fewest: int) -> dict[str, tuple[int, ...]]:
        """By the first two digits, how many digits have a mark, from `fewest` on, ascending."""
        known: dict[int, frozenset[int]] = {0: frozenset()}
        self._ahead(self.start, known)
        found = {}
        for first, middle in enumerate(self.rows[self.start]):
            for second, state in enumerate(self.rows[middle]):
                counts = tuple(sorted(count + 2 for count in known[state] if count + 2 >= fewest))
                if counts:
                    found[f"{first}{second}"] = counts
        return found

    def _ahead(self, state: int, known: dict[int, frozenset[int]]) -> frozenset[int]:
        """How many digits more have a mark."""
        if state not in known:
            ahead = {count + 1 for following in set(self.rows[state]) for count in self._ahead(following, known)}
            known[state] = frozenset(ahead if self.marks[state] is None else ahead | {0})
        return known[state]


class _States(Generic[Key, Mark]):
    """Makes a table of keys, each of which has ten that follow, and joins those that cannot be told apart."""

    def __init__(self, follow: Callable[[Key, int], Key | None], mark: Callable[[Key, int], Mark | None]) -> None:
        """`follow` says what is after a digit, `mark` what is known of a key after so many digits."""
        self._follow, self._mark = follow, mark
        self._numbers: dict[tuple[Mark | None, tuple[int, ...]], int] = {(None, _DEAD): 0}
        self._known: dict[tuple[Key, int], int] = {}

    def table(self, first: Key) -> Table[Mark]:
        start = self._number(first, 0)
        marks, rows = zip(*self._numbers, strict=True)
        return Table(rows, marks, start)

    def _number(self, key: Key, depth: int) -> int:
        number = self._known.get((key, depth))
        if number is None:
            following = [self._follow(key, digit) for digit in range(10)]
            row = tuple(0 if one is None else self._number(one, depth + 1) for one in following)
            number = self._numbers.setdefault((self._mark(key, depth), row), len(self._numbers))
            self._known[key, depth] = number
        return number


def table(expressions: Sequence[str], mark: Callable[[frozenset[int], int], Mark | None]) -> Table[Mark]:
    """Of digits that match the first expression, or begin as such ones, and what `mark` makes of them.

    It is given which of the expressions match, by their places, and how many digits these are. The first has to be of
    bounded length. Raises ValueError for what is no expression of digits.
    """
    nodes = _Positions()
    first, *others = expressions
    start = nodes.of(first, 0)
    alive = frozenset(range(len(nodes.masks)))
    for place, expression in enumerate(others, 1):
        start |= nodes.of(expression, place)

    def follow(key: _Nodes, digit: int) -> _Nodes | None:
        following = nodes.after(key, digit)
        return None if alive.isdisjoint(following) else following

    def marked(key: _Nodes, depth: int) -> Mark | None:
        matching = frozenset(nodes.ends[node] for node in key if node in nodes.ends)
        return mark(matching, depth) if 0 in matching else None

    return _States(follow, marked).table(start)


def together(tables: Sequence[Table[Mark]]) -> Table[tuple[Mark, ...]]:
    """The marks of some tables in one, each once."""

    def follow(key: tuple[int, ...], digit: int) -> tuple[int, ...] | None:
        following = tuple(one.rows[state][digit] for one, state in zip(tables, key, strict=True))
        return following if any(following) else None

    def mark(key: tuple[int, ...], _: int) -> tuple[Mark, ...] | None:
        marks = (one.marks[state] for one, state in zip(tables, key, strict=True))
        return tuple(dict.fromkeys(one for one in marks if one is not None)) or None

    return _States(follow, mark).table(tuple(one.start for one in tables))


class _Positions:
    """The places of expressions where a digit is read: which digits, and what may be read after it."""

    def __init__(self) -> None:
        self.masks: list[int] = []
        self.ends: dict[int, int] = {}
        self._nexts: list[_Nodes] = []

    def of(self, expression: str, place: int) -> _Nodes:
        """Where an expression begins. Its end is a position that reads nothing."""
        end = self._add(0, frozenset())
        self.ends[end] = place
        return self._sequence(_parser.parse(expression), frozenset((end,)))

    def after(self, nodes: _Nodes, digit: int) -> _Nodes:
        return frozenset().union(*[self._nexts[node] for node in nodes if self.masks[node] >> digit & 1])

    def _sequence(self, items: Sequence[Any], after: _Nodes) -> _Nodes:
        for kind, value in reversed(items):
            after = self._item(kind, value, after)
        return after

    def _item(self, kind: Any, value: Any, after: _Nodes) -> _Nodes:
        if kind is op.BRANCH:
            return frozenset().union(*[self._sequence(branch, after) for branch in value[1]])
        if kind is op.SUBPATTERN:
            return self._sequence(value[3], after)
        if kind is op.MAX_REPEAT:
            least, most, repeated = value
            return self._repeat(least, most, repeated, after)
        return frozenset((self._add(_mask(kind, value), after),))

    def _repeat(self, least: int, most: int, items: Sequence[Any], after: _Nodes) -> _Nodes:
        if most is op.MAXREPEAT:
            loop = self._add(_mask(*items[0]), after)
            self._nexts[loop] |= {loop}
            after |= {loop}
        else:
            end = after
            for _ in range(most - least):
                after = self._sequence(items, after) | end
        for _ in range(least):
            after = self._sequence(items, after)
        return after

    def _add(self, mask: int, after: _Nodes) -> int:
        self.masks.append(mask)
        self._nexts.append(after)
        return len(self.masks) - 1


def _mask(kind: Any, value: Any) -> int:
    """The digits that a set has, a bit for each."""
    if kind is op.LITERAL:
        return _bits(value, value)
    if kind is op.RANGE:
        return _bits(*value)
    if kind is op.CATEGORY and value is op.CATEGORY_DIGIT:
        return _ANY_DIGIT
    if kind is op.IN:
        mask = 0
        for item in value:
            mask |= _mask(*item)
        return mask
    raise ValueError("no expression of digits")


def _bits(first: int, last: int) -> int:
    if not ord("0") <= first <= last <= ord("9"):
        raise ValueError("no expression of digits")
    return sum(1 << code - ord("0") for code in range(first, last + 1))

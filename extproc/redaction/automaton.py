"""An operator's regular expressions, matched in linear time whatever they and the text are.

A pattern becomes a nondeterministic automaton, once for reading forwards and once backwards, and each becomes a
deterministic one step by step, as far as texts ask for it. What is no regular language is refused: references,
conditions, and look-around at more than one character.

The pattern is read by Python's own parser, with Presidio's flags: letters in any case, `^` and `$` at lines, `.` for
any character.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

from extproc.redaction.normalise import plain

FLAGS = re.IGNORECASE | re.DOTALL | re.MULTILINE
LONGEST = 256  # characters of a match
_MOST_NODES = 5_000
_MOST_STATES = 1_000
"""Then a deterministic automaton is forgotten and begun anew, so that no text can make it grow."""

Test = Callable[[str], bool]
Neighbours = tuple[bool, ...]
"""What the tests of an automaton say of a character beside a position; all of them say no where there is none."""


class PatternError(ValueError):
    """A pattern that cannot be matched in linear time, or not at all."""


class _Node(NamedTuple):
    """Consumes a character that passes the test; or asserts something of the neighbours; or neither, and splits."""

    nexts: tuple[int, ...]
    test: Test | None = None
    asserts: Callable[[Neighbours, Neighbours], bool] | None = None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_newline(character: str) -> bool:
    return character == "\n"


_CATEGORIES: dict[Any, Test] = {
    op.CATEGORY_DIGIT: str.isdecimal,
    op.CATEGORY_NOT_DIGIT: lambda c: not c.isdecimal(),
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    op.CATEGORY_WORD: _is_word,
    op.CATEGORY_NOT_WORD: lambda c: not _is_word(c),
}


def _any(_: str) -> bool:
    return True


def _one_of(items: Sequence[Any]) -> Test:
    """A test of a set, in any case of a letter."""
    tests: list[Test] = []
    singles: set[str] = set()
    ranges: list[tuple[str, str]] = []
    for kind, value in items:
        if kind is op.LITERAL:
            # Texts are normalised, so what a pattern spells out has to be.
            singles |= _cases(chr(value)) | _cases(plain(chr(value)))
        elif kind is op.RANGE:
            ranges.append((chr(value[0]), chr(value[1])))
        elif kind is op.CATEGORY:
            tests.append(_CATEGORIES[value])
    is_negated = bool(items) and items[0][0] is op.NEGATE

    def test(character: str) -> bool:
        found = (
            character in singles
            or any(first <= case <= last for case in _cases(character) for first, last in ranges)
            or any(one(character) for one in tests)
        )
        return found is not is_negated

    return test


def _cases(character: str) -> set[str]:
    return {character, character.lower(), character.upper()}


class _Builder:
    """Builds the nodes of one direction, from the end of a pattern to its beginning."""

    def __init__(self, name: str, is_backwards: bool) -> None:
        self.nodes: list[_Node] = [_Node(())]  # the first is the end of a match
        self.tests: list[Test] = [_any, _is_word, _is_newline]
        self._name = name
        self._is_backwards = is_backwards

    def sequence(self, items: Sequence[Any], after: int) -> int:
        for kind, value in items if self._is_backwards else reversed(items):
            after = self._item(kind, value, after)
        return after

    def _item(self, kind: Any, value: Any, after: int) -> int:
        if kind in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY):
            return self._add(_Node((after,), _test(kind, value)))
        if kind is op.BRANCH:
            return self._add(_Node(tuple(self.sequence(branch, after) for branch in value[1])))
        if kind is op.SUBPATTERN:
            return self.sequence(value[3], after)
        if kind is op.ATOMIC_GROUP:
            return self.sequence(value, after)
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            return self._repeat(value, after)
        if kind is op.AT:
            return self._add(_Node((after,), asserts=_AT[value]))
        if kind in (op.ASSERT, op.ASSERT_NOT):
            return self._beside(kind is op.ASSERT, value, after)
        raise PatternError(f"pattern {self._name!r}: back-references and conditions cannot be matched in linear time")

    def _repeat(self, value: tuple[int, int, Sequence[Any]], after: int) -> int:
        least, most, items = value
        if most == op.MAXREPEAT:
            loop = self._add(_Node(()))
            self.nodes[loop] = _Node((self.sequence(items, loop), after))
            after = loop
        else:
            end = after
            for _ in range(most - least):
                after = self._add(_Node((self.sequence(items, after), end)))
        for _ in range(least):
            after = self.sequence(items, after)
        return after

    def _beside(self, is_wanted: bool, value: tuple[int, Sequence[Any]], after: int) -> int:
        """Look-around at one character, or at one or the border of a line."""
        direction, items = value
        alternatives = items[0][1][1] if len(items) == 1 and items[0][0] is op.BRANCH else [items]
        tests: list[int] = []
        is_border = False
        for alternative in alternatives:
            if len(alternative) == 1 and alternative[0][0] in (op.LITERAL, op.NOT_LITERAL, op.IN, op.ANY):
                tests.append(self._test(_test(*alternative[0])))
            elif len(alternative) == 1 and alternative[0][0] is op.AT and alternative[0][1] in _BORDERS:
                is_border = True
            else:
                raise PatternError(f"pattern {self._name!r}: look-around can be at one character only")

        def asserts(left: Neighbours, right: Neighbours) -> bool:
            beside = left if direction < 0 else right
            found = any(beside[test] for test in tests) or (is_border and (not beside[0] or beside[2]))
            return found is is_wanted

        return self._add(_Node((after,), asserts=asserts))

    def _test(self, test: Test) -> int:
        self.tests.append(test)
        return len(self.tests) - 1

    def _add(self, node: _Node) -> int:
        if len(self.nodes) >= _MOST_NODES:
            raise PatternError(f"pattern {self._name!r}: too large, its repetitions make more than {_MOST_NODES} steps")
        self.nodes.append(node)
        return len(self.nodes) - 1


def _test(kind: Any, value: Any) -> Test:
    if kind is op.ANY:
        return _any
    if kind is op.IN:
        return _one_of(value)
    return _one_of([(op.NEGATE, None), (op.LITERAL, value)] if kind is op.NOT_LITERAL else [(op.LITERAL, value)])


_BORDERS = (op.AT_BEGINNING, op.AT_BEGINNING_STRING, op.AT_END, op.AT_END_STRING)
_AT: dict[Any, Callable[[Neighbours, Neighbours], bool]] = {
    op.AT_BEGINNING: lambda left, _: not left[0] or left[2],
    op.AT_BEGINNING_STRING: lambda left, _: not left[0],
    op.AT_END: lambda _, right: not right[0] or right[2],
    op.AT_END_STRING: lambda _, right: not right[0],
    op.AT_BOUNDARY: lambda left, right: left[1] != right[1],
    op.AT_NON_BOUNDARY: lambda left, right: left[1] == right[1],
}

_State = tuple[frozenset[int], Neighbours]
"""Nodes that are reached, and what was read last."""


class _Machine:
    """A deterministic automaton of one direction. Several threads may make the same step, and get the same."""

    def __init__(self, builder: _Builder, start: int, is_backwards: bool, is_anchored: bool) -> None:
        self._nodes = builder.nodes
        self._tests = builder.tests
        self._start = start
        self._is_backwards = is_backwards
        self._is_anchored = is_anchored
        self._steps: dict[tuple[_State, str], tuple[_State, bool]] = {}

    def beside(self, text: str, index: int) -> Neighbours:
        if not 0 <= index < len(text):
            return (False,) * len(self._tests)
        return tuple(test(text[index]) for test in self._tests)

    def begin(self, beside: Neighbours) -> _State:
        return frozenset((self._start,)), beside

    def step(self, state: _State, character: str) -> tuple[_State, bool]:
        """The state after a character, none being an empty one; and whether a match ends before it."""
        known = self._steps.get((state, character))
        if known is None:
            if len(self._steps) >= _MOST_STATES:
                self._steps = {}
            known = self._steps[state, character] = self._stepped(state, character)
        return known

    def _stepped(self, state: _State, character: str) -> tuple[_State, bool]:
        ahead = self.beside(character, 0)
        sides = (ahead, state[1]) if self._is_backwards else (state[1], ahead)
        reached = self._closure(state[0], sides)
        following = {
            node.nexts[0]
            for node in map(self._nodes.__getitem__, reached)
            if character and node.test and node.test(character)
        }
        if not self._is_anchored:
            following.add(self._start)
        return (frozenset(following), ahead), 0 in reached

    def _closure(self, nodes: frozenset[int], sides: tuple[Neighbours, Neighbours]) -> set[int]:
        reached: set[int] = set()
        waiting = list(nodes)
        while waiting:
            number = waiting.pop()
            node = self._nodes[number]
            if number in reached or (node.asserts and not node.asserts(*sides)):
                continue
            reached.add(number)
            if node.test is None:
                waiting += node.nexts
        return reached


class Automaton:
    """A compiled pattern. Raises PatternError, naming it, where that cannot be."""

    def __init__(self, pattern: str, name: str) -> None:
        try:
            items = _parser.parse(pattern, FLAGS)
        except (re.error, OverflowError, RecursionError) as error:
            raise PatternError(f"pattern {name!r}: {error}") from error
        if items.getwidth()[0] == 0:
            raise PatternError(f"pattern {name!r}: matches nothing at all, too")
        self.items = items
        self._ends = _machine(items, name, is_anchored=False)
        self._forwards = _machine(items, name)
        self._backwards = _machine(items, name, is_backwards=True)

    def spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Matches, apart and ascending: each the one that ends first, from where it can begin to where it can end.

        Of one longer than 256 characters, the last 256.
        """
        at = 0
        for end in self._match_ends(text):
            if end <= at:
                continue
            start = self._reach(self._backwards, text, end, max(at, end - LONGEST))
            if start is not None:
                at = self._reach(self._forwards, text, start, min(len(text), start + LONGEST)) or end
                yield start, at

    def matches(self, text: str) -> bool:
        """Whether all of the text is a match."""
        return (0, len(text)) in self.spans(text)

    def _match_ends(self, text: str) -> Iterator[int]:
        machine = self._ends
        state = machine.begin(machine.beside(text, -1))
        for index, character in enumerate(text):
            state, is_end = machine.step(state, character)
            if is_end:
                yield index
        if machine.step(state, "")[1]:
            yield len(text)

    def _reach(self, machine: _Machine, text: str, start: int, limit: int) -> int | None:
        """The farthest border of a match from here to the limit, in the machine's direction; None if there is none."""
        step = -1 if limit <= start and machine is self._backwards else 1
        farthest = None
        state = machine.begin(machine.beside(text, start - 1 if step > 0 else start))
        for border in range(start, limit, step):
            state, is_end = machine.step(state, text[border if step > 0 else border - 1])
            if is_end:
                farthest = border
            if not state[0]:
                return farthest
        beyond = limit if step > 0 else limit - 1
        if machine.step(state, text[beyond] if 0 <= beyond < len(text) else "")[1]:
            farthest = limit
        return farthest


def _machine(items: Any, name: str, is_backwards: bool = False, is_anchored: bool = True) -> _Machine:
    builder = _Builder(name, is_backwards)
    return _Machine(builder, builder.sequence(items, 0), is_backwards, is_anchored)

"""What speaks for an attempt at injection in one text, by the patterns of `injection.txt`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from extproc.guardrails import readings
from extproc.guardrails.readings import Reading
from extproc.guardrails.words import Vocabulary
from extproc.redaction.scan import HyperscanScanner, PlainScanner, Scanner, has_hyperscan

TOPIC = "topic"
ENCODED = "encoded"
HIDDEN = "hidden"
_WEIGHT_OF_CODE = 0.5
"""Of instructions that somebody took the pains to encode or to hide."""
_TELLING = 0.5
"""The weight of a pattern that says by itself that a decoded text is no data."""

WORDS = "words"
_KINDS: Mapping[str, Callable[[Reading], bytes]] = {
    WORDS: lambda reading: reading.words,
    "script": lambda reading: reading.words,
    "letters": lambda reading: reading.letters,
    "marks": lambda reading: reading.marks,
}
_LINE = re.compile(r"(\w+) ([01](?:\.\d+)?) (\w+) (.+)")
_PART = re.compile(r"(\w+) = (.+)")
_NAME = re.compile(r"<([a-z]+)>")

Evidence = dict[str, float]
"""By family of patterns, the weight of the heaviest one that matches."""


class Pattern(NamedTuple):
    family: str
    weight: float
    kind: str
    expression: str


class PatternSet(NamedTuple):
    version: str
    patterns: tuple[Pattern, ...]


def parse(text: str) -> PatternSet:
    """The patterns of a document such as `injection.txt`. Raises ValueError, with the line's number."""
    version = ""
    parts: dict[str, str] = {}
    patterns = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("version "):
            version = line.removeprefix("version ")
        elif found := _PART.fullmatch(line):
            parts[found[1]] = _filled(found[2], parts)
        elif (found := _LINE.fullmatch(line)) and found[3] in _KINDS:
            expression = readings.folded(_filled(found[4], parts))
            patterns.append(Pattern(found[1], float(found[2]), found[3], expression))
        else:
            raise ValueError(f"line {number} is no pattern")
    return PatternSet(version, tuple(patterns))


def _filled(pattern: str, parts: Mapping[str, str]) -> str:
    return _NAME.sub(lambda name: parts.get(name[1], name[0]), pattern)


@cache
def standard() -> PatternSet:
    """The set that this version of the gateway brings."""
    return parse(files("extproc.guardrails").joinpath("injection.txt").read_text("utf-8"))


class _Group:
    """The patterns of one kind."""

    def __init__(self, kind: str, patterns: Sequence[Pattern], use_hyperscan: bool) -> None:
        self._bytes_of = _KINDS[kind]
        self._patterns = patterns
        self._words: Vocabulary | None = None
        expressions = [f"(?:{pattern.expression})".encode().decode("latin-1") for pattern in patterns]
        if kind == WORDS:
            self._words = Vocabulary((pattern.expression for pattern in patterns), readings.END)
            expressions = [self._words.expression(f"({pattern.expression})") for pattern in patterns]
        self._scanner: Scanner = HyperscanScanner(expressions) if use_hyperscan else PlainScanner(expressions)

    def matches(self, reading: Reading) -> Iterator[Pattern]:
        data = self._bytes_of(reading)
        for number in self._scanner.ends(self._words.encoded(data) if self._words else data):
            yield self._patterns[number]


class Matcher:
    """Matches a set of patterns. May be used by several threads at once; keeps nothing of what it read."""

    def __init__(self, patterns: PatternSet, use_hyperscan: bool = has_hyperscan()) -> None:
        """Takes some tenths of a second. Raises ValueError for a pattern that is none."""
        by_kind: dict[str, list[Pattern]] = {}
        for pattern in patterns.patterns:
            by_kind.setdefault(pattern.kind, []).append(pattern)
        self._groups = [_Group(kind, some, use_hyperscan) for kind, some in by_kind.items()]

    def evidence(self, text: str) -> Evidence:
        """What matches in the text, in what it says in other spellings, and in what it encodes or hides."""
        found = self._matches(text)
        plainer = readings.unescaped(text)
        if plainer != text:
            _add(found, self._matches(plainer))
        for name, covert in ((ENCODED, readings.encoded_in(plainer)), (HIDDEN, readings.hidden_in(text))):
            inner = self._matches(covert) if covert else {}
            if any(weight >= _TELLING for family, weight in inner.items() if family != TOPIC):
                _add(found, inner)
                found[name] = _WEIGHT_OF_CODE
        return found

    def _matches(self, text: str) -> Evidence:
        reading = readings.read(text)
        found: Evidence = {}
        for group in self._groups:
            for pattern in group.matches(reading):
                _add(found, {pattern.family: pattern.weight})
        return found


def _add(found: Evidence, more: Evidence) -> None:
    for family, weight in more.items():
        found[family] = max(weight, found.get(family, 0.0))

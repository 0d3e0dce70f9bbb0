"""What an operator adds: Presidio's YAML of custom recognizers, with words to deny.

Patterns run on the normalised text in an automaton of our own, in linear time. Hyperscan, where it is there, only says
which of them can occur in a text at all: it scans for an expression that each match fits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]
from typing import Any

from extproc.redaction.automaton import Automaton, PatternError
from extproc.redaction.normalise import Source, folded, plain
from extproc.redaction.patterns import Candidate, Recognizer
from extproc.redaction.wordlist import WordList, caseless

MOST_WORDS = 10_000
DENY_SCORE = 1.0
"""Presidio's score of a word on a deny list."""

_KNOWN_KEYS = """
    name type enabled supported_entity supported_entities supported_language supported_languages patterns deny_list
    deny_list_score context country_code
"""
_KEYS = frozenset(_KNOWN_KEYS.split())
_ANY_BYTE = r"[\x00-\xff]"
_BEYOND = r"\xc0\xc1\xc2"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression, and the score of what it matches."""

    name: str
    regex: str
    score: float


@dataclass(frozen=True, slots=True)
class CustomRecognizer:
    """Of one entity: patterns, words to deny, and words that speak for a value."""

    name: str
    entity: str
    patterns: tuple[Pattern, ...] = ()
    deny: tuple[str, ...] = ()
    deny_score: float = DENY_SCORE
    context: tuple[str, ...] = ()

    def recognizers(self) -> Iterator[Recognizer]:
        """Raises PatternError for a pattern that cannot be matched in linear time."""
        for pattern in self.patterns:
            yield _pattern(self.entity, f"{self.name}: {pattern.name}", pattern)
        if self.deny:
            yield _words(self.entity, self.name, self.deny, self.deny_score)


# ---- Presidio's YAML ----


def read(document: Any) -> tuple[CustomRecognizer, ...]:
    """The recognizers of a document as Presidio writes it, parsed. Raises ValueError, naming the recognizer."""
    entries = document.get("recognizers") if isinstance(document, Mapping) else document
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError("a list of recognizers is expected, under `recognizers`")
    return tuple(
        _recognizer(entry) for entry in entries if not isinstance(entry, Mapping) or entry.get("enabled", True)
    )


def _recognizer(entry: Any) -> CustomRecognizer:
    if not isinstance(entry, Mapping):
        raise ValueError("a recognizer is a mapping")
    name = str(entry.get("name", "without a name"))
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise ValueError(f"recognizer {name!r}: unknown key {unknown[0]!r}")
    if entry.get("type", "custom") != "custom":
        raise ValueError(
            f"recognizer {name!r}: only custom ones are declared; those of the gateway are on by their entity"
        )
    entities = entry.get("supported_entities") or [entry.get("supported_entity")]
    if len(entities) != 1 or not isinstance(entities[0], str):
        raise ValueError(f"recognizer {name!r}: one supported_entity is needed")
    patterns = tuple(_read_pattern(name, pattern) for pattern in entry.get("patterns") or ())
    deny = tuple(map(str, entry.get("deny_list") or ()))
    if not patterns and not deny:
        raise ValueError(f"recognizer {name!r}: patterns or a deny_list are needed")
    score = _score(name, entry.get("deny_list_score", DENY_SCORE))
    return CustomRecognizer(name, entities[0], patterns, deny, score, tuple(_contexts(entry)))


def _contexts(entry: Mapping[str, Any]) -> Iterator[str]:
    """The words of all languages: a prompt does not say which it is in."""
    yield from map(str, entry.get("context") or ())
    for language in entry.get("supported_languages") or ():
        if isinstance(language, Mapping):
            yield from map(str, language.get("context") or ())


def _read_pattern(recognizer: str, entry: Any) -> Pattern:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("regex"), str):
        raise ValueError(f"recognizer {recognizer!r}: a pattern has a name, a regex and a score")
    return Pattern(str(entry.get("name", "pattern")), entry["regex"], _score(recognizer, entry.get("score", 0.5)))


def _score(recognizer: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"recognizer {recognizer!r}: a score is a number from 0 to 1")
    return float(value)


# ---- patterns ----


def _pattern(entity: str, name: str, pattern: Pattern) -> Recognizer:
    automaton = Automaton(pattern.regex, name)

    def find(source: Source, _first: int, _last: int) -> Iterator[Candidate]:
        for start, end in automaton.spans(source.normalised()):
            yield Candidate(start, end, entity, pattern.score)

    return Recognizer(entity, "(?i)" + _expression(automaton.items), find, is_whole=True)


def _expression(items: Iterable[Any]) -> str:
    """An expression on folded text that wherever the pattern matches, matches too; without look-around."""
    return "".join(_part(kind, value) for kind, value in items)


def _part(kind: Any, value: Any) -> str:
    if kind is op.LITERAL:
        return _bytes(chr(value))
    if kind is op.IN:
        return _set(value)
    if kind is op.BRANCH:
        return "(?:" + "|".join(map(_expression, value[1])) + ")"
    if kind is op.SUBPATTERN:
        return f"(?:{_expression(value[3])})"
    if kind is op.ATOMIC_GROUP:
        return f"(?:{_expression(value)})"
    if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
        least, most, repeated = value
        count = f"{{{least},}}" if most == op.MAXREPEAT else f"{{{least},{most}}}"
        return f"(?:{_expression(repeated)}){count}"
    return "" if kind in (op.AT, op.ASSERT, op.ASSERT_NOT) else _ANY_BYTE


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in folded(character))


def _set(items: Sequence[Any]) -> str:
    parts: list[str] = []
    for kind, value in items:
        if kind is op.LITERAL and value < 128:
            parts.append(_bytes(chr(value)))
        elif kind is op.RANGE and value[1] < 128:
            parts.append(f"{_bytes(chr(value[0]))}-{_bytes(chr(value[1]))}")
        elif kind is op.CATEGORY and value in _CATEGORIES:
            parts.append(_CATEGORIES[value])
        elif kind is op.LITERAL and len(folded(chr(value))) == 1:
            parts.append(_bytes(chr(value)))
        else:
            return _ANY_BYTE
    return f"[{''.join(parts)}]"


_CATEGORIES = {op.CATEGORY_DIGIT: "0-9", op.CATEGORY_SPACE: r"\s\x1c-\x1f", op.CATEGORY_WORD: rf"\w{_BEYOND}"}


# ---- words ----

_MOST_SCANNED = 1_000
"""Characters of a list that Hyperscan scans for; the time to build an expression of words grows with their square."""
_ANY_TEXT = rf"\A{_ANY_BYTE}"


def _words(entity: str, name: str, words: Sequence[str], score: float) -> Recognizer:
    """Words as whole ones, in any case, longest first."""
    known = sorted({" ".join(caseless(word).split()) for word in words if plain(word).strip()})
    if not known or len(known) > MOST_WORDS:
        raise PatternError(f"deny list of {name!r}: from 1 to {MOST_WORDS} words are expected")
    listed = WordList(known)

    def find(source: Source, _first: int, _last: int) -> Iterator[Candidate]:
        for start, end in listed.spans(source.text):
            yield Candidate(start, end, entity, score)

    is_scanned = sum(map(len, known)) <= _MOST_SCANNED
    trigger = "(?i)(?:" + "|".join(map(_any_case, known)) + ")" if is_scanned else _ANY_TEXT
    return Recognizer(entity, trigger, find, is_whole=True)


_BYTES_OF = {"i": r"[i\xc0]", " ": r"[\s\x1c-\x1f]{1,8}"}
"""A letter that has other cases elsewhere, and a blank, which stands for a few of any kind."""


def _any_case(word: str) -> str:
    """An expression on folded text. The `i` of ASCII has cases beyond it, in Turkish."""
    return "".join(_BYTES_OF.get(character) or _bytes(character) for character in word)

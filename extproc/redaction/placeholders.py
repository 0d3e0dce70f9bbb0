"""What stands for a value on its way through a model: `<EMAIL_ADDRESS_1>`.

Values are numbered as they first appear in the conversation as it is resent, so that the same history gets the same
numbers in every call and nothing need be remembered between calls. A second spelling of the same value shares its
number and gets a letter, `<EMAIL_ADDRESS_1a>`, so that each is taken back as it was.

Models alter what they copy: `<Email Address 1>`, `EMAIL_ADDRESS_1` and `&lt;EMAIL_ADDRESS_1&gt;` are taken back, too.
Whatever of this a caller types gets a placeholder of its own, `<LITERAL_1>`, and so can only become itself again.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

LITERAL = "LITERAL"
"""The name of what stands for a placeholder that the caller typed."""
LONGEST = 96
"""Characters of a placeholder in its longest spelling, at most."""
MARKS = "_<&\\"
"""No placeholder can be written without one of these."""
_LONGEST_NAME = 40
_DIGITS = 7
_SPELLINGS = 26 + 26 * 26  # that two letters can tell apart

# Entities that people write in groups: what stands between the groups does not make it another value.
_GROUPED = frozenset(("CREDIT_CARD", "IBAN_CODE", "PHONE_NUMBER", "US_SSN"))
_NOT_IN_NAME = re.compile(r"[^A-Z0-9]+")
_BEFORE_DIGITS = re.compile(r"_(?=[0-9]+\Z)")
_BETWEEN = r"\\?[ _-]"  # a backslash: Markdown's escape of an underscore
_SEPARATOR = re.compile(_BETWEEN)
_NUMBERED = re.compile(rf"(.+)_[0-9]{{1,{_DIGITS}}}[A-Z]{{0,2}}", re.DOTALL)

_OPEN = r"(?:<|&lt;|\\u003[cC])"
_OPEN_UNESCAPED = r"(?:<|&lt;|(?<!\\)\\u003[cC])"
_CLOSE = r"(?:>|&gt;|\\u003[eE])"
_AT_WORD = r"(?:(?<![A-Za-z0-9_])|(?<=\\[bfnrt]))"  # an escape of JSON is no part of the word behind it


def is_marked(text: str) -> bool:
    """Whether it has one of MARKS. Each is looked for by itself, as C does that fastest, in texts of any length."""
    return "_" in text or "<" in text or "&" in text or "\\" in text


@dataclass(frozen=True, slots=True)
class Grammar:
    """How placeholders with these names can look.

    `mention` matches what is taken back, with its name and number as the first or second group; `lookalike` whatever
    could be a mention in any surroundings.
    """

    names: frozenset[str]
    mention: re.Pattern[str]
    lookalike: re.Pattern[str]


@lru_cache(maxsize=64)
def grammar(names: frozenset[str]) -> Grammar:
    """The grammar of these names, as `placeholder_name` gives them, and of literals."""
    known = sorted(names | {LITERAL}, key=lambda name: (-len(name), name))
    loose = "|".join(name.replace("_", _BETWEEN) for name in known)
    exact = "|".join(name.replace("_", r"\\?_") for name in known)
    bracketed = rf" ?((?i:{loose}){_BETWEEN}[0-9]{{1,{_DIGITS}}}[A-Za-z]{{0,2}}) ?{_CLOSE}"
    bare = rf"((?:{exact})\\?_[0-9]{{1,{_DIGITS}}}[a-z]{{0,2}})"
    return Grammar(
        names | {LITERAL},
        re.compile(rf"{_OPEN_UNESCAPED}{bracketed}|{_AT_WORD}{bare}(?![A-Za-z0-9_])", re.ASCII),
        re.compile(rf"{_OPEN}{bracketed}|{bare}", re.ASCII),
    )


def placeholder_name(entity: str) -> str:
    """An entity's name as placeholders have it: capitals and digits joined by single underscores, none before digits
    at its end."""
    name = _NOT_IN_NAME.sub("_", entity.upper()).strip("_")[:_LONGEST_NAME].strip("_")
    return _BEFORE_DIGITS.sub("", name.lstrip("0123456789_")) or "VALUE"


def key_of(mention: str) -> str:
    """The name and number of a mention, as all its spellings have them."""
    return _SEPARATOR.sub("_", mention).upper()


def canonical(entity: str, value: str) -> str:
    """What spellings of the same value have in common."""
    folded = unicodedata.normalize("NFKC", value).casefold()
    if entity in _GROUPED:
        return "".join([character for character in folded if character.isalnum()])
    return "".join([mark for mark in folded if not mark.isspace() and unicodedata.category(mark) != "Cf"])


def _letters(spelling: int) -> str:
    """Nothing for the first spelling, then a to z, aa to zz."""
    letters = ""
    while spelling:
        spelling, rest = divmod(spelling - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return letters


class Placeholders:
    """The values of one call, and what stands for them. Lives in the memory of the call, and is never shown."""

    __slots__ = ("_counts", "_placeholders", "_spellings", "_starts", "_values", "grammar")

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._values: dict[str, str] = {}  # by key
        self._placeholders: dict[tuple[str, str], str] = {}  # by name and value
        self._spellings: dict[tuple[str, str], tuple[int, int]] = {}  # number, and spellings so far
        self._counts: dict[str, int] = {}  # of numbers, by name
        self._starts: set[str] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)} values>"

    def __len__(self) -> int:
        return len(self._values)

    def of(self, entity: str, value: str) -> str:
        """What stands for a value, the same for the same value and entity."""
        name = placeholder_name(entity)
        return self._placeholders.get((name, value)) or self._add(name, canonical(entity, value), value)

    def literal(self, typed: str) -> str:
        """What stands for a placeholder that the caller typed."""
        return self._placeholders.get((LITERAL, typed)) or self._add(LITERAL, typed, typed)

    def _add(self, name: str, same: str, value: str) -> str:
        number, spelling = self._spellings.get((name, same), (0, 0))
        if not number or spelling > _SPELLINGS:
            number, spelling = self._counts.get(name, 0) + 1, 0
            self._counts[name] = number
            self._starts.update(_starts(name))
        self._spellings[name, same] = (number, spelling + 1)
        key = f"{name}_{number}{_letters(spelling)}"
        placeholder = f"<{key}>"
        self._values[key.upper()] = value
        self._placeholders[name, value] = placeholder
        return placeholder

    def names(self, key: str) -> bool:
        """Whether a key is one of the names in use, with any number."""
        found = _NUMBERED.fullmatch(key)
        return found is not None and found[1] in self._counts

    def value(self, key: str) -> str | None:
        """The value that the key stands for, if any."""
        return self._values.get(key)

    def may_begin(self, fragment: str) -> bool:
        """Whether a key of a name in use may begin with, or be, the fragment."""
        return fragment in self._starts or self.names(fragment)

    def clear(self) -> None:
        """Forget everything, at the end of the call."""
        for kept in (self._values, self._placeholders, self._spellings, self._counts, self._starts):
            kept.clear()


def _starts(name: str) -> Iterable[str]:
    """Whatever a key of this name begins with, before its number."""
    whole = f"{name}_"
    return (whole[:end] for end in range(len(whole) + 1))

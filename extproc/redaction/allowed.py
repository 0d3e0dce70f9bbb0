"""Values that are to stay, whatever finds them."""

from collections.abc import Iterable

from extproc.redaction.automaton import Automaton
from extproc.redaction.normalise import plain


class Allowed:
    """Words that are all of a value, in any case, and patterns that match all of it. Raises PatternError."""

    def __init__(self, words: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        self._words = frozenset(plain(word).casefold() for word in words)
        self._patterns = tuple(Automaton(pattern, f"allowed: {pattern}") for pattern in patterns)

    def __bool__(self) -> bool:
        return bool(self._words or self._patterns)

    def matches(self, value: str) -> bool:
        """Of a normalised value."""
        return value.casefold() in self._words or any(pattern.matches(value) for pattern in self._patterns)

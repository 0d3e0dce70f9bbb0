"""What becomes of candidates: context, floors, lists, and what decides where they overlap.

A word beside a value raises its score as in Presidio, by 0.35 and to 0.4 at least.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

from extproc.redaction.allowed import Allowed
from extproc.redaction.context import Surroundings, Words
from extproc.redaction.entities import IDENTIFIERS
from extproc.redaction.normalise import Source
from extproc.redaction.overlaps import Finding, resolved, shared
from extproc.redaction.patterns import Candidate

FLOOR = 0.4
"""The score that a finding needs unless its entity has a floor of its own."""
_RAISE = 0.35
_NO_WORDS = Words(())
_LONGEST_SEALED = 1024
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

Claims = dict[Finding, Callable[[], bool]]
"""What is found, in any order and with overlaps; and of each whether a word speaks for it."""


@dataclass(frozen=True)
class Rules:
    """What decides about a candidate. Floors and context by entity; an entity without a floor has `FLOOR`.

    `strictness`: of what is done about an entity; more is stricter, and an entity that is not named has 0.
    """

    context: Mapping[str, Words] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    allowed: Allowed = field(default_factory=Allowed)
    strictness: Mapping[str, int] = field(default_factory=dict)

    def confirmed(self, source: Source, candidates: Iterable[Candidate]) -> Claims:
        """The candidates that are values."""
        claims: Claims = {}
        surroundings = Surroundings(source)
        for candidate in dict.fromkeys(candidates):
            start, end, entity, score = candidate
            floor = self.floors.get(entity, FLOOR)
            if score < floor:
                score = self._raised(surroundings, candidate)
            if score >= floor and not self._is_excused(source, start, end):
                finding = Finding(*source.origin(start, end), entity, score)
                claims[finding] = partial(surroundings.have, self.context.get(entity, _NO_WORDS), start, end)
        return claims

    def settled(self, text: str, claims: Claims) -> list[Finding]:
        """What each claim gets of the text, ascending and apart.

        Where claims overlap, the stricter has its characters, and the other what remains. Of equally strict ones, see
        `resolved`; words that speak for telephones and the like stand beside anything, and are in the score.
        """

        def is_named(finding: Finding) -> bool:
            return finding.entity in IDENTIFIERS and claims[finding]()

        levels: dict[int, list[Finding]] = {}
        for finding in claims:
            levels.setdefault(self.strictness.get(finding.entity, 0), []).append(finding)
        apart = [resolved(levels[level], is_named) for level in sorted(levels, reverse=True)]
        return apart[0] if len(apart) == 1 else shared(text, chain.from_iterable(apart))

    def _raised(self, surroundings: Surroundings, candidate: Candidate) -> float:
        """The score of a candidate that needs a word beside it."""
        start, end, entity, score = candidate
        words = self.context.get(entity)
        if words is None or not surroundings.have(words, start, end):
            return score
        return round(min(1.0, max(score + _RAISE, FLOOR)), 2)

    def _is_excused(self, source: Source, start: int, end: int) -> bool:
        if _is_sealed(source.data, start, end):
            return True
        return bool(self.allowed) and self.allowed.matches(source.value(start, end))


def _is_sealed(data: bytes, start: int, end: int) -> bool:
    """Whether a stretch is part of a kilobyte of Base64, where digits and letters say nothing."""
    beside = data[max(0, start - 1) : start] + data[end : end + 1]
    if len(beside.strip(_BASE64)) == len(beside) or data[start:end].strip(_BASE64):
        return False
    around = data[max(0, start - _LONGEST_SEALED) : start], data[end : end + _LONGEST_SEALED]
    before = len(around[0]) - len(around[0].rstrip(_BASE64))
    after = len(around[1]) - len(around[1].lstrip(_BASE64))
    return before + after >= _LONGEST_SEALED

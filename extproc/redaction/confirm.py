"""What becomes of candidates: context, floors, lists, and who wins where they overlap.

A word beside a value raises its score as in Presidio, by 0.35 and to 0.4 at least.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from extproc.redaction.allowed import Allowed
from extproc.redaction.context import Surroundings, Words
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate

FLOOR = 0.4
"""The score that a finding needs unless its entity has a floor of its own."""
_RAISE = 0.35
_LONGEST_SEALED = 1024
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


class Finding(NamedTuple):
    """A value in a text: its characters from `start` to before `end`. `score` is from 0 to 1."""

    start: int
    end: int
    entity: str
    score: float


@dataclass(frozen=True)
class Rules:
    """What decides about a candidate. Floors and context by entity; an entity without a floor has `FLOOR`."""

    context: Mapping[str, Words] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    allowed: Allowed = field(default_factory=Allowed)

    def confirmed(self, source: Source, candidates: Iterable[Candidate]) -> list[Finding]:
        """What is found, ascending and without overlaps."""
        findings = []
        surroundings = Surroundings(source)
        for candidate in dict.fromkeys(candidates):
            start, end, entity, score = candidate
            floor = self.floors.get(entity, FLOOR)
            if score < floor:
                score = self._raised(surroundings, candidate)
            if score >= floor and not self._is_excused(source, start, end):
                findings.append(Finding(*source.origin(start, end), entity, score))
        return resolved(findings)

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


def resolved(findings: Iterable[Finding]) -> list[Finding]:
    """Of those that overlap the longest, then the one with the highest score, then by the entity's name; ascending."""
    kept: list[Finding] = []
    cluster: list[Finding] = []
    reach = -1
    for finding in sorted(findings):
        if finding.start >= reach:
            kept += _winners(cluster) if len(cluster) > 1 else cluster
            cluster = [finding]
            reach = finding.end
        else:
            cluster.append(finding)
            reach = max(reach, finding.end)
    return kept + _winners(cluster)


def _winners(cluster: list[Finding]) -> list[Finding]:
    """Of findings that hang together."""
    if len(cluster) < 2:
        return cluster
    won: list[Finding] = []
    for finding in sorted(cluster, key=_rank):
        place = bisect_left(won, finding)
        is_free_before = place == 0 or won[place - 1].end <= finding.start
        if is_free_before and (place == len(won) or finding.end <= won[place].start):
            won.insert(place, finding)
    return won


def _rank(finding: Finding) -> tuple[int, float, str, int]:
    return finding.start - finding.end, -finding.score, finding.entity, finding.start

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
            score = self._score(surroundings, candidate)
            if score >= self.floors.get(candidate.entity, FLOOR) and not self._is_excused(source, candidate):
                findings.append(Finding(*source.origin(candidate.start, candidate.end), candidate.entity, score))
        return resolved(findings)

    def _score(self, surroundings: Surroundings, candidate: Candidate) -> float:
        floor = self.floors.get(candidate.entity, FLOOR)
        words = self.context.get(candidate.entity)
        if candidate.score >= floor or words is None:
            return candidate.score
        if words.are_in(surroundings.of(candidate.start, candidate.end)):
            return round(min(1.0, max(candidate.score + _RAISE, FLOOR)), 2)
        return candidate.score

    def _is_excused(self, source: Source, candidate: Candidate) -> bool:
        if _is_sealed(source.data, candidate.start, candidate.end):
            return True
        return bool(self.allowed) and self.allowed.matches(source.value(candidate.start, candidate.end))


def _is_sealed(data: bytes, start: int, end: int) -> bool:
    """Whether a stretch is part of a kilobyte of Base64, where digits and letters say nothing."""
    if data[start:end].strip(_BASE64):
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
            kept += _winners(cluster)
            cluster = []
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

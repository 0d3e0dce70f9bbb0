"""Who has the characters that several findings claim."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple
from unicodedata import category

from extproc.redaction.entities import GUESSES, IDENTIFIERS


class Finding(NamedTuple):
    """A value in a text: its characters from `start` to before `end`. `score` is from 0 to 1."""

    start: int
    end: int
    entity: str
    score: float


Named = Callable[[Finding], bool]
"""Whether a word beside it says that a finding is the identifier that it seems to be."""


def _unnamed(_: Finding) -> bool:
    return False


def resolved(findings: Iterable[Finding], is_named: Named = _unnamed) -> list[Finding]:
    """Of those that overlap the longest, then one that is named, then the surest; ascending and apart.

    Guesses come behind all others; of equals an identifier with a check digit, then the first by name. What loses is
    dropped whole. `is_named` is asked of findings that have rivals of their length.
    """
    kept: list[Finding] = []
    cluster: list[Finding] = []
    reach = -1
    for finding in sorted(findings):
        if finding.start >= reach:
            kept += _winners(cluster, is_named)
            cluster = [finding]
            reach = finding.end
        else:
            cluster.append(finding)
            reach = max(reach, finding.end)
    return kept + _winners(cluster, is_named)


def _winners(cluster: list[Finding], is_named: Named) -> list[Finding]:
    """Of findings that hang together."""
    if len(cluster) < 2:
        return cluster
    lengths = Counter(finding.end - finding.start for finding in cluster)

    def rank(finding: Finding) -> tuple[int, int, float, bool, str, int]:
        start, end, entity, score = finding
        has_rival = lengths[end - start] > 1
        turn = 2 if entity in GUESSES else 0 if has_rival and is_named(finding) else 1
        return start - end, turn, -score, entity not in IDENTIFIERS, entity, start

    won: list[Finding] = []
    for finding in sorted(cluster, key=rank):
        place = bisect_left(won, finding)
        is_free_before = place == 0 or won[place - 1].end <= finding.start
        if is_free_before and (place == len(won) or finding.end <= won[place].start):
            won.insert(place, finding)
    return won


def shared(text: str, ranked: Iterable[Finding]) -> list[Finding]:
    """All findings in the text, ascending and apart: each has what of its characters none before it has.

    Of one that is cut, each piece is a finding, without the brackets and spaces around it. So whatever letter or digit
    was found is in one of the results.
    """
    kept = []
    covered = _Covered()
    for finding in ranked:
        for start, end in covered.add(finding.start, finding.end):
            if (start, end) != (finding.start, finding.end):
                start, end = _trimmed(text, start, end)
            if start < end:
                kept.append(finding._replace(start=start, end=end))
    return sorted(kept)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """What remains of a finding, without the brackets and spaces around it; empty if it is nothing else."""
    while start < end and not _is_of_word(text[start]):
        start += 1
    while start < end and not _is_of_word(text[end - 1]):
        end -= 1
    return start, end


def _is_of_word(character: str) -> bool:
    return category(character)[0] in "LMN"


class _Covered:
    """Which characters are taken. Ranges that touch are one, so that each gap is looked at once, whatever comes."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> list[tuple[int, int]]:
        """Take a range; returns what of it was free."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        taken = list(zip(self._starts[first:last], self._ends[first:last], strict=True))
        free = []
        at = start
        for one, other in taken:
            if one > at:
                free.append((at, one))
            at = other
        if at < end:
            free.append((at, end))
        self._starts[first:last] = [min(start, taken[0][0]) if taken else start]
        self._ends[first:last] = [max(end, at)]
        return free

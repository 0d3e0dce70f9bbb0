"""Attempts to talk a model out of its instructions: a score for each text, and what a policy makes of it.

Patterns belong to families, and of a family only the heaviest that matches counts, as they say the same thing in other
words. The score is 1 - (1 - w1)(1 - w2)..., the chance that something is meant if each family were evidence by itself.

A text that speaks of such attempts, or asks to translate one, often quotes it. If it does, what stands in quotation
marks or code marks does not count. Whoever knows that can get past; so can whoever finds other words. This is a
tripwire, no wall.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from math import prod

from extproc.guardrails.evidence import TOPIC, Evidence, Matcher, standard
from extproc.guardrails.policy import Injection
from extproc.guardrails.verdict import Verdict, told
from extproc.redaction.detector import Finding
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path

ASIDE = "aside"
_LEAST = 0.3
"""A lower score says nothing, and is not told."""
_QUOTED = re.compile(
    r"""
    ```[^`]{1,2000}```|`[^`\n]{1,300}`|"[^"\n]{1,300}"|“[^“”\n]{1,300}”|„[^„“”\n]{1,300}[“”]|«[^«»\n]{1,300}»
    |「[^「」\n]{1,300}」|(?<!\w)'[^'\n]{1,300}'(?!\w)
    """,
    re.VERBOSE,
)


class Heuristics:
    """Scores texts. May be used by several threads at once; keeps nothing of what it read."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher

    def findings(self, text: str) -> list[Finding]:
        """None, or one of all the text: its entity is the family that weighs most, its score that of the text."""
        found = self._matcher.evidence(text)
        if TOPIC in found and len(found) > 1:
            bare = _QUOTED.sub(" ", text)
            found = self._matcher.evidence(bare) if bare != text else found
        found.pop(TOPIC, None)
        score = score_of(found)
        if score < _LEAST:
            return []
        return [Finding(0, len(text), min(found, key=lambda family: (-found[family], family)), score)]


def score_of(found: Evidence) -> float:
    """From 0 to 1, in hundredths."""
    return round(1 - prod(1 - weight for weight in found.values()), 2)


@cache
def heuristics() -> Heuristics:
    """The one of the pattern set that this version brings. Built on the first call, which takes a second."""
    return Heuristics(Matcher(standard()))


def verdicts(rules: Injection, found: Iterable[tuple[Path, str, Sequence[Finding]]]) -> list[Verdict]:
    """One for each family that weighs most in a text, of texts with their paths, roles and what was found in them.

    Of a text whose role is trusted or that no model reads, nothing is told. `rule` is the family, `score` the highest.
    """
    if rules.mode is Mode.OFF:
        return []
    paths: dict[str, list[Path]] = {}
    scores: dict[str, float] = {}
    for path, role, findings in found:
        if role == ASIDE or role in rules.trusted:
            continue
        for finding in findings:
            if finding.score >= rules.threshold:
                paths.setdefault(finding.entity, []).append(path)
                scores[finding.entity] = max(finding.score, scores.get(finding.entity, 0.0))
    return [
        Verdict("injection", family, rules.mode, rules.action, len(hits), told(hits), scores[family])
        for family, hits in paths.items()
    ]

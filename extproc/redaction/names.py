"""Names, places and organisations: what a model of names found, beside what patterns found.

Offsets are those of Python strings, in code points, as spaCy and Presidio count them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from extproc.redaction.overlaps import Finding, shared
from extproc.redaction.policy import NameTier

SCORE = 0.85
"""Of what a local model found: spaCy gives no scores, and Presidio says this for it."""

LABELS: Mapping[str, str] = {
    "PER": "PERSON",
    "PERSON": "PERSON",
    "NORP": "NRP",
    "FAC": "LOCATION",
    "LOC": "LOCATION",
    "GPE": "LOCATION",
    "LOCATION": "LOCATION",
    "ORG": "ORGANIZATION",
    "ORGANIZATION": "ORGANIZATION",
    "DATE": "DATE_TIME",
    "TIME": "DATE_TIME",
}
"""Labels of spaCy's models to entities, as Presidio is configured by default."""

_PATH = "/analyze"
_EQUAL: Mapping[str, int] = {}
_SURROGATE = re.compile("[\ud800-\udfff]")

LabelledSpan = tuple[int, int, str]
"""Start, end and label of what a model found."""


def labelled(tier: NameTier, spans: Iterable[LabelledSpan]) -> list[Finding]:
    """What of a local model's spans the tier asks for. A label without an entity of Presidio's is one by itself."""
    if tier.floor > SCORE:
        return []
    found = (Finding(start, end, LABELS.get(label, label), SCORE) for start, end, label in spans)
    return [finding for finding in found if finding.entity in tier.entities]


def encodable(text: str) -> str:
    """The text, character for character, with something else for halves of surrogate pairs, which UTF-8 has not."""
    return _SURROGATE.sub("\ufffd", text)


def request(tier: NameTier, text: str) -> tuple[str, bytes]:
    """Path and body of a question to a Presidio analyzer."""
    question = {
        "text": encodable(text),
        "language": tier.language,
        "entities": sorted(tier.entities),
        "score_threshold": tier.floor,
    }
    return _PATH, orjson.dumps(question)


def findings(tier: NameTier, answer: bytes, text: str) -> list[Finding]:
    """What a Presidio analyzer found in the text, in its order; they may overlap.

    Raises ValueError, with a constant text, for what is no answer to this question.
    """
    try:
        results = orjson.loads(answer)
    except orjson.JSONDecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(results, list):
        raise ValueError("not a list of results")
    found = [_finding(result, len(text), tier.entities) for result in results]
    return [finding for finding in found if finding.score >= tier.floor]


def _finding(result: Any, length: int, entities: frozenset[str]) -> Finding:
    try:
        start, end, entity, score = (result[name] for name in ("start", "end", "entity_type", "score"))
    except (KeyError, TypeError):
        raise ValueError("a result without start, end, entity_type or score") from None
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= length:
        raise ValueError("a result that is nowhere in the text")
    if type(score) not in (int, float) or not 0 <= score <= 1:
        raise ValueError("a score that is not from 0 to 1")
    if type(entity) is not str or entity not in entities:
        raise ValueError("an entity that was not asked for")
    return Finding(start, end, entity, float(score))


def merged(
    text: str, patterns: Sequence[Finding], found: Iterable[Finding], strictness: Mapping[str, int] = _EQUAL
) -> list[Finding]:
    """All findings in the text, ascending and apart: those of `patterns`, and what `found` adds.

    A name gives way to a pattern that it overlaps, and to a longer or surer name, but only there: what stands beside is
    the name's still. What is stricter, see `Rules`, gives way to nothing that is less so.
    """
    ranked = [*patterns, *sorted(found, key=_rank)]
    return shared(text, sorted(ranked, key=lambda finding: -strictness.get(finding.entity, 0)))


def _rank(finding: Finding) -> tuple[int, float, str, int]:
    return finding.start - finding.end, -finding.score, finding.entity, finding.start

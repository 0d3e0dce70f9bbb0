"""Words and patterns that may not be said."""

from collections.abc import Iterable, Sequence

from extproc.guardrails.policy import Action, ContentRule
from extproc.guardrails.verdict import Verdict, told
from extproc.redaction.custom import DENY_SCORE, CustomRecognizer, Pattern
from extproc.redaction.detector import Detector, Finding, Settings
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path

_PREFIX = "content:"
"""No entity of redaction begins so, whatever the operator calls a rule."""


def entity_of(rule: str) -> str:
    """The entity that findings of a rule have."""
    return _PREFIX + rule


def rule_of(entity: str) -> str | None:
    """The rule whose findings have this entity, None where it is one of redaction."""
    return entity.removeprefix(_PREFIX) if entity.startswith(_PREFIX) else None


class _Ranked(Detector):
    """Where findings overlap, one that blocks wins: a longer phrase that is only flagged must not hide it."""

    def __init__(self, blocking: Settings, others: Settings) -> None:
        super().__init__(blocking)
        self._others = Detector(others)

    def findings(self, text: str) -> list[Finding]:
        first = super().findings(text)
        found = list(first)
        ahead = iter(first)
        following = next(ahead, None)
        for finding in self._others.findings(text):
            while following is not None and following.end <= finding.start:
                following = next(ahead, None)
            if following is None or finding.end <= following.start:
                found.append(finding)
        return sorted(found)


def detector(rules: Iterable[ContentRule]) -> Detector:
    """What finds the words and patterns of these rules, with `entity_of` their names as entities.

    Raises ValueError (PatternError), naming the rule, for a pattern that cannot be matched in linear time, and for a
    rule without any. Takes 0.1 s and more.
    """
    rules = tuple(rules)
    blocking = _settings(rule for rule in rules if _blocks(rule))
    others = _settings(rule for rule in rules if not _blocks(rule))
    if blocking.custom and others.custom:
        return _Ranked(blocking, others)
    return Detector(blocking if blocking.custom else others)


def _blocks(rule: ContentRule) -> bool:
    return rule.mode is Mode.ENFORCE and rule.action is Action.BLOCK


def _settings(rules: Iterable[ContentRule]) -> Settings:
    return Settings(entities=frozenset(), custom=tuple(map(_recognizer, rules)))


def _recognizer(rule: ContentRule) -> CustomRecognizer:
    if not rule.words and not rule.patterns:
        raise ValueError(f"content rule {rule.name!r}: words or patterns are needed")
    patterns = tuple(Pattern(f"pattern {n}", regex, DENY_SCORE) for n, regex in enumerate(rule.patterns, 1))
    return CustomRecognizer(f"content rule {rule.name}", entity_of(rule.name), patterns, rule.words)


def verdicts(rules: Iterable[ContentRule], found: Iterable[tuple[Path, Sequence[Finding]]]) -> list[Verdict]:
    """Of texts, each with its path and what was found in it; what is none of these rules is passed over."""
    paths: dict[str, list[Path]] = {}
    for path, findings in found:
        for finding in findings:
            paths.setdefault(finding.entity, []).append(path)
    return [
        Verdict("content", rule.name, rule.mode, rule.action, len(hits), told(hits))
        for rule in rules
        if rule.mode is not Mode.OFF and (hits := paths.get(entity_of(rule.name)))
    ]

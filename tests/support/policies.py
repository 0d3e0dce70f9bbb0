"""Policies of redaction and guardrails, built as a configuration would."""

from functools import lru_cache
from typing import Any

from extproc.guardrails import content
from extproc.guardrails.policy import ContentRule, Guardrails
from extproc.redaction.detector import Detector, of
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.profile import Profile

EMAIL, CARD = "EMAIL_ADDRESS", "CREDIT_CARD"


@lru_cache(maxsize=16)
def _detector(entities: frozenset[str]) -> Detector | None:
    return of(entities) if entities else None


def redaction(**fields: Any) -> Profile:
    """Placeholders for mail addresses and cards, unless the fields of a policy say something else."""
    fields = {"name": "default", "input": dict.fromkeys((EMAIL, CARD), Action.PLACEHOLDER), **fields}
    policy = RedactionPolicy(**fields)
    return Profile(policy, _detector(frozenset(policy.input)), _detector(frozenset(policy.output)))


def guardrails(*rules: ContentRule, **fields: Any) -> Guardrails:
    """Rules about words, and the other rules as fields."""
    spoken, written = [rule for rule in rules if rule.output], [rule for rule in rules if rule.input]
    return Guardrails(
        "default",
        content=rules,
        input_words=content.detector(written) if written else None,
        output_words=content.detector(spoken) if spoken else None,
        reach=max((len(word) for rule in spoken for word in rule.words), default=0),
        **fields,
    )

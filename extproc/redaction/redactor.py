"""From findings to changes of a text, as a policy's actions say."""

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from extproc.redaction.changes import Change
from extproc.redaction.placeholders import Placeholders, canonical, is_marked, placeholder_name
from extproc.redaction.policy import Action, Mode, RedactionPolicy

OMISSION = "…"
"""Stands for what was dropped. Were there nothing, the text around it could grow together into a placeholder."""


class Found(Protocol):
    """A value in a text: characters from `start` to before `end`."""

    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def entity(self) -> str: ...


class Redactor:
    """Replaces what was found in the texts of one call, which are handed to it in the order of the conversation.

    Without `placeholders` the values are masked instead. `counts` are of all that was found, by entity; `blocked` of
    what the call must be refused for.
    """

    __slots__ = ("_actions", "_key", "_placeholders", "blocked", "counts", "is_shadow")

    def __init__(
        self,
        policy: RedactionPolicy,
        actions: Mapping[str, Action],
        placeholders: Placeholders | None = None,
        tenant: str = "",
    ) -> None:
        self._actions = actions
        self._key = policy.key_for(tenant)
        self.is_shadow = policy.mode is Mode.SHADOW
        self._placeholders = placeholders
        self.counts: Counter[str] = Counter()
        self.blocked: Counter[str] = Counter()

    def changes(self, text: str, findings: Sequence[Found], lead: int = 0) -> list[Change]:
        """What to change in the text, in order. The first `lead` characters stay as they are.

        The findings are in order and do not overlap. None is changed in shadow mode.
        """
        literal = self._placeholders if self._placeholders is not None and is_marked(text) else None
        if not findings and literal is None:
            return []
        result: list[Change] = []
        at = lead
        for finding in findings:
            start = max(finding.start, at)
            if finding.end <= start:
                continue
            replacement = self._replacement(finding.entity, text[start : finding.end])
            if replacement is not None:
                result += _literals(literal, text, at, start)
                result.append(Change(start, finding.end, replacement))
                at = finding.end
        result += _literals(literal, text, at, len(text))
        return [] if self.is_shadow else result

    def _replacement(self, entity: str, value: str) -> str | None:
        """What to put in the place of a value; None: leave it."""
        self.counts[entity] += 1
        match self._actions.get(entity, Action.MASK):
            case Action.PLACEHOLDER if self._placeholders is not None:
                return self._placeholders.of(entity, value)
            case Action.HASH:
                return f"[{placeholder_name(entity)}#{self._hash(entity, value)}]"
            case Action.DROP:
                return OMISSION
            case Action.BLOCK:
                self.blocked[entity] += 1
                return OMISSION
            case Action.FLAG:
                return None
        return f"[{placeholder_name(entity)}]"

    def _hash(self, entity: str, value: str) -> str:
        text = f"{entity}\0{canonical(entity, value)}".encode()
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()[:16]


def _literals(placeholders: Placeholders | None, text: str, start: int, end: int) -> list[Change]:
    """Placeholders that the caller typed: whatever could be read as one, in whatever stands around it later."""
    if placeholders is None:
        return []
    return [
        Change(*found.span(), placeholders.literal(found[0]))
        for found in placeholders.grammar.lookalike.finditer(text, start, end)
    ]

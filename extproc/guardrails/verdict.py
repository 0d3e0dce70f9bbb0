"""What a guardrail says of a call: rules, counts and places that can be told, and nothing of the caller's making."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from extproc.guardrails.policy import Action
from extproc.redaction.policy import Mode
from extproc.redaction.positions import Path, place

MOST_PLACES = 8

Guardrail = Literal["structure", "injection", "content", "moderation"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A rule that was broken.

    `rule` is a word of a closed set, or the name that the operator gave the rule. `count` is how often, or for a
    maximum how many there were. `places` such as `messages[3].content` are the first ones. `score` is from 0 to 1, or
    Azure's severity from 0 to 7.
    """

    guardrail: Guardrail
    rule: str
    mode: Mode
    action: Action
    count: int
    places: tuple[str, ...] = ()
    score: float | None = None

    @property
    def blocks(self) -> bool:
        """Whether the call ends here."""
        return self.mode is Mode.ENFORCE and self.action is Action.BLOCK


def told(paths: Iterable[Path]) -> tuple[str, ...]:
    """The first places that these are, each once."""
    return tuple(dict.fromkeys(map(place, paths)))[:MOST_PLACES]

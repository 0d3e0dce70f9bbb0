"""A policy together with what finds the values that it speaks of: built once, shared by all calls."""

from collections.abc import Mapping
from dataclasses import dataclass

from extproc.redaction.detector import Detector
from extproc.redaction.policy import Action, RedactionPolicy, strictness


class DetectionFailed(Exception):
    """Texts could not be looked through; what becomes of the call is the policy's to say. Its text is constant."""


class Unreadable(DetectionFailed):
    """It is the request that cannot be looked through: to try it again is no use."""


class UnreadableAnswer(DetectionFailed):
    """It is the answer: to ask again is paid for again."""


@dataclass(frozen=True, eq=False)
class Profile:
    """`input` and `output` find what the policy's two maps name; None: there is nothing to look for.

    Where values overlap, each finds first what the policy is stricter about.
    """

    policy: RedactionPolicy
    input: Detector | None
    output: Detector | None
    reach: int = 0  # characters of the longest phrase that the output may hold, see `output.OutputGuard`
    version: str = ""  # another one where it may do anything else

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", _ranked(self.input, self.policy.input))
        object.__setattr__(self, "output", _ranked(self.output, self.policy.output))


def _ranked(detector: Detector | None, actions: Mapping[str, Action]) -> Detector | None:
    strict = strictness(actions)
    return detector.ranked(strict) if detector and len(set(strict.values())) > 1 else detector

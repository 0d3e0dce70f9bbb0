"""What becomes of candidates: floors, words beside them, lists."""

from extproc.redaction.allowed import Allowed
from extproc.redaction.confirm import Rules
from extproc.redaction.context import Words
from extproc.redaction.normalise import Source
from extproc.redaction.patterns import Candidate


def _confirmed(rules: Rules, text: str, score: float) -> list[float]:
    start = text.index("9")
    candidate = Candidate(start, start + 3, "X", score)
    return [finding.score for finding in rules.confirmed(Source(text), [candidate, candidate])]


def test_a_word_raises_a_weak_candidate_over_the_floor() -> None:
    rules = Rules(context={"X": Words(["badge"])})
    assert _confirmed(rules, "badge 999", 0.01) == [0.4]
    assert _confirmed(rules, "badge 999", 0.3) == [0.65]
    assert _confirmed(rules, "other 999", 0.3) == []
    assert _confirmed(rules, "other 999", 0.4) == [0.4]


def test_floors_by_entity() -> None:
    assert _confirmed(Rules(floors={"X": 0.7}), "999", 0.6) == []
    assert _confirmed(Rules(floors={"X": 0.1}), "999", 0.1) == [0.1]
    assert _confirmed(Rules(floors={"X": 0.7}, context={"X": Words(["badge"])}), "badge 999", 0.5) == [0.85]


def test_allowed_values_stay() -> None:
    assert _confirmed(Rules(allowed=Allowed(["999"])), "999", 1.0) == []
    assert _confirmed(Rules(allowed=Allowed(patterns=["9+"])), "999", 1.0) == []
    assert _confirmed(Rules(allowed=Allowed(["99"], ["9"])), "999", 1.0) == [1.0]

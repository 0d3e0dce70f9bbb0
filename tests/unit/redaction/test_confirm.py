"""Who stays where findings overlap, and what floors do."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.allowed import Allowed
from extproc.redaction.confirm import Rules
from extproc.redaction.context import Words
from extproc.redaction.normalise import Source
from extproc.redaction.overlaps import Finding, resolved
from extproc.redaction.patterns import Candidate

SPANS = st.builds(
    lambda start, length, entity, score: Finding(start, start + length, entity, score),
    *(st.integers(0, 30), st.integers(1, 8), st.sampled_from("ABC"), st.sampled_from((0.4, 0.6, 1.0))),
)


def test_the_longest_then_the_surest_then_the_name() -> None:
    short, long = Finding(0, 4, "A", 1.0), Finding(2, 9, "B", 0.4)
    assert resolved([short, long]) == [long]
    assert resolved([Finding(0, 4, "A", 0.5), Finding(0, 4, "B", 0.6)]) == [Finding(0, 4, "B", 0.6)]
    assert resolved([Finding(0, 4, "B", 0.5), Finding(0, 4, "A", 0.5)]) == [Finding(0, 4, "A", 0.5)]
    assert resolved([Finding(0, 2, "A", 1.0), Finding(1, 6, "B", 1.0), Finding(6, 7, "C", 1.0)]) == [
        *(Finding(1, 6, "B", 1.0), Finding(6, 7, "C", 1.0))
    ]


@given(st.lists(SPANS, max_size=12), st.randoms(use_true_random=False))
def test_the_result_is_apart_complete_and_the_same_in_any_order(spans: list[Finding], dice: object) -> None:
    kept = resolved(spans)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    shuffled = list(spans)
    dice.shuffle(shuffled)  # type: ignore[attr-defined]
    assert resolved(shuffled) == kept
    for lost in set(spans) - set(kept):
        rivals = [one for one in kept if one.start < lost.end and lost.start < one.end]
        assert any(one.end - one.start >= lost.end - lost.start for one in rivals)


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

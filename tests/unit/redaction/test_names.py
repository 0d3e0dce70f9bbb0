"""What a Presidio analyzer is asked, what its answers may be, and how names and patterns become one list."""

from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from extproc.redaction import names
from extproc.redaction.overlaps import Finding, resolved
from extproc.redaction.policy import NameTier

TIER = NameTier(frozenset({"PERSON", "LOCATION"}), service="analyzer", language="de", floor=0.5)
TEXT = "😀 Ada Lovelace aus London"


def result(
    start: Any = 2, end: Any = 14, entity_type: Any = "PERSON", score: Any = 0.85, **more: Any
) -> dict[str, Any]:
    return {"start": start, "end": end, "entity_type": entity_type, "score": score, **more}


# ---- labels ----


@pytest.mark.skipif(find_spec("presidio_analyzer") is None, reason="presidio-analyzer is not installed")
def test_labels_are_those_of_presidios_default_configuration() -> None:
    spec = find_spec("presidio_analyzer")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "conf" / "default.yaml"
    configuration = YAML(typ="safe").load(file)["ner_model_configuration"]
    assert dict(names.LABELS) == configuration["model_to_presidio_entity_mapping"]


def test_what_the_tier_asks_for_is_kept_under_presidios_names() -> None:
    tier = NameTier(frozenset({"PERSON", "LOCATION", "EMPLOYEE"}), model="m")
    spans = [(0, 3, "PER"), (4, 9, "GPE"), (10, 12, "ORG"), (13, 15, "EMPLOYEE"), (16, 18, "CARDINAL")]
    assert names.labelled(tier, spans) == [
        Finding(0, 3, "PERSON", names.SCORE),
        Finding(4, 9, "LOCATION", names.SCORE),
        Finding(13, 15, "EMPLOYEE", names.SCORE),
    ]


@pytest.mark.parametrize(("floor", "count"), [(names.SCORE, 1), (names.SCORE + 0.01, 0)])
def test_a_floor_above_the_score_of_all_leaves_nothing(floor: float, count: int) -> None:
    tier = NameTier(frozenset({"PERSON"}), model="m", floor=floor)
    assert len(names.labelled(tier, [(0, 3, "PERSON")])) == count


# ---- a remote analyzer ----


def test_the_question() -> None:
    path, body = names.request(TIER, TEXT)
    assert path == "/analyze"
    assert orjson.loads(body) == {
        "text": TEXT,
        "language": "de",
        "entities": ["LOCATION", "PERSON"],
        "score_threshold": 0.5,
    }


def test_halves_of_surrogate_pairs_do_not_move_what_stands_behind() -> None:
    text = "\ud83d Ada \udc00"
    _, body = names.request(TIER, text)
    assert orjson.loads(body)["text"] == "\ufffd Ada \ufffd"


def test_the_answer_counts_characters() -> None:
    answer = orjson.dumps([result(recognition_metadata={}, analysis_explanation=None), result(19, 25, "LOCATION", 1)])
    found = names.findings(TIER, answer, TEXT)
    assert found == [Finding(2, 14, "PERSON", 0.85), Finding(19, 25, "LOCATION", 1.0)]
    assert [TEXT[one.start : one.end] for one in found] == ["Ada Lovelace", "London"]
    assert names.findings(TIER, b"[]", TEXT) == []


def test_a_result_below_the_floor_is_none() -> None:
    assert names.findings(TIER, orjson.dumps([result(score=0.49)]), TEXT) == []
    assert len(names.findings(TIER, orjson.dumps([result(score=0.5)]), TEXT)) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "not JSON"),
        (b"[", "not JSON"),
        (b'{"error": "No matching recognizers"}', "not a list of results"),
        (b"[3]", "a result without start, end, entity_type or score"),
        (b'["result"]', "a result without start, end, entity_type or score"),
        (b'[{"start": 1, "end": 2, "score": 1}]', "a result without start, end, entity_type or score"),
        (orjson.dumps([result(start=-1)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(start=14)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(end=len(TEXT) + 1)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(start=2.0)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(start=True)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(end=None)]), "a result that is nowhere in the text"),
        (orjson.dumps([result(score=1.01)]), "a score that is not from 0 to 1"),
        (orjson.dumps([result(score=-0.1)]), "a score that is not from 0 to 1"),
        (orjson.dumps([result(score=True)]), "a score that is not from 0 to 1"),
        (orjson.dumps([result(score="0.9")]), "a score that is not from 0 to 1"),
        (orjson.dumps([result(entity_type="US_SSN")]), "an entity that was not asked for"),
        (orjson.dumps([result(entity_type=["PERSON"])]), "an entity that was not asked for"),
        (orjson.dumps([result(), result(score=None)]), "a score that is not from 0 to 1"),
    ],
)
def test_an_answer_that_is_none(answer: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        names.findings(TIER, answer, TEXT)


@given(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats(0, 1) | st.sampled_from(["", "PERSON", [], {}, [[]]])
)
def test_whatever_comes_is_findings_or_a_value_error(value: Any) -> None:
    for answer in (value, [value], [result(start=value)], [result(entity_type=value)], [result(score=value)]):
        try:
            found = names.findings(TIER, orjson.dumps(answer), TEXT)
        except ValueError:
            continue
        assert all(0 <= one.start < one.end <= len(TEXT) for one in found)
        assert all(one.entity in TIER.entities and TIER.floor <= one.score <= 1 for one in found)


# ---- one list ----


def cut(text: str, found: list[Finding]) -> list[tuple[str, str]]:
    return [(one.entity, text[one.start : one.end]) for one in found]


def test_a_pattern_stays_and_the_name_is_what_stands_beside_it() -> None:
    text = "Ask Ada Lovelace (ada@acme.com), please."
    mail = Finding(18, 30, "EMAIL_ADDRESS", 1.0)
    found = names.merged(text, [mail], [Finding(4, 31, "PERSON", 0.85)])
    assert cut(text, found) == [("PERSON", "Ada Lovelace"), ("EMAIL_ADDRESS", "ada@acme.com")]


def test_a_name_within_a_pattern_is_gone() -> None:
    mail = Finding(0, 12, "EMAIL_ADDRESS", 0.4)
    assert names.merged("ada@acme.com", [mail], [Finding(4, 8, "ORGANIZATION", 1.0), Finding(0, 12, "URL", 1.0)]) == [
        mail
    ]


def test_of_names_the_longest_then_the_surest() -> None:
    text = "Bank of London Street 5"
    place, firm = Finding(8, 21, "LOCATION", 0.9), Finding(0, 14, "ORGANIZATION", 0.85)
    assert cut(text, names.merged(text, [], [place, firm])) == [
        ("ORGANIZATION", "Bank of London"),
        ("LOCATION", "Street"),
    ]
    sure, unsure = Finding(0, 4, "LOCATION", 0.9), Finding(0, 4, "PERSON", 0.6)
    assert names.merged(text, [], [unsure, sure]) == [sure]


def test_a_name_that_nothing_overlaps_stays_as_it_was_found() -> None:
    quoted = Finding(0, 6, "PERSON", 0.85)
    assert names.merged('"Ada" is here', [], [quoted]) == [quoted]
    assert names.merged("", [], []) == []


LENGTH = 20
TEXTS = st.text("ab1 -(é😀", min_size=LENGTH, max_size=LENGTH)
SPANS = st.builds(
    lambda start, length, entity, score: Finding(start, min(start + length, LENGTH), entity, score),
    *(st.integers(0, LENGTH - 1), st.integers(1, 9), st.sampled_from("XYZ"), st.sampled_from((0.4, 0.85))),
)


def characters(found: list[Finding]) -> set[int]:
    return {at for one in found for at in range(one.start, one.end)}


@given(TEXTS, st.lists(SPANS, max_size=6), st.lists(SPANS, max_size=6))
def test_nothing_that_was_found_is_lost(text: str, some: list[Finding], found: list[Finding]) -> None:
    patterns = resolved(some)
    every = names.merged(text, patterns, found)
    assert every == sorted(every)
    assert all(one.end <= other.start for one, other in pairwise(every))
    assert set(patterns) <= set(every)
    words = {at for at, character in enumerate(text) if character.isalnum()}
    assert characters(every) & words == characters(patterns + found) & words
    assert characters(every) <= characters(patterns + found)
    for one in set(every) - set(patterns):
        assert any(name.start <= one.start and one.end <= name.end and name[2:] == one[2:] for name in found), (
            "a name that nobody found"
        )
    assert names.merged(text, every, []) == every
    assert names.merged(text, patterns, found[::-1]) == every


def test_many_names_over_many_patterns_take_no_time() -> None:
    """A loop over all pairs would be 100 million steps."""
    length = 40_000
    patterns = [Finding(at, at + 1, "X", 1.0) for at in range(0, length, 4)]
    found = [Finding(at, length - at, "Y", 1.0) for at in range(length // 4)]
    every = names.merged("a" * length, patterns, found)
    assert len(every) == 2 * len(patterns)
    assert sum(one.end - one.start for one in every) == length


@given(TEXTS, st.lists(SPANS, max_size=6), st.lists(SPANS, max_size=6))
def test_nothing_is_lost_to_what_is_less_strict(text: str, some: list[Finding], found: list[Finding]) -> None:
    strictness = {"X": 2, "Y": -1}
    patterns = resolved(some)
    every = names.merged(text, patterns, found, strictness)
    assert all(one.end <= other.start for one, other in pairwise(every))
    owner = {at: strictness.get(one.entity, 0) for one in every for at in range(one.start, one.end)}
    for one in (*patterns, *found):
        letters = [at for at in range(one.start, one.end) if text[at].isalnum()]
        assert all(owner[at] >= strictness.get(one.entity, 0) for at in letters), one

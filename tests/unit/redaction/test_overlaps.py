"""Who has characters that several findings claim."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.changes import apply
from extproc.redaction.confirm import Rules
from extproc.redaction.custom import CustomRecognizer
from extproc.redaction.detector import Detector, Settings, of
from extproc.redaction.entities import DEFAULT, GUESSES, IDENTIFIERS, NATIONAL
from extproc.redaction.overlaps import Finding, resolved
from extproc.redaction.policy import Action, RedactionPolicy
from extproc.redaction.profile import Profile
from extproc.redaction.redactor import Redactor
from loadtest.eval_pii import SET
from loadtest.pii_set import read

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


def test_a_named_identifier_comes_before_a_surer_rival_of_its_length() -> None:
    phone, other, nhs = Finding(0, 10, "PHONE_NUMBER", 0.6), Finding(0, 12, "X", 0.4), Finding(0, 10, "UK_NHS", 0.45)
    assert resolved([phone, nhs]) == [phone]
    assert resolved([phone, nhs], lambda finding: finding is nhs) == [nhs]
    assert resolved([phone, nhs, other], lambda finding: finding is nhs) == [other]


def test_of_equals_an_identifier_and_guesses_behind_all() -> None:
    phone, person = Finding(0, 11, "PHONE_NUMBER", 0.6), Finding(0, 11, "SE_PERSONNUMMER", 0.6)
    assert resolved([phone, person]) == [person]
    assert resolved([Finding(0, 9, "US_BANK_NUMBER", 0.45), Finding(0, 9, "US_SSN", 0.4)])[0].entity == "US_SSN"


def test_words_are_looked_for_where_something_depends_on_them() -> None:
    def refuse(_: Finding) -> bool:
        raise AssertionError("nothing depends on it")

    long, short, apart = Finding(0, 9, "A", 0.5), Finding(3, 6, "B", 0.5), Finding(10, 12, "C", 0.5)
    assert resolved([long, short, apart], refuse) == [long, apart]


# ---- the stricter -----------------------------------------------------------------------------------

STRICTNESS = {"A": 2, "B": 0, "C": -2}
TEXT = "ab (1) cd-23 e, f é45😀g hi jk 6 -- l.m n o"


def _settled(spans: list[Finding], strictness: dict[str, int]) -> list[Finding]:
    return Rules(strictness=strictness).settled(TEXT, dict.fromkeys(spans, lambda: False))


@given(st.lists(SPANS, max_size=12))
def test_no_character_is_lost_to_something_less_strict(spans: list[Finding]) -> None:
    kept = _settled(spans, STRICTNESS)
    assert all(one.end <= other.start for one, other in pairwise(kept))
    owner = {at: STRICTNESS[one.entity] for one in kept for at in range(one.start, one.end)}
    for entity, strict in STRICTNESS.items():
        for one in resolved(span for span in spans if span.entity == entity):
            letters = [at for at in range(one.start, one.end) if TEXT[at].isalnum()]
            assert all(owner[at] >= strict for at in letters), one
    for one in kept:
        assert any(span.start <= one.start and one.end <= span.end and span[2:] == one[2:] for span in spans)


@given(st.lists(SPANS, max_size=12))
def test_of_entities_that_are_equally_strict_it_is_as_without(spans: list[Finding]) -> None:
    assert _settled(spans, {}) == resolved(spans) == _settled(spans, dict.fromkeys("ABC", 2))


def test_the_weaker_keeps_what_stands_beside() -> None:
    assert _settled([Finding(0, 12, "C", 1.0), Finding(4, 5, "B", 0.4), Finding(7, 9, "A", 0.4)], STRICTNESS) == [
        *(Finding(0, 2, "C", 1.0), Finding(4, 5, "B", 0.4)),
        *(Finding(7, 9, "A", 0.4), Finding(10, 12, "C", 1.0)),
    ]


PHONE, NHS, MAIL, NOTE = "PHONE_NUMBER", "UK_NHS", "EMAIL_ADDRESS", "NOTE"
STRICTEST_FIRST = (Action.BLOCK, Action.DROP, Action.MASK, Action.PLACEHOLDER, Action.FLAG)


@cache
def _detector() -> Detector:
    note = CustomRecognizer("notes", NOTE, deny=("note for ann@example.com only",))
    return Detector(Settings(entities=frozenset((PHONE, NHS, MAIL)), custom=(note,)))


def _entities(text: str, actions: dict[str, Action]) -> list[str]:
    detector = Profile(RedactionPolicy(input=actions), _detector(), None).input
    return [finding.entity for finding in detector.findings(text)] if detector else []


@pytest.mark.parametrize(("strict", "weak"), list(pairwise(STRICTEST_FIRST)))
@pytest.mark.parametrize("text", ["NHS number 9434765919", "tel 943-476-5919 (NHS)"])
def test_a_policy_keeps_the_stricter_of_two_that_have_the_same_characters(
    text: str, strict: Action, weak: Action
) -> None:
    assert _entities(text, {PHONE: weak, NHS: strict}) == [NHS]
    assert _entities(text, {PHONE: strict, NHS: weak}) == [PHONE]
    assert _entities(text, {PHONE: weak, NHS: weak}) == [NHS]


def test_a_short_value_is_masked_within_a_long_one_that_is_counted() -> None:
    text = "a note for ann@example.com only!"
    assert _entities(text, {NOTE: Action.FLAG, MAIL: Action.FLAG}) == [NOTE]
    policy = RedactionPolicy(input={NOTE: Action.FLAG, MAIL: Action.MASK})
    detector = Profile(policy, _detector(), None).input
    assert detector is not None
    redactor = Redactor(policy, policy.input)
    assert apply(text, redactor.changes(text, detector.findings(text))) == "a note for [EMAIL_ADDRESS] only!"


def test_answers_have_an_order_of_their_own() -> None:
    text = "NHS number 9434765919"
    policy = RedactionPolicy(
        input={PHONE: Action.BLOCK, NHS: Action.FLAG}, output={PHONE: Action.FLAG, NHS: Action.BLOCK}
    )
    profile = Profile(policy, _detector(), _detector())
    assert profile.input is not None
    assert profile.output is not None
    assert [one.entity for one in profile.input.findings(text)] == [PHONE]
    assert [one.entity for one in profile.output.findings(text)] == [NHS]
    assert [one.entity for one in _detector().findings(text)] == [NHS]


# ---- all at once ------------------------------------------------------------------------------------


@cache
def _everybody() -> Detector:
    return of((*DEFAULT, *NATIONAL))


def test_national_identifiers_are_told_though_telephones_and_cards_are_looked_for() -> None:
    told = 0
    for sample in (one for one in read(SET) if one.file == "national" and one.kind == "positive"):
        found = {(one.start, one.end, one.entity) for one in _everybody().findings(sample.text)}
        for span in (one for one in sample.spans if one.entity in IDENTIFIERS | GUESSES):
            told += 1
            assert any(
                start <= span.start and span.end <= end and entity == span.entity for start, end, entity in found
            ), sample
    assert told > 1_000


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("phone number 999-861-8088", PHONE),
        ("Sent from my phone\n\n6.245.202.183", "IP_ADDRESS"),
        ("debit account 4111111111111111", "CREDIT_CARD"),
        ("My SSN is 792592124, could you check", "US_SSN"),
    ],
)
def test_what_is_no_identifier_stays_what_it_is(text: str, entity: str) -> None:
    assert [one.entity for one in _everybody().findings(text)] == [entity]

"""Words and patterns that may not be said."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.guardrails import content
from extproc.guardrails.policy import Action, ContentRule
from extproc.redaction.automaton import PatternError
from extproc.redaction.policy import Mode

PROJECT = ContentRule("project names", words=("Blue Heron",), patterns=(r"\bPRJ-[0-9]{4}\b",))
RIVALS = ContentRule("rivals", words=("Blue Heron Airlines",), action=Action.FLAG)
SHADOWED = ContentRule("trial", words=("heron",), mode=Mode.SHADOW)
RULES = (PROJECT, RIVALS, SHADOWED)
BOTH = content.detector(RULES)


def said(text: str, rules: tuple[ContentRule, ...] = RULES) -> dict[str, int]:
    found = content.detector(rules).findings(text)
    return {one.rule: one.count for one in content.verdicts(rules, [(("messages", 0, "content"), found)])}


def test_words_and_patterns_are_found_under_the_name_of_their_rule() -> None:
    assert said("What of BLUE\n heron?", (PROJECT,)) == {"project names": 1}  # blanks of any kind are as one
    assert said("What of BLUE heron and prj-0042?", (PROJECT,)) == {"project names": 2}
    assert said("Nothing of ours, not even XPRJ-00421.", (PROJECT,)) == {}


def test_a_longer_phrase_that_is_only_flagged_hides_no_word_that_blocks() -> None:
    assert said("I fly with Blue Heron Airlines.") == {"project names": 1}
    assert said("Blue Heron, then a heron, then Blue Heron Airlines, heron") == {"project names": 2, "trial": 2}


@given(st.lists(st.sampled_from(["Blue Heron", "Airlines", "heron", "PRJ-0001", "and", "."])).map(" ".join))
def test_findings_are_ascending_and_apart(text: str) -> None:
    found = BOTH.findings(text)
    assert all(one.end <= following.start for one, following in pairwise(found))
    blocking = content.detector([PROJECT]).findings(text)
    assert set(blocking) <= set(found)


def test_verdicts_tell_rules_and_places_and_no_values() -> None:
    path = ("messages", 2, "content", 0, "secret key of the caller")
    found = BOTH.findings("PRJ-0042 PRJ-0043")
    (verdict,) = content.verdicts(RULES, [(path, found)])
    assert (verdict.guardrail, verdict.rule, verdict.count, verdict.blocks) == ("content", "project names", 2, True)
    assert verdict.places == ("messages[2].content[0].*",)


def test_only_what_is_enforced_and_blocks_ends_a_call() -> None:
    for rule, blocks in ((PROJECT, True), (RIVALS, False), (SHADOWED, False)):
        found = content.detector([rule]).findings("Blue Heron Airlines")
        assert [one.blocks for one in content.verdicts([rule], [((), found)])] == [blocks]


def test_a_rule_that_is_off_says_nothing() -> None:
    found = content.detector([PROJECT]).findings("PRJ-0001")
    off = ContentRule("project names", words=("x",), mode=Mode.OFF)
    assert content.verdicts([off], [((), found)]) == []


def test_an_entity_tells_its_rule_and_never_collides_with_one_of_redaction() -> None:
    assert content.rule_of(content.entity_of("EMAIL_ADDRESS")) == "EMAIL_ADDRESS"
    assert content.rule_of("EMAIL_ADDRESS") is None


def test_errors_name_the_rule() -> None:
    with pytest.raises(ValueError, match="content rule 'empty': words or patterns are needed"):
        content.detector([ContentRule("empty")])
    with pytest.raises(PatternError, match="content rule bad"):
        content.detector([ContentRule("bad", patterns=(r"(a)\1",))])

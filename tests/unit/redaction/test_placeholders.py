"""Numbers, spellings, and what a caller types himself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.placeholders import LONGEST, Placeholders, canonical, grammar, key_of, placeholder_name

GRAMMAR = grammar(frozenset(("EMAIL_ADDRESS", "ADDRESS", "CREDIT_CARD")))


def _fresh() -> Placeholders:
    return Placeholders(GRAMMAR)


def test_values_are_numbered_as_they_appear() -> None:
    given_ = _fresh()
    assert given_.of("EMAIL_ADDRESS", "a@x.io") == "<EMAIL_ADDRESS_1>"
    assert given_.of("EMAIL_ADDRESS", "b@x.io") == "<EMAIL_ADDRESS_2>"
    assert given_.of("CREDIT_CARD", "4111111111111111") == "<CREDIT_CARD_1>"
    assert given_.of("EMAIL_ADDRESS", "a@x.io") == "<EMAIL_ADDRESS_1>"
    assert len(given_) == 3


def test_a_second_spelling_shares_the_number_and_keeps_its_own_text() -> None:
    given_ = _fresh()
    assert given_.of("CREDIT_CARD", "4111 1111 1111 1111") == "<CREDIT_CARD_1>"
    assert given_.of("CREDIT_CARD", "4111-1111-1111-1111") == "<CREDIT_CARD_1a>"
    assert given_.of("CREDIT_CARD", "4111111111111111") == "<CREDIT_CARD_1b>"
    assert given_.value("CREDIT_CARD_1A") == "4111-1111-1111-1111"
    assert given_.of("EMAIL_ADDRESS", "Bob@x.io") == "<EMAIL_ADDRESS_1>"
    assert given_.of("EMAIL_ADDRESS", "bob@x.io") == "<EMAIL_ADDRESS_1a>"


def test_more_spellings_than_two_letters_tell_get_a_new_number() -> None:
    given_ = _fresh()
    value = "a" * 10
    spellings = ["".join(c.upper() if n >> i & 1 else c for i, c in enumerate(value)) for n in range(800)]
    placeholders = [given_.of("EMAIL_ADDRESS", spelling) for spelling in spellings]
    assert placeholders[26:28] == ["<EMAIL_ADDRESS_1z>", "<EMAIL_ADDRESS_1aa>"]
    assert placeholders[702:704] == ["<EMAIL_ADDRESS_1zz>", "<EMAIL_ADDRESS_2>"]
    assert len(set(placeholders)) == 800
    for spelling, placeholder in zip(spellings, placeholders, strict=True):
        assert given_.value(placeholder[1:-1].upper()) == spelling


@pytest.mark.parametrize(
    ("entity", "one", "other"),
    [
        ("EMAIL_ADDRESS", "bob@x.io", "ｂｏｂ@X.io"),
        ("EMAIL_ADDRESS", "bob@x.io", "bob@\u200bx.io"),
        ("PHONE_NUMBER", "(415) 555-0123", "415.555.0123"),
        ("IBAN_CODE", "DE89 3704", "de893704"),
    ],
)
def test_spellings_of_the_same_value(entity: str, one: str, other: str) -> None:
    assert canonical(entity, one) == canonical(entity, other)


def test_addresses_that_differ_by_a_dot_are_two() -> None:
    assert canonical("IP_ADDRESS", "1.2.34.4") != canonical("IP_ADDRESS", "1.2.3.44")


@pytest.mark.parametrize(
    ("entity", "name"),
    [("EMAIL_ADDRESS", "EMAIL_ADDRESS"), ("zip-code", "ZIP_CODE"), ("FOO_2", "FOO2"), ("2_FA", "FA"), ("né", "N")],
)
def test_names_of_custom_entities(entity: str, name: str) -> None:
    assert placeholder_name(entity) == name


@given(st.text())
def test_any_entity_has_a_name_that_its_own_grammar_reads(entity: str) -> None:
    name = placeholder_name(entity)
    placeholder = Placeholders(grammar(frozenset((name,)))).of(entity, "value")
    found = grammar(frozenset((name,))).mention.fullmatch(placeholder)
    assert found is not None
    assert found[0] == placeholder
    assert len(placeholder) < LONGEST / 2


def test_the_values_are_not_shown_and_are_forgotten() -> None:
    given_ = _fresh()
    given_.of("EMAIL_ADDRESS", "a@x.io")
    assert repr(given_) == "<Placeholders of 1 values>"
    given_.clear()
    assert not given_
    assert given_.value("EMAIL_ADDRESS_1") is None
    assert not given_.may_begin("EMAIL")


@pytest.mark.parametrize(
    "text",
    [
        "<EMAIL_ADDRESS_1>",
        "EMAIL_ADDRESS_1",
        "<Email Address 1>",
        "< email-address_12 >",
        "&lt;EMAIL_ADDRESS_1&gt;",
        "\\u003cEMAIL_ADDRESS_1\\u003E",
        "EMAIL\\_ADDRESS\\_1",
        "<CREDIT_CARD_1a>",
    ],
)
def test_usual_mutilations_are_mentions_and_look_alikes(text: str) -> None:
    for pattern in (GRAMMAR.mention, GRAMMAR.lookalike):
        found = pattern.fullmatch(text)
        assert found is not None, pattern
        assert re.fullmatch("(EMAIL_ADDRESS|CREDIT_CARD)_1(2|A)?", key_of(found[1] or found[2]))


@pytest.mark.parametrize(
    "text", ["Email Address 1", "email_address_1", "MY_EMAIL_ADDRESS_1", "EMAIL_ADDRESS_1st2", "UTF_8", "<PERSON_1>"]
)
def test_what_is_no_mention(text: str) -> None:
    found = GRAMMAR.mention.search(text)
    assert found is None


_PIECES = ("EMAIL_ADDRESS", "_1", " 12", "<", ">", "&lt;", "&gt;", "\\u003c", "\\u003e", "\\", "n", "x", "_", "1a", " ")


@given(st.lists(st.sampled_from((*_PIECES, "Credit Card", "ADDRESS")), max_size=12).map("".join), st.data())
def test_every_mention_is_covered_by_look_alikes_wherever_the_text_is_cut(text: str, data: st.DataObject) -> None:
    """Whatever stands around a piece later, what can be read as a mention within it has been seen."""
    start = data.draw(st.integers(0, len(text)))
    piece = text[start : data.draw(st.integers(start, len(text)))]
    covered = [found.span() for found in GRAMMAR.lookalike.finditer(piece)]
    for around in (piece, f">{piece}<", f"]{piece}["):
        for found in GRAMMAR.mention.finditer(around):
            middle = around.index(piece) if piece else 0
            start_, end_ = found.start() - middle, found.end() - middle
            assert any(start_ < end and begin < end_ for begin, end in covered)

"""Patterns over words."""

import re

import pytest

from extproc.guardrails.words import Vocabulary


def matches(pattern: str, text: str) -> bool:
    """With other patterns beside it, which know more words."""
    vocabulary = Vocabulary([pattern, "instructor ins* pattern"], b"\x01")
    expression = re.compile(vocabulary.expression(pattern).encode("latin-1"))
    return expression.search(vocabulary.encoded(text.encode())) is not None


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "ignore rules",
            ["ignore rules", "x ignore rules y"],
            ["ignore", "ignore x rules", "ignorerules", "rules ignore"],
        ),
        ("(a b|c) d", ["a b d", "c d"], ["a d", "b", "c b d"]),
        ("a (b )?c", ["a c", "a b c"], ["a b b c", "a x c"]),
        ("rules? end", ["rule end", "rules end"], ["rul end", "ruless end"]),
        ("instruct* me", ["instruct me", "instructions me", "instructor me"], ["instruc me", "inst me"]),
        ("a <0-2> b", ["a b", "a x b", "a x y b", "a a b"], ["a x y z b", "a x \x01 b"]),
        ("a <1> b", ["a x b"], ["a b", "a x y b", "a \x01 b"]),
        ("a <end>? b", ["a b", "a \x01 b"], ["a x b"]),
        ("правил* все", ["правилами все"], ["прави все"]),
    ],
)
def test_a_pattern_matches_words(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not matches(pattern, text)] == []
    assert [text for text in no if matches(pattern, text)] == []


@pytest.mark.parametrize("pattern", ["a.b", "a [bc]", "a\\b", "<name> a", "a+", "ai*"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="no pattern of words"):
        Vocabulary([pattern], b"\x01")


def test_there_are_only_so_many_symbols() -> None:
    with pytest.raises(ValueError, match="more words than there are symbols"):
        Vocabulary([" ".join(f"w{number}" for number in range(17_000))], b"\x01")


def test_words_that_no_pattern_has_are_all_the_same() -> None:
    vocabulary = Vocabulary(["ignore rules"], b"\x01")
    assert vocabulary.encoded(b"hunter2") == vocabulary.encoded("пароль".encode()) != vocabulary.encoded(b"rules")
    assert len(vocabulary.encoded(b" one two  three ")) == 6

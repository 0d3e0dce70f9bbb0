"""An operator's patterns: what they match, what is refused, and that time is linear."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.redaction.automaton import FLAGS, LONGEST, Automaton, PatternError

PATTERNS = (
    *("a+b", "(a|ab)(c|bcd)", "[a-c]{2,4}", "x(?:y|z)*", "a.c", "[^a]b", "(ab?)+c?", r"\d{2}-\w+", "a??b", "(a+)+b"),
    *("(?>a+)b", "a++b", "[a-cx-z]+", "(?:a|b|c){3}", r"\s[abc]", "(?:ab|ba)+"),
)


def _found(pattern: str, text: str) -> list[str]:
    return [text[start:end] for start, end in Automaton(pattern, "p").spans(text)]


def _expected(pattern: str, text: str) -> list[tuple[int, int]]:
    """By its definition, with `re`: the match that ends first, then as far as it goes to the left and to the right."""
    compiled = re.compile(pattern.replace("?>", "?:").replace("++", "+"), FLAGS)
    spans, at, end = [], 0, 1
    while end <= len(text):
        starts = [start for start in range(at, end) if compiled.fullmatch(text, start, end)]
        if starts:
            longest = max(last for last in range(end, len(text) + 1) if compiled.fullmatch(text, starts[0], last))
            spans.append((starts[0], longest))
            at, end = longest, longest
        end += 1
    return spans


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=st.text("abcdxyz1- AB", max_size=14))
def test_matches_are_those_of_re(pattern: str, text: str) -> None:
    assert list(Automaton(pattern, "p").spans(text)) == _expected(pattern, text)


def test_what_is_beside_a_match() -> None:
    assert _found(r"\bfoo\b", "a foo foobar foo_ FOO") == ["foo", "FOO"]
    assert _found(r"\Boo", "foo oo") == ["oo"]
    assert _found(r"(?<!\d)\d{3}(?!\d)", "123 4567 890") == ["123", "890"]
    assert _found(r"(?<=#)\d+(?=!)", "#12! #34 56!") == ["12"]
    assert _found(r"^id: \w+$", "id: abc\nid: x y\nid: zz") == ["id: abc", "id: zz"]
    assert _found(r"\Aab|ab\Z", "ab ab ab") == ["ab", "ab"]
    assert _found(r"(?:^|(?<=\W))dr\.?(?=\W|$)", "Dr. x dr") == ["Dr.", "dr"]


def test_case_and_scripts() -> None:
    assert _found("é+", "ÉéE") == ["Éé"]
    assert _found("[À-Ý]x", "àx") == ["àx"]
    assert _found(r"身份\d", "我的身份7") == ["身份7"]


def test_of_a_longer_match_the_end_is_found() -> None:
    assert _found(r"\w+@corp", "a" * 1000 + "@corp") == ["a" * (LONGEST - 5) + "@corp"]


def test_a_whole_match() -> None:
    automaton = Automaton("a+b", "p")
    assert automaton.matches("aab")
    assert not automaton.matches("aabc")


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        (r"(a)\1", "pattern 'zip': back-references and conditions cannot be matched in linear time"),
        (r"(a)?(?(1)b|c)", "pattern 'zip': back-references and conditions cannot be matched in linear time"),
        (r"(?=ab)\w+", "pattern 'zip': look-around can be at one character only"),
        (r"(?!.*x)\w+", "pattern 'zip': look-around can be at one character only"),
        ("a*", "pattern 'zip': matches nothing at all, too"),
        ("(a", "pattern 'zip': missing ), unterminated subpattern at position 0"),
        ("(?:a{100}){100}", "pattern 'zip': too large, its repetitions make more than 5000 steps"),
    ],
)
def test_what_is_refused(pattern: str, problem: str) -> None:
    with pytest.raises(PatternError, match=re.escape(problem)):
        Automaton(pattern, "zip")


@pytest.mark.parametrize("pattern", ["(a+)+b", r"(\w|\d)*!", "(?:a|aa)+c"])
def test_no_text_makes_it_slow(pattern: str) -> None:
    automaton = Automaton(pattern, "p")
    started = time.process_time()
    assert not list(automaton.spans("a" * 50_000))
    assert time.process_time() - started < 2, "a backtracking engine would not come back"


def test_no_text_makes_it_grow() -> None:
    automaton = Automaton(r"[a-z]{8}\d", "p")
    text = "".join(chr(0x4E00 + n) for n in range(5_000))
    assert not list(automaton.spans(text))
    assert len(automaton._ends._steps) <= 1_000

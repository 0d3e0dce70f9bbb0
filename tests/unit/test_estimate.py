"""Token estimates: they add up, and they know that scripts differ."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.metering import estimate


def tokens(text: str) -> int:
    return estimate.tokens(estimate.weight(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("a", 1),
        ("four", 1),
        ("fives", 2),
        ("a" * 400, 100),
        ("Привет", 4),
        ("你好世界", 4),
        ("こんにちは", 5),
        ("नमस्ते", 6),
        ("مرحبا", 3),
        ("สวัสดี", 6),
        ("\U0001f600" * 4, 5),
        ("ok 你好", 3),
        ("\ud800", 1),
    ],
)
def test_the_estimate_of_a_script(text: str, expected: int) -> None:
    assert tokens(text) == expected


@given(st.text(), st.text())
def test_pieces_weigh_what_the_whole_weighs(left: str, right: str) -> None:
    assert estimate.weight(left) + estimate.weight(right) == estimate.weight(left + right)


@given(st.text(min_size=1))
def test_a_text_has_a_token_and_never_more_than_its_bytes(text: str) -> None:
    assert 1 <= tokens(text) <= len(text.encode(errors="surrogatepass"))

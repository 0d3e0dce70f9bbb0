"""Tables of expressions, walked a digit at a time."""

import re
from re import _parser  # type: ignore[attr-defined]

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from phonenumbers.phonemetadata import PhoneMetadata

from extproc.redaction.numbering import table, together, values

FIRST = r"(?:2(?:0[1-3]|[5-9]\d)|41{2,3})\d{2,4}|77?"
SECOND = r"2[05]\d*"


def _all(matching: frozenset[int], length: int) -> tuple[tuple[int, ...], int]:
    return tuple(sorted(matching)), length


TABLE = table([FIRST, SECOND], _all)


@given(st.text("0124567", max_size=10))
def test_a_walk_says_what_the_expressions_say(digits: str) -> None:
    expected = [
        (count, ((0, 1) if re.fullmatch(SECOND, digits[:count]) else (0,), count))
        for count in range(1, len(digits) + 1)
        if re.fullmatch(FIRST, digits[:count])
    ]
    assert [(count, (mark[0], mark[1])) for count, mark in TABLE.walk(values(digits.encode()))] == expected


def test_values_are_of_digits_alone() -> None:
    assert values(b"+1 (23)-x4\xc0") == bytes((1, 2, 3, 4))


def test_a_mark_may_be_none_and_then_nothing_is_known() -> None:
    assert table([r"\d{1,3}"], lambda _, length: length if length != 2 else None).walk(b"\1\2\3\4") == [(1, 1), (3, 3)]


def test_marks_are_changed_and_digits_go_before() -> None:
    changed = table(["1[23]"], lambda *_: "one").mapped(str.upper).after("00")
    assert changed.walk(values(b"0012")) == [(4, "ONE")]
    assert changed.walk(values(b"12")) == []


def test_marks_of_tables_come_together_each_once() -> None:
    one, two = table([r"1\d"], lambda *_: "one"), table([r"\d\d|5"], lambda *_: "two")
    both = together([one, two, one])
    assert both.walk(values(b"12")) == [(2, ("one", "two"))]
    assert both.walk(values(b"52")) == [(1, ("two",)), (2, ("two",))]
    assert together([]).walk(values(b"1")) == []


def test_lengths_by_the_first_two_digits() -> None:
    assert table([r"12\d{1,2}|12|3|4\d{4}"], lambda *_: True).lengths(3) == {
        "12": (3, 4),
        **{f"4{digit}": (5,) for digit in range(10)},
    }


@pytest.mark.parametrize("expression", ["a", "[0-a]", r"\w", r"[^1]", "."])
def test_what_is_no_expression_of_digits(expression: str) -> None:
    with pytest.raises(ValueError, match="no expression of digits"):
        table([expression], lambda *_: True)


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_no_format_has_two_groups_of_any_length(region: str) -> None:
    """So where the groups of a number end follows from how many digits it has."""
    metadata = PhoneMetadata.metadata_for_region(region, None)
    assert metadata is not None
    for form in metadata.number_format:
        widths = [group[3].getwidth() for _, group in _parser.parse(form.pattern)]
        assert sum(least != most for least, most in widths) <= 1, form.pattern

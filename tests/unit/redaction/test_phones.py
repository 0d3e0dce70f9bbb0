"""Telephone numbers, beside libphonenumber's own search."""

import random
from collections import Counter

import phonenumbers
import pytest
from phonenumbers.phonemetadata import PhoneMetadata

from extproc.redaction.entities import REGIONS
from extproc.redaction.numbering import values
from extproc.redaction.phones import international
from tests.unit.redaction.found import found


@pytest.mark.parametrize(
    "number",
    [
        *(
            "+14155552671",
            "+1 415 555 2671",
            "+1 (415) 555-2671",
            "+44 20 7946 0958",
            "+44 (0)20 7946 0958",
            "+49 30 901820",
        ),
        *("(415) 555-2671", "415-555-2671", "415.555.2671", "1-800-555-0199", "(415)555-2671", "415-555-2671 x123"),
        *(
            "020 7946 0958",
            "07700 900123",
            "030 901820",
            "(030) 901820",
            "01 23 45 67 89",
            "054-123-4567",
            "98765 43210",
        ),
        *("(11) 98765-4321", "0049 30 901820", "+33 6 12 34 56 78", "＋49 30 901820", "+49\u00a030\u2011901820"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "see {}.", "a,{},b", "号{}请"])
def test_as_they_are_written(number: str, around: str) -> None:
    assert found(around.format(number), "PHONE_NUMBER") == [number]


@pytest.mark.parametrize(
    "text",
    [
        *("4155552671", "+15", "+999 123 456 789", "2024-05-06 12:00", "06.05.2024", "3.14159265358979", "8.8.8.8"),
        *(
            "415-555-2671-99",
            "1415-555-2671-2",
            "$415 555 2671",
            "115-555-2671",
            "222-222-2222",
            "1 2 3 4 5 6 7 8",
        ),
        *("4111 1111 1111 1111", "550e8400-e29b-41d4-a716-446655440000", "12:30:45 10:20:30"),
    ],
)
def test_what_is_none(text: str) -> None:
    assert found(text, "PHONE_NUMBER") == []


@pytest.mark.parametrize("word", ["call", "Tel.", "phoneNumber=", "WhatsApp:", "电话：", "телефон", "फोन", "phones"])
def test_bare_digits_need_a_word(word: str) -> None:
    assert found(f"{word} 4155552671", "PHONE_NUMBER") == ["4155552671"]


def test_two_in_a_row() -> None:
    assert found("415-555-2671 415-555-2672", "PHONE_NUMBER") == ["415-555-2671", "415-555-2672"]


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_plans_are_libphonenumbers(region: str) -> None:
    """Numbers of each region and near misses: valid for us as for libphonenumber."""
    dice = random.Random(region)
    example = phonenumbers.example_number(region)
    assert example is not None
    digits = f"{example.country_code}{example.national_number}"
    for _ in range(20):
        changed = digits[:-4] + "".join(dice.choice("0123456789") for _ in range(dice.choice((3, 4, 4, 4, 5))))
        parsed = phonenumbers.parse(f"+{changed}")
        if not _has_rule_of_its_own(region):
            assert (len(changed) in international(values(changed.encode()))) == phonenumbers.is_valid_number(parsed), (
                changed
            )


def _has_rule_of_its_own(region: str) -> bool:
    """Where digits are added to numbers within the country."""
    metadata = PhoneMetadata.metadata_for_region(region, None)
    return metadata is not None and metadata.national_prefix_transform_rule is not None


def test_beside_a_word_as_much_is_found_as_by_libphonenumber() -> None:
    outcomes: Counter[tuple[bool, bool]] = Counter()
    for number in _written(random.Random(4), 600):
        text = f"My phone number is {number} after six."
        theirs = any(True for region in REGIONS for _ in phonenumbers.PhoneNumberMatcher(text, region, leniency=1))
        outcomes[theirs, bool(found(text, "PHONE_NUMBER"))] += 1
    # What only theirs find are pieces of a number, such as the last digits of "22 374001" for Germany.
    assert outcomes[True, True] > 400
    assert outcomes[True, False] < 0.01 * outcomes[True, True]


def _written(dice: random.Random, count: int) -> list[str]:
    numbers = []
    for _ in range(count):
        example = phonenumbers.example_number_for_type(
            dice.choice((*REGIONS, *sorted(phonenumbers.SUPPORTED_REGIONS))), 1
        )
        if example is not None:
            form = dice.choice((phonenumbers.PhoneNumberFormat.NATIONAL, phonenumbers.PhoneNumberFormat.INTERNATIONAL))
            numbers.append(phonenumbers.format_number(example, form))
    return numbers

"""Payment cards."""

import random

import pytest

from extproc.redaction.cards import WEAK, score
from extproc.redaction.checks import luhn
from tests.unit.redaction.found import found


@pytest.mark.parametrize(
    "card",
    [
        "4111111111111111",
        "4222222222222",
        "4000000000000000006",
        "5555555555554444",
        "2223003122003222",
        "2720992593319364",
        "378282246310005",
        "30569309025904",
        "3530111333300000",
        "6011111111111117",
        "6240008631401148",
        "6759649826438453",
    ],
)
def test_networks(card: str) -> None:
    assert found(f"pay with {card}.", "CREDIT_CARD") == [card]
    assert score(card.encode()) == 1.0


@pytest.mark.parametrize(
    "card",
    [
        *("4111 1111 1111 1111", "4111-1111-1111-1111", "4111.1111.1111.1111", "3782 822463 10005", "3056 930902 5904"),
        *(
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "4111\u00a01111\u20091111–1111",
            "４１１１１１１１１１１１１１１１",
            "٤١١١١١١١١١١١١١١١",
        ),
        "4111\u200b1111\u200b1111\u200b1111",
    ],
)
def test_ways_to_write_one(card: str) -> None:
    assert found(f"({card})", "CREDIT_CARD") == [card]


@pytest.mark.parametrize(
    "around", ["卡号{}请", "x_{}_y", 'pan="{}"', "\\n{}\\n", "id,pan\n7,{}\n", "{} 123", "{} 12/27"]
)
def test_neighbours_are_no_part_of_it(around: str) -> None:
    assert found(around.format("4111111111111111"), "CREDIT_CARD") == ["4111111111111111"]


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111112",
        "a4111111111111111",
        "4111111111111111b",
        "0.4111111111111111",
        "1700000000000000",
        "0000000000000000",
        "9" * 20 + "4111111111111111",
    ],
)
def test_what_is_none(text: str) -> None:
    assert found(text, "CREDIT_CARD") == []


def test_a_number_of_no_known_issuer_needs_a_word() -> None:
    number = "9000000000000001"
    assert luhn(number.encode())
    assert score(number.encode()) == WEAK
    assert found(f"order {number}", "CREDIT_CARD") == []
    assert found(f"credit card {number}", "CREDIT_CARD") == [number]


def test_one_random_number_in_ten_passes_luhn() -> None:
    dice = random.Random(3)
    passed = sum(luhn(str(dice.randrange(10**15, 10**16)).encode()) for _ in range(10_000))
    assert 900 < passed < 1_100

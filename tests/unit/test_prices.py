"""What a call costs, to the nano-unit."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.metering import prices
from extproc.metering.prices import cost, most
from extproc.model import Price, Usage

DOLLAR = 10**9
PRICE = Price(
    input=3 * DOLLAR,
    output=15 * DOLLAR,
    cached_input=300_000_000,
    cache_write=6 * DOLLAR,
    audio_input=40 * DOLLAR,
    audio_output=80 * DOLLAR,
    reasoning=20 * DOLLAR,
    request=5_000,
    minute=6_000_000,
    image=40_000_000,
    hosted_call=10_000_000,
)
BARE = Price(input=3 * DOLLAR, output=15 * DOLLAR)


@pytest.mark.parametrize(
    ("price", "usage", "nano"),
    [
        (PRICE, Usage(), 5_000),
        (BARE, Usage(), 0),
        (PRICE, Usage(1_000_000, 1_000_000), 18 * DOLLAR + 5_000),
        (PRICE, Usage(100, cached_input=60, cache_write=30), 60 * 300 + 30 * 6_000 + 10 * 3_000 + 5_000),
        (PRICE, Usage(100, cached_input=100), 30_000 + 5_000),
        (PRICE, Usage(100, audio_input=40), 40 * 40_000 + 60 * 3_000 + 5_000),
        (PRICE, Usage(0, 100, reasoning=60, audio_output=10), 60 * 20_000 + 10 * 80_000 + 30 * 15_000 + 5_000),
        (BARE, Usage(100, 100, cached_input=50, cache_write=20, audio_input=3, reasoning=60), 1_800_000),
        (PRICE, Usage(100, 100, other_input=10, other_output=10), 400_000 + 270_000 + 800_000 + 1_350_000 + 5_000),
        (PRICE, Usage(seconds=90), 9_000_000 + 5_000),
        (PRICE, Usage(images=3), 120_000_000 + 5_000),
        (PRICE, Usage(hosted_calls=2), 20_000_000 + 5_000),
    ],
)
def test_each_class_has_its_price(price: Price, usage: Usage, nano: int) -> None:
    assert cost(price, usage) == nano


def test_a_class_of_price_nothing_is_free_and_not_its_sides() -> None:
    assert cost(replace(BARE, cached_input=0), Usage(100, cached_input=100)) == 0


@pytest.mark.parametrize(
    ("price", "usage", "nano"),
    [
        (Price(input=1), Usage(1), 1),
        (Price(input=999_999), Usage(1), 1),
        (Price(input=1, output=1), Usage(500_000, 500_000), 1),
        (Price(input=1, output=1), Usage(500_000, 500_001), 2),
        (Price(minute=60), Usage(seconds=1.5), 2),
        (Price(minute=1), Usage(seconds=60.0), 1),
        (Price(minute=1), Usage(seconds=0.001), 1),
        (Price(input=500_000, minute=30), Usage(1, seconds=1.0), 1),
    ],
)
def test_parts_are_rounded_up_once_and_together(price: Price, usage: Usage, nano: int) -> None:
    assert cost(price, usage) == nano


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(100, cached_input=200), 100 * 3_000),
        (Usage(100, audio_input=200), 100 * 40_000),
        (Usage(100, cached_input=90, audio_input=30), 30 * 40_000 + 70 * 300),
        (Usage(0, 100, reasoning=500), 100 * 20_000),
        (Usage(0, cached_input=50), 0),
    ],
)
def test_classes_that_contradict_their_total_are_read_the_dearer_way(usage: Usage, nano: int) -> None:
    assert cost(PRICE, usage) == nano + 5_000


def test_no_cost_is_beyond_what_a_counter_holds() -> None:
    assert cost(PRICE, Usage(2**53 - 1, 2**53 - 1)) == prices.MOST
    assert most(PRICE, 2**53 - 1, 0, seconds=2.0**50) == prices.MOST


# ---- laws -----------------------------------------------------------------------------------------------

_rates = st.integers(0, 200 * DOLLAR)
_optional = st.none() | _rates
_prices = st.builds(
    Price, _rates, _rates, _optional, _optional, _optional, _optional, _optional, _rates, _rates, _rates, _rates
)
_counts = st.integers(0, 3_000_000) | st.integers(0, 2**53 - 1)
_usages = st.builds(
    Usage,
    *[_counts] * 9,
    seconds=st.floats(0, 2.0**40) | st.just(0.0),
    images=st.integers(0, 1_000),
    hosted_calls=st.integers(0, 100),
)
_slack = st.integers(0, 1_000)


@given(_prices, _usages, _slack, _slack)
def test_what_was_used_within_a_demand_never_costs_more_than_was_held(
    price: Price, usage: Usage, more_input: int, more_output: int
) -> None:
    at_most = most(
        price, usage.input + more_input, usage.output + more_output, usage.seconds, usage.images, usage.hosted_calls
    )
    assert 0 <= cost(price, usage) <= at_most <= prices.MOST


@given(_prices, _usages)
def test_the_cost_lies_between_the_cheapest_and_the_dearest_rate(price: Price, usage: Usage) -> None:
    def rates(side: int, *classes: int | None) -> list[int]:
        return [side, *(rate for rate in classes if rate is not None)]

    given_ = rates(price.input, price.cached_input, price.cache_write, price.audio_input)
    made = rates(price.output, price.reasoning, price.audio_output)
    fixed = price.request + usage.images * price.image + usage.hosted_calls * price.hosted_call
    fixed_exact = fixed + Fraction(usage.seconds) * price.minute / 60
    least = fixed_exact + Fraction(usage.input * min(given_) + usage.output * min(made), 10**6)
    dearest = fixed_exact + Fraction(usage.input * max(given_) + usage.output * max(made), 10**6)
    assume(dearest < prices.MOST - 1)
    assert least <= cost(price, usage) < dearest + 1


@given(_prices, _usages, st.sampled_from(("input", "output", "images", "hosted_calls")))
def test_more_never_costs_less(price: Price, usage: Usage, field: str) -> None:
    more: Any = {field: getattr(usage, field) + 1}
    consistent = replace(
        usage, cached_input=0, cache_write=0, audio_input=0, other_input=0, reasoning=0, audio_output=0, other_output=0
    )
    assert cost(price, replace(consistent, **more)) >= cost(price, consistent)


@given(_prices, _counts, _counts)
def test_naming_a_class_at_the_price_of_its_side_changes_nothing(price: Price, total: int, cached: int) -> None:
    plain = replace(price, cached_input=None)
    assert cost(plain, Usage(total, cached_input=cached)) == cost(plain, Usage(total))

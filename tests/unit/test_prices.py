"""What a call costs, to the nano-unit."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from extproc.metering import prices
from extproc.metering.prices import cost, most
from extproc.model import OTHER_TIER, SERVICE_TIERS, Backend, Dialect, Price, Target, Usage

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
LONG = Price(input=6 * DOLLAR, output=20 * DOLLAR, cached_input=600_000_000)
DEAR = Price(input=9 * DOLLAR, output=30 * DOLLAR, above=((500, replace(BARE, input=18 * DOLLAR)),))
LISTED = replace(BARE, above=((200, LONG), (1_000, replace(LONG, input=7 * DOLLAR))), tiers=(("priority", DEAR),))


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


@pytest.mark.parametrize("price", [PRICE, BARE, LONG, DEAR, LISTED], ids=["all", "bare", "long", "dear", "listed"])
@given(given_tokens=st.integers(0, 2_000), made=st.integers(0, 2_000))
def test_plain_tokens_cost_what_they_do_in_a_usage(price: Price, given_tokens: int, made: int) -> None:
    assert prices.plain(price, given_tokens, made) == cost(price, Usage(given_tokens, made))


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(200, 10), 200 * 3_000 + 10 * 15_000),
        (Usage(201, 10), 201 * 6_000 + 10 * 20_000),
        (Usage(201, cached_input=201), 201 * 600),
        (Usage(1_000), 1_000 * 6_000),
        (Usage(1_001), 1_001 * 7_000),
        (Usage(200, 10, tier="priority"), 200 * 9_000 + 10 * 30_000),
        (Usage(500, tier="priority"), 500 * 9_000),
        (Usage(501, tier="priority"), 501 * 18_000),
        (Usage(200, tier="flex"), 200 * 3_000),
        (Usage(201, tier="other"), 201 * 6_000),
    ],
)
def test_the_tier_and_the_length_of_the_input_decide_for_the_whole_call(usage: Usage, nano: int) -> None:
    assert cost(LISTED, usage) == nano


@pytest.mark.parametrize(
    ("given", "tiers", "dearest"),
    [
        (100, (), 3_000),
        (200, (), 3_000),
        (201, (), 6_000),
        (1_001, (), 7_000),
        (100, None, 9_000),
        (100, ("priority",), 9_000),
        (100, ("flex",), 3_000),
        (501, ("priority", "flex"), 18_000),
    ],
)
def test_the_most_is_that_of_the_dearest_tier_that_may_serve(
    given: int, tiers: tuple[str, ...] | None, dearest: int
) -> None:
    assert most(LISTED, given, 0, tiers=tiers) == given * dearest


@pytest.mark.parametrize(
    ("usage", "nano"),
    [
        (Usage(100, cache_write=60, cache_write_1h=60), 60 * 12_000 + 40 * 3_000),
        (Usage(100, cache_write=60, cache_write_1h=20), 20 * 12_000 + 40 * 6_000 + 40 * 3_000),
        (Usage(100, cache_write=10, cache_write_1h=60), 60 * 12_000 + 40 * 3_000),
        (Usage(100, cache_write=60), 60 * 6_000 + 40 * 3_000),
    ],
)
def test_what_is_written_for_an_hour_has_its_own_price(usage: Usage, nano: int) -> None:
    assert cost(replace(PRICE, cache_write_1h=12 * DOLLAR), usage) == nano + 5_000


def test_tokens_of_images_may_have_a_price() -> None:
    drawn = Usage(100, 50, cached_input=90, image_input=50, image_output=40)
    assert cost(BARE, drawn) == cost(BARE, replace(drawn, image_input=0, image_output=0))
    priced = replace(BARE, cached_input=DOLLAR, image_input=10 * DOLLAR, image_output=40 * DOLLAR)
    assert cost(priced, drawn) == 50 * 10_000 + 50 * 1_000 + 40 * 40_000 + 10 * 15_000
    assert most(priced, 100, 50) == 100 * 10_000 + 50 * 40_000


def test_without_one_it_costs_as_any_write_or_as_input() -> None:
    written = Usage(100, cache_write=100, cache_write_1h=50)
    assert cost(PRICE, written) == 100 * 6_000 + 5_000
    assert cost(BARE, written) == 100 * 3_000


@pytest.mark.parametrize(("tier", "is_of_it"), [("", True), ("priority", True), ("flex", False), ("other", False)])
def test_a_price_says_of_which_tiers_it_is(tier: str, is_of_it: bool) -> None:
    assert prices.is_of_tier(LISTED, tier) is is_of_it


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
_plain = st.builds(
    Price,
    *[_rates] * 2,
    *[_optional] * 5,
    *[_rates] * 4,
    cache_write_1h=_optional,
    image_input=_optional,
    image_output=_optional,
)
_floors = st.sampled_from((1, 1_000, 200_000, 272_000))
_whole = st.builds(
    lambda price, above: replace(price, above=tuple(sorted(above.items()))),
    _plain,
    st.dictionaries(_floors, _plain, max_size=2),
)
_prices = _plain | st.builds(
    lambda price, tiers: replace(price, tiers=tuple(tiers.items())),
    _whole,
    st.dictionaries(st.sampled_from(SERVICE_TIERS), _whole, max_size=2),
)
_tiers = st.sampled_from(("", *SERVICE_TIERS, OTHER_TIER))
_counts = st.integers(0, 3_000_000) | st.integers(0, 2**53 - 1)
_CLASSES = (
    *("input", "output", "cached_input", "cache_write", "cache_write_1h", "audio_input", "audio_output"),
    *("image_input", "image_output", "reasoning", "other_input", "other_output"),
)
_usages = st.builds(
    Usage,
    **dict.fromkeys(_CLASSES, _counts),
    seconds=st.floats(0, 2.0**40) | st.just(0.0),
    images=st.integers(0, 1_000),
    hosted_calls=st.integers(0, 100),
    tier=_tiers,
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


@given(_prices, _usages, st.sets(st.sampled_from(SERVICE_TIERS)))
def test_nor_where_the_request_names_the_tiers_that_may_serve(price: Price, usage: Usage, tiers: set[str]) -> None:
    assume(usage.tier in {"", *tiers})
    held = most(price, usage.input, usage.output, usage.seconds, usage.images, usage.hosted_calls, tiers)
    assert cost(price, usage) <= held


@given(st.lists(st.tuples(st.integers(1, 1_000), _prices), min_size=1, max_size=4), st.integers(0, 1_100), _usages)
def test_nor_when_the_price_changes_meanwhile(listed: list[tuple[int, Price]], began: int, usage: Usage) -> None:
    """A call has one version, whenever it ends: that of when it began."""
    versions = tuple(replace(price, since=since) for since, price in sorted(dict(listed).items()))
    target = Target(Backend("b", Dialect.OPENAI), "m", versions=versions).at(began)
    in_force = [price for price in versions if price.since <= began]
    assert target.price == (in_force[-1] if in_force else None)
    assert target.at(began + 500) == target
    if target.price is not None:
        given, made = usage.input, usage.output
        held = most(target.price, given, made, usage.seconds, usage.images, usage.hosted_calls)
        assert cost(target.price, usage) <= held


@given(_plain, _usages)
def test_the_cost_lies_between_the_cheapest_and_the_dearest_rate(price: Price, usage: Usage) -> None:
    def rates(side: int, *classes: int | None) -> list[int]:
        return [side, *(rate for rate in classes if rate is not None)]

    given_ = rates(price.input, price.cached_input, price.cache_write, price.cache_write_1h)
    given_ += rates(price.input, price.audio_input, price.image_input)
    made = rates(price.output, price.reasoning, price.audio_output, price.image_output)
    fixed = price.request + usage.images * price.image + usage.hosted_calls * price.hosted_call
    fixed_exact = fixed + Fraction(usage.seconds) * price.minute / 60
    least = fixed_exact + Fraction(usage.input * min(given_) + usage.output * min(made), 10**6)
    dearest = fixed_exact + Fraction(usage.input * max(given_) + usage.output * max(made), 10**6)
    assume(dearest < prices.MOST - 1)
    assert least <= cost(price, usage) < dearest + 1


@given(_plain, _usages, st.sampled_from(("input", "output", "images", "hosted_calls")))
def test_more_never_costs_less(price: Price, usage: Usage, field: str) -> None:
    more: Any = {field: getattr(usage, field) + 1}
    parts = ("cached_input", "cache_write", "cache_write_1h", "audio_input", "image_input", "other_input")
    none: Any = dict.fromkeys((*parts, "reasoning", "audio_output", "image_output", "other_output"), 0)
    consistent = replace(usage, **none)
    assert cost(price, replace(consistent, **more)) >= cost(price, consistent)


@given(_plain, _counts, _counts)
def test_naming_a_class_at_the_price_of_its_side_changes_nothing(price: Price, total: int, cached: int) -> None:
    plain = replace(price, cached_input=None)
    assert cost(plain, Usage(total, cached_input=cached)) == cost(plain, Usage(total))

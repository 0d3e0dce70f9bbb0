"""A limit in a line."""

from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
from hypothesis import given

from extproc.gitops.limit_words import limit_words, more_words, short_words
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short
from tests.support.limit_values import limits

TOKENS = Limit("l", Measure.TOKENS, 100_000, scope=(Scope.TEAM, Scope.MODEL), sliding=60_000)
MONEY = Limit("l", Measure.MONEY, 5_250_000_000, period=Period.MONTH, warn_at=(50, 80, 100))
NEW_YEAR = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (TOKENS, "tokens 100,000 per minute by team, model"),
        (replace(TOKENS, scope=(), sliding=90_000), "tokens 100,000 per sliding 90s"),
        (replace(TOKENS, scope=(), sliding=86_400_000), "tokens 100,000 per sliding 24h"),
        (replace(TOKENS, scope=(), sliding=0, period=Period.DAY), "tokens 100,000 per day"),
        (replace(TOKENS, scope=(), sliding=0, period=Period.MINUTE), "tokens 100,000 per calendar minute"),
        (Limit("l", Measure.CONCURRENT, 20, scope=(Scope.KEY,)), "concurrent 20 by key"),
        (MONEY, "money 5.25 per month"),
        (replace(MONEY, amount=20 * 10**9, zone="Europe/Zurich"), "money 20 per month in Europe/Zurich"),
        (replace(MONEY, amount=1), "money 0.000000001 per month"),
        (replace(MONEY, warn_at=()), "money 5.25 per month; never warns"),
        (replace(TOKENS, scope=(), sliding=604_800_000), "tokens 100,000 per sliding 7d"),
        (replace(TOKENS, scope=(), hard=False), "tokens 100,000 per minute; calls pass while anything is left"),
        (
            replace(MONEY, amount=5_000 * 10**9, zone="Europe/Zurich", raised=Raise(6_500 * 10**9, NEW_YEAR + 1_500)),
            "money 5,000 per month in Europe/Zurich; raised to 6,500 until 2027-01-01 01:00:01.500000 CET",
        ),
        (
            replace(MONEY, raised=Raise(6 * 10**9, NEW_YEAR)),
            "money 5.25 per month; raised to 6 until 2027-01-01 00:00 UTC",
        ),
        (
            replace(TOKENS, mode=Mode.SHADOW, allow_on_error=True, warn_at=(90,), kept_for_high=20),
            "tokens 100,000 per minute by team, model; shadow; calls pass while it cannot be counted; warns at 90 %; "
            "20 % kept for high priority",
        ),
        (
            replace(
                TOKENS,
                only=Only(
                    models=frozenset({"b", "a"}),
                    environments=frozenset({"prod"}),
                    priority=Priority.LOW,
                    low_route=False,
                ),
            ),
            "tokens 100,000 per minute by team, model; only models a, b; only environments prod; only low priority; "
            "never the low route",
        ),
        (
            replace(TOKENS, short=Short.LEASE, slice=64, fallback="small", status=503, message="Busy."),
            "tokens 100,000 per minute by team, model; lease when short; slices of 64; then small; status 503; "
            "message 'Busy.'",
        ),
    ],
)
def test_words(limit: Limit, words: str) -> None:
    assert limit_words(limit) == words


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (MONEY, "money 5.25 CHF per month"),
        (
            replace(MONEY, raised=Raise(6 * 10**9, NEW_YEAR)),
            "money 5.25 CHF per month; raised to 6 CHF until 2027-01-01 00:00 UTC",
        ),
        (Limit("l", Measure.CONCURRENT, 5), "concurrent 5"),
    ],
)
def test_money_is_told_with_its_currency_where_that_is_known(limit: Limit, words: str) -> None:
    assert limit_words(limit, "CHF") == words


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (TOKENS, "tokens=100000/minute"),
        (replace(TOKENS, sliding=90_000), "tokens=100000/90s"),
        (Limit("l", Measure.CONCURRENT, 5), "concurrent=5"),
        (replace(MONEY, zone="Europe/Zurich"), "money=5.25/month"),
    ],
)
def test_short_words(limit: Limit, words: str) -> None:
    assert short_words(limit) == words


def test_what_else_it_says() -> None:
    limit = replace(TOKENS, mode=Mode.SHADOW, raised=Raise(200_000, NEW_YEAR), kept_for_high=20, fallback="small")
    assert more_words(limit) == "20 % kept for high priority; then small"


@given(limits(), limits())
def test_what_differs_is_told_differently(one: Limit, other: Limit) -> None:
    """Else a change of a team file would be no change."""
    other = replace(other, name=one.name, owner=one.owner)
    assert (limit_words(one) == limit_words(other)) is (one == other)


@given(limits(), limits())
def test_each_field_is_told(one: Limit, other: Limit) -> None:
    window = ("sliding", "period", "zone")
    rest = {field.name for field in fields(Limit) if field.init} - {"name", "owner", *window}
    for names in (window, *((name,) for name in sorted(rest))):
        changed = replace(one, **{name: getattr(other, name) for name in names})
        assert (limit_words(one) == limit_words(changed)) is (one == changed), names

"""Calls of which nobody knows what they cost: what of them that is."""

from dataclasses import replace

import pytest

from extproc.model import SERVICE_TIERS, Backend, Dialect, Price, Target, Usage, UsageSource
from extproc.stages.charge import unpriced

USED = Usage(5, 2, source=UsageSource.REPORTED)
BARE = Target(Backend("b", Dialect.OPENAI), "m")
FREE = replace(BARE, price=Price())
LISTED = replace(BARE, price=Price(input=1, output=1, tiers=(("priority", Price(input=2, output=2)),)))


@pytest.mark.parametrize(
    ("target", "usage", "what"),
    [
        (None, USED, None),
        (BARE, Usage(), None),
        (BARE, USED, "model"),
        (BARE, replace(USED, source=UsageSource.ESTIMATED), "model"),
        (BARE, replace(USED, tier="priority"), "model"),
        (FREE, USED, None),
        (FREE, replace(USED, tier="flex"), "flex"),
        (LISTED, USED, None),
        (LISTED, replace(USED, tier="priority"), None),
        (LISTED, replace(USED, tier="flex"), "flex"),
        (LISTED, replace(USED, tier="other"), "other"),
    ],
)
def test_it_is_the_model_or_the_tier_that_served(target: Target | None, usage: Usage, what: str | None) -> None:
    assert unpriced(target, usage) == what


def test_what_it_is_is_one_of_a_few() -> None:
    """It is the label of a metric."""
    assert {unpriced(FREE, replace(USED, tier=tier)) for tier in SERVICE_TIERS} == set(SERVICE_TIERS)

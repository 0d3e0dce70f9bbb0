"""Limits as the database keeps them."""

import json
from typing import Any

import pytest
from hypothesis import given

from extproc.limits.limit import Limit, Measure, Only, Scope
from extproc.stores.limits import restored, stored
from extproc.stores.ports import StoreUnavailable
from tests.support.limit_values import several

TOKENS = Limit(
    "minute", Measure.TOKENS, 1000, "team/red", (Scope.TEAM,), sliding=60_000, only=Only(models=frozenset("a"))
)
KEPT = {
    "name": "minute",
    "measure": "tokens",
    "amount": 1000,
    "owner": "team/red",
    "scope": ["team"],
    "sliding": 60_000,
    "only": {"models": ["a"]},
}


@given(several("team/red"))
def test_what_is_stored_is_what_comes_back(limits: tuple[Limit, ...]) -> None:
    text = json.dumps(stored(limits))  # as a database keeps it
    assert restored(json.loads(text)) == limits


def test_only_what_differs_from_the_defaults_is_kept() -> None:
    """Databases of today hold this very text: who renames a field or changes a default must migrate them."""
    assert stored([TOKENS]) == [KEPT]
    assert restored([KEPT]) == (TOKENS,)


def test_none_are_one_and_the_same() -> None:
    assert stored(()) is None
    assert restored(None) is restored(None)


def test_equal_ones_are_read_once() -> None:
    """100,000 keys may have the same few limits."""
    assert restored([dict(KEPT)]) is restored([dict(KEPT)])


@pytest.mark.parametrize(
    "given",
    [
        [KEPT | {"burst": 3}],
        [KEPT | {"only": {"models": ["a"], "regions": ["eu"]}}],
        [KEPT | {"raised": {"amount": 5, "until": 7, "by": "ann"}}],
        [KEPT | {"measure": "watts"}],
        [KEPT | {"scope": ["planet"]}],
        [KEPT | {"amount": "1000"}],
        [KEPT | {"amount": 1000.0}],
        [{"name": "minute"}],
        [KEPT, 3],
        [],
        {},
        "tokens",
    ],
)
def test_what_is_not_understood_whole_is_refused_and_not_quoted(given: Any) -> None:
    """A condition that is passed over would let the limit hold for other calls than was meant."""
    with pytest.raises(StoreUnavailable, match="of a newer version of Sluice") as told:
        restored(given)
    assert not any(word in str(told.value) for word in ("minute", "watts", "planet", "ann"))

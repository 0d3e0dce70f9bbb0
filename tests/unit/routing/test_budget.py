"""How many failed attempts are made good by further ones: bounded in any storm, untouched where there is none."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing.budget import RetryBudget

SPAN, FLOOR, SHARE, CHAIN = 10, 100, 0.2, 5


class Traffic:
    """Calls that are tried as often as they may be, and take no time."""

    def __init__(self, share: float = SHARE) -> None:
        self.budget = RetryBudget()
        self.share = share
        self.calls: list[float] = []
        self.repeats: list[float] = []

    def call(self, now: float, failures: int) -> int:
        """One call whose first attempts fail; how many attempts it has."""
        most = CHAIN if self.budget.allows(self.share, now) else 1
        made = min(failures + 1, most)
        name = f"call-{len(self.calls)}"
        for number in range(made):
            self.budget.note(name, number < failures, now)
        self.calls.append(now)
        self.repeats += [now] * (made - 1)
        return made


def many(traffic: Traffic, calls: int, failures: int, now: float = 0.0) -> int:
    return sum(traffic.call(now, failures) for _ in range(calls))


def test_few_calls_are_never_touched_whatever_becomes_of_them() -> None:
    traffic = Traffic()
    assert many(traffic, FLOOR // (CHAIN - 1), CHAIN) == FLOOR // (CHAIN - 1) * CHAIN


def test_when_too_much_fails_calls_are_tried_once_until_that_is_long_ago() -> None:
    traffic = Traffic()
    attempts = many(traffic, 1_000, 1)
    assert 1_000 + FLOOR + 0.2 * 1_000 >= attempts > 1_000 + FLOOR
    assert traffic.call(9.9, 1) == 1
    assert traffic.call(10.0, 1) == 2, "all that was is forgotten"


def test_a_share_of_1_is_no_bound_and_of_0_leaves_the_floor() -> None:
    assert many(Traffic(1), 1_000, CHAIN) == 1_000 * CHAIN
    assert many(Traffic(0), 1_000, 1) == 1_000 + FLOOR


def test_what_was_refused_and_asked_elsewhere_does_not_count() -> None:
    """It cools, which bounds it."""
    budget = RetryBudget()
    for number in range(1_000):
        for _ in range(CHAIN):
            budget.note(f"call-{number}", False, 0.0)
    assert budget.allows(0.0, 0.0)


def test_attempts_of_many_calls_are_told_in_any_order() -> None:
    budget = RetryBudget()
    names = [f"call-{number}" for number in range(FLOOR)]
    for name in names:
        budget.note(name, True, 0.0)
    for name in reversed(names[1:]):
        budget.note(name, False, 1.0)
    assert budget.allows(0.0, 1.0)
    budget.note(names[0], False, 1.0)
    assert not budget.allows(0.0, 1.0)


def test_what_has_no_call_is_not_counted() -> None:
    budget = RetryBudget()
    for _ in range(2 * FLOOR):
        budget.note("", True, 0.0)
    assert budget.allows(0.0, 0.0)


def test_calls_of_which_no_more_is_told_cost_no_more_memory_than_some() -> None:
    budget = RetryBudget()
    for number in range(20_000):
        budget.note(f"call-{number}", True, 0.0)
    budget.note("call-0", False, 0.0)  # forgotten: a call like any other
    for number in range(19_999, 19_999 - FLOOR, -1):
        assert budget.allows(0.0, 0.0)
        budget.note(f"call-{number}", False, 0.0)
    assert not budget.allows(0.0, 0.0)


STEPS = st.lists(
    st.tuples(st.floats(0, 4), st.integers(1, 300), st.integers(0, CHAIN)), min_size=1, max_size=12
)  # a pause, then so many calls whose first attempts fail


def played(steps: Sequence[tuple[float, int, int]], share: float) -> tuple[Traffic, float]:
    traffic, now = Traffic(share), 0.0
    for pause, calls, failures in steps:
        now += pause
        many(traffic, calls, failures, now)
    return traffic, now


@given(STEPS, st.sampled_from([0.0, 0.1, SHARE, 0.5]))
def test_no_storm_makes_more_than_its_share_of_further_attempts(
    steps: list[tuple[float, int, int]], share: float
) -> None:
    """In each ten seconds: those above the floor are no more than the share of the calls then and just before."""
    traffic, _ = played(steps, share)
    for second in {int(at) for at in traffic.repeats}:
        repeats = sum(second - SPAN < int(at) <= second for at in traffic.repeats)
        calls = sum(second - 2 * SPAN < int(at) <= second for at in traffic.calls)
        assert repeats <= FLOOR + share * calls + CHAIN - 1


@given(STEPS, st.sampled_from([0.0, SHARE, 0.9]))
def test_it_bounds_nothing_that_is_within_the_bound(steps: list[tuple[float, int, int]], share: float) -> None:
    traffic, now = played(steps, share)
    repeats = sum(int(at) > int(now) - SPAN for at in traffic.repeats)
    calls = sum(int(at) > int(now) - SPAN for at in traffic.calls)
    assert traffic.budget.allows(share, now) == (repeats < FLOOR + share * calls)


@pytest.mark.parametrize("later", [0.5, 11.0, 1e6])
def test_an_attempt_that_took_long_is_counted_when_it_is_told(later: float) -> None:
    budget = RetryBudget()
    for number in range(FLOOR):
        budget.note(f"call-{number}", True, 0.0)
    for number in range(FLOOR):
        budget.note(f"call-{number}", False, later)
    assert not budget.allows(0.0, later)

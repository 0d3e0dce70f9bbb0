"""Budgets that a call is the first to pass, or finds used up, as its record tells them for alerts."""

import time
from dataclasses import replace
from typing import Any

import pytest

from extproc import refusals
from extproc.call import Reply
from extproc.limits.limit import Limit, Measure, Mode, Period, Scope
from extproc.stages.budget import SLOT
from extproc.stores.counters import Draw
from tests.support.playbook import DIRECTORY, Policy, Refusal
from tests.unit.test_pipeline_limits import call, limit, policy, whole


def monthly(amount: int = 4, **fields: Any) -> Limit:
    return limit(Measure.REQUESTS, amount, **{"period": Period.MONTH, "warn_at": (50, 75), **fields})


async def passed(of: Policy, calls: int) -> list[list[dict[str, Any]]]:
    """Of so many calls, one after the other."""
    return [(await whole(of).play()).get("passed", []) for _ in range(calls)]


async def test_the_call_that_passes_a_threshold_tells_it_and_so_does_the_next() -> None:
    """Which makes one message: it is known by limit, window and threshold. After a last call nobody would tell it."""
    told = await passed(policy(monthly()), 4)
    assert [[one["percent"] for one in each] for each in told] == [[], [50], [50, 75], [75]]
    (first,) = told[1]
    known = {"limit": "l", "measure": "requests", "amount": 4, "used": 2, "currency": "USD"}
    assert {name: first[name] for name in known} == known
    assert first["window"] <= time.time() < first["until"]
    assert first["key"] == told[3][0]["key"]
    assert told[2][0] == first
    assert "spent" not in first


async def test_what_calls_pass_together_the_next_one_tells() -> None:
    """Each of them used a third, and knew nothing of the other."""
    limited = limit(amount=10_000, period=Period.DAY, warn_at=(50,))
    of = policy(limited)
    book = whole(of)
    await book.play()
    ((hold, _, _),) = of.holds.settled
    for name in ("one", "two"):
        draws = [Draw(hold.draws[0].counter, 3_000)]
        await of.holds.counters.reserve(SLOT, name, draws, 60_000)
        await of.holds.counters.settle(SLOT, name, draws)
    told = await passed(of, 2)
    assert [[(one["percent"], one["used"]) for one in each] for each in told] == [[(50, 6_037)], []]


async def test_a_spent_one_is_told_with_the_refusal() -> None:
    of = policy(monthly(1, warn_at=()))
    await whole(of).play()
    record = await (call(of) << Refusal(refusals.QUOTA)).play()
    assert [(one["percent"], one["spent"], one["used"]) for one in record["passed"]] == [(100, True, 1)]


@pytest.mark.parametrize(
    ("amount", "most", "used", "told"),
    [
        (1_040, 1_000, 37, [(3, None, True)]),  # much is left, and a call without a cap asks for more
        (38, 1, 37, [(97, True, False)]),  # no call fits any more
        (500, 1_000, 0, []),  # one that would not fit if all were left
    ],
)
async def test_a_call_that_asks_for_too_much_does_not_use_a_budget_up(
    amount: int, most: int, used: int, told: list[object]
) -> None:
    of = policy(limit(amount=amount, period=Period.DAY), max_output=most)
    if used:
        await whole(of).play()
    record = await (call(of) << Refusal(refusals.QUOTA)).play()
    found = record.get("passed", [])
    assert [(one["percent"], one.get("spent"), one.get("wanted", 0) > 1_000) for one in found] == told
    assert [one["used"] for one in found] == [used] * len(told)


@pytest.mark.parametrize(
    "speed",
    [
        limit(Measure.REQUESTS, 1, period=Period.HOUR, warn_at=(50,)),
        limit(Measure.REQUESTS, 1, sliding=60_000, warn_at=(50,)),
    ],
)
async def test_of_a_speed_nothing_is_told(speed: Limit) -> None:
    of = policy(speed)
    first = await whole(of).play()
    second = await (call(of) << Reply).play()
    assert second["refusal"] is not None
    assert not first.keys() & {"passed"} | second.keys() & {"passed"}


async def test_a_long_sliding_one_is_told_once_in_its_length() -> None:
    day = 86_400_000
    told = await passed(policy(monthly(2, period=None, sliding=day, warn_at=(50,))), 2)
    (one,) = told[1]
    assert (one["window"] % 86_400, one["until"] - one["window"]) == (0, 86_400)


async def test_one_in_shadow_refuses_nothing_and_is_not_told_as_spent() -> None:
    told = await passed(policy(monthly(1, mode=Mode.SHADOW, warn_at=())), 3)
    assert told == [[]] * 3


async def test_whose_it_is_is_told_but_no_user() -> None:
    of = policy(monthly(2, scope=(Scope.KEY, Scope.USER, Scope.TEAM, Scope.MODEL)))
    keys = {digest: replace(key, user="ann@example.com") for digest, key in DIRECTORY.keys.items()}
    of.roster.directory = replace(DIRECTORY, keys=keys)
    (one,) = (await passed(of, 1))[0]
    assert one["scope"] == "key key_1, user (one of them), model gpt-4o"
    assert "ann" not in str(one)


async def test_of_two_limits_each_tells_its_own() -> None:
    of = policy(monthly(), monthly(6, name="wide", warn_at=(50,)))
    told = [[(one["limit"], one["percent"]) for one in each] for each in await passed(of, 4)]
    assert told == [[], [("l", 50)], [("l", 50), ("l", 75), ("wide", 50)], [("l", 75), ("wide", 50)]]

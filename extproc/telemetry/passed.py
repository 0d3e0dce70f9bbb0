"""What of its budgets a call passed, was the first to find passed, or found used up: for alerts, and so in few records.

Of speeds, such as requests a minute, nothing is said: they are met all day.
"""

from collections.abc import Iterator, Mapping

from extproc.call import Call
from extproc.limits.hold import Stake
from extproc.limits.limit import Scope
from extproc.limits.standing import is_allowance
from extproc.model import Outcome
from extproc.refusals import QUOTA
from extproc.stores.counters import Counter, Reading

ALL = 100  # percent
_USED_UP = 95
"""Percent from which a limit that refuses is used up. Below, a call just asked for more than is left: those without a
cap of their own do, while others go on."""


def budgets(call: Call, outcome: Outcome, booked: Mapping[str, int]) -> list[dict[str, object]]:
    """The allowances with the percent that was passed. Times are seconds of Unix time, money is in nano-units.

    `key` and `window` tell two apart; `spent`: it is used up, and refused the call; `wanted`: it refused the call,
    which asked for so much, and has room for others. `booked`: what it has used, by the keys of its counters.
    """
    spent = outcome.limit if call.refusal is not None and call.refusal.kind is QUOTA else None
    told: list[dict[str, object]] = []
    for stake, reading in call.stood:
        limit = stake.limit
        is_spent = spent is not None and limit.title == spent and reading.wait != 0
        if (limit.warn_at or is_spent) and is_allowance(limit):
            told += _refused(call, stake, reading) if is_spent else _passed(call, stake, reading, booked, outcome)
    return told


def _passed(
    call: Call, stake: Stake, reading: Reading, all_booked: Mapping[str, int], outcome: Outcome
) -> Iterator[dict[str, object]]:
    """What others had passed when it began, if that was not told before, and what it passed itself by what it used.

    What several pass together, each without knowing of the others, the next one finds passed.
    """
    capacity, settled = stake.draw.counter.capacity, reading.used - max(reading.held, stake.draw.units)
    booked, known = all_booked.get(stake.draw.counter.key, 0), outcome.warnings
    if (settled + booked) * ALL < stake.limit.warn_at[0] * capacity:  # the lowest
        return
    for percent in stake.limit.warn_at:
        needed = percent * capacity
        if settled * ALL >= needed:
            if (stake.limit.title, percent) in known:
                yield _told(call, stake, settled, percent)
        elif (settled + booked) * ALL >= needed:
            yield _told(call, stake, settled + booked, percent)


def _refused(call: Call, stake: Stake, reading: Reading) -> Iterator[dict[str, object]]:
    """Nothing of a call that would not fit if all were left: that is not the budget's state, but the call's size."""
    capacity, settled = stake.draw.counter.capacity, reading.used - reading.held
    percent = settled * ALL // capacity if capacity else ALL
    if percent >= _USED_UP:
        yield {**_told(call, stake, settled, percent), "spent": True}
    elif reading.wait is not None:
        yield {**_told(call, stake, settled, percent), "wanted": stake.draw.units}


def _told(call: Call, stake: Stake, used: int, percent: int) -> dict[str, object]:
    counter = stake.draw.counter
    start, end = _window(counter, call.stood_at)
    told: dict[str, object] = {
        "key": counter.key,
        "window": start // 1000,
        "until": end // 1000,
        "limit": stake.limit.title,
        "measure": stake.limit.measure.value,
        "amount": counter.capacity,
        "used": used,
        "percent": percent,
        "currency": call.catalogue.currency,
    }
    scope = ", ".join(f"{scope.value} {value}" for scope, value in _shown(stake))
    return {**told, "scope": scope} if scope else told


def _shown(stake: Stake) -> Iterator[tuple[Scope, str]]:
    """Whose sum it is: a user is told of as one only, for what is told here goes to many."""
    for scope, value in zip(stake.limit.scope, stake.values, strict=True):
        if scope is Scope.USER:
            yield scope, "(one of them)"
        elif value:
            yield scope, value


def _window(counter: Counter, now: int) -> tuple[int, int]:
    """From when to when it counts, in milliseconds; a sliding one is told of once in its length."""
    if counter.windows:
        present = next((one for one in counter.windows if now < one.end), counter.windows[-1])
        return present.start, present.end
    length = counter.sliding or 86_400_000
    return now - now % length, now - now % length + length

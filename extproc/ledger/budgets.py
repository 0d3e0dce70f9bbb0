"""Counters of limits made again from the ledger, after a Redis has lost what it knew.

A counter gets what the ledger has and it lacks, and nothing is ever taken from it. First the counters are read, then
all events that had come until then are waited for, then the ledger is read: so what calls use meanwhile is in the
counter, and may be in the ledger as well, but cannot be in neither. At worst the calls of these moments count twice.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from typing import Protocol, TypeVar

from extproc.limits.booking import Booking
from extproc.stores.counters import MOST, Counter, Counters, Draw, Window

_AT_ONCE = 100  # counters in one step, which keeps calls waiting
_LIFE = 10_000  # milliseconds of a reading that does not come to its end
_LOOK_S = 0.2
T = TypeVar("T")


class Stream(Protocol):
    """What is asked of the usage bus. Raises BusUnavailable."""

    def newest(self) -> bytes: ...
    def waits_up_to(self, place: bytes) -> bool: ...


@dataclass(frozen=True, slots=True)
class Gap:
    """One sum of a limit: what its counter has, settled calls alone, and what the ledger has."""

    limit: str
    counter: Counter
    has: int
    booked: Sequence[Booking]

    @property
    def measure(self) -> str:
        return self.counter.key.partition("/")[0]

    @property
    def ledger(self) -> int:
        return sum(one.units for one in self.booked)

    @property
    def lacks(self) -> int:
        return max(0, self.ledger - self.has)


Sum = tuple[str, int, int, int]
"""Which one: the counter, and its window, see `_sum`."""


async def readings(counters: Counters, slot: str, booked: Iterable[Booking]) -> dict[Sum, int]:
    """What is settled in the counters of these. Raises CountersUnavailable."""
    found: dict[Sum, int] = {}
    by_window = sorted({_sum(one): one for one in booked}.items(), key=lambda known: known[0][1:])
    for _, of_window in groupby(by_window, lambda known: known[0][1:]):  # a step names a counter once
        for some in _batched(of_window, _AT_ONCE):
            hold = f"look.{secrets.token_hex(8)}"
            answer = await counters.reserve(slot, hold, [Draw(_counter(one), 0) for _, one in some], _LIFE)
            await counters.settle(slot, hold, ())
            found |= {which: at.used - at.held for (which, _), at in zip(some, answer.readings, strict=True)}
    return found


def wait_for(stream: Stream, patience: float, waits: Callable[[], None]) -> bool:
    """Until the ledger has all that is on the bus now; False where it has not within so many seconds."""
    newest, until = stream.newest(), time.monotonic() + patience
    while stream.waits_up_to(newest):
        if time.monotonic() > until:
            return False
        waits()
        time.sleep(_LOOK_S)
    return True


def gaps(booked: Iterable[Booking], has: Mapping[Sum, int]) -> list[Gap]:
    """Of those whose readings are known."""
    found = []
    for which, of_it in groupby(sorted(booked, key=_in_order), _sum):
        known = list(of_it)
        if which in has:
            found.append(Gap(known[0].limit, _counter(known[0]), has[which], known))
    return found


async def fill(counters: Counters, slot: str, some: Iterable[Gap], now: int) -> None:
    """Add what lacks. `now`: milliseconds of Unix time. Raises CountersUnavailable; what was added then stays added."""
    draws = sorted(chain.from_iterable(_draws(gap, now) for gap in some), key=itemgetter(0))
    for ago, of_moment in groupby(draws, itemgetter(0)):
        for step in _batched((draw for _, draw in of_moment), _AT_ONCE):
            await counters.settle(slot, f"rebuild.{secrets.token_hex(8)}", step, ago=ago)


def _draws(gap: Gap, now: int) -> Iterator[tuple[int, Draw]]:
    """How many milliseconds ago what was used. In a sliding window what is oldest lacks first: a store forgets, and
    then goes on."""
    left = gap.lacks
    for one in gap.booked:
        units = min(left, one.units)
        if units:
            left -= units
            yield max(0, now - one.first) if one.sliding else 0, Draw(gap.counter, units)


def _counter(one: Booking) -> Counter:
    windows = () if one.sliding else (Window(one.first, one.last),)
    return Counter(one.counter, MOST, windows, one.sliding)


def _sum(one: Booking) -> Sum:
    """All buckets of a sliding window are one sum; one of another window is another."""
    return (one.counter, one.sliding, 0, 0) if one.sliding else (one.counter, 0, one.first, one.last)


def _in_order(one: Booking) -> tuple[Sum, int]:
    return _sum(one), one.first


def _batched(given: Iterable[T], most: int) -> Iterator[list[T]]:
    rest = iter(given)
    while some := list(islice(rest, most)):
        yield some

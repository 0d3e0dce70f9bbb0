"""How limits stand, as the last call under each was told when it reserved, and what calls here have booked since:
nobody is asked for it.

Only limits whose sums are as few as what is configured: those by key or by user would be as many as callers. What is
open at one time is no sum that is used up.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extproc.limits.hold import Stake
from extproc.limits.limit import KEY_OWNER, Limit, Measure, Scope
from extproc.stores.counters import Reading
from extproc.telemetry import metrics

NOTHING: Mapping[str, int] = {}
_BOUNDED = frozenset(Scope) - {Scope.KEY, Scope.USER}


_Sum = tuple[str, tuple[str, ...]]  # the limit's title, and the values of its scopes


@dataclass(slots=True)
class _Look:
    """The newest that a call of this worker was told, and what calls have booked here since. Milliseconds."""

    stake: Stake
    settled: int
    at: int
    end: int  # when nothing of it counts any more, if nothing else happens
    since: deque[tuple[int, int]]  # when, and how much: as many as calls were open at a time
    booked: int  # the sum of these

    def look(self, stake: Stake, reading: Reading, at: int) -> None:
        self.stake, self.settled, self.at = stake, max(0, reading.used - reading.held), at
        self.end = max(self.end, at + reading.reset) if stake.limit.sliding else at + reading.reset
        while self.since and self.since[0][0] <= at:
            self.booked -= self.since.popleft()[1]

    def book(self, units: int, now: int) -> None:
        self.since.append((now, units))
        self.booked += units
        if self.stake.limit.sliding:
            self.end = max(self.end, now + self.stake.limit.sliding)


class Standings:
    """The last of each sum. Times in milliseconds of Unix time."""

    def __init__(self) -> None:
        self._looks: dict[_Sum, _Look] = {}
        self._fresh: set[_Sum] = set()

    def note(
        self, stood: Iterable[tuple[Stake, Reading]], at: int, booked: Mapping[str, int] = NOTHING, now: int = 0
    ) -> None:
        """How a call's limits stood at a time, and what it has booked now that it ended, by the counters' keys."""
        for stake, reading in stood:
            place = stake.limit.title, stake.values
            look = self._looks.get(place)
            if look is None or look.stake.limit is not stake.limit:
                if not _is_shown(stake.limit):
                    continue
                if look is None:
                    look = self._looks[place] = _Look(stake, 0, at, 0, deque(), 0)
            if at >= look.at:
                look.look(stake, reading, at)
            if units := booked.get(stake.draw.counter.key):
                look.book(units, now)
            self._fresh.add(place)

    def show(self, now: int) -> None:
        """Set the gauges of what was noted since the last time, and of what has ended: a window, or all that slid.

        Of several workers the one with the newest look is believed, also in that it ended.
        """
        over = [place for place, look in self._looks.items() if now >= look.end]
        for place in self._fresh.union(over):
            look = self._looks[place]
            _show(look.stake, 0 if now >= look.end else look.settled + look.booked, look.at / 1000)
        self._fresh.clear()
        for place in over:
            del self._looks[place]


def _show(stake: Stake, settled: int, at: float) -> None:
    limit, capacity = stake.limit, stake.draw.counter.capacity
    scope = "/".join(stake.values)
    metrics.LIMIT_USED.labels(limit.title, scope).see(settled / (capacity or 1), at)
    metrics.LIMIT_REMAINING.labels(limit.title, scope, limit.measure).see(max(0, capacity - settled), at)


def _is_shown(limit: Limit) -> bool:
    return (
        limit.measure is not Measure.CONCURRENT
        and _BOUNDED.issuperset(limit.scope)
        and not limit.owner.startswith(KEY_OWNER)
    )

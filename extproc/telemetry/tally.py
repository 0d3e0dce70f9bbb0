"""Counts and observations that are added up in this process, and shown once a second.

Writing one sample where other processes can read it costs more than deciding a call's route, and making one costs
more than that. A call only adds to integers here. All of it belongs to one thread, that of the event loop.
"""

import sys
from bisect import bisect_right
from collections import Counter as Sums
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import prometheus_client
from prometheus_client import Counter

Labels = tuple[str, ...]

_counters: defaultdict[Counter, Sums[Labels]] = defaultdict(Sums)
_histograms: "dict[Histogram, None]" = {}  # those that ever had something added
_totals: dict[Counter, int] = {}


class Histogram(prometheus_client.Histogram):
    """One whose observations show by `publish`."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._fresh: defaultdict[Labels, list[float]] = defaultdict(self._first)  # observed and not shown
        self._shown: dict[Labels, Histogram] = {}

    def add(self, labels: Labels, value: float) -> None:
        """Observe a value; it shows within a second. Which bucket it is in is looked at then, for all in one go."""
        self._fresh[labels].append(value)

    def add_each(self, observed: Iterable[tuple[str, float]]) -> None:
        """Observe several values, each under its one label."""
        fresh = self._fresh
        for label, value in observed:
            fresh[label,].append(value)

    def publish(self, new: int = sys.maxsize) -> int:
        """Show what was added since the last time, in `new` more series at most. Returns what is left of these."""
        for labels, values in self._fresh.items():
            if not values:
                continue
            if labels not in self._shown:
                if new <= 0:
                    continue
                new -= 1
                self._shown[labels] = self.labels(*labels) if labels else self
            shown = self._shown[labels]
            shown._take(values)
            values.clear()
        return new

    def _take(self, values: list[float]) -> None:
        values.sort()
        below = 0
        for bucket, bound in zip(self._buckets, self._upper_bounds, strict=True):
            upto = bisect_right(values, bound)
            if upto > below:
                bucket.inc(upto - below)
            below = upto
        self._sum.inc(sum(values))

    def _first(self) -> list[float]:
        _histograms[self] = None
        return []


class LatestGauge(prometheus_client.Gauge):
    """Of `livemostrecent`: of many processes the one that looked last is shown, whenever each of them told it."""

    def see(self, value: float, at: float) -> None:
        """Set what was so at a time, in seconds of Unix time."""
        self._value.set(float(value), timestamp=at)


def count(counter: Counter, *labels: str, amount: int = 1) -> None:
    """Add to a counter; it shows within a second."""
    _counters[counter][labels] += amount


def reach(counter: Counter, total: int) -> None:
    """Show a number that somebody else counts, from 0 on, in this process."""
    count(counter, amount=total - _totals.get(counter, 0))
    _totals[counter] = total


def publish(new: int = sys.maxsize) -> None:
    """Show what has been added up since the last time.

    `new`: how many series of histograms may be made for that, each of which takes 0.2 ms; the others wait.
    """
    for counter, sums in _counters.items():
        for labels, amount in sums.items():
            (counter.labels(*labels) if labels else counter).inc(amount)
        sums.clear()
    for histogram in _histograms:
        new = histogram.publish(new)

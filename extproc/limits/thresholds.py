"""Soft thresholds: how far a limit is used up, told once as it passes each of them."""

from extproc.limits.hold import Hold
from extproc.stores.counters import Answer

_MOST_KEPT = 50_000
Passed = tuple[tuple[str, int], ...]
"""Limits, by their titles, each with the percent that it has passed."""


class Thresholds:
    """Remembers what it has told of each counter, for as long as the counter stands above it.

    What is held by running calls does not count: most of it comes back. So a threshold is told by the first call that
    begins after it was passed, once by each worker.
    """

    def __init__(self) -> None:
        self._told: dict[str, int] = {}  # the highest, by counter

    def crossed(self, held: Hold, answer: Answer) -> Passed:
        """The thresholds that are passed now and have not been told."""
        found: list[tuple[str, int]] = []
        for stake, reading in held.read(answer):
            if not stake.limit.warn_at:
                continue
            counter, settled = stake.draw.counter, reading.used - max(reading.held, stake.draw.units)
            if settled * 100 < stake.limit.warn_at[0] * counter.capacity:  # the lowest
                self._told.pop(counter.key, None)
                continue
            passed = [percent for percent in stake.limit.warn_at if settled * 100 >= percent * counter.capacity]
            told = self._told.get(counter.key, 0)
            found += [(stake.limit.title, percent) for percent in passed if percent > told]
            if len(self._told) >= _MOST_KEPT:
                self._told.clear()
            self._told[counter.key] = max(passed)
        return tuple(found)

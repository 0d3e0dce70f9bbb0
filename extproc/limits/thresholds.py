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
            passed = [percent for percent in stake.limit.warn_at if settled * 100 >= percent * counter.capacity]
            told = self._told.get(counter.key, 0)
            found += [(stake.limit.title, percent) for percent in passed if percent > told]
            self._note(counter.key, max(passed, default=0))
        return tuple(found)

    def _note(self, key: str, percent: int) -> None:
        if percent:
            if len(self._told) >= _MOST_KEPT:
                self._told.clear()
            self._told[key] = percent
        else:
            self._told.pop(key, None)

"""Who is let in when more calls come than a worker can serve.

A worker takes calls up one after the other. Where more come than it can serve they wait in line, all alike, and Envoy
gives each up after `timeouts.policy`: what was done for those calls is lost, and the more come, the fewer are served.
So a worker looks at how long ago Envoy began with a call that it takes up. Where that is too long, and has been for
some time, the call is refused at its head, which costs little and is before its body is sent, and the line gets
shorter. One that is late by itself is served, as are those that waited while the worker was held up once.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace

from extproc.model import Capacity
from extproc.refusals import OVERLOADED, Refusal, Refused, after

GRACE = 0.2
"""Seconds for which all calls must have been late."""

_COME_AGAIN = (500, 2000)  # milliseconds; not all that were refused together come together again
_FULL = Refusal(OVERLOADED, "The gateway has more calls than it can serve. Try again in a moment.")


class Admission:
    """The gate of one worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._late_since: float | None = None
        self._longest = 0.0

    def check(self, in_flight: int, waited: float, capacity: Capacity) -> None:
        """Raises Refused for a new call, the one of so many, that waited so many seconds, if it would not be served."""
        self._longest = max(self._longest, waited)
        if self._is_late(waited, capacity.wait) or in_flight > capacity.calls:
            raise Refused.of(replace(_FULL, headers=after(random.randint(*_COME_AGAIN))))  # noqa: S311 - only spread

    def longest(self) -> float:
        """Seconds that a call has waited since this was asked last."""
        longest, self._longest = self._longest, 0.0
        return longest

    def _is_late(self, waited: float, bound: float) -> bool:
        if waited <= bound:
            self._late_since = None
            return False
        now = self._clock()
        if self._late_since is None:
            self._late_since = now
        return now - self._late_since >= GRACE

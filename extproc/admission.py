"""Who is let in when more calls come than a worker can serve.

A worker takes calls up one after the other. Where more come than it can serve they wait in line, all alike, and Envoy
gives each up after `timeouts.policy`: what was done for those calls is lost, and the more come, the fewer are served.
So a worker looks at how long ago Envoy began with a call that it takes up. Where that is too long, and has been for
some time, the call is refused at its head, which costs little and is before its body is sent, and the line gets
shorter. One that is late by itself is served, as are those that waited while the worker was held up once, and one
that is alone: it is something else that makes it late.
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace

from extproc.model import Capacity
from extproc.refusals import NOT_READY, OVERLOADED, Refusal, Refused, after

GRACE = 0.2
"""Seconds for which all calls must have been late."""

LAPSE = 1.0
"""Seconds after which a late call tells nothing of the next one: where a line is, somebody gets a turn before."""

FEW = 1
"""Open calls that are no line: where one forms, it is before the worker, which has but some of it."""

_COME_AGAIN = (500, 2000)  # milliseconds; not all that were refused together come together again
_FULL = Refusal(OVERLOADED, "The gateway has more calls than it can serve. Try again in a moment.")
_CLOSED = Refusal(
    NOT_READY,
    "The gateway stops. Try again, on a new connection.",
    headers=after(1),  # others serve already
)


class _Line:
    """Those that wait for the same step."""

    def __init__(self) -> None:
        self._late_since = self._last = -math.inf
        self.is_late = False
        """Whether the last one was."""

    def passed(self, waited: float, bound: float, now: float) -> None:
        """One got its turn."""
        is_late = waited > bound
        if is_late and (not self.is_late or now - self._last > LAPSE):
            self._late_since = now
        self.is_late, self._last = is_late, now

    def is_too_long(self, now: float) -> bool:
        """All that got their turn were late for some time, and one has just now."""
        return self.is_late and now - self._late_since >= GRACE and now - self._last <= GRACE


class Admission:
    """The gate of one worker. `closed`: what comes from now on would be cut, so that nobody is let in."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.closed = False
        self._clock = clock
        self._heads, self._bodies = _Line(), _Line()
        self._longest = 0.0

    def check(self, in_flight: int, waited: float, capacity: Capacity) -> None:
        """Raises Refused for a new call, the one of so many, that waited so many seconds, if it would not be served."""
        if self.closed:
            raise Refused.of(_CLOSED)
        now = self._clock()
        self._longest = max(self._longest, waited)
        heads, bodies = self._heads, self._bodies
        heads.passed(waited, capacity.wait, now)
        is_line = (heads.is_late or bodies.is_late) and (heads.is_too_long(now) or bodies.is_too_long(now))
        if (is_line and in_flight > FEW) or in_flight > capacity.calls:
            raise Refused.of(replace(_FULL, headers=after(random.randint(*_COME_AGAIN))))  # noqa: S311 - only spread

    def decides(self, waited: float, capacity: Capacity) -> None:
        """The body of a call got its turn so many seconds after its head."""
        self._longest = max(self._longest, waited)
        self._bodies.passed(waited, capacity.wait, self._clock())

    def longest(self) -> float:
        """Seconds that a call has waited since this was asked last."""
        longest, self._longest = self._longest, 0.0
        return longest

"""The usage bus of a gateway with Redis: its stream, and the spools for what the stream may have lost.

The stream has everything in order, from all workers of all machines, and what only Redis knows: holds that expired.
But it is bounded, and Redis may lose it. The spools of this machine's workers have the settlements, for an hour and
more. They are read when this begins and whenever there may be a gap, from where the ledger is known to have them: to
there nothing waited on the stream any more.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from extproc.stores.ledger import Event
from extproc.stores.redis.bus import RedisBus
from extproc.stores.spool_bus import SpoolBus

log = logging.getLogger(__name__)


_AGAIN_S = 60.0  # between two lines of the log about gaps


def _nobody() -> None:
    """Learns nothing of a gap."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """What of the spools the store had taken when the last entry of the stream was this one."""

    newest: bytes
    taken: dict[str, int]


class StreamAndSpools:
    """See Bus. `gap` is called whenever events may be missing on the stream."""

    name = "redis"

    def __init__(self, stream: RedisBus, spools: SpoolBus, gap: Callable[[], None] = _nobody) -> None:
        self._stream = stream
        self._gap = gap
        self._told = -_AGAIN_S  # when of a gap, by the monotonic clock
        self._spools = spools
        self._mark: _Mark | None = None
        self._gaps = -1  # of the stream that were dealt with: none yet, and who begins does not know what was before
        self._reading = False  # the spools
        self._finishing = False
        self._has_seen = False  # an event of the stream: what is new has no gap that anybody need know of

    def take(self, most: int) -> Sequence[Event]:
        self._spools.tend()
        if self._gaps != self._stream.gaps and not self._finishing:
            if self._has_seen:
                self._tell_of_gap()
            self._gaps = self._stream.gaps
            self._reading, self._mark = True, None
        if self._reading:
            if found := self._spools.take(most):
                return found
            self._reading = False
        found = self._stream.take(most)
        self._has_seen = self._has_seen or bool(found and self._gaps == self._stream.gaps)
        return found

    def done(self, events: Sequence[Event]) -> None:
        of_spools = [event for event in events if isinstance(event.place, tuple)]
        if of_spools:
            self._spools.done(of_spools)
        else:
            self._stream.done(events)

    def again(self) -> None:
        self._stream.again()
        self._spools.again()

    def lag(self) -> float:
        if self._finishing:  # and Redis may not answer
            return 0.0
        lag = self._stream.lag()
        if not self._reading and self._gaps == self._stream.gaps:
            self._note()
        return lag

    def finish(self) -> None:
        self._finishing = self._reading = True
        self._spools.finish()

    @property
    def is_alone(self) -> bool:
        return self._reading

    def left(self) -> tuple[int, str]:
        return self._spools.left() if self._reading else (0, "")

    def close(self) -> None:
        self._stream.close()
        self._spools.close()

    def _tell_of_gap(self) -> None:
        self._gap()
        if time.monotonic() - self._told > _AGAIN_S:
            self._told = time.monotonic()
            log.warning("events may be missing on the stream: the spools of this machine are read")

    def _note(self) -> None:
        """Note how far the ledger has the spools, once nothing waits any more that was there at the last mark."""
        if self._mark is not None and self._stream.has_passed(self._mark.newest):
            self._spools.note(self._mark.taken)
            self._mark = None
        if self._mark is None:
            taken = self._spools.taken()
            newest = self._stream.newest()
            self._mark = _Mark(newest, taken) if newest else None  # without a stream nobody knows what was on it

"""What takes events from the usage bus and writes them to the ledger, in batches, until it is told to stop.

An event leaves the bus once the ledger has it, and the ledger knows each call by its id. So whatever happens in
between (a crash, a lost answer, another consumer) leads to the same event coming again, which does no harm.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType

from extproc.ledger.events import read, refused
from extproc.ledger.signs import rows
from extproc.stores.ledger import Batch, Bus, BusUnavailable, Event, LedgerStore, Written
from extproc.stores.ports import StoreUnavailable

log = logging.getLogger(__name__)

MOST = 2_000
"""Events in one transaction: all that a consumer has in memory."""

_LOOK_S = 0.5  # between two looks whether anything has come
_PAUSE_S = (0.1, 5.0)  # before a second try, and the most before any
_MEND_S = 60.0  # before sums are tried again that the database does not make
_DRAIN_S = 3.0  # for which a consumer that was told to stop goes on while something waits
_ALONE_S = 10.0  # for which it does while that may be on this machine alone
_SOON_S = 0.2  # before a second try then

Told = Callable[[Written, float], None]
"""Is told what was written, and how long ago the oldest event came that still waits, in seconds."""


def _nobody(_written: Written, _lag: float) -> None:
    """Wants to know nothing."""


class Consumer:
    """One of any number. `run` blocks: give it a thread, or a process, of its own.

    `zone`: of the days by which the ledger is to have sums. `currency`: of expired holds. `webhooks`: the kinds of
    alerts that each gets.
    """

    def __init__(
        self,
        bus: Bus,
        store: LedgerStore,
        zone: str = "UTC",
        currency: str = "",
        told: Told = _nobody,
        webhooks: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self._bus = bus
        self._store = store
        self._zone: str | None = zone  # None: it has them
        self._mends: float | None = 0.0  # sums may be lacking: when to make some, by the monotonic clock
        self._currency = currency
        self._told = told
        self._webhooks = webhooks
        self.behind: tuple[int, str] | None = None
        """How many events stay behind at the end of `run` that are on this machine alone, and in which folder. None
        before, and where nobody can say."""
        self._stopping = threading.Event()
        self._had = 0  # events in the last step
        self._pause = _PAUSE_S[0]
        self._down: type[Exception] | None = None  # what was told of last
        self._lagged = 0.0, time.monotonic()  # how far it was behind, and when

    def stop(self) -> None:
        """Ends `run` soon: what was taken and not written comes again."""
        self._stopping.set()

    def lag(self) -> float:
        """For how many seconds the oldest event has been waiting, as far as is known: also while a step hangs."""
        lag, when = self._lagged
        return lag + time.monotonic() - when

    def run(self) -> None:
        while not self._stopping.is_set():
            if not self._is_well():
                self._told(Written(), self.lag())
                self._stopping.wait(self._next_pause())
            elif not self._had and not self._is_to_mend():
                self._stopping.wait(_LOOK_S)
        self.behind = (0, "") if self._finished() else self._rest()
        self._bus.close()

    def _finished(self) -> bool:
        """Write what waits, for a while; False where some of it stays behind that may be on this machine alone."""
        began = time.monotonic()
        self._bus.finish()
        while time.monotonic() - began < (_ALONE_S if self._bus.is_alone else _DRAIN_S):
            if not self._is_well():
                left = self._left()
                if left and not left[0]:
                    return True
                time.sleep(_SOON_S)
            elif not self._had:
                return True
        return not self._bus.is_alone

    def _rest(self) -> tuple[int, str] | None:
        left = self._left()
        if left is None:
            log.error("the ledger may not have all: what waits for it cannot be read")
        elif left[0]:
            log.error("the ledger did not take all in time: %d events stay in %s", *left)
        return left

    def _left(self) -> tuple[int, str] | None:
        """None where nobody can say."""
        try:
            return self._bus.left()
        except BusUnavailable:
            return None

    def _is_well(self) -> bool:
        """Whether a step could be taken."""
        try:
            self._had = self.step()
        except (BusUnavailable, StoreUnavailable) as trouble:
            self._complain(trouble)
        except Exception as error:  # whatever it is: were this to end, nothing would be booked any more
            log.error("the ledger fails: %s", type(error).__name__)
        else:
            return True
        return False

    def step(self) -> int:
        """Write the next events; how many there were. Raises BusUnavailable, StoreUnavailable."""
        if self._zone is not None:
            self._keep_days_of(self._zone)
        if self._is_to_mend():  # a day for each batch, so that neither waits long for the other
            self._mend()
        events = self._bus.take(MOST)
        try:
            written = self._written(events) if events else Written()
        except BaseException:
            self._bus.again()
            raise
        self._bus.done(events)
        self._lagged = lag, _ = self._bus.lag(), time.monotonic()
        self._told(written, lag)
        self._recovered()
        return len(events)

    def _keep_days_of(self, zone: str) -> None:
        if self._store.zone() != zone:
            log.warning("the ledger makes its sums again, by the days of %s", zone)
            self._store.remake(zone)
        self._zone = None

    def _is_to_mend(self) -> bool:
        return self._mends is not None and time.monotonic() >= self._mends

    def _mend(self) -> None:
        """Rows do not wait for sums: those of a day may be more than a column takes."""
        try:
            self._mends = 0.0 if self._store.mend() else None
        except StoreUnavailable as trouble:
            log.warning("the ledger's sums by day wait to be made again: %s", trouble)
            self._mends = time.monotonic() + _MEND_S

    def _written(self, events: Sequence[Event]) -> Written:
        """Write them; in halves where the database does not take one of them. Raises StoreUnavailable."""
        try:
            return self._store.write(self._read(events))
        except StoreUnavailable:
            raise
        except Exception as error:  # whatever is wrong with it, it may not hold up the others for ever
            if len(events) > 1:
                half = len(events) // 2
                done = zip(self._written(events[:half]), self._written(events[half:]), strict=True)
                return Written(*map(sum, done))
            log.error("the ledger keeps an event as it came, for want of a row: %s", type(error).__name__)
            return self._store.write(Batch(odd=[refused(event) for event in events]))

    def _read(self, events: Sequence[Event]) -> Batch:
        batch = read(events, self._currency)
        if batch.signs:
            batch.alerts = rows(batch.signs, self._webhooks, datetime.now(UTC).replace(tzinfo=None))
        return batch

    def _next_pause(self) -> float:
        pause, self._pause = self._pause, min(2 * self._pause, _PAUSE_S[1])
        return pause * random.uniform(0.5, 1)  # noqa: S311 - lest all consumers come back at once

    def _complain(self, trouble: Exception) -> None:
        if self._down is not type(trouble):
            self._down = type(trouble)
            log.warning("the ledger waits: %s", trouble)

    def _recovered(self) -> None:
        self._pause = _PAUSE_S[0]
        if self._down is not None:
            self._down = None
            log.warning("the ledger goes on")

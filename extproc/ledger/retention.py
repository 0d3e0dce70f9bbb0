"""Lets go of what is past its time, in a thread of the process that writes the ledger."""

import logging
import random
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Protocol

from extproc.stores.ports import StoreUnavailable
from extproc.stores.retention import Kept, RetentionStore

log = logging.getLogger(__name__)

_PERIOD_S = 3600.0
_BREATH_S = 0.05  # between two transactions, for those who write

_DAY_MS = 86_400_000

Told = Callable[[Kept, int], None]
"""Is told how many rows of a kind were let go of."""


class Windows(Protocol):
    """What limits have booked."""

    def forget(self, before: int) -> int:
        """Let go of windows that were over by then, in milliseconds of Unix time. Raises StoreUnavailable."""


class Retention:
    """`ages`: how old each may become; what is not named is kept for ever. `run` blocks: give it a thread."""

    def __init__(
        self, store: RetentionStore, windows: Windows, ages: Mapping[Kept, timedelta], told: Told = lambda *_: None
    ) -> None:
        self._store = store
        self._windows = windows
        self._ages = ages
        self._told = told
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.sweep(datetime.now(UTC).replace(tzinfo=None))
            except StoreUnavailable as trouble:
                log.warning("the ledger keeps what is past its time for now: %s", trouble)
            except Exception as error:  # whatever it is: it may not end what runs beside
                log.error("the ledger cannot let go of what is past its time: %s", type(error).__name__)
            self._stopping.wait(_PERIOD_S * random.uniform(0.5, 1.5))  # noqa: S311 - lest all processes come at once

    def sweep(self, now: datetime) -> None:
        """Let go of all that is older now (UTC). Nothing where another process does. Raises StoreUnavailable."""
        self._windows.forget(round(now.replace(tzinfo=UTC).timestamp() * 1000) - _DAY_MS)
        if not self._ages:
            return
        with self._store.alone() as is_alone:
            for what, age in self._ages.items() if is_alone else ():
                for rows in self._store.let_go(what, now - age):
                    self._told(what, rows)
                    if self._stopping.wait(_BREATH_S if rows else 0):
                        return

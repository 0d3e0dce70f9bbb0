"""Everybody who may call, kept in step with the database every two seconds, off the event loop.

Calls look at one immutable directory. What has changed is read in small pieces, so that the reading thread
never keeps the event loop from its calls, and becomes a new directory, swapped in whole.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from extproc.enrolment import Enrolment
from extproc.identity.directory import Directory
from extproc.stores import snapshot
from extproc.stores.ports import DirectoryStore, StoreUnavailable

log = logging.getLogger(__name__)

_PERIOD = 2.0  # seconds; a revocation must be in force everywhere within five
_SLOW_PERIOD = 30.0  # seconds between writes of what only has to be roughly right
_BREATH = 0.0005  # seconds in which the event loop's thread gets the interpreter


class Roster:
    """The directory as it is now, and when each key was used last.

    `serve_for`: seconds for which the last known directory holds while the database is down; None for ever.
    `saved`: where one worker keeps a snapshot; `start_from`: the snapshot that any may start from.
    """

    def __init__(
        self,
        store: DirectoryStore,
        quickstart: bool = False,
        serve_for: float | None = None,
        start_from: Path | None = None,
        saved: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._serve_for = serve_for
        self._start_from = start_from
        self._saved = saved
        self._clock = clock
        self._enrolment = Enrolment(quickstart)
        self._directory: Directory | None = None
        self._revision = 0
        self._saved_revision = 0
        self._confirmed = 0.0  # Unix time at which the database was last heard of
        self._used: dict[str, float] = {}
        self._wrote = 0.0

    # ---- for calls, on the event loop ----

    @property
    def loaded(self) -> bool:
        """Whether there is a directory to decide by."""
        return self._directory is not None and not self._stale

    @property
    def _stale(self) -> bool:
        return self._serve_for is not None and self._clock() - self._confirmed > self._serve_for

    def current(self) -> Directory:
        """Raises StoreUnavailable before the first read, and when the database has been away for too long."""
        if self._directory is None:
            raise StoreUnavailable("the keys have not been read yet")
        if self._stale:
            raise StoreUnavailable("the database has not been heard of for too long")
        return self._directory

    def used(self, key_id: str, now: float) -> None:
        """Note that a key was used, `now` in Unix time; the database is told twice a minute."""
        self._used[key_id] = now

    # ---- in a thread ----

    def refresh(self) -> None:
        """Take what has changed. Blocks; raises StoreUnavailable."""
        try:
            revision = self._store.revision()
            if revision != self._revision:
                self._read(revision)
        except StoreUnavailable as trouble:
            self._revision = 0  # what comes back may be a backup or a copy, at any revision
            if self._directory is None and self._start_from is not None:
                self._start(self._start_from, trouble)
            raise
        self._confirmed = self._clock()
        if self._confirmed - self._wrote > _SLOW_PERIOD:
            self._wrote = self._confirmed
            self._save()
            self.write_used()

    def write_used(self) -> None:
        """Tell the database when keys were used last. Raises StoreUnavailable; then it is told later."""
        taken, self._used = self._used, {}
        try:
            self._store.used({key_id: datetime.fromtimestamp(when, UTC) for key_id, when in taken.items()})
        except StoreUnavailable:
            self._used = taken | self._used
            raise

    def _read(self, revision: int) -> None:
        if self._revision == 0 or revision < self._revision:
            # What a snapshot said, or a database that has been put back since, holds no more.
            self._enrolment = self._enrolment.anew()
            self._revision = 0
        with closing(self._store.changes(self._revision)) as changes:
            self._directory = self._enrolment.take(changes, _breathe)
        self._revision = revision
        gc.freeze()  # what is known stays: no collection need look at it again

    def _start(self, path: Path, trouble: StoreUnavailable) -> None:
        """From the snapshot, which is as old as the file. Raises StoreUnavailable where there is none to start from."""
        try:
            confirmed = path.stat().st_mtime
            with closing(snapshot.load(path)) as records:
                directory = self._enrolment.anew().take(records, _breathe)
        except StoreUnavailable as problem:
            raise StoreUnavailable(f"{trouble}; {problem}") from None
        except OSError as problem:
            raise StoreUnavailable(f"{trouble}; there is no snapshot file: {problem.strerror}") from None
        except ValueError:  # a digest or a range that is none
            raise StoreUnavailable(f"{trouble}; the snapshot file is damaged") from None
        self._confirmed = confirmed
        self._directory = directory
        gc.freeze()
        log.warning("the database is down: serving from the snapshot of %s", _minute(self._confirmed))

    def _save(self) -> None:
        """Keep the snapshot in step; a full disk costs the snapshot, never a call."""
        if self._saved is None:
            return
        try:
            if self._saved_revision == self._revision and self._saved.exists():
                snapshot.confirm(self._saved)
                return
            with closing(self._store.changes(0)) as records:
                snapshot.save(self._saved, records, _breathe)
            self._saved_revision = self._revision
        except OSError as error:
            log.warning("the snapshot of the directory could not be written: %s", error.strerror)

    async def keep_fresh(self) -> None:
        """Refresh for ever, off the event loop."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # whatever it is: were this to end, no revocation would be seen any more
                reason = str(error) if isinstance(error, StoreUnavailable) else type(error).__name__
                log.warning("the keys could not be read again, %s: %s", self._plight(), reason)
            await asyncio.sleep(_PERIOD)

    def _plight(self) -> str:
        if self._directory is None:
            return "none is known yet"
        return "the last known are too old to serve" if self._stale else "the last known stay in force"


def _breathe() -> None:
    time.sleep(_BREATH)


def _minute(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")

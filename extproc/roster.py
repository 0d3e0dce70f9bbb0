"""Everybody who may call, kept in step with the database every two seconds, off the event loop.

Calls look at one immutable directory. What has changed is read in small pieces, so that the reading thread
never keeps the event loop from its calls, and becomes a new directory, swapped in whole.
"""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from extproc.enrolment import Enrolment
from extproc.identity.directory import Directory, KeyTable
from extproc.stores import snapshot
from extproc.stores.ports import DirectoryChange, DirectoryStore, StoreUnavailable

log = logging.getLogger(__name__)

_PERIOD = 2.0  # seconds; a revocation must be in force everywhere within five
_SLOW_PERIOD = 30.0  # seconds between writes of what only has to be roughly right
_BREATH = 0.0005  # seconds in which the event loop's thread gets the interpreter
_PARTS_AT_ONCE = 8  # of an old key table: to let go of all 100,000 keys takes milliseconds
_MANY = 1000  # changes from which on a collection that looks at them all would hold up calls
_SKEW = 60.0  # seconds by which clocks may differ


class Roster:
    """The directory as it is now, and when each key was used last.

    `serve_for`: seconds for which the last known directory holds while the database is down; None for ever.
    `saved`: where one worker keeps a snapshot; `start_from`: the snapshot that any may start from.
    `clock` gives Unix time, which tells the age of a snapshot; `elapsed` seconds that nobody sets back.
    """

    def __init__(
        self,
        store: DirectoryStore,
        quickstart: bool = False,
        serve_for: float | None = None,
        start_from: Path | None = None,
        saved: Path | None = None,
        clock: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._serve_for = serve_for
        self._start_from = start_from
        self._saved = saved
        self._clock = clock
        self._elapsed = elapsed
        self._enrolment = Enrolment(quickstart)
        self._directory: Directory | None = None
        self._revision = 0
        self._reads = 0  # of what has changed
        self._saved_reads = 0  # those that the snapshot holds
        self._failed_reads = 0  # those that could not be written: not tried again at every refresh
        self._confirmed = 0.0  # Unix time at which the database was last heard of
        self._heard = 0.0  # the same by `elapsed`
        self._used: dict[str, float] = {}
        self._wrote: float | None = None  # when that was which only has to be roughly right, by `elapsed`

    # ---- for calls, on the event loop ----

    @property
    def loaded(self) -> bool:
        """Whether there is a directory to decide by."""
        return self._directory is not None and not self._stale

    @property
    def _stale(self) -> bool:
        return self._serve_for is not None and self._elapsed() - self._heard > self._serve_for

    def current(self) -> Directory:
        """Raises StoreUnavailable before the first read, and when the database has been away for too long."""
        if self._directory is None:
            raise StoreUnavailable("the keys have not been read yet")
        if self._serve_for is not None and self._stale:
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
        self._confirmed, self._heard = self._clock(), self._elapsed()

    def keep(self) -> None:
        """Bring the snapshot in step at once where it is behind; twice a minute confirm it and tell of uses.

        Not part of `refresh`: to write many keys takes longer than the next revocation may wait.
        Blocks; raises StoreUnavailable.
        """
        if self._revision == 0:  # nothing is known of the database
            return
        due = self._wrote is None or self._elapsed() - self._wrote > _SLOW_PERIOD
        if due or self._reads not in (self._saved_reads, self._failed_reads):
            self._save()
        if due:
            self._wrote = self._elapsed()
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
        whole = self._revision == 0 or revision < self._revision
        if whole:
            # What a snapshot said, or a database that has been put back since, holds no more.
            self._enrolment = self._enrolment.anew()
            self._revision = 0
        with closing(self._store.changes(self._revision)) as changes:
            directory = self._take(self._enrolment, changes)
        self._swap(directory)
        self._revision = revision
        self._reads += 1

    def _swap(self, directory: Directory) -> None:
        """Calls look at the new directory at once; of the old one's keys a few go at a time."""
        before, self._directory = self._directory, directory
        if before is None or not isinstance(before.keys, KeyTable):
            return
        parts = list(before.keys.parts)
        del before
        while parts:
            del parts[-_PARTS_AT_ONCE:]
            self._pause()

    def _take(self, enrolment: Enrolment, changes: Iterable[DirectoryChange]) -> Directory:
        """The directory after the changes, with no garbage collection meanwhile, which would visit every key.

        After many changes no later one need visit them either. What happens to be garbage at such a moment stays for
        ever, so not after every change.
        """
        gc.disable()
        try:
            directory = enrolment.take(changes, self._pause)
            if enrolment.taken >= _MANY:
                gc.freeze()
        finally:
            gc.enable()
        return directory

    def _start(self, path: Path, trouble: StoreUnavailable) -> None:
        """From the snapshot, which is as old as the file. Raises StoreUnavailable where there is none to start from."""
        try:
            confirmed = path.stat().st_mtime
            age = self._clock() - confirmed
            if age < -_SKEW:
                raise StoreUnavailable("the snapshot file is from the future")
            with closing(snapshot.load(path)) as records:
                directory = self._take(self._enrolment.anew(), records)
        except StoreUnavailable as problem:
            raise StoreUnavailable(f"{trouble}; {problem}") from None
        except OSError as problem:
            raise StoreUnavailable(f"{trouble}; there is no snapshot file: {problem.strerror}") from None
        except ValueError:  # a digest or a range that is none
            raise StoreUnavailable(f"{trouble}; the snapshot file is damaged") from None
        self._heard = self._elapsed() - max(age, 0.0)
        self._directory = directory
        log.warning("the database is down: serving from the snapshot of %s", _minute(confirmed))

    def _save(self) -> None:
        """Keep the snapshot in step; a full disk costs the snapshot, never a call."""
        if self._saved is None:
            return
        reads, confirmed = self._reads, self._confirmed
        try:
            if self._saved_reads != reads or not self._saved.exists():
                with closing(self._store.changes(0)) as records:
                    snapshot.save(self._saved, records, self._pause)
                self._saved_reads = reads
            snapshot.confirm(self._saved, confirmed)
        except OSError as error:
            self._failed_reads = reads
            log.warning("the snapshot of the directory could not be written: %s", error.strerror)

    async def first_read(self) -> None:
        """Read what there is, off the event loop; where that fails, `keep_fresh` goes on trying."""
        with contextlib.suppress(StoreUnavailable):
            await asyncio.to_thread(self.refresh)

    async def keep_fresh(self) -> None:
        """Refresh and keep for ever, off the event loop, neither waiting for the other."""
        refreshed = asyncio.Event()
        await asyncio.gather(self._refresh_for_ever(refreshed), self._keep_for_ever(refreshed))

    async def _refresh_for_ever(self, refreshed: asyncio.Event) -> None:
        while True:
            try:
                await asyncio.to_thread(self.refresh)
                refreshed.set()
            except Exception as error:  # whatever it is: were this to end, no revocation would be seen any more
                log.warning("the keys could not be read again, %s: %s", self._plight(), _reason(error))
            await asyncio.sleep(_PERIOD)

    async def _keep_for_ever(self, refreshed: asyncio.Event) -> None:
        while True:
            await refreshed.wait()
            refreshed.clear()
            try:
                await asyncio.to_thread(self.keep)
            except Exception as error:
                log.warning("the snapshot or the last uses of keys could not be written: %s", _reason(error))

    def _pause(self) -> None:
        """Let calls have the interpreter. A worker that knows nobody yet has none, and is to know them soon."""
        if self._directory is not None:
            time.sleep(_BREATH)

    def _plight(self) -> str:
        if self._directory is None:
            return "none is known yet"
        return "the last known are too old to serve" if self._stale else "the last known stay in force"


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, StoreUnavailable) else type(error).__name__


def _minute(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d %H:%M UTC")

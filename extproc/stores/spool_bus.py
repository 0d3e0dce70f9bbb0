"""The usage bus of a gateway without Redis, and the second copy of one with it: the spools of its workers.

What a worker's store has taken is read; how far the ledger is stands beside the spool, in NAME.ledger. Without that
file, or with one that is behind, more is read again than need be. One process reads a folder at a time.
"""

import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from extproc.stores import spool
from extproc.stores.ledger import BusUnavailable, Event

_LOCK = "ledger.lock"
_TEND_S = 1.0

Place = tuple[str, int]
"""The name of a spool, and the byte of it at which an event ends."""


class SpoolBus:
    """See Bus. `root`: the folder of the spools, which must be there when the first event is."""

    name = "spool"

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock: int | None = None
        self._tended = -_TEND_S
        self._read: dict[str, int] = {}  # up to where each was taken from here
        self._finishing = False

    def take(self, most: int) -> Sequence[Event]:
        self.tend()
        try:
            if not self._is_ours():
                return ()
            for name, taken in self._ends().items():
                begin = self._read.get(name, self._noted(name))
                found, place = self._found(name, begin, taken, most)
                self._read[name] = place
                if found:
                    return [*found[:-1], found[-1]._replace(place=(name, place))]
                if place > begin:
                    self.note({name: place})
        except OSError as error:
            raise BusUnavailable(f"the spool cannot be read: {error.strerror}") from None
        return ()

    def done(self, events: Sequence[Event]) -> None:
        places: dict[str, int] = dict(event.place for event in events)
        self.note(places)

    def taken(self) -> dict[str, int]:
        """Up to where each spool was taken by the store of the counters, the oldest first."""
        return {path.stem: spool.state_in(path)[0] for path in sorted(self._root.glob("*.spool"))}

    def note(self, places: dict[str, int]) -> None:
        """The ledger has these spools up to there. Not where it has them further already."""
        try:
            for name, place in places.items():
                if place > self._noted(name) or not spool.ledger_file(self._root, name).exists():
                    self._write(name, place)
        except OSError as error:
            raise BusUnavailable(f"the spool cannot be written: {error.strerror}") from None

    def again(self) -> None:
        """Take once more what was taken and is not done."""
        self._read.clear()

    def tend(self) -> None:
        """Have the spools kept for as long as somebody reads them, and remove what is left of those that are gone."""
        if time.monotonic() < self._tended + _TEND_S:
            return
        self._tended = time.monotonic()
        try:
            if not self._is_ours():
                return
            for path in self._root.glob("*.ledger"):
                if path.with_suffix(".spool").exists():
                    path.touch()
                else:
                    path.unlink(missing_ok=True)
            self.note(dict.fromkeys(self.taken(), 0))
        except OSError as error:
            raise BusUnavailable(f"the spool cannot be written: {error.strerror}") from None

    def lag(self) -> float:
        try:
            waiting = [event.at for name, taken in self.taken().items() for event in self._next(name, taken)]
        except OSError as error:
            raise BusUnavailable(f"the spool cannot be read: {error.strerror}") from None
        return max(0.0, time.time() - min(waiting) / 1000) if waiting else 0.0

    def finish(self) -> None:
        """The store of the counters may never have the rest, nor anybody else, if the folder goes with its pod."""
        self._finishing = True
        self._read.clear()

    @property
    def is_alone(self) -> bool:
        return True

    def left(self) -> tuple[int, str]:
        try:
            found = [len(self._found(name, self._noted(name), end, -1)[0]) for name, end in self._ends().items()]
        except OSError as error:
            raise BusUnavailable(f"the spool cannot be read: {error.strerror}") from None
        return sum(found), str(self._root)

    def close(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _ends(self) -> dict[str, int]:
        """Up to where each spool is to be read."""
        if not self._finishing:
            return self.taken()
        return {path.stem: spool.end_of(self._root, path.stem) for path in sorted(self._root.glob("*.spool"))}

    def _next(self, name: str, taken: int) -> Sequence[Event]:
        """The first event that is not done, if there is one."""
        return self._found(name, self._noted(name), taken, 1)[0]

    def _found(self, name: str, place: int, taken: int, most: int) -> tuple[list[Event], int]:
        """The next events of a spool, and up to where it was read: behind them may stand what is none."""
        found: list[Event] = []
        for end, event in self._lines(name, place, taken):
            place = end
            if event is not None:
                found.append(event)
            if len(found) == most:
                break
        return found, place

    def _lines(self, name: str, begin: int, taken: int) -> Iterator[tuple[int, Event | None]]:
        """What stands between two places of a spool, or in what is left of that, each with its end; None: no event."""
        segments = spool.segments_of(self._root, name)
        for first, end in itertools.zip_longest(segments, segments[1:], fillvalue=taken):
            if end <= begin:
                continue
            try:
                file = spool.segment_file(self._root, name, first).open("rb")
            except FileNotFoundError:  # its worker has just let go of it, as the ledger has it
                continue
            with file:
                place = max(begin, first)
                file.seek(place - first)
                for line in file:
                    place += len(line)
                    if place > taken or (self._finishing and not line.endswith(b"\n")):  # it is being written
                        return
                    yield place, None if line.startswith(spool.BEGUN) else _event((name, place), line)

    def _noted(self, name: str) -> int:
        try:
            return int(spool.ledger_file(self._root, name).read_bytes())
        except (OSError, ValueError):
            return 0

    def _write(self, name: str, place: int) -> None:
        file = os.open(spool.ledger_file(self._root, name), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, b"%020d\n" % place, 0)
        finally:
            os.close(file)

    def _is_ours(self) -> bool:
        if self._lock is None and self._root.is_dir():
            lock = os.open(self._root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:
                self._lock = lock
        return self._lock is not None


def _event(place: Place, line: bytes) -> Event:
    """A damaged line goes on as it is: the ledger keeps what it cannot read."""
    settlement = spool.settlement_in(line)
    if settlement is None or not isinstance(settlement.at, int):
        return Event(place, time.time_ns() // 1_000_000, line)
    return Event(place, settlement.at, settlement.event)

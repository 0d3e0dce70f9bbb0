"""Settlements in local files: what the store of the counters has not taken yet, and what it took within the last hour.
Among them stands which calls have begun, so that those can be told of whose worker dies.

A spool belongs to one process, which keeps it locked; the next one that starts takes over the spools of those that
died. It is a log: it is written at its end only, and places in it are bytes since its beginning. Nothing is synced:
what is written outlives the process, not a power cut. There is no text of calls in it, but names of users.

NAME.spool        locked by its owner; up to where the store has taken it, and since when that store remembers
NAME.FIRST.jsonl  a segment, whose first byte is number FIRST of the log; one settlement, or call begun, a line
NAME.ledger       up to where the ledger has it, as its consumer notes for as long as it runs (see spool_bus.py)
"""

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from extproc.stores.counters import Counter, Draw, Window, call_of

FOLDER = "spool"
"""Where the spools of a gateway stand, in its `state_dir`."""

KEPT_MS = 3_600_000
"""For how long what the store has taken is kept: a store that lost its memory gets so much of it back."""

LEDGER_MS = 86_400_000
"""For how long what the ledger lacks is kept after its consumer was heard of last."""

_CAP = 64 << 20  # bytes of one spool
_FOR_LEDGER = 16  # times that, where the store has taken what the ledger lacks
_SEGMENT = 1 << 20
_SEGMENT_MS = 600_000  # after which a segment is ended, so that it can be let go of as a whole
_STATE = b"%020d %020d\n"  # up to where it was taken, and since when the store remembers
_numbers = itertools.count()


@dataclass(slots=True)
class Settlement:
    """What a call used. `at`: when it ended, in milliseconds of Unix time; `at_byte`: where it stands in the spool."""

    hold: str
    draws: tuple[Draw, ...]
    event: bytes
    at: int
    at_byte: int | None = None


@dataclass(slots=True)
class Begun:
    """A call that is about to be sent. `note`: a JSON object that says what is known of it. `at`: as above."""

    name: str
    note: bytes
    at: int
    at_byte: int | None = None


class Spool:
    """One log. Its methods block, and are called by one thread at a time.

    `end`: where the log ends. `since`: since when the store that has taken it remembers, 0 where that is not known. A
    new one begins with what the others in its folder know.
    """

    def __init__(self, root: Path, name: str, lock: int, cap: int = _CAP) -> None:
        self._root = root
        self._name = name
        self._lock = lock
        self._cap = cap
        self._segments = segments_of(root, name)
        self._file: int | None = None  # of the last segment, once we write
        self._opened = 0  # when that was, in milliseconds
        self.taken, self.since = _state(lock)
        last = self._segments[-1] if self._segments else None
        self.end = self.taken if last is None else last + self._path(last).stat().st_size

    @property
    def first(self) -> int:
        """Where the log begins: what was before has been let go of."""
        return self._segments[0] if self._segments else self.end

    @property
    def path(self) -> Path:
        """Its file in the folder, for whoever is told of it."""
        return self._path_of_lock()

    @property
    def is_empty(self) -> bool:
        return not self._segments

    # ---- settlements ----

    def write(self, settlements: Sequence[Settlement | Begun]) -> None:
        """Append them, and note in each where it stands. Raises OSError where the disk or the cap does not allow it.

        Before that what the store has taken makes room, the oldest first.
        """
        lines = [_line(settlement) for settlement in settlements]
        self._append(b"".join(lines), settlements[-1].at)
        for settlement, line in zip(settlements, lines, strict=True):
            settlement.at_byte = self.end if line else None
            self.end += len(line)

    def read(self, begin: int, end: int, most: int) -> tuple[list[Settlement], int]:
        """Settlements between two places of the log, at most so many, and the place to go on from.

        It is the end where there are no more; what is damaged is left out. Raises OSError.
        """
        begin = max(begin, self.first)
        held = [first for first in self._segments if first <= begin]
        if not held or begin >= end:
            return [], end
        with self._path(held[-1]).open("rb") as file:
            file.seek(begin - held[-1])
            lines = list(itertools.islice(file, most))
        read_to = begin + sum(map(len, lines))
        settlements = [settlement for line in lines if (settlement := settlement_in(line)) is not None]
        return settlements, read_to if lines else end

    def unended(self) -> tuple[list[Begun], int]:
        """The calls that have begun and not ended, and when something was written last. Raises OSError."""
        begun: dict[str, bytes] = {}
        for first in self._segments:
            with self._path(first).open("rb") as file:
                for line in file:
                    if line.startswith(BEGUN):
                        begun[_call_in(line)] = line
                    else:
                        begun.pop(_call_in(line), None)
        last = self._written(self._segments[-1]) if begun else 0
        return [one for line in begun.values() if (one := _begun_in(line)) is not None], last

    def position_of(self, when: int) -> int:
        """A place before all that was written since then, Unix time in milliseconds."""
        return next((first for first in self._segments if self._written(first) >= when), self.end)

    # ---- what is kept ----

    def keep(self, taken: int, now: int) -> None:
        """Note up to where the store has taken it, and let go of what that was long ago. `now`: Unix milliseconds."""
        self.taken = taken
        with contextlib.suppress(OSError):  # what was noted before does as well
            os.pwrite(self._lock, _STATE % (taken, self.since), 0)
        while self._segments and self._written(self._segments[0]) < now - KEPT_MS and self._let_go():
            pass

    def close(self) -> None:
        """Leave it to whoever starts next."""
        self._end_segment()
        os.close(self._lock)

    def discard(self) -> None:
        """Remove it for good; it is empty."""
        self._path_of_lock().unlink()
        ledger_file(self._root, self._name).unlink(missing_ok=True)
        self.close()

    def _append(self, data: bytes, now: int) -> None:
        while (size := self.end + len(data) - self.first) > self._cap:
            if self._let_go():
                continue
            if not self._is_oldest_taken() or size > self._cap * _FOR_LEDGER:
                raise OSError(errno.ENOSPC, "the spool has reached its cap")
            break
        while True:
            file = self._segment(now)
            try:
                _write(file, data)
                return
            except OSError as error:
                os.ftruncate(file, self.end - self._segments[-1])
                if error.errno != errno.ENOSPC or not self._let_go():
                    raise

    def _segment(self, now: int) -> int:
        """The file to write to, a new one where the last is large or old."""
        size = self.end - self._segments[-1] if self._segments else 0
        if self._file is not None and (size >= _SEGMENT or (size and now - self._opened > _SEGMENT_MS)):
            self._end_segment()
        if self._file is None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._file = os.open(self._path(self.end), flags, 0o600)
            self._segments.append(self.end)
            self._opened = now
        return self._file

    def _let_go(self) -> bool:
        """Remove the oldest segment; False where the store has not taken all of it, or the ledger waits for some."""
        if not self._is_oldest_taken() or self._end_of_oldest() > noted_of(self._root, self._name, self.end):
            return False
        oldest, *others = self._segments
        if not others:
            self._end_segment()
        self._path(oldest).unlink(missing_ok=True)
        self._segments = others
        return True

    def _is_oldest_taken(self) -> bool:
        """Whether the store has all of the oldest segment; False where there is none."""
        return bool(self._segments) and self._end_of_oldest() <= self.taken

    def _end_of_oldest(self) -> int:
        return self._segments[1] if len(self._segments) > 1 else self.end

    def _end_segment(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _written(self, first: int) -> int:
        """When a segment was written last, in milliseconds of Unix time."""
        try:
            return self._path(first).stat().st_mtime_ns // 1_000_000
        except FileNotFoundError:  # somebody has removed it
            return 0

    def _path(self, first: int) -> Path:
        return segment_file(self._root, self._name, first)

    def _path_of_lock(self) -> Path:
        return self._root / f"{self._name}.spool"


def begin(root: Path, cap: int = _CAP) -> Spool:
    """A new spool in this folder, which is made where it is not there yet. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        name = f"{time.time_ns()}-{os.getpid()}-{next(_numbers)}"
        lock = _locked(root / f"{name}.spool", os.O_CREAT)
        if lock is not None:
            os.write(lock, _STATE % (0, _known_since(root)))
            return Spool(root, name, lock, cap)


def inherit(root: Path) -> list[Spool]:
    """The spools in this folder whose owners are gone, the oldest first; from now on they are ours. Raises OSError."""
    found = [(path.stem, _locked(path)) for path in sorted(root.glob("*.spool"))]
    return [Spool(root, name, lock) for name, lock in found if lock is not None]


def segments_of(root: Path, name: str) -> list[int]:
    """The first bytes of what is there of a spool, in order."""
    return sorted(int(path.suffixes[-2][1:]) for path in root.glob(f"{name}.*.jsonl"))


def end_of(root: Path, name: str) -> int:
    """Where what is there of a spool ends; 0 where nothing is. Raises OSError."""
    segments = segments_of(root, name)
    return segments[-1] + segment_file(root, name, segments[-1]).stat().st_size if segments else 0


def segment_file(root: Path, name: str, first: int) -> Path:
    return root / f"{name}.{first:020}.jsonl"


def ledger_file(root: Path, name: str) -> Path:
    return root / f"{name}.ledger"


def noted_of(root: Path, name: str, usual: int) -> int:
    """Up to where the ledger has a spool; `usual` where there is no ledger, or nobody has heard of it for long."""
    path = ledger_file(root, name)
    try:
        if path.stat().st_mtime_ns // 1_000_000 < time.time_ns() // 1_000_000 - LEDGER_MS:
            return usual
        return int(path.read_bytes())
    except (OSError, ValueError):
        return usual


def _known_since(root: Path) -> int:
    """Since when the store remembers, as whoever noted it last knows: 0 where nobody has."""
    return max((state_in(path)[1] for path in root.glob("*.spool")), default=0)


def state_in(path: Path) -> tuple[int, int]:
    """What NAME.spool says: up to where it was taken, and since when the store remembers. Raises OSError."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # its owner has just removed it
        return 0, 0
    try:
        return _state(file)
    finally:
        os.close(file)


def _locked(path: Path, flags: int = 0) -> int | None:
    """A descriptor of the file that nobody else has locked, or None."""
    try:
        lock = os.open(path, flags | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:  # else its last owner has just removed it
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None


def _state(lock: int) -> tuple[int, int]:
    """Up to where it was taken, and since when the store remembers; zeros where nobody noted it."""
    try:
        taken, since = os.pread(lock, 100, 0).split()
        return int(taken), int(since)
    except ValueError:
        return 0, 0


def _write(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


# ---- lines ----


BEGUN = b'{"begun":'
"""How the line of a call begins that has begun. Then comes its name, as in a settlement's."""


def _line(settlement: Settlement | Begun) -> bytes:
    """One settlement as JSON, of each draw what a settle needs; nothing where it is not text at all."""
    if isinstance(settlement, Begun):
        return b'%b"%b","at":%d,"note":%b}\n' % (BEGUN, settlement.name.encode(), settlement.at, settlement.note)
    draws = [
        [
            draw.counter.key,
            draw.units,
            draw.counter.sliding,
            [[window.start, window.end] for window in draw.counter.windows],
        ]
        for draw in settlement.draws
    ]
    record = {"hold": settlement.hold, "at": settlement.at, "draws": draws, "event": settlement.event.decode("latin-1")}
    try:
        return orjson.dumps(record) + b"\n"
    except TypeError:
        return b""


def settlement_in(line: bytes) -> Settlement | None:
    """None where the line is damaged, as the last one of a machine that lost power may be."""
    try:
        record = orjson.loads(line)
        draws = tuple([_draw(*words) for words in record["draws"]])
        return Settlement(record["hold"], draws, record["event"].encode("latin-1"), record["at"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _call_in(line: bytes) -> str:
    """The id of the call that a line is about, without reading the whole line; empty where it is damaged."""
    parts = line[:200].split(b'"', 4)
    return call_of(parts[3].decode("latin-1")) if len(parts) > 4 else ""


def _begun_in(line: bytes) -> Begun | None:
    try:
        record = orjson.loads(line)
        return Begun(record["begun"], orjson.dumps(record["note"]), record["at"])
    except (ValueError, KeyError, TypeError):
        return None


def _draw(key: str, units: int, sliding: int, windows: list[list[int]]) -> Draw:
    return Draw(Counter(key, 0, tuple([Window(*window) for window in windows]), sliding), units)

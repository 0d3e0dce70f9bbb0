"""A directory that can fail, and a clock that stands, for what follows the directory."""

from collections.abc import Callable, Generator, Mapping
from datetime import datetime

import pytest

from extproc.identity import keys
from extproc.roster import Roster
from extproc.stores.memory import MemoryDirectory
from extproc.stores.ports import DirectoryChange, StoreUnavailable

KEY = keys.mint(b"k" * 32)
OTHER = keys.mint(b"o" * 32)
START = 1_800_000_000.0  # Unix time
DOWN = StoreUnavailable("the database is down")


class Clock:
    """Unix time that stands until it is moved, and the seconds that really went by."""

    def __init__(self) -> None:
        self.time = START
        self.seconds = 5000.0

    def __call__(self) -> float:
        return self.time

    def elapsed(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.seconds += seconds


class FlakyDirectory(MemoryDirectory):
    """A directory in memory that raises `trouble` while it is set, and notes what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.breaks_in_the_middle = False
        self.after_revision: Callable[[], object] | None = None  # done once, when the revision has been read
        self.in_changes: Callable[[], object] | None = None  # done once, when the first change has been read
        self.deaf = False  # answers, but takes no writes
        self.asked: list[int] = []  # since which revision
        self.told: list[dict[str, datetime]] = []

    def _fail(self) -> None:
        if self.trouble is not None:
            raise type(self.trouble)(*self.trouble.args)

    def revision(self) -> int:
        self._fail()
        answer = super().revision()
        todo, self.after_revision = self.after_revision, None
        if todo is not None:
            todo()
        return answer

    def changes(self, since: int) -> Generator[DirectoryChange]:
        self.asked.append(since)
        for number, change in enumerate(super().changes(since)):
            if self.breaks_in_the_middle and number == 1:
                raise StoreUnavailable("gone in the middle")
            yield change
            todo, self.in_changes = self.in_changes, None
            if todo is not None:
                todo()

    def used(self, last: Mapping[str, datetime]) -> None:
        self._fail()
        if self.deaf:
            raise StoreUnavailable("read only")
        self.told.append(dict(last))
        super().used(last)


def fresh(roster: Roster) -> Roster:
    roster.refresh()
    roster.keep()
    return roster


def knows(roster: Roster, key: str) -> bool:
    return keys.fingerprint(key) in roster.current().keys


def fails(roster: Roster, words: str = "down") -> None:
    with pytest.raises(StoreUnavailable, match=words):
        roster.refresh()

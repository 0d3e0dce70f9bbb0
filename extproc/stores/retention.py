"""The port of what the ledger lets go of: rows past their time, and who they were of. Sums of money never change."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

ERASED = "erased"
"""What stands in place of a user who has been erased."""


class Kept(StrEnum):
    """What is kept for a time of its own."""

    CALLS = "calls"  # rows of calls, and their tags
    ATTEMPTS = "attempts"  # rows of attempts, and of calls that broke off
    PEOPLE = "people"  # who made a call, in which session, with which tags
    ODD = "odd"  # events that nobody could read
    SUMS = "sums"  # by day


class Erased(NamedTuple):
    """How many rows named a user. `odd`: events that nobody could read, which are gone; the others stay."""

    calls: int = 0
    sums: int = 0
    odd: int = 0


class RetentionStore(Protocol):
    """Every method blocks, and raises StoreUnavailable."""

    def alone(self) -> AbstractContextManager[bool]:
        """Whether nobody else lets go of anything just now, as long as this lasts."""

    def let_go(self, what: Kept, before: datetime) -> Iterator[int]:
        """Let go of what is older (UTC), in transactions that are short for those who write: how much was in each."""

    def named(self, user: str) -> Erased:
        """How many rows name a user."""

    def erase(self, user: str, now: datetime) -> Erased:
        """Name a user nowhere any more, in what is told later of calls from before `now` (UTC) neither."""

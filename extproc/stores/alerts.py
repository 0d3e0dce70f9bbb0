"""The port of alerts: messages that wait for a webhook, and what became of those that were sent. No text of calls.

A message is known by its id, which says what it is about and when: whoever finds the same again adds nothing. Times are
UTC without a zone.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """Something that people are to be told of, whoever they are."""

    id: str
    kind: str
    subject: str
    ends_at: datetime | None = None
    facts: str  # JSON


@dataclass(slots=True, kw_only=True)
class AlertRow:
    """One message for one webhook. `due_at` None: no more is tried."""

    id: str
    webhook: str
    kind: str
    subject: str  # what it is about: a limit's title, a backend
    created_at: datetime
    ends_at: datetime | None = None  # when it is of no interest any more
    facts: str = "{}"  # JSON
    tries: int = 0
    due_at: datetime | None
    sent_at: datetime | None = None
    outcome: str | None = None  # of the last try


class Count(NamedTuple):
    """How many there were of something, and how many of them went wrong."""

    all: int
    bad: int


class AlertStore(Protocol):
    """Every method blocks, and raises StoreUnavailable."""

    def alone(self) -> AbstractContextManager[bool]:
        """Whether nobody else sends anything just now, as long as this lasts."""

    def add(self, rows: Sequence[AlertRow]) -> None:
        """Those that are not there yet."""

    def was_told(self, kind: str, subject: str, since: datetime) -> bool:
        """Whether such an alert was made since then."""

    def waiting(self, now: datetime) -> Sequence[tuple[str, str]]:
        """Webhooks, each with a kind, for which there are some to be sent; who waits for longest first."""

    def due(self, now: datetime, webhook: str, kind: str, most: int) -> Sequence[AlertRow]:
        """Those to be sent, the oldest first."""

    def note(self, rows: Sequence[AlertRow]) -> None:
        """What became of a try: `tries`, `due_at`, `sent_at` and `outcome` of the rows, all or none of them."""

    def recent(self, most: int) -> Sequence[AlertRow]:
        """The newest first."""

    def let_go(self, before: datetime) -> None:
        """Forget those that were made earlier."""

    def attempts(self, since: datetime) -> Mapping[str, Count]:
        """Those at backends that began since then, by backend; bad ones got no answer, or one of 429 or 5xx."""

    def calls(self, since: datetime) -> Count:
        """Those that ended since then; bad ones with a 5xx."""

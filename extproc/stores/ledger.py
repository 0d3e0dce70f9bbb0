"""The port of the ledger: what every call used and cost, one row each, and sums of them by day. Never text of calls.

Times are UTC without a zone. Money is in billionths (nano-units) of `currency`. What is not known is None.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from extproc.stores.alerts import AlertRow, Sign


class Told(IntEnum):
    """Who told of a call: a higher one replaces a lower one, and of two alike the first stays."""

    SPOOL = 0  # who inherited its worker's spool: nothing but what was known before it was sent
    EXPIRY = 1  # its hold ended unsettled: the row has what stays booked, too
    ENVOY = 2  # Envoy, whose stream to its worker had broken: how it ended, too
    WORKER = 3  # its own worker, at its end


@dataclass(slots=True, kw_only=True)
class CallRow:
    """One call. `id` is the call's own; `request_id` is what its client got, and may come twice."""

    id: str
    told: int  # see Told
    request_id: str = ""
    ended_at: datetime
    started_at: datetime | None = None
    # who
    area: str = ""
    team: str = ""
    tier: str | None = None
    user_name: str = ""
    service_account: str | None = None
    key_id: str = ""
    key_name: str = ""
    issuer: str | None = None
    environment: str | None = None
    # what
    surface: str | None = None
    asked: str | None = None  # the model that was asked for
    model: str = ""  # that served, by its public name
    deployed: str | None = None  # its name at the backend
    fallback: str | None = None
    backend: str = ""
    chain: str | None = None  # JSON: backends in order of preference
    stream: bool = False
    priority: str | None = None
    client_retry: int | None = None
    config: str | None = None  # revision
    session_id: str | None = None
    turn: int | None = None
    tags: str | None = None  # JSON: the caller's
    team_tags: str | None = None  # JSON
    # how it ended
    status: int | None = None
    ending: str | None = None
    refusal: str | None = None
    blame: str | None = None
    stop_reason: str | None = None
    limit_name: str | None = None  # that refused
    # what it used: tokens, but where it says otherwise
    source: str = "none"  # reported, estimated or none
    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_input: int = 0
    image_output: int = 0
    reasoning: int = 0
    other_input: int = 0
    other_output: int = 0
    audio_ms: int = 0  # milliseconds
    images: int = 0  # made
    hosted_calls: int = 0
    tool_calls: int | None = None
    # money
    cost: int | None = None
    currency: str = ""
    price_version: str | None = None
    aside: int | None = None
    cache: str | None = None  # outcome
    saved: int | None = None
    held_input: int | None = None
    held_output: int | None = None
    held_money: int | None = None
    overspent: str | None = None  # JSON: tokens by cause
    overspent_money: int | None = None
    output_cap: int | None = None
    budgets: str | None = None  # JSON: how its limits stood before and after
    # policies
    redacted: int = 0  # values found in the request
    policies: str | None = None  # JSON: what they said
    # time, in milliseconds
    duration_ms: int | None = None
    first_byte_ms: int | None = None
    first_token_ms: int | None = None
    answer_bytes: int | None = None
    # later columns
    cache_write_1h: int = 0  # of `cache_write`
    service_tier: str | None = None  # in which the provider says that it served
    stream_ms: int | None = None
    booked: str | None = None  # JSON: what it used of which counters, as `limits.booking` writes it


@dataclass(slots=True, kw_only=True)
class AttemptRow:
    """One try at a backend, as Envoy told it. `event` and `place`: the event that told it, and where in it."""

    event: str
    place: int
    request_id: str
    started_at: datetime
    backend: str = ""
    deployed: str | None = None
    status: int = 0  # 0: no answer
    flag: str | None = None
    retry_after: str | None = None
    host: str | None = None
    duration_ms: int | None = None


@dataclass(slots=True, kw_only=True)
class BreakRow:
    """A call that broke off, and by whom, as Envoy told it. `event` and `place`: as of an attempt."""

    event: str
    place: int
    request_id: str
    started_at: datetime
    blame: str


@dataclass(slots=True, kw_only=True)
class OddRow:
    """An event, or a part of one, that could not be read: kept for a person to look at."""

    digest: str
    came_at: datetime
    reason: str
    event: str


@dataclass(slots=True)
class Batch:
    """What is written in one transaction. Of each call there is one row."""

    calls: dict[str, CallRow] = field(default_factory=dict)
    attempts: list[AttemptRow] = field(default_factory=list)
    breaks: list[BreakRow] = field(default_factory=list)
    odd: list[OddRow] = field(default_factory=list)
    signs: list[Sign] = field(default_factory=list)  # of which nothing is written: that does `alerts`
    alerts: list[AlertRow] = field(default_factory=list)

    def add(self, row: CallRow) -> None:
        known = self.calls.get(row.id)
        if known is None or known.told < row.told:
            self.calls[row.id] = row

    def __len__(self) -> int:
        return len(self.calls) + len(self.attempts) + len(self.breaks) + len(self.odd)


class Written(NamedTuple):
    """What a batch added; the rest was there before."""

    calls: int = 0
    replaced: int = 0
    attempts: int = 0
    breaks: int = 0
    odd: int = 0


BY = ("day", "area", "team", "user", "key", "model", "backend", "session")
"""What usage can be asked for by, beside tags."""

TAG = "tag:"
"""Before the name of a tag: by its value, empty of calls without it."""


@dataclass(frozen=True, slots=True)
class Question:
    """Usage on the days of `zone` from `first` to `last`, both included, by some of BY and some tags.

    `only`: what each of some of them, but not the day, must be.
    """

    first: date
    last: date
    zone: str
    by: tuple[str, ...] = ("team",)
    only: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Sum:
    """Usage of many calls. `values`: those of the question's `by`, in its order; days as YYYY-MM-DD.

    `currency`: of `cost` and `saved`; empty: nobody knows the price of what they used.
    """

    values: tuple[str, ...]
    currency: str
    calls: int = 0
    failed: int = 0  # refused, or ended with a status of 400 or more
    estimated: int = 0  # whose usage nobody reported
    input: int = 0
    output: int = 0
    cached_input: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost: int = 0
    saved: int = 0
    duration_ms: int = 0


class RowRefused(Exception):
    """The database works, and does not take some row of a batch: nothing was written."""


class LedgerStore(Protocol):
    """Every method blocks, and raises StoreUnavailable."""

    def write(self, batch: Batch) -> Written:
        """Add what is not there yet, and replace what is told better: all of it, or nothing. Repeats do no harm.

        Raises RowRefused.
        """

    def usage(self, question: Question) -> Sequence[Sum]:
        """By their values, then by currency."""

    def call(self, request_id: str) -> Sequence[tuple[CallRow, Sequence[AttemptRow]]]:
        """The calls that go by this request id, or whose own id it is, each with its attempts, the newest first."""

    def zone(self) -> str:
        """That of the days by which sums are kept."""

    def remake(self, zone: str) -> None:
        """Have the sums by day made again, in this zone: `mend` does it, and until then `usage` adds up the rows."""

    def mend(self) -> bool:
        """Make the sums of some days that lack them, a day at least; whether others lack them yet."""

    def rebuild(self, zone: str) -> int:
        """Make all sums by day again, a day at a time; how many calls they are of."""


class Bus(Protocol):
    """Where events wait for the ledger. Every method blocks, and raises BusUnavailable."""

    name: str  # for metrics

    def take(self, most: int) -> Sequence["Event"]:
        """The next events that are there, at most so many.

        What was taken and never `done` comes again: to this consumer when it starts again, or to another one.
        """

    def done(self, events: Sequence["Event"]) -> None:
        """The ledger has them."""

    def again(self) -> None:
        """Whatever was taken and is not done shall come again."""

    def lag(self) -> float:
        """For how many seconds the oldest event has been waiting."""

    def finish(self) -> None:
        """From now on give what is on this machine alone first, also what has not come so far as to be on the bus."""

    @property
    def is_alone(self) -> bool:
        """Whether what comes next may be on this machine alone: who else would write it?"""

    def left(self) -> tuple[int, str]:
        """How many events wait here that may be on this machine alone, and in which folder."""

    def close(self) -> None:
        """Does not raise."""


class BusUnavailable(Exception):
    """The bus does not answer. What was taken from it comes again."""


class Event(NamedTuple):
    """`place`: where it stands on its bus. `at`: when it came there, in milliseconds of Unix time."""

    place: Any
    at: int
    data: bytes

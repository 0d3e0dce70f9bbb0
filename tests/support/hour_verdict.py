"""What the ledger says of an hour, beside what its clients and its providers know of the same calls.

Each call goes to one line of a table, by why the ledger can know what it used: told by the provider it is exact, by
class; where nobody can know, the line says why, and how far off it may be.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from sqlalchemy import create_engine, text

from tests.support.hour import PRICE, TAG
from tests.support.hour_callers import Told

Json = dict[str, Any]
CLASSES = ("input", "output", "cached_input", "cache_write", "audio_input", "audio_output", "reasoning")
_SIDES = ("input", "output")
_LONGEST = 400  # tokens of one answer: 200 words, three tenths more for some, and its reasoning
_FASTEST = 5  # tokens in a millisecond, that no answer is taken to be written faster than
_WIDTHS = (8, 8, 15, 11, 16, 11)
_SUMMED = ("input", "output", "cached_input", "cache_write", "reasoning", "cost", "saved", "duration_ms")


_NO_WORKER = b"could not decide on the call"
"""What Envoy says where no worker decided."""


class Why(Enum):
    """Why a line differs from the provider's count, by which share of the sum it may, and by how many tokens for each
    call the ledger may have too few, in the mean. What it may have too many says `_most`, call by call.
    """

    TOLD = ("told by the provider", 0.0, 0)
    NOTHING = ("refused, failed, or answered from the cache: nothing was used", 0.0, 0)
    MUTE = ("told by nobody: the text is weighed", 0.02, 0)
    LEFT = ("its client left: what it had not got may have been made", 0.0, 90)
    BROKEN = ("its provider broke it off: what came of it is weighed", 0.0, 40)
    ERROR = ("an error event before any text: nothing is charged", 0.0, 70)
    KILLED = ("its worker was killed or stopped: what it knew is gone", 0.0, 250)

    def __init__(self, text: str, share: float, too_few: int) -> None:
        self.text = text
        self.share = share
        self.too_few = too_few


@dataclass(slots=True)
class Evidence:
    """Everything that is known of one call. `endangered`: a worker died while it ran; `after`: or soon after it."""

    told: Told
    endangered: bool = False
    after: bool = False
    bills: list[Json] = field(default_factory=list)
    rows: list[Json] = field(default_factory=list)
    attempts: list[Json] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.told.asked.kind

    @property
    def row(self) -> Json | None:
        return self.rows[0] if self.rows else None

    @property
    def is_unheard(self) -> bool:
        """Nobody is known to have heard of it: its client left at once, or Envoy had no worker to ask."""
        return not self.bills and (not self.told.status or _NO_WORKER in self.told.error)

    def billed(self, name: str) -> int:
        """Tokens of a class, as providers count them."""
        return sum(bill[name] if name in bill else bill["classes"].get(name, 0) for bill in self.bills)

    def booked(self, name: str) -> int:
        return sum(row[name] for row in self.rows)


@dataclass(slots=True)
class Line:
    """Calls of which the ledger knows alike. Tokens of `CLASSES`."""

    calls: int = 0
    rows: int = 0
    ledger: Counter[str] = field(default_factory=Counter)
    provider: Counter[str] = field(default_factory=Counter)

    def add(self, evidence: Evidence) -> None:
        self.calls += 1
        self.rows += len(evidence.rows)
        self.ledger.update({name: evidence.booked(name) for name in CLASSES})
        self.provider.update({name: evidence.billed(name) for name in CLASSES})

    def is_within(self, why: Why) -> bool:
        if why.too_few:
            # Of some calls nothing is missing, of others a whole answer: the mean of a few calls is not that of many.
            chance = 3 * math.sqrt(why.too_few * _LONGEST * self.calls)
            most = why.too_few * self.calls + chance
            return all(self.provider[name] - self.ledger[name] <= most for name in _SIDES)
        names = _SIDES if why.share else CLASSES
        return all(abs(self.ledger[name] - self.provider[name]) <= why.share * self.provider[name] for name in names)


class Books:
    """The tables of a ledger, read as a person of the finances does."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    def size(self) -> int:
        """How many rows there are of calls and attempts."""
        count = text("SELECT (SELECT count(*) FROM calls) + (SELECT count(*) FROM attempts)")
        with self._engine.connect() as connection:
            return int(connection.execute(count).scalar_one())

    def rows(self, table: str) -> list[Json]:
        with self._engine.connect() as connection:
            return [dict(row) for row in connection.execute(text(f"SELECT * FROM {table}")).mappings()]


@dataclass(slots=True)
class Verdict:
    """An hour, judged. `strays` are rows that tell no call's name; whatever is in `wrong` should not be."""

    calls: Mapping[str, Evidence]
    strays: Sequence[Json]
    deaths: int
    lines: dict[Why, Line] = field(default_factory=lambda: {why: Line() for why in Why})
    models: dict[str, Line] = field(default_factory=lambda: defaultdict(Line))
    missing: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def judge(self) -> None:
        for name, evidence in self.calls.items():
            self._judge(name, evidence)
        for why, line in self.lines.items():
            if not line.is_within(why):
                self.wrong.append(f"{why.name}: the ledger and the provider differ by more than may be")
        if self.missing["a moment before a death"] > self.deaths:
            self.wrong.append("more calls without a row than one for each death of a worker")
        if self.strays:
            self.wrong.append(f"{len(self.strays)} rows of no call: {self.strays[:3]}")

    def _judge(self, name: str, evidence: Evidence) -> None:
        if len(evidence.rows) > 1:
            self.wrong.append(f"{name}: {len(evidence.rows)} rows")
        if evidence.row is None:
            self._judge_missing(name, evidence)
        else:
            self._judge_row(name, evidence, evidence.row)
        self._judge_attempts(name, evidence)

    def _judge_attempts(self, name: str, evidence: Evidence) -> None:
        """Envoy tells them to some worker soon after they end, and nobody else knows of them. Some reach nobody."""
        billed, there = len(evidence.bills), len(evidence.attempts)
        in_vain = sum(not attempt["status"] or bool(attempt["flag"]) for attempt in evidence.attempts)
        if there < billed and evidence.after:
            self.missing["attempts"] += billed - there
        elif not there - in_vain <= billed <= there and not evidence.told.left:
            self.wrong.append(f"{name}: {there} attempts, {billed} at providers: {_of(evidence)}")

    def _judge_missing(self, name: str, evidence: Evidence) -> None:
        if evidence.kind == "nobody":
            why = "nobody"
        elif evidence.is_unheard:
            why = "unheard"
        elif evidence.endangered and not evidence.bills:
            why = "a moment before a death"  # answered without a backend, and not yet in the spool
        else:
            why = "lost"
            self.wrong.append(f"{name}: {'endangered, ' * evidence.endangered}a call without a row: {_of(evidence)}")
        self.missing[why] += 1

    def _judge_row(self, name: str, evidence: Evidence, row: Json) -> None:
        why = _why(evidence, row)
        self.lines[why].add(evidence)
        if evidence.kind == "nobody":
            self.wrong.append(f"{name}: a row of nobody")
        if why in (Why.TOLD, Why.NOTHING):
            self.models[row["model"]].add(evidence)
            if any(evidence.booked(one) != evidence.billed(one) for one in CLASSES):
                self.wrong.append(f"{name}: not what the provider counted: {_of(evidence)}")
        if row["source"] == "estimated" and any(row[side] > most for side, most in _most(evidence, row).items()):
            self.wrong.append(f"{name}: more than can have been used: {_of(evidence)}")
        if (row["cost"] or 0) != _cost(row):
            self.wrong.append(f"{name}: {row['cost']} is not what that costs: {_of(evidence)}")

    def table(self) -> str:
        """For people: the lines, then what is missing."""
        titles = ("calls", "rows", "input: ledger", "provider", "output: ledger", "provider")
        head = " " * 60 + "".join(f"{title:>{width}}" for title, width in zip(titles, _WIDTHS, strict=True))
        told = [head, *(_shown(why.text, line) for why, line in self.lines.items() if line.calls)]
        told += ["", "of these, told by the provider or nothing, by model"]
        told += [_shown(name or "(none)", line) for name, line in sorted(self.models.items())]
        told += ["", f"without a row, and attempts: {dict(self.missing)}; rows without a name: {len(self.strays)}"]
        return "\n".join(told)


def verdict(
    told: Iterable[Told], bills: Iterable[Json], books: Books, deaths: Sequence[tuple[float, float]]
) -> Verdict:
    """`deaths`: from when to when workers were dead or stopped, by the clients' clock."""
    calls = {
        one.asked.name: Evidence(one, _was_during(one, deaths), _was_during(one, deaths, _ATTEMPTS_S)) for one in told
    }
    names = {evidence.told.request_id: name for name, evidence in calls.items()}
    for bill in bills:
        calls[bill["client_request_id"]].bills.append(bill)
        names[bill["request_id"]] = bill["client_request_id"]
    strays: list[Json] = []
    for row in books.rows("calls"):
        name = json.loads(row["tags"] or "{}").get(TAG) or names.get(row["request_id"] or "-")
        (calls[name].rows if name in calls else strays).append(row)
    for attempt in books.rows("attempts"):
        name = names.get(attempt["request_id"])
        if name is not None:
            calls[name].attempts.append(attempt)
    made = Verdict(calls, strays, len(deaths))
    made.judge()
    made.wrong += [f"an odd event: {odd['reason']}" for odd in books.rows("odd_events")]
    made.wrong += [f"{table} is not the sum of the rows" for table in _TOTALS if not _adds_up(books, table)]
    return made


def _was_during(told: Told, deaths: Sequence[tuple[float, float]], before: float = 0.0) -> bool:
    return any(first <= told.ended + before and told.began <= last for first, last in deaths)


_ATTEMPTS_S = 0.5  # until Envoy has told a worker of an attempt, and that has written it down
_TOTALS = ("usage_models", "usage_callers")


def _adds_up(books: Books, table: str) -> bool:
    """Whether the sums by day are those of the rows."""
    rows, sums = books.rows("calls"), books.rows(table)
    alike = (sum(row[name] or 0 for row in rows) == sum(one[name] for one in sums) for name in _SUMMED)
    return len(rows) == sum(one["calls"] for one in sums) and all(alike)


def _why(evidence: Evidence, row: Json) -> Why:
    if row["source"] == "reported":
        return Why.TOLD
    if evidence.endangered and row["ending"] not in ("complete", "refused", "answered", "cached"):
        return Why.KILLED
    if row["source"] == "none":
        return (
            Why.ERROR if "error_event_after" in evidence.told.asked.fake and row["ending"] == "failed" else Why.NOTHING
        )
    if evidence.told.left:
        return Why.LEFT
    if evidence.kind == "mute":
        return Why.MUTE
    return Why.BROKEN


def _most(evidence: Evidence, row: Json) -> Mapping[str, float]:
    """What an estimate may say: of its input by the length of the request, of its output by the time that it took."""
    time = (row["duration_ms"] or 0) + 1
    return {
        "input": len(evidence.told.asked.body) / 4 + 10,
        "output": max(1.4 * evidence.billed("output") + 10, _FASTEST * time),
    }


def _cost(row: Json) -> int:
    """In billionths, by the price of all models."""
    if row["source"] == "none":
        return 0
    price = {name: round(1_000 * amount) for name, amount in PRICE.items()}
    parts = ("cached_input", "cache_write", "reasoning")
    whole = row["input"] - row["cached_input"] - row["cache_write"], row["output"] - row["reasoning"]
    return int(whole[0] * price["input"] + whole[1] * price["output"] + sum(row[name] * price[name] for name in parts))


def _of(evidence: Evidence) -> str:
    told = evidence.told
    facts = ("told", "source", "ending", "status", "stream", "model", *CLASSES)
    rows = [{name: row[name] for name in facts if row[name]} for row in evidence.rows]
    answer = f"{told.status}{' whole' * told.whole}{' left' * told.left} after {told.ended - told.began:.2f} s"
    tried = [{name: one[name] for name in ("backend", "status", "flag", "duration_ms")} for one in evidence.attempts]
    return f"{evidence.kind} {told.asked.fake}, {answer}; rows {rows}; bills {evidence.bills}; attempts {tried}"


def _shown(name: str, line: Line) -> str:
    sides = [counted[side] for side in ("input", "output") for counted in (line.ledger, line.provider)]
    figures = zip((line.calls, line.rows, *sides), _WIDTHS, strict=True)
    return f"{name:60}" + "".join(f"{figure:>{width},}" for figure, width in figures)

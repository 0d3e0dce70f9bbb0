"""Sums of calls by day: what changes in them when rows come and go. Whole numbers, so that nothing drifts."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from extproc.limits import booking
from extproc.stores.ledger import CallRow

AMOUNTS = (
    *("calls", "failed", "estimated", "input", "output", "cached_input", "cache_write", "reasoning"),
    *("cost", "saved", "duration_ms"),
)
"""What is summed up, in the order of a delta's numbers."""

MODELS = ("day", "area", "team", "model", "backend", "currency")
CALLERS = ("day", "area", "team", "user_name", "key_id", "currency")
"""What the sums are by. Two tables: all of it in one would have nearly a row for each call."""

BUDGETS = ("counter", "first", "last", "sliding", "limit_name")
"""What the sums of limits' counters are by."""

Key = tuple[object, ...]
Deltas = dict[Key, list[int]]

Lacking = tuple[date, date]
"""The first of some days, and the day after the last."""

_zone = lru_cache(maxsize=None)(ZoneInfo)


class Days:
    """The days of a zone. Asked for moments that lie close together, as those of a batch do."""

    def __init__(self, zone: str) -> None:
        self._zone = zone
        self._day = date(1970, 1, 1)
        self._first, self._end = bounds(self._day, zone)

    def of(self, moment: datetime) -> date:
        """The day that a moment (UTC) lies in."""
        if not self._first <= moment < self._end:
            self._day = moment.replace(tzinfo=UTC).astimezone(_zone(self._zone)).date()
            self._first, self._end = bounds(self._day, self._zone)
        return self._day


def bounds(day: date, zone: str) -> tuple[datetime, datetime]:
    """When a day begins, and the next one, in UTC."""
    return _begin(day, zone), _begin(day + timedelta(days=1), zone)


def _begin(day: date, zone: str) -> datetime:
    """The first moment of a day. Where clocks leap over midnight it is the leap; where that comes twice, the first."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=_zone(zone))
    return datetime.fromtimestamp(midnight.timestamp(), UTC).replace(tzinfo=None)


class Changes:
    """What a batch changes in the sums by day, and in those of limits. `lacking`: days that have no sums to change."""

    def __init__(self, zone: str, lacking: Lacking | None = None) -> None:
        self._lacking = lacking or (date.min, date.min)
        self._days = Days(zone)
        self.models: Deltas = {}
        self.callers: Deltas = {}
        self.budgets: Deltas = {}

    def add(self, rows: Iterable[CallRow], sign: int = 1) -> None:
        """Count rows that come (1), or that go (-1)."""
        for row in rows:
            day = self._days.of(row.ended_at)
            if not self._lacking[0] <= day < self._lacking[1]:
                amounts = _amounts(row)
                _add(self.models, (day, row.area, row.team, row.model, row.backend, row.currency), amounts, sign)
                _add(self.callers, (day, row.area, row.team, row.user_name, row.key_id, row.currency), amounts, sign)
            for one in booking.read(row.booked) if row.booked else ():
                _add(self.budgets, (one.counter, one.first, one.last, one.sliding, one.limit), (one.units,), sign)


def _amounts(row: CallRow) -> tuple[int, ...]:
    return (
        1,
        1 if row.refusal is not None or (row.status or 0) >= 400 else 0,
        1 if row.source == "estimated" else 0,
        row.input,
        row.output,
        row.cached_input,
        row.cache_write,
        row.reasoning,
        row.cost or 0,
        row.saved or 0,
        row.duration_ms or 0,
    )


def _add(deltas: Deltas, key: Key, amounts: tuple[int, ...], sign: int) -> None:
    known = deltas.get(key)
    if known is None:
        deltas[key] = [sign * amount for amount in amounts]
        return
    for place, amount in enumerate(amounts):
        if amount:
            known[place] += sign * amount

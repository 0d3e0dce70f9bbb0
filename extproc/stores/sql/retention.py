"""What the database lets go of, in transactions of some thousand rows: an hour of calls, or less."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Table, and_, delete, func, insert, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from extproc.stores.ledger import CallRow
from extproc.stores.retention import ERASED, Erased, Kept
from extproc.stores.rollups import AMOUNTS, CALLERS, Days, Deltas, bounds
from extproc.stores.sql import erasures
from extproc.stores.sql.engine import alone, transaction, wait_briefly
from extproc.stores.sql.ledger import add_up, changes_in_line, in_line, lacking, zone_of
from extproc.stores.sql.tables import attempts, breaks, calls, odd_events, retention, usage_callers, usage_models

_HOUR = timedelta(hours=1)
_EVER = datetime.fromtimestamp(0, UTC).replace(tzinfo=None)
_MANY = 2_000  # rows that change in one transaction
_TABLES: dict[Kept, tuple[tuple[Table, ColumnElement[datetime]], ...]] = {
    Kept.CALLS: ((calls, calls.c.ended_at),),
    Kept.ATTEMPTS: ((attempts, attempts.c.started_at), (breaks, breaks.c.started_at)),
    Kept.ODD: ((odd_events, odd_events.c.came_at),),
    Kept.PEOPLE: ((calls, calls.c.ended_at),),
}
_HAS_PERSON = or_(calls.c.user_name != "", calls.c.session_id.is_not(None), calls.c.tags.is_not(None))


class SqlRetention:
    """See RetentionStore."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def alone(self) -> AbstractContextManager[bool]:
        return alone(self._engine, "retention")

    def let_go(self, what: Kept, before: datetime) -> Iterator[int]:
        if what is Kept.SUMS:
            yield self._drop_sums(before)
            return
        if what is Kept.CALLS and self._lacks_sums():
            return  # they are being made of the rows
        take = self._forget if what is Kept.PEOPLE else partial(self._drop, what)
        at = self._done(what)
        if at is not None:
            yield from take(_EVER, min(at, before))  # what came late
        else:
            at = self._oldest(what, _EVER)
        while at is not None and at < before:
            end, gone = min(at + _HOUR, before), 0
            for rows in take(at, end):
                gone += rows
                yield rows
            self._note(what, end)
            at = end if gone else self._oldest(what, end)
        if what is Kept.PEOPLE:
            yield from self._merge(usage_callers.c.user_name != "", before, "")

    def named(self, user: str) -> Erased:
        with transaction(self._engine) as connection:
            found = [
                connection.execute(select(func.count()).select_from(table).where(of_it)).scalar_one()
                for table, of_it in ((calls, calls.c.user_name == user), *_others(user))
            ]
        return Erased(*found)

    def erase(self, user: str, now: datetime) -> Erased:
        if user in ("", ERASED):
            return Erased()
        with transaction(self._engine) as connection:  # first: what is told from here on is erased as it comes
            in_line(connection)
            erasures.note(connection, user, now)
            odd = connection.execute(delete(odd_events).where(_tells_of(user))).rowcount
        rows = sum(self._blank_all(and_(calls.c.user_name == user, part)) for part in self._parts(user, now))
        sums = sum(self._merge(usage_callers.c.user_name == user, now, ERASED))
        return Erased(rows, sums, odd)

    def _parts(self, user: str, now: datetime) -> Iterator[ColumnElement[bool]]:
        """Times that hold all of a user's calls: days, so that not every transaction reads all calls, then all."""
        with transaction(self._engine) as connection:
            zone = zone_of(connection)
            days = connection.execute(select(usage_callers.c.day).where(usage_callers.c.user_name == user).distinct())
            known = [bounds(day, zone) for (day,) in days]
        for first, end in known:
            yield and_(calls.c.ended_at >= first, calls.c.ended_at < min(end, now))
        yield calls.c.ended_at < now

    def _blank_all(self, which: ColumnElement[bool]) -> int:
        rows = 0
        while changed := self._blank(which, ERASED):
            rows += changed
        return rows

    # ---- what is past its time --------------------------------------------------------------------

    def _lacks_sums(self) -> bool:
        with transaction(self._engine) as connection:
            return lacking(connection) is not None

    def _done(self, what: Kept) -> datetime | None:
        """Up to when nothing was left, the last time."""
        with transaction(self._engine) as connection:
            return connection.execute(select(retention.c.until).where(retention.c.what == what)).scalar()

    def _oldest(self, what: Kept, since: datetime) -> datetime | None:
        with transaction(self._engine) as connection:
            found = [
                connection.execute(select(func.min(moment)).where(moment >= since)).scalar()
                for _, moment in _TABLES[what]
            ]
        return min((moment for moment in found if moment is not None), default=None)

    def _note(self, what: Kept, until: datetime) -> None:
        with transaction(self._engine) as connection:
            known = update(retention).where(retention.c.what == what).values(until=until)
            if not connection.execute(known).rowcount:
                connection.execute(insert(retention).values(what=what, until=until))

    def _drop(self, what: Kept, first: datetime, end: datetime) -> Iterator[int]:
        for table, moment in _TABLES[what]:
            with transaction(self._engine) as connection:
                wait_briefly(connection)
                gone = connection.execute(delete(table).where(moment >= first, moment < end)).rowcount
            yield gone

    def _drop_sums(self, before: datetime) -> int:
        with transaction(self._engine) as connection:
            in_line(connection)
            return sum(
                connection.execute(delete(table).where(table.c.day < before.date())).rowcount
                for table in (usage_models, usage_callers)
            )

    # ---- who it was -------------------------------------------------------------------------------

    def _forget(self, first: datetime, end: datetime) -> Iterator[int]:
        within = and_(calls.c.ended_at >= first, calls.c.ended_at < end, _HAS_PERSON)
        while changed := self._blank(within, ""):
            yield changed

    def _blank(self, which: ColumnElement[bool], user: str) -> int:
        """Take the person out of some of these calls, and out of their sums; how many there were."""
        with transaction(self._engine) as connection:
            wait_briefly(connection)
            changes = changes_in_line(connection)
            rows = [CallRow(**row._mapping) for row in connection.execute(select(calls).where(which).limit(_MANY))]
            changes.add(rows, sign=-1)
            for row in rows:
                erasures.forget(row, user)
            changes.add(rows)
            add_up(connection, usage_callers, CALLERS, changes.callers)
            these = calls.c.id.in_([row.id for row in rows])
            connection.execute(update(calls).where(these, calls.c.user_name != "").values(key_id="", key_name=""))
            # A counter's key may be a digest of the name; the sums of counters keep it until their window is over.
            blank = {"user_name": user, "session_id": None, "tags": None, "booked": None}
            connection.execute(update(calls).where(these).values(blank))
        return len(rows)

    def _merge(self, which: ColumnElement[bool], before: datetime, user: str) -> Iterator[int]:
        """Sums by day of which no row names the person any more: those of a day become one."""
        while True:
            with transaction(self._engine) as connection:
                wait_briefly(connection)
                day = Days(in_line(connection)).of(before)
                is_past = or_(usage_callers.c.day < day, usage_callers.c.calls == 0)
                some = select(usage_callers).where(which, is_past).limit(_MANY)
                rows = connection.execute(some).all()
                _move(connection, rows, user)
            if not rows:
                return
            yield len(rows)


def _move(connection: Connection, rows: Sequence[Any], user: str) -> None:
    deltas: Deltas = {}
    for row in rows:
        known = row._mapping
        key = tuple({"user_name": user, "key_id": ""}.get(name, known[name]) for name in CALLERS)
        amounts = [known[name] for name in AMOUNTS]
        if key in deltas:
            amounts = [a + b for a, b in zip(deltas[key], amounts, strict=True)]
        deltas[key] = amounts
        own = and_(*(usage_callers.c[name] == known[name] for name in CALLERS))
        connection.execute(delete(usage_callers).where(own))
    add_up(connection, usage_callers, CALLERS, deltas)


def _others(user: str) -> tuple[tuple[Table, ColumnElement[bool]], ...]:
    return (usage_callers, usage_callers.c.user_name == user), (odd_events, _tells_of(user))


def _tells_of(user: str) -> ColumnElement[bool]:
    """Where the name is a value of JSON, or of JSON inside of it."""
    plain = {orjson.dumps(user).decode(), json.dumps(user)}
    plain |= {text.encode().decode("latin-1") for text in plain}  # a damaged line of a spool
    nested = {json.dumps(text, ensure_ascii=False)[1:-1] for text in plain}
    return or_(*(odd_events.c.event.contains(text, autoescape=True) for text in sorted(plain | nested)))

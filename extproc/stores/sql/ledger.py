"""The ledger in the database."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Connection,
    Engine,
    Numeric,
    Select,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.elements import ColumnElement

from extproc.stores.ledger import (
    TAG,
    AttemptRow,
    Batch,
    BreakRow,
    CallRow,
    OddRow,
    Question,
    RowRefused,
    Sum,
    Written,
)
from extproc.stores.retention import Kept
from extproc.stores.rollups import AMOUNTS, BUDGETS, CALLERS, MODELS, Changes, Days, Deltas, Lacking, bounds
from extproc.stores.sql import alerts, erasures
from extproc.stores.sql.engine import transaction, wait_briefly
from extproc.stores.sql.tables import (
    attempts,
    breaks,
    budget_sums,
    calls,
    ledger,
    odd_events,
    retention,
    usage_callers,
    usage_models,
)

_MANY = 1_000  # values in one statement
_PIECE_S = 0.2  # for which days are made again in one transaction, at least one of them
_BREATH_S = 0.1  # at most, between two such transactions: others write, too
_MOST_SUM = 2**62  # where a sum stays: SQLite would go on in floating point, and PostgreSQL not at all
_SHOWN = 50  # calls of one request id
_SKEW = timedelta(seconds=2)  # between what Envoy and the worker take for a call's beginning
_COLUMNS = {"user": "user_name", "key": "key_id"}  # of what usage is asked for by, where it is called otherwise
_TAG_NAME = re.compile("[a-z][a-z0-9_]*")
_SUMMED = {table: frozenset(names) for table, names in ((usage_models, MODELS), (usage_callers, CALLERS))}
_ROWS = {
    table: tuple(one.name for one in fields(row))
    for table, row in ((calls, CallRow), (attempts, AttemptRow), (breaks, BreakRow), (odd_events, OddRow))
}
R = TypeVar("R", CallRow, AttemptRow, BreakRow, OddRow)


class SqlLedger:
    """See LedgerStore."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, batch: Batch) -> Written:
        with transaction(self._engine) as connection, _refusals(connection):
            wait_briefly(connection)
            return _write(connection, batch, changes_in_line(connection))

    def usage(self, question: Question) -> Sequence[Sum]:
        with transaction(self._engine, snapshot=True) as connection:
            names = {_COLUMNS.get(name, name) for name in (*question.by, *question.only)}
            table = next((table for table, known in _SUMMED.items() if names <= known), None)
            if table is None or question.zone != zone_of(connection):
                found = _usage_of_rows(connection, question)
            else:
                found = _usage_of_both(connection, question, table, lacking(connection))
        return sorted(found, key=lambda one: (one.values, one.currency))

    def call(self, request_id: str) -> Sequence[tuple[CallRow, Sequence[AttemptRow]]]:
        named = or_(calls.c.request_id == request_id, calls.c.id == request_id)
        newest = select(calls).where(named).order_by(calls.c.ended_at.desc(), calls.c.id).limit(_SHOWN)
        with transaction(self._engine, snapshot=True) as connection:
            rows = [CallRow(**row._mapping) for row in connection.execute(newest)]
            return [(row, _attempts_of(connection, row)) for row in rows]

    def zone(self) -> str:
        with transaction(self._engine) as connection:
            return zone_of(connection)

    def remake(self, zone: str) -> None:
        with transaction(self._engine) as connection:
            in_line(connection)
            since, days = _whole_since(connection, zone), _days(connection)
            first, end = (max(since, days[0]), max(since, days[1])) if days else (since, since)
            for table in _SUMMED:
                stray = or_(table.c.day < first, table.c.day >= end)
                connection.execute(delete(table).where(table.c.day >= since, stray))
            _note_lacking(connection, first, end)
            connection.execute(update(ledger).values(zone=zone))

    def mend(self) -> bool:
        with transaction(self._engine) as connection:
            zone, days = in_line(connection), lacking(connection)
            if days is None:
                return False
            first, end = days
            until = time.monotonic() + _PIECE_S
            while end > first and (end == days[1] or time.monotonic() < until):
                end = _mend_last(connection, first, end, zone)
            _note_lacking(connection, first, end)
            return end > first

    def rebuild(self, zone: str) -> int:
        self.remake(zone)
        began = time.monotonic()
        while self.mend():
            time.sleep(min(_BREATH_S, time.monotonic() - began))
            began = time.monotonic()
        with transaction(self._engine) as connection:
            return int(connection.execute(select(func.coalesce(func.sum(usage_models.c.calls), 0))).scalar_one())


# ---- writing -------------------------------------------------------------------------------------


def _write(connection: Connection, batch: Batch, changes: Changes) -> Written:
    erasures.apply(connection, batch.calls.values())
    fresh, better = _sorted(connection, batch.calls)
    _take_out(connection, better, changes)
    _put(connection, calls, [*fresh, *better])
    changes.add(fresh)
    changes.add(better)
    tried = _unknown(connection, attempts, attempts.c.event, batch.attempts)
    _put(connection, attempts, tried)
    broken = _unknown(connection, breaks, breaks.c.event, batch.breaks)
    _put(connection, breaks, broken)
    suspects: list[CallRow | BreakRow] = [*broken, *fresh, *better]
    _blame(connection, [row.request_id for row in suspects if _may_be_blamed(row)])
    odd = _unknown(connection, odd_events, odd_events.c.digest, batch.odd)
    _put(connection, odd_events, odd)
    add_up(connection, usage_models, MODELS, changes.models)
    add_up(connection, usage_callers, CALLERS, changes.callers)
    add_up(connection, budget_sums, BUDGETS, changes.budgets, ("units",))
    alerts.add(connection, batch.alerts)
    return Written(len(fresh), len(better), len(tried), len(broken), len(odd))


@contextmanager
def _refusals(connection: Connection) -> Iterator[None]:
    """Tell what is wrong with a row from what is wrong with the database."""
    driver: Any = connection.dialect.dbapi
    try:
        yield
    except DBAPIError as error:
        if isinstance(error.orig, driver.DataError | driver.IntegrityError):
            raise RowRefused(type(error.orig).__name__) from None
        raise


def in_line(connection: Connection) -> str:
    """The zone of the days. The row stays locked, so writers come one after the other."""
    connection.execute(update(ledger).values(batches=ledger.c.batches + 1))
    return zone_of(connection)


def changes_in_line(connection: Connection) -> Changes:
    """As `in_line`: nothing yet, of the sums that are there."""
    return Changes(in_line(connection), lacking(connection))


def lacking(connection: Connection) -> Lacking | None:
    """The days whose sums are not there yet; None: no day."""
    first, end = connection.execute(select(ledger.c.lacks_first, ledger.c.lacks_end)).one()
    return None if first is None or end is None else (first, end)


def zone_of(connection: Connection) -> str:
    return str(connection.execute(select(ledger.c.zone)).scalar_one())


def _sorted(connection: Connection, batch: Mapping[str, CallRow]) -> tuple[list[CallRow], list[CallRow]]:
    """The calls that are not there yet, and those that are and were told worse."""
    told = {row.id: row.told for row in _among(connection, select(calls.c.id, calls.c.told), calls.c.id, batch)}
    fresh = [row for row in batch.values() if row.id not in told]
    return fresh, [row for row in batch.values() if row.told > told.get(row.id, row.told)]


def _take_out(connection: Connection, better: Sequence[CallRow], changes: Changes) -> None:
    """Remove the rows that others take the place of, from the sums, too."""
    names = [row.id for row in better]
    changes.add((CallRow(**row._mapping) for row in _among(connection, select(calls), calls.c.id, names)), sign=-1)
    for part in _parts(names):
        connection.execute(delete(calls).where(_is_one_of(connection, calls.c.id, part)))


def _may_be_blamed(row: CallRow | BreakRow) -> bool:
    """Of a call that broke off its worker knows that, and only Envoy's own record by whom. Either may come first."""
    return bool(row.request_id) and (isinstance(row, BreakRow) or (row.ending == "cut" and row.blame is None))


def _blame(connection: Connection, request_ids: Sequence[str]) -> None:
    if not request_ids:
        return
    known = list(_among(connection, select(breaks), breaks.c.request_id, set(request_ids)))
    cut = and_(calls.c.ending == "cut", calls.c.blame.is_(None), calls.c.request_id == bindparam("call"))
    then = calls.c.started_at.between(bindparam("first"), bindparam("last"))
    told = [
        {"call": one.request_id, "first": one.started_at - _SKEW, "last": one.started_at + _SKEW, "who": one.blame}
        for one in known
    ]
    if told:
        connection.execute(update(calls).where(cut, then).values(blame=bindparam("who")), told)


def _unknown(connection: Connection, table: Table, key: ColumnElement[str], rows: Sequence[R]) -> list[R]:
    """Those whose key is not there yet. What one event told was written in one transaction: all of it, or nothing."""
    name = str(key.key)
    there = {row[0] for row in _among(connection, select(key).distinct(), key, {getattr(row, name) for row in rows})}
    primary = attrgetter(*(column.name for column in table.primary_key))
    return list({primary(row): row for row in rows if getattr(row, name) not in there}.values())


def _among(
    connection: Connection, statement: Select[Any], column: ColumnElement[Any], values: Iterable[str]
) -> Iterator[Any]:
    for part in _parts(list(values)):
        yield from connection.execute(statement.where(_is_one_of(connection, column, part)))


def _is_one_of(connection: Connection, column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    """PostgreSQL gets them as one array: a list it may compare with each row of the table, one by one."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(list(values), postgresql.ARRAY(Text)))
    return column.in_(values)


def _parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), _MANY):
        yield values[at : at + _MANY]


def _put(connection: Connection, table: Table, rows: Sequence[R]) -> None:
    """Insert rows; on PostgreSQL as a stream of its COPY, which takes a tenth of the time."""
    if not rows:
        return
    names = _ROWS[table]
    if connection.dialect.driver == "psycopg":
        _copy(connection, table.name, names, rows)
    else:
        connection.execute(insert(table), [{name: getattr(row, name) for name in names} for row in rows])


def _copy(connection: Connection, table: str, names: Sequence[str], rows: Sequence[R]) -> None:
    quoted = ", ".join(f'"{name}"' for name in names)
    values = attrgetter(*names)
    raw: Any = connection.connection.driver_connection
    try:
        with raw.cursor() as cursor, cursor.copy(f"COPY {table} ({quoted}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(values(row))
    except raw.Error as error:  # the driver's own: nobody else is in between
        raise DBAPIError("COPY", None, error) from None


def add_up(
    connection: Connection, table: Table, names: Sequence[str], deltas: Deltas, summed: Sequence[str] = AMOUNTS
) -> None:
    """Add to sums, and make those that are not there yet."""
    if not deltas:
        return
    columns = [table.c[name] for name in (*names, *summed)]
    rows = [(*key, *amounts) for key, amounts in deltas.items()]
    if connection.dialect.name == "postgresql":  # one statement, each column an array: twice as fast for both sides
        arrays = [
            literal(values, postgresql.ARRAY(column.type)) for column, *values in zip(columns, *rows, strict=True)
        ]
        given = func.unnest(*arrays).table_valued(*[column.name for column in columns]).render_derived()
        statement = postgresql.insert(table).from_select(columns, select(*given.c))
        more: dict[str, ColumnElement[Any]] = {
            name: cast(func.least(cast(table.c[name], Numeric) + statement.excluded[name], _MOST_SUM), BigInteger)
            for name in summed
        }
        connection.execute(statement.on_conflict_do_update(index_elements=names, set_=more))
    else:
        plain = sqlite.insert(table)
        more = {name: func.min(table.c[name] + plain.excluded[name], _MOST_SUM) for name in summed}
        added = plain.on_conflict_do_update(index_elements=names, set_=more)
        connection.execute(added, [dict(zip((*names, *summed), row, strict=True)) for row in rows])


# ---- sums made again -----------------------------------------------------------------------------


def _whole_since(connection: Connection, zone: str) -> date:
    """The first day of which no row is past its time: the sums of those before cannot be made again."""
    gone = connection.execute(select(retention.c.until).where(retention.c.what == Kept.CALLS)).scalar()
    return date.min if gone is None else Days(zone).of(gone) + timedelta(days=1)


def _days(connection: Connection) -> Lacking | None:
    """From that of the first call to behind that of the last, in any zone; None where there are no calls."""
    first, last = connection.execute(select(func.min(calls.c.ended_at), func.max(calls.c.ended_at))).one()
    return None if first is None else (first.date() - timedelta(days=1), last.date() + timedelta(days=2))


def _last_day(connection: Connection, end: date, zone: str) -> date | None:
    """The last with a call before that day."""
    before = calls.c.ended_at < bounds(end, zone)[0]
    last = connection.execute(select(func.max(calls.c.ended_at)).where(before)).scalar()
    return None if last is None else Days(zone).of(last)


def _mend_last(connection: Connection, first: date, end: date, zone: str) -> date:
    """Make the sums of the last of some days that has calls; the day from which on there is nothing left to do."""
    day = _last_day(connection, end, zone)
    done = first if day is None else max(first, day)
    for table in _SUMMED:
        connection.execute(delete(table).where(table.c.day >= done, table.c.day < end))
    if day is not None and day >= first:
        _rebuild_day(connection, day, zone)
    return done


def _note_lacking(connection: Connection, first: date, end: date) -> None:
    days = (first, end) if first < end else (None, None)
    connection.execute(update(ledger).values(lacks_first=days[0], lacks_end=days[1]))


def _rebuild_day(connection: Connection, day: date, zone: str) -> None:
    first, end = bounds(day, zone)
    amounts = _amounts_of_rows()
    for table, names in ((usage_models, MODELS), (usage_callers, CALLERS)):
        own = [calls.c[name] for name in names if name != "day"]
        made = select(literal(day).label("day"), *own, *amounts).where(_within(first, end)).group_by(*own)
        connection.execute(insert(table).from_select([*names, *AMOUNTS], made))


def _within(first: datetime, end: datetime) -> ColumnElement[bool]:
    return and_(calls.c.ended_at >= first, calls.c.ended_at < end)


def _amounts_of_rows() -> list[ColumnElement[Any]]:
    """AMOUNTS, of rows: what `rollups` adds up of each."""
    failed = case((or_(calls.c.refusal.is_not(None), calls.c.status >= 400), 1), else_=0)
    special = {"calls": literal(1), "failed": failed, "estimated": case((calls.c.source == "estimated", 1), else_=0)}
    return [func.coalesce(func.sum(special.get(name, calls.c.get(name))), 0).label(name) for name in AMOUNTS]


# ---- questions -----------------------------------------------------------------------------------


def _usage_of_both(connection: Connection, question: Question, table: Table, days: Lacking | None) -> list[Sum]:
    """From the sums by day, and from the rows of those days that lack them."""
    if days is None:
        return _usage_of_days(connection, question, table, true())
    here = _usage_of_days(connection, question, table, or_(table.c.day < days[0], table.c.day >= days[1]))
    first, last = max(question.first, days[0]), min(question.last, days[1] - timedelta(days=1))
    if first > last:
        return here
    found = {(one.values, one.currency): one for one in here}
    for one in _usage_of_rows(connection, replace(question, first=first, last=last)):
        known = found.setdefault((one.values, one.currency), one)
        if known is not one:
            for name in AMOUNTS:
                setattr(known, name, getattr(known, name) + getattr(one, name))
    return list(found.values())


def _usage_of_days(connection: Connection, question: Question, table: Table, which: ColumnElement[bool]) -> list[Sum]:
    amounts = [func.sum(table.c[name]).label(name) for name in AMOUNTS]
    by = [table.c[_COLUMNS.get(name, name)] for name in question.by]
    only = [table.c[_COLUMNS.get(name, name)] == value for name, value in question.only.items()]
    within = table.c.day.between(question.first, question.last)
    statement = select(*by, table.c.currency, *amounts).where(within, which, *only)
    some = statement.group_by(*by, table.c.currency).having(func.sum(table.c.calls) > 0)
    return [_sum(row, len(by)) for row in connection.execute(some)]


def _usage_of_rows(connection: Connection, question: Question) -> list[Sum]:
    """Where no table has such sums: slower, and the same."""
    first, last = question.first, question.last
    if "day" not in question.by:
        return _usage_between(connection, question, bounds(first, question.zone)[0], bounds(last, question.zone)[1])
    found: list[Sum] = []
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        found += _usage_between(connection, question, *bounds(day, question.zone), day)
    return found


def _usage_between(
    connection: Connection, question: Question, first: datetime, end: datetime, day: date | None = None
) -> list[Sum]:
    told = {name: _told(connection, name) for name in (*question.by, *question.only) if name != "day"}
    by = [literal(day) if name == "day" else told[name] for name in question.by]
    grouped = [told[name] for name in question.by if name != "day"]
    only = [told[name] == value for name, value in question.only.items()]
    statement = select(*by, calls.c.currency, *_amounts_of_rows()).where(_within(first, end), *only)
    return [_sum(row, len(by)) for row in connection.execute(statement.group_by(*grouped, calls.c.currency))]


def _told(connection: Connection, name: str) -> ColumnElement[str]:
    """What a row tells of one of the names that usage is asked for by. Raises ValueError for no name of a tag."""
    if name == "session":
        return func.coalesce(calls.c.session_id, literal_column("''"))
    if not name.startswith(TAG):
        return calls.c[_COLUMNS.get(name, name)]
    tag = name.removeprefix(TAG)
    if not _TAG_NAME.fullmatch(tag):
        raise ValueError("is no name of a tag")
    # The name stands in the statement as it is: what is grouped by must be the same to the letter as what is selected.
    is_postgres = connection.dialect.name == "postgresql"
    value = f"calls.tags::json ->> '{tag}'" if is_postgres else f"json_extract(calls.tags, '$.{tag}')"
    return literal_column(f"coalesce({value}, '')", Text)


def _sum(row: Any, by: int) -> Sum:
    return Sum(tuple(map(str, row[:by])), row[by], *map(int, row[by + 1 :]))


def _attempts_of(connection: Connection, row: CallRow) -> Sequence[AttemptRow]:
    """By the request id, and, as a client may use one twice, by the time."""
    if not row.request_id:
        return ()
    of_it = [attempts.c.request_id == row.request_id]
    if row.started_at is not None:
        of_it.append(attempts.c.started_at.between(row.started_at - _SKEW, row.ended_at + _SKEW))
    in_order = select(attempts).where(*of_it).order_by(attempts.c.started_at, attempts.c.event, attempts.c.place)
    return [AttemptRow(**one._mapping) for one in connection.execute(in_order)]

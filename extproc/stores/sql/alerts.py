"""Alerts in the database."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import Connection, Engine, case, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import ColumnElement

from extproc.stores.alerts import AlertRow, Count
from extproc.stores.sql.engine import alone, transaction
from extproc.stores.sql.tables import alerts, attempts, calls


def add(connection: Connection, rows: Sequence[AlertRow]) -> None:
    """Those that are not there yet."""
    if rows:
        insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
        connection.execute(insert(alerts).on_conflict_do_nothing(), [asdict(row) for row in rows])


class SqlAlerts:
    """See AlertStore."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def alone(self) -> AbstractContextManager[bool]:
        return alone(self._engine, "alerts")

    def add(self, rows: Sequence[AlertRow]) -> None:
        with transaction(self._engine) as connection:
            add(connection, rows)

    def was_told(self, kind: str, subject: str, since: datetime) -> bool:
        newer = alerts.c.kind == kind, alerts.c.subject == subject, alerts.c.created_at > since
        with transaction(self._engine) as connection:
            return connection.execute(select(alerts.c.id).where(*newer).limit(1)).first() is not None

    def waiting(self, now: datetime) -> Sequence[tuple[str, str]]:
        names = alerts.c.webhook, alerts.c.kind
        waiting = select(*names).where(alerts.c.due_at <= now).group_by(*names).order_by(func.min(alerts.c.due_at))
        with transaction(self._engine) as connection:
            return [(webhook, kind) for webhook, kind in connection.execute(waiting)]

    def due(self, now: datetime, webhook: str, kind: str, most: int) -> Sequence[AlertRow]:
        whose = alerts.c.due_at <= now, alerts.c.webhook == webhook, alerts.c.kind == kind
        waiting = select(alerts).where(*whose).order_by(alerts.c.due_at, alerts.c.id).limit(most)
        with transaction(self._engine) as connection:
            return [AlertRow(**row._mapping) for row in connection.execute(waiting)]

    def note(self, rows: Sequence[AlertRow]) -> None:
        with transaction(self._engine) as connection:
            for row in rows:
                known = alerts.c.id == row.id, alerts.c.webhook == row.webhook
                noted = {"tries": row.tries, "due_at": row.due_at, "sent_at": row.sent_at, "outcome": row.outcome}
                connection.execute(update(alerts).where(*known).values(noted))

    def recent(self, most: int) -> Sequence[AlertRow]:
        newest = select(alerts).order_by(alerts.c.created_at.desc(), alerts.c.id, alerts.c.webhook).limit(most)
        with transaction(self._engine) as connection:
            return [AlertRow(**row._mapping) for row in connection.execute(newest)]

    def let_go(self, before: datetime) -> None:
        with transaction(self._engine) as connection:
            connection.execute(delete(alerts).where(alerts.c.created_at < before))

    def attempts(self, since: datetime) -> Mapping[str, Count]:
        status = attempts.c.status
        bad = (status == 0) | (status == 429) | (status >= 500)
        counted = select(attempts.c.backend, func.count(), _how_many(bad)).where(attempts.c.started_at >= since)
        with transaction(self._engine) as connection:
            rows = connection.execute(counted.group_by(attempts.c.backend))
            return {name: Count(every, wrong) for name, every, wrong in rows}

    def calls(self, since: datetime) -> Count:
        counted = select(func.count(), _how_many(calls.c.status >= 500)).where(calls.c.ended_at >= since)
        with transaction(self._engine) as connection:
            return Count(*connection.execute(counted).one())


def _how_many(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)

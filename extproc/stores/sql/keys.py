"""Keys in the database."""

import secrets
from datetime import UTC, datetime

from sqlalchemy import Engine, Row, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from extproc.stores.memory import Clock, utc_now
from extproc.stores.ports import KeyRecord, NameTaken, UnknownKey
from extproc.stores.sql.engine import transaction
from extproc.stores.sql.tables import keys


class SqlKeys:
    """See KeyStore."""

    def __init__(self, engine: Engine, now: Clock = utc_now) -> None:
        self._engine = engine
        self._now = now

    def create(
        self, name: str, digest: str, hint: str, expires_at: datetime | None, models: tuple[str, ...] | None
    ) -> KeyRecord:
        until = _aware(_naive(expires_at))
        record = KeyRecord(f"key_{secrets.token_hex(8)}", name, hint, self._now(), until, None, models)
        row = {
            "id": record.id,
            "digest": digest,
            "name": name,
            "hint": hint,
            "created_at": _naive(record.created_at),
            "expires_at": _naive(expires_at),
            "models": None if models is None else list(models),
        }
        with transaction(self._engine) as connection:
            try:
                connection.execute(insert(keys).values(row))
            except IntegrityError:
                raise NameTaken(name) from None
        return record

    def list(self) -> list[KeyRecord]:
        with transaction(self._engine) as connection:
            return [_record(row) for row in connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id))]

    def revoke(self, which: str) -> KeyRecord:
        live = keys.c.revoked_at.is_(None)
        named = or_(keys.c.id == which, live & or_(keys.c.name == which, keys.c.hint == which))
        with transaction(self._engine) as connection:
            found = connection.execute(select(keys).where(named)).all()
            if len(found) != 1:
                raise UnknownKey(which)
            this = keys.c.id == found[0].id
            connection.execute(update(keys).where(this, live).values(revoked_at=_naive(self._now())))
            return _record(connection.execute(select(keys).where(this)).one())

    def revision(self) -> str:
        query = select(func.count(), func.count(keys.c.revoked_at), func.max(keys.c.created_at))
        with transaction(self._engine) as connection:
            return "/".join(map(str, connection.execute(query).one()))

    def snapshot(self) -> dict[str, KeyRecord]:
        with transaction(self._engine) as connection:
            rows = connection.execute(select(keys).where(keys.c.revoked_at.is_(None)))
            return {row.digest: _record(row) for row in rows}


def _record(row: Row[tuple[object, ...]]) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        name=row.name,
        hint=row.hint,
        created_at=row.created_at.replace(tzinfo=UTC),
        expires_at=_aware(row.expires_at),
        revoked_at=_aware(row.revoked_at),
        models=None if row.models is None else tuple(row.models),
    )


def _naive(time: datetime | None) -> datetime | None:
    """UTC without a zone, which both databases store alike."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def _aware(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)

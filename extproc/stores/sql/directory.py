"""The directory in the database: areas, teams, members, keys and stops."""

import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Column, Connection, Engine, Select, Table, bindparam, delete, insert, or_, select, update

from extproc.stores.memory import (
    Clock,
    changed_end,
    earlier,
    end_of_life,
    in_force,
    in_order,
    keys_meant,
    one_key,
    utc_now,
)
from extproc.stores.ports import (
    ANOTHER_APPLY,
    AreaRemoved,
    ChangeSet,
    Conflict,
    DirectoryChange,
    DirectoryState,
    KeyChange,
    KeyRecord,
    Member,
    MintedKey,
    NameTaken,
    Stop,
    StopLifted,
    StopScope,
    StoreUnavailable,
    TeamRecord,
    TeamRemoved,
    UnknownKey,
    UnknownTeam,
)
from extproc.stores.sql.engine import alone, opened_file, transaction, wait_briefly
from extproc.stores.sql.rows import (
    area_record,
    key_record,
    member,
    member_columns,
    naive,
    spec_columns,
    stop_record,
    team_columns,
    team_record,
)
from extproc.stores.sql.tables import areas, directory, keys, members, stops, teams

_PIECE = 256  # rows fetched at once: a worker's thread gives way between pieces
_MANY = 1000  # names in one statement
T = TypeVar("T")


class SqlDirectory:
    """See DirectoryStore."""

    def __init__(self, engine: Engine, now: Clock = utc_now) -> None:
        self._engine = engine
        self._now = now
        self._file: Any = None  # the database file as it was when the revision was asked for last

    # ---- for the workers ----

    def revision(self) -> int:
        with transaction(self._engine) as connection:
            before, self._file = self._file, opened_file(connection)
            if before not in (None, self._file):  # its revisions are others, whatever their numbers
                raise StoreUnavailable("another database file has been put in its place")
            return _revision(connection)

    def changes(self, since: int) -> Generator[DirectoryChange]:
        with transaction(self._engine, snapshot=True) as connection:
            for row in connection.execute(_changed(stops, stops.c.lifted_at, since)):
                scope = StopScope(row.scope)
                yield stop_record(row) if row.lifted_at is None else StopLifted(scope, row.name)
            for row in connection.execute(_changed(areas, areas.c.removed_at, since)):
                yield area_record(row) if row.removed_at is None else AreaRemoved(row.name)
            yield from _team_changes(connection, since)
            piecemeal = connection.execution_options(yield_per=_PIECE)
            with piecemeal.execute(_changed(keys, keys.c.revoked_at, since)) as rows:
                for row in rows:
                    yield KeyChange(row.digest, key_record(row))

    def used(self, last: Mapping[str, datetime]) -> None:
        newer = or_(keys.c.last_used_at.is_(None), keys.c.last_used_at < bindparam("time"))
        statement = update(keys).where(keys.c.id == bindparam("key"), newer).values(last_used_at=bindparam("time"))
        rows = [{"key": key_id, "time": naive(time)} for key_id, time in sorted(last.items())]
        if rows:
            with transaction(self._engine) as connection:
                wait_briefly(connection)  # a worker has more to do
                _raise_revision(connection, by=0)  # in line with the writers: two who lock keys in turn may deadlock
                connection.execute(statement, rows)

    def brought(self) -> Mapping[str, str]:
        with transaction(self._engine) as connection:
            bringing = select(teams.c.name, teams.c.brought).where(teams.c.brought.is_not(None))
            return {row.name: row.brought for row in connection.execute(bringing.where(teams.c.removed_at.is_(None)))}

    # ---- for people ----

    def state(self) -> DirectoryState:
        with transaction(self._engine, snapshot=True) as connection:
            live_areas = map(area_record, connection.execute(_changed(areas, areas.c.removed_at, 0)))
            live_teams = (team for team in _team_changes(connection, 0) if isinstance(team, TeamRecord))
            live_stops = map(stop_record, connection.execute(_changed(stops, stops.c.lifted_at, 0)))
            in_order = select(keys).order_by(keys.c.created_at, keys.c.id)
            # Names are put in order here: a database does it by its own language.
            return DirectoryState(
                revision=_revision(connection),
                areas=tuple(sorted(live_areas, key=lambda area: area.name)),
                teams=tuple(sorted(live_teams, key=lambda team: team.name)),
                keys=tuple(map(key_record, connection.execute(in_order))),
                stops=tuple(sorted(live_stops, key=lambda stop: (stop.scope, stop.name))),
            )

    def apply(self, changes: ChangeSet, revision: int) -> int:
        with transaction(self._engine) as connection:
            new = _raise_revision(connection, revision)
            self._apply_teams(connection, changes, new)
            now = naive(self._now())
            for key_id in changes.keys_revoked:
                if _by_id(connection, key_id).revoked_at is None:
                    _set(connection, key_id, new, revoked_at=now)
            for key_id, spec in changes.keys_changed:
                end = changed_end(_by_id(connection, key_id), spec)
                _set(connection, key_id, new, **spec_columns(spec), expires_at=naive(end))
            _mint(connection, changes.keys_minted, self._now(), new)
            return new

    @contextmanager
    def alone(self) -> Iterator[None]:
        with alone(self._engine, "apply") as got:
            if not got:
                raise Conflict(ANOTHER_APPLY)
            yield

    def create(self, key: MintedKey) -> KeyRecord:
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            known = select(teams.c.name).where(teams.c.name == key.spec.team, teams.c.removed_at.is_(None))
            if key.spec.team and connection.execute(known).first() is None:
                raise UnknownTeam(key.spec.team)
            return _by_id(connection, _mint(connection, (key,), self._now(), revision)[0])

    def rotate(self, which: str, digest: str, hint: str, overlap: timedelta) -> tuple[KeyRecord, KeyRecord]:
        now = self._now()
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            old = one_key(which, _named(connection, which))
            if not in_force(old, now) or old.replaced_by is not None:
                raise UnknownKey(which)
            new_id = _new_id()
            ending = earlier(old.expires_at, now + overlap)
            _set(connection, old.id, revision, replaced_by=new_id, expires_at=naive(ending))
            successor = MintedKey(old.spec, digest, hint)
            connection.execute(insert(keys).values(_new_row(successor, new_id, old.lineage, now, revision)))
            return _by_id(connection, old.id), _by_id(connection, new_id)

    def suspend(self, which: str) -> tuple[KeyRecord, ...]:
        return self._change_unrevoked(which, suspended_at=naive(self._now()))

    def resume(self, which: str) -> tuple[KeyRecord, ...]:
        return self._change_unrevoked(which, suspended_at=None)

    def revoke(self, which: str) -> tuple[KeyRecord, ...]:
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            meant = keys_meant(which, _named(connection, which))
            due = [record for record in meant if record.revoked_at is None]
            for record in due:
                _set(connection, record.id, revision, revoked_at=naive(self._now()))
            return _again(connection, meant) if due else _unchanged(connection, meant)

    def stop(self, scope: StopScope, name: str, reason: str) -> Stop:
        this = (stops.c.scope == scope.value) & (stops.c.name == name)
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            known = connection.execute(select(stops).where(this)).first()
            values = {"reason": reason, "revision": revision, "lifted_at": None}
            if known is None or known.lifted_at is not None:
                values["created_at"] = naive(self._now())
            if known is None:
                connection.execute(insert(stops).values(scope=scope.value, name=name, **values))
            else:
                connection.execute(update(stops).where(this).values(values))
            return stop_record(connection.execute(select(stops).where(this)).one())

    def lift(self, scope: StopScope, name: str) -> bool:
        this = (stops.c.scope == scope.value) & (stops.c.name == name) & stops.c.lifted_at.is_(None)
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            lifted = update(stops).where(this).values(lifted_at=naive(self._now()), revision=revision)
            return connection.execute(lifted).rowcount > 0 or _unchanged(connection, False)

    # ---- inside ----

    def _apply_teams(self, connection: Connection, changes: ChangeSet, revision: int) -> None:
        now = naive(self._now())
        for table, removed in ((areas, changes.areas_removed), (teams, changes.teams_removed)):
            for part in _parts(removed):
                these = table.c.name.in_(part)
                connection.execute(update(table).where(these).values(removed_at=now, revision=revision))
        new_areas = [{"name": area.name, "owners": list(area.owners), "removed_at": None} for area in changes.areas]
        _put(connection, areas, new_areas, revision)
        _put(connection, teams, [team_columns(team) for team in changes.teams], revision)
        for part in _parts([*changes.teams_removed, *(team.name for team in changes.teams)]):
            connection.execute(delete(members).where(members.c.team.in_(part)))
        belonging = [member_columns(team.name, one) for team in changes.teams for one in team.members]
        if belonging:
            connection.execute(insert(members), belonging)

    def _change_unrevoked(self, which: str, suspended_at: datetime | None) -> tuple[KeyRecord, ...]:
        with transaction(self._engine) as connection:
            revision = _raise_revision(connection)
            meant = keys_meant(which, _named(connection, which))
            if any(record.revoked_at is not None for record in meant):
                raise UnknownKey(which)
            due = [record for record in meant if (record.suspended_at is None) != (suspended_at is None)]
            for record in due:
                _set(connection, record.id, revision, suspended_at=suspended_at)
            return _again(connection, meant) if due else _unchanged(connection, meant)


def _revision(connection: Connection) -> int:
    return int(connection.execute(select(directory.c.revision)).scalar_one())


def _raise_revision(connection: Connection, expected: int | None = None, by: int = 1) -> int:
    """The revision of this transaction; its row stays locked, so writers come one after the other."""
    change = update(directory).values(revision=directory.c.revision + by)
    if expected is not None:
        change = change.where(directory.c.revision == expected)
    if connection.execute(change).rowcount == 0:
        raise Conflict(f"the directory is not at revision {expected} any more")
    return _revision(connection)


def _unchanged(connection: Connection, answer: T) -> T:
    """The answer of a write that had nothing to write: the revision stays what it was."""
    connection.rollback()
    return answer


def _changed(table: Table, gone: Column[Any], since: int) -> Select[Any]:
    """The rows that have changed after a revision; for 0, those that are not gone."""
    return select(table).where(table.c.revision > since if since else gone.is_(None))


def _team_changes(connection: Connection, since: int) -> Iterator[TeamRecord | TeamRemoved]:
    of_changed = select(members).join(teams, teams.c.name == members.c.team).where(teams.c.revision > since)
    belonging: dict[str, list[Member]] = {}
    for row in connection.execute(of_changed):
        belonging.setdefault(row.team, []).append(member(row))
    for row in connection.execute(_changed(teams, teams.c.removed_at, since)):
        if row.removed_at is None:
            yield team_record(row, in_order(belonging.get(row.name, ())))
        else:
            yield TeamRemoved(row.name)


def _named(connection: Connection, which: str) -> list[KeyRecord]:
    """All that might be meant, oldest first."""
    named = or_(keys.c.id == which, keys.c.name.in_({which, which.partition("/")[2]}), keys.c.hint == which)
    found = connection.execute(select(keys).where(named).order_by(keys.c.created_at, keys.c.id))
    return [key_record(row) for row in found]


def _again(connection: Connection, records: Sequence[KeyRecord]) -> tuple[KeyRecord, ...]:
    """Records as they are now."""
    return tuple(_by_id(connection, record.id) for record in records)


def _by_id(connection: Connection, key_id: str) -> KeyRecord:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).first()
    if row is None:
        raise UnknownKey(key_id)
    return key_record(row)


def _set(connection: Connection, key_id: str, revision: int, **values: Any) -> None:
    connection.execute(update(keys).where(keys.c.id == key_id).values(revision=revision, **values))


def _mint(connection: Connection, minted: Sequence[MintedKey], now: datetime, revision: int) -> list[str]:
    """The ids of the new keys. Raises NameTaken; as writers come one after the other, none can come between."""
    taken = set()
    for part in _parts([key.spec.name for key in minted]):
        current = keys.c.revoked_at.is_(None) & keys.c.replaced_by.is_(None)
        found = connection.execute(select(keys.c.team, keys.c.name).where(keys.c.name.in_(part), current))
        taken |= {(row.team, row.name) for row in found}
    rows = []
    for key in minted:
        if (key.spec.team, key.spec.name) in taken:
            raise NameTaken(key.spec.name)
        taken.add((key.spec.team, key.spec.name))
        made = _new_id()
        rows.append(_new_row(key, made, made, now, revision))
    if rows:
        connection.execute(insert(keys), rows)
    return [row["id"] for row in rows]


def _new_row(key: MintedKey, key_id: str, lineage: str, now: datetime, revision: int) -> dict[str, Any]:
    return {
        **spec_columns(key.spec),
        "id": key_id,
        "digest": key.digest,
        "hint": key.hint,
        "lineage": lineage,
        "created_at": naive(now),
        "expires_at": naive(end_of_life(now, key.spec.lifetime)),
        "revision": revision,
    }


def _put(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]], revision: int) -> None:
    """Insert or replace by name."""
    known = set(connection.execute(select(table.c.name)).scalars())
    new = [{**row, "revision": revision} for row in rows if row["name"] not in known]
    if new:
        connection.execute(insert(table), new)
    for row in rows:
        if row["name"] in known:
            connection.execute(update(table).where(table.c.name == row["name"]).values({**row, "revision": revision}))


def _parts(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Databases limit the parameters of a statement."""
    for start in range(0, len(names), _MANY):
        yield names[start : start + _MANY]


def _new_id() -> str:
    return f"key_{secrets.token_hex(8)}"

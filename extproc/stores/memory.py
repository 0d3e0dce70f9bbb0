"""Stores in memory: the specification, and enough for one worker's tests."""

import hashlib
import itertools
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from extproc.stores.ports import (
    AFFINITY_LIFE,
    ANOTHER_APPLY,
    Affinity,
    AreaRecord,
    AreaRemoved,
    ChangeSet,
    Conflict,
    DirectoryChange,
    DirectoryState,
    KeyChange,
    KeyRecord,
    KeySpec,
    Member,
    MintedKey,
    NameTaken,
    Stop,
    StopLifted,
    StopScope,
    TeamRecord,
    TeamRemoved,
    UnknownKey,
    UnknownTeam,
)

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Tables:
    """What a transaction works on: replaced whole when it succeeds."""

    revision: int
    keys: dict[str, KeyRecord]  # by id, oldest first
    digests: dict[str, str]  # of keys, by id
    teams: dict[str, TeamRecord]
    areas: dict[str, AreaRecord]
    stops: dict[tuple[StopScope, str], Stop]
    changed: dict[tuple[str, str], int]  # (kind, name) to the revision of its last change

    def copy(self) -> "_Tables":
        return _Tables(
            self.revision,
            dict(self.keys),
            dict(self.digests),
            dict(self.teams),
            dict(self.areas),
            dict(self.stops),
            dict(self.changed),
        )


class MemoryDirectory:
    """See DirectoryStore."""

    def __init__(self, now: Clock = utc_now) -> None:
        self._now = now
        self._numbers = itertools.count(1)
        self._tables = _Tables(1, {}, {}, {}, {}, {}, {})
        self._applying = threading.Lock()

    # ---- for the workers ----

    def revision(self) -> int:
        return self._tables.revision

    def changes(self, since: int) -> Generator[DirectoryChange]:
        changes = _changes(self._tables, since)
        yield from (change for change in changes if since or not _is_gone(change))

    def used(self, last: Mapping[str, datetime]) -> None:
        tables = self._tables.copy()
        for key_id, time in last.items():
            record = tables.keys.get(key_id)
            if record is not None and (record.last_used_at is None or record.last_used_at < time):
                tables.keys[key_id] = replace(record, last_used_at=time)
        self._tables = tables

    def brought(self) -> Mapping[str, str]:
        return {name: team.brought for name, team in self._tables.teams.items() if team.brought}

    # ---- for people ----

    def state(self) -> DirectoryState:
        tables = self._tables
        return DirectoryState(
            tables.revision,
            tuple(sorted(tables.areas.values(), key=lambda area: area.name)),
            tuple(sorted(tables.teams.values(), key=lambda team: team.name)),
            tuple(tables.keys.values()),
            tuple(sorted(tables.stops.values(), key=lambda stop: (stop.scope, stop.name))),
        )

    def apply(self, changes: ChangeSet, revision: int) -> int:
        if revision != self._tables.revision:
            raise Conflict(f"the directory is at revision {self._tables.revision}, not {revision}")
        tables = self._begin()
        _apply_teams(tables, changes)
        for key_id in changes.keys_revoked:
            record = _by_id(tables, key_id)
            if record.revoked_at is None:
                _put(tables, replace(record, revoked_at=self._now()))
        for key_id, spec in changes.keys_changed:
            record = _by_id(tables, key_id)
            _put(tables, replace(record, spec=spec, expires_at=changed_end(record, spec)))
        for key in changes.keys_minted:
            self._mint(tables, key)
        self._tables = tables
        return tables.revision

    def create(self, key: MintedKey) -> KeyRecord:
        tables = self._begin()
        if key.spec.team and key.spec.team not in tables.teams:
            raise UnknownTeam(key.spec.team)
        record = self._mint(tables, key)
        self._tables = tables
        return record

    def rotate(self, which: str, digest: str, hint: str, overlap: timedelta) -> tuple[KeyRecord, KeyRecord]:
        tables = self._begin()
        now = self._now()
        old = one_key(which, list(self._tables.keys.values()))
        if not in_force(old, now) or old.replaced_by is not None:
            raise UnknownKey(which)
        key_id = f"key_{next(self._numbers)}"
        _put(tables, replace(old, replaced_by=key_id, expires_at=earlier(old.expires_at, now + overlap)))
        new = KeyRecord(key_id, old.spec, hint, old.lineage, now, end_of_life(now, old.spec.lifetime))
        tables.digests[key_id] = digest
        _put(tables, new)
        self._tables = tables
        return tables.keys[old.id], new

    def suspend(self, which: str) -> tuple[KeyRecord, ...]:
        return self._changed(
            record if record.suspended_at else replace(record, suspended_at=self._now())
            for record in self._unrevoked(which)
        )

    def resume(self, which: str) -> tuple[KeyRecord, ...]:
        return self._changed(replace(record, suspended_at=None) for record in self._unrevoked(which))

    def revoke(self, which: str) -> tuple[KeyRecord, ...]:
        return self._changed(
            record if record.revoked_at else replace(record, revoked_at=self._now())
            for record in keys_meant(which, list(self._tables.keys.values()))
        )

    def stop(self, scope: StopScope, name: str, reason: str) -> Stop:
        tables = self._begin()
        known = tables.stops.get((scope, name))
        stop = replace(known, reason=reason) if known else Stop(scope, name, reason, self._now())
        tables.stops[scope, name] = stop
        _touch(tables, "stop", f"{scope.value}/{name}")
        self._tables = tables
        return stop

    def lift(self, scope: StopScope, name: str) -> bool:
        tables = self._begin()
        if tables.stops.pop((scope, name), None) is None:
            return False
        _touch(tables, "stop", f"{scope.value}/{name}")
        self._tables = tables
        return True

    @contextmanager
    def alone(self) -> Iterator[None]:
        if not self._applying.acquire(blocking=False):
            raise Conflict(ANOTHER_APPLY)
        try:
            yield
        finally:
            self._applying.release()

    # ---- inside ----

    def _begin(self) -> _Tables:
        tables = self._tables.copy()
        tables.revision += 1
        return tables

    def _mint(self, tables: _Tables, key: MintedKey) -> KeyRecord:
        for known in tables.keys.values():
            same = (known.spec.team, known.spec.name) == (key.spec.team, key.spec.name)
            if same and known.revoked_at is None and known.replaced_by is None:
                raise NameTaken(key.spec.name)
        key_id = f"key_{next(self._numbers)}"
        now = self._now()
        record = KeyRecord(key_id, key.spec, key.hint, key_id, now, end_of_life(now, key.spec.lifetime))
        tables.digests[key_id] = key.digest
        _put(tables, record)
        return record

    def _unrevoked(self, which: str) -> tuple[KeyRecord, ...]:
        meant = keys_meant(which, list(self._tables.keys.values()))
        if any(record.revoked_at is not None for record in meant):
            raise UnknownKey(which)
        return meant

    def _changed(self, records: Iterable[KeyRecord]) -> tuple[KeyRecord, ...]:
        now = tuple(records)
        tables = self._begin()
        different = [record for record in now if tables.keys[record.id] != record]
        for record in different:
            _put(tables, record)
        if different:
            self._tables = tables
        return now


def one_key(which: str, keys: Sequence[KeyRecord]) -> KeyRecord:
    """The key meant: by id, or by `team/name`, name or hint of an unrevoked one, the newest of its line first.

    Raises UnknownKey where that is none or more than one.
    """
    by_id = [key for key in keys if key.id == which]
    named = [
        key
        for key in keys
        if key.revoked_at is None and which in (key.spec.name, key.hint, f"{key.spec.team}/{key.spec.name}")
    ]
    current = [key for key in named if key.replaced_by is None]
    for found in (by_id, current, named):
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise UnknownKey(which)


def keys_meant(which: str, keys: Sequence[KeyRecord]) -> tuple[KeyRecord, ...]:
    """The keys meant: by an id or a hint that one, by `team/name` or name all unrevoked ones of this name.

    So what is done to a name is done to the older keys of its line, too. Raises UnknownKey where the words
    mean none or could mean two different things.
    """
    by_id = tuple(key for key in keys if key.id == which)
    if by_id:
        return by_id
    live = [key for key in keys if key.revoked_at is None]
    hinted = tuple(key for key in live if key.hint == which)
    named = tuple(key for key in live if which in (key.spec.name, f"{key.spec.team}/{key.spec.name}"))
    names = {(key.spec.team, key.spec.name) for key in named}
    if len(hinted) + len(names) != 1:
        raise UnknownKey(which)
    return hinted or named


def in_force(key: KeyRecord, now: datetime) -> bool:
    """Whether the key works now, as far as it itself is concerned."""
    ended = key.expires_at is not None and key.expires_at <= now
    return key.revoked_at is None and key.suspended_at is None and not ended


def changed_end(key: KeyRecord, spec: KeySpec) -> datetime | None:
    """When a key ends whose spec changes; one that has a successor never later than it would have."""
    end = end_of_life(key.created_at, spec.lifetime)
    return end if key.replaced_by is None else earlier(key.expires_at, end)


def end_of_life(start: datetime, lifetime: timedelta | None) -> datetime | None:
    """When a key that is made at `start` ends; None for never."""
    return None if lifetime is None else start + lifetime


def earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """Of two ends the one that comes first; None is never."""
    if one is None or other is None:
        return one or other
    return min(one, other)


def _apply_teams(tables: _Tables, changes: ChangeSet) -> None:
    for name in changes.areas_removed:
        tables.areas.pop(name, None)
        _touch(tables, "area", name)
    for area in changes.areas:
        tables.areas[area.name] = area
        _touch(tables, "area", area.name)
    for name in changes.teams_removed:
        tables.teams.pop(name, None)
        _touch(tables, "team", name)
    for team in changes.teams:
        tables.teams[team.name] = replace(team, members=in_order(team.members))
        _touch(tables, "team", team.name)


def in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members as every store gives them."""
    return tuple(sorted(members, key=lambda member: (member.kind, member.name)))


def _by_id(tables: _Tables, key_id: str) -> KeyRecord:
    if key_id not in tables.keys:
        raise UnknownKey(key_id)
    return tables.keys[key_id]


def _put(tables: _Tables, record: KeyRecord) -> None:
    tables.keys[record.id] = record
    _touch(tables, "key", record.id)


def _touch(tables: _Tables, kind: str, name: str) -> None:
    tables.changed[kind, name] = tables.revision


def _changes(tables: _Tables, since: int) -> Iterator[DirectoryChange]:
    changed = [what for what, revision in tables.changed.items() if revision > since]
    for name in (name for kind, name in changed if kind == "stop"):
        scope, _, stopped = name.partition("/")
        key = (StopScope(scope), stopped)
        yield tables.stops.get(key) or StopLifted(*key)
    for name in (name for kind, name in changed if kind == "area"):
        yield tables.areas.get(name) or AreaRemoved(name)
    for name in (name for kind, name in changed if kind == "team"):
        yield tables.teams.get(name) or TeamRemoved(name)
    for key_id in (name for kind, name in changed if kind == "key"):
        yield KeyChange(tables.digests[key_id], tables.keys[key_id])


def _is_gone(change: DirectoryChange) -> bool:
    """Whether it says only that something is not there any more."""
    if isinstance(change, KeyChange):
        return change.record.revoked_at is not None
    return isinstance(change, AreaRemoved | TeamRemoved | StopLifted)


class MemoryAffinity:
    """See AffinityStore."""

    def __init__(self, now: Clock = utc_now) -> None:
        self._now = now
        self._known: dict[str, tuple[Affinity, datetime]] = {}

    def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        until = self._now() + AFFINITY_LIFE
        for made in ids:
            known = self._known.get(id_digest(made))
            if known is None or known[1] <= self._now():
                self._known[id_digest(made)] = (Affinity(backend, model, owner), until)

    def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        now = self._now()
        found = {made: self._known.get(id_digest(made)) for made in ids}
        return {made: known[0] for made, known in found.items() if known is not None and known[1] > now}


def id_digest(made: str) -> str:
    """An id or an encrypted item as it is stored."""
    return hashlib.sha256(made.encode()).hexdigest()

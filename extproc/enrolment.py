"""From the store's records to the directory that calls look at."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeVar

from extproc.identity import keys
from extproc.identity.directory import PARTS, Directory, Key, KeyTable, Membership
from extproc.limits.limit import Limit, Mode
from extproc.model import Network, Team
from extproc.stores.ports import (
    AreaRecord,
    AreaRemoved,
    DirectoryChange,
    KeyChange,
    KeyRecord,
    MemberKind,
    Stop,
    StopLifted,
    TeamRecord,
    TeamRemoved,
)

_MOST_SAME = 10_000  # values in the search for equal ones: keys that are gone leave theirs behind
_PIECE = 16  # changes between two pauses: less than a millisecond of work, reading included
_NOBODY: Mapping[bytes, Key] = {}
Members = Mapping[MemberKind, Mapping[str, tuple[Membership, ...]]]
T = TypeVar("T")


class Enrolment:
    """Takes changes and gives the directory that follows. What it has given is never changed again.

    `before`: keys that may come again; where they are equal the old ones are kept, so that little memory moves.
    """

    def __init__(self, quickstart: bool, before: Mapping[bytes, Key] = _NOBODY) -> None:
        self.taken = 0  # changes, the last time
        self._quickstart = quickstart
        self._before = before
        self._parts: list[dict[bytes, Key]] = [{} for _ in range(PARTS)]
        self._given: set[int] = set()  # parts that a directory has: they are replaced, not changed
        self._gaps: set[int] = set()  # parts that keys have been taken out of
        self._records: dict[str, TeamRecord] = {}
        self._teams: dict[str, Team] = {}
        self._members: Members | None = None  # until a team changes
        self._areas: dict[str, AreaRecord] = {}
        self._stops: set[tuple[str, str]] = set()
        self._same: dict[object, object] = {}  # equal values are kept once
        if quickstart:
            key = Key(id="quickstart", name="quickstart", lineage="quickstart")
            self._put(keys.fingerprint(keys.QUICKSTART_KEY), key)

    def anew(self) -> "Enrolment":
        """One that has taken nothing yet."""
        return Enrolment(self._quickstart, KeyTable(self._parts))

    def take(self, changes: Iterable[DirectoryChange], pause: Callable[[], None]) -> Directory:
        """The directory after the changes; `pause` is called every fraction of a millisecond of work."""
        self.taken = 0
        for change in changes:
            self._take(change)
            self.taken += 1
            if self.taken % _PIECE == 0:
                pause()
        self._before = _NOBODY
        self._close_gaps(pause)
        if self._members is None:
            self._members = _members([self._records[name] for name in sorted(self._records)], pause)
        self._given = set(range(PARTS))
        return Directory(
            keys=KeyTable(self._parts),
            teams=dict(self._teams),
            users=self._members[MemberKind.USER],
            clients=self._members[MemberKind.SERVICE_ACCOUNT],
            groups=self._members[MemberKind.GROUP],
            owners=_owners(self._areas.values()),
            stops=frozenset(self._stops),
        )

    def _take(self, change: DirectoryChange) -> None:
        match change:
            case KeyChange():
                self._take_key(change)
            case TeamRecord():
                self._records[change.name], self._teams[change.name] = change, _team(change)
                self._members = None
            case TeamRemoved():
                self._records.pop(change.name, None)
                self._teams.pop(change.name, None)
                self._members = None
            case AreaRecord():
                self._areas[change.name] = change
            case AreaRemoved():
                self._areas.pop(change.name, None)
            case Stop():
                self._stops.add((change.scope.value, change.name))
            case StopLifted():
                self._stops.discard((change.scope.value, change.name))

    def _take_key(self, change: KeyChange) -> None:
        fingerprint = bytes.fromhex(change.digest)
        if change.record.revoked_at is not None:
            self._drop(fingerprint)
            return
        key = self._key(change.record)
        known = self._before.get(fingerprint)
        self._put(fingerprint, known if known is not None and known == key else key)

    def _put(self, fingerprint: bytes, key: Key) -> None:
        self._own_part(fingerprint[0])[fingerprint] = key

    def _drop(self, fingerprint: bytes) -> None:
        number = fingerprint[0]
        if fingerprint in self._parts[number]:
            del self._own_part(number)[fingerprint]
            self._gaps.add(number)

    def _own_part(self, number: int) -> dict[bytes, Key]:
        """A part that may be changed, as no directory has it."""
        if number in self._given:
            self._parts[number] = dict(self._parts[number])
            self._given.discard(number)
        return self._parts[number]

    def _close_gaps(self, pause: Callable[[], None]) -> None:
        """A lookup steps over the gap that a key leaves in its dict, and its time would tell revoked from unknown."""
        for count, number in enumerate(sorted(self._gaps), 1):
            self._parts[number] = dict(self._parts[number].items())  # a plain copy may keep the gaps
            if count % _PIECE == 0:
                pause()
        self._gaps.clear()

    def _key(self, record: KeyRecord) -> Key:
        spec = record.spec
        return Key(
            id=record.id,
            name=spec.name,
            lineage=record.id if record.lineage == record.id else record.lineage,
            team=sys.intern(spec.team),
            user=None if spec.user is None else sys.intern(spec.user),
            service_account=None if spec.service_account is None else sys.intern(spec.service_account),
            environment=None if spec.environment is None else sys.intern(spec.environment),
            expires=None if record.expires_at is None else record.expires_at.timestamp(),
            models=None if spec.models is None else self._once(frozenset(spec.models)),
            surfaces=None if spec.surfaces is None else self._once(frozenset(spec.surfaces)),
            networks=self._once(_networks(spec.ip_ranges)),
            suspended=record.suspended_at is not None,
            limits=self._owned(spec.limits, record.lineage),
            priority=spec.priority,
        )

    def _owned(self, limits: tuple[Limit, ...], lineage: str) -> tuple[Limit, ...]:
        """A key's limits, which are those of its whole line: what they have in common with other keys' is kept once."""
        if not limits:
            return ()
        return tuple(replace(limit, owner=f"key/{lineage}") for limit in _kept(self._once(limits)))

    def _once(self, value: T) -> T:
        if len(self._same) >= _MOST_SAME:
            self._same.clear()  # costs a little sharing, and nothing else
        return self._same.setdefault(value, value)  # type: ignore[return-value]


def _team(record: TeamRecord) -> Team:
    of = {kind: [member for member in record.members if member.kind is kind] for kind in MemberKind}
    return Team(
        name=record.name,
        area=record.area,
        tier=record.tier,
        models=None if record.models is None else frozenset(record.models),
        networks=_networks(record.ip_ranges),
        tags=dict(record.tags),
        users={member.name: member.role for member in of[MemberKind.USER]},
        accounts=frozenset(member.name for member in of[MemberKind.SERVICE_ACCOUNT]),
        limits=_kept(record.limits),
        redaction=record.redaction,
        guardrails=record.guardrails,
        providers=None if record.providers is None else frozenset(record.providers),
        regions=None if record.regions is None else frozenset(record.regions),
    )


def _kept(limits: tuple[Limit, ...]) -> tuple[Limit, ...]:
    """Those that are not off."""
    return tuple(limit for limit in limits if limit.mode is not Mode.OFF)


def _members(teams: Iterable[TeamRecord], pause: Callable[[], None]) -> Members:
    """Who belongs where, by what a token says: a user's name, an application's id, a group's id."""
    found: dict[MemberKind, dict[str, list[Membership]]] = {kind: {} for kind in MemberKind}
    for number, team in enumerate(teams, 1):
        for member in team.members:
            is_account = member.kind is MemberKind.SERVICE_ACCOUNT
            name = member.client_id if is_account else member.name
            if name is not None:
                place = Membership(team.name, member.role, member.name if is_account else None)
                found[member.kind].setdefault(name, []).append(place)
        if number % _PIECE == 0:
            pause()
    return {kind: {name: tuple(places) for name, places in named.items()} for kind, named in found.items()}


def _owners(areas: Iterable[AreaRecord]) -> dict[str, frozenset[str]]:
    owned: dict[str, set[str]] = {}
    for area in areas:
        for user in area.owners:
            owned.setdefault(user, set()).add(area.name)
    return {user: frozenset(names) for user, names in owned.items()}


def _networks(ranges: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(ip_network, ranges))

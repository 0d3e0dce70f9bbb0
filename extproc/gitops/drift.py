"""Where the directory differs from the files by decisions that people took in the database: told, never undone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from extproc.gitops.declared import Declared
from extproc.stores.memory import in_force
from extproc.stores.ports import DirectoryState, KeyRecord, MemberKind, Stop, StopScope


class DriftKind(StrEnum):
    STOPPED = "stopped"
    REVOKED = "revoked"
    SUSPENDED = "suspended"
    NAME_TAKEN = "name_taken"
    HAND_MADE = "hand_made"
    ROTATED = "rotated"


@dataclass(frozen=True, slots=True)
class Drift:
    """One such decision. `subject` is `team/key`, or what an emergency stop takes out of service."""

    kind: DriftKind
    subject: str
    text: str


def drift(
    state: DirectoryState, declared: Declared, known: Mapping[tuple[str, str], Sequence[KeyRecord]], now: datetime
) -> tuple[Drift, ...]:
    """`known` are the keys of teams, oldest first under each name. The gravest first."""
    found = [*_stops(state)]
    for name, records in known.items():
        if name[0] in declared.teams:
            wanted = name in declared.keys
            found += _of_declared("/".join(name), records) if wanted else _hand_made(records, declared, now)
    order = list(DriftKind)
    return tuple(sorted(found, key=lambda one: (order.index(one.kind), one.subject)))


def _stops(state: DirectoryState) -> Iterator[Drift]:
    names = {key.id: f"{key.spec.team}/{key.spec.name}" for key in state.keys}
    for stop in state.stops:
        because = f": {stop.reason}" if stop.reason else ""
        text = f"emergency stop since {_minute(stop.created_at)}{because}"
        yield Drift(DriftKind.STOPPED, _stopped(stop, names), text)


def _stopped(stop: Stop, names: Mapping[str, str]) -> str:
    name = names.get(stop.name, stop.name) if stop.scope is StopScope.KEY else stop.name
    return f"{stop.scope.value} {name}".rstrip()


def _of_declared(subject: str, records: Sequence[KeyRecord]) -> Iterator[Drift]:
    """Of a key that a file asks for."""
    head = next((key for key in records if key.revoked_at is None and key.replaced_by is None), None)
    ours = [key for key in records if key.spec.declared]
    if head is None:
        if ours:
            at = _minute(max(key.revoked_at for key in ours if key.revoked_at is not None))
            text = f"revoked {at}: its name is spent; choose another name, or take it out of the file"
            yield Drift(DriftKind.REVOKED, subject, text)
    elif not head.spec.declared:
        text = "the name is taken by a key made by hand: revoke that one, or choose another name"
        yield Drift(DriftKind.NAME_TAKEN, subject, text)
    elif head.suspended_at is not None:
        yield Drift(DriftKind.SUSPENDED, subject, f"suspended {_minute(head.suspended_at)}: stays so until resumed")
    elif head.lineage != head.id:
        yield Drift(
            DriftKind.ROTATED, subject, f"rotated {_minute(head.created_at)}: what was delivered is out of date"
        )


def _hand_made(records: Sequence[KeyRecord], declared: Declared, now: datetime) -> Iterator[Drift]:
    """Keys in force of a declared team that no file asks for."""
    for key in records:
        if not key.spec.declared and key.replaced_by is None and in_force(key, now):
            subject = f"{key.spec.team}/{key.spec.name}"
            yield Drift(
                DriftKind.HAND_MADE, subject, f"made by hand {_minute(key.created_at)}{_stranger(key, declared)}"
            )


def _stranger(key: KeyRecord, declared: Declared) -> str:
    members = {member.name for member in declared.teams[key.spec.team].members if member.kind is MemberKind.USER}
    user = key.spec.user
    return f", for {user}, who is not in the team" if user is not None and user not in members else ""


def _minute(time: datetime) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC")

"""What it takes to bring the directory to what the files declare. Pure: no store, no clock, no dice.

The database wins over the files: a key that was revoked or suspended there stays so, whatever a file asks for.
A name whose last key was revoked is spent; a new key needs another name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import TypeVar

from extproc.config.team_files import Offer
from extproc.gitops.access import Access, Side, access_changes
from extproc.gitops.declared import Declared
from extproc.gitops.drift import Drift, drift
from extproc.gitops.view import FieldChange, Shown, area_fields, changed, key_fields, team_fields
from extproc.stores.memory import in_force
from extproc.stores.ports import AreaRecord, ChangeSet, DirectoryState, KeyRecord, KeySpec, MintedKey, TeamRecord

KeyName = tuple[str, str]
"""A team and the name of one of its keys."""
Record = TypeVar("Record", AreaRecord, TeamRecord)


class Action(StrEnum):
    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


class KeyAction(StrEnum):
    MINT = "mint"
    RENEW = "renew"  # revoke the one that is there, which has ended or ends first, and mint another
    CHANGE = "change"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class Step:
    """What becomes of an area or a team. `fields`: all of a new or a removed one, else those that change."""

    action: Action
    name: str
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True, slots=True)
class KeyStep:
    """What becomes of a key. `spec` is what it will be, or was; `ids` are the records to change or revoke.

    `ends` are those of them that work still and must not by the time that another is delivered in their place.
    """

    action: KeyAction
    spec: KeySpec
    reason: str = ""
    ids: tuple[str, ...] = ()
    fields: tuple[FieldChange, ...] = ()
    ends: tuple[str, ...] = ()

    @property
    def name(self) -> KeyName:
        return self.spec.team, self.spec.name


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps from the directory at `revision` to what is declared, and what they mean."""

    revision: int
    declared: Declared
    areas: tuple[Step, ...]
    teams: tuple[Step, ...]
    keys: tuple[KeyStep, ...]
    access: tuple[Access, ...]
    drift: tuple[Drift, ...]
    currency: str = ""  # of limits on money

    def is_empty(self) -> bool:
        """Whether there is nothing to do. Drift is nothing to do: it is told, and left to people."""
        return not (self.areas or self.teams or self.keys)

    def removes_everything(self) -> bool:
        """Whether there are teams, and not one file of a team: more likely a wrong folder than a wish."""
        return not self.declared.teams and bool(self.teams)

    def steps(self) -> tuple[tuple[Step, ...], tuple[Step, ...], tuple[KeyStep, ...]]:
        """What will be done, without the revision that it was planned on."""
        return self.areas, self.teams, self.keys

    def to_mint(self) -> list[KeySpec]:
        """The keys that have to be made."""
        return [step.spec for step in self.keys if step.action in (KeyAction.MINT, KeyAction.RENEW)]

    def ending(self) -> ChangeSet:
        """What has to be in force before any key is delivered: keys that are too old for their file end."""
        return ChangeSet(keys_changed=tuple((key_id, step.spec) for step in self.keys for key_id in step.ends))

    def change_set(self, minted: Sequence[MintedKey]) -> ChangeSet:
        """What a store carries out, given the keys that `to_mint` asked for."""
        gone = (KeyAction.REVOKE, KeyAction.RENEW)
        return ChangeSet(
            areas=tuple(self.declared.areas[step.name] for step in self.areas if step.action is not Action.REMOVE),
            areas_removed=tuple(step.name for step in self.areas if step.action is Action.REMOVE),
            teams=tuple(self.declared.teams[step.name] for step in self.teams if step.action is not Action.REMOVE),
            teams_removed=tuple(step.name for step in self.teams if step.action is Action.REMOVE),
            keys_minted=tuple(minted),
            keys_changed=tuple(
                (key_id, step.spec) for step in self.keys if step.action is KeyAction.CHANGE for key_id in step.ids
            ),
            keys_revoked=tuple(key_id for step in self.keys if step.action in gone for key_id in step.ids),
        )


def make_plan(state: DirectoryState, declared: Declared, offered: Offer, now: datetime) -> Plan:
    """What is to be done at a time, and what is found that people have decided."""
    known = _by_name(state.keys)
    steps = [*_departures(known, declared, state.teams)]
    for name, spec in declared.keys.items():
        steps += _due(spec, known.get(name, []), now, offered.currency)
    of_teams = partial(team_fields, currency=offered.currency)
    return Plan(
        revision=state.revision,
        declared=declared,
        areas=_steps({area.name: area for area in state.areas}, declared.areas, area_fields),
        teams=_steps({team.name: team for team in state.teams}, declared.teams, of_teams),
        keys=tuple(sorted(steps, key=lambda step: (step.spec.team, step.spec.name))),
        access=access_changes(*_sides(state, declared, steps, now), offered),
        drift=drift(state, declared, known, now),
        currency=offered.currency,
    )


def _steps(
    before: Mapping[str, Record], after: Mapping[str, Record], fields: Callable[[Record], Mapping[str, Shown]]
) -> tuple[Step, ...]:
    steps = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            shown = tuple(FieldChange(field, "", value) for field, value in fields(after[name]).items())
            steps.append(Step(Action.ADD, name, shown))
        elif name not in after:
            shown = tuple(FieldChange(field, value, "") for field, value in fields(before[name]).items())
            steps.append(Step(Action.REMOVE, name, shown))
        elif differing := changed(fields(before[name]), fields(after[name])):
            steps.append(Step(Action.CHANGE, name, differing))
    return tuple(steps)


# ---- keys ----


def _by_name(keys: Sequence[KeyRecord]) -> dict[KeyName, list[KeyRecord]]:
    """The keys of teams, oldest first under each name."""
    found: dict[KeyName, list[KeyRecord]] = {}
    for key in keys:
        if key.spec.team:
            found.setdefault((key.spec.team, key.spec.name), []).append(key)
    return found


def _departures(
    known: Mapping[KeyName, Sequence[KeyRecord]], declared: Declared, teams: Sequence[TeamRecord]
) -> list[KeyStep]:
    """Declared keys that left their file, and every key of a team whose file is gone."""
    removed = {team.name for team in teams} - declared.teams.keys()
    steps = []
    for name, records in known.items():
        if name in declared.keys:
            continue
        gone = [key for key in records if key.revoked_at is None and (key.spec.declared or name[0] in removed)]
        if gone:
            reason = "the team is removed" if name[0] in removed else "left the file"
            steps.append(KeyStep(KeyAction.REVOKE, gone[-1].spec, reason, tuple(key.id for key in gone)))
    return steps


def _due(spec: KeySpec, records: Sequence[KeyRecord], now: datetime, currency: str) -> list[KeyStep]:
    """What one declared key takes: often nothing."""
    head = next((key for key in records if key.revoked_at is None and key.replaced_by is None), None)
    ours = [key for key in records if key.spec.declared]
    if head is None and not ours:
        return [KeyStep(KeyAction.MINT, spec)]
    unrevoked = [key for key in ours if key.revoked_at is None]
    working = [key for key in unrevoked if not _ended(key.expires_at, now)]
    if reason := _renewal(head, spec, now):
        ids, ends = (tuple(key.id for key in some) for some in (unrevoked, working))
        return [KeyStep(KeyAction.RENEW, spec, reason, ids, ends=ends)]
    return _change(spec, working, currency)


def _change(spec: KeySpec, working: Sequence[KeyRecord], currency: str) -> list[KeyStep]:
    """Keys that go by a name: one, and in the overlap of a rotation the one before it."""
    wanted = key_fields(spec, currency)
    stale = [key for key in working if key_fields(key.spec, currency) != wanted]
    if not stale:
        return []
    differing = changed(key_fields(stale[-1].spec, currency), wanted)
    return [KeyStep(KeyAction.CHANGE, spec, "", tuple(key.id for key in stale), differing)]


def _renewal(head: KeyRecord | None, spec: KeySpec, now: datetime) -> str:
    """Why a key has to be replaced; empty where it has not, or where that is not for a file to say."""
    if head is None or not head.spec.declared or head.suspended_at is not None:
        return ""
    if _ended(head.expires_at, now):
        return "has expired"
    if spec.lifetime is not None and _ended(head.created_at + spec.lifetime, now):
        return "is older than its new lifetime"
    return ""


def _ended(end: datetime | None, now: datetime) -> bool:
    return end is not None and end <= now


def _sides(state: DirectoryState, declared: Declared, steps: Sequence[KeyStep], now: datetime) -> tuple[Side, Side]:
    """Teams and working keys before the steps, and after them."""
    working = [key.spec for key in state.keys if key.spec.team and key.replaced_by is None and in_force(key, now)]
    before = {(spec.team, spec.name): spec for spec in working}
    after = dict(before)
    for step in steps:
        if step.action is KeyAction.REVOKE:
            after.pop(step.name, None)
        elif step.action is not KeyAction.CHANGE or step.name in before:  # a suspended key stays out of force
            after[step.name] = step.spec
    return Side({team.name: team for team in state.teams}, before), Side(declared.teams, after)

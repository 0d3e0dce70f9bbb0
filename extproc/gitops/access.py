"""Who gains and who loses which model by a change. Pure; counted by today's models of the gateway."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from extproc.config.byob import entries
from extproc.config.team_files import Offer
from extproc.stores.ports import KeySpec, MemberKind, TeamRecord

_KINDS = {
    MemberKind.USER: "users",
    MemberKind.GROUP: "groups",
    MemberKind.SERVICE_ACCOUNT: "service accounts",
}
_KEYS = "keys"

Holder = tuple[str, str, str]
"""A team, a kind of holder and its name."""


@dataclass(frozen=True, slots=True)
class Side:
    """The teams by name, and the keys in force by team and name: before a change, or after it."""

    teams: Mapping[str, TeamRecord]
    keys: Mapping[tuple[str, str], KeySpec]


@dataclass(frozen=True, slots=True)
class Access:
    """How many of a team gain and lose a model, by kind. Viewers never call, so they are not counted."""

    team: str
    model: str
    gains: Mapping[str, int]
    loses: Mapping[str, int]


def access_changes(before: Side, after: Side, offered: Offer) -> tuple[Access, ...]:
    """By team and model, only where somebody gains or loses."""
    had, has = _holders(before, offered), _holders(after, offered)
    gains: dict[tuple[str, str], Counter[str]] = {}
    loses: dict[tuple[str, str], Counter[str]] = {}
    for holder in had.keys() | has.keys():
        old, new = had.get(holder, frozenset()), has.get(holder, frozenset())
        if old != new:
            team, kind, _ = holder
            for counted, models in ((gains, new - old), (loses, old - new)):
                for model in models:
                    counted.setdefault((team, model), Counter())[kind] += 1
    return tuple(
        Access(team, model, dict(gains.get((team, model), {})), dict(loses.get((team, model), {})))
        for team, model in sorted(gains.keys() | loses.keys())
    )


def _holders(side: Side, offered: Offer) -> dict[Holder, frozenset[str]]:
    """The models that each member and each key may use."""
    of_teams = {name: _models(team, offered) for name, team in side.teams.items()}
    found: dict[Holder, frozenset[str]] = {}
    for name, team in side.teams.items():
        for member in team.members:
            if member.role != "viewer":
                found[name, _KINDS[member.kind], member.name] = of_teams[name]
    for (name, key), spec in side.keys.items():
        models = of_teams.get(name, frozenset())
        found[name, _KEYS, key] = models if spec.models is None else models & set(spec.models)
    return found


def _models(team: TeamRecord, offered: Offer) -> frozenset[str]:
    wanted = offered.models if team.models is None else set(team.models) & offered.models.keys()
    return frozenset(model for model in wanted if offered.is_open(model, team.tier)) | _own(team)


def _own(team: TeamRecord) -> frozenset[str]:
    """Those that it brings; of what cannot be read, none."""
    try:
        return frozenset(entries(team.brought)[1])
    except ValueError:
        return frozenset()

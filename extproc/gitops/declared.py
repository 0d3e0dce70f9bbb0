"""What the gateway's configuration and the team files declare, as the records that the directory holds."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from extproc.config.byob import written
from extproc.config.identity import Area
from extproc.config.limits import KeyLimit, TeamLimit, compile_limit
from extproc.config.schema import Gateway
from extproc.config.team_files import Offer
from extproc.config.teams import EVERY_MODEL, DeclaredKey, GrantedModel, TeamFile
from extproc.identity.claims import folded
from extproc.limits.limit import Limit, Measure, Only, Priority, Scope
from extproc.stores.ports import AreaRecord, KeySpec, Member, MemberKind, TeamRecord


@dataclass(frozen=True, slots=True)
class Declared:
    """Areas, teams and keys by name. What a file lists in any order is sorted, so that order is no change."""

    areas: Mapping[str, AreaRecord]
    teams: Mapping[str, TeamRecord]
    keys: Mapping[tuple[str, str], KeySpec]  # by team and name


def declared(gateway: Gateway, offered: Offer, files: Mapping[str, TeamFile]) -> Declared:
    """The records of checked team files. Areas are those of the configuration, or else those that teams name."""
    areas = gateway.areas or {file.area: Area() for file in files.values()}
    return Declared(
        areas={name: AreaRecord(name, _sorted(map(folded, area.owners))) for name, area in areas.items()},
        teams={name: _team(name, file, offered) for name, file in files.items()},
        keys={
            (name, key.name): _key(name, key, mine)
            for name, file in files.items()
            for mine in (offered.of(name, file),)
            for key in file.keys
        },
    )


def _team(name: str, file: TeamFile, offered: Offer) -> TeamRecord:
    every = any(granted.name == EVERY_MODEL for granted in file.models)
    return TeamRecord(
        name=name,
        area=file.area,
        owner=file.owner,
        tier=file.tier,
        models=None if every else _sorted(offered.public[granted.name] for granted in file.models),
        ip_ranges=_sorted(file.ip_ranges),
        tags=tuple(sorted(file.tags.items())),
        members=_members(file),
        limits=_team_limits(name, file, offered.of(name, file)),
        redaction=file.redaction,
        guardrails=file.guardrails,
        providers=None if file.providers is None else _sorted(file.providers),
        regions=None if file.regions is None else _sorted(file.regions),
        brought=written(file.backends, file.own_models),
    )


def _team_limits(team: str, file: TeamFile, offered: Offer) -> tuple[Limit, ...]:
    owner = f"team/{team}"
    named = _limits(file.limits, owner, offered)
    return _by_name([*named, *(limit for granted in file.models for limit in _minutely(granted, owner, offered))])


def _minutely(granted: GrantedModel, owner: str, offered: Offer) -> Iterator[Limit]:
    """The limits that stand beside a model; under a name that a limit of the file cannot have."""
    model = EVERY_MODEL if granted.name == EVERY_MODEL else offered.public[granted.name]
    given = {Measure.TOKENS: granted.tokens_per_minute, Measure.REQUESTS: granted.requests_per_minute}
    for measure, amount in given.items():
        if amount is not None:
            yield Limit(
                name=f"{model}/{measure.value}-per-minute",
                measure=measure,
                amount=amount,
                owner=owner,
                scope=(Scope.TEAM, Scope.MODEL),
                sliding=60_000,
                only=Only() if model == EVERY_MODEL else Only(models=frozenset({model})),
            )


def _limits(given: Mapping[str, TeamLimit] | Mapping[str, KeyLimit], owner: str, offered: Offer) -> list[Limit]:
    return [compile_limit(name, limit, owner, offered.public) for name, limit in given.items()]


def _by_name(limits: Iterable[Limit]) -> tuple[Limit, ...]:
    return tuple(sorted(limits, key=lambda limit: limit.name))


def _members(file: TeamFile) -> tuple[Member, ...]:
    """The owner is one without being listed, so that nothing else needs to know of owners."""
    people = {file.owner: "team_admin"} | {member.user: member.role for member in file.members}
    found = [Member(MemberKind.USER, user, role) for user, role in people.items()]
    found += (Member(MemberKind.GROUP, group.id, group.role) for group in file.groups)
    found += (
        Member(MemberKind.SERVICE_ACCOUNT, account.name, "service_account", account.client_id)
        for account in file.service_accounts
    )
    return tuple(sorted(found, key=lambda member: (member.kind.value, member.name)))


def _key(team: str, key: DeclaredKey, offered: Offer) -> KeySpec:
    return KeySpec(
        name=key.name,
        team=team,
        user=key.user,
        service_account=key.service_account,
        environment=key.environment,
        lifetime=key.lifetime,
        models=None if key.models is None else _sorted(offered.public[model] for model in key.models),
        surfaces=None if key.surfaces is None else _sorted(key.surfaces),
        ip_ranges=_sorted(key.ip_ranges),
        declared=True,
        limits=_by_name(_limits(key.limits, "", offered)),
        priority=Priority(key.priority),
    )


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))

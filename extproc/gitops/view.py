"""Records as people and machines are shown them, field by field. What is equal here is no change."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from extproc.config.byob import entries
from extproc.config.teams import EVERY_MODEL
from extproc.gitops.limit_words import limit_words
from extproc.limits.limit import Limit
from extproc.stores.ports import AreaRecord, KeySpec, MemberKind, TeamRecord

Shown = str | list[str] | dict[str, str]
"""A text, a sorted list, or a mapping by name."""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One field of a record, before and after."""

    field: str
    before: Shown
    after: Shown


def area_fields(area: AreaRecord) -> dict[str, Shown]:
    return {"owners": sorted(set(area.owners))}


def team_fields(team: TeamRecord, currency: str = "") -> dict[str, Shown]:
    """Without its name. Members by name: people and groups with their role, programs with their client id.

    `currency`: what limits on money are in.
    """
    return {
        "area": team.area,
        "owner": team.owner,
        "tier": team.tier,
        "models": [EVERY_MODEL] if team.models is None else sorted(set(team.models)),
        "ip_ranges": sorted(set(team.ip_ranges)),
        "tags": dict(sorted(team.tags)),
        "members": _members(team, MemberKind.USER),
        "groups": _members(team, MemberKind.GROUP),
        "service_accounts": _members(team, MemberKind.SERVICE_ACCOUNT),
        "limits": _limits(team.limits, currency),
        "redaction": team.redaction,
        "guardrails": team.guardrails,
        "providers": _choice(team.providers),
        "regions": _choice(team.regions),
        **_brought(team.brought),
    }


def _brought(text: str) -> dict[str, Shown]:
    try:
        backends, models = entries(text)
    except ValueError:
        backends, models = {"?": "cannot be read"}, {}
    return {"backends": _as_written(backends), "own_models": _as_written(models)}


def _as_written(given: Mapping[str, object]) -> dict[str, str]:
    """Each entry on one line, much as its file has it."""
    return {
        name: json.dumps(entry, sort_keys=True, ensure_ascii=False).replace('"', "") for name, entry in given.items()
    }


def key_fields(spec: KeySpec, currency: str = "") -> dict[str, Shown]:
    """Without its name and team. `currency` as in `team_fields`."""
    return {
        "user": spec.user or "",
        "service_account": spec.service_account or "",
        "environment": spec.environment or "",
        "lifetime": lifetime(spec.lifetime),
        "models": _choice(spec.models),
        "surfaces": _choice(spec.surfaces),
        "ip_ranges": sorted(set(spec.ip_ranges)),
        "limits": _limits(spec.limits, currency),
        "priority": spec.priority.value,
    }


def changed(before: Mapping[str, Shown], after: Mapping[str, Shown]) -> tuple[FieldChange, ...]:
    """The fields that differ, of two records of one kind."""
    return tuple(FieldChange(field, value, after[field]) for field, value in before.items() if value != after[field])


def lifetime(life: timedelta | None) -> str:
    """As a team file has it, which is in whole hours."""
    if life is None:
        return "for ever"
    hours = int(life.total_seconds()) // 3600
    return f"{hours}h" if hours % 24 else f"{hours // 24}d"


def _members(team: TeamRecord, kind: MemberKind) -> dict[str, str]:
    shows_id = kind is MemberKind.SERVICE_ACCOUNT
    found = sorted((m.name, (m.client_id or "") if shows_id else m.role) for m in team.members if m.kind is kind)
    return dict(found)


def _limits(limits: Iterable[Limit], currency: str) -> dict[str, str]:
    return {limit.name: limit_words(limit, currency) for limit in sorted(limits, key=lambda limit: limit.name)}


def _choice(values: Iterable[str] | None) -> list[str]:
    return ["all"] if values is None else sorted(set(values))

"""Between the rows of the directory's tables and the records of the port."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row

from extproc.limits.limit import Priority
from extproc.stores.limits import NEWER, restored, stored
from extproc.stores.ports import (
    AreaRecord,
    KeyRecord,
    KeySpec,
    Member,
    MemberKind,
    Stop,
    StopScope,
    StoreUnavailable,
    TeamRecord,
)

AnyRow = Row[tuple[Any, ...]]


def naive(time: datetime | None) -> datetime | None:
    """UTC without a zone, which both databases store alike."""
    return None if time is None else time.astimezone(UTC).replace(tzinfo=None)


def aware(time: datetime | None) -> datetime | None:
    return None if time is None else time.replace(tzinfo=UTC)


def key_record(row: AnyRow) -> KeyRecord:
    return KeyRecord(
        id=row.id,
        spec=_key_spec(row),
        hint=row.hint,
        lineage=row.lineage,
        created_at=row.created_at.replace(tzinfo=UTC),
        expires_at=aware(row.expires_at),
        suspended_at=aware(row.suspended_at),
        revoked_at=aware(row.revoked_at),
        replaced_by=row.replaced_by,
        last_used_at=aware(row.last_used_at),
    )


def _key_spec(row: AnyRow) -> KeySpec:
    return KeySpec(
        name=row.name,
        team=row.team,
        user=row.user,
        service_account=row.service_account,
        environment=row.environment,
        lifetime=None if row.lifetime is None else timedelta(seconds=row.lifetime),
        models=_texts(row.models),
        surfaces=_texts(row.surfaces),
        ip_ranges=_texts(row.ip_ranges) or (),
        declared=row.declared,
        limits=restored(row.limits),
        priority=_priority(row.priority),
    )


def _priority(value: str) -> Priority:
    try:
        return Priority(value)
    except ValueError:
        raise StoreUnavailable(NEWER) from None


def spec_columns(spec: KeySpec) -> dict[str, Any]:
    """The columns that a key's spec is stored in."""
    return {
        "name": spec.name,
        "team": spec.team,
        "user": spec.user,
        "service_account": spec.service_account,
        "environment": spec.environment,
        "lifetime": None if spec.lifetime is None else int(spec.lifetime.total_seconds()),
        "models": None if spec.models is None else list(spec.models),
        "surfaces": None if spec.surfaces is None else list(spec.surfaces),
        "ip_ranges": list(spec.ip_ranges),
        "declared": spec.declared,
        "limits": stored(spec.limits),
        "priority": spec.priority.value,
    }


def team_record(row: AnyRow, members: Iterable[Member]) -> TeamRecord:
    return TeamRecord(
        name=row.name,
        area=row.area,
        owner=row.owner,
        tier=row.tier,
        models=_texts(row.models),
        ip_ranges=tuple(row.ip_ranges),
        tags=tuple((name, value) for name, value in row.tags),
        members=tuple(members),
        limits=restored(row.limits),
        redaction=row.redaction,
        guardrails=row.guardrails,
        providers=_texts(row.providers),
        regions=_texts(row.regions),
        brought=row.brought or "",
    )


def team_columns(team: TeamRecord) -> dict[str, Any]:
    return {
        "name": team.name,
        "area": team.area,
        "owner": team.owner,
        "tier": team.tier,
        "models": None if team.models is None else list(team.models),
        "ip_ranges": list(team.ip_ranges),
        "tags": [list(tag) for tag in team.tags],
        "limits": stored(team.limits),
        "redaction": team.redaction,
        "guardrails": team.guardrails,
        "providers": None if team.providers is None else list(team.providers),
        "regions": None if team.regions is None else list(team.regions),
        "brought": team.brought or None,
        "removed_at": None,
    }


def member(row: AnyRow) -> Member:
    return Member(MemberKind(row.kind), row.name, row.role, row.client_id)


def member_columns(team: str, given: Member) -> Mapping[str, Any]:
    return {
        "team": team,
        "kind": given.kind.value,
        "name": given.name,
        "role": given.role,
        "client_id": given.client_id,
    }


def area_record(row: AnyRow) -> AreaRecord:
    return AreaRecord(row.name, tuple(row.owners))


def stop_record(row: AnyRow) -> Stop:
    return Stop(StopScope(row.scope), row.name, row.reason, row.created_at.replace(tzinfo=UTC))


def _texts(value: list[str] | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)

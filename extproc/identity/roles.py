"""Who may do what to which object: one table of roles and permissions, for calls and for management alike."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum


class Reach(IntEnum):
    """How far a permission goes, each step taking in the ones before it."""

    NONE = 0
    OWN = 1  # what belongs to the caller itself, in its team
    TEAM = 2
    AREA = 3
    ALL = 4


ROLES = ("viewer", "service_account", "developer", "team_admin", "area_owner", "platform_admin")
"""From the least to the most; of several roles in one team the highest counts."""

_N, _O, _T, _A, _P = Reach
_TABLE: Mapping[str, tuple[Reach, ...]] = {
    # viewer, service_account, developer, team_admin, area_owner, platform_admin
    "gateway:use": (_N, _T, _T, _T, _A, _P),
    "api_keys:view": (_T, _N, _T, _T, _A, _P),
    "api_keys:create": (_N, _N, _O, _T, _A, _P),
    "api_keys:delete": (_N, _N, _O, _T, _A, _P),
    "users:view": (_T, _N, _T, _T, _A, _P),
    "users:create": (_N, _N, _N, _T, _A, _P),
    "users:update": (_N, _N, _N, _T, _A, _P),
    "users:delete": (_N, _N, _N, _T, _A, _P),
    "tenants:view": (_T, _N, _T, _T, _A, _P),
    "tenants:update": (_N, _N, _N, _T, _A, _P),
    "guardrails:test": (_N, _N, _T, _T, _A, _P),
}

PERMISSIONS = tuple(_TABLE)

USERS = frozenset(role for role, reach in zip(ROLES, _TABLE["gateway:use"], strict=True) if reach > Reach.NONE)
"""The roles that may call models."""


@dataclass(frozen=True, slots=True)
class Object:
    """What a permission is asked for. None: the object is above that level, or has no owner.

    A role that is to be given is an object of the place where it will be held, and a user is one of the team.
    """

    area: str | None = None
    team: str | None = None
    owner: str | None = None  # a user or a service account


@dataclass(frozen=True, slots=True)
class Grant:
    """A role where it is held, by `subject` (a user or a service account).

    Only platform_admin is held by itself, and only area_owner in an area alone: a role held anywhere else than
    at its own level carries nothing, so that a team's file cannot make an administrator of the platform.
    """

    role: str
    subject: str
    area: str | None = None
    team: str | None = None


def rank(role: str) -> int:
    """A higher role has a higher rank. Raises ValueError for a role that there is not."""
    return ROLES.index(role)


def reach(role: str, permission: str) -> Reach:
    """How far the role carries the permission: nowhere, for one of them that there is not.

    Roles come from a database that a newer version may have written, and must not fail every call of a caller.
    """
    row = _TABLE.get(permission)
    return row[rank(role)] if row is not None and role in ROLES else Reach.NONE


def allowed(grants: Iterable[Grant], permission: str, target: Object) -> bool:
    """Whether one of the grants carries the permission to the object. What no grant allows is forbidden."""
    return any(_covers(grant, reach(grant.role, permission), target) for grant in grants)


def _covers(grant: Grant, far: Reach, target: Object) -> bool:
    if far is Reach.ALL:
        return grant.area is None and grant.team is None
    if far is Reach.NONE or grant.area is None or target.area != grant.area:
        return False
    if far is Reach.AREA:
        return grant.team is None
    if grant.team is None or target.team != grant.team:
        return False
    return far is Reach.TEAM or target.owner == grant.subject

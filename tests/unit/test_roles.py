"""The table of roles, over every combination; and the rules that it must keep, written down without looking at it."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity import roles
from extproc.identity.roles import PERMISSIONS, ROLES, USERS, Grant, Object, Reach, allowed, rank, reach

PAGE = Path(__file__).resolve().parents[2] / "docs" / "roles.md"
SUBJECT = "ada"
AREAS, TEAMS, PEOPLE = ("retail", "risk"), ("payments", "search"), (SUBJECT, "bob")
OBJECTS = [Object(*where) for where in product((None, *AREAS), (None, *TEAMS), (None, *PEOPLE))]
HOME = {"platform_admin": (None, None), "area_owner": ("retail", None)}


def held(role: str, subject: str = SUBJECT) -> Grant:
    """The role where it is at home: on the platform, in the area retail, or in its team payments."""
    return Grant(role, subject, *HOME.get(role, ("retail", "payments")))


def is_within(far: Reach, target: Object) -> bool:
    """The meaning of each reach for a role held in payments of retail by ada, as a person would tell it."""
    in_team = (target.area, target.team) == ("retail", "payments")
    return {
        Reach.NONE: False,
        Reach.OWN: in_team and target.owner == SUBJECT,
        Reach.TEAM: in_team,
        Reach.AREA: target.area == "retail",
        Reach.ALL: True,
    }[far]


@pytest.mark.parametrize("permission", PERMISSIONS)
@pytest.mark.parametrize("role", ROLES)
def test_a_role_reaches_as_far_as_the_table_says_and_no_farther(role: str, permission: str) -> None:
    far = reach(role, permission)
    for target in OBJECTS:
        assert allowed([held(role)], permission, target) == is_within(far, target), target


# ---- what the table must say, whatever else it says ----


def test_the_roles_and_permissions_are_those_that_were_agreed() -> None:
    assert set(ROLES) == {"platform_admin", "area_owner", "team_admin", "developer", "viewer", "service_account"}
    assert set(PERMISSIONS) == {
        "gateway:use",
        *(f"api_keys:{verb}" for verb in ("view", "create", "delete")),
        *(f"users:{verb}" for verb in ("view", "create", "update", "delete")),
        *(f"tenants:{verb}" for verb in ("view", "update")),
        "guardrails:test",
    }


HERS = Object("retail", "payments", SUBJECT)
COLLEAGUE_S = Object("retail", "payments", "bob")
THE_TEAM = Object("retail", "payments")
NEXT_TEAM = Object("retail", "search", SUBJECT)
THE_AREA = Object("retail")
NEXT_AREA = Object("risk", "payments", SUBJECT)
PLATFORM = Object()


@pytest.mark.parametrize(
    ("role", "permission", "target", "may"),
    [
        ("viewer", "gateway:use", HERS, False),
        ("viewer", "api_keys:view", COLLEAGUE_S, True),
        ("viewer", "api_keys:create", HERS, False),
        ("viewer", "guardrails:test", THE_TEAM, False),
        ("service_account", "gateway:use", HERS, True),
        ("service_account", "api_keys:view", HERS, False),
        ("service_account", "tenants:view", THE_TEAM, False),
        ("developer", "gateway:use", HERS, True),
        ("developer", "gateway:use", NEXT_TEAM, False),
        ("developer", "api_keys:create", HERS, True),
        ("developer", "api_keys:delete", HERS, True),
        ("developer", "api_keys:create", COLLEAGUE_S, False),
        ("developer", "api_keys:delete", COLLEAGUE_S, False),
        ("developer", "api_keys:delete", THE_TEAM, False),
        ("developer", "api_keys:delete", NEXT_TEAM, False),
        ("developer", "users:update", HERS, False),
        ("developer", "tenants:update", THE_TEAM, False),
        ("team_admin", "api_keys:delete", COLLEAGUE_S, True),
        ("team_admin", "users:create", THE_TEAM, True),
        ("team_admin", "tenants:update", THE_TEAM, True),
        ("team_admin", "tenants:update", NEXT_TEAM, False),
        ("team_admin", "users:create", THE_AREA, False),
        ("team_admin", "users:update", PLATFORM, False),
        ("area_owner", "tenants:update", NEXT_TEAM, True),
        ("area_owner", "users:create", THE_AREA, True),
        ("area_owner", "tenants:view", NEXT_AREA, False),
        ("area_owner", "users:update", PLATFORM, False),
        ("platform_admin", "users:update", PLATFORM, True),
        ("platform_admin", "api_keys:delete", NEXT_AREA, True),
    ],
)
def test_who_may_do_what(role: str, permission: str, target: Object, may: bool) -> None:
    assert allowed([held(role)], permission, target) == may


def test_only_a_team_s_admins_and_those_above_change_teams_and_people() -> None:
    for permission in ("tenants:update", "users:create", "users:update", "users:delete"):
        may = {role for role in ROLES if any(allowed([held(role)], permission, target) for target in OBJECTS)}
        assert may == {"team_admin", "area_owner", "platform_admin"}, permission


def test_a_service_account_calls_models_and_does_nothing_else() -> None:
    assert {name for name in PERMISSIONS if reach("service_account", name)} == {"gateway:use"}


def test_a_viewer_looks_and_does_nothing_else() -> None:
    assert {name for name in PERMISSIONS if reach("viewer", name)} == {"api_keys:view", "users:view", "tenants:view"}


def test_who_may_call_models_is_all_but_the_viewer() -> None:
    assert set(ROLES) - {"viewer"} == USERS


def test_whoever_may_make_or_delete_may_also_see() -> None:
    for role, (kind, verb) in product(ROLES, (name.split(":") for name in PERMISSIONS)):
        if verb in ("create", "update", "delete"):
            assert reach(role, f"{kind}:view") >= reach(role, f"{kind}:{verb}")


@pytest.mark.parametrize(
    ("lesser", "greater"),
    [
        ("viewer", "developer"),
        ("service_account", "developer"),
        ("developer", "team_admin"),
        ("team_admin", "area_owner"),
        ("area_owner", "platform_admin"),
    ],
)
def test_a_greater_role_may_whatever_a_lesser_one_may(lesser: str, greater: str) -> None:
    assert rank(greater) > rank(lesser)
    for permission, target in product(PERMISSIONS, OBJECTS):
        if allowed([held(lesser)], permission, target):
            assert allowed([held(greater)], permission, target), (permission, target)


# ---- laws, for any grants at all ----

PLACES = st.sampled_from([None, *AREAS, "", "elsewhere"])
GROUPS = st.sampled_from([None, *TEAMS, "", "elsewhere"])
ANY_ROLE = st.sampled_from([*ROLES, "", "owner", "Platform_Admin", "*"])
GRANTS = st.builds(Grant, ANY_ROLE, st.sampled_from([*PEOPLE, ""]), PLACES, GROUPS)
TARGETS = st.builds(Object, PLACES, GROUPS, st.sampled_from([None, *PEOPLE, ""]))
ANY_PERMISSION = st.sampled_from([*PERMISSIONS, "", "api_keys:*", "tenants:delete"])


@given(st.lists(GRANTS), ANY_PERMISSION, TARGETS)
def test_grants_add_up_and_do_nothing_else(grants: list[Grant], permission: str, target: Object) -> None:
    alone = [allowed([grant], permission, target) for grant in grants]
    assert allowed(grants, permission, target) == any(alone)


@given(ANY_PERMISSION, TARGETS)
def test_without_a_grant_nothing_is_allowed(permission: str, target: Object) -> None:
    assert not allowed([], permission, target)


@given(GRANTS, ANY_PERMISSION, TARGETS)
def test_no_grant_reaches_another_area_but_an_administrator_s(grant: Grant, permission: str, target: Object) -> None:
    if target.area is None or target.area != grant.area:
        administrator = grant.role == "platform_admin" and grant.area is None and grant.team is None
        assert not allowed([grant], permission, target) or administrator


@given(GRANTS, ANY_PERMISSION, TARGETS)
def test_no_grant_held_in_a_team_reaches_another(grant: Grant, permission: str, target: Object) -> None:
    if grant.team is not None and (grant.area, grant.team) != (target.area, target.team):
        assert not allowed([grant], permission, target)


@given(GRANTS, ANY_PERMISSION, TARGETS)
def test_a_role_or_permission_that_there_is_not_allows_nothing(grant: Grant, permission: str, target: Object) -> None:
    if grant.role not in ROLES or permission not in PERMISSIONS:
        assert not allowed([grant], permission, target)


@given(GRANTS, ANY_PERMISSION, TARGETS)
def test_a_grant_allows_nothing_at_another_level_than_its_role_s(grant: Grant, permission: str, target: Object) -> None:
    levels = {"platform_admin": (False, False), "area_owner": (True, False)}
    level = levels.get(grant.role, (True, True))
    if (grant.area is not None, grant.team is not None) != level:
        assert not allowed([grant], permission, target)


def test_a_rank_is_for_roles_only() -> None:
    assert sorted(ROLES, key=rank) == list(ROLES)
    with pytest.raises(ValueError, match="not in tuple"):
        rank("owner")


# ---- the page ----


def table() -> str:
    """The table of the page, written from the table of the code."""
    shown = {Reach.NONE: "", Reach.OWN: "own", Reach.TEAM: "team", Reach.AREA: "area", Reach.ALL: "all"}
    lines = ["| permission | " + " | ".join(f"`{role}`" for role in ROLES) + " |", "|---" * (len(ROLES) + 1) + "|"]
    for permission in PERMISSIONS:
        cells = [shown[reach(role, permission)] for role in ROLES]
        lines.append(f"| `{permission}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_page_shows_the_table() -> None:
    assert f"\n\n{table()}\n\n" in PAGE.read_text(), f"docs/roles.md is stale; its table is now:\n{table()}"


def test_the_module_is_where_the_page_says() -> None:
    assert roles.__name__.replace(".", "/") + ".py" in PAGE.read_text()

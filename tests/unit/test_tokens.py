"""From a verified token to a caller: the team that pays, the role in it, and who is refused and told what."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.identity.claims import FailedToken, IssuerPolicy, Rule, VerifiedToken
from extproc.identity.directory import Directory, Membership
from extproc.model import Caller, CredentialKind, Team
from extproc.refusals import (
    AMBIGUOUS_TEAM,
    INVALID_TOKEN,
    ISSUER_UNAVAILABLE,
    NO_TEAM,
    Kind,
    Refusal,
    Refused,
)
from extproc.stages import tokens

NOW = 1_800_000_000.0
RESEARCH = Team("research", "science", "gold")
SALES = Team("sales", "business", "silver")
LAB = Team("lab", "science", "gold")
DIRECTORY = Directory(
    teams={team.name: team for team in (RESEARCH, SALES, LAB)},
    users={
        "ann": (Membership("research", "developer"),),
        "bob": (Membership("sales", "team_admin"), Membership("research", "viewer")),
        "eve": (Membership("closed", "developer"),),
        "new": (Membership("sales", "captain"),),
    },
    clients={"batch": (Membership("research", "service_account", "nightly"),)},
    groups={
        "group-sales": (Membership("sales", "developer"),),
        "group-lab": (Membership("lab", "developer"), Membership("sales", "viewer")),
        "group-bosses": (Membership("research", "team_admin"),),
    },
    owners={"ann": frozenset({"science"}), "olga": frozenset({"business"})},
)
POLICY = IssuerPolicy(
    "plain",
    client="client_id",
    rules=(
        Rule("roles", "Sales", "sales", "developer"),
        Rule("roles", "Ghost", "closed", "developer"),
        Rule("roles", "Auditor", None, "viewer"),
        Rule("roles", "Admin", None, "platform_admin"),
    ),
)
Json = dict[str, Any]


def _caller(claims: Json, project: str | None = None, policy: IssuerPolicy = POLICY) -> Caller:
    return tokens.caller(VerifiedToken(policy.name, claims, {}), policy, DIRECTORY, project, NOW)


def _refusal(claims: Json, project: str | None = None) -> Refusal:
    with pytest.raises(Refused) as refused:
        _caller(claims, project)
    return refused.value.refusal


# ---- who it is ----


def test_a_user_calls_for_its_team() -> None:
    found = _caller({"sub": "ann", "client_id": "portal"})
    assert found.key_id.startswith("usr_")
    assert len(found.key_id) == 4 + 32
    assert found == Caller(
        key_id=found.key_id,
        name="ann",
        kind=CredentialKind.TOKEN,
        issuer="plain",
        user="ann",
        team=RESEARCH,
        roles=frozenset({"developer", "area_owner"}),
    )
    assert found.owner == found.key_id


def test_an_application_calls_as_its_service_account() -> None:
    found = _caller({"sub": "batch", "client_id": "batch"})
    assert (found.user, found.service_account, found.name) == (None, "nightly", "nightly")
    assert (found.team, found.roles) == (RESEARCH, frozenset({"service_account"}))


def test_a_user_with_the_id_of_an_application_is_not_that_application() -> None:
    assert _refusal({"sub": "batch", "client_id": "portal"}).kind is NO_TEAM
    assert _refusal({"sub": "ann", "client_id": "ann"}).kind is NO_TEAM


@pytest.mark.parametrize(
    ("claims", "team", "roles"),
    [
        ({"sub": "carl", "groups": ["group-sales"]}, SALES, {"developer"}),
        ({"sub": "carl", "roles": ["Sales"]}, SALES, {"developer"}),
        ({"sub": "carl", "roles": ["Sales", "Auditor"]}, SALES, {"developer", "viewer"}),
        ({"sub": "carl", "roles": ["Sales", "Admin"]}, SALES, {"developer", "platform_admin"}),
        ({"sub": "olga", "roles": ["Sales"]}, SALES, {"developer", "area_owner"}),
        # The highest of several roles in one team counts, from wherever it comes.
        ({"sub": "ann", "groups": ["group-bosses"]}, RESEARCH, {"team_admin", "area_owner"}),
        # A team that is gone, and a role that only a newer version knows, count for nothing.
        ({"sub": "eve", "roles": ["Sales", "Ghost"]}, SALES, {"developer"}),
        ({"sub": "new", "groups": ["group-bosses"]}, RESEARCH, {"team_admin"}),
    ],
)
def test_a_bearer_belongs_to_a_team_by_name_group_or_rule(claims: Json, team: Team, roles: set[str]) -> None:
    found = _caller(claims)
    assert (found.team, set(found.roles)) == (team, roles)


def test_an_owner_owns_its_own_area_only() -> None:
    assert _caller({"sub": "ann", "groups": ["group-sales"]}, "sales").roles == {"developer"}
    assert _caller({"sub": "ann", "groups": ["group-sales"]}, "research").roles == {"developer", "area_owner"}


def test_an_application_owns_no_area() -> None:
    found = _caller({"sub": "ann", "client_id": "ann", "roles": ["Sales"]})
    assert found.user is None
    assert "area_owner" not in found.roles


def test_a_pseudonym_is_of_one_bearer_of_one_issuer_in_one_team() -> None:
    other = IssuerPolicy("other", rules=POLICY.rules)
    ids = [
        _caller({"sub": "bob"}, "sales").key_id,
        _caller({"sub": "bob"}, "research").key_id,
        _caller({"sub": "carl", "roles": ["Sales"]}).key_id,
        _caller({"sub": "bob"}, "sales", other).key_id,
    ]
    assert len(set(ids)) == 4
    assert _caller({"sub": "bob", "iat": NOW, "jti": "another token"}, "sales").key_id == ids[0]
    assert not any("bob" in key_id for key_id in ids)


# ---- which team ----


@pytest.mark.parametrize("project", [None, "", "proj_abc123", "proj_"])
def test_who_is_in_several_teams_must_name_one(project: str | None) -> None:
    refusal = _refusal({"sub": "bob"}, project)
    assert refusal.kind is AMBIGUOUS_TEAM
    assert "research, sales" in refusal.message


@pytest.mark.parametrize(("project", "roles"), [("sales", {"team_admin"}), ("research", {"viewer"})])
def test_the_team_that_is_named_pays_and_its_role_counts(project: str, roles: set[str]) -> None:
    found = _caller({"sub": "bob"}, project)
    assert found.team is not None
    assert (found.team.name, set(found.roles)) == (project, roles)


@pytest.mark.parametrize("project", [None, "", "proj_abc123", "research"])
def test_who_is_in_one_team_need_not_name_it(project: str | None) -> None:
    assert _caller({"sub": "ann"}, project).team is RESEARCH


@pytest.mark.parametrize("project", ["sales", "nowhere", "Research", "research ", "research,sales", "closed"])
def test_no_other_team_can_be_named(project: str) -> None:
    refusal = _refusal({"sub": "ann"}, project)
    assert refusal.kind is NO_TEAM
    assert project not in refusal.message


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "stranger"}, "belongs to no team"),
        ({"sub": "eve"}, "belongs to no team"),
        ({"sub": "new"}, "belongs to no team"),
        ({"sub": "stranger", "roles": ["Admin"]}, "belongs to no team"),
        ({"sub": "olga"}, "belongs to no team"),
        ({"sub": "stranger", "hasgroups": True}, "too many of them"),
        ({"sub": "stranger", "_claim_names": {"groups": "src1"}}, "too many of them"),
    ],
)
def test_who_is_in_no_team_is_told_why(claims: Json, words: str) -> None:
    refusal = _refusal(claims)
    assert refusal.kind is NO_TEAM
    assert words in refusal.message


def test_left_out_groups_harm_nobody_who_is_known_otherwise() -> None:
    assert _caller({"sub": "ann", "hasgroups": True}).team is RESEARCH


# ---- what is refused ----


def test_bad_claims_are_an_invalid_token() -> None:
    refusal = _refusal({"sub": "ann", "iat": NOW + 1000})
    assert refusal.kind is INVALID_TOKEN
    assert refusal.message == "The token was issued in the future."


@pytest.mark.parametrize(
    ("reason", "kind", "words"),
    [
        ("Jwt is expired", INVALID_TOKEN, "expired"),
        ("Jwt not yet valid", INVALID_TOKEN, "not valid yet"),
        ("Audiences in Jwt are not allowed", INVALID_TOKEN, "another audience"),
        ("Jwt issuer is not configured", INVALID_TOKEN, "not accepted here"),
        ("Jwks remote fetch is failed", ISSUER_UNAVAILABLE, "Try again"),
        ("Jwt verification fails", INVALID_TOKEN, "could not be verified"),
        ("", INVALID_TOKEN, "could not be verified"),
        ("a canary that Envoy might say", INVALID_TOKEN, "could not be verified"),
    ],
)
def test_envoys_reasons_are_told_in_our_words(reason: str, kind: Kind, words: str) -> None:
    refusal = tokens.refusal(FailedToken("plain", reason)).refusal
    assert refusal.kind is kind
    assert words in refusal.message
    assert "canary" not in refusal.message


NAMES = ["sub", "client_id", "groups", "roles", "hasgroups", "iat", "idtyp", "tid", "oid", "_claim_names"]
VALUES = ["ann", "bob", "batch", "group-lab", "group-sales", "Sales", "Admin", "Ghost", "true"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(VALUES)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner)
)


@given(
    st.dictionaries(st.sampled_from(NAMES), ANYTHING),
    st.none() | st.text(max_size=8) | st.sampled_from(["sales", "lab"]),
)
def test_claims_of_any_shape_make_a_caller_in_a_team_or_a_refusal(claims: Json, project: str | None) -> None:
    try:
        found = _caller(claims, project)
    except Refused as refused:
        kind: Kind | None = refused.refusal.kind
    else:
        kind = None
    if kind is not None:
        assert kind in (INVALID_TOKEN, NO_TEAM, AMBIGUOUS_TEAM)
        return
    assert found.team is not None
    assert found.team.name in DIRECTORY.teams
    assert found.roles
    if project and not project.startswith("proj_"):
        assert found.team.name == project


@given(st.text(alphabet="xyz0123456789", min_size=10, max_size=30))
def test_no_refusal_quotes_the_token_or_the_header(secret: str) -> None:
    for claims in (
        {"sub": secret},
        {"sub": [secret]},
        {"sub": secret, "iat": 1e12},
        {"sub": secret, "hasgroups": True},
    ):
        for project in (None, secret):
            assert secret not in str(_refusal(claims, project))

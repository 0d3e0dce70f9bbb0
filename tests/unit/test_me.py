"""`GET /v1/me`: what a caller is told of itself, and what not."""

from ipaddress import ip_network
from typing import Any

import orjson

from extproc.dialects import listing
from extproc.model import Caller, CredentialKind, PublicModel, Team

TEAM = Team(
    "research",
    "science",
    "gold",
    models=frozenset({"a", "b"}),
    networks=(ip_network("10.0.0.0/8"),),
    tags={"cost_center": "42"},
    users={"ann@example.com": "developer", "bob@example.com": "team_admin"},
    accounts=frozenset({"nightly"}),
)
MODELS = [PublicModel("b", ()), PublicModel("a", ())]


def _me(caller: Caller) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(listing.me(caller, MODELS))
    return told


def test_a_key_of_a_team() -> None:
    caller = Caller(
        "key_1",
        "app",
        models=frozenset({"a"}),
        user="ann@example.com",
        team=TEAM,
        roles=frozenset({"team_admin", "developer"}),
        environment="production",
        expires=1_800_000_000.0,
        surfaces=frozenset({"responses", "chat"}),
        networks=(ip_network("10.1.0.0/16"), ip_network("2001:db8::/32")),
        lineage="key_0",
    )
    assert _me(caller) == {
        "object": "caller",
        "credential": {
            "kind": "key",
            "id": "key_1",
            "name": "app",
            "environment": "production",
            "expires_at": "2027-01-15T08:00:00+00:00",
        },
        "user": "ann@example.com",
        "service_account": None,
        "team": "research",
        "area": "science",
        "tier": "gold",
        "tags": {"cost_center": "42"},
        "roles": ["developer", "team_admin"],
        "models": ["b", "a"],
        "policies": {
            "surfaces": ["chat", "responses"],
            "ip_ranges": {"key": ["10.1.0.0/16", "2001:db8::/32"], "team": ["10.0.0.0/8"]},
        },
    }


def test_a_key_of_no_team_has_no_limits() -> None:
    told = _me(Caller("key_1", "app", roles=frozenset({"developer"})))
    assert told["credential"] == {"kind": "key", "id": "key_1", "name": "app", "environment": None, "expires_at": None}
    assert [told[name] for name in ("user", "service_account", "team", "area", "tier")] == [None] * 5
    assert told["tags"] == {}
    assert told["policies"] == {"surfaces": None, "ip_ranges": {"key": [], "team": []}}


def test_a_token_is_told_by_its_issuer_and_pseudonym() -> None:
    caller = Caller(
        "usr_0123", "nightly", kind=CredentialKind.TOKEN, issuer="entra", service_account="nightly", team=TEAM
    )
    told = _me(caller)
    assert told["credential"] == {"kind": "token", "id": "usr_0123", "issuer": "entra"}
    assert (told["service_account"], told["user"], told["team"]) == ("nightly", None, "research")


def test_nobody_is_told_of_the_others_in_the_team() -> None:
    told = listing.me(Caller("key_1", "app", user="ann@example.com", team=TEAM), MODELS)
    assert b"bob" not in told
    assert b"nightly" not in told
    assert b"key_0" not in listing.me(Caller("key_1", "app", lineage="key_0"), MODELS)

"""Teams and keys in the database, and what the running gateway makes of them: how soon, on which routes, how long."""

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from extproc import surfaces
from extproc.identity import keys
from extproc.stores.ports import AreaRecord, ChangeSet, KeySpec, Member, MemberKind, MintedKey, StopScope, TeamRecord
from extproc.stores.sql import Stores, open_stores
from extproc.surfaces import Face, Surface
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.dataplane.test_credentials import ROUTES, Route
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.ports import free_port
from tests.support.postgres_server import postgres_server

Json = dict[str, Any]

BACKENDS = ("openai", "azure", "azure-v1", "anthropic")
CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "Hello!"}]
ALWAYS = {Surface.ME, Surface.MODELS, Surface.MODEL_ITEM}
PROMISE = 5.0
"""Seconds within which a change is in force everywhere."""


class Desk:
    """Where teams and keys of a gateway are managed: its database, as the command line opens it."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.database = gateway.settings["stores"]["database"]
        self.keys: list[str] = []

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        with closing(open_stores(self.database)) as stores:
            yield stores

    def apply(self, changes: ChangeSet) -> None:
        with self.stores() as stores:
            stores.directory.apply(changes, stores.directory.revision())

    def key(self, name: str, team: str = "", **spec: Any) -> str:
        """A new key, known to the gateway when this returns; and with it all that was written before."""
        key = self.minted(name, team, **spec)
        until(lambda: self.me(key).status_code != 401, PROMISE, f"the new key {name}")
        return key

    def minted(self, name: str, team: str = "", **spec: Any) -> str:
        """A new key in the database."""
        key = self.text()
        with self.stores() as stores:
            stores.directory.create(MintedKey(KeySpec(name, team, **spec), keys.digest(key), keys.hint(key)))
        return key

    def rotated(self, which: str, overlap: timedelta) -> str:
        key = self.text()
        with self.stores() as stores:
            stores.directory.rotate(which, keys.digest(key), keys.hint(key), overlap)
        until(lambda: self.me(key).status_code == 200, PROMISE, f"the successor of {which}")
        return key

    def text(self) -> str:
        self.keys.append(keys.mint(secrets.token_bytes(32)))
        return self.keys[-1]

    def id_of(self, name: str) -> str:
        with self.stores() as stores:
            return next(key.id for key in stores.directory.state().keys if key.spec.name == name)

    # ---- calls ----

    def me(self, key: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        return self.get("/v1/me", key, headers)

    def get(self, path: str, key: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        told = {"authorization": f"Bearer {key}", **(headers or {})}
        return httpx.get(self.gateway.url + path, headers=told, trust_env=False, timeout=30)

    def chat(self, key: str, model: str = "gpt-4o") -> httpx.Response:
        return self.post(CHAT, key, {"model": model, "messages": SAY})

    def post(self, path: str, key: str, body: Json) -> httpx.Response:
        told = {"authorization": f"Bearer {key}"}
        return httpx.post(self.gateway.url + path, json=body, headers=told, trust_env=False, timeout=30)

    def send(self, route: Route, key: str) -> httpx.Response:
        """A good call of the route."""
        kind, body = route.request()
        told = {"authorization": f"Bearer {key}", **({"content-type": kind} if kind else {})}
        if route.surface in (Surface.MESSAGES, Surface.COUNT_TOKENS):
            told["anthropic-version"] = "2023-06-01"
        url = self.gateway.url + route.path
        return httpx.request(route.method, url, content=body, headers=told, trust_env=False, timeout=30)

    def refused_everywhere(self, key: str, status: int, code: str) -> None:
        for route in ROUTES:
            assert_refused(self.send(route, key), route, status, code)


FIELDS = {
    Face.OPENAI: {"message", "type", "param", "code"},
    Face.AZURE: {"code", "message", "param", "status"},
    Face.ANTHROPIC: {"type", "message", "code"},
}


def assert_refused(answer: httpx.Response, route: Route, status: int, code: str) -> None:
    """Refused so, in the shape of the API that was called."""
    place = surfaces.locate(route.path)
    assert place is not None
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (status, code), route
    assert set(body["error"]) == FIELDS[place.face], route
    assert body["request_id"] == answer.headers["x-request-id"]
    if place.face is Face.ANTHROPIC:
        assert (body["type"], answer.headers["request-id"]) == ("error", body["request_id"])


def team(name: str, *users: str, area: str = "science", **options: Any) -> TeamRecord:
    """A team of these users, `developer` each, or `role:user`; with one service account."""
    members = [Member(MemberKind.SERVICE_ACCOUNT, "nightly", "service_account")]
    for user in users:
        role, _, named = user.rpartition(":")
        members.append(Member(MemberKind.USER, named, role or "developer"))
    settings: Json = {"tier": "gold", "models": None, **options}
    return TeamRecord(name, area, "owner@example.com", members=tuple(members), **settings)


def settings(fake: FakeProvider, **identity: Any) -> Json:
    given = standard_settings(fake)
    given["models"] = {**given["models"], "gold-model": {"targets": [[{"backend": "openai"}]], "tiers": ["gold"]}}
    return {**given, "identity": identity}


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Desk]:
    with RunningGateway(settings(fake, accept={"rerank": "token"}), SECRETS) as gateway:
        desk = Desk(gateway)
        desk.apply(
            ChangeSet(
                areas=(AreaRecord("science", ("olga@example.com",)),),
                teams=(
                    team("research", "ann@example.com", "viewer:vic@example.com", tags=(("cost_center", "42"),)),
                    team("sales", "bob@example.com", area="business", tier="silver"),
                ),
            )
        )
        yield desk


@pytest.fixture
def desk(shared: Desk, fake: FakeProvider) -> Desk:
    fake.reset()
    return shared


def calls(fake: FakeProvider) -> int:
    """How many calls reached a backend."""
    return sum(len(fake.calls(name)) for name in BACKENDS)


# ---- the end of a key ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holder:
    """A key with a user, a team and an area of its own, so that its end is nobody else's."""

    name: str
    key: str
    key_id: str

    @property
    def team(self) -> TeamRecord:
        return team(self.name, f"{self.name}@example.com", area=f"{self.name}-area")


def _stopped(scope: StopScope, name: Callable[[Holder], str]) -> Callable[[Stores, Holder], None]:
    def stop(stores: Stores, holder: Holder) -> None:
        stores.directory.stop(scope, name(holder), "a leak")

    return stop


def _applied(changes: Callable[[Holder], ChangeSet]) -> Callable[[Stores, Holder], None]:
    def apply(stores: Stores, holder: Holder) -> None:
        stores.directory.apply(changes(holder), stores.directory.revision())

    return apply


ENDS: dict[str, Callable[[Stores, Holder], object]] = {
    "revoked": lambda stores, holder: stores.directory.revoke(holder.key_id),
    "suspended": lambda stores, holder: stores.directory.suspend(holder.key_id),
    "expired": lambda _stores, _holder: None,  # its lifetime is short
    "team-removed": _applied(lambda holder: ChangeSet(teams_removed=(holder.name,))),
    "user-left": _applied(lambda holder: ChangeSet(teams=(replace(holder.team, members=()),))),
    "account-gone": _applied(lambda holder: ChangeSet(teams=(replace(holder.team, members=()),))),
    "key-stopped": _stopped(StopScope.KEY, lambda holder: holder.key_id),
    "user-stopped": _stopped(StopScope.USER, lambda holder: f"{holder.name}@example.com"),
    "team-stopped": _stopped(StopScope.TEAM, lambda holder: holder.name),
    "area-stopped": _stopped(StopScope.AREA, lambda holder: f"{holder.name}-area"),
    "everything-stopped": _stopped(StopScope.EVERYTHING, lambda _holder: ""),
}


@pytest.fixture
def holder(request: pytest.FixtureRequest, desk: Desk) -> Iterator[Holder]:
    name: str = request.param
    desk.apply(ChangeSet(teams=(Holder(name, "", "").team,)))
    owner = {"service_account": "nightly"} if name == "account-gone" else {"user": f"{name}@example.com"}
    lifetime = timedelta(seconds=6) if name == "expired" else None
    key = desk.key(name, name, lifetime=lifetime, **owner)
    holder = Holder(name, key, desk.me(key).json()["credential"]["id"])
    yield holder
    with desk.stores() as stores:
        stores.directory.revoke(holder.key_id)  # its name is free again
        for stop in stores.directory.state().stops:
            stores.directory.lift(stop.scope, stop.name)
    until(lambda: desk.me(desk.gateway.key).status_code == 200, PROMISE, "the end of all stops")


@pytest.mark.parametrize("holder", ENDS, indirect=True)
def test_the_end_of_a_key_is_in_force_within_seconds_on_every_route(
    holder: Holder, desk: Desk, fake: FakeProvider
) -> None:
    assert desk.chat(holder.key).status_code == 200
    with desk.stores() as stores:
        ENDS[holder.name](stores, holder)
    patience = PROMISE + (6 if holder.name == "expired" else 0)
    until(lambda: desk.me(holder.key).status_code != 200, patience, "the end of the key")
    fake.reset()
    status, code = (403, "stopped") if holder.name.endswith("-stopped") else (401, "invalid_api_key")
    desk.refused_everywhere(holder.key, status, code)
    assert calls(fake) == 0
    assert desk.me(desk.gateway.key).status_code == (403 if holder.name == "everything-stopped" else 200)


@pytest.mark.parametrize("holder", ["suspended", "team-stopped", "team-removed"], indirect=True)
def test_what_ended_for_a_while_comes_back(holder: Holder, desk: Desk) -> None:
    with desk.stores() as stores:
        ENDS[holder.name](stores, holder)
        until(lambda: desk.me(holder.key).status_code != 200, PROMISE, "the end of the key")
        if holder.name == "suspended":
            stores.directory.resume(holder.key_id)
        elif holder.name == "team-stopped":
            stores.directory.lift(StopScope.TEAM, holder.name)
        else:
            stores.directory.apply(ChangeSet(teams=(holder.team,)), stores.directory.revision())
    until(lambda: desk.me(holder.key).status_code == 200, PROMISE, "the key")


def test_a_key_of_a_role_that_there_is_not_opens_nothing(desk: Desk) -> None:
    """A newer version may have written it."""
    desk.apply(ChangeSet(teams=(team("future", "captain:kim@example.com"),)))
    key = desk.minted("kims", "future", user="kim@example.com")
    desk.key("after-kims")
    assert desk.me(key).status_code == 401


# ---- rotation -----------------------------------------------------------------------------------------


def stored(desk: Desk, key: str) -> str:
    """The path of a response that the provider keeps for the key."""
    answer = desk.post("/v1/responses", key, {"model": "gpt-4o", "input": "Hi"})
    assert answer.status_code == 200, answer.text
    return f"/v1/responses/{answer.json()['id']}"


def test_old_and_new_key_work_for_the_overlap_and_share_what_is_stored(desk: Desk) -> None:
    old = desk.key("rotating", "research")
    other = desk.key("not-rotating", "research")
    made = stored(desk, old)
    new = desk.rotated("research/rotating", timedelta(seconds=8))
    assert [desk.me(key).status_code for key in (old, new)] == [200, 200]
    assert desk.me(old).json()["credential"]["expires_at"] is not None
    later = stored(desk, new)
    for path in (made, later):
        assert [desk.get(path, key).status_code for key in (old, new)] == [200, 200]
        assert desk.get(path, other).json()["error"]["code"] == "state_not_found"
        assert desk.get(path, desk.gateway.key).json()["error"]["code"] == "state_not_found"
    until(lambda: desk.me(old).status_code == 401, 8 + PROMISE, "the end of the overlap")
    assert desk.me(new).status_code == 200
    assert desk.get(made, new).status_code == 200
    assert desk.get(made, old).status_code == 401
    follow = {"model": "gpt-4o", "input": "And?", "previous_response_id": made.rpartition("/")[2]}
    assert desk.post("/v1/responses", new, follow).status_code == 200
    assert desk.post("/v1/responses", other, follow).json()["error"]["code"] == "state_not_found"


# ---- models -------------------------------------------------------------------------------------------

Models = tuple[str, ...] | None

ALLOWED: dict[str, tuple[Models, Models, str, Models]] = {
    # what the key allows, the team, its tier: what is left; None is all
    "all-gold": (None, None, "gold", None),
    "all-silver": (None, None, "silver", ("-gold-model",)),
    "key-gold": (("gpt-4o", "gold-model"), None, "gold", ("gpt-4o", "gold-model")),
    "key-silver": (("gpt-4o", "gold-model"), None, "silver", ("gpt-4o",)),
    "team-gold": (None, ("gpt-4o-mini", "gold-model"), "gold", ("gpt-4o-mini", "gold-model")),
    "team-silver": (None, ("gpt-4o-mini", "gold-model"), "silver", ("gpt-4o-mini",)),
    "both": (("gpt-4o", "claude-sonnet-5-5"), ("claude-sonnet-5-5", "gpt-4o-mini"), "gold", ("claude-sonnet-5-5",)),
    "apart": (("gpt-4o",), ("gpt-4o-mini",), "gold", ()),
    "no-key": ((), None, "gold", ()),
    "no-team": (None, (), "gold", ()),
    "unknown": (("gpt-9",), None, "gold", ()),
}


def listed(desk: Desk, path: str, key: str) -> list[str]:
    return [model["id"] for model in desk.get(path, key).json()["data"]]


@pytest.fixture(scope="module")
def limited(shared: Desk) -> dict[str, str]:
    """The keys of the cases, each of a team of its own."""
    shared.apply(
        ChangeSet(
            teams=tuple(
                team(f"models-{case}", models=by_team, tier=tier) for case, (_, by_team, tier, _) in ALLOWED.items()
            )
        )
    )
    made = {case: shared.minted(case, f"models-{case}", models=by_key) for case, (by_key, *_) in ALLOWED.items()}
    shared.key("after-the-limited")
    return made


@pytest.mark.parametrize("case", ALLOWED)
def test_a_key_sees_and_reaches_what_key_team_and_tier_all_allow(
    case: str, desk: Desk, limited: dict[str, str], fake: FakeProvider
) -> None:
    left, key = ALLOWED[case][3], limited[case]
    everything: list[str] = list(desk.gateway.settings["models"])
    if left is None:
        expected = everything
    elif left == ("-gold-model",):
        expected = [model for model in everything if model != "gold-model"]
    else:
        expected = [model for model in everything if model in left]
    for path in ("/v1/models", "/openai/v1/models", "/openai/models", "/anthropic/v1/models"):
        assert listed(desk, path, key) == expected
    assert desk.me(key).json()["models"] == expected
    for model in everything:
        status = 200 if model in expected else 404
        assert desk.get(f"/v1/models/{model}", key).status_code == status
        assert desk.get(f"/anthropic/v1/models/{model}", key).status_code == status
    for model in ("gpt-4o", "azure-gpt-4o", "gpt-4o-mini", "gold-model", "claude-sonnet-5-5"):
        named = "gpt-4o" if model == "azure-gpt-4o" else model  # an alias goes with its model
        fake.reset()
        answer = desk.chat(key, model) if model != "claude-sonnet-5-5" else desk.send(MESSAGES, key)
        assert (answer.status_code, calls(fake)) == ((200, 1) if named in expected else (404, 0)), model


MESSAGES = Route("POST", "/v1/messages")


def test_a_key_without_a_team_has_the_models_that_no_tier_guards(desk: Desk) -> None:
    key = desk.key("alone")
    assert listed(desk, "/v1/models", key) == [m for m in desk.gateway.settings["models"] if m != "gold-model"]
    assert desk.chat(key, "gold-model").status_code == 404


def test_a_model_that_is_not_allowed_is_none_on_every_surface(desk: Desk, fake: FakeProvider) -> None:
    key = desk.key("penniless", "research", models=())
    for route in ROUTES:
        answer = desk.send(route, key)
        if route.surface is Surface.RERANK:
            assert_refused(answer, route, 403, "permission_denied")  # takes tokens only here
        elif route.surface is Surface.RESPONSE_ITEM:
            assert_refused(answer, route, 404, "state_not_found")
        elif route.surface in (Surface.ME, Surface.MODELS):
            assert answer.status_code == 200
        else:
            assert_refused(answer, route, 404, "model_not_found")
    assert calls(fake) == 0


def test_a_model_that_is_not_allowed_is_told_like_one_that_is_not_there(desk: Desk) -> None:
    key = desk.key("curious", "research", models=("gpt-4o",))
    told = [
        [desk.chat(key, model).json()["error"], desk.get(f"/v1/models/{model}", key).json()["error"]]
        for model in ("gold-model", "gpt-4o-mini", "nowhere")
    ]
    assert told[0] == told[1] == told[2]


# ---- who am I -----------------------------------------------------------------------------------------


def test_a_key_of_a_users_is_told_who_and_where_it_is(desk: Desk) -> None:
    key = desk.key("anns-laptop", "research", user="ann@example.com", environment="test", surfaces=("chat",))
    told = desk.me(key).json()
    assert told["credential"] == {
        "kind": "key",
        "id": desk.id_of("anns-laptop"),
        "name": "anns-laptop",
        "environment": "test",
        "expires_at": None,
    }
    assert (told["user"], told["service_account"]) == ("ann@example.com", None)
    assert (told["team"], told["area"], told["tier"]) == ("research", "science", "gold")
    assert (told["tags"], told["roles"]) == ({"cost_center": "42"}, ["developer"])
    assert told["policies"] == {"surfaces": ["chat"], "ip_ranges": {"key": [], "team": []}}


def test_a_key_of_no_team_is_told_so(desk: Desk) -> None:
    told = desk.me(desk.key("standalone")).json()
    assert [told[name] for name in ("user", "service_account", "team", "area", "tier")] == [None] * 5
    assert told["credential"]["name"] == "standalone"


def test_records_name_team_area_and_user(desk: Desk) -> None:
    key = desk.key("anns-desktop", "research", user="ann@example.com", environment="production")
    record = desk.gateway.record(desk.chat(key).headers["x-request-id"])
    assert {name: record.get(name) for name in ("key", "key_id", "user", "team", "area", "tier", "environment")} == {
        "key": "anns-desktop",
        "key_id": desk.id_of("anns-desktop"),
        "user": "ann@example.com",
        "team": "research",
        "area": "science",
        "tier": "gold",
        "environment": "production",
    }
    assert record["tags"] == {"cost_center": "42"}
    record = desk.gateway.record(
        desk.chat(desk.key("jobs", "sales", service_account="nightly")).headers["x-request-id"]
    )
    assert (record["service_account"], record["team"], record.get("user")) == ("nightly", "sales", None)


# ---- what a key may do, and from where ----------------------------------------------------------------


def test_a_viewer_may_look_but_not_call(desk: Desk, fake: FakeProvider) -> None:
    key = desk.key("vics", "research", user="vic@example.com")
    for route in ROUTES:
        answer = desk.send(route, key)
        if route.surface in ALWAYS:
            assert answer.status_code == 200
        else:
            assert_refused(answer, route, 403, "permission_denied")
    assert desk.me(key).json()["roles"] == ["viewer"]
    assert calls(fake) == 0


def test_a_key_is_good_for_its_surfaces_only(desk: Desk) -> None:
    key = desk.key("embedder", "research", surfaces=("embeddings", "responses"))
    for route in ROUTES:
        answer = desk.send(route, key)
        if route.surface in ALWAYS or route.surface is Surface.EMBEDDINGS:
            assert answer.status_code == 200
        elif route.surface.key == "responses":
            assert answer.status_code == 200 or answer.json()["error"]["code"] == "state_not_found"
        else:
            assert_refused(answer, route, 403, "permission_denied")


def test_a_surface_for_tokens_takes_no_key(desk: Desk) -> None:
    for route in ROUTES:
        if route.surface is Surface.RERANK:
            assert_refused(desk.send(route, desk.gateway.key), route, 403, "permission_denied")


HERE, ELSEWHERE = ("127.0.0.0/8", "::1/128"), ("10.0.0.0/8", "2001:db8::/32")
FORGED: dict[str, dict[str, str]] = {
    "nothing": {},
    "x-forwarded-for": {"x-forwarded-for": "10.1.2.3"},
    "a list": {"x-forwarded-for": "10.1.2.3, 10.1.2.4"},
    "x-envoy-external-address": {"x-envoy-external-address": "10.1.2.3"},
    "x-real-ip": {"x-real-ip": "10.1.2.3", "true-client-ip": "10.1.2.3", "forwarded": "for=10.1.2.3"},
    "all": {"x-forwarded-for": "10.1.2.3", "x-envoy-external-address": "10.1.2.3", "x-envoy-internal": "true"},
}


@pytest.fixture(scope="module")
def placed(shared: Desk) -> dict[str, str]:
    """Keys by where they may be used from: by their own word, and by their team's."""
    shared.apply(ChangeSet(teams=(team("here", ip_ranges=HERE), team("elsewhere", ip_ranges=ELSEWHERE))))
    return {
        "key here": shared.minted("from-here", ip_ranges=HERE),
        "key elsewhere": shared.minted("from-elsewhere", ip_ranges=ELSEWHERE),
        "team here": shared.minted("team-from-here", "here"),
        "team elsewhere": shared.minted("team-from-elsewhere", "elsewhere"),
        "key here, team elsewhere": shared.minted("from-here-only", "elsewhere", ip_ranges=HERE),
        "key elsewhere, team here": shared.key("from-elsewhere-only", "here", ip_ranges=ELSEWHERE),
    }


@pytest.mark.parametrize("forged", FORGED)
def test_a_key_works_from_its_own_and_its_teams_addresses_whatever_a_client_says(
    forged: str, desk: Desk, placed: dict[str, str]
) -> None:
    for name, key in placed.items():
        answer = desk.me(key, FORGED[forged])
        if "elsewhere" in name:
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "ip_not_allowed"), name
        else:
            assert answer.status_code == 200, name


def test_a_key_from_elsewhere_is_refused_on_every_route(desk: Desk, placed: dict[str, str], fake: FakeProvider) -> None:
    for route in ROUTES:
        code = "permission_denied" if route.surface is Surface.RERANK else "ip_not_allowed"
        assert_refused(desk.send(route, placed["key elsewhere"]), route, 403, code)
    assert calls(fake) == 0


def test_behind_a_proxy_the_address_is_what_the_proxy_saw(fake: FakeProvider) -> None:
    given = settings(fake)
    port = free_port()
    given["listener"] = {"address": "127.0.0.1", "port": port, "trusted_proxies": 1}
    gateway = RunningGateway(given, SECRETS)
    gateway.port = port
    with gateway:
        desk = Desk(gateway)
        key = desk.key("from-elsewhere", ip_ranges=ELSEWHERE)
        seen = {
            "10.1.2.3": 200,
            "203.0.113.7, 10.1.2.3": 200,
            "10.1.2.3, 203.0.113.7": 403,  # its own word first, then what the proxy saw
            "203.0.113.7": 403,
            "2001:db8::7": 200,
        }
        for said, status in seen.items():
            assert desk.me(key, {"x-forwarded-for": said}).status_code == status, said
        assert desk.me(key, {"x-envoy-external-address": "10.1.2.3"}).status_code == 403


def test_no_line_that_the_gateway_wrote_holds_a_key(desk: Desk) -> None:
    told = json.dumps(desk.gateway.records()) + json.dumps(desk.gateway.records("log")) + desk.gateway.log()
    assert len(told) > 1000
    assert len(desk.keys) > 10
    for key in desk.keys:
        assert key[len(keys.PREFIX) :] not in told
        assert keys.digest(key) not in told


# ---- while the database is away -----------------------------------------------------------------------


@contextmanager
def outage(database: str) -> Iterator[None]:
    """The table that says what is new cannot be read."""
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        connection.execute("ALTER TABLE directory RENAME TO taken_away")
        try:
            yield
        finally:
            connection.execute("ALTER TABLE taken_away RENAME TO directory")


def test_keys_go_on_for_a_while_without_the_database_and_then_calls_are_refused(fake: FakeProvider) -> None:
    held = 6.0
    given = settings(fake, store_outage={"serve_for": held})
    with RunningGateway(given, SECRETS) as gateway:
        desk = Desk(gateway)
        key = desk.key("enduring")
        with outage(desk.database):
            began = time.monotonic()
            while time.monotonic() - began < held - 3:  # what was known last may be as old as a refresh takes
                assert desk.chat(key).status_code == 200
            until(lambda: desk.me(key).status_code == 503, held + PROMISE, "the end of what is known")
            fake.reset()
            desk.refused_everywhere(key, 503, "store_unavailable")
            desk.refused_everywhere(desk.text(), 503, "store_unavailable")
            assert calls(fake) == 0
            assert desk.me(key).headers["x-should-retry"] == "true"
            assert httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 503
        until(lambda: desk.chat(key).status_code == 200, PROMISE, "the database")
        assert httpx.get(f"{gateway.url}/readyz", trust_env=False).status_code == 200


def test_where_that_is_allowed_keys_go_on_for_as_long_as_it_takes(fake: FakeProvider) -> None:
    given = settings(fake, store_outage={"serve_for": 1, "on_error": "allow"})
    with RunningGateway(given, SECRETS) as gateway:
        desk = Desk(gateway)
        key = desk.key("enduring")
        with outage(desk.database):
            began = time.monotonic()
            while time.monotonic() - began < 1 + PROMISE:
                assert desk.chat(key).status_code == 200
                assert desk.me(desk.text()).status_code == 401
        with desk.stores() as stores:
            stores.directory.revoke("enduring")
        until(lambda: desk.me(key).status_code == 401, PROMISE, "the database")


def _spoil(database: str) -> None:
    path = Path(database.removeprefix("sqlite:///"))
    for part in path.parent.glob(f"{path.name}*"):
        part.unlink()
    path.write_bytes(b"This is not a database, and it is longer than the header of one. " * 100)


@contextmanager
def started(gateway: RunningGateway) -> Iterator[None]:
    """Once more, on the same folder."""
    gateway.__enter__()
    try:
        yield
    finally:
        gateway.stop()


@pytest.mark.parametrize("allowed", [True, False], ids=["allowed", "not allowed"])
def test_a_start_without_the_database_needs_a_snapshot_and_leave_to_use_it(allowed: bool, fake: FakeProvider) -> None:
    with RunningGateway(settings(fake, store_outage={"snapshot": allowed}), SECRETS) as gateway:
        gateway.stop()
        desk = Desk(gateway)
        desk.apply(ChangeSet(teams=(team("research", "ann@example.com"),)))
        known, revoked = (desk.minted(name, "research", user="ann@example.com") for name in ("known", "revoked"))
        with desk.stores() as stores:
            stores.directory.revoke("research/revoked")
        before = datetime.now(UTC)
        with started(gateway):
            assert [desk.chat(key).status_code for key in (known, revoked)] == [200, 401]
        with desk.stores() as stores:
            used = {key.spec.name: key.last_used_at for key in stores.directory.state().keys}
        assert used["revoked"] is None
        assert used["known"] is not None
        assert before - timedelta(seconds=1) <= used["known"] <= datetime.now(UTC)
        _spoil(desk.database)
        if not allowed:
            with pytest.raises(AssertionError, match="the database cannot be used: file is not a database"):
                gateway.__enter__()
            return
        with started(gateway):
            assert [desk.chat(key).status_code for key in (known, revoked)] == [200, 401]
            assert desk.me(known).json()["team"] == "research"
            assert "serving from the snapshot" in gateway.log()
        written = (gateway.folder / "var/directory.jsonl").read_text()
        assert not any(key[len(keys.PREFIX) :] in written for key in desk.keys)


# ---- PostgreSQL ---------------------------------------------------------------------------------------


def test_a_postgresql_that_dies_and_comes_back_costs_no_call(fake: FakeProvider) -> None:
    with ExitStack() as stack:
        postgres = stack.enter_context(postgres_server())
        given = {**settings(fake), "stores": {"database": postgres.url}}
        gateway = stack.enter_context(RunningGateway(given, SECRETS))
        desk = Desk(gateway)
        key = desk.key("enduring")
        postgres.kill()
        began = time.monotonic()
        while time.monotonic() - began < PROMISE:
            assert desk.chat(key).status_code == 200
            assert desk.me(desk.text()).status_code == 401
        postgres.start()
        new = desk.key("after")
        with desk.stores() as stores:
            stores.directory.revoke("enduring")
        until(lambda: desk.me(key).status_code == 401, PROMISE, "the end of the key")
        assert desk.chat(new).status_code == 200
        assert "postgres@" not in gateway.log()

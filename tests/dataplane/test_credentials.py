"""Every route with both kinds of credential; where a credential may stand; and what never says who calls."""

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from extproc import surfaces
from extproc.identity import keys
from extproc.stores.ports import KeySpec, MintedKey, StopScope
from extproc.surfaces import Surface
from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.raw_http import Answer, Connection, form, head
from tests.support.tokens import Company, SigningKeys, bearer, claims_of, compact, company_at, genuine, unsigned

Json = dict[str, Any]

BACKENDS = ("openai", "azure", "azure-v1", "anthropic")
SAY = [{"role": "user", "content": "Hello!"}]
ANN = "ann@example.com"
PROMISE = 5.0
"""Seconds within which a stop or a revoke is in force."""


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Company]:
    with company_at(standard_settings(fake), SECRETS, {"accept": {"speech": "key", "images": "token"}}) as company:
        yield company


@pytest.fixture
def company(shared: Company, fake: FakeProvider) -> Company:
    fake.reset()
    return shared


def calls(fake: FakeProvider) -> int:
    """How many calls reached a backend, of whatever kind."""
    return sum(len(fake.calls(name)) for name in BACKENDS)


# ---- credentials, good and bad ------------------------------------------------------------------------


def mint(company: Company, name: str, **spec: Any) -> str:
    """A new key of the team research, known to the gateway when this returns."""
    key = keys.mint(secrets.token_bytes(32))
    with company.stores() as stores:
        minted = MintedKey(KeySpec(name, "research", **spec), keys.digest(key), keys.hint(key))
        stores.directory.create(minted)
    until(lambda: company.me(key).status_code == 200, PROMISE, "the new key")
    return key


@pytest.fixture(scope="module")
def team_key(shared: Company) -> str:
    return mint(shared, "routes")


@pytest.fixture(scope="module")
def revoked_key(shared: Company) -> str:
    key = mint(shared, "leaver")
    with shared.stores() as stores:
        stores.directory.revoke("research/leaver")
    until(lambda: shared.me(key).status_code == 401, PROMISE, "the end of the key")
    return key


@pytest.fixture(scope="module")
def bad(shared: Company, revoked_key: str) -> dict[str, str]:
    """One credential of each kind that must not pass."""
    forger, past = SigningKeys(), int(time.time()) - 3600
    unknown = keys.mint(secrets.token_bytes(32))
    return {
        "an unknown key": unknown,
        "a mistyped key": unknown[:-1] + ("a" if unknown[-1] != "a" else "b"),
        "a revoked key": revoked_key,
        "another's key": "sk-proj-0123456789abcdef",
        "an expired token": genuine(shared.keys, claims_of(iat=past - 60, nbf=past - 60, exp=past)),
        "a forged token": genuine(forger, claims_of(), kid=shared.keys.rsa.kid),
        "an unsigned token": compact({"alg": "none", "typ": "JWT"}, claims_of(), unsigned),
        "a token for another API": genuine(shared.keys, claims_of(aud="api://other")),
    }


def bad_code(case: str) -> str:
    """A token of an issuer that is known is told apart from what is no credential at all."""
    known = ("an expired token", "a forged token", "a token for another API")
    return "invalid_token" if case in known else "invalid_api_key"


# ---- the routes ---------------------------------------------------------------------------------------

MODELS = {
    Surface.EMBEDDINGS: "text-embedding-3-small",
    Surface.TRANSCRIPTIONS: "whisper-1",
    Surface.TRANSLATIONS: "whisper-1",
    Surface.SPEECH: "gpt-4o-mini-tts",
    Surface.IMAGES: "gpt-image-1",
    Surface.IMAGE_EDITS: "gpt-image-1",
    Surface.MODERATIONS: "omni-moderation-latest",
    Surface.RERANK: "rerank-v3.5",
    Surface.MESSAGES: "claude-sonnet-5-5",
    Surface.COUNT_TOKENS: "claude-sonnet-5-5",
}
FIELDS: dict[Surface, Json] = {
    Surface.CHAT: {"messages": SAY},
    Surface.COMPLETIONS: {"prompt": "Hi"},
    Surface.EMBEDDINGS: {"input": "Hi"},
    Surface.RESPONSES: {"input": "Hi"},
    Surface.SPEECH: {"input": "Hi", "voice": "alloy"},
    Surface.IMAGES: {"prompt": "a dot"},
    Surface.MODERATIONS: {"input": "Hi"},
    Surface.RERANK: {"query": "red", "documents": ["a red car", "a bike"]},
    Surface.MESSAGES: {"messages": SAY, "max_tokens": 50},
    Surface.COUNT_TOKENS: {"messages": SAY},
}
ITEM = "resp_PLACE"
"""Stands for the id of a response that the caller has stored."""
ONE_KIND = {Surface.SPEECH: "key", Surface.IMAGES: "token"}
"""What the settings let through with one kind of credential only."""


@dataclass(frozen=True, slots=True)
class Route:
    method: str
    path: str

    @property
    def surface(self) -> Surface:
        place = surfaces.locate(self.path)
        assert place is not None
        return place.surface

    def request(self) -> tuple[str, bytes]:
        """The content type and the body of a good call."""
        if self.method != "POST" or self.surface is Surface.RESPONSE_ITEM:
            return "", b""
        model = MODELS.get(self.surface, "gpt-4o")
        if self.surface in surfaces.MULTIPART:
            fields = {"model": model, "prompt": "more"}
            name = "image" if self.surface is Surface.IMAGE_EDITS else "file"
            kind, body = form(fields, b"RIFF" + bytes(64))
            return kind, body.replace(b'name="file"', f'name="{name}"'.encode())
        return "application/json", json.dumps({"model": model, **FIELDS[self.surface]}).encode()


def _routes() -> Iterator[Route]:
    for path, place in surfaces._EXACT.items():
        if place.surface is not Surface.READY:
            yield from (Route(method, path) for method in place.methods)
    for path, surface in surfaces._OPERATIONS.items():
        yield Route("POST", f"/openai/deployments/{MODELS.get(surface, 'gpt-4o')}{path}")
    for base in ("/v1", "/openai/v1", "/openai", "/anthropic/v1"):
        yield Route("GET", f"{base}/models/gpt-4o")
    for base in ("/v1", "/openai/v1", "/openai"):
        for action, methods in surfaces._ITEM_METHODS.items():
            yield from (Route(method, f"{base}/responses/{ITEM}{action}") for method in methods)


ROUTES = list(_routes())
every_route = pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")


def test_no_surface_is_left_out() -> None:
    assert {route.surface for route in ROUTES} == set(Surface) - {Surface.READY}


def send(company: Company, route: Route, headers: dict[str, str], item: str = ITEM) -> httpx.Response:
    kind, body = route.request()
    typed = {"content-type": kind} if kind else {}
    if route.surface in (Surface.MESSAGES, Surface.COUNT_TOKENS):
        typed["anthropic-version"] = "2023-06-01"
    path = route.path.replace(ITEM, item)
    return company.client.request(route.method, path, content=body, headers={**typed, **headers})


def stored_response(company: Company, credential: str) -> str:
    """The id of a response that the credential's bearer has just made, still in the making."""
    body = {"model": "gpt-4o", "input": "Hi", "background": True}
    answer = company.client.post("/v1/responses", json=body, headers=bearer(credential))
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


@every_route
def test_a_route_without_a_credential_is_closed(route: Route, company: Company, fake: FakeProvider) -> None:
    for headers in ({}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Bearer null"}):
        answer = send(company, route, headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")
    assert answer.headers["x-should-retry"] == "false"
    assert company.gateway.record(answer.headers["x-request-id"])["refusal"] == "missing_api_key"
    assert calls(fake) == 0


@every_route
def test_a_route_is_closed_to_every_wrong_credential(
    route: Route, company: Company, bad: dict[str, str], fake: FakeProvider
) -> None:
    answers = {case: send(company, route, bearer(credential)) for case, credential in bad.items()}
    for case, answer in answers.items():
        error = answer.json()["error"]
        assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false"), case
        assert error["code"] == bad_code(case), case
        assert company.gateway.record(answer.headers["x-request-id"])["refusal"] == error["code"]
    assert calls(fake) == 0


@every_route
@pytest.mark.parametrize("kind", ["key", "token"])
def test_a_route_is_open_to_a_good_credential(kind: str, route: Route, company: Company, team_key: str) -> None:
    credential = team_key if kind == "key" else genuine(company.keys, claims_of("ann"))
    item = stored_response(company, credential) if ITEM in route.path else ITEM
    answer = send(company, route, bearer(credential), item)
    if ONE_KIND.get(route.surface, kind) != kind:
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "permission_denied")
        return
    assert answer.status_code == 200, answer.text
    record = company.gateway.record(answer.headers["x-request-id"])
    assert (record["team"], record.get("user")) == ("research", None if kind == "key" else ANN)


@pytest.mark.parametrize("header", ["api-key", "x-api-key"])
@pytest.mark.parametrize(
    "route",
    [route for route in ROUTES if ITEM not in route.path and ONE_KIND.get(route.surface) != "token"],
    ids=lambda route: f"{route.method} {route.path}",
)
def test_a_key_may_stand_in_each_header_that_the_sdks_use(
    route: Route, header: str, company: Company, team_key: str
) -> None:
    assert send(company, route, {header: team_key}).status_code == 200


# ---- where a credential stands ------------------------------------------------------------------------


def get_me(company: Company, headers: list[tuple[str, str]], path: str = "/v1/me") -> Answer:
    with Connection(company.gateway.port) as connection:
        connection.send(head("GET", path, headers))
        return connection.answer()


ELSEWHERE: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "in the query": ("?access_token=TOKEN", []),
    "in the query, as Azure's key": ("?api-key=TOKEN&subscription-key=TOKEN&token=TOKEN", []),
    "a key in the query": ("?api-key=KEY&key=KEY&access_token=KEY&authorization=Bearer%20KEY", []),
    "a key in a cookie": ("", [("cookie", "api-key=KEY")]),
    "a key as Basic": ("", [("authorization", "Basic KEY")]),
    "a key in proxy-authorization": ("", [("proxy-authorization", "Bearer KEY")]),
    "in api-key": ("", [("api-key", "TOKEN")]),
    "in x-api-key": ("", [("x-api-key", "TOKEN")]),
    "in x-api-key, as bearer": ("", [("x-api-key", "Bearer TOKEN")]),
    "in a cookie": ("", [("cookie", "access_token=TOKEN; Authorization=Bearer TOKEN")]),
    "in proxy-authorization": ("", [("proxy-authorization", "Bearer TOKEN")]),
    "in x-forwarded-access-token": ("", [("x-forwarded-access-token", "TOKEN")]),
    "without a scheme": ("", [("authorization", "TOKEN")]),
    "as Basic": ("", [("authorization", "Basic TOKEN")]),
    "as Token": ("", [("authorization", "Token TOKEN")]),
    "as DPoP": ("", [("authorization", "DPoP TOKEN")]),
    "with a comma": ("", [("authorization", "Bearer, TOKEN")]),
    "with a colon": ("", [("authorization", "Bearer: TOKEN")]),
    "in quotes": ("", [("authorization", 'Bearer "TOKEN"')]),
    "with more behind it": ("", [("authorization", "Bearer TOKEN junk")]),
    "with more joined to it": ("", [("authorization", "Bearer TOKENjunk")]),
    "with a parameter": ("", [("authorization", 'Bearer TOKEN; realm="x"')]),
    "behind another token": ("", [("authorization", "Bearer e30.e30.e30 TOKEN")]),
    "after another scheme": ("", [("authorization", "Basic YTpi Bearer TOKEN")]),
    "after a letter": ("", [("authorization", "xBearer TOKEN")]),
    "twice in one": ("", [("authorization", "Bearer Bearer TOKEN")]),
}
MIXED: dict[str, list[tuple[str, str]]] = {
    "after a comma": [("authorization", "Basic YTpi,Bearer TOKEN")],
    "key in api-key": [("authorization", "Bearer TOKEN"), ("api-key", "KEY")],
    "key in x-api-key": [("authorization", "Bearer TOKEN"), ("x-api-key", "KEY")],
    "key in x-api-key, first": [("x-api-key", "KEY"), ("authorization", "Bearer TOKEN")],
    "key as bearer too": [("authorization", "Bearer TOKEN"), ("authorization", "Bearer KEY")],
    "key as bearer, first": [("authorization", "Bearer KEY"), ("authorization", "Bearer TOKEN")],
    "key and token in one": [("authorization", "Bearer KEY, Bearer TOKEN")],
    "token and key in one": [("authorization", "Bearer TOKEN,KEY")],
    "two people's tokens": [("authorization", "Bearer TOKEN"), ("authorization", "Bearer OTHER")],
    "two people's tokens in one": [("authorization", "Bearer TOKEN, Bearer OTHER")],
}
BESIDE: dict[str, list[tuple[str, str]]] = {
    "another's token in api-key": [("authorization", "Bearer TOKEN"), ("api-key", "OTHER")],
    "another's token in x-api-key": [("x-api-key", "Bearer OTHER"), ("authorization", "Bearer TOKEN")],
    "a foreign key": [("x-api-key", "sk-ant-api03-abc"), ("authorization", "Bearer TOKEN")],
    "a placeholder": [("api-key", "undefined"), ("authorization", "Bearer TOKEN")],
}


@pytest.fixture(scope="module")
def pieces(shared: Company, team_key: str) -> dict[str, str]:
    """What stands for the capital words of the tables."""
    return {
        "TOKEN": genuine(shared.keys, claims_of("ann")),
        "OTHER": genuine(shared.keys, claims_of("bob")),
        "KEY": team_key,
    }


def with_pieces(text: str, pieces: dict[str, str]) -> str:
    for word, piece in pieces.items():
        text = text.replace(word, piece)
    return text


def filled(headers: list[tuple[str, str]], pieces: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, with_pieces(value, pieces)) for name, value in headers]


def assert_untold(company: Company, pieces: dict[str, str], text: str) -> None:
    written = text + company.gateway.log()
    assert not any(piece[-40:] in written for piece in pieces.values())


@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_token_anywhere_but_in_its_place_is_none(case: str, company: Company, pieces: dict[str, str]) -> None:
    path, headers = ELSEWHERE[case]
    answer = get_me(company, filled(headers, pieces), "/v1/me" + with_pieces(path, pieces))
    assert answer.status == 401
    assert answer.json()["error"]["code"] in ("missing_api_key", "invalid_api_key", "invalid_token")
    record = company.gateway.record(answer.request_id)
    assert (record["status"], record.get("user")) == (401, None)
    assert_untold(company, pieces, answer.body.decode())


@pytest.mark.parametrize("surface", [Surface.CHAT, Surface.IMAGE_EDITS])
def test_a_token_in_the_body_is_none(surface: Surface, company: Company, pieces: dict[str, str]) -> None:
    told = {"access_token": pieces["TOKEN"], "api_key": pieces["KEY"]}
    if surface is Surface.CHAT:
        body = {"model": "gpt-4o", "messages": SAY, **told}
        answer = company.client.post("/v1/chat/completions", json=body)
    else:
        kind, data = form({"model": "gpt-image-1", **told}, b"\x89PNG")
        answer = company.client.post("/v1/images/edits", content=data, headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_api_key")
    assert_untold(company, pieces, answer.text)


def test_a_form_field_is_no_credential(company: Company, pieces: dict[str, str], fake: FakeProvider) -> None:
    """RFC 6750 knows tokens in forms; nobody is known by one here."""
    answer = company.client.post("/v1/chat/completions", data={"access_token": pieces["TOKEN"]})
    assert answer.status_code == 401
    assert calls(fake) == 0


@pytest.mark.parametrize("case", MIXED)
def test_two_credentials_are_refused_and_neither_is_believed(
    case: str, company: Company, pieces: dict[str, str]
) -> None:
    answer = get_me(company, filled(MIXED[case], pieces))
    record = company.gateway.record(answer.request_id)
    assert (record.get("user"), record.get("team")) == (None, None)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "ambiguous_credentials")
    assert_untold(company, pieces, answer.body.decode())


@pytest.mark.parametrize("case", BESIDE)
def test_what_is_no_credential_of_ours_changes_nothing_beside_a_token(
    case: str, company: Company, pieces: dict[str, str]
) -> None:
    """Agents send what they have for others along; a token counts in `authorization` only."""
    answer = get_me(company, filled(BESIDE[case], pieces))
    assert (answer.status, answer.json().get("user")) == (200, ANN)


SPELLINGS = {
    "as RFC 6750 spells it": "Bearer TOKEN",
    "in small letters": "bearer TOKEN",
    "with more blanks": "Bearer    TOKEN",
    "with blanks at the end": "Bearer TOKEN  ",
}


@pytest.mark.parametrize("case", SPELLINGS)
def test_a_token_in_its_place_is_found(case: str, company: Company, pieces: dict[str, str]) -> None:
    answer = get_me(company, filled([("Authorization", SPELLINGS[case])], pieces))
    assert (answer.status, answer.json().get("user")) == (200, ANN)


@pytest.mark.parametrize("scheme", ["BEARER", "bEARER"])
def test_the_scheme_in_odd_cases_is_good_for_keys_and_says_what_to_do_for_tokens(
    scheme: str, company: Company, pieces: dict[str, str]
) -> None:
    """Envoy looks for `Bearer` and `bearer`: in another spelling a token stays unverified, which is refused."""
    assert get_me(company, [("authorization", f"{scheme} {pieces['KEY']}")]).status == 200
    answer = get_me(company, [("authorization", f"{scheme} {pieces['TOKEN']}")])
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")


ODD_KEYS = {
    "SQL": "sk-sluice-' OR '1'='1' --",
    "SQL behind it": "KEY' OR '1'='1",
    "a wildcard": "sk-sluice-%",
    "its beginning": "CUT",
    "one letter more": "KEYa",
    "in capitals": "UPPER",
    "a look-alike": "sk-sluiсe-0123456789",  # its c is Cyrillic
    "a soft hyphen": "KEY\u00ad",
    "a no-break space": "KEY\u00a0",
    "50 KB": "sk-sluice-" + "0" * 50_000,
    "its digest": "DIGEST",
}


@pytest.mark.parametrize("header", ["authorization", "api-key", "x-api-key"])
@pytest.mark.parametrize("case", ODD_KEYS)
def test_an_odd_key_is_just_a_wrong_one(case: str, header: str, company: Company, team_key: str) -> None:
    forms = {"KEY": team_key, "CUT": team_key[:-1], "UPPER": team_key.upper(), "DIGEST": keys.digest(team_key)}
    given = with_pieces(ODD_KEYS[case], forms)
    value = f"Bearer {given}" if header == "authorization" else given
    with Connection(company.gateway.port) as connection:
        connection.send(head("GET", "/v1/me", {header: "PLACE"}).replace(b"PLACE", value.encode()))
        answer = connection.answer()
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    assert company.gateway.record(answer.request_id)["refusal"] == "invalid_api_key"
    assert_untold(company, forms, answer.body.decode())


# ---- teams --------------------------------------------------------------------------------------------


def test_who_is_in_two_teams_names_the_one_that_pays(company: Company) -> None:
    """Bob is in sales by name, and by this token's role in research."""
    token = genuine(company.keys, claims_of("bob", roles=["Caller"]))
    assert company.me(token).json()["error"]["code"] == "ambiguous_team"
    for team in ("research", "sales"):
        answer = get_me(company, [("authorization", f"Bearer {token}"), ("openai-project", team)])
        assert (answer.status, answer.json()["team"]) == (200, team)
    answer = get_me(company, [("authorization", f"Bearer {token}"), ("openai-project", "treasury")])
    assert (answer.status, answer.json()["error"]["code"]) == (403, "no_team")


# ---- headers that would say who calls -----------------------------------------------------------------

SPOOFED = [
    "x-sluice-identity",
    "x-sluice-caller",
    "x-sluice-team",
    "x-sluice-routed",
    "x-team-id",
    "x-team",
    "x-user",
    "x-user-id",
    "x-user-email",
    "x-tenant-id",
    "x-role",
    "x-roles",
    "x-groups",
    "x-jwt-payload",
    "x-jwt-claims",
    "x-jwt-claim-sub",
    "x-auth-request-user",
    "x-auth-request-email",
    "x-auth-request-groups",
    "x-authenticated-user",
    "x-forwarded-user",
    "x-forwarded-email",
    "x-forwarded-groups",
    "x-forwarded-preferred-username",
    "x-forwarded-client-cert",
    "x-ms-client-principal",
    "x-ms-client-principal-id",
    "x-ms-client-principal-name",
    "x-ms-token-aad-access-token",
    "x-goog-authenticated-user-email",
    "x-goog-iap-jwt-assertion",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-original-authorization",
    "x-endpoint-api-userinfo",
    "x-envoy-dynamic-metadata",
    "x-envoy-internal",
    "x-envoy-jwt-payload",
    "entra",
    "remote-user",
    "sluice.call",
]


def _values(company: Company) -> list[str]:
    """What a header that is believed might be asked for: names, and claims in the forms that proxies hand on."""
    claims = claims_of("bob")
    token = genuine(company.keys, claims)
    return ["bob@example.com", "sales", "platform_admin", json.dumps(claims), token.split(".")[1], token]


@pytest.mark.parametrize("name", SPOOFED)
def test_no_header_changes_who_the_caller_is(name: str, company: Company, pieces: dict[str, str]) -> None:
    """Whatever its case, repeated, before the credential and behind it; with a key and with a token."""
    spelled = (name, name.upper(), name.title())
    spoofed = [(spelling, value) for spelling in spelled for value in _values(company)]
    answers = []
    for word, user, role in (("TOKEN", ANN, "developer"), ("KEY", None, "service_account")):
        true = ("authorization", f"Bearer {pieces[word]}")
        orders = ([*spoofed, true], [true, *spoofed])
        answers += [(get_me(company, headers), user, role) for headers in orders]
    for answer, user, role in answers:
        told = answer.json()
        assert (answer.status, told["user"], told["team"], told["roles"]) == (200, user, "research", [role])
        record = company.gateway.record(answer.request_id)
        assert (record.get("user"), record["team"], record["area"]) == (user, "research", "science")


@pytest.mark.parametrize("name", SPOOFED)
def test_no_header_stands_for_a_credential(name: str, company: Company) -> None:
    answer = get_me(company, [(name, value) for value in _values(company)])
    assert (answer.status, answer.json()["error"]["code"]) == (401, "missing_api_key")


@pytest.mark.parametrize("name", [name for name in SPOOFED if "-" in name])
def test_no_header_is_reached_through_an_underscore(name: str, company: Company, pieces: dict[str, str]) -> None:
    headers = [("authorization", f"Bearer {pieces['TOKEN']}"), (name.replace("-", "_"), "bob@example.com")]
    assert get_me(company, headers).status == 400


@pytest.mark.parametrize("name", ["authorization", "x-sluice-identity", "x-team-id", "x-forwarded-user"])
def test_connection_takes_no_identity_away_or_in(name: str, company: Company, pieces: dict[str, str]) -> None:
    """Hop-by-hop tricks: at most the credential is gone, and with it the call."""
    headers = [("authorization", f"Bearer {pieces['TOKEN']}"), (name, "bob@example.com")]
    answer = get_me(company, [*headers[: 1 if name == "authorization" else 2], ("connection", f"close, {name}")])
    if answer.status == 200:
        assert answer.json()["user"] == ANN
    else:
        assert name == "authorization"
        assert answer.status in (400, 401)


# ---- out of service -----------------------------------------------------------------------------------


def in_force(company: Company, credential: str, status: int) -> None:
    """Wait for a change to take effect, no longer than is promised."""
    until(lambda: company.me(credential).status_code == status, PROMISE, f"status {status}")


def test_a_stopped_user_is_refused_on_every_route_with_the_old_token(company: Company, fake: FakeProvider) -> None:
    token = company.token("ann")
    assert company.me(token).status_code == 200
    with company.stores() as stores:
        stores.directory.stop(StopScope.USER, ANN, "left the company")
        try:
            in_force(company, token, 403)
            fake.reset()
            for route in ROUTES:
                answer = send(company, route, bearer(token))
                assert (answer.status_code, answer.json()["error"]["code"]) == (403, "stopped"), route
            assert calls(fake) == 0
            assert company.me(company.token("batch")).status_code == 200
        finally:
            stores.directory.lift(StopScope.USER, ANN)
    in_force(company, token, 200)


def test_a_stopped_team_takes_keys_and_tokens_with_it(company: Company, team_key: str) -> None:
    credentials = [team_key, company.token("ann"), company.token("batch"), company.token("carl")]
    with company.stores() as stores:
        stores.directory.stop(StopScope.TEAM, "research", "a leak")
        try:
            for credential in credentials:
                in_force(company, credential, 403)
            assert company.me(company.token("bob")).status_code == 200
        finally:
            stores.directory.lift(StopScope.TEAM, "research")
    for credential in credentials:
        in_force(company, credential, 200)

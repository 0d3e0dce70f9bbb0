"""Tokens at the gateway: who genuine ones stand for, and a corpus of bad ones, each refused on every face.

The genuine ones come from the certified provider; the forger has the issuer's keys too, so that whatever is wrong
with a token of the corpus is the one thing that is wrong with it.
"""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from base64 import b64encode, urlsafe_b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from joserfc import jwe
from joserfc.jwk import RSAKey

from tests.dataplane.conftest import SECRETS, standard_settings
from tests.support.fake import FakeProvider
from tests.support.gateway import until
from tests.support.oidc import JwksServer
from tests.support.tokens import (
    AUDIENCE,
    ENTRA,
    OTHER_TENANT,
    TEAM_OF,
    TENANT,
    Company,
    Sign,
    SigningKeys,
    bearer,
    claims_of,
    compact,
    company_at,
    genuine,
    segment,
    signer,
    unsigned,
)

Json = dict[str, Any]

BACKENDS = ("openai", "azure", "azure-v1", "anthropic")
SAY = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def shared(fake: FakeProvider) -> Iterator[Company]:
    with company_at(standard_settings(fake), SECRETS) as company:
        yield company


@pytest.fixture
def company(shared: Company, fake: FakeProvider) -> Company:
    fake.reset()
    return shared


# ---- genuine tokens -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEAM_OF)
def test_a_person_who_signed_in_is_known_by_name_and_team(name: str, company: Company) -> None:
    answer = company.me(company.token(name))
    assert answer.status_code == 200
    told = answer.json()
    assert (told["object"], told["user"], told["team"]) == ("caller", f"{name}@example.com", TEAM_OF[name])
    assert (told["credential"]["kind"], told["credential"]["issuer"]) == ("token", "entra")
    record = company.gateway.record(answer.headers["x-request-id"])
    assert (record["user"], record["team"], record["issuer"]) == (f"{name}@example.com", TEAM_OF[name], "entra")


@pytest.mark.parametrize(
    ("client", "issuer", "account"),
    [
        ("batch", "entra", None),
        ("batch-es256", "entra", None),
        ("batch-v1", "entra-v1", None),
        ("nightly", "own", "nightly-job"),
    ],
)
def test_an_application_that_calls_for_itself_is_no_person(
    client: str, issuer: str, account: str | None, company: Company
) -> None:
    """`nightly` is named in the team; the others come in by the role that the directory gave them."""
    answer = company.me(company.token(client))
    told = answer.json()
    assert (answer.status_code, told["team"], told["credential"]["issuer"]) == (200, "research", issuer)
    assert told.get("user") is None
    record = company.gateway.record(answer.headers["x-request-id"])
    assert (record.get("user"), record.get("service_account")) == (None, account)


@pytest.mark.parametrize(
    ("who", "word"), [("no-role", "no team"), ("nobody", "no team"), ("olga", "left out"), ("oscar", "left out")]
)
def test_a_genuine_token_of_somebody_in_no_team_is_told_why(
    who: str, word: str, company: Company, fake: FakeProvider
) -> None:
    """Entra leaves the groups out where there are too many: that is told apart from being in none."""
    answer = call(company, "openai", bearer(company.token(who)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "no_team")
    assert word in answer.json()["error"]["message"]
    assert calls(fake) == 0


def test_prefix_equal_tokens_of_two_people_never_mix(company: Company) -> None:
    """Two hundred calls at once, in turns: each is told who it is itself."""
    people = ("ann", "bob")
    tokens = {name: genuine(company.keys, claims_of(name)) for name in people}
    shared = next(at for at, pair in enumerate(zip(*tokens.values(), strict=False)) if len(set(pair)) > 1)
    assert shared > 200

    async def ask_all() -> list[tuple[str, str]]:
        async with httpx.AsyncClient(base_url=company.gateway.url, trust_env=False, timeout=30) as client:

            async def ask(name: str) -> tuple[str, str]:
                answer = await client.get("/v1/me", headers=bearer(tokens[name]))
                return name, answer.json()["user"]

            return await asyncio.gather(*(ask(people[turn % 2]) for turn in range(200)))

    assert {(name, f"{name}@example.com") for name in people} == set(asyncio.run(ask_all()))


# A few seconds lie between making a token and looking at it, so times keep that far from the skew of a minute.
GOOD: dict[str, Callable[[], Json]] = {
    "aud as a list": lambda: claims_of(aud=["https://graph.example", AUDIENCE]),
    "expired within the skew": lambda: claims_of(iat=now() - 600, nbf=now() - 600, exp=now() - 56),
    "not before, within the skew": lambda: claims_of(nbf=now() + 56),
    "issued ahead, within the skew": lambda: claims_of(iat=now() + 56),
    "without iat and nbf": lambda: claims_of(iat=None, nbf=None),
    "a long list of groups": lambda: claims_of(groups=[secrets.token_hex(18) for _ in range(200)]),
    "claims nested 20 deep": lambda: json.loads(nested(20)),
    "names in many scripts": lambda: claims_of(name="Ann Ångström, 安, آن, 🦥", family_name='"\\\u0001'),
}


@pytest.mark.parametrize("case", GOOD)
def test_odd_but_good_tokens_are_accepted(case: str, company: Company) -> None:
    answer = company.me(genuine(company.keys, GOOD[case]()))
    assert (answer.status_code, answer.json().get("user")) == (200, "ann@example.com")


# ---- the corpus ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a forger has to hand: the issuer's keys for what only looks right, keys of its own, and a server."""

    keys: SigningKeys
    own: SigningKeys
    url: str

    def forged(self, **header: Any) -> str:
        """A token that only the forger signed, for whoever believes its header."""
        fields = {"typ": "JWT", "alg": "RS256", "kid": self.own.rsa.kid, **header}
        said = {name: value for name, value in fields.items() if value is not None}
        return compact(said, claims_of(), signer("RS256", self.own.rsa))

    def signed(self, **changes: Any) -> str:
        """A token that the issuer signed, with other claims."""
        return genuine(self.keys, claims_of(**changes))

    def headed(self, **header: Any) -> str:
        """A token that the issuer signed, with other fields in the header."""
        return genuine(self.keys, claims_of(), **header)

    def raw(self, header: bytes | Json, claims: bytes | Json) -> str:
        """A token that the issuer signed, of whatever bytes."""
        return compact(header, claims, signer("RS256", self.keys.rsa))

    def under(self, alg: str, sign: Sign, kid: str | None) -> str:
        """A token with the algorithm and the key id that its header says, however it is signed."""
        named = {} if kid is None else {"kid": kid}
        return compact({"typ": "JWT", "alg": alg, **named}, claims_of(), sign)

    def payload(self, claims: bytes) -> str:
        """A token that the issuer signed, whose claims are these bytes."""
        return self.raw({"typ": "JWT", "alg": "RS256", "kid": self.keys.rsa.kid}, claims)


def now() -> int:
    return int(time.time())


def hs256(secret: bytes) -> Sign:
    """Symmetric, with a secret that everybody knows."""
    return lambda data: hmac.new(secret, data, hashlib.sha256).digest()


def spki(key: RSAKey, encoding: str) -> bytes:
    made: bytes = key.as_pem(private=False) if encoding == "PEM" else key.as_der(private=False)
    return made


def changed(token: str, part: int, change: Callable[[str], str]) -> str:
    parts = token.split(".")
    parts[part] = change(parts[part])
    return ".".join(parts)


def flipped(text: str) -> str:
    """The same with a bit of its middle turned over."""
    data = bytearray(urlsafe_b64decode(text + "=="))
    data[len(data) // 2] ^= 1
    return segment(bytes(data))


def doubled(claim: str, value: Any) -> bytes:
    """Claims with one of them twice, the false one last."""
    return json.dumps(claims_of()).encode()[:-1] + f", {json.dumps(claim)}: {json.dumps(value)}}}".encode()


def nested(depth: int) -> bytes:
    """Claims of which one is a list in a list, and so on."""
    return json.dumps(claims_of(name="X")).encode().replace(b'"X"', b"[" * depth + b"]" * depth)


def encrypted(key: RSAKey, text: str) -> str:
    """To the issuer, with a key that it published for signatures."""
    public = RSAKey.import_key(spki(key, "PEM"))
    return jwe.encrypt_compact({"alg": "RSA-OAEP", "enc": "A256GCM", "cty": "JWT"}, text, public)


Forgery = Callable[[Workshop], str]

ALGORITHMS: dict[str, Forgery] = {
    "alg none": lambda shop: shop.under("none", unsigned, None),
    "alg none with a key id": lambda shop: shop.under("none", unsigned, shop.keys.rsa.kid),
    "alg None": lambda shop: shop.under("None", unsigned, shop.keys.rsa.kid),
    "alg NONE with a signature": lambda shop: shop.under("NONE", signer("RS256", shop.keys.rsa), shop.keys.rsa.kid),
    "alg empty": lambda shop: shop.under("", signer("RS256", shop.keys.rsa), shop.keys.rsa.kid),
    "alg rs256": lambda shop: shop.under("rs256", signer("RS256", shop.keys.rsa), shop.keys.rsa.kid),
    "no alg": lambda shop: shop.raw({"typ": "JWT", "kid": shop.keys.rsa.kid}, claims_of()),
    "alg a number": lambda shop: shop.raw({"alg": 256, "kid": shop.keys.rsa.kid}, claims_of()),
    "alg a list": lambda shop: shop.raw({"alg": ["RS256"], "kid": shop.keys.rsa.kid}, claims_of()),
    "HS256 with the public key in PEM": lambda shop: shop.under(
        "HS256", hs256(spki(shop.keys.rsa, "PEM")), shop.keys.rsa.kid
    ),
    "HS256 with the public key in DER": lambda shop: shop.under(
        "HS256", hs256(spki(shop.keys.rsa, "DER")), shop.keys.rsa.kid
    ),
    "HS256 with the modulus": lambda shop: shop.under(
        "HS256", hs256(str(shop.keys.rsa.as_dict(private=False)["n"]).encode()), shop.keys.rsa.kid
    ),
    "HS256 with no secret": lambda shop: shop.under("HS256", hs256(b""), shop.keys.rsa.kid),
    "PS256 by a key for RS256": lambda shop: shop.under("PS256", signer("PS256", shop.keys.rsa), shop.keys.rsa.kid),
    "RS512 by a key for RS256": lambda shop: shop.under("RS512", signer("RS512", shop.keys.rsa), shop.keys.rsa.kid),
    "ES256 under the RSA key's id": lambda shop: shop.under("ES256", signer("ES256", shop.keys.ec), shop.keys.rsa.kid),
    "RS256 under the EC key's id": lambda shop: shop.under("RS256", signer("RS256", shop.keys.rsa), shop.keys.ec.kid),
    "ES256 of zeros": lambda shop: shop.under("ES256", lambda _: bytes(64), shop.keys.ec.kid),
    "RS256 of zeros": lambda shop: shop.under("RS256", lambda _: bytes(256), shop.keys.rsa.kid),
    "signature taken off": lambda shop: changed(shop.signed(), 2, lambda _: ""),
    "signature cut short": lambda shop: changed(shop.signed(), 2, lambda text: text[:-8]),
    "signature changed": lambda shop: changed(shop.signed(), 2, flipped),
    "signature of another token": lambda shop: changed(shop.signed(), 2, lambda _: shop.signed(sub="x").split(".")[2]),
    "claims changed": lambda shop: changed(shop.signed(), 1, lambda _: segment(claims_of("bob"))),
    "header changed": lambda shop: changed(
        shop.signed(), 0, lambda _: segment({"alg": "RS256", "kid": shop.keys.rsa.kid, "x": 1})
    ),
}

KEYS: dict[str, Forgery] = {
    "an unknown key": lambda shop: shop.forged(),
    "an unknown key without an id": lambda shop: shop.forged(kid=None),
    "an unknown key under a known id": lambda shop: shop.forged(kid=shop.keys.rsa.kid),
    "jwk in the header": lambda shop: shop.forged(jwk=shop.own.rsa.as_dict(private=False)),
    "jwk in the header under a known id": lambda shop: shop.forged(
        jwk=shop.own.rsa.as_dict(private=False), kid=shop.keys.rsa.kid
    ),
    "jku": lambda shop: shop.forged(jku=shop.url),
    "x5u": lambda shop: shop.forged(x5u=shop.url),
    "x5c": lambda shop: shop.forged(x5c=[b64encode(spki(shop.own.rsa, "DER")).decode()]),
    "kid of a file": lambda shop: shop.headed(kid="../../../../../../dev/null"),
    "kid of a file, empty secret": lambda shop: shop.under("HS256", hs256(b""), "/dev/null"),
    "kid of SQL": lambda shop: shop.headed(kid="' UNION SELECT 'secret' --"),
    "kid of a URL": lambda shop: shop.headed(kid=shop.url),
    "kid of a command": lambda shop: shop.headed(kid="$(touch x)|id;`id`"),
    "kid with NUL and newline": lambda shop: shop.headed(kid=f"{shop.keys.rsa.kid}\0\r\nx-team: research"),
    "kid of another case": lambda shop: shop.headed(kid=str(shop.keys.rsa.kid).upper()),
    "kid a number": lambda shop: shop.headed(kid=1),
    "kid a list": lambda shop: shop.headed(kid=[shop.keys.rsa.kid]),
    "kid of 20 KB": lambda shop: shop.headed(kid="k" * 20_000),
}

TIMES: dict[str, Forgery] = {
    "expired beyond the skew": lambda shop: shop.signed(exp=now() - 61),
    "expired long ago": lambda shop: shop.signed(iat=1, nbf=1, exp=2),
    "not before, beyond the skew": lambda shop: shop.signed(nbf=now() + 66),
    "not before far ahead": lambda shop: shop.signed(nbf=now() + 10**8, exp=now() + 10**9),
    "issued beyond the skew": lambda shop: shop.signed(iat=now() + 66),
    "issued far ahead": lambda shop: shop.signed(iat=now() + 10**8),
    "without exp": lambda shop: shop.signed(exp=None),
    "exp null": lambda shop: shop.payload(json.dumps({**claims_of(), "exp": None}).encode()),
    "exp as text": lambda shop: shop.signed(exp=str(now() + 600)),
    "exp as a list": lambda shop: shop.signed(exp=[now() + 600]),
    "exp zero": lambda shop: shop.signed(exp=0),
    "exp negative": lambda shop: shop.signed(exp=-1),
    "exp beyond any number": lambda shop: shop.payload(
        json.dumps(claims_of(exp=77777)).encode().replace(b"77777", b"1e400")
    ),
    "exp not a number": lambda shop: shop.payload(json.dumps(claims_of(exp=77777)).encode().replace(b"77777", b"NaN")),
    "nbf as text": lambda shop: shop.signed(nbf="0"),
    "iat as text": lambda shop: shop.signed(iat="0"),
    "iat negative": lambda shop: shop.signed(iat=-1),
}

PARTIES: dict[str, Forgery] = {
    "aud of another API": lambda shop: shop.signed(aud="api://other"),
    "no aud": lambda shop: shop.signed(aud=None),
    "aud empty": lambda shop: shop.signed(aud=""),
    "aud longer": lambda shop: shop.signed(aud=AUDIENCE + ".evil.example"),
    "aud shorter": lambda shop: shop.signed(aud=AUDIENCE[:-1]),
    "aud a list without ours": lambda shop: shop.signed(aud=["api://other", "https://graph.example"]),
    "aud an empty list": lambda shop: shop.signed(aud=[]),
    "aud an object": lambda shop: shop.signed(aud={AUDIENCE: True}),
    "iss of another tenant": lambda shop: shop.signed(iss=ENTRA.replace(TENANT, OTHER_TENANT)),
    "iss with a slash": lambda shop: shop.signed(iss=ENTRA + "/"),
    "iss in capitals": lambda shop: shop.signed(iss=ENTRA.upper()),
    "iss of the attacker": lambda shop: shop.forged(jku=shop.url),
    "no iss": lambda shop: shop.signed(iss=None),
    "iss a list": lambda shop: shop.signed(iss=[ENTRA]),
    "tid of another tenant": lambda shop: shop.signed(tid=OTHER_TENANT),
    "no tid": lambda shop: shop.signed(tid=None),
    "tid a list in a list": lambda shop: shop.signed(tid=[[TENANT]]),
    "azp of another application": lambda shop: shop.signed(azp="11111111-0000-4000-8000-000000000001"),
    "no azp": lambda shop: shop.signed(azp=None),
    "nobody": lambda shop: shop.signed(sub=None, preferred_username=None),
    "a person without a name": lambda shop: shop.signed(preferred_username=None),
    "a person with an empty name": lambda shop: shop.signed(preferred_username=""),
    "a person with two names": lambda shop: shop.signed(preferred_username=["ann@example.com", "bob@example.com"]),
}

FORMS: dict[str, Forgery] = {
    "crit unknown": lambda shop: shop.headed(crit=["urn:example:must"], **{"urn:example:must": True}),
    "crit known": lambda shop: shop.headed(crit=["exp"], exp=now()),
    "crit empty": lambda shop: shop.headed(crit=[]),
    "b64 false": lambda shop: shop.headed(crit=["b64"], b64=False),
    "nested": lambda shop: compact(
        {"typ": "JWT", "cty": "JWT", "alg": "RS256", "kid": shop.keys.rsa.kid},
        shop.signed().encode(),
        signer("RS256", shop.keys.rsa),
    ),
    "encrypted": lambda shop: encrypted(shop.keys.rsa, shop.signed()),
    "two parts": lambda shop: shop.signed().rpartition(".")[0],
    "four parts": lambda shop: shop.signed() + ".e30",
    "a part more in front": lambda shop: "e30." + shop.signed(),
    "only dots": lambda shop: "..",
    "padded": lambda shop: changed(shop.signed(), 1, lambda text: text + "=" * (-len(text) % 4 or 4)),
    "header not JSON": lambda shop: shop.raw(b"RS256", claims_of()),
    "header a list": lambda shop: shop.raw(b"[]", claims_of()),
    "claims not JSON": lambda shop: shop.payload(b"sub=ann"),
    "claims a list": lambda shop: shop.payload(json.dumps([claims_of()]).encode()),
    "claims null": lambda shop: shop.payload(b"null"),
    "claims empty": lambda shop: shop.payload(b"{}"),
    "claims not UTF-8": lambda shop: shop.payload(json.dumps(claims_of(name="X")).encode().replace(b'"X"', b'"\xff"')),
    "claims with bytes after them": lambda shop: shop.payload(json.dumps(claims_of()).encode() + b"{}"),
    "claims nested 60 deep": lambda shop: shop.payload(nested(60)),
    "claims nested 9,000 deep": lambda shop: shop.payload(nested(9_000)),
    "sub twice": lambda shop: shop.payload(doubled("sub", "bob")),
    "user twice": lambda shop: shop.payload(doubled("preferred_username", "bob@example.com")),
    "exp twice": lambda shop: shop.payload(doubled("exp", now() + 10**9)),
    "roles twice": lambda shop: shop.payload(doubled("roles", ["Caller"])),
    "alg twice": lambda shop: shop.raw(
        f'{{"alg":"none","kid":"{shop.keys.rsa.kid}","alg":"RS256"}}'.encode(), claims_of()
    ),
}

CORPUS = {**ALGORITHMS, **KEYS, **TIMES, **PARTIES, **FORMS}


@pytest.fixture(scope="module")
def workshop(shared: Company) -> Iterator[Workshop]:
    own = SigningKeys()
    with JwksServer(own.public()) as server:
        yield Workshop(shared.keys, own, server.url)
        assert server.fetches == 0, "somebody believed the header of a token"


FACES = {
    "openai": ("/v1/chat/completions", {"model": "gpt-4o", "messages": SAY}),
    "azure": ("/openai/deployments/gpt-4o-azure/chat/completions", {"messages": SAY}),
    "anthropic": ("/v1/messages", {"model": "claude-sonnet-5-5", "messages": SAY, "max_tokens": 50}),
}


def call(company: Company, face: str, headers: dict[str, str]) -> httpx.Response:
    path, body = FACES[face]
    return company.client.post(path, json=body, headers=headers)


def calls(fake: FakeProvider) -> int:
    """How many calls reached a backend, of whatever kind."""
    return sum(len(fake.calls(name)) for name in BACKENDS)


def assert_refused(answer: httpx.Response, face: str, company: Company, token: str) -> None:
    """401 in the shape of the face, one record, and no word of the token in anything that was written."""
    error = answer.json()["error"]
    assert (answer.status_code, answer.headers["x-should-retry"]) == (401, "false"), error
    assert error["code"] in ("invalid_token", "invalid_api_key")
    if face == "anthropic":
        assert (answer.json()["type"], error["type"]) == ("error", "authentication_error")
    elif face == "azure":
        assert (set(error), error["status"]) == ({"code", "message", "param", "status"}, 401)
    else:
        assert set(error) == {"message", "type", "param", "code"}
    request_id = answer.headers["x-request-id"]
    record = company.gateway.record(request_id)
    assert (record["status"], record["ending"], record["refusal"]) == (401, "refused", error["code"])
    assert len([line for line in company.gateway.records() if line["request_id"] == request_id]) == 1
    assert "user" not in record
    assert "team" not in record
    assert_untold(company, token, answer.text)


def assert_untold(company: Company, token: str, text: str) -> None:
    """No part of the token that tells it from others is in the answer or in what the gateway wrote."""
    written = text + company.gateway.log()
    for part in token.split("."):
        for at in range(0, len(part) - 24, 24):
            assert part[at : at + 24] not in written


@pytest.mark.parametrize("case", CORPUS)
def test_a_bad_token_is_refused_in_the_shape_of_each_surface(
    case: str, company: Company, workshop: Workshop, fake: FakeProvider
) -> None:
    token = CORPUS[case](workshop)
    answers = {face: call(company, face, bearer(token)) for face in FACES}
    for face, answer in answers.items():
        assert_refused(answer, face, company, token)
    assert calls(fake) == 0


REASONS = {
    "expired beyond the skew": "expired",
    "not before, beyond the skew": "not valid yet",
    "issued beyond the skew": "in the future",
    "aud of another API": "another audience",
    "tid of another tenant": "claim tid",
    "azp of another application": "claim azp",
    "crit unknown": "not understood",
}


@pytest.mark.parametrize("case", REASONS)
def test_what_is_wrong_with_a_token_is_told_where_the_bearer_can_mend_it(
    case: str, company: Company, workshop: Workshop
) -> None:
    """A person whose token has expired should not have to guess."""
    told = call(company, "openai", bearer(CORPUS[case](workshop))).json()["error"]
    assert told["code"] == "invalid_token"
    assert REASONS[case] in told["message"]


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("claims of 100 KB", lambda shop: shop.signed(note="n" * 100_000)),
        ("kid of 1 MB", lambda shop: shop.headed(kid="k" * 1_000_000)),
    ],
)
def test_a_token_that_fits_no_header_is_refused_before_anybody_reads_it(
    name: str, make: Forgery, company: Company, workshop: Workshop, fake: FakeProvider
) -> None:
    answer = call(company, "openai", bearer(make(workshop)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (431, "headers_too_large")
    assert calls(fake) == 0


def test_a_thousand_unknown_key_ids_fetch_the_keys_no_more_often(company: Company, workshop: Workshop) -> None:
    """Who asks for unknown keys must not make the gateway ask the issuer: it would be an attack on both."""
    before = company.jwks.fetches
    for _ in range(1000):
        assert company.me(workshop.headed(kid=secrets.token_urlsafe(16))).status_code == 401
    assert company.jwks.fetches - before <= 1
    assert company.me(company.token("batch")).status_code == 200


def test_the_gateway_lives_through_the_whole_corpus(company: Company, workshop: Workshop) -> None:
    """No worker and no Envoy was lost on the way, which a restart would hide."""
    before = [child.pid for child in company.gateway.processes("")]
    for case in CORPUS:
        company.me(CORPUS[case](workshop))
    assert [child.pid for child in company.gateway.processes("")] == before


def test_keys_changed_at_the_provider_are_taken_up(company: Company) -> None:
    """The provider signs with new keys from one moment to the next; the gateway fetches each second."""
    old = company.token("nightly")
    assert company.me(old).status_code == 200
    settings = company.provider.settings
    rotated = SigningKeys()
    company.provider.configure(type(settings)(rotated.private(), AUDIENCE, settings.clients, settings.users))
    new = company.token("nightly")
    until(lambda: company.me(new).status_code == 200, 5, "the new keys")
    assert company.me(old).status_code == 401
    assert company.me(genuine(rotated, claims_of())).status_code == 401  # no good for another issuer's tokens
    company.provider.configure(settings)
    until(lambda: company.me(old).status_code == 200, 5, "the old keys")

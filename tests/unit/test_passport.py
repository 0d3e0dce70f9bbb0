"""The signed identity for self-hosted backends, as a backend's own library reads it."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, InvalidClaimError, JoseError
from joserfc.jwk import OctKey

from extproc.call import Route
from extproc.identity import passport
from extproc.model import Backend, Caller, Catalogue, CredentialKind, Dialect, PublicModel, Target, Team
from tests.support.playbook import Policy, RequestBody, request

SECRET = b"a signing key of more than 32 bytes, as HS256 wants"
NOW = 1_800_000_000.7
AUDIENCE = ("vllm", "vllm-2")
TEAM = Team("research", "science", "gold", tags={"cost_center": "42"})
PERSON = Caller("usr_1", "ann", kind=CredentialKind.TOKEN, issuer="entra", user="ann@example.com", team=TEAM)


def _sign(caller: Caller) -> str:
    return passport.sign(caller, AUDIENCE, "req-1", NOW, SECRET)


def _read(token: str, secret: bytes = SECRET) -> dict[str, object]:
    return jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims


def test_it_names_the_caller_the_backends_and_the_call() -> None:
    token = _sign(PERSON)
    assert jwt.decode(token, OctKey.import_key(SECRET)).header == {"alg": "HS256", "typ": "JWT"}
    assert _read(token) == {
        "iss": "sluice",
        "aud": ["vllm", "vllm-2"],
        "sub": "user:ann@example.com",
        "user": "ann@example.com",
        "team": "research",
        "area": "science",
        "key": "usr_1",
        "issuer": "entra",
        "request_id": "req-1",
        "iat": 1_800_000_000,
        "exp": 1_800_000_300,
    }


@pytest.mark.parametrize(
    ("caller", "subject"),
    [
        (Caller("key_1", "app"), "key:key_1"),
        (Caller("key_1", "app", service_account="nightly", team=TEAM), "service_account:research/nightly"),
        (Caller("key_1", "app", service_account="nightly"), "service_account:/nightly"),
        (Caller("key_1", "app", user="ann@example.com", team=TEAM), "user:ann@example.com"),
        (Caller("key_1", "app", environment="test"), "key:key_1"),
    ],
)
def test_what_is_not_known_is_left_out(caller: Caller, subject: str) -> None:
    claims = _read(_sign(caller))
    assert claims["sub"] == subject
    assert claims["key"] == "key_1"
    assert (claims.get("user"), claims.get("service_account")) == (caller.user, caller.service_account)
    assert "issuer" not in claims
    assert None not in claims.values()
    assert ("team" in claims, "area" in claims) == (caller.team is not None, caller.team is not None)
    assert claims.get("environment") == caller.environment


def test_a_user_and_accounts_of_one_name_are_not_one() -> None:
    """Whoever may name a service account in a team's file must not become that user, nor another team's account."""
    sales = Team("sales", "trade", "gold")
    callers = [
        Caller("k", "n", user="shop", team=TEAM),
        Caller("k", "n", service_account="shop", team=TEAM),
        Caller("k", "n", service_account="shop", team=sales),
        Caller("shop", "n", team=TEAM),
    ]
    assert len({_read(_sign(caller))["sub"] for caller in callers}) == len(callers)


def test_another_backend_refuses_it() -> None:
    token = _read(_sign(PERSON))
    for backend in AUDIENCE:
        jwt.JWTClaimsRegistry(now=int(NOW), aud={"essential": True, "value": backend}).validate(token)
    with pytest.raises(InvalidClaimError):
        jwt.JWTClaimsRegistry(now=int(NOW), aud={"essential": True, "value": "vllm-3"}).validate(token)


async def test_it_is_for_the_backends_of_the_call_that_want_it() -> None:
    wanting = [Backend(name, Dialect.OPENAI, wants_identity=True) for name in (*AUDIENCE, "vllm-3")]
    swe = Backend("swe", Dialect.OPENAI)
    chain = (wanting[0], swe, wanting[1], wanting[0])
    models = {
        "own": PublicModel("own", tuple((Target(backend, "m"),) for backend in chain)),
        "bought": PublicModel("bought", ((Target(swe, "m"),),)),
    }
    everything = Catalogue(models, {one.name: one for one in (*wanting, swe)}, {}, answer_cap=4096)
    policy = Policy(catalogue=lambda: everything, signing_key=SECRET)
    assert _read(await _told(policy, "own") or "")["aud"] == list(AUDIENCE)
    assert await _told(policy, "bought") is None
    assert await _told(Policy(catalogue=lambda: everything), "own") is None


async def _told(policy: Policy, model: str) -> str | None:
    """What the backends of a call of this model are told of its caller."""
    call = policy.pipeline.begin()
    await request().tell(policy.pipeline, call)
    asked = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    order = await RequestBody(json.dumps(asked).encode()).tell(policy.pipeline, call)
    policy.pipeline.end(call)
    assert isinstance(order, Route)
    return order.identity


def _validate(token: str, now: float) -> None:
    jwt.JWTClaimsRegistry(now=int(now), leeway=0, iss={"essential": True, "value": "sluice"}).validate(_read(token))


def test_it_ends_with_its_life() -> None:
    token = _sign(PERSON)
    _validate(token, NOW)
    _validate(token, NOW + passport.LIFE - 1)
    with pytest.raises(ExpiredTokenError):
        _validate(token, NOW + passport.LIFE + 1)


def test_another_key_does_not_verify_it() -> None:
    token = _sign(PERSON)
    with pytest.raises(BadSignatureError):
        _read(token, SECRET + b"x")


def test_no_part_can_be_changed() -> None:
    head, claims, signature = _sign(PERSON).split(".")
    padded = claims + "=" * (-len(claims) % 4)
    other = json.dumps({**json.loads(base64.urlsafe_b64decode(padded)), "team": "sales"}).encode()
    forged = base64.urlsafe_b64encode(other).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for token in (f"{head}.{forged}.{signature}", f"{unsigned}.{claims}.", f"{unsigned}.{claims}.{signature}"):
        with pytest.raises(JoseError):
            _read(token)


@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.integers(0, 2**33))
def test_any_name_arrives_as_it_is_in_a_header_of_plain_letters(request_id: str, user: str, now: int) -> None:
    token = passport.sign(Caller("key_1", "app", user=user), AUDIENCE, request_id, now, SECRET)
    assert token.isascii()
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    claims = _read(token)
    assert (claims["user"], claims["request_id"], claims["iat"]) == (user, request_id, now)

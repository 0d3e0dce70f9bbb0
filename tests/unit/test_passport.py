"""The signed identity for self-hosted backends, as a backend's own library reads it."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.errors import BadSignatureError, ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from extproc.identity import passport
from extproc.model import Caller, CredentialKind, Team

SECRET = b"a signing key of more than 32 bytes, as HS256 wants"
NOW = 1_800_000_000.7
TEAM = Team("research", "science", "gold", tags={"cost_center": "42"})
PERSON = Caller("usr_1", "ann", kind=CredentialKind.TOKEN, issuer="entra", user="ann@example.com", team=TEAM)


def _read(token: str, secret: bytes = SECRET) -> dict[str, object]:
    return jwt.decode(token, OctKey.import_key(secret), algorithms=["HS256"]).claims


def test_it_names_the_caller_and_the_call() -> None:
    token = passport.sign(PERSON, "req-1", NOW, SECRET)
    assert jwt.decode(token, OctKey.import_key(SECRET)).header == {"alg": "HS256", "typ": "JWT"}
    assert _read(token) == {
        "iss": "sluice",
        "sub": "ann@example.com",
        "team": "research",
        "area": "science",
        "credential": "usr_1",
        "request_id": "req-1",
        "iat": 1_800_000_000,
        "exp": 1_800_000_300,
    }


@pytest.mark.parametrize(
    ("caller", "subject"),
    [
        (Caller("key_1", "app"), "key_1"),
        (Caller("key_1", "app", service_account="nightly", team=TEAM), "nightly"),
        (Caller("key_1", "app", user="ann@example.com", team=TEAM), "ann@example.com"),
        (Caller("key_1", "app", environment="test"), "key_1"),
    ],
)
def test_what_is_not_known_is_left_out(caller: Caller, subject: str) -> None:
    claims = _read(passport.sign(caller, "req-1", NOW, SECRET))
    assert claims["sub"] == subject
    assert claims["credential"] == "key_1"
    assert None not in claims.values()
    assert ("team" in claims, "area" in claims) == (caller.team is not None, caller.team is not None)
    assert claims.get("environment") == caller.environment


def _validate(token: str, now: float) -> None:
    jwt.JWTClaimsRegistry(now=int(now), leeway=0, iss={"essential": True, "value": "sluice"}).validate(_read(token))


def test_it_ends_with_its_life() -> None:
    token = passport.sign(PERSON, "req-1", NOW, SECRET)
    _validate(token, NOW)
    _validate(token, NOW + passport.LIFE - 1)
    with pytest.raises(ExpiredTokenError):
        _validate(token, NOW + passport.LIFE + 1)


def test_another_key_does_not_verify_it() -> None:
    token = passport.sign(PERSON, "req-1", NOW, SECRET)
    with pytest.raises(BadSignatureError):
        _read(token, SECRET + b"x")


def test_no_part_can_be_changed() -> None:
    head, claims, signature = passport.sign(PERSON, "req-1", NOW, SECRET).split(".")
    padded = claims + "=" * (-len(claims) % 4)
    other = json.dumps({**json.loads(base64.urlsafe_b64decode(padded)), "team": "sales"}).encode()
    forged = base64.urlsafe_b64encode(other).decode().rstrip("=")
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    for token in (f"{head}.{forged}.{signature}", f"{unsigned}.{claims}.", f"{unsigned}.{claims}.{signature}"):
        with pytest.raises(JoseError):
            _read(token)


@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.integers(0, 2**33))
def test_any_name_arrives_as_it_is_in_a_header_of_plain_letters(request_id: str, user: str, now: int) -> None:
    token = passport.sign(Caller("key_1", "app", user=user), request_id, now, SECRET)
    assert token.isascii()
    assert token.replace(".", "").replace("-", "").replace("_", "").isalnum()
    claims = _read(token)
    assert (claims["sub"], claims["request_id"], claims["iat"]) == (user, request_id, now)

"""What the adapter makes of the metadata in which Envoy says what it found of a token."""

import pytest
from envoy_data_plane.envoy.config.core.v3 import Metadata
from envoy_data_plane.google.protobuf import Struct
from hypothesis import given
from hypothesis import strategies as st

from extproc.adapter import tokens
from extproc.contract import TOKENS, token_failure_of, token_header_of
from extproc.identity.claims import FailedToken, VerifiedToken

Tree = dict[str, object]
HEADER: Tree = {"alg": "RS256", "kid": "k"}


def metadata(found: Tree, space: str = TOKENS) -> bytes:
    """As Envoy sends it, with the metadata of another filter beside it."""
    spaces = {"other": Struct.from_dict({"corp": {"sub": "eve"}}), space: Struct.from_dict(found)}
    return bytes(Metadata(filter_metadata=spaces))


def verified(claims: Tree, issuer: str = "corp") -> Tree:
    return {issuer: claims, token_header_of(issuer): HEADER}


def failed(code: float, message: str = "why", issuer: str = "corp") -> Tree:
    return {token_failure_of(issuer): {"code": code, "message": message}}


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(claims=st.dictionaries(st.text(), JSON, max_size=6))
def test_claims_arrive_as_they_were_signed(claims: Tree) -> None:
    assert tokens.read(metadata(verified(claims))) == VerifiedToken("corp", claims, HEADER)


@pytest.mark.parametrize("code", [2, 3, 25, 26, 32, 40])
def test_a_token_of_a_known_issuer_fails_with_envoys_word(code: int) -> None:
    assert tokens.read(metadata(failed(code, "Jwt is expired"))) == FailedToken("corp", "Jwt is expired")


@pytest.mark.parametrize("code", [1, 4, 5, 11, 22, 24])
def test_what_is_no_token_of_a_known_issuer_is_none(code: int) -> None:
    assert tokens.read(metadata(failed(code))) is None


def test_the_issuer_that_was_recognised_is_the_one_that_is_named() -> None:
    found = failed(24, "unknown", "first") | failed(3, "expired", "second")
    assert tokens.read(metadata(found)) == FailedToken("second", "expired")


def test_a_verified_token_counts_whatever_failed_beside_it() -> None:
    found = verified({"sub": "ann"}) | failed(24, "unknown", "other")
    assert tokens.read(metadata(found)) == VerifiedToken("corp", {"sub": "ann"}, HEADER)


def _nested(depth: int) -> Tree:
    claim: object = "x"
    for _ in range(depth):
        claim = [claim]
    return verified({"claim": claim})


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"\xff\xff",
        metadata({}),
        metadata(verified({"sub": "ann"}), space="envoy.filters.http.jwt_authn2"),
        metadata(verified({"sub": "ann"}) | verified({"sub": "bob"}, "other")),
        metadata({"corp": {"sub": "ann"}}),
        metadata(_nested(60)),
    ],
    ids=["nothing", "broken", "empty", "another filter's", "two verified", "no header", "too deep"],
)
def test_all_else_is_no_token(given: bytes) -> None:
    assert tokens.read(given) is None

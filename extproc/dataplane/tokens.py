"""Tokens of OpenID Connect issuers: Envoy verifies them and tells the policy, which alone decides.

A token that cannot be verified passes this filter like no token at all. The policy must see to it that the
`authorization` header is nothing but `Bearer` and the token: Envoy (1.40) finds the prefix anywhere in it.
"""

import math
from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import DataSource, HttpUri
from envoy_data_plane.envoy.config.route.v3 import RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.jwt_authn.v3 import (
    JwksAsyncFetch,
    JwtAuthentication,
    JwtHeader,
    JwtProvider,
    JwtRequirement,
    RemoteJwks,
    RequirementRule,
)
from envoy_data_plane.google.protobuf import Empty

from extproc.config.identity import Issuer
from extproc.contract import jwks_cluster_of, token_failure_of, token_header_of

from .layout import Layout
from .secrets import jwks_file

_FETCH_TIMEOUT = timedelta(seconds=3)  # the listener opens after this much of silence, without the issuer's keys
_EARLY = 5  # seconds before its time at which Envoy fetches a key set again


def verifier(issuers: dict[str, Issuer], layout: Layout) -> JwtAuthentication:
    """One provider per issuer. The requirement looks a token's up by `iss`, so each token is verified once.

    There is no cache of verified tokens: one costs Envoy some 50 µs, and nothing can be mixed up.
    """
    optional = JwtRequirement(allow_missing_or_failed=Empty())
    return JwtAuthentication(
        providers={name: _provider(name, issuer, layout) for name, issuer in issuers.items()},
        rules=[RequirementRule(match=RouteMatch(prefix="/"), requires=optional)],
    )


def _provider(name: str, issuer: Issuer, layout: Layout) -> JwtProvider:
    """Without `from_headers`, a token in the query would count, too. Envoy takes a skew of 0 s for its own 60."""
    provider = JwtProvider(
        issuer=issuer.issuer,
        audiences=list(issuer.audiences),
        require_expiration=True,
        clock_skew_seconds=math.ceil(issuer.clock_skew.total_seconds()),
        from_headers=[JwtHeader(name="authorization", value_prefix=scheme) for scheme in ("Bearer ", "bearer ")],
        forward=True,  # the policy tells two credentials on one call apart; no provider gets the header
        payload_in_metadata=name,
        header_in_metadata=token_header_of(name),
        failed_status_in_metadata=token_failure_of(name),
    )
    if issuer.jwks_file is not None:
        provider.local_jwks = DataSource(filename=f"{layout.secrets_dir}/{jwks_file(name)}")
    else:
        provider.remote_jwks = _remote(name, issuer)
    return provider


def _remote(name: str, issuer: Issuer) -> RemoteJwks:
    """Fetched in the background: a known key set is replaced by a good one only, and no call waits for one."""
    refresh = math.ceil(issuer.jwks_refresh.total_seconds())
    return RemoteJwks(
        http_uri=HttpUri(uri=issuer.jwks_url or "", cluster=jwks_cluster_of(name), timeout=_FETCH_TIMEOUT),
        cache_duration=timedelta(seconds=refresh + _EARLY),
        async_fetch=JwksAsyncFetch(failed_refetch_duration=timedelta(seconds=1)),
    )

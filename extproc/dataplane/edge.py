"""Who may reach the policy at all: web pages of other origins, and client addresses."""

import re
from ipaddress import ip_network

from envoy_data_plane.envoy.config.core.v3 import CidrRange
from envoy_data_plane.envoy.config.rbac.v3 import Permission, PermissionSet, Policy, Principal
from envoy_data_plane.envoy.config.rbac.v3 import Rbac as Rules
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import CorsPolicy
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from envoy_data_plane.envoy.type.matcher.v3 import PathMatcher, RegexMatcher, StringMatcher

from extproc.config.listener import Cors

HEALTH_PATH, READY_PATH = "/healthz", "/readyz"
EXPOSED = "*"  # header names of answers that a page may read


def cors_policy(cors: Cors) -> CorsPolicy:
    """What browsers are told. No cookie is ever a credential here, so none are allowed.

    That makes `*` a wildcard for header names, in which the SDKs' `x-stainless-*` need no list that grows old;
    only `authorization` must be named (Fetch, 4.9: CORS-preflight fetch).
    """
    return CorsPolicy(
        allow_origin_string_match=[allowed_origins(cors)],
        allow_methods="GET, POST, DELETE",
        allow_headers="authorization, *",
        expose_headers=EXPOSED,
        max_age=str(int(cors.max_age.total_seconds())),
    )


def addresses(allowed: tuple[str, ...]) -> Rbac:
    """Refuses all but the ranges `allowed`, by the address that is left when the trusted proxies are taken away.

    The probes' paths stay open: the kubelet's address is no client's, and they tell nothing.
    """
    clients = Policy(
        permissions=[Permission(any=True)], principals=[Principal(remote_ip=_range(text)) for text in allowed]
    )
    paths = [Permission(url_path=PathMatcher(path=StringMatcher(exact=path))) for path in (HEALTH_PATH, READY_PATH)]
    probes = Policy(
        permissions=[Permission(or_rules=PermissionSet(rules=paths))],
        principals=[Principal(any=True)],
    )
    return Rbac(rules=Rules(policies={"clients": clients, "probes": probes}))


def allowed_origins(cors: Cors) -> StringMatcher:
    """Matches a whole `origin` header, in which browsers write the host in lower case."""
    return StringMatcher(safe_regex=RegexMatcher(regex="|".join(_origin(text.lower()) for text in cors.origins)))


def _origin(text: str) -> str:
    if text == "*":
        return ".*"
    scheme, wildcard, rest = text.partition("*.")
    return f"{scheme}([a-z0-9-]+[.])+{re.escape(rest)}" if wildcard else re.escape(text)


def _range(text: str) -> CidrRange:
    network = ip_network(text)
    return CidrRange(address_prefix=str(network.network_address), prefix_len=network.prefixlen)

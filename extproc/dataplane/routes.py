"""Which paths exist for Envoy: only as many as differ in how a body is handled. Python knows the rest."""

import re
from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import (
    ClusterSpecifierPlugin,
    DirectResponseAction,
    FilterConfig,
    HeaderMatcher,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExtProcPerRoute
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.google.protobuf import Any

from extproc import contract
from extproc.config.schema import Gateway

from . import edge, policy
from .extensions import (
    ClusterWeight,
    PriorityGroup,
    PriorityGroupClusterSpecifier,
    extension,
)
from .replies import error, json_body

ROUTES = "gateway"
# The size filter takes no setting from a route: there is one for each cap, and a route disables the other.
JSON_SIZE = "sluice.json_size"
MULTIPART_SIZE = "sluice.multipart_size"
# What the policy and the clusters may add to a body of the largest size: placeholders, a longer model name.
_GROWTH = 2**20
CORS = "sluice.cors"
_OPTIONS = HeaderMatcher(name=":method", string_match=StringMatcher(exact="OPTIONS"))
_MULTIPART_PATHS = "/(v1|openai/v1|openai/deployments/[^/]+)/(audio/(transcriptions|translations)|images/edits)"


def gateway_routes(gateway: Gateway) -> RouteConfiguration:
    """First match wins."""
    cors = gateway.listener.cors
    if cors is None:
        return _configuration(ROUTES, _health(), _multipart(gateway), _anything_else(gateway))
    routes = _configuration(ROUTES, _preflight(), _health(), _multipart(gateway), _anything_else(gateway))
    routes.virtual_hosts[0].typed_per_filter_config = {CORS: Any.pack(edge.cors_policy(cors))}
    return routes


def sink_routes() -> RouteConfiguration:
    """The policy refuses OPTIONS, so one that gets here is a preflight of a page that may not call."""
    refused = error("invalid_request_error", "method_not_allowed", "Pages of this origin may not call the gateway.")
    unrouted = error("api_error", "gateway_error", "The gateway found no backend for the call.")
    return _configuration(
        contract.SINK_CLUSTER,
        Route(match=RouteMatch(prefix="/", headers=[_OPTIONS]), direct_response=_answer(405, refused)),
        Route(match=RouteMatch(prefix="/"), direct_response=_answer(contract.SINK_STATUS, unrouted)),
    )


def unresolved_routes() -> RouteConfiguration:
    """Nobody reads the body: the policy answers in its place where no other backend does."""
    away = Route(match=RouteMatch(prefix="/"), direct_response=DirectResponseAction(status=503))
    return _configuration(contract.UNRESOLVED_LISTENER, away)


def _answer(status: int, body: dict[str, object]) -> DirectResponseAction:
    return DirectResponseAction(status=status, body_format=json_body(body))


def _configuration(name: str, *entries: Route) -> RouteConfiguration:
    host = VirtualHost(name=name, domains=["*"], routes=list(entries))
    return RouteConfiguration(name=name, virtual_hosts=[host])


def _health() -> Route:
    """Envoy lives; asked of nobody else, so that a load balancer does not multiply a worker's trouble."""
    reply = DirectResponseAction(status=200, body=DataSource(inline_string="ok\n"))
    return Route(match=RouteMatch(path=edge.HEALTH_PATH), direct_response=reply)


def _preflight() -> Route:
    """What a browser asks before a call: the CORS filter answers those whose page may call, the sink all others.

    The policy stays out, for it would be shown the filter's answer to a call that it never saw. The way to the
    sink is there because the filter looks at no route that answers by itself.
    """
    headers = [
        _OPTIONS,
        HeaderMatcher(name="origin", present_match=True),
        HeaderMatcher(name="access-control-request-method", present_match=True),
    ]
    return Route(match=RouteMatch(prefix="/", headers=headers), route=RouteAction(cluster=contract.SINK_CLUSTER))


def _multipart_paths(low_priority_prefix: str | None) -> str:
    """RE2, to match the whole path without its query, behind the prefix of calls of low priority, too."""
    return (f"({re.escape(low_priority_prefix)})?" if low_priority_prefix else "") + _MULTIPART_PATHS


def _multipart(gateway: Gateway) -> Route:
    """Uploads: they pass the policy in pieces."""
    match = RouteMatch(safe_regex=RegexMatcher(regex=_multipart_paths(gateway.listener.low_priority_prefix)))
    return _call(gateway, match, gateway.limits.multipart_request, policy.streamed_request(), without=JSON_SIZE)


def _anything_else(gateway: Gateway) -> Route:
    """Also what does not exist: the policy answers that, in the shape of the surface."""
    match = RouteMatch(prefix="/")
    return _call(gateway, match, gateway.limits.json_request, policy.whole_request(), without=MULTIPART_SIZE)


def _call(gateway: Gateway, match: RouteMatch, largest: int, modes: ExtProcPerRoute, without: str) -> Route:
    """Envoy keeps the whole body for the next attempt, up to the buffer limit."""
    return Route(
        match=match,
        request_body_buffer_limit=largest + _GROWTH,
        typed_per_filter_config={
            contract.POLICY_FILTER: Any.pack(modes),
            without: Any.pack(FilterConfig(disabled=True)),
        },
        route=_action(gateway),
    )


def _action(gateway: Gateway) -> RouteAction:
    return RouteAction(
        inline_cluster_specifier_plugin=ClusterSpecifierPlugin(
            extension=extension("envoy.router.cluster_specifier_plugin.priority_group", _order())
        ),
        retry_policy=_retries(),
        auto_host_rewrite=True,
        timeout=gateway.timeouts.call,
        idle_timeout=gateway.timeouts.idle,
    )


def _order() -> PriorityGroupClusterSpecifier:
    """The policy's order, by dynamic metadata. Without one the call ends in the sink, never at a backend."""
    unrouted = PriorityGroup(name="unrouted", clusters=[ClusterWeight(cluster_name=contract.SINK_CLUSTER, weight=1)])
    return PriorityGroupClusterSpecifier(override_metadata_namespace=contract.ORDER, priority_groups=[unrouted])


def _retries() -> RetryPolicy:
    """Attempt n goes to group n. The policy sends x-envoy-max-retries with the length of the chain.

    A credential that one backend does not take any more, or a model that is not deployed there, is not the caller's
    affair while another one serves. Neither says that the backend is unwell.
    """
    return RetryPolicy(
        retry_on="5xx,reset,connect-failure,retriable-status-codes,retriable-headers",
        retriable_status_codes=[401, 403, 404, 429],
        retriable_headers=[HeaderMatcher(name=contract.AGAIN_HEADER, present_match=True)],
        num_retries=3,
        refresh_cluster_on_retry=True,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=20)
        ),
    )

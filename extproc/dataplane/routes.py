"""Which paths exist for Envoy: only as many as differ in how a body is handled. Python knows the rest."""

from datetime import timedelta

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import (
    ClusterSpecifierPlugin,
    DirectResponseAction,
    FilterConfig,
    RetryPolicy,
    RetryPolicyRetryBackOff,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ExtProcPerRoute
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher
from envoy_data_plane.google.protobuf import Any

from extproc import contract
from extproc.config.schema import Gateway

from . import policy
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
HEALTH_PATH = "/healthz"
MULTIPART_PATHS = "/(v1|openai/v1|openai/deployments/[^/]+)/(audio/(transcriptions|translations)|images/edits)"
"""RE2, matched against the whole path without its query."""


def gateway_routes(gateway: Gateway) -> RouteConfiguration:
    """First match wins."""
    return _configuration(ROUTES, _health(), _multipart(gateway), _anything_else(gateway))


def sink_routes() -> RouteConfiguration:
    text = "The gateway found no backend for the call."
    reply = DirectResponseAction(
        status=contract.SINK_STATUS, body_format=json_body(error("api_error", "gateway_error", text))
    )
    return _configuration(contract.SINK_CLUSTER, Route(match=RouteMatch(prefix="/"), direct_response=reply))


def _configuration(name: str, *entries: Route) -> RouteConfiguration:
    host = VirtualHost(name=name, domains=["*"], routes=list(entries))
    return RouteConfiguration(name=name, virtual_hosts=[host])


def _health() -> Route:
    """Envoy lives; asked of nobody else, so that a load balancer does not multiply a worker's trouble."""
    reply = DirectResponseAction(status=200, body=DataSource(inline_string="ok\n"))
    return Route(match=RouteMatch(path=HEALTH_PATH), direct_response=reply)


def _multipart(gateway: Gateway) -> Route:
    """Uploads: they pass the policy in pieces."""
    match = RouteMatch(safe_regex=RegexMatcher(regex=MULTIPART_PATHS))
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
    """Attempt n goes to group n. The policy sends x-envoy-max-retries with the length of the chain."""
    return RetryPolicy(
        retry_on="5xx,reset,connect-failure,retriable-status-codes",
        retriable_status_codes=[429],
        num_retries=3,
        refresh_cluster_on_retry=True,
        retry_back_off=RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=20)
        ),
    )

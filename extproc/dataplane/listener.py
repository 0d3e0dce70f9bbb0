"""Where clients connect, and the filters that every call passes, in order."""

from datetime import timedelta

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    SchemeHeaderTransformation,
    SocketAddress,
    TrafficDirection,
    TransportSocket,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    FilterChain,
    Listener,
    ListenerInternalListenerConfig,
)
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.http.cors.v3 import Cors
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpFilter,
    Rds,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CommonTlsContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    TlsParameters,
    TlsParametersTlsProtocol,
)
from envoy_data_plane.google.protobuf import Any

from extproc import contract
from extproc.config.listener import Tls
from extproc.config.schema import Gateway
from extproc.secrets.named import secret_file

from . import edge, policy, tokens
from .access_log import json_log
from .extensions import BodySizeLimit, http_filter, manager_filter
from .files import watched
from .headers import remove, remove_matching
from .layout import Layout
from .replies import local_replies
from .routes import CORS, JSON_SIZE, MULTIPART_SIZE, ROUTES, gateway_routes, sink_routes, unresolved_routes
from .secrets import CLIENTS_SECRET, TLS_SECRET
from .services import services_listener
from .shadows import shadowed
from .tracing import attempt_log, request_ids, tracing

_ROUTER = "envoy.filters.http.router"


def all_listeners(gateway: Gateway, layout: Layout) -> list[Listener]:
    """The one that clients reach, the sink, which no socket reaches, and that of the workers for services."""
    rds = Rds(config_source=watched(layout.config_dir, "routes.yaml"), route_config_name=ROUTES)
    return _with_routes(gateway, layout, rds)


def static_listeners(gateway: Gateway, layout: Layout) -> list[Listener]:
    """The same with the routes inside."""
    return _with_routes(gateway, layout, gateway_routes(gateway))


def _with_routes(gateway: Gateway, layout: Layout, routing: Rds | RouteConfiguration) -> list[Listener]:
    listeners = [gateway_listener(gateway, layout, connection_manager(gateway, routing, layout)), *sink_listeners()]
    return [*listeners, services_listener(gateway, layout)] if gateway.services or shadowed(gateway) else listeners


def http_filters(gateway: Gateway, layout: Layout) -> list[HttpFilter]:
    """The way of a request, top to bottom. An answer passes the same filters upwards."""
    issuers = gateway.identity.issuers
    return [
        http_filter("sluice.client_headers", HeaderMutation(mutations=_client_headers())),
        *_doors(gateway),
        http_filter(JSON_SIZE, BodySizeLimit(max_request_bytes=gateway.limits.json_request)),
        http_filter(MULTIPART_SIZE, BodySizeLimit(max_request_bytes=gateway.limits.multipart_request)),
        *([http_filter("sluice.tokens", tokens.verifier(issuers, layout))] if issuers else []),
        # A reply to broken HTTP has no route; the policy would hold it until the connection is closed.
        http_filter(contract.POLICY_FILTER, policy.processor(gateway.timeouts, tokens=bool(issuers)), by_route=True),
        http_filter(
            _ROUTER,
            Router(
                suppress_envoy_headers=True,
                upstream_log=[attempt_log(gateway)],
            ),
        ),
    ]


def _doors(gateway: Gateway) -> list[HttpFilter]:
    """CORS first: a page must be able to read a refusal, too."""
    listen = gateway.listener
    doors = [http_filter(CORS, Cors())] if listen.cors else []
    if listen.allowed_ips:
        doors.append(http_filter("sluice.addresses", edge.addresses(listen.allowed_ips)))
    return doors


def gateway_listener(gateway: Gateway, layout: Layout, manager: HttpConnectionManager) -> Listener:
    listen = gateway.listener
    return Listener(
        name="gateway",
        # So that it alone stops where clients shall connect no more: the others are for calls that still run.
        traffic_direction=TrafficDirection.INBOUND,
        address=Address(socket_address=SocketAddress(address=listen.address, port_value=listen.port)),
        # A JSON answer that is read whole must fit, or a paid answer becomes a 500. It may grow by a chunk beyond the
        # cap before Envoy looks at the limit.
        per_connection_buffer_limit_bytes=gateway.limits.json_answer + contract.ANSWER_MARGIN,
        filter_chains=[
            FilterChain(
                filters=[manager_filter(manager)],
                transport_socket=_tls(listen.tls, layout) if listen.tls else None,
            )
        ],
    )


def connection_manager(gateway: Gateway, routing: Rds | RouteConfiguration, layout: Layout) -> HttpConnectionManager:
    """HTTP at the edge, as Envoy's guide for untrusted clients wants it, with times that fit LLM calls."""
    times = gateway.timeouts
    return HttpConnectionManager(
        stat_prefix="gateway",
        rds=routing if isinstance(routing, Rds) else None,
        route_config=routing if isinstance(routing, RouteConfiguration) else None,
        http_filters=http_filters(gateway, layout),
        local_reply_config=local_replies(gateway.listener.cors),
        access_log=_logs(gateway),
        tracing=tracing(gateway),
        request_id_extension=request_ids(gateway),
        # who calls
        use_remote_address=True,
        xff_num_trusted_hops=gateway.listener.trusted_proxies,
        always_set_request_id_in_response=True,
        # one spelling per path
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        strip_any_host_port=True,
        # sizes and times
        max_request_headers_kb=60,
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=times.idle,
            max_headers_count=100,
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
        ),
        http2_protocol_options=Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=contract.STREAM_BUFFER,
            initial_connection_window_size=2**20,
        ),
        request_headers_timeout=timedelta(seconds=10),
        request_timeout=times.call,
        stream_idle_timeout=times.idle,
        drain_timeout=times.drain,
        # towards clients and providers
        server_name="sluice",
        scheme_header_transformation=SchemeHeaderTransformation(match_upstream=True),
    )


def _logs(gateway: Gateway) -> list[AccessLog]:
    """To the workers, and where an operator wants them."""
    to_workers, log = policy.access_log(contract.LISTENER_LOG), gateway.telemetry.access_log
    return [to_workers] if log is None else [to_workers, json_log(log)]


def sink_listeners() -> list[Listener]:
    """One answers a call for which the policy gave no order, with a status that nothing retries.

    The other answers an attempt at a backend that has no address, with one that leads to the next backend.
    """
    return [_inside(contract.SINK_CLUSTER, sink_routes()), _inside(contract.UNRESOLVED_LISTENER, unresolved_routes())]


def _inside(name: str, routes: RouteConfiguration) -> Listener:
    """A listener that answers by itself, in memory only."""
    manager = HttpConnectionManager(
        stat_prefix=name, route_config=routes, http_filters=[http_filter(_ROUTER, Router())]
    )
    return Listener(
        name=name,
        internal_listener=ListenerInternalListenerConfig(),
        filter_chains=[FilterChain(filters=[manager_filter(manager)])],
    )


_OURS = "x-sluice-([^ct].*|c[^a].*|ca[^c].*|t[^a].*|ta[^g].*|tag[^-].*)"
"""All but x-sluice-cache and x-sluice-tag- and what begins so: in these callers ask or tell something, and the policy
and the clusters remove them."""


def _client_headers() -> Mutations:
    """Headers that only the gateway may set. Spellings with underscores never get here: they are a 400."""
    return Mutations(
        request_mutations=[remove_matching(_OURS)],
        response_mutations=[
            remove(name)
            for name in (contract.DEPLOYED_HEADER, contract.AGAIN_HEADER, contract.LAST_HEADER, contract.TRACE_HEADER)
        ],
    )


def _tls(tls: Tls, layout: Layout) -> TransportSocket:
    """What a client's certificate says is told to nobody: it opens the connection and no more."""
    common = CommonTlsContext(
        tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
        tls_certificate_sds_secret_configs=[_secret(TLS_SECRET, layout)],
        alpn_protocols=["h2", "http/1.1"],
    )
    clients = tls.client_certificates
    if clients:
        common.validation_context_sds_secret_config = _secret(CLIENTS_SECRET, layout)
    context = DownstreamTlsContext(
        common_tls_context=common, require_client_certificate=bool(clients and clients.required)
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))


def _secret(name: str, layout: Layout) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=watched(layout.secrets_dir, secret_file(name)))

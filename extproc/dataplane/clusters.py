"""Where calls go: one cluster per backend, the policy workers, and the sink; and where these ask, one per service."""

from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterCommonLbConfig,
    ClusterCustomClusterType,
    ClusterDiscoveryType,
    ClusterDnsLookupFamily,
    ClusterLbPolicy,
    OutlierDetection,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    EnvoyInternalAddress,
    HealthCheck,
    HealthCheckGrpcHealthCheck,
    HealthCheckHttpHealthCheck,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    Pipe,
    SocketAddress,
    TcpKeepalive,
    TransportSocket,
)
from envoy_data_plane.envoy.config.endpoint.v3 import (
    ClusterLoadAssignment,
    ClusterLoadAssignmentPolicy,
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy_data_plane.envoy.extensions.clusters.aggregate.v3 import ClusterConfig as Aggregate
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions as UpstreamOptions,
)
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptionsExplicitHttpConfig as ExplicitHttp,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent
from envoy_data_plane.google.protobuf import Any

from extproc import contract
from extproc.config.backends import Backend, Health
from extproc.config.byob import owner_of
from extproc.config.schema import Gateway
from extproc.config.services import Service

from .layout import Layout
from .services import service_filters
from .shadows import shadow_filters, shadowed
from .upstream import backend_filters, paced

SYSTEM_CA = "/etc/ssl/certs/ca-certificates.crt"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_NEVER = 1_000_000
_AGGREGATE = "envoy.clusters.aggregate"
# In per cent: one well address of so many is enough for all calls. By Envoy's own 140 a share would go to the next
# cluster as soon as a third of them is not well.
_ONE_IS_ENOUGH = 100_000
# Servers close idle connections after 5 s (uvicorn, so vLLM; Node); closing first avoids a reset mid-request.
_POOL_IDLE = timedelta(seconds=4)
_WORKER_BUFFER = 64 * 2**20  # a message to a worker holds a whole body, and the schema allows JSON of 64 MiB


@dataclass(frozen=True, slots=True)
class Origin:
    """The server part of a backend's URL. `host` is a name or an IP address without brackets."""

    tls: bool
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> "Origin":
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        return cls(tls, parts.hostname or "", parts.port or (443 if tls else 80))

    @property
    def is_ip(self) -> bool:
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True

    @property
    def authority(self) -> str:
        """The Host header, with the port when it is not the scheme's own (RFC 9110, 4.2.3 and 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def all_clusters(gateway: Gateway, layout: Layout) -> list[Cluster]:
    """All of them, those outside in the order of the configuration."""
    patience = gateway.timeouts.connect
    backends = [cluster for name in gateway.all_backends() for cluster in backend_clusters(name, gateway, layout)]
    issuers = [
        jwks_cluster(name, issuer.jwks_url, patience)
        for name, issuer in gateway.identity.issuers.items()
        if issuer.jwks_url
    ]
    services = [service_cluster(name, service, patience, layout) for name, service in gateway.services.items()]
    shadows = [shadow_cluster(name, gateway, layout) for name in shadowed(gateway)]
    return [workers_cluster(layout), sink_cluster(), *backends, *issuers, *services, *shadows]


def backend_clusters(name: str, gateway: Gateway, layout: Layout) -> list[Cluster]:
    """One provider endpoint; the last cluster is the one that calls are ordered to, with the way of an attempt.

    An empty cluster is a final 503 for Envoy, not a failover, and a name that does not resolve makes one; so behind
    the addresses of a name there is a way to the second sink, which answers what leads to the next backend.
    """
    backend = gateway.all_backends()[name]
    cluster, filters = contract.cluster_of(name), backend_filters(name, gateway, layout)
    if Origin.of(backend.url).is_ip:
        return [_addresses(cluster, backend, gateway, filters)]
    resolved, unresolved = contract.resolved_cluster_of(name), contract.unresolved_cluster_of(name)
    addresses = _addresses(resolved, backend, gateway, [])
    addresses.wait_for_warm_on_init = not owner_of(name)  # for the name of a team's backend nobody else waits
    return [
        addresses,
        _inside(unresolved, contract.UNRESOLVED_LISTENER),
        _first_of([resolved, unresolved], cluster, filters),
    ]


def _addresses(name: str, backend: Backend, gateway: Gateway, filters: list[HttpFilter]) -> Cluster:
    """Where a backend is. Envoy neither ejects it nor sheds load: the policy's cool-downs steer.

    An overflowing cluster, or one of which nobody is well, is a final 503 for Envoy as an empty one is; so the panic
    threshold stays at its default and the circuit breakers never open.
    """
    cluster = _outside(name, backend.url, gateway.timeouts.connect, filters)
    cluster.upstream_connection_options = UpstreamConnectionOptions(
        tcp_keepalive=TcpKeepalive(keepalive_probes=3, keepalive_time=60, keepalive_interval=10)
    )
    if backend.health is not None:
        origin = Origin.of(backend.url)
        cluster.health_checks = [_health(backend.health, origin)]
        cluster.load_assignment = _endpoints(name, _endpoint(origin), enough=_ONE_IS_ENOUGH)
    return cluster


def _first_of(clusters: list[str], name: str, filters: list[HttpFilter]) -> Cluster:
    """The first of them with somebody who is well. Filters of the others would not run."""
    return Cluster(
        name=name,
        cluster_type=ClusterCustomClusterType(name=_AGGREGATE, typed_config=Any.pack(Aggregate(clusters=clusters))),
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        circuit_breakers=_never_open(),
        typed_extension_protocol_options=_http1(filters),
    )


def service_cluster(name: str, service: Service, connect_timeout: timedelta, layout: Layout) -> Cluster:
    """One service that policies ask; how many ask at a time is the workers' affair."""
    cluster = contract.service_cluster_of(name)
    return _outside(cluster, service.url, connect_timeout, service_filters(name, service, layout))


def shadow_cluster(name: str, gateway: Gateway, layout: Layout) -> Cluster:
    """A backend as it gets copies of calls."""
    cluster, url = contract.shadow_cluster_of(name), gateway.backends[name].url
    return _outside(cluster, url, gateway.timeouts.connect, shadow_filters(name, gateway, layout))


def jwks_cluster(issuer: str, url: str, connect_timeout: timedelta) -> Cluster:
    """Where the issuer publishes its keys: one fetch at a time, for many calls may ask for one."""
    cluster = _outside(contract.jwks_cluster_of(issuer), url, connect_timeout, paced())
    one = CircuitBreakersThresholds(max_requests=1, max_pending_requests=1)
    cluster.circuit_breakers = CircuitBreakers(thresholds=[one])
    return cluster


def _outside(name: str, url: str, connect_timeout: timedelta, filters: list[HttpFilter]) -> Cluster:
    """The one address of a URL, asked over HTTP/1.1 through `filters`."""
    origin = Origin.of(url)
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC if origin.is_ip else ClusterDiscoveryType.STRICT_DNS,
        dns_lookup_family=ClusterDnsLookupFamily.V4_PREFERRED,
        load_assignment=_endpoints(name, _endpoint(origin)),
        connect_timeout=connect_timeout,
        circuit_breakers=_never_open(),
        transport_socket=_tls(origin) if origin.tls else None,
        typed_extension_protocol_options=_http1(filters),
    )


def _http1(filters: list[HttpFilter]) -> dict[str, Any]:
    return _options(
        UpstreamOptions(
            common_http_protocol_options=HttpProtocolOptions(idle_timeout=_POOL_IDLE),
            explicit_http_config=ExplicitHttp(http_protocol_options=Http1ProtocolOptions()),
            http_filters=filters,
        )
    )


def workers_cluster(layout: Layout) -> Cluster:
    """The policy workers. A dead one refuses at once, so it would look idle and draw every call.

    The health check (gRPC, on the worker's event loop) and the outlier detection on failed connections are
    both needed against that; a worker that is unhealthy gets nothing, even when there is no other.
    """
    pipes = [Endpoint(address=Address(pipe=Pipe(path=path))) for path in layout.worker_sockets]
    return Cluster(
        name=contract.EXTPROC_CLUSTER,
        type=ClusterDiscoveryType.STATIC,
        lb_policy=ClusterLbPolicy.LEAST_REQUEST,
        load_assignment=_endpoints(contract.EXTPROC_CLUSTER, *pipes),
        connect_timeout=timedelta(seconds=1),
        per_connection_buffer_limit_bytes=_WORKER_BUFFER,
        circuit_breakers=_never_open(),
        health_checks=[_worker_health()],
        # Envoy merges health changes of one second (the default), in which a draining worker would get calls.
        common_lb_config=ClusterCommonLbConfig(
            healthy_panic_threshold=Percent(value=0), update_merge_window=timedelta(0)
        ),
        outlier_detection=_dead_worker(),
        typed_extension_protocol_options=_options(
            UpstreamOptions(explicit_http_config=ExplicitHttp(http2_protocol_options=_worker_windows()))
        ),
    )


def _worker_windows() -> Http2ProtocolOptions:
    """Above a stream's window Envoy stops reading the backend: of an answer in duplex nothing else makes it wait.

    The window is no smaller than the pieces in which Envoy reads a fast backend.
    """
    return Http2ProtocolOptions(initial_stream_window_size=2**20)


def sink_cluster() -> Cluster:
    """The way to the sink listener."""
    return _inside(contract.SINK_CLUSTER, contract.SINK_CLUSTER)


def _inside(name: str, listener: str) -> Cluster:
    """The way to a listener inside Envoy."""
    inside = Address(envoy_internal_address=EnvoyInternalAddress(server_listener_name=listener))
    return Cluster(
        name=name,
        type=ClusterDiscoveryType.STATIC,
        load_assignment=_endpoints(name, Endpoint(address=inside)),
        circuit_breakers=_never_open(),
    )


def _health(asked: Health, origin: Origin) -> HealthCheck:
    """Of the addresses of a name, those that are not well get no calls. Of one that is no name calls tell the same."""
    return HealthCheck(
        timeout=min(asked.interval, timedelta(seconds=5)),
        interval=asked.interval,
        no_traffic_interval=asked.interval,
        unhealthy_threshold=2,
        healthy_threshold=1,
        http_health_check=HealthCheckHttpHealthCheck(host=origin.authority, path=asked.path),
    )


def _worker_health() -> HealthCheck:
    """Two checks in vain: one alone may be a machine that was busy for a second, and would refuse every call.

    A worker that died is left sooner, by `_dead_worker` and by the stream's own retries.
    """
    interval = timedelta(milliseconds=250)
    return HealthCheck(
        timeout=timedelta(seconds=1),
        interval=interval,
        no_traffic_interval=interval,
        unhealthy_threshold=2,
        healthy_threshold=1,
        grpc_health_check=HealthCheckGrpcHealthCheck(),
    )


def _dead_worker() -> OutlierDetection:
    return OutlierDetection(
        split_external_local_origin_errors=True,
        consecutive_local_origin_failure=1,
        enforcing_consecutive_local_origin_failure=100,
        consecutive_5xx=1000,
        base_ejection_time=timedelta(seconds=1),
        max_ejection_time=timedelta(seconds=2),
        interval=timedelta(milliseconds=200),
        max_ejection_percent=100,
    )


def _never_open() -> CircuitBreakers:
    unlimited = CircuitBreakersThresholds(
        max_connections=_NEVER, max_pending_requests=_NEVER, max_requests=_NEVER, max_retries=_NEVER
    )
    return CircuitBreakers(thresholds=[unlimited])


def _endpoints(cluster: str, *endpoints: Endpoint, enough: int | None = None) -> ClusterLoadAssignment:
    """`enough`: how many times the well ones' share of the calls may grow, in per cent; absent: as Envoy has it."""
    group = LocalityLbEndpoints(lb_endpoints=[LbEndpoint(endpoint=endpoint) for endpoint in endpoints])
    policy = ClusterLoadAssignmentPolicy(overprovisioning_factor=enough) if enough else None
    return ClusterLoadAssignment(cluster_name=cluster, endpoints=[group], policy=policy)


def _endpoint(origin: Origin) -> Endpoint:
    return Endpoint(address=_socket(origin), hostname=origin.authority)


def _options(options: UpstreamOptions) -> dict[str, Any]:
    return {_OPTIONS: Any.pack(options)}


def _socket(origin: Origin) -> Address:
    return Address(socket_address=SocketAddress(address=origin.host, port_value=origin.port))


def _tls(origin: Origin) -> TransportSocket:
    """The certificate must be the host's, by a public authority of the system. An IP address has no SNI."""
    trust = CertificateValidationContext(trusted_ca=DataSource(filename=SYSTEM_CA))
    if origin.is_ip:
        address = StringMatcher(exact=origin.host)
        trust.match_typed_subject_alt_names = [
            SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.IP_ADDRESS, matcher=address)
        ]
    context = UpstreamTlsContext(
        sni="" if origin.is_ip else origin.host,
        auto_sni_san_validation=not origin.is_ip,
        common_tls_context=CommonTlsContext(
            tls_params=TlsParameters(tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_2),
            validation_context=trust,
        ),
    )
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=Any.pack(context))

"""What Envoy is told once, at start; everything else it reads from watched files."""

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
    BootstrapStaticResources,
    LayeredRuntime,
    RuntimeLayer,
)
from envoy_data_plane.envoy.config.core.v3 import Address, Node, Pipe
from envoy_data_plane.envoy.config.overload.v3 import (
    OverloadAction,
    OverloadManager,
    ResourceMonitor,
    ThresholdTrigger,
    Trigger,
)
from envoy_data_plane.envoy.extensions.bootstrap.internal_listener.v3 import InternalListener
from envoy_data_plane.envoy.extensions.network.dns_resolver.cares.v3 import CaresDnsResolverConfig
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)
from envoy_data_plane.envoy.extensions.resource_monitors.fixed_heap.v3 import FixedHeapConfig
from envoy_data_plane.google.protobuf import Any, Struct

from extproc.config.schema import Gateway

from .clusters import all_clusters
from .extensions import extension
from .files import watched
from .layout import Layout
from .listener import static_listeners

# Above this, and its share of memory, Envoy refuses work instead of being killed by the system.
MAX_CONNECTIONS = 10_000
_HEAP = "envoy.resource_monitors.fixed_heap"
_CONNECTIONS = "envoy.resource_monitors.global_downstream_max_connections"
# Envoy waits for the addresses of all clusters before it serves, by its own settings for minutes where name servers are
# silent. Tries of 1 and 2 s at each of three servers, for two kinds of address, are less than a start or reload waits.
_RESOLVER = CaresDnsResolverConfig(query_timeout_seconds=1, query_tries=2)


def dynamic_bootstrap(gateway: Gateway, layout: Layout) -> Bootstrap:
    """The file for `envoy -c`."""
    result = _process(gateway, layout)
    result.dynamic_resources = BootstrapDynamicResources(
        lds_config=watched(layout.config_dir, "listeners.yaml"),
        cds_config=watched(layout.config_dir, "clusters.yaml"),
    )
    return result


def static_bootstrap(gateway: Gateway, layout: Layout) -> Bootstrap:
    """All in one file, for `envoy --mode validate`, which looks at no watched file (Envoy 1.40)."""
    result = _process(gateway, layout)
    result.static_resources = BootstrapStaticResources(
        listeners=static_listeners(gateway, layout), clusters=all_clusters(gateway, layout)
    )
    return result


def _process(gateway: Gateway, layout: Layout) -> Bootstrap:
    """The admin interface is a Unix socket that only its owner may open."""
    return Bootstrap(
        node=Node(id="sluice", cluster="sluice"),
        admin=Admin(address=Address(pipe=Pipe(path=layout.admin_socket, mode=0o600))),
        bootstrap_extensions=[extension("envoy.bootstrap.internal_listener", InternalListener())],
        overload_manager=_overload_manager(gateway.limits.envoy_heap),
        typed_dns_resolver_config=extension("envoy.network.dns_resolver.cares", _RESOLVER),
        layered_runtime=LayeredRuntime(layers=[RuntimeLayer(name="static", static_layer=_runtime())]),
    )


def _runtime() -> Struct:
    """Envoy's cap on regular expressions is for those of strangers; ours grow with the settings of the listener."""
    settings: Struct = Struct.from_dict({"re2.max_program_size.error_level": 1_000.0})
    return settings


def _overload_manager(heap: int) -> OverloadManager:
    """Guide: https://www.envoyproxy.io/docs/envoy/latest/configuration/best_practices/edge."""
    connections = DownstreamConnectionsConfig(max_active_downstream_connections=MAX_CONNECTIONS)
    return OverloadManager(
        resource_monitors=[
            ResourceMonitor(name=_HEAP, typed_config=Any.pack(FixedHeapConfig(max_heap_size_bytes=heap))),
            ResourceMonitor(name=_CONNECTIONS, typed_config=Any.pack(connections)),
        ],
        actions=[
            _above("envoy.overload_actions.shrink_heap", 0.95),
            _above("envoy.overload_actions.stop_accepting_requests", 0.98),
        ],
    )


def _above(action: str, share: float) -> OverloadAction:
    trigger = Trigger(name=_HEAP, threshold=ThresholdTrigger(value=share))
    return OverloadAction(name=action, triggers=[trigger])

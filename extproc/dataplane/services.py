"""The way from the policy workers to the services that policies ask: a Unix socket, then a cluster for each.

Whoever can write to that socket can spend the credentials of the services, and needs none to do so. So it has no TCP
port, only its owner may open it (mode 0600, in a folder of mode 0700), and no route leads from it to a backend but
those that get copies of calls (shadows.py).
"""

from importlib.resources import files
from urllib.parse import urlsplit

from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    DataSource,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    Pipe,
)
from envoy_data_plane.envoy.config.listener.v3 import FilterChain, Listener
from envoy_data_plane.envoy.config.route.v3 import (
    RetryPolicy,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpFilter,
)

from extproc import contract
from extproc.config.schema import Gateway
from extproc.config.services import Service
from extproc.secrets.named import secret_name

from .extensions import http_filter, manager_filter
from .layout import Layout
from .shadows import shadow_route, shadowed
from .upstream import codec, injector

_NAME = "services"
_ROUTER = "envoy.filters.http.router"
_CREDENTIAL_HEADER = {
    "openai-moderation": ("authorization", "Bearer "),
    "azure-content-safety": ("ocp-apim-subscription-key", ""),
    "openai-embeddings": ("authorization", "Bearer "),
    "presidio": ("authorization", "Bearer "),
}
_ALLOW = files(__package__).joinpath("allow.lua").read_text(encoding="utf-8")


def services_listener(gateway: Gateway, layout: Layout) -> Listener:
    """Where workers ask. A crowd of clients takes none of its connections, and no call is written to a log."""
    manager = HttpConnectionManager(
        stat_prefix=_NAME,
        route_config=_routes(gateway),
        http_filters=[http_filter(_ROUTER, Router(suppress_envoy_headers=True))],
        normalize_path=True,
        path_with_escaped_slashes_action=HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        common_http_protocol_options=HttpProtocolOptions(
            headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST
        ),
        generate_request_id=False,
        drain_timeout=gateway.timeouts.drain,
    )
    return Listener(
        name=_NAME,
        address=Address(pipe=Pipe(path=layout.services_socket, mode=0o600)),
        filter_chains=[FilterChain(filters=[manager_filter(manager)])],
        ignore_global_conn_limit=True,
    )


def service_filters(name: str, service: Service, layout: Layout) -> list[HttpFilter]:
    """The way of a question to the service `name`, top to bottom."""
    chain = [http_filter("sluice.allowed_headers", Lua(default_source_code=DataSource(inline_string=_ALLOW)))]
    if service.credential:
        secret = secret_name(contract.service_cluster_of(name), service.url, service.credential)
        header = _CREDENTIAL_HEADER[service.api]
        chain.append(http_filter("sluice.credential", injector(secret, service.credential, header, layout)))
    return [*chain, codec()]


def _routes(gateway: Gateway) -> RouteConfiguration:
    """By the first segment of the path, which no service sees; of another name Envoy answers 404. Copies come first."""
    copies = [shadow_route(gateway)] if shadowed(gateway) else []
    routes = copies + [_route(name, service, gateway) for name, service in gateway.services.items()]
    return RouteConfiguration(name=_NAME, virtual_hosts=[VirtualHost(name=_NAME, domains=["*"], routes=routes)])


def _route(name: str, service: Service, gateway: Gateway) -> Route:
    """The worker, which knows its policy's time, leaves earlier than this timeout.

    Only what has not left at all is tried again: an answer may have its price.
    """
    return Route(
        match=RouteMatch(prefix=f"/{name}/"),
        route=RouteAction(
            cluster=contract.service_cluster_of(name),
            prefix_rewrite=f"{_base(service)}/",
            auto_host_rewrite=True,
            timeout=gateway.timeouts.policy_longest,
            retry_policy=RetryPolicy(retry_on="connect-failure,reset-before-request", num_retries=1),
        ),
    )


def _base(service: Service) -> str:
    """What stands before the path of a question. OpenAI's own clients take a url with its /v1, which the path has."""
    path = urlsplit(service.url).path.rstrip("/")
    return path.removesuffix("/v1") if service.api.startswith("openai-") else path

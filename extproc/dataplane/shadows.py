"""The way of copies of calls to the backends that get them: from the workers' own socket, never from a client's call.

A backend that serves, too, has another cluster for it: what fixes a request there comes with a call, and no call comes
this way. Whoever can write to that socket can spend the credentials of these backends, see services.py.
"""

from datetime import timedelta
from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import DataSource
from envoy_data_plane.envoy.config.route.v3 import HeaderMatcher, Route, RouteAction, RouteMatch
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation, Mutations
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from extproc import contract
from extproc.config.backends import Backend
from extproc.config.schema import Gateway

from .extensions import http_filter
from .headers import overwrite
from .layout import Layout
from .upstream import codec, credential

_ALLOW = files(__package__).joinpath("allow.lua").read_text(encoding="utf-8")
_LONGER = timedelta(seconds=10)  # than the worker waits, which tells of it in its own words
_CLUSTER = contract.shadow_cluster_of("[a-z0-9-]+")


def shadowed(gateway: Gateway) -> list[str]:
    """The backends that get copies, each once; of models that are not enabled, too, which may be from one second on."""
    given = [model.shadow.backend for model in gateway.models.values() if model.shadow is not None]
    return list(dict.fromkeys(given))


def shadow_filters(name: str, gateway: Gateway, layout: Layout) -> list[HttpFilter]:
    """The way of a copy to the backend `name`, top to bottom."""
    backend = gateway.backends[name]
    return [
        http_filter("sluice.allowed_headers", Lua(default_source_code=DataSource(inline_string=_ALLOW))),
        http_filter("sluice.shadow_headers", HeaderMutation(mutations=_fixed(backend))),
        *credential(name, backend, layout),
        codec(),
    ]


def shadow_route(gateway: Gateway) -> Route:
    """The worker names the cluster, among those for copies, so that a further one changes nothing here.

    Nothing is tried again: one copy is one request, whatever becomes of it.
    """
    named = StringMatcher(safe_regex=RegexMatcher(regex=_CLUSTER))
    return Route(
        match=RouteMatch(prefix="/", headers=[HeaderMatcher(name=contract.SHADOW_HEADER, string_match=named)]),
        route=RouteAction(
            cluster_header=contract.SHADOW_HEADER, auto_host_rewrite=True, timeout=gateway.timeouts.call + _LONGER
        ),
    )


def _fixed(backend: Backend) -> Mutations:
    """What the backend always gets, and the version of its API where that is a header."""
    always = {**backend.headers, "accept-encoding": "identity"}
    if backend.dialect == "anthropic":
        always["anthropic-version"] = contract.ANTHROPIC_VERSION
    return Mutations(request_mutations=[overwrite(name, value.replace("%", "%%")) for name, value in always.items()])

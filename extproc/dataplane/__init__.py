"""The configuration as Envoy's files: bootstrap, listeners, routes, clusters, and secrets apart.

Runs in a process of its own: the policy workers never import it (`envoy_data_plane` alone takes 47 MB).
"""

from extproc.config.schema import Gateway

from .bootstrap import dynamic_bootstrap, static_bootstrap
from .clusters import all_clusters
from .files import resources, to_yaml, write
from .layout import Layout
from .listener import all_listeners
from .routes import gateway_routes
from .secrets import CredentialError, credential_problems, write_secrets

__all__ = [
    "CredentialError",
    "Layout",
    "credential_problems",
    "render",
    "render_for_validation",
    "write",
    "write_secrets",
]


def render(gateway: Gateway, layout: Layout) -> dict[str, str]:
    """File name to YAML text, in the order in which a running Envoy should read them. No secret is in it."""
    return {
        "clusters.yaml": resources(*all_clusters(gateway, layout)),
        "routes.yaml": resources(gateway_routes(gateway)),
        "listeners.yaml": resources(*all_listeners(gateway, layout)),
        "bootstrap.yaml": to_yaml(dynamic_bootstrap(layout)),
    }


def render_for_validation(gateway: Gateway, layout: Layout) -> str:
    """One file with everything in it, for `envoy --mode validate -c`; it does not look into watched files."""
    return to_yaml(static_bootstrap(gateway, layout))

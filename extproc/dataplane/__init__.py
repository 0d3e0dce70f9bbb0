"""The configuration as Envoy's files: bootstrap, listeners, routes, clusters, and secrets apart.

Runs in a process of its own: the policy workers never import it (`envoy_data_plane` alone takes 28 MB).
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from extproc.config.schema import Gateway
from extproc.secrets.named import secret_file

from .plain import plain_types, remember_types

with plain_types():
    from .bootstrap import dynamic_bootstrap, static_bootstrap
    from .clusters import all_clusters
    from .files import resources, to_yaml, write
    from .layout import Layout
    from .listener import all_listeners
    from .routes import gateway_routes
    from .secrets import (
        CredentialError,
        credential_problems,
        key_files,
        remove_stale_secrets,
        secret_names,
        write_secrets,
    )

remember_types()

__all__ = [
    "CredentialError",
    "Layout",
    "between",
    "credential_problems",
    "remove_stale_secrets",
    "render",
    "write",
    "write_for_validation",
    "write_secrets",
]


def render(gateway: Gateway, layout: Layout) -> dict[str, str]:
    """File name to YAML text, in the order in which a running Envoy should read them. No secret is in it."""
    return {
        "clusters.yaml": resources(*all_clusters(gateway, layout)),
        "routes.yaml": resources(gateway_routes(gateway)),
        "listeners.yaml": resources(*all_listeners(gateway, layout)),
        "bootstrap.yaml": to_yaml(dynamic_bootstrap(gateway, layout)),
    }


def between(gateway: Gateway, older: Iterable[Gateway], layout: Layout) -> str:
    """`clusters.yaml` while calls run that began with older configurations: theirs stay beside the new ones."""
    clusters = {cluster.name: cluster for one in (*older, gateway) for cluster in all_clusters(one, layout)}
    return resources(*clusters.values())


def write_for_validation(gateway: Gateway, layout: Layout, directory: Path) -> Path:
    """Write what `envoy --mode validate -c` needs into `directory`; returns the file to give it.

    Envoy (1.40) looks into no watched file in that mode, so all is in one; and it wants the secrets' files to
    exist, so they do, empty. No secret is read or written.
    """
    checked = replace(layout, secrets_dir=str(directory))
    secrets = {secret_file(name): resources() for name in secret_names(gateway)}
    write({**secrets, **key_files(gateway), "all.yaml": to_yaml(static_bootstrap(gateway, checked))}, directory)
    return directory / "all.yaml"

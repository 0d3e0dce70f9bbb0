"""Typed extension configurations: how a message is put into another one's `Any`, and the missing messages.

`envoy_data_plane` 2.2 is older than Envoy 1.40 and lacks a few messages. They are declared here with the
names and field numbers of Envoy's own descriptors, so that the rest of the renderer is typed throughout.
"""

from dataclasses import dataclass

import betterproto2
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.listener.v3 import Filter
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Any, UInt32Value, UInt64Value
from envoy_data_plane.message_pool import default_message_pool

_SPECIFIERS = "envoy.extensions.router.cluster_specifiers.priority_group.v3"


@dataclass(eq=False, repr=False)
class BodySizeLimit(betterproto2.Message):
    """`envoy.extensions.filters.http.body_size_limit.v3.BodySizeLimit`: 413 above this many bytes."""

    max_request_bytes: int | None = betterproto2.field(
        1, betterproto2.TYPE_MESSAGE, unwrap=lambda: UInt64Value, optional=True
    )


@dataclass(eq=False, repr=False)
class ClusterWeight(betterproto2.Message):
    """A cluster's share within a `PriorityGroup`."""

    cluster_name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    weight: int | None = betterproto2.field(2, betterproto2.TYPE_MESSAGE, unwrap=lambda: UInt32Value, optional=True)


@dataclass(eq=False, repr=False)
class PriorityGroup(betterproto2.Message):
    """The clusters among which one attempt draws."""

    name: str = betterproto2.field(1, betterproto2.TYPE_STRING)
    clusters: list[ClusterWeight] = betterproto2.field(  # noqa: RUF009 - how betterproto declares
        2, betterproto2.TYPE_MESSAGE, repeated=True
    )


@dataclass(eq=False, repr=False)
class PriorityGroupClusterSpecifier(betterproto2.Message):
    """Attempt n goes to group n; dynamic metadata in the namespace replaces the groups for one call."""

    priority_groups: list[PriorityGroup] = betterproto2.field(  # noqa: RUF009
        1, betterproto2.TYPE_MESSAGE, repeated=True
    )
    override_metadata_namespace: str = betterproto2.field(2, betterproto2.TYPE_STRING)


for _package, _message in (
    ("envoy.extensions.filters.http.body_size_limit.v3", BodySizeLimit),
    (_SPECIFIERS, ClusterWeight),
    (_SPECIFIERS, PriorityGroup),
    (_SPECIFIERS, PriorityGroupClusterSpecifier),
):
    default_message_pool.register_message(_package, _message.__name__, _message)


def http_filter(name: str, config: betterproto2.Message, *, by_route: bool = False) -> HttpFilter:
    """One entry of a filter chain, downstream or upstream; `by_route`: off where no route configures it."""
    return HttpFilter(name=name, typed_config=Any.pack(config), disabled=by_route)


def manager_filter(manager: HttpConnectionManager) -> Filter:
    """HTTP as what a listener does with its connections."""
    return Filter(name="envoy.filters.network.http_connection_manager", typed_config=Any.pack(manager))


def extension(name: str, config: betterproto2.Message) -> TypedExtensionConfig:
    """A named extension wherever Envoy takes a `TypedExtensionConfig`."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(config))

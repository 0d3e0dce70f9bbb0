"""Traces: what backends and Envoy's records are told of them, and Envoy's own spans.

These go to the workers, which send them on: so Envoy needs no way to the collector, and no secret for it.
"""

from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.config.core.v3 import GrpcService, GrpcServiceEnvoyGrpc, TypedExtensionConfig
from envoy_data_plane.envoy.config.trace.v3 import OpenTelemetryConfig, TracingHttp
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerTracing,
    RequestIdExtension,
)
from envoy_data_plane.envoy.extensions.request_id.uuid.v3 import UuidRequestIdConfig
from envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers.v3 import (
    ParentBasedSamplerConfig,
    TraceIdRatioBasedSamplerConfig,
)
from envoy_data_plane.envoy.type.v3 import FractionalPercent, FractionalPercentDenominatorType
from envoy_data_plane.google.protobuf import Any

from extproc import contract
from extproc.config.backends import Backend
from extproc.config.schema import Gateway
from extproc.routing.waits import HEADERS

from . import policy
from .extensions import extension
from .headers import overwrite, remove

_SERVICE = "sluice-envoy"
_SAMPLERS = "envoy.tracers.opentelemetry.samplers"
_PARENT = f"%DYNAMIC_METADATA({contract.TRACE}:{contract.TRACEPARENT})%"
_STATE = "tracestate"


def tracing(gateway: Gateway) -> HttpConnectionManagerTracing | None:
    """Spans of calls and of their attempts. Envoy samples what has no caller's word for it, and tells the policy."""
    traces = gateway.telemetry.traces
    if traces is None or not traces.envoy:
        return None
    tracer = OpenTelemetryConfig(
        grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=contract.EXTPROC_CLUSTER)),
        service_name=_SERVICE,
        sampler=extension(f"{_SAMPLERS}.parent_based", ParentBasedSamplerConfig(wrapped_sampler=_share(traces.sample))),
    )
    return HttpConnectionManagerTracing(
        spawn_upstream_span=True,
        max_path_tag_length=0,  # with its query, in which a caller may write what it likes
        provider=TracingHttp(name="envoy.tracers.opentelemetry", typed_config=Any.pack(tracer)),
    )


def _share(sample: float) -> TypedExtensionConfig:
    """Of the calls whose callers do not say whether they are sampled."""
    share = FractionalPercent(numerator=round(sample * 1_000_000), denominator=FractionalPercentDenominatorType.MILLION)
    return extension(f"{_SAMPLERS}.trace_id_ratio_based", TraceIdRatioBasedSamplerConfig(sampling_percentage=share))


def request_ids(gateway: Gateway) -> RequestIdExtension | None:
    """Ids as they are without traces, and without a say in them: Envoy would write into a caller's own whether its call
    is traced.
    """
    if tracing(gateway) is None:
        return None
    return RequestIdExtension(
        typed_config=Any.pack(UuidRequestIdConfig(pack_trace_reason=False, use_request_id_for_trace_sampling=False))
    )


def attempt_log(gateway: Gateway) -> AccessLog:
    """The record of each attempt, with the trace that it belongs to. It knows nothing of the metadata of its call."""
    if gateway.telemetry.traces is None:
        return policy.access_log(contract.ATTEMPT_LOG, HEADERS)
    return policy.access_log(contract.ATTEMPT_LOG, (*HEADERS, contract.TRACE_HEADER), (contract.TRACEPARENT,))


def told(backend: Backend, gateway: Gateway) -> list[HeaderMutation]:
    """What a request has of its trace. Envoy, where it makes spans, has set that of its own attempt before."""
    traces = gateway.telemetry.traces
    if traces is None:
        return []
    if not backend.traceparent:
        return [remove(contract.TRACEPARENT), remove(_STATE)]
    return [remove(_STATE)] if traces.envoy else [overwrite(contract.TRACEPARENT, _PARENT)]


def recorded(backend: Backend, gateway: Gateway) -> list[HeaderMutation]:
    """What an answer has of it, where the request has nothing."""
    is_asked = gateway.telemetry.traces is not None and not backend.traceparent
    return [overwrite(contract.TRACE_HEADER, _PARENT)] if is_asked else []

"""What Envoy sends to the policy workers: the external processor, requests to translate and the access records."""

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType

import betterproto2
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutationRules
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    BackoffStrategy,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    RetryPolicy,
)
from envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 import (
    CommonGrpcAccessLogConfig,
    HttpGrpcAccessLogConfig,
)
from envoy_data_plane.envoy.extensions.common.matching.v3 import ExtensionWithMatcher
from envoy_data_plane.envoy.extensions.filters.common.matcher.action.v3 import SkipFilter
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import (
    ExternalProcessor,
    ExtProcOverrides,
    ExtProcPerRoute,
    MetadataOptions,
    MetadataOptionsMetadataNamespaces,
    ProcessingMode,
    ProcessingModeBodySendMode,
    ProcessingModeHeaderSendMode,
)
from envoy_data_plane.envoy.extensions.matching.common_inputs.network.v3 import (
    DynamicMetadataInput,
    DynamicMetadataInputPathSegment,
)
from envoy_data_plane.envoy.extensions.matching.input_matchers.metadata.v3 import Metadata
from envoy_data_plane.envoy.type.matcher.v3 import ValueMatcher
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig
from envoy_data_plane.xds.type.matcher.v3 import (
    Matcher,
    MatcherMatcherList,
    MatcherMatcherListFieldMatcher,
    MatcherMatcherListPredicate,
    MatcherMatcherListPredicateSinglePredicate,
    MatcherOnMatch,
)

from extproc import contract
from extproc.config.backends import Backend
from extproc.config.schema import Timeouts

from .extensions import extension

_SEND = ProcessingModeHeaderSendMode.SEND
_BODY = ProcessingModeBodySendMode
# Before its first reply a stream may move to another worker; afterwards Envoy never moves it.
_MOVE_ON = "unavailable,connect-failure,reset,reset-before-request,refused-stream"


def processor(times: Timeouts, tokens: bool) -> ExternalProcessor:
    """The policy filter. Bodies are off here; each route says what it sends.

    `tokens`: what the token filter found goes with every message; Envoy cannot send it with the first one only.
    """
    return ExternalProcessor(
        grpc_service=_workers(),
        message_timeout=times.policy,
        max_message_timeout=max(times.policy, times.policy_longest),
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        allow_mode_override=True,
        processing_mode=_modes(_BODY.NONE, _BODY.NONE),
        request_attributes=["request.time"],  # how long a call has waited for a worker
        response_attributes=[
            "xds.cluster_name",
            "upstream.address",
            "response.code_details",
            # Of a refused upload or upgrade the policy sees only the answer, and must know whose it is.
            "request.path",
            "request.id",
            "request.protocol",  # how much Envoy holds for a client that reads slowly
        ],
        metadata_options=MetadataOptions(
            forwarding_namespaces=_namespaces(contract.TOKENS) if tokens else None,
            receiving_namespaces=_namespaces(
                *(contract.ORDER, contract.CHAIN, contract.CALL, contract.INSTEAD),
                *(contract.FACTS, contract.LOG, contract.TRACE),
            ),
        ),
        # The policy sets x-envoy-max-retries and the timeouts of a call.
        mutation_rules=HeaderMutationRules(allow_envoy=True),
    )


def translator(times: Timeouts, cluster: str, backend: Backend) -> ExtensionWithMatcher:
    """Replaces the request of an attempt that the policy orders to be translated; for any other it is not there.

    It never sees an answer: with large ones of slow readers Envoy crashes where a filter of a cluster sends them on.
    """
    processor = ExternalProcessor(
        grpc_service=_workers(
            {
                contract.CLUSTER_KEY: cluster,
                contract.DIALECT_KEY: backend.dialect,
                contract.CAP_KEY: backend.cap_is_read_in,
            }
        ),
        message_timeout=times.policy,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        processing_mode=ProcessingMode(
            request_header_mode=_SEND,
            request_body_mode=_BODY.BUFFERED,
            response_header_mode=ProcessingModeHeaderSendMode.SKIP,
            response_body_mode=_BODY.NONE,
        ),
        metadata_options=MetadataOptions(forwarding_namespaces=_namespaces(contract.CHAIN)),
    )
    return ExtensionWithMatcher(
        extension_config=extension("envoy.filters.http.ext_proc", processor), xds_matcher=_unless_ordered(cluster)
    )


def whole_request() -> ExtProcPerRoute:
    """The worker gets the body in one message; it chooses the answer's mode when the answer begins."""
    return _override(_modes(_BODY.BUFFERED, _BODY.NONE))


def streamed_request() -> ExtProcPerRoute:
    """The worker sees the body pass, and the answer unless it says otherwise."""
    modes = _modes(_BODY.FULL_DUPLEX_STREAMED, _BODY.STREAMED)
    modes.request_trailer_mode = _SEND  # Envoy demands it with FULL_DUPLEX_STREAMED
    return _override(modes)


def access_log(name: str, response_headers: tuple[str, ...] = (), request_headers: tuple[str, ...] = ()) -> AccessLog:
    """Records to the workers' access-log service, off the request path; `name` tells two logs apart."""
    config = HttpGrpcAccessLogConfig(
        common_config=CommonGrpcAccessLogConfig(
            log_name=name,
            transport_api_version=ApiVersion.V3,
            grpc_service=GrpcService(envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=contract.EXTPROC_CLUSTER)),
            buffer_flush_interval=timedelta(milliseconds=50),
        ),
        additional_request_headers_to_log=list(request_headers),
        additional_response_headers_to_log=list(response_headers),
    )
    return AccessLog(name="envoy.access_loggers.http_grpc", typed_config=Any.pack(config))


_SHORT_PAUSE = BackoffStrategy(base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=20))


def _workers(about: Mapping[str, str] = MappingProxyType({})) -> GrpcService:
    """`about`: what a stream tells of itself before its first message."""
    return GrpcService(
        envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=contract.EXTPROC_CLUSTER),
        initial_metadata=[HeaderValue(key=key, value=value) for key, value in about.items()],
        retry_policy=RetryPolicy(num_retries=2, retry_on=_MOVE_ON, retry_back_off=_SHORT_PAUSE),
    )


def _unless_ordered(cluster: str) -> Matcher:
    """Skip the filter where the order says nothing of translating for this cluster."""
    path = [DynamicMetadataInputPathSegment(key=key) for key in ("translate", cluster)]
    said = MatcherMatcherListPredicateSinglePredicate(
        input=_of_matcher("ordered", DynamicMetadataInput(filter=contract.CHAIN, path=path)),
        custom_match=_of_matcher("is_there", Metadata(value=ValueMatcher(present_match=True))),
    )
    predicate = MatcherMatcherListPredicate(not_matcher=MatcherMatcherListPredicate(single_predicate=said))
    skip = MatcherOnMatch(action=_of_matcher("skip", SkipFilter()))
    fields = [MatcherMatcherListFieldMatcher(predicate=predicate, on_match=skip)]
    return Matcher(matcher_list=MatcherMatcherList(matchers=fields))


def _of_matcher(name: str, config: betterproto2.Message) -> TypedExtensionConfig:
    """A named extension as matchers have it: of a type of their own."""
    return TypedExtensionConfig(name=name, typed_config=Any.pack(config))


def _namespaces(*names: str) -> MetadataOptionsMetadataNamespaces:
    return MetadataOptionsMetadataNamespaces(untyped=list(names))


def _modes(request: ProcessingModeBodySendMode, response: ProcessingModeBodySendMode) -> ProcessingMode:
    return ProcessingMode(
        request_header_mode=_SEND,
        response_header_mode=_SEND,
        request_body_mode=request,
        response_body_mode=response,
    )


def _override(modes: ProcessingMode) -> ExtProcPerRoute:
    return ExtProcPerRoute(overrides=ExtProcOverrides(processing_mode=modes))

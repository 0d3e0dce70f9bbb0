"""Orders of the pipeline as serialised replies for Envoy.

Replies that never vary are serialised once, at import. The part of a route that only depends on its legs
is serialised once per combination: protobuf merges concatenated messages, so the parts are joined as bytes.
"""

from functools import lru_cache

from extproc.call import BodyMode, Emit, Leg, Pass, Relay, Reply, Route
from extproc.contract import CALL, CHAIN, ORDER, ROUTED_HEADER, cluster_of
from protos.ext_proc_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HeaderValue,
    HeaderValueOption,
    HttpStatus,
    ImmediateResponse,
    ProcessingMode,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

PROCEED_REQUEST_HEADERS = ProcessingResponse(request_headers=HeadersResponse()).SerializeToString()
PROCEED_REQUEST_TRAILERS = ProcessingResponse(request_trailers=TrailersResponse()).SerializeToString()
PROCEED_RESPONSE_TRAILERS = ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString()
UNCHANGED_RESPONSE_BODY = ProcessingResponse(response_body=BodyResponse()).SerializeToString()


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode("latin-1")), append_action=_OVERWRITE)


def _relay(mode: BodyMode, resized: bool) -> bytes:
    """A mode override replaces the whole mode: what it does not name falls back to a default."""
    reply = ProcessingResponse(response_headers=HeadersResponse())
    if resized:
        reply.response_headers.response.header_mutation.remove_headers.append("content-length")
    if mode is not BodyMode.NONE:
        reply.mode_override.CopyFrom(
            ProcessingMode(
                request_header_mode=ProcessingMode.SEND,
                response_header_mode=ProcessingMode.SEND,
                response_body_mode=mode.name,
            )
        )
    return reply.SerializeToString()


_RELAYS = {Relay(mode, resized): _relay(mode, resized) for mode in BodyMode for resized in (False, True)}


def relay(order: Relay) -> bytes:
    return _RELAYS[order]


@lru_cache(maxsize=4096)
def _legs(legs: tuple[Leg, ...]) -> bytes:
    """The order of the clusters, and each one's path and model name."""
    reply = ProcessingResponse()
    clusters = [cluster_of(leg.backend) for leg in legs]
    reply.dynamic_metadata.update(
        {
            ORDER: {
                "priority_groups": [
                    {"name": f"g{number}", "clusters": [{"cluster_name": cluster, "weight": 1}]}
                    for number, cluster in enumerate(clusters)
                ]
            },
            CHAIN: {
                "path": {cluster: leg.path for cluster, leg in zip(clusters, legs, strict=True)},
                "model": {cluster: leg.model for cluster, leg in zip(clusters, legs, strict=True) if leg.model},
            },
        }
    )
    return reply.SerializeToString()


def _common(route: Route) -> CommonResponse:
    """The route's headers. Clearing the route cache counts only in a reply that also mutates a header."""
    headers = [_header(ROUTED_HEADER, "1"), _header("x-envoy-max-retries", str(len(route.legs) - 1))]
    if route.body is not None or route.length is not None:
        headers.append(_header("content-length", str(route.length)))
    return CommonResponse(
        header_mutation=HeaderMutation(set_headers=headers, remove_headers=route.remove),
        body_mutation=None if route.body is None else BodyMutation(body=route.body),
        clear_route_cache=True,
    )


def _call_metadata(route: Route) -> bytes:
    """Strings, because Envoy turns numbers into doubles."""
    reply = ProcessingResponse()
    facts = reply.dynamic_metadata.fields[CALL].struct_value.fields
    if route.length is not None:
        facts["cl"].string_value = str(route.length)
    if any(leg.model for leg in route.legs):
        facts["at"].string_value = str(route.at)
        facts["to"].string_value = str(route.to)
    return reply.SerializeToString()


def route_after_headers(route: Route) -> bytes:
    """The route as the reply to request headers."""
    reply = ProcessingResponse(request_headers=HeadersResponse(response=_common(route)))
    return reply.SerializeToString() + _legs(route.legs) + _call_metadata(route)


def route_after_body(route: Route) -> bytes:
    """The route as the reply to a buffered request body."""
    reply = ProcessingResponse(request_body=BodyResponse(response=_common(route)))
    return reply.SerializeToString() + _legs(route.legs) + _call_metadata(route)


def request_chunk(order: Pass) -> bytes:
    """A piece of a full-duplex streamed request body."""
    streamed = StreamedBodyResponse(body=order.body, end_of_stream=order.end)
    return ProcessingResponse(
        request_body=BodyResponse(response=CommonResponse(body_mutation=BodyMutation(streamed_response=streamed)))
    ).SerializeToString()


def reply(order: Reply) -> bytes:
    """An answer of our own."""
    return ProcessingResponse(
        immediate_response=ImmediateResponse(
            status=HttpStatus(code=order.status),
            headers=HeaderMutation(set_headers=[_header(name, value) for name, value in order.headers]),
            body=order.body,
            details=order.details,
        )
    ).SerializeToString()


def emit(order: Emit) -> bytes:
    """A piece of the answer, as it is or replaced."""
    if order.body is None:
        return UNCHANGED_RESPONSE_BODY
    mutation = BodyMutation(body=order.body) if order.body else BodyMutation(clear_body=True)
    return ProcessingResponse(
        response_body=BodyResponse(response=CommonResponse(body_mutation=mutation))
    ).SerializeToString()

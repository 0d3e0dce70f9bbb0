"""Orders of the pipeline as serialised replies for Envoy.

Replies that never vary are serialised once, at import. The part of a route that only depends on its legs
is serialised once per combination: protobuf merges concatenated messages, so the parts are joined as bytes.
"""

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

from extproc.call import BodyMode, Emit, Leg, Pass, Relay, Reply, Route
from extproc.contract import (
    CALL,
    CHAIN,
    FACTS,
    INSTEAD,
    LOG,
    ORDER,
    ROUTED_HEADER,
    SINK_CLUSTER,
    TRACE,
    TRACEPARENT,
    cluster_of,
)
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
_LONGEST_KEPT = 1024  # characters of paths and names: what a caller or provider chooses must not fill the memory
_TRACEPARENT_SIZE = 55  # characters
_LARGEST_PIECE = 64 * 1024  # bytes of an answer in one reply, so that Envoy holds few where a client reads slowly

PROCEED_REQUEST_HEADERS = ProcessingResponse(request_headers=HeadersResponse()).SerializeToString()
PROCEED_REQUEST_TRAILERS = ProcessingResponse(request_trailers=TrailersResponse()).SerializeToString()
PROCEED_RESPONSE_TRAILERS = ProcessingResponse(response_trailers=TrailersResponse()).SerializeToString()
UNCHANGED_RESPONSE_BODY = ProcessingResponse(response_body=BodyResponse()).SerializeToString()


def _header(name: str, value: str) -> HeaderValueOption:
    return HeaderValueOption(header=HeaderValue(key=name, raw_value=value.encode("latin-1")), append_action=_OVERWRITE)


_MODES = {
    BodyMode.STREAMED: ProcessingMode(response_body_mode=ProcessingMode.STREAMED),
    BodyMode.BUFFERED: ProcessingMode(response_body_mode=ProcessingMode.BUFFERED),
    BodyMode.PARTIAL: ProcessingMode(response_body_mode=ProcessingMode.BUFFERED_PARTIAL),
    # Envoy demands the trailers with it.
    BodyMode.DUPLEX: ProcessingMode(
        response_body_mode=ProcessingMode.FULL_DUPLEX_STREAMED, response_trailer_mode=ProcessingMode.SEND
    ),
}


def _relay(mode: BodyMode, resized: bool) -> bytes:
    """A mode override replaces the whole mode: what it does not name falls back to a default."""
    reply = ProcessingResponse(response_headers=HeadersResponse())
    if resized:
        reply.response_headers.response.header_mutation.remove_headers.append("content-length")
    if mode is not BodyMode.NONE:
        reply.mode_override.CopyFrom(_MODES[mode])
        reply.mode_override.request_header_mode = ProcessingMode.SEND
        reply.mode_override.response_header_mode = ProcessingMode.SEND
    return reply.SerializeToString()


_RELAYS = {(mode, resized): _relay(mode, resized) for mode in BodyMode for resized in (False, True)}


@lru_cache(maxsize=1024)
def _around_value(name: str, size: int) -> bytes:
    """A reply that sets a header on the answer, as a format for its value of so many bytes."""
    probe = "\0" * size
    common = CommonResponse(header_mutation=HeaderMutation(set_headers=[_header(name, probe)]))
    reply = ProcessingResponse(response_headers=HeadersResponse(response=common)).SerializeToString()
    at = reply.index(probe.encode())
    return b"%b".join([part.replace(b"%", b"%%") for part in (reply[:at], reply[at + size :])])


def _without(names: tuple[str, ...]) -> bytes:
    """A reply that removes these headers from the answer."""
    common = CommonResponse(header_mutation=HeaderMutation(remove_headers=names))
    return ProcessingResponse(response_headers=HeadersResponse(response=common)).SerializeToString()


_without_often = lru_cache(maxsize=256)(_without)


def relay(order: Relay, replaced: tuple[str, ...] = ()) -> bytes:
    """An answer's head. `replaced`: names of the provider's headers that the order's take the place of.

    Envoy removes before it sets, so a name may be among both.
    """
    reply = _RELAYS[order.mode, order.resized]
    if replaced:
        without = _without_often if sum(map(len, replaced)) <= _LONGEST_KEPT else _without
        reply += without(replaced)
    if not order.headers:
        return reply
    # Of a header most of a reply is the same whatever its value, but for its size: Latin-1 has a byte for a character.
    return reply + b"".join([_around_value(name, len(text)) % text.encode("latin-1") for name, text in order.headers])


Instead = tuple[tuple[str, tuple[Leg, ...]], ...]
"""Another model's legs, by what a provider may refuse a call for."""


def _fields(legs: tuple[Leg, ...], instead: Instead) -> dict[str, Any]:
    """The order of the clusters, and each one's path and model name, as dynamic metadata."""
    fields = {ORDER: {"priority_groups": _groups(legs, ends=bool(instead))}, CHAIN: _chain(legs)}
    if instead:
        fields[INSTEAD] = {cause: _taking_over(legs, others) for cause, others in instead}
    return fields


def _groups(legs: tuple[Leg, ...], ends: bool) -> list[dict[str, Any]]:
    """One for each attempt. `ends`: behind them comes the sink, where there may be tries left for another model."""
    clusters = [cluster_of(leg.backend) for leg in legs] + [SINK_CLUSTER] * ends
    return [
        {"name": f"g{number}", "clusters": [{"cluster_name": cluster, "weight": 1}]}
        for number, cluster in enumerate(clusters)
    ]


def _chain(legs: tuple[Leg, ...]) -> dict[str, Any]:
    """What each cluster needs to know of its attempt."""
    by_cluster = [(cluster_of(leg.backend), leg) for leg in legs]
    translate = {cluster: leg.translate for cluster, leg in by_cluster if leg.translate}
    return {
        "path": {cluster: leg.path for cluster, leg in by_cluster},
        "deployed": {cluster: leg.deployed for cluster, leg in by_cluster},
        "model": {cluster: leg.model for cluster, leg in by_cluster if leg.model},
        **({"translate": translate} if translate else {}),
    }


def _taking_over(legs: tuple[Leg, ...], others: tuple[Leg, ...]) -> dict[str, Any]:
    """The chain of another model. A translated attempt before it may have changed headers, so it says that it was."""
    chain = _chain(others)
    if any(leg.translate for leg in legs):
        chain["translate"] = {SINK_CLUSTER: "none", **chain.get("translate", {})}
    return {"groups": _groups(others, ends=True), **chain}


def _steer(
    phase: str, legs: tuple[Leg, ...], remove: tuple[str, ...], first_byte: float | None, instead: Instead
) -> bytes:
    """What all calls with these legs and headers have in common. `phase` is the message that is answered.

    Clearing the route cache counts only in a reply that also mutates a header.
    """
    retries = len(legs) - 1 + max([len(others) for _, others in instead], default=0)
    headers = [_header(ROUTED_HEADER, "1"), _header("x-envoy-max-retries", str(retries))]
    if first_byte is not None:  # once the answer has begun, Envoy lets it go on
        headers.append(_header("x-envoy-upstream-rq-per-try-timeout-ms", str(max(1, round(first_byte * 1000)))))
    common = CommonResponse(
        header_mutation=HeaderMutation(set_headers=headers, remove_headers=remove),
        clear_route_cache=True,
    )
    reply = ProcessingResponse(**{phase: _ANSWERS[phase](response=common)})  # type: ignore[arg-type]
    reply.dynamic_metadata.update(_fields(legs, instead))
    return reply.SerializeToString()


_ANSWERS: dict[str, type[HeadersResponse] | type[BodyResponse]] = {
    "request_headers": HeadersResponse,
    "request_body": BodyResponse,
}
_steer_often = lru_cache(maxsize=1024)(_steer)


def _steering(phase: str, route: Route) -> bytes:
    size = sum(len(leg.path) for leg in route.all_legs) + sum(map(len, route.remove))
    steer = _steer_often if size <= _LONGEST_KEPT else _steer
    return steer(phase, route.legs, route.remove, route.first_byte, route.instead)


def _call_metadata(facts: Mapping[str, str]) -> bytes:
    """Strings, because Envoy turns numbers into doubles."""
    reply = ProcessingResponse()
    for name, value in facts.items():
        reply.dynamic_metadata.fields[CALL].struct_value.fields[name].string_value = value
    return reply.SerializeToString()


@lru_cache(maxsize=16)
def _around_length(digits: int) -> tuple[bytes, bytes]:
    """What stands before and behind a length of so many digits: nothing else in it varies."""
    probe = "x" * digits
    before, _, behind = _call_metadata({"cl": probe}).partition(probe.encode())
    return before, behind


def _facts(route: Route) -> bytes:
    """What this call alone has; of most calls that is the length."""
    renames = [leg for leg in route.all_legs if leg.model]
    if route.length is not None and not renames and route.identity is None and not route.asking:
        length = b"%d" % route.length
        before, behind = _around_length(len(length))
        return before + length + behind
    facts = {} if route.length is None else {"cl": str(route.length)}
    if renames:
        facts |= {"at": str(route.at), "to": str(route.to)}
    if route.identity is not None:
        facts["identity"] = route.identity
    facts |= dict(route.asking)
    return _call_metadata(facts) if facts else b""


def _changed_body(body: bytes) -> bytes:
    """A new body must come with its length, or Envoy refuses the reply."""
    length = HeaderMutation(set_headers=[_header("content-length", str(len(body)))])
    common = CommonResponse(header_mutation=length, body_mutation=BodyMutation(body=body))
    return ProcessingResponse(request_body=BodyResponse(response=common)).SerializeToString()


def logged(facts: Mapping[str, str | int]) -> bytes:
    """Facts for Envoy's log: a part of any reply. They stay until others of their names come."""
    reply = ProcessingResponse()
    fields = reply.dynamic_metadata.fields[LOG].struct_value.fields
    for name, value in facts.items():
        if isinstance(value, str):
            fields[name].string_value = value
        else:
            fields[name].number_value = value
    return reply.SerializeToString()


@lru_cache(maxsize=1024)
def _around_note(name: str, size: int) -> tuple[bytes, bytes]:
    """What stands before and behind a note of so many bytes."""
    probe = b"\0" * size
    reply = ProcessingResponse()
    reply.dynamic_metadata.fields[FACTS].struct_value.fields[name].string_value = probe.decode()
    before, _, behind = reply.SerializeToString().partition(probe)
    return before, behind


def noted(name: str, note: bytes) -> bytes:
    """A note for Envoy's record of the call, UTF-8: a part of any reply, one for each at most."""
    if not note:
        return b""
    before, behind = _around_note(name, len(note))
    return before + note + behind


def _around_trace() -> tuple[bytes, bytes]:
    reply = ProcessingResponse()
    reply.dynamic_metadata.fields[TRACE].struct_value.fields[TRACEPARENT].string_value = "0" * _TRACEPARENT_SIZE
    before, _, behind = reply.SerializeToString().partition(b"0" * _TRACEPARENT_SIZE)
    return before, behind


_BEFORE_TRACE, _BEHIND_TRACE = _around_trace()


def traced(header: str) -> bytes:
    """The traceparent of a call that is sent: a part of any reply."""
    return _BEFORE_TRACE + header.encode() + _BEHIND_TRACE


def route_after_headers(route: Route) -> bytes:
    """The route as the reply to request headers. The clusters set the content-length."""
    return _steering("request_headers", route) + _facts(route)


def route_after_body(route: Route) -> bytes:
    """The route as the reply to a buffered request body."""
    steering = _steering("request_body", route) + _facts(route)
    return steering if route.body is None else steering + _changed_body(route.body)


def request_chunk(order: Pass) -> bytes:
    """A piece of a full-duplex streamed request body."""
    streamed = StreamedBodyResponse(body=order.body, end_of_stream=order.end)
    return ProcessingResponse(
        request_body=BodyResponse(response=CommonResponse(body_mutation=BodyMutation(streamed_response=streamed)))
    ).SerializeToString()


def more_time(seconds: float) -> bytes:
    """That a reply is to come, within so many seconds. Whatever else it held, Envoy would not read."""
    reply = ProcessingResponse()
    reply.override_message_timeout.FromTimedelta(timedelta(seconds=seconds))
    return reply.SerializeToString()


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


def pieces(order: Emit, chunk: bytes, end: bool) -> list[bytes]:
    """A piece of an answer in duplex: the replies that send it, none where there is nothing to send.

    `chunk` and `end` are what Envoy told; here it sends on nothing that is not handed back.
    """
    body, end = chunk if order.body is None else order.body, end or order.last
    if len(body) <= _LARGEST_PIECE:
        return [_answer_chunk(body, end)] if body or end else []
    starts = range(0, len(body), _LARGEST_PIECE)
    return [_answer_chunk(body[at : at + _LARGEST_PIECE], end and at == starts[-1]) for at in starts]


def _answer_chunk(body: bytes, end: bool) -> bytes:
    streamed = StreamedBodyResponse(body=body, end_of_stream=end)
    return ProcessingResponse(
        response_body=BodyResponse(response=CommonResponse(body_mutation=BodyMutation(streamed_response=streamed)))
    ).SerializeToString()

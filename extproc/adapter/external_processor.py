"""Envoy's ExternalProcessor service: one stream per call, one reply per message.

The rule of this file: a stream ends cleanly only after Envoy has ended it. Envoy takes a clean end, or a
reply of the wrong kind, as permission to go on without the policy; an error it answers with a 5xx.
"""

import logging
import traceback
from functools import partial
from typing import NamedTuple, Protocol

import grpc

from extproc.adapter import codec, tokens
from extproc.adapter.patience import Patience, Replies
from extproc.adapter.silence import Watch
from extproc.call import (
    BodyMode,
    Call,
    Emit,
    Event,
    Origin,
    Pass,
    Proceed,
    ProtocolViolation,
    Relay,
    Reply,
    Route,
    Silence,
    Withhold,
)
from extproc.contract import NO_ADDRESS, UNRESOLVED_ADDRESS
from extproc.headers import Headers
from extproc.pipeline import Pipeline
from protos.ext_proc_pb2 import HttpBody, HttpHeaders, ProcessingRequest

log = logging.getLogger(__name__)

_ATTRIBUTES = "envoy.filters.http.ext_proc"
# In which providers tell of limits that are not the caller's; not retry-after, which stays true. Removed here and not
# in the clusters, because there it would be before the policy, and the record of an attempt, could read them.
_OF_LIMITS = (
    *("x-ratelimit-", "x-ratelimitbysize-", "x-rate-limit-", "ratelimit", "rate-limit"),
    *("anthropic-ratelimit-", "anthropic-priority-", "anthropic-fast-"),
)


class Stream(Protocol):
    """What we use of grpc.aio's servicer context."""

    async def read(self) -> ProcessingRequest: ...
    async def write(self, message: bytes) -> None: ...
    async def abort(self, code: grpc.StatusCode, details: str) -> None: ...


class _Head(NamedTuple):
    """The reply to the head of an answer, whether its body comes in duplex, and how silent that may be."""

    reply: bytes
    duplex: bool = False
    silence: Silence | None = None


class ExternalProcessor:
    """Translates one stream after the other into calls of the pipeline."""

    def __init__(self, pipeline: Pipeline, patience: Patience | None = None) -> None:
        """`patience`: for decisions that take longer than Envoy waits by itself; None: there are none."""
        self._pipeline = pipeline
        self._patience = patience or Patience(0, 0)

    async def process(self, _requests: object, stream: Stream) -> None:
        """Serve one call."""
        call = self._pipeline.begin()
        replies = self._patience.replies(stream.write)
        try:
            while (request := await stream.read()) is not grpc.aio.EOF:
                replies.due()
                if request.HasField("response_body"):  # first and by itself: a stream has hundreds of these
                    body = request.response_body
                    order = await self._pipeline.response_body(call, body.body, body.end_of_stream)
                    if isinstance(order, Emit):
                        await replies.write(codec.emit(order))
                    elif isinstance(order, Reply):
                        await replies.write(codec.reply(order))
                    continue
                if request.HasField("response_headers"):
                    answer = await self._response_headers(call, request)
                    await replies.write(answer.reply)
                    if answer.duplex:
                        await self._duplex(call, stream, answer.silence)
                        break
                    continue
                for reply in await self._answer(call, request):
                    await replies.write(reply)
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise  # of `_stalled`, which has told why
            await self._broken(call, error, replies, stream)
        finally:
            replies.close()
            self._pipeline.end(call)

    async def _duplex(self, call: Call, stream: Stream, silence: Silence | None) -> None:
        """Hand on the body of an answer that may end before the backend ends it, until Envoy ends the stream.

        For replies in duplex Envoy waits as long as it takes, so that no more time is asked for.
        What Envoy tells after the end is what it had read of the backend before it knew; that gets no reply.
        """
        ended = False
        watch = Watch(silence, partial(self._stalled, call, stream))
        try:
            while (request := await watch.wait(stream.read())) is not grpc.aio.EOF:
                if ended or watch.is_over:
                    continue
                if not request.HasField("response_body"):
                    for reply in await self._answer(call, request):
                        await stream.write(reply)
                    continue
                body = request.response_body
                order = await self._pipeline.response_body(call, body.body, body.end_of_stream)
                if not isinstance(order, Emit):
                    raise ProtocolViolation("an answer that flows cannot be withdrawn")
                for reply in codec.pieces(order, body.body, body.end_of_stream):
                    watch.passed(len(reply))
                    await stream.write(reply)
                if ended := body.end_of_stream or order.last:
                    watch.stop()
        finally:
            await watch.close()

    async def _stalled(self, call: Call, stream: Stream) -> None:
        """End an answer of which nothing has come for too long. Where that fails, the reader learns it by the abort."""
        try:
            ending = await self._pipeline.stalled(call)
        except Exception as error:
            self._failed(call, error)
            await stream.abort(grpc.StatusCode.INTERNAL, "policy error")
        else:
            for reply in codec.pieces(ending, b"", False):
                await stream.write(reply)

    async def _broken(self, call: Call, error: Exception, replies: Replies, stream: Stream) -> None:
        """End the stream by an error."""
        if not call.answer_ended or isinstance(error, ProtocolViolation):
            self._failed(call, error)
        # Else the server stops under a call that is over.
        await replies.settled()
        await stream.abort(grpc.StatusCode.INTERNAL, "policy error")

    def _failed(self, call: Call, error: Exception) -> None:
        """Log where it failed, not what: the text of an exception may hold text of the call."""
        self._pipeline.fail(call)
        frames = traceback.extract_tb(error.__traceback__)
        where = " < ".join(f"{frame.name}:{frame.lineno}" for frame in reversed(frames[-6:]))
        log.error("call failed inside the policy: %s at %s", type(error).__name__, where)

    async def _answer(self, call: Call, request: ProcessingRequest) -> tuple[bytes, ...]:
        kind = request.WhichOneof("request")
        if kind == "request_headers":
            return await self._request_headers(call, request)
        if kind == "request_body":
            return await self._request_body(call, request.request_body)
        if kind == "request_trailers":
            order = await self._pipeline.trailers(call, Event.REQUEST_TRAILERS)
            return () if isinstance(order, Withhold) else (codec.PROCEED_REQUEST_TRAILERS,)
        if kind == "response_trailers":
            order = await self._pipeline.trailers(call, Event.RESPONSE_TRAILERS)
            return () if isinstance(order, Withhold) else (codec.PROCEED_RESPONSE_TRAILERS,)
        raise ProtocolViolation("a message of no known kind")

    async def _request_headers(self, call: Call, request: ProcessingRequest) -> tuple[bytes, ...]:
        message, token = request.request_headers, tokens.read(request.metadata_context)
        order = await self._pipeline.request_headers(call, _headers(message), message.end_of_stream, token)
        match order:
            case Proceed():
                return (codec.PROCEED_REQUEST_HEADERS,)
            case Withhold():
                return ()
            case Route():
                return (codec.route_after_headers(order),)
            case Reply():
                return (codec.reply(order),)

    async def _request_body(self, call: Call, message: HttpBody) -> tuple[bytes, ...]:
        order = await self._pipeline.request_body(call, message.body, message.end_of_stream)
        match order:
            case Route():
                return (codec.route_after_body(order),)
            case Reply():
                return (codec.reply(order),)
            case Withhold():
                return ()
            case Pass(route=None):
                return (codec.request_chunk(order),)
            case Pass(route=Route() as route):
                return (codec.route_after_headers(route), codec.request_chunk(order))
        raise AssertionError(order)

    async def _response_headers(self, call: Call, request: ProcessingRequest) -> _Head:
        message = request.response_headers
        headers = _headers(message)
        facts = request.attributes[_ATTRIBUTES].fields
        is_nowhere = facts["upstream.address"].string_value == UNRESOLVED_ADDRESS
        order = await self._pipeline.response_headers(
            call,
            headers,
            Origin(
                cluster=facts["xds.cluster_name"].string_value,
                # The policy answers in the place of the sink, as it does where Envoy itself finds nobody.
                details=NO_ADDRESS if is_nowhere else facts["response.code_details"].string_value,
                path=facts["request.path"].string_value,
                request_id=facts["request.id"].string_value,
                protocol=facts["request.protocol"].string_value,
            ),
            message.end_of_stream,
        )
        match order:
            case Relay(mode=mode):
                replaced = _told_of_limits(headers) if order.limited else ()
                return _Head(codec.relay(order, replaced), mode is BodyMode.DUPLEX, order.silence)
            case Reply():
                return _Head(codec.reply(order))


def _told_of_limits(headers: Headers) -> tuple[str, ...]:
    """Names of the headers in which a provider tells of its own limits: an order to Envoy takes exact names only."""
    return tuple([name for name in headers if name.startswith(_OF_LIMITS)])


def _headers(message: HttpHeaders) -> Headers:
    pairs = message.headers.headers
    values = {pair.key: pair.raw_value for pair in pairs}
    if len(values) == len(pairs):
        return Headers(values)
    return Headers.of([(pair.key, pair.raw_value) for pair in pairs])  # a name comes more than once

"""Envoy's ExternalProcessor service: one stream per call, one reply per message.

The rule of this file: a stream ends cleanly only after Envoy has ended it. Envoy takes a clean end, or a
reply of the wrong kind, as permission to go on without the policy; an error it answers with a 5xx.
"""

import logging
import time
import traceback
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache, partial
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
from extproc.contract import NO_ADDRESS, TRACEPARENT, UNRESOLVED_ADDRESS
from extproc.headers import Headers
from extproc.pipeline import Pipeline
from extproc.telemetry import logged, note
from protos.ext_proc_pb2 import HttpBody, HttpHeaders, ProcessingRequest

log = logging.getLogger(__name__)

_LONGEST_KEPT = 1024  # characters of names: what a provider chooses must not fill the memory
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
    def invocation_metadata(self) -> Sequence[tuple[str, str]]: ...


class _Head(NamedTuple):
    """The reply to the head of an answer, whether its body comes in duplex, and how silent that may be."""

    reply: bytes
    duplex: bool = False
    silence: Silence | None = None


class ExternalProcessor:
    """Translates one stream after the other into calls of the pipeline."""

    def __init__(self, pipeline: Pipeline, patience: Patience | None = None, traced: bool = False) -> None:
        """`patience`: for decisions that take longer than Envoy waits by itself; None: there are none.

        `traced`: Envoy makes spans, too, and tells in a stream's metadata of which one it is a part.
        """
        self._traced = traced
        self._pipeline = pipeline
        self._patience = patience or Patience(0, 0)

    async def process(self, _requests: object, stream: Stream) -> None:
        """Serve one call."""
        call = self._begun(stream)
        replies = self._patience.replies(stream.write)
        try:
            while (request := await stream.read()) is not grpc.aio.EOF:
                replies.due()
                kind = request.WhichOneof("request")
                if kind == "response_body":  # first and by itself: a stream has hundreds of these
                    body = request.response_body
                    order = await self._pipeline.response_body(call, body.body, body.end_of_stream)
                    if isinstance(order, Emit):
                        logged_too = self._logged(call, body.end_of_stream) if call.catalogue.logs_calls else b""
                        await replies.write(codec.emit(order) + logged_too)
                    elif isinstance(order, Reply):
                        await replies.write(self._reply(call, order))
                    continue
                if kind == "response_headers":
                    answer = await self._response_headers(call, request)
                    await replies.write(answer.reply)
                    if answer.duplex:
                        await self._duplex(call, stream, answer.silence)
                        break
                    continue
                for reply in await self._answer(call, kind, request):
                    await replies.write(reply)
        except Exception as error:
            if isinstance(error, grpc.aio.AbortError):
                raise  # of `_stalled`, which has told why
            await self._broken(call, error, replies, stream)
        finally:
            replies.close()
            self._pipeline.end(call)

    def _begun(self, stream: Stream) -> Call:
        call = self._pipeline.begin()
        if self._traced:
            told = stream.invocation_metadata()
            parents, states = ([value for name, value in told if name == key] for key in (TRACEPARENT, "tracestate"))
            self._pipeline.join(call, parents, states)
        return call

    async def _duplex(self, call: Call, stream: Stream, silence: Silence | None) -> None:
        """Hand on the body of an answer that may end before the backend ends it, until Envoy ends the stream.

        For replies in duplex Envoy waits as long as it takes, so that no more time is asked for.
        What Envoy tells after the end is what it had read of the backend before it knew; that gets no reply.
        """
        ended = False
        watch = Watch(silence, partial(self._stalled, call, stream))
        self._pipeline.endings.add(watch.end)
        try:
            while (request := await watch.wait(stream.read())) is not grpc.aio.EOF:
                if ended or watch.is_over:
                    continue
                if not request.HasField("response_body"):
                    for reply in await self._answer(call, request.WhichOneof("request"), request):
                        await stream.write(reply)
                    continue
                body = request.response_body
                order = await self._pipeline.response_body(call, body.body, body.end_of_stream)
                if not isinstance(order, Emit):
                    raise ProtocolViolation("an answer that flows cannot be withdrawn")
                ended = body.end_of_stream or order.last
                for reply in self._all_logged(call, codec.pieces(order, body.body, body.end_of_stream), ended):
                    watch.passed(len(reply))
                    await stream.write(reply)
                if ended:
                    watch.stop()
                    self._pipeline.endings.discard(watch.end)
        finally:
            self._pipeline.endings.discard(watch.end)
            await watch.close()

    async def _stalled(self, call: Call, stream: Stream) -> None:
        """End an answer of which nothing has come for too long, or for which no time is left.

        Where that fails, the reader learns it by the abort.
        """
        try:
            ending = await self._pipeline.stalled(call)
        except Exception as error:
            self._failed(call, error)
            await stream.abort(grpc.StatusCode.INTERNAL, "policy error")
        else:
            for reply in self._all_logged(call, codec.pieces(ending, b"", False), True):
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
        told = {"trace": call.trace}
        log.error("call failed inside the policy: %s at %s", type(error).__name__, where, extra=told)

    async def _answer(self, call: Call, kind: str | None, request: ProcessingRequest) -> tuple[bytes, ...]:
        if kind == "request_headers":
            return await self._request_headers(call, request)
        if kind == "request_body":
            return await self._request_body(call, request.request_body)
        if kind == "request_trailers":
            order = await self._pipeline.trailers(call, Event.REQUEST_TRAILERS)
            return () if isinstance(order, Withhold) else (codec.PROCEED_REQUEST_TRAILERS,)
        if kind == "response_trailers":
            order = await self._pipeline.trailers(call, Event.RESPONSE_TRAILERS)
            if isinstance(order, Withhold):
                return ()
            return (codec.PROCEED_RESPONSE_TRAILERS + self._logged(call, True),)
        raise ProtocolViolation("a message of no known kind")

    async def _request_headers(self, call: Call, request: ProcessingRequest) -> tuple[bytes, ...]:
        message, token = request.request_headers, tokens.read(request.metadata_context)
        headers, waited = _headers(message), _waited(request)
        order = await self._pipeline.request_headers(call, headers, message.end_of_stream, token, waited)
        match order:
            case Proceed():
                return (codec.PROCEED_REQUEST_HEADERS + codec.noted("who", call.who),)
            case Withhold():
                return ()
            case Route():
                return (codec.route_after_headers(order) + self._sent(call, True),)
            case Reply():
                return (self._reply(call, order),)

    async def _request_body(self, call: Call, message: HttpBody) -> tuple[bytes, ...]:
        order = await self._pipeline.request_body(call, message.body, message.end_of_stream)
        match order:
            case Route():
                return (codec.route_after_body(order) + self._sent(call),)
            case Reply():
                return (self._reply(call, order),)
            case Withhold():
                return ()
            case Pass(route=None):
                return (codec.request_chunk(order),)
            case Pass(route=Route() as route):
                return (codec.route_after_headers(route) + self._sent(call, True), codec.request_chunk(order))
        raise AssertionError(order)

    async def _response_headers(self, call: Call, request: ProcessingRequest) -> _Head:
        message = request.response_headers
        headers = _headers(message)
        facts = request.attributes[_ATTRIBUTES].fields
        is_first = not call.begun
        is_nowhere = facts["upstream.address"].string_value == UNRESOLVED_ADDRESS
        order = await self._pipeline.response_headers(
            call,
            headers,
            Origin(
                cluster=facts["xds.cluster_name"].string_value,
                # The policy answers in the place of the sink, as it does where Envoy itself finds nobody.
                details=NO_ADDRESS if is_nowhere else facts["response.code_details"].string_value,
                path=facts["request.path"].string_value if is_first else "",
                request_id=facts["request.id"].string_value if is_first else "",
                protocol=facts["request.protocol"].string_value,
            ),
            message.end_of_stream,
        )
        match order:
            case Relay(mode=mode):
                replaced = _told_of_limits(headers) if order.limited else ()
                reply = codec.relay(self._pipeline.timed(call, order), replaced)
                return _Head(reply + self._logged(call, mode is BodyMode.NONE), mode is BodyMode.DUPLEX, order.silence)
            case Reply():
                return _Head(self._reply(call, order))

    def _reply(self, call: Call, order: Reply) -> bytes:
        return codec.reply(self._pipeline.timed(call, order)) + self._logged(call, True)

    def _sent(self, call: Call, is_first: bool = False) -> bytes:
        """The part of a reply that tells Envoy's record, and its log where there is one, whose call was sent to a
        backend. `is_first`: nothing was told before."""
        noted = codec.noted("what", note.joined(call.who, call.what) if is_first else call.what)
        traced = b"" if call.trace is None else codec.traced(call.trace.header)
        return noted + traced + codec.logged(logged.asked(call)) if call.catalogue.logs_calls else noted + traced

    def _logged(self, call: Call, is_last: bool) -> bytes:
        """The part that tells that log all else; nothing, where that is not known yet, or was told."""
        if not call.catalogue.logs_calls:
            return b""
        try:
            facts = self._pipeline.to_log(call, is_last)
            return codec.logged(facts) if facts else b""
        except Exception as error:  # whatever it is: a log may not cost an answer that is paid for
            log.error("a call is not logged whole: %s", type(error).__name__, extra={"trace": call.trace})
            return b""

    def _all_logged(self, call: Call, replies: list[bytes], is_last: bool) -> list[bytes]:
        """The same, in the last of some replies."""
        if replies:
            replies[-1] += self._logged(call, is_last)
        return replies


def _told_of_limits(headers: Headers) -> tuple[str, ...]:
    """Names of the headers in which a provider tells of its own limits: an order to Envoy takes exact names only."""
    names = tuple(headers.first)
    return _of_limits_often(names) if sum(map(len, names)) <= _LONGEST_KEPT else _of_limits(names)


def _of_limits(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([name for name in names if name.startswith(_OF_LIMITS)])


_of_limits_often = lru_cache(maxsize=512)(_of_limits)  # a provider sends the same ones with each answer


def _waited(request: ProcessingRequest) -> float:
    """Seconds since Envoy began with the call, by the clock of the machine that they share; 0 where it does not say."""
    began = request.attributes[_ATTRIBUTES].fields["request.time"].string_value
    return max(0.0, time.time() - datetime.fromisoformat(began).timestamp()) if began else 0.0


def _headers(message: HttpHeaders) -> Headers:
    pairs = message.headers.headers
    values = {pair.key: pair.raw_value for pair in pairs}
    if len(values) == len(pairs):
        return Headers(values)
    return Headers.of([(pair.key, pair.raw_value) for pair in pairs])  # a name comes more than once

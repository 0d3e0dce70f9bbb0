"""Whole streams against an Envoy in memory: one reply per message, and never a clean end that Envoy did not ask for."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extproc.adapter.external_processor import ExternalProcessor
from extproc.call import Call, Emit, Event, Origin, Relay, Reply, Silence
from extproc.headers import Headers
from extproc.pipeline import Pipeline
from protos.ext_proc_pb2 import HttpBody, ProcessingMode, ProcessingRequest, ProcessingResponse
from tests.support.duplex import Scripted
from tests.support.playbook import (
    REQUEST_TRAILERS,
    RESPONSE_TRAILERS,
    Aborted,
    FakeEnvoy,
    Policy,
    RequestBody,
    ResponseBody,
    ResponseHeaders,
    Told,
    answer,
    local_reply,
    pairs,
    request,
)

CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"canary text"}]}'
USED = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}'
FORM = (
    b'--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    b'--B\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--B--\r\n'
)
FORM_HEAD = request("/v1/audio/transcriptions", content_type="multipart/form-data; boundary=B")

CALLS: dict[str, tuple[Told, ...]] = {
    "json": (request(), RequestBody(CHAT), answer(content_length="60"), ResponseBody(USED), RESPONSE_TRAILERS),
    "request trailers": (request(), REQUEST_TRAILERS, RequestBody(CHAT), answer(), ResponseBody(USED)),
    "stream": (
        request(),
        RequestBody(CHAT.replace(b'"model"', b'"stream":true,"model"')),
        answer(content_type="text/event-stream"),
        ResponseBody(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', end=False),
        ResponseBody(b"data: [DONE]\n\n", end=True),
    ),
    "form": (FORM_HEAD, RequestBody(FORM), answer(), ResponseBody(USED)),
    "refused": (request(authorization=""),),
    "models": (request("/v1/models", "GET", end=True),),
    "provider error": (request(), RequestBody(CHAT), answer(status=500)),
    "no backend": (request(), RequestBody(CHAT), local_reply(503)),
    "too large": (local_reply(413),),
}
_ANSWERS = {
    Event.REQUEST_HEADERS: "request_headers",
    Event.REQUEST_BODY: "request_body",
    Event.REQUEST_TRAILERS: "request_trailers",
    Event.RESPONSE_HEADERS: "response_headers",
    Event.RESPONSE_BODY: "response_body",
    Event.RESPONSE_TRAILERS: "response_trailers",
}


class CountedPipeline(Pipeline):
    """Counts how often a call ends."""

    ends = 0

    def end(self, call: Call) -> None:
        self.ends += 1
        super().end(call)


def counted(policy: Policy) -> CountedPipeline:
    policy.pipeline.__class__ = CountedPipeline
    assert isinstance(policy.pipeline, CountedPipeline)
    return policy.pipeline


def messages(events: Sequence[Told]) -> list[ProcessingRequest]:
    return [told.message() for told in events]


async def run(policy: Policy, envoy: FakeEnvoy) -> list[ProcessingResponse]:
    """Serve one stream; an abort is noted at the fake."""
    try:
        await ExternalProcessor(policy.pipeline).process(None, envoy)
    except Aborted:
        assert envoy.aborted is not None
    return [ProcessingResponse.FromString(reply) for reply in envoy.replies]


@pytest.mark.parametrize("events", CALLS.values(), ids=CALLS.keys())
async def test_a_good_call_gets_a_reply_of_the_right_kind_to_every_message(events: tuple[Told, ...]) -> None:
    policy = Policy()
    pipeline = counted(policy)
    envoy = FakeEnvoy(messages(events))
    replies = await run(policy, envoy)
    assert envoy.aborted is None
    assert envoy.ended, "the stream may end only after Envoy has ended it"
    kinds = [reply.WhichOneof("response") for reply in replies]
    if kinds[-1] == "immediate_response":
        assert kinds[:-1] == [_ANSWERS[told.event] for told in events[:-1]]
    else:
        assert kinds == [_ANSWERS[told.event] for told in events]
    assert pipeline.ends == 1
    assert len(policy.records) == 1


async def test_a_form_is_answered_with_its_route_first_and_its_bytes_then() -> None:
    envoy = FakeEnvoy(messages([FORM_HEAD, RequestBody(FORM[:40], end=False), RequestBody(FORM[40:])]))
    replies = await run(Policy(), envoy)
    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", "request_body"]
    assert replies[0].request_headers.response.clear_route_cache
    assert replies[0].dynamic_metadata.fields
    streamed = replies[1].request_body.response.body_mutation.streamed_response
    assert (streamed.body, streamed.end_of_stream) == (FORM, True)


async def test_a_form_flows_on_piece_by_piece_and_is_ended_once() -> None:
    pieces = (RequestBody(FORM[:-8], end=False), RequestBody(FORM[-8:]), RequestBody(FORM[-8:]))
    replies = await run(Policy(), FakeEnvoy(messages([FORM_HEAD, *pieces])))
    streamed = [reply.request_body.response.body_mutation.streamed_response for reply in replies[1:]]
    assert b"".join(piece.body for piece in streamed) == FORM
    assert [piece.end_of_stream for piece in streamed] == [False, True]


async def test_a_form_that_names_no_model_is_refused_in_place_of_its_route() -> None:
    body = FORM.replace(b'name="model"', b'name="other"')
    replies = await run(Policy(), FakeEnvoy(messages([FORM_HEAD, RequestBody(body)])))
    assert [reply.WhichOneof("response") for reply in replies] == ["immediate_response"]


async def test_a_stored_response_is_routed_at_its_head() -> None:
    policy = Policy()
    policy.affinity.store.remember(["resp_1"], "one", "gpt-4o", "key_1")
    head = request("/v1/responses/resp_1", "GET", end=True)
    replies = await run(policy, FakeEnvoy(messages([head, answer(), ResponseBody(USED)])))
    kinds = [reply.WhichOneof("response") for reply in replies]
    assert kinds == ["request_headers", "response_headers", "response_body"]
    assert "sluice.order" in replies[0].dynamic_metadata.fields


async def test_the_mode_of_the_answer_is_ordered_at_its_head() -> None:
    replies = await run(Policy(), FakeEnvoy(messages(CALLS["json"][:3])))
    assert replies[2].mode_override.response_body_mode == ProcessingMode.BUFFERED
    replies = await run(Policy(), FakeEnvoy(messages(CALLS["stream"][:3])))
    assert replies[2].mode_override.response_body_mode == ProcessingMode.STREAMED


# ---- duplex -----------------------------------------------------------------------------------------


def scripted(*told: Told, **policy: object) -> FakeEnvoy:
    """A call whose body scripts the policy; the answer in duplex."""
    body = json.dumps({"x_policy": policy}).encode()
    return FakeEnvoy(messages([request(), RequestBody(body), answer(content_type="text/event-stream"), *told]))


async def answered(envoy: FakeEnvoy) -> list[tuple[bytes, bool]]:
    """The pieces of the answer, each with whether it is the last."""
    with contextlib.suppress(Aborted):
        await ExternalProcessor(cast(Pipeline, Scripted())).process(None, envoy)
    parsed = [ProcessingResponse.FromString(reply) for reply in envoy.replies]
    assert parsed[2].mode_override.response_body_mode == ProcessingMode.FULL_DUPLEX_STREAMED
    pieces = [reply.response_body.response.body_mutation for reply in parsed[3:] if reply.HasField("response_body")]
    return [(piece.streamed_response.body, piece.streamed_response.end_of_stream) for piece in pieces]


ONE, TWO = ResponseBody(b"data: 1\n\n", end=False), ResponseBody(b"data: 2\n\n", end=False)


async def test_in_duplex_all_bytes_are_handed_back_and_the_end_once() -> None:
    envoy = scripted(ONE, TWO, ResponseBody(b"", end=True))
    assert await answered(envoy) == [(ONE.body, False), (TWO.body, False), (b"", True)]
    assert (envoy.ended, envoy.aborted) == (True, None)


async def test_after_an_early_end_nothing_is_answered_and_the_stream_is_left_to_envoy() -> None:
    late = (TWO, ResponseBody(b"data: 3\n\n", end=True), RESPONSE_TRAILERS, TWO)
    envoy = scripted(ONE, *late, events=1, farewell="data: [DONE]\n\n")
    assert await answered(envoy) == [(b"data: 1\n\ndata: [DONE]\n\n", True)]
    assert len(envoy.replies) == 4
    assert (envoy.ended, envoy.aborted) == (True, None), "only Envoy ends a stream"


class Watching(Scripted):
    """Lets the backend be silent for a moment."""

    async def response_headers(self, call: Any, headers: Headers, origin: Origin, end: bool) -> Relay | Reply:
        order = await super().response_headers(call, headers, origin, end)
        assert isinstance(order, Relay)
        return replace(order, silence=Silence(0.02, 1_000_000))

    async def stalled(self, _call: object) -> Emit:
        return Emit(b"event: error\n\n", last=True)


class Pausing(FakeEnvoy):
    """Says nothing until the answer has been ended, and then what it had read before it knew."""

    def __init__(self, messages: Sequence[ProcessingRequest], late: Sequence[ProcessingRequest]) -> None:
        super().__init__(messages)
        self._late = [*late]

    async def read(self) -> Any:
        message = await super().read()
        if message is not grpc.aio.EOF or not self._late:
            return message
        while not any(_ends(reply) for reply in self.replies):
            await asyncio.sleep(0.005)
        return self._late.pop(0)


def _ends(reply: bytes) -> bool:
    body = ProcessingResponse.FromString(reply).response_body
    return body.response.body_mutation.streamed_response.end_of_stream


async def test_in_duplex_silence_ends_the_answer_and_what_comes_then_is_too_late() -> None:
    told = messages([request(), RequestBody(b"{}"), answer(content_type="text/event-stream"), ONE])
    envoy = Pausing(told, messages([TWO, ResponseBody(b"", end=True)]))
    async with asyncio.timeout(10):
        await ExternalProcessor(cast(Pipeline, Watching())).process(None, envoy)
    pieces = [ProcessingResponse.FromString(reply).response_body for reply in envoy.replies[3:]]
    sent = [piece.response.body_mutation.streamed_response for piece in pieces]
    assert [(one.body, one.end_of_stream) for one in sent] == [(ONE.body, False), (b"event: error\n\n", True)]
    assert (envoy.ended, envoy.aborted) == (True, None), "only Envoy ends a stream"


class Failing(Watching):
    """Cannot even end an answer."""

    def __init__(self) -> None:
        self.failed = 0

    async def stalled(self, _call: object) -> Emit:
        raise ValueError("canary text")

    def fail(self, _call: object) -> None:
        self.failed += 1


class Torn(FakeEnvoy):
    """Says nothing more, and whoever waits for it learns of an abort."""

    async def read(self) -> Any:
        message = await super().read()
        while message is grpc.aio.EOF and self.aborted is None:
            await asyncio.sleep(0.005)
        if message is grpc.aio.EOF:
            raise grpc.aio.AbortError
        return message


async def test_in_duplex_silence_that_cannot_be_ended_in_words_is_an_abort(caplog: pytest.LogCaptureFixture) -> None:
    """Else the client would wait for as long as Envoy lets it, and nobody would know why."""
    policy = Failing()
    envoy = Torn(messages([request(), RequestBody(b"{}"), answer(content_type="text/event-stream"), ONE]))
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AbortError):
        async with asyncio.timeout(10):
            await ExternalProcessor(cast(Pipeline, policy)).process(None, envoy)
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")
    assert (policy.failed, len(caplog.records)) == (1, 1)
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text


async def test_in_duplex_trailers_are_answered_where_no_end_came_before() -> None:
    envoy = scripted(ONE, RESPONSE_TRAILERS)
    assert await answered(envoy) == [(ONE.body, False)]
    assert ProcessingResponse.FromString(envoy.replies[-1]).HasField("response_trailers")
    assert envoy.ended


async def test_in_duplex_a_second_head_is_an_abort() -> None:
    envoy = scripted(ONE, answer())
    assert await answered(envoy) == [(ONE.body, False)]
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")


@pytest.mark.parametrize("status", ["200", "429"])
async def test_under_limits_of_ours_what_tells_of_the_providers_does_not_pass(status: str) -> None:
    names = [
        *("x-ratelimit-limit-requests", "x-ratelimitbysize-limit-minute", "x-rate-limit-reset", "ratelimit"),
        *("ratelimit-reset", "ratelimitbysize-reset", "rate-limit-remaining", "anthropic-ratelimit-tokens-reset"),
        *("anthropic-priority-input-tokens-limit", "anthropic-fast-output-tokens-limit"),
    ]
    told = dict.fromkeys(names, "7")
    kept = {":status": status, "retry-after": "7", "x-ratelimit": "7", "anthropic-organization-id": "7"}
    head = ResponseHeaders(pairs(told | kept), answer().origin)
    for headers, limited in (({"x-ratelimit-limit-requests": "100"}, True), ({}, True), ({}, False)):
        body = json.dumps({"x_policy": {"mode": "NONE", "headers": headers, "limited": limited}}).encode()
        envoy = FakeEnvoy(messages([request(), RequestBody(body), head]))
        await ExternalProcessor(cast(Pipeline, Scripted())).process(None, envoy)
        changed = ProcessingResponse.FromString(envoy.replies[2]).response_headers.response.header_mutation
        assert {option.header.key: option.header.raw_value.decode() for option in changed.set_headers} == headers
        assert set(changed.remove_headers) == (set(told) if limited else set())


# ---- ends that are none of Envoy's ------------------------------------------------------------------


async def _cancelled_after(events: Sequence[Told], policy: Policy) -> FakeEnvoy:
    envoy = FakeEnvoy(messages(events), hangs=True)
    serving = asyncio.ensure_future(ExternalProcessor(policy.pipeline).process(None, envoy))
    waiting = asyncio.ensure_future(envoy.waiting.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    return envoy


@pytest.mark.parametrize("events", CALLS.values(), ids=CALLS.keys())
async def test_a_call_that_is_cancelled_after_any_message_has_one_record(events: tuple[Told, ...]) -> None:
    for told in range(1, len(events) + 1):
        policy = Policy()
        pipeline = counted(policy)
        envoy = await _cancelled_after(events[:told], policy)
        assert envoy.aborted is None
        assert pipeline.ends == 1
        assert len(policy.records) == 1, f"after {told} messages"


async def test_a_stream_that_is_cancelled_before_its_first_message_has_no_record() -> None:
    policy = Policy()
    pipeline = counted(policy)
    await _cancelled_after((), policy)
    assert (pipeline.ends, policy.records) == (1, [])


async def test_usage_that_passed_before_a_cancellation_is_counted() -> None:
    stream = CALLS["stream"]
    policy = Policy()
    await _cancelled_after(stream[:4], policy)
    assert policy.records[0]["ending"] == "cut"
    assert policy.records[0]["usage"]["source"] == "estimated"
    policy = Policy()
    await _cancelled_after(stream, policy)
    assert policy.records[0]["ending"] == "complete", "successful streams end cancelled, too"


class Broken(FakeEnvoy):
    """A stream on which nothing can be written."""

    async def write(self, message: bytes) -> None:
        raise grpc.aio.UsageError("canary text")


@pytest.mark.parametrize("last", range(1, 5))
async def test_a_reply_that_cannot_be_written_ends_in_abort_and_one_record(last: int) -> None:
    policy = Policy()
    pipeline = counted(policy)
    envoy = Broken(messages(CALLS["json"][:last]))
    await run(policy, envoy)
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")
    assert (pipeline.ends, len(policy.records)) == (1, 1)


# ---- inner errors -----------------------------------------------------------------------------------


async def test_an_inner_error_aborts_with_constant_text_and_logs_none_of_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = Policy()
    policy.roster.trouble = RuntimeError("canary text")
    pipeline = counted(policy)
    envoy = FakeEnvoy(messages([request()]))
    with caplog.at_level(logging.DEBUG):
        replies = await run(policy, envoy)
    assert replies == []
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")
    assert not envoy.ended
    assert "RuntimeError" in caplog.text
    assert "current" in caplog.text, "the log must say where"
    assert "canary" not in caplog.text
    assert (pipeline.ends, len(policy.records)) == (1, 1)


async def test_an_inner_error_in_the_body_leaves_no_word_of_the_body(caplog: pytest.LogCaptureFixture) -> None:
    policy = Policy()
    # A store that breaks its word, with text of the call in its exception.
    policy.affinity.recall = None  # type: ignore[method-assign, assignment]
    body = b'{"model":"gpt-4o","input":"canary text","previous_response_id":"canary text"}'
    envoy = FakeEnvoy(messages([request("/v1/responses"), RequestBody(body)]))
    with caplog.at_level(logging.DEBUG):
        replies = await run(policy, envoy)
    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers"]
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")
    assert "canary" not in caplog.text
    assert len(policy.records) == 1


@pytest.mark.parametrize(
    "message",
    [ProcessingRequest(), ProcessingRequest(request_body=HttpBody(body=CHAT, end_of_stream=True))],
    ids=["no kind", "body first"],
)
async def test_a_message_that_cannot_be_is_answered_by_an_abort(message: ProcessingRequest) -> None:
    policy = Policy()
    pipeline = counted(policy)
    envoy = FakeEnvoy([message])
    assert await run(policy, envoy) == []
    assert envoy.aborted == (grpc.StatusCode.INTERNAL, "policy error")
    assert pipeline.ends == 1


async def test_hostile_header_bytes_do_not_reach_an_exception() -> None:
    head = request()
    odd = ((":path", b"/v1/chat/completions\xff\x00"), ("authorization", b"Bearer \xff\xfe"), ("x-\xe9", b"\x00"))
    envoy = FakeEnvoy(messages([type(head)((*odd, (":method", b"POST")))]))
    replies = await run(Policy(), envoy)
    assert replies[0].immediate_response.status.code == 404


# ---- any stream -------------------------------------------------------------------------------------

_POOL = st.sampled_from([told for events in CALLS.values() for told in events])
_PREFIXES = st.sampled_from([[]] + [list(events[:cut]) for events in CALLS.values() for cut in range(len(events))])


@given(start=_PREFIXES, rest=st.lists(_POOL, max_size=6))
@settings(deadline=None)
def test_any_stream_is_answered_in_kind_or_aborted(start: list[Told], rest: list[Told]) -> None:
    asyncio.run(_any_stream([*start, *rest]))


async def _any_stream(events: list[Told]) -> None:
    policy = Policy()
    pipeline = counted(policy)
    envoy = FakeEnvoy(messages(events))
    replies = await run(policy, envoy)
    assert envoy.ended == (envoy.aborted is None), "a stream ends by Envoy's word or by an error"
    assert envoy.aborted in (None, (grpc.StatusCode.INTERNAL, "policy error"))
    assert pipeline.ends == 1
    assert len(policy.records) == (1 if events else 0)
    told = [_ANSWERS[one.event] for one in events]
    for reply in replies:
        kind = reply.WhichOneof("response")
        assert kind == "immediate_response" or kind in told, "never an answer to what was not asked"
    if envoy.aborted is None and any(isinstance(one, ResponseHeaders) for one in events):
        assert _decided(replies), "no answer passes a stream on which nothing was decided"


def _decided(replies: list[ProcessingResponse]) -> bool:
    return any(
        reply.WhichOneof("response") == "immediate_response" or "sluice.order" in reply.dynamic_metadata.fields
        for reply in replies
    )

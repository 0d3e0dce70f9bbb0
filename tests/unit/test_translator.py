"""Streams that translate one attempt's request: before the body is replaced, none ends without an error by itself."""

import json
import logging
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import grpc
import grpc.aio
import pytest

from extproc import beside, contract
from extproc.adapter import translator
from extproc.adapter.server import ByRole
from extproc.dialects.translate.direction import Direction, Json
from extproc.model import Dialect
from extproc.surfaces import Surface
from protos.ext_proc_pb2 import (
    HeaderMap,
    HeaderValue,
    HttpBody,
    HttpHeaders,
    HttpTrailers,
    Metadata,
    ProcessingRequest,
    ProcessingResponse,
)

CLUSTER = contract.cluster_of("there")
CANARY = "canary: text of a call"
ATTEMPT = {
    contract.CLUSTER_KEY: CLUSTER,
    contract.DIALECT_KEY: "anthropic",
    contract.CAP_KEY: "max_tokens",
    "user-agent": "envoy",
}
CHAIN = {"translate": {CLUSTER: "chat", "other": "messages"}, "deployed": {CLUSTER: "m-1"}}
BODY = json.dumps({"model": "m", "text": CANARY}).encode()


class Aborted(Exception):
    """gRPC's way out of a handler that ends its stream with an error."""


class FakeStream:
    """Envoy's side of one stream: what it tells, then the end."""

    def __init__(self, told: Sequence[ProcessingRequest], attempt: dict[str, str] | None = None) -> None:
        self._told = list(told)
        self._attempt = ATTEMPT if attempt is None else attempt
        self.replies: list[ProcessingResponse] = []
        self.abort_details: str | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple(self._attempt.items())

    async def read(self) -> ProcessingRequest:
        return self._told.pop(0) if self._told else cast(ProcessingRequest, grpc.aio.EOF)

    async def write(self, message: bytes) -> None:
        self.replies.append(ProcessingResponse.FromString(message))

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        assert code is grpc.StatusCode.INTERNAL
        self.abort_details = details
        raise Aborted


def head(*names: str, end: bool = False) -> ProcessingRequest:
    headers = [HeaderValue(key=name, raw_value=b"x") for name in names]
    return ProcessingRequest(request_headers=HttpHeaders(headers=HeaderMap(headers=headers), end_of_stream=end))


def body(data: bytes = BODY, chain: dict[str, Any] = CHAIN, *, end: bool = True) -> ProcessingRequest:
    metadata = Metadata()
    metadata.filter_metadata[contract.CHAIN].update(chain)
    message = HttpBody(body=data, end_of_stream=end)
    return ProcessingRequest(request_body=message, metadata_context=metadata.SerializeToString())


def moved(request: Json, model: str) -> dict[str, object]:
    if request.get("fault"):
        raise ValueError(CANARY)
    return {"to": model, "said": request.get("text")}


@pytest.fixture(autouse=True)
def directions(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = cast(Any, None)
    made_up = Direction(refused=nothing, request=moved, path=nothing, answer=nothing)
    monkeypatch.setattr(
        translator,
        "DIRECTIONS",
        {(Surface.CHAT, dialect): made_up for dialect in (Dialect.ANTHROPIC, Dialect.GEMINI)},
    )


async def failed(stream: FakeStream) -> bool:
    """Whether the stream was ended with an error."""
    try:
        await translator.translate(None, stream)
    except Aborted:
        return True
    return False


@pytest.mark.parametrize("end", [True, False], ids=["whole", "before trailers"])
async def test_a_body_is_replaced_with_its_length(end: bool) -> None:
    stream = FakeStream([head(":path", "content-length"), body(end=end)])
    assert not await failed(stream)
    passed, replaced = stream.replies
    assert passed.WhichOneof("response") == "request_headers"
    change = replaced.request_body.response
    assert json.loads(change.body_mutation.body) == {"to": "m-1", "said": CANARY}
    values = {option.header.key: option.header.raw_value.decode() for option in change.header_mutation.set_headers}
    assert values == {"content-length": str(len(change.body_mutation.body)), "anthropic-version": "2023-06-01"}
    assert not change.header_mutation.remove_headers


async def test_a_large_body_is_not_translated_on_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of many parts takes long enough for Envoy to think that the worker is dead."""
    threads: list[threading.Thread] = []

    def slow(request: Json, model: str) -> dict[str, object]:
        threads.append(threading.current_thread())
        return moved(request, model)

    nothing = cast(Any, None)
    slowly = Direction(refused=nothing, request=slow, path=nothing, answer=nothing)
    monkeypatch.setattr(translator, "DIRECTIONS", {(Surface.CHAT, Dialect.ANTHROPIC): slowly})
    for text in ("short", "long" * beside.INLINE):
        stream = FakeStream([head(), body(json.dumps({"text": text}).encode())])
        assert not await failed(stream)
        assert json.loads(stream.replies[1].request_body.response.body_mutation.body)["said"] == text
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


@pytest.mark.parametrize("dialect", [Dialect.ANTHROPIC, Dialect.GEMINI])
async def test_headers_of_the_callers_surface_stay_behind(dialect: Dialect) -> None:
    names = ["anthropic-version", "user-agent", "anthropic-beta", "openai-beta", "x-stainless-os", "x-openai-x"]
    stream = FakeStream([head(*names), body()], ATTEMPT | {contract.DIALECT_KEY: dialect.value})
    assert not await failed(stream)
    change = stream.replies[1].request_body.response.header_mutation
    assert set(change.remove_headers) == {"anthropic-version", "anthropic-beta", "openai-beta"}
    own = {option.header.key for option in change.set_headers} - {"content-length"}
    assert own == ({"anthropic-version"} if dialect is Dialect.ANTHROPIC else set())


@pytest.mark.parametrize("cap", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("made", ["max_tokens", "max_completion_tokens"])
async def test_a_cap_stands_in_the_field_that_the_backend_reads(
    made: str, cap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = cast(Any, None)
    capped = Direction(refused=nothing, request=lambda _request, _model: {made: 7}, path=nothing, answer=nothing)
    monkeypatch.setattr(translator, "DIRECTIONS", {(Surface.CHAT, Dialect.OPENAI): capped})
    stream = FakeStream([head(), body()], ATTEMPT | {contract.DIALECT_KEY: "openai", contract.CAP_KEY: cap})
    assert not await failed(stream)
    assert json.loads(stream.replies[1].request_body.response.body_mutation.body) == {cap: 7}


@pytest.mark.parametrize("told", [[], [head()]], ids=["at once", "before the body"])
async def test_an_attempt_that_envoy_gives_up_ends_quietly(told: list[ProcessingRequest]) -> None:
    stream = FakeStream(told)
    assert not await failed(stream)
    assert not any(reply.HasField("request_body") for reply in stream.replies)


TRAILERS = ProcessingRequest(request_trailers=HttpTrailers())
ANSWER = ProcessingRequest(response_headers=HttpHeaders())
WRONG: dict[str, list[ProcessingRequest]] = {
    "no body": [head(end=True)],
    "body first": [body()],
    "headers twice": [head(), head()],
    "trailers in place of the body": [head(), TRAILERS],
    "an answer": [ANSWER],
    "nothing": [ProcessingRequest()],
    "nothing in place of the body": [head(), ProcessingRequest()],
    "no JSON": [head(), body(b"{")],
    "no object": [head(), body(json.dumps([CANARY]).encode())],
    "empty": [head(), body(b"")],
    "fault": [head(), body(json.dumps({"fault": True}).encode())],
    "no metadata": [head(), ProcessingRequest(request_body=HttpBody(body=BODY))],
    "broken metadata": [head(), ProcessingRequest(request_body=HttpBody(body=BODY), metadata_context=b"\xff")],
    "not ordered": [head(), body(chain={"deployed": {CLUSTER: "m-1"}})],
    "ordered for another": [head(), body(chain=CHAIN | {"translate": {"other": "chat"}})],
    "no such surface": [head(), body(chain=CHAIN | {"translate": {CLUSTER: "letters"}})],
    "no such direction": [head(), body(chain=CHAIN | {"translate": {CLUSTER: "embeddings"}})],
    "no model": [head(), body(chain={"translate": {CLUSTER: "chat"}})],
    "no names but values": [head(), body(chain={"translate": "chat", "deployed": 7})],
}


@pytest.mark.parametrize("told", WRONG.values(), ids=WRONG)
async def test_whatever_is_wrong_ends_the_call(told: list[ProcessingRequest], caplog: pytest.LogCaptureFixture) -> None:
    stream = FakeStream(told)
    with caplog.at_level(logging.DEBUG):
        assert await failed(stream)
    assert stream.abort_details == "translation error"
    assert not any(reply.HasField("request_body") for reply in stream.replies)
    assert "translation failed: " in caplog.text
    assert CANARY not in caplog.text


@pytest.mark.parametrize("attempt", [{}, ATTEMPT | {contract.DIALECT_KEY: "klingon"}], ids=["untold", "unknown"])
async def test_an_attempt_at_nobody_knows_whom_ends_the_call(attempt: dict[str, str]) -> None:
    assert await failed(FakeStream([head(), body()], attempt))


async def test_each_stream_goes_to_whom_it_is_for() -> None:
    async def process(_requests: object, _stream: object) -> None: ...

    handlers = ByRole(process, None)
    call = (("user-agent", "envoy"), ("x-request-id", "1"))
    method = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

    def asked(name: str, metadata: Sequence[tuple[str, str]]) -> Any:
        details = SimpleNamespace(method=name, invocation_metadata=tuple(metadata))
        handler = handlers.service(cast(grpc.HandlerCallDetails, details))
        return handler and handler.stream_stream

    assert asked(method, call) is process
    assert asked(method, (*call, *ATTEMPT.items())) is translator.translate
    assert asked("/grpc.health.v1.Health/Check", (*call, *ATTEMPT.items())) is None

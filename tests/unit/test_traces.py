"""Which calls are traced, and what their spans and log records say."""

import contextlib
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from pydantic import ValidationError

from extproc import traceparent
from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.otlp import lines, resource, spans
from extproc.adapter.otlp.spans import Spans
from extproc.config.fields import LocalSecret
from extproc.config.schema import Gateway
from extproc.config.traces import secret_problem, unread
from extproc.contract import ATTEMPT_LOG, DEPLOYED_HEADER, TRACE, TRACE_HEADER, TRACEPARENT
from extproc.telemetry import genai
from extproc.telemetry.logs import Both, Line, Lines
from extproc.telemetry.traces import Item, Traces
from extproc.traceparent import Context
from protos.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage
from protos.ext_proc_pb2 import ProcessingResponse
from tests.support.otlp import Collector, Seen, plain, value
from tests.support.playbook import Aborted, FakeEnvoy, Policy, Records, RequestBody, ResponseBody, Told, answer, request

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
UNSAMPLED = PARENT[:-1] + "0"
CANARY = "canary text"
CHAT = b'{"model":"gpt-4o","messages":[{"role":"user","content":"canary text"}]}'
USED = (
    b'{"choices":[{"finish_reason":"stop","message":{"content":"canary text"}}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":4}}'
)
SERVER, INTERNAL, CLIENT = Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL, Span.SPAN_KIND_CLIENT


class Kept(list[Item]):
    """An outbox that sends nothing."""

    def put(self, item: Item) -> None:
        self.append(item)

    def seen(self, version: str = genai.NEWEST) -> list[Seen]:
        """The spans that would be sent."""
        collector = Collector()
        collector.take("/v1/traces", Spans(genai.CONVENTIONS[version]).request(self))
        return collector.spans


def traced(share: float = 0) -> tuple[Kept, Policy]:
    kept = Kept()
    return kept, Policy(traces=Traces(kept, share))


async def played(policy: Policy, *told: Told, traced: bool = False, **envoy: Any) -> FakeEnvoy:
    """A call through the gRPC shell, with what Envoy was told."""
    stream = FakeEnvoy([one.message() for one in told], **envoy)
    await ExternalProcessor(policy.pipeline, traced=traced).process(None, stream)
    return stream


def chat(**headers: str) -> tuple[Told, ...]:
    return request(end=False, **headers), RequestBody(CHAT), answer(), ResponseBody(USED)


def parent_told(stream: FakeEnvoy) -> str | None:
    """What Envoy is told to tell backends."""
    for reply in stream.replies:
        fields = ProcessingResponse.FromString(reply).dynamic_metadata.fields
        if TRACE in fields:
            return fields[TRACE].struct_value.fields[TRACEPARENT].string_value
    return None


async def test_a_sampled_call_is_a_span_with_one_for_each_stage() -> None:
    kept, policy = traced()
    stream = await played(policy, *chat(traceparent=PARENT, tracestate="v=1"))
    call, *stages = kept.seen()
    assert (call.name, call.kind, call.trace, call.parent, call.state) == (
        "chat gpt-4o",
        SERVER,
        TRACE_ID,
        SPAN_ID,
        "v=1",
    )
    assert parent_told(stream) == f"00-{TRACE_ID}-{call.span}-01"
    names = [stage.name for stage in stages]
    assert names[:2] == ["identify", "read"]
    assert names[-2:] == ["answer", "settle"]
    assert {(stage.kind, stage.trace, stage.parent) for stage in stages} == {(INTERNAL, TRACE_ID, call.span)}
    assert len({stage.span for stage in (call, *stages)}) == len(stages) + 1
    assert all(call.began <= stage.began <= stage.ended <= call.ended for stage in stages)


async def test_its_facts_have_the_names_of_the_conventions() -> None:
    kept, policy = traced()
    await played(policy, *chat(traceparent=PARENT))
    facts = kept.seen()[0].facts
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "http.response.status_code": 200,
        "sluice.backend": "one",
        "sluice.ending": "complete",
        "sluice.key_id": "key_1",
    }
    assert {name: facts.get(name) for name in expected} == expected
    assert "error.type" not in facts
    older = kept.seen("1.36")[0].facts
    assert (older["gen_ai.system"], "gen_ai.provider.name" in older) == ("openai", False)


async def test_no_text_of_a_call_is_in_its_spans() -> None:
    kept, policy = traced()
    path = "/v1/chat/completions?note=canary"
    head = request(path, traceparent=PARENT, user_agent="canary", x_client_request_id="canary", baggage="canary=1")
    await played(policy, head, RequestBody(CHAT), answer(), ResponseBody(USED))
    assert "canary" not in repr(kept.seen())
    assert b"canary" not in Spans(genai.CONVENTIONS[genai.NEWEST]).request(kept)


@pytest.mark.parametrize("header", [None, UNSAMPLED])
async def test_one_that_is_not_sampled_tells_nothing(header: str | None) -> None:
    kept, policy = traced()
    stream = await played(policy, *chat(**({"traceparent": header} if header else {})))
    assert kept == []
    told = traceparent.read(parent_told(stream) or "")
    assert told is not None  # for a backend would begin a trace of its own
    assert (told.sampled, told.trace == TRACE_ID) == (False, header is not None)
    record = policy.records[-1]
    assert (record.get("trace_id"), record.get("span_id")) == (TRACE_ID if header else None, None)


@pytest.mark.parametrize("parents", [(), ("nonsense",), (PARENT, PARENT)])
async def test_without_one_parent_that_can_be_read_a_trace_begins(parents: Sequence[str]) -> None:
    kept, policy = traced(share=1)
    head = request()
    pairs = (*head.headers, *((TRACEPARENT, parent.encode()) for parent in parents))
    await played(policy, type(head)(pairs), RequestBody(CHAT), answer(), ResponseBody(USED))
    call = kept.seen()[0]
    assert call.parent == ""
    assert call.trace != TRACE_ID
    assert (policy.records[-1]["trace_id"], policy.records[-1]["span_id"]) == (call.trace, call.span)


async def test_without_traces_nothing_is_told() -> None:
    policy = Policy()
    stream = await played(policy, *chat(traceparent=PARENT))
    assert parent_told(stream) is None
    assert "trace_id" not in policy.records[-1]


async def test_where_envoy_makes_spans_the_stream_tells_the_parent_and_not_the_caller() -> None:
    kept, policy = traced(share=1)
    of_envoy = f"00-{TRACE_ID}-00000000000000ee-01"
    metadata = [("user-agent", "x"), (TRACEPARENT, of_envoy), ("tracestate", "e=1")]
    await played(policy, *chat(traceparent=UNSAMPLED), traced=True, metadata=metadata)
    call = kept.seen()[0]
    assert (call.parent, call.state) == ("00000000000000ee", "e=1")


@pytest.mark.parametrize(
    ("told", "name", "error", "is_error"),
    [
        ((request(authorization="", traceparent=PARENT),), "chat", "missing_api_key", False),
        ((request("/v1/what", traceparent=PARENT),), "unknown", "unknown_url", False),
        ((request(traceparent=PARENT), RequestBody(CHAT), answer(status=500)), "chat gpt-4o", "500", True),
        ((request(traceparent=PARENT), RequestBody(CHAT), answer(status=400)), "chat gpt-4o", "400", False),
        ((request(traceparent=PARENT), RequestBody(CHAT), answer()), "chat gpt-4o", "cut", True),
    ],
    ids=["refused", "unknown", "failed", "mistaken", "cut"],
)
async def test_what_went_wrong_is_told(told: tuple[Told, ...], name: str, error: str, is_error: bool) -> None:
    kept, policy = traced()
    await played(policy, *told)
    call = kept.seen()[0]
    assert (call.name, call.facts["error.type"], call.is_error) == (name, error, is_error)


async def test_a_list_of_models_is_a_span_and_a_question_for_readiness_is_none() -> None:
    kept, policy = traced(share=1)
    policy.not_ready = "the keys are not loaded"  # one that is fine has no record, either
    await played(policy, request("/readyz", "GET", end=True, traceparent=PARENT))
    assert kept == []
    assert policy.records[-1]["surface"] == "ready"
    assert not {"trace_id", "span_id"} & policy.records[-1].keys()  # which would be of a span that nobody makes
    policy.not_ready = None
    await played(policy, request("/v1/models", "GET", end=True))
    call = kept.seen()[0]
    assert call.name == "models"
    assert not any(name.startswith("gen_ai") for name in call.facts)


# ---- attempts ------------------------------------------------------------------------------------------


class Once:
    """Envoy's end of a stream of records."""

    def __init__(self, *entries: HTTPAccessLogEntry) -> None:
        self._message: Any = StreamAccessLogsMessage()
        self._message.identifier.log_name = ATTEMPT_LOG
        self._message.http_logs.log_entry.extend(entries)

    async def read(self) -> Any:
        told, self._message = self._message, grpc.aio.EOF
        return told


def tried(status: int = 200, sent: str = "", back: str = "", **flags: bool) -> HTTPAccessLogEntry:
    entry = HTTPAccessLogEntry()
    entry.common_properties.upstream_cluster = "backend_one"
    entry.common_properties.start_time.FromMicroseconds(1_760_000_000_123_456)
    entry.common_properties.duration.FromMicroseconds(1500)
    entry.response.response_code.value = status
    if status:
        entry.response.response_headers[DEPLOYED_HEADER] = "gpt-4o-x"
    if sent:
        entry.request.request_headers[TRACEPARENT] = sent
    if back:
        entry.response.response_headers[TRACE_HEADER] = back
    for name in flags:
        setattr(entry.common_properties.response_flags, name, True)
    return entry


async def recorded(*entries: HTTPAccessLogEntry) -> tuple[list[Seen], Records]:
    kept, records = Kept(), Records()
    await AccessLog(records, traces=Traces(kept, 0)).stream(None, Once(*entries))
    return kept.seen(), records


async def test_an_attempt_is_a_part_of_what_its_request_or_its_answer_tells() -> None:
    for entry in (tried(sent=PARENT), tried(back=PARENT)):
        ((span,), _) = await recorded(entry)
        assert (span.name, span.kind, span.trace, span.parent) == ("attempt one", CLIENT, TRACE_ID, SPAN_ID)
        assert (round(span.began, 6), round(span.ended - span.began, 6)) == (1_760_000_000.123456, 0.0015)
        assert span.facts == {
            "sluice.backend": "one",
            "gen_ai.request.model": "gpt-4o-x",
            "http.response.status_code": 200,
        }
        assert not span.is_error


async def test_an_attempt_that_nobody_answered_says_so() -> None:
    ((span,), records) = await recorded(tried(0, sent=PARENT, upstream_connection_failure=True))
    assert span.is_error
    assert (span.facts["error.type"], span.facts["sluice.flag"]) == (("upstream_connection_failure",) * 2)
    assert records[0]["trace_id"] == TRACE_ID


@pytest.mark.parametrize("sent", ["", UNSAMPLED, "nonsense"])
async def test_an_attempt_of_no_trace_is_no_span(sent: str) -> None:
    found, records = await recorded(tried(503, sent=sent))
    assert found == []
    assert "trace_id" not in records[0]


# ---- requests --------------------------------------------------------------------------------------------


async def test_spans_of_envoy_go_on_as_they_came_behind_ours() -> None:
    of_envoy = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="ingress")])])]
    )
    kept, policy = traced()
    policy.pipeline.end(policy.pipeline.begin())
    traces = Traces(kept, 0)
    traces.forward(of_envoy.SerializeToString())
    await played(policy, *chat(traceparent=PARENT))
    told = ExportTraceServiceRequest.FromString(Spans(genai.CONVENTIONS[genai.NEWEST]).request(kept))
    assert [one.scope_spans[0].spans[0].name for one in told.resource_spans] == ["chat gpt-4o", "ingress"]
    alone = Spans(genai.CONVENTIONS[genai.NEWEST]).request([of_envoy.SerializeToString()])
    assert ExportTraceServiceRequest.FromString(alone) == of_envoy


def test_what_a_collector_rejects_is_read() -> None:
    told = ExportTraceServiceResponse()
    told.partial_success.rejected_spans = 3
    assert spans.rejected(told.SerializeToString()) == 3
    of_logs = ExportLogsServiceResponse()
    of_logs.partial_success.rejected_log_records = 2
    assert lines.rejected(of_logs.SerializeToString()) == 2
    for answer_read in (spans.rejected, lines.rejected):
        assert (answer_read(b""), answer_read(b"<html>")) == (0, 0)


def test_a_process_is_called_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = plain(resource.resource.__wrapped__().attributes)
    assert usual["service.name"] == "sluice"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "gateway-of-search")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod")
    told = plain(resource.resource.__wrapped__().attributes)
    assert (told["service.name"], told["deployment.environment"]) == ("gateway-of-search", "prod")
    assert told["service.instance.id"] != usual["service.instance.id"]


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (True, True),
        (7, 7),
        (2**70, str(2**70)),
        (1.5, 1.5),
        ("ä", "ä"),
        ("\ud800", "?"),
        ([1, "a"], [1, "a"]),
        ({"a": {"b": 1}, "none": None}, {"a": {"b": 1}}),
        (None, "None"),
    ],
)
def test_values_are_told_as_they_are(given: object, read: object) -> None:
    assert value(resource.any_value(given)) == read


# ---- logs --------------------------------------------------------------------------------------------------


class Written(list[Any]):
    put = list.append


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, Written]]:
    logger, out = logging.getLogger("extproc.some.part"), Written()
    handler = Lines(out)
    logger.addHandler(handler)
    yield logger, out
    logger.removeHandler(handler)


def requested(items: Sequence[Any]) -> Any:
    told = ExportLogsServiceRequest.FromString(lines.Lines().request(items))
    return told.resource_logs[0].scope_logs[0].log_records


def test_a_line_of_the_log_is_told_without_what_an_error_says(log: tuple[logging.Logger, Written]) -> None:
    logger, out = log
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("the part %s failed", "three", extra={"trace": Context(TRACE_ID, SPAN_ID, True)})
    (told,) = requested(out)
    assert (told.severity_number, told.severity_text, told.body.string_value) == (17, "ERROR", "the part three failed")
    assert (told.trace_id.hex(), told.span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert plain(told.attributes) == {"sluice.source": "extproc.some.part"}
    assert CANARY.encode() not in told.SerializeToString()


def test_a_line_without_a_trace_and_one_that_cannot_be_made_are_told(log: tuple[logging.Logger, Written]) -> None:
    logger, out = log
    logging.raiseExceptions, before = False, logging.raiseExceptions
    try:
        logger.warning("broken %d", "x")
    finally:
        logging.raiseExceptions = before
    logger.error("x" * 100_000)
    told = requested(out)
    assert (told[0].body.string_value, told[0].trace_id) == ("broken %d", b"")
    assert len(told[1].body.string_value) == 16_384


def test_that_nothing_can_be_sent_is_not_sent() -> None:
    out = Written()
    Lines(out).handle(logging.LogRecord("extproc.telemetry.otlp", 30, "", 0, "cannot be sent", None, None))
    assert out == []


def test_a_record_goes_both_ways() -> None:
    out, records = Written(), Records()
    facts = {"kind": "call", "time": 12.5, "status": 200, "usage": {"input": 3}}
    Both(records, out).write({**facts, "trace_id": TRACE_ID, "span_id": SPAN_ID})
    assert records[0]["status"] == 200
    (told,) = requested(out)
    assert (told.event_name, told.time_unix_nano) == ("sluice.call", 12_500_000_000)
    assert (told.trace_id.hex(), told.span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert value(told.body)["usage"] == {"input": 3}


def test_where_a_trace_is_not_sampled_a_line_names_none() -> None:
    (told,) = requested([Line(1.0, logging.ERROR, "x", "call failed", Context(TRACE_ID, SPAN_ID, False))])
    assert told.trace_id == b""


async def test_an_error_in_the_policy_is_told_with_the_trace_of_its_call(caplog: pytest.LogCaptureFixture) -> None:
    _, policy = traced()
    with contextlib.suppress(Aborted):
        await played(policy, request(traceparent=PARENT), request(traceparent=PARENT))  # twice is once too often
    (record,) = caplog.records
    assert (record.getMessage()[:29], record.trace.trace) == ("call failed inside the policy", TRACE_ID)  # type: ignore[attr-defined]


# ---- settings ------------------------------------------------------------------------------------------------


def gateway(**telemetry: object) -> Gateway:
    backends = {"one": {"dialect": "openai", "url": "http://one.test"}}
    models = {"gpt-4o": {"targets": [[{"backend": "one"}]]}}
    return Gateway.model_validate({"backends": backends, "models": models, "telemetry": telemetry})


@pytest.mark.parametrize("given", ["http://otel:4318", "https://otlp.test/otlp/", "http://[::1]:4318"])
def test_an_endpoint_is_a_base(given: str) -> None:
    traces = gateway(traces={"endpoint": given}).telemetry.traces
    assert traces is not None
    assert traces.endpoint == given.rstrip("/")
    assert (traces.sample, traces.envoy) == (0.1, False)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"endpoint": "otel:4318"}, "must look like"),
        ({"endpoint": "http://otel:4318/v1/traces"}, "must end before /v1/traces"),
        ({"endpoint": "http://user:secret@otel:4318"}, "secrets belong"),
        ({"endpoint": "http://otel", "sample": 1.1}, "less than or equal to 1"),
        ({"endpoint": "http://otel", "headers": {"content-type": {"env": "A"}}}, "the gateway itself sets"),
        ({"endpoint": "http://otel", "headers": {"Authorization": {"env": "A"}}}, "in small letters"),
        ({"endpoint": "http://otel", "headers": {"authorization": "Bearer secret"}}, "headers"),
        ({"endpoint": "http://otel", "content": True}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(why)):
        gateway(traces=given)


def test_a_header_needs_a_value_that_can_be_sent(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    source = LocalSecret(file=secret)
    assert "cannot be read" in secret_problem(source, {})
    for text, problem in (("Bearer abc\n", ""), ("", "cannot be"), ("a\nb", "cannot be"), ("\x1bsecret", "cannot be")):
        secret.write_text(text)
        assert (secret_problem(source, {}) == "") == (problem == "")
        assert "secret" not in secret_problem(source, {}).replace(str(secret), "")
    assert secret_problem(LocalSecret(env="NAME"), {}) == "the environment variable NAME is not set"
    assert secret_problem(LocalSecret(env="NAME"), {"NAME": "x"}) == ""


def test_variables_of_opentelemetry_that_say_nothing_here_are_named() -> None:
    environ = {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on", "OTEL_EXPORTER_OTLP_HEADERS": "k=secret"}
    (told,) = unread(environ)
    assert told.startswith("not read: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER.")
    assert "secret" not in told
    assert list(unread({"OTEL_SERVICE_NAME": "x", "PATH": "y"})) == []


def test_a_worker_without_traces_and_logs_imports_nothing_for_them() -> None:
    code = "import sys, extproc.worker; sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0

"""A call is one trace, from its client to its backends, whoever makes the spans; its collector is none of its cares."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from typer.testing import CliRunner

from extproc.cli import app
from tests.support.fake import FakeProvider
from tests.support.gateway import RunningGateway, until
from tests.support.otlp import Collector, Seen, collector, value
from tests.support.ports import free_port

CHAT = "/v1/chat/completions"
SAY = [{"role": "user", "content": "canary words here"}]
PATIENCE = 30.0
SERVER, CLIENT = 2, 3
TO_POLICY = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"

Json = dict[str, Any]
_numbers = iter(range(1, 10_000))


class Asked:
    """A trace as a caller begins it."""

    def __init__(self, sampled: bool = True) -> None:
        number = next(_numbers)
        self.trace, self.span = f"{number:032x}", f"{number:016x}"
        self.headers = {
            "traceparent": f"00-{self.trace}-{self.span}-0{sampled:d}",
            "tracestate": "vendor=canary",
            "baggage": "user=canary",
        }


def settings(fake: FakeProvider, at: Collector, **traces: Any) -> Json:
    backends: Json = {name: {"dialect": "openai", "url": fake.url(name)} for name in ("one", "two", "quiet")}
    backends["quiet"]["traceparent"] = False
    backends["away"] = {"dialect": "openai", "url": f"http://127.0.0.1:{free_port()}"}

    def to(*names: str) -> Json:
        return {"targets": [[{"backend": name, "model": "gpt-4o"}] for name in names]}

    return {
        "backends": backends,
        "models": {
            "chain": to("one", "two"),
            "quiet": to("quiet", "two"),
            "away": to("away", "two"),
            "whisper-1": {"targets": [[{"backend": "one"}]]},
        },
        "workers": 2,
        "telemetry": {"traces": {"endpoint": at.url, "sample": 0, **traces}, "logs": {"endpoint": at.url}},
    }


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider("one", "two", "quiet") as running:
        yield running


@pytest.fixture(scope="module")
def at() -> Iterator[Collector]:
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(fake: FakeProvider, at: Collector) -> Iterator[RunningGateway]:
    with RunningGateway(settings(fake, at)) as running:
        yield running


@pytest.fixture(scope="module")
def around(fake: FakeProvider, at: Collector) -> Iterator[RunningGateway]:
    """One where Envoy makes spans, too."""
    with RunningGateway(settings(fake, at, envoy=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def _anew(fake: FakeProvider) -> None:
    fake.reset()


def chat(gateway: RunningGateway, model: str, asked: Asked, **more: Any) -> httpx.Response:
    with gateway.client() as client:
        answer = client.post(
            f"{CHAT}?note=canary", json={"model": model, "messages": SAY, **more}, headers=asked.headers
        )
    assert answer.status_code == 200, answer.text
    return answer


def came(at: Collector, asked: Asked, *names: str) -> list[Seen]:
    """The spans of a trace, once those of these names are there."""

    def whole() -> list[Seen]:
        found = at.of(asked.trace)
        return found if {span.name for span in found} >= set(names) else []

    found: list[Seen] = until(whole, PATIENCE, f"the spans {names} of {asked.trace}")
    return found


def named(spans: list[Seen], name: str) -> Seen:
    (found,) = [span for span in spans if span.name == name]
    return found


def traceparents(fake: FakeProvider, backend: str) -> list[str | None]:
    """What a backend was told of traces; it must have been told nothing else of the caller's."""
    calls = [dict(call["headers"]) for call in fake.calls(backend)]
    assert not [name for headers in calls for name in ("tracestate", "baggage") if name in headers]
    return [headers.get("traceparent") for headers in calls]


def test_a_call_its_stages_and_its_attempts_are_one_trace(
    gateway: RunningGateway, fake: FakeProvider, at: Collector
) -> None:
    fake.script("one", [{"status": 503}])
    asked = Asked()
    answer = chat(gateway, "chain", asked)
    spans = came(at, asked, "chat chain", "settle", "attempt one", "attempt two")
    call = named(spans, "chat chain")
    assert (call.kind, call.parent, call.state) == (SERVER, asked.span, "vendor=canary")
    assert call.facts["sluice.request_id"] == answer.headers["x-request-id"]
    assert (call.facts["sluice.backend"], call.facts["gen_ai.usage.input_tokens"]) == ("two", 3)
    assert {span.parent for span in spans if span is not call} == {call.span}
    tried = [named(spans, f"attempt {name}") for name in ("one", "two")]
    assert [(span.kind, span.facts["http.response.status_code"], span.is_error) for span in tried] == [
        (CLIENT, 503, True),
        (CLIENT, 200, False),
    ]
    assert call.began <= tried[0].began <= tried[0].ended <= tried[1].began
    of_call = [f"00-{asked.trace}-{call.span}-01"]
    assert (traceparents(fake, "one"), traceparents(fake, "two")) == (of_call, of_call)
    assert "canary" not in repr([span.facts for span in spans])


def test_a_backend_that_is_not_told_is_traced_all_the_same(
    gateway: RunningGateway, fake: FakeProvider, at: Collector
) -> None:
    fake.script("quiet", [{"status": 503}])
    asked = Asked()
    answer = chat(gateway, "quiet", asked)
    spans = came(at, asked, "chat quiet", "attempt quiet", "attempt two")
    call = named(spans, "chat quiet")
    assert {named(spans, f"attempt {name}").parent for name in ("quiet", "two")} == {call.span}
    assert traceparents(fake, "quiet") == [None]
    assert traceparents(fake, "two") == [f"00-{asked.trace}-{call.span}-01"]  # though the attempt before took it away
    assert not [name for name in answer.headers if "trace" in name]


def test_an_attempt_that_nobody_answers_is_a_span(gateway: RunningGateway, at: Collector) -> None:
    asked = Asked()
    chat(gateway, "away", asked)
    spans = came(at, asked, "chat away", "attempt away", "attempt two")
    tried = named(spans, "attempt away")
    assert (tried.parent, tried.is_error) == (named(spans, "chat away").span, True)
    assert "http.response.status_code" not in tried.facts or tried.facts["http.response.status_code"] == 503
    assert tried.facts["sluice.flag"] == "upstream_connection_failure"


def test_what_is_not_sampled_is_told_to_nobody(gateway: RunningGateway, fake: FakeProvider, at: Collector) -> None:
    asked, after = Asked(sampled=False), Asked()
    answer = chat(gateway, "chain", asked)
    chat(gateway, "chain", after)
    came(at, after, "chat chain", "attempt one")
    assert at.of(asked.trace) == []
    told = traceparents(fake, "one")[0] or ""
    assert (told[:36], told[-3:]) == (f"00-{asked.trace}-", "-00")  # or it would begin a trace of its own
    record = gateway.record(answer.headers["x-request-id"])
    assert (record["trace_id"], "span_id" in record) == (asked.trace, False)


def test_streams_and_uploads_are_traced(gateway: RunningGateway, fake: FakeProvider, at: Collector) -> None:
    streamed, uploaded = Asked(), Asked()
    chat(gateway, "chain", streamed, stream=True)
    with gateway.client() as client:
        sound, path = {"file": ("a.wav", b"RIFF" * 1000)}, "/v1/audio/transcriptions"
        sent = client.post(path, data={"model": "whisper-1"}, files=sound, headers=uploaded.headers)
    assert sent.status_code == 200
    call = named(came(at, streamed, "chat chain", "attempt one"), "chat chain")
    assert call.facts["gen_ai.request.stream"] is True
    assert 0 <= call.facts["gen_ai.response.time_to_first_chunk"] < PATIENCE
    spans = came(at, uploaded, "generate_content whisper-1", "attempt one")
    parent = named(spans, "generate_content whisper-1").span
    assert traceparents(fake, "one")[-1] == f"00-{uploaded.trace}-{parent}-01"


def test_what_a_person_should_read_goes_to_the_collector_too(gateway: RunningGateway, at: Collector) -> None:
    written = gateway.config.read_text()
    gateway.config.write_text(written + "nonsense: 1\n")
    try:
        told = "The changed configuration is refused"

        def lines() -> list[LogRecord]:
            return [line for line in at.lines if line.body.string_value.startswith(told)]

        (line,) = until(lines, PATIENCE, "the line of the supervisor")
    finally:
        gateway.config.write_text(written)
    assert (line.severity_text, line.trace_id) == ("ERROR", b"")


def test_a_record_is_a_log_record_of_its_span(gateway: RunningGateway, at: Collector) -> None:
    asked = Asked()
    answer = chat(gateway, "chain", asked)
    record = gateway.record(answer.headers["x-request-id"])
    (call,) = [span for span in came(at, asked, "chat chain") if span.kind == SERVER]
    assert (record["trace_id"], record["span_id"]) == (asked.trace, call.span)
    found = until(lambda: [line for line in at.lines if line.trace_id.hex() == asked.trace], PATIENCE, "its log record")
    assert (found[0].event_name, found[0].span_id.hex()) == ("sluice.call", call.span)
    told = value(found[0].body)
    assert not [line for line in at.lines if b"canary" in line.SerializeToString()]
    assert (told["request_id"], told["usage"]["input"]) == (record["request_id"], record["usage"]["input"])


def test_spans_of_envoy_lie_around_ours(around: RunningGateway, fake: FakeProvider, at: Collector) -> None:
    fake.script("one", [{"status": 503}])
    asked = Asked()
    chat(around, "chain", asked)
    ours = ("chat chain", "settle", "attempt one", "attempt two")
    spans = came(at, asked, *ours, "ingress", TO_POLICY, "router backend_one egress", "router backend_two egress")
    by_id = {span.span: span for span in spans}
    ingress, call = named(spans, "ingress"), named(spans, "chat chain")
    assert (ingress.service, ingress.parent, ingress.state) == ("sluice-envoy", asked.span, "vendor=canary")
    to_policy = by_id[call.parent]
    assert (to_policy.service, to_policy.name, to_policy.parent) == ("sluice-envoy", TO_POLICY, ingress.span)
    for name in ("one", "two"):
        egress, tried = named(spans, f"router backend_{name} egress"), named(spans, f"attempt {name}")
        assert (egress.parent, tried.parent) == (ingress.span, egress.span)
        assert traceparents(fake, name) == [f"00-{asked.trace}-{egress.span}-01"]
    assert named(spans, "settle").parent == call.span
    assert "canary" not in repr([span.facts for span in spans])


def test_where_envoy_makes_spans_what_is_not_sampled_stays_so(
    around: RunningGateway, fake: FakeProvider, at: Collector
) -> None:
    asked, after, begun = Asked(sampled=False), Asked(), Asked()
    answer = chat(around, "quiet", asked)
    begun.headers = {}
    name = chat(around, "chain", begun).headers["x-request-id"]
    chat(around, "chain", after)
    came(at, after, "chat chain", "ingress")
    assert at.of(asked.trace) == []
    assert name not in {span.facts.get("guid:x-request-id") for span in at.spans}  # the share of such calls is none
    assert traceparents(fake, "quiet") == [None]
    assert "span_id" not in around.record(answer.headers["x-request-id"])


def test_ids_of_calls_are_as_they_are_without_traces(around: RunningGateway) -> None:
    """Envoy would write into them whether it traces the call."""
    names = [chat(around, "chain", Asked()).headers["x-request-id"] for _ in range(5)]
    assert {name[14] for name in names} == {"4"}  # the version of random ones


def test_what_cannot_be_sent_is_told_before_the_start(fake: FakeProvider, tmp_path: Path) -> None:
    headers = {"authorization": {"env": "SLUICE_TEST_OTLP"}}
    told = settings(fake, Collector("http://127.0.0.1:4318"), envoy=True, headers=headers)
    (tmp_path / "gateway.yaml").write_text(json.dumps({**told, "state_dir": str(tmp_path)}))
    words = ["check", "--config", str(tmp_path / "gateway.yaml")]
    refused = CliRunner().invoke(app, words, env={"SLUICE_TEST_OTLP": None})
    assert refused.exit_code == 1
    assert "telemetry.traces.headers.authorization: the environment variable SLUICE_TEST_OTLP" in refused.output
    taken = CliRunner().invoke(app, words, env={"SLUICE_TEST_OTLP": "canary", "OTEL_TRACES_SAMPLER": "always_on"})
    assert taken.exit_code == 0, taken.output  # Envoy takes it, too
    assert "not read: OTEL_TRACES_SAMPLER" in taken.output
    assert "canary" not in taken.output


def test_what_a_collector_refuses_is_counted(gateway: RunningGateway, at: Collector) -> None:
    at.status = 400
    try:
        asked = Asked()
        chat(gateway, "chain", asked)
        until(lambda: dropped(gateway, "traces") >= 2, PATIENCE, "the call and its attempt to be dropped")
        until(lambda: dropped(gateway, "logs") >= 1, PATIENCE, "its record to be dropped")
    finally:
        at.status = 200
    after = Asked()
    chat(gateway, "chain", after)
    came(at, after, "chat chain")
    assert at.of(asked.trace) == []


def dropped(gateway: RunningGateway, what: str) -> float:
    name = f'sluice_telemetry_dropped_total{{what="{what}"}}'
    return sum(float(line.rpartition(" ")[2]) for line in gateway.metrics().splitlines() if line.startswith(name))


def test_a_collector_that_hangs_holds_up_neither_calls_nor_the_end(around: RunningGateway, at: Collector) -> None:
    """The last test of this gateway, which it ends."""
    asked = at.asked
    at.status = 0
    try:
        for _ in range(20):
            chat(around, "chain", Asked())
        until(lambda: at.asked >= asked + 2, PATIENCE, "the collector to be asked")
        assert chat(around, "chain", Asked()).elapsed.total_seconds() < 5  # of the ten that one step may take
        began = time.monotonic()
        assert around.stop() == 0
        assert time.monotonic() - began < 20  # drained, and a few seconds for the last batch
    finally:
        at.status = 200
        at.ended.set()

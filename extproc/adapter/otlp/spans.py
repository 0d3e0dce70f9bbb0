"""Calls and attempts as spans."""

import random
from collections.abc import Iterator, Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from extproc.adapter.otlp.resource import SCOPE, pairs, resource
from extproc.model import Usage, UsageSource
from extproc.telemetry import genai
from extproc.telemetry.genai import Conventions
from extproc.telemetry.traces import Item, Told, Tried
from extproc.traceparent import Context

_SAMPLED = 0x1
_HERE, _ELSEWHERE = 0x100, 0x300  # the parent is of this process, or of another one
_ERROR = Status(code=Status.STATUS_CODE_ERROR)
# Of a record, by their names there. What people are called, and what callers may write as they like, is not among them.
_FACTS = {
    name: f"sluice.{name}"
    for name in (
        *("request_id", "surface", "area", "team", "tier", "key_id", "environment", "priority", "fallback", "backend"),
        *("chain", "ending", "refusal", "limit", "output_cap", "cost", "price", "currency", "turn"),
        "config",
    )
}


class Spans:
    """Makes requests of what is told of calls."""

    def __init__(self, names: Conventions) -> None:
        self._names = names
        self._resource = resource()
        self._bits = random.Random().getrandbits  # noqa: S311 - ids, which need not be hard to guess

    def request(self, items: Sequence[Item]) -> bytes:
        """An ExportTraceServiceRequest. Those of Envoy are put behind ours as they are: protobuf joins them."""
        made = [span for item in items if not isinstance(item, bytes) for span in self._of(item)]
        ours = ScopeSpans(scope=SCOPE, spans=made)
        told = ExportTraceServiceRequest(resource_spans=[ResourceSpans(resource=self._resource, scope_spans=[ours])])
        parts = [told.SerializeToString()] if made else []
        return b"".join((*parts, *(item for item in items if isinstance(item, bytes))))

    def _of(self, item: Told | tuple[Context, Tried]) -> Iterator[Span]:
        if isinstance(item, Told):
            yield self._call(item)
            yield from self._stages(item)
        else:
            yield self._attempt(*item)

    def _call(self, told: Told) -> Span:
        context, record, outcome = told.context, told.record, told.outcome
        operation = genai.OPERATIONS.get(told.surface) if told.surface else None
        model, error = record.get("asked") or record.get("model"), genai.error(outcome)
        facts = {
            **self._of_model(told, operation, model),
            "http.request.method": record.get("method"),
            "http.response.status_code": outcome.status or None,
            self._names.error: error or None,
            **{told_as: record.get(name) for name, told_as in _FACTS.items()},
            "sluice.cache": _cached(record),
        }
        what = operation or record.get("surface") or "unknown"
        return Span(
            trace_id=bytes.fromhex(context.trace),
            span_id=bytes.fromhex(context.span),
            parent_span_id=bytes.fromhex(context.parent),
            trace_state=context.state,
            flags=_SAMPLED | _ELSEWHERE if context.parent else _SAMPLED,
            name=f"{what} {model}" if model else str(what),
            kind=Span.SPAN_KIND_SERVER,
            start_time_unix_nano=_nanos(told.began + told.clock),
            end_time_unix_nano=_nanos(told.ended + told.clock),
            attributes=pairs(facts),
            # An error of the caller's is none of the server's.
            status=_ERROR if error and not 400 <= outcome.status < 500 else None,
        )

    def _of_model(self, told: Told, operation: str | None, model: object) -> Mapping[str, object]:
        """By the names of the conventions."""
        if operation is None:
            return {}
        names, outcome, usage = self._names, told.outcome, told.outcome.usage
        facts = {
            names.operation: operation,
            names.provider: genai.provider(told.backend) if told.backend else None,
            names.request_model: model,
            names.request_stream: told.record.get("stream"),
            names.response_model: outcome.deployed,
            names.finish_reasons: [outcome.stop_reason] if outcome.stop_reason else None,
            names.conversation: told.record.get("session"),
            names.service_tier: told.record.get("service_tier"),
            names.first_chunk: _seconds(told.record.get("first_token_ms")),
            **(self._tokens(usage) if usage.source is not UsageSource.NONE else {}),
        }
        return {name: value for name, value in facts.items() if name is not None}

    def _tokens(self, usage: Usage) -> Mapping[str | None, object]:
        names = self._names
        return {
            names.input_tokens: usage.input,
            names.output_tokens: usage.output,
            names.cache_read: usage.cached_input or None,
            names.cache_creation: usage.cache_write or None,
            names.reasoning: usage.reasoning or None,
        }

    def _stages(self, told: Told) -> Iterator[Span]:
        """One for each; of one that had several pieces it is told how long it took without what lay between."""
        trace, parent = bytes.fromhex(told.context.trace), bytes.fromhex(told.context.span)
        for stage, (began, ended, spent) in told.stages.items():
            yield Span(
                trace_id=trace,
                span_id=self._id(),
                parent_span_id=parent,
                flags=_SAMPLED | _HERE,
                name=stage.value,
                kind=Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=_nanos(began + told.clock),
                end_time_unix_nano=_nanos(ended + told.clock),
                attributes=pairs({"sluice.spent_ms": round(spent * 1000, 3)}),
            )

    def _attempt(self, parent: Context, tried: Tried) -> Span:
        failed = tried.status == 0 or tried.status >= 400
        facts = {
            "sluice.backend": tried.backend,
            self._names.request_model: tried.deployed,
            "http.response.status_code": tried.status or None,
            "sluice.flag": tried.flag or None,
            self._names.error: (str(tried.status) if tried.status else tried.flag or "none") if failed else None,
        }
        return Span(
            trace_id=bytes.fromhex(parent.trace),
            span_id=self._id(),
            parent_span_id=bytes.fromhex(parent.span),
            flags=_SAMPLED | _ELSEWHERE,
            name=f"attempt {tried.backend}",
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=_nanos(tried.began),
            end_time_unix_nano=_nanos(tried.began + tried.seconds),
            attributes=pairs(facts),
            status=_ERROR if failed else None,
        )

    def _id(self) -> bytes:
        return (self._bits(64) or 1).to_bytes(8, "big")


def rejected(answer: bytes) -> int:
    """How many spans a collector did not take, as it says; 0 where it says nothing that can be read."""
    try:
        return int(ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans)
    except DecodeError:
        return 0


def _cached(record: Mapping[str, object]) -> object:
    made = record.get("cache")
    return made.get("result") if isinstance(made, Mapping) else None


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int | float) else None


def _nanos(seconds: float) -> int:
    return int(seconds * 1e9)

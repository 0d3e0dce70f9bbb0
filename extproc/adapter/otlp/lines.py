"""Lines of the log and records as log records."""

import logging
from collections.abc import Mapping, Sequence

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs

from extproc.adapter.otlp.resource import SCOPE, any_value, pairs, resource
from extproc.telemetry.logs import Item, Line

_SEVERITY = {logging.DEBUG: 5, logging.INFO: 9, logging.WARNING: 13, logging.ERROR: 17, logging.CRITICAL: 21}


class Lines:
    """Makes requests of what is logged."""

    def __init__(self) -> None:
        self._resource = resource()

    def request(self, items: Sequence[Item]) -> bytes:
        """An ExportLogsServiceRequest."""
        made = [_line(item) if isinstance(item, Line) else _record(item) for item in items]
        told = ResourceLogs(resource=self._resource, scope_logs=[ScopeLogs(scope=SCOPE, log_records=made)])
        return ExportLogsServiceRequest(resource_logs=[told]).SerializeToString()


def _line(line: Line) -> LogRecord:
    trace = line.trace if line.trace is not None and line.trace.sampled else None
    level = line.level // 10 * 10
    return LogRecord(
        time_unix_nano=int(line.at * 1e9),
        observed_time_unix_nano=int(line.at * 1e9),
        severity_number=_SEVERITY.get(level, 9),  # type: ignore[arg-type]
        severity_text=logging.getLevelName(level),
        body=any_value(line.text),
        attributes=pairs({"sluice.source": line.source}),
        trace_id=bytes.fromhex(trace.trace) if trace else b"",
        span_id=bytes.fromhex(trace.span) if trace else b"",
        flags=1 if trace else 0,
    )


def _record(record: Mapping[str, object]) -> LogRecord:
    """The record is the body, as it is on standard output."""
    at, trace, span = record.get("time"), record.get("trace_id"), record.get("span_id")
    nanos = int(at * 1e9) if isinstance(at, int | float) else 0
    return LogRecord(
        time_unix_nano=nanos,
        observed_time_unix_nano=nanos,
        severity_number=9,  # type: ignore[arg-type]
        severity_text="INFO",
        event_name=f"sluice.{record.get('kind')}",
        body=any_value(record),
        trace_id=bytes.fromhex(str(trace)) if trace else b"",
        span_id=bytes.fromhex(str(span)) if span else b"",
        flags=1 if span else 0,
    )


def rejected(answer: bytes) -> int:
    """How many lines a collector did not take, as it says; 0 where it says nothing that can be read."""
    try:
        return int(ExportLogsServiceResponse.FromString(answer).partial_success.rejected_log_records)
    except DecodeError:
        return 0

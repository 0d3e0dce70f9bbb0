"""Envoy's AccessLogService: one record per attempt and one per call, off the request path.

They reach *some* worker, not the one that served the call. Every one is counted, and every attempt says something about
its backend; told in the log are those that say more than the access record of the call: failed attempts, answers
that broke off and by whom, and calls that Envoy refused before any worker saw them. Of a call that its worker left
the ledger is told all that Envoy knows: it may have died, and nobody else will.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import grpc
import orjson

from extproc.contract import (
    ATTEMPT_LOG,
    DEPLOYED_HEADER,
    FACTS,
    LISTENER_LOG,
    NO_ADDRESS,
    TRACE_HEADER,
    TRACEPARENT,
    backend_of,
    is_unresolved,
)
from extproc.routing.attempt import Attempt
from extproc.telemetry import metrics
from extproc.telemetry.traces import Traces, Tried
from protos.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage
from protos.ext_proc_pb2 import Metadata

Facts = dict[str, Any]

_WELL = frozenset({"via_upstream", "direct_response"})


class Journal(Protocol):
    def write(self, record: Mapping[str, object]) -> None: ...


class Stream(Protocol):
    """What we use of grpc.aio's servicer context."""

    async def read(self) -> StreamAccessLogsMessage: ...


def _nobody(_attempt: Attempt) -> None:
    """Learns nothing from an attempt."""


def _nowhere(_name: str, _event: bytes) -> None:
    """Keeps nothing."""


class AccessLog:
    """Receives Envoy's own records. `learn` is told each attempt, good ones too, when it has ended.

    So is `tell`, for the ledger, and of calls who broke them off: an event under a name of its own for each message.
    """

    def __init__(
        self,
        journal: Journal,
        learn: Callable[[Attempt], None] = _nobody,
        tell: Callable[[str, bytes], None] = _nowhere,
        traces: Traces | None = None,
    ) -> None:
        """`traces`: takes the attempts of calls that are traced; None: no call is."""
        self._journal = journal
        self._learn = learn
        self._tell_ledger = tell
        self._traces = traces
        self._streams: set[asyncio.Task[None]] = set()

    async def stream(self, _requests: object, stream: Stream) -> bytes:
        """Read records until Envoy ends the stream, or the worker does to let Envoy open one elsewhere."""
        reading = asyncio.ensure_future(self._read(stream))
        self._streams.add(reading)
        try:
            await asyncio.wait({reading})
        finally:
            self._streams.discard(reading)
            reading.cancel()
        return b""

    async def _read(self, stream: Stream) -> None:
        name = ""  # only the first message of a stream names the log
        while (message := await stream.read()) is not grpc.aio.EOF:
            name = message.identifier.log_name or name
            told = [facts for entry in message.http_logs.log_entry if (facts := self._take(name, entry))]
            if told:
                kind = "attempts" if name == ATTEMPT_LOG else "breaks"
                event = f"{kind}.{os.urandom(16).hex()}"
                self._tell_ledger(event, orjson.dumps({"id": event, "kind": kind, kind: told}))

    def close(self) -> None:
        """End the streams, which Envoy keeps open for ever."""
        for reading in self._streams:
            reading.cancel()

    def _take(self, name: str, entry: HTTPAccessLogEntry) -> Facts | None:
        """What is to be told to the ledger of an entry."""
        if name == ATTEMPT_LOG:
            return self._attempt(entry)
        return self._call(entry) if name == LISTENER_LOG else None

    def _attempt(self, entry: HTTPAccessLogEntry) -> Facts | None:
        common = entry.common_properties
        backend = backend_of(common.upstream_cluster)
        if backend is None:
            return None
        status, flags = _outcome(entry)
        flag = flags[0] if flags else ""
        ended = metrics.status_label(status) if status else flag or "none"
        metrics.count(metrics.ATTEMPTS, backend, ended)
        whose = _of(entry)
        metrics.ATTEMPT.add((backend,), whose["duration_ms"] / 1000)
        headers = dict(entry.response.response_headers)
        deployed = headers.get(DEPLOYED_HEADER)
        self._learn(Attempt(backend, status, flags, headers, deployed, whose["request_id"]))
        told: Facts = {"backend": backend, "retry_after": headers.get("retry-after"), "status": status, "flag": flag}
        trace = None if self._traces is None else self._traced(self._traces, entry, told, deployed)
        if status >= 400 or flags:
            self._tell(entry, "attempt", **told, trace_id=trace)
        return {**whose, **told, "deployed": deployed}

    @staticmethod
    def _traced(traces: Traces, entry: HTTPAccessLogEntry, told: Facts, deployed: str | None) -> str | None:
        """Tell the trace of an attempt of it. Returns the trace's id, where there is one."""
        header = entry.request.request_headers.get(TRACEPARENT) or entry.response.response_headers.get(TRACE_HEADER)
        if not header:
            return None
        common = entry.common_properties
        began, seconds = common.start_time.ToMicroseconds() / 1e6, common.duration.ToMicroseconds() / 1e6
        return traces.tried(header, Tried(told["backend"], deployed, told["status"], told["flag"], began, seconds))

    def _call(self, entry: HTTPAccessLogEntry) -> Facts | None:
        details = entry.response.response_code_details.partition("{")[0]  # socket errors follow the brace
        if (details in _WELL or details.startswith("sluice_")) and not _flags(entry):
            return None
        left = _left(entry, details)
        if left is not None:
            metrics.count(metrics.BROKEN, left)
        elif details in _WELL:
            return None
        status = entry.response.response_code.value
        self._tell(entry, "listener", status=status, flag=_flag(entry), details=details)
        if left is None:
            return None
        return _of(entry) | {"left": left} | (_noted(entry, status) if left == "gateway" else {})

    def _tell(self, entry: HTTPAccessLogEntry, kind: str, **facts: object) -> None:
        record: Facts = {"kind": kind, **_of(entry), **facts}
        self._journal.write({name: value for name, value in record.items() if value not in (None, "")})


def _left(entry: HTTPAccessLogEntry, details: str) -> str | None:
    """By whom a call broke off; None where it did not, or nobody can tell."""
    flags = entry.common_properties.response_flags
    if flags.downstream_connection_termination or flags.downstream_remote_reset:
        return "client"
    if details in ("via_upstream", "upstream_reset_after_response_started"):
        return "upstream"
    if details == "stream_idle_timeout" and entry.response.response_code.value < 400:
        return "upstream"  # a client who reads nothing for so long is rare
    return "gateway" if details.startswith("ext_proc_error") else None


def _noted(entry: HTTPAccessLogEntry, status: int) -> Facts:
    """What the worker of a call had said of it before it left. Nothing was used where no backend was asked."""
    common = entry.common_properties
    fields = Metadata.FromString(common.metadata).filter_metadata[FACTS].fields
    call: Facts = {}
    for name in ("who", "what"):
        call |= orjson.loads(fields[name].string_value or b"{}")
    if not call:
        return {}
    if not common.upstream_request_attempt_count:
        call = {name: value for name, value in call.items() if name not in ("usage", "cost", "currency")}
    return {"call": call | {"status": status}}


def _of(entry: HTTPAccessLogEntry) -> Facts:
    """Whose it is, when it began, and how long it took: of a call the whole of it, of an attempt that alone."""
    common = entry.common_properties
    began, took = common.start_time, common.duration
    return {
        "time": (began.seconds * 1000 + began.nanos // 1_000_000) / 1000,
        "request_id": entry.request.request_id,
        "duration_ms": (took.seconds * 1_000_000 + took.nanos // 1000) / 1000,
    }


def _outcome(entry: HTTPAccessLogEntry) -> tuple[int, list[str]]:
    """The status, 0 for none, and the flags of an attempt.

    Where no address of the backend was to be had, the sink's 503 is none of the provider's answers.
    """
    if is_unresolved(entry.common_properties.upstream_cluster):
        return 0, [NO_ADDRESS]
    return entry.response.response_code.value, _flags(entry)


def _flag(entry: HTTPAccessLogEntry) -> str:
    """The first flag that Envoy raised; empty where all went well."""
    flags = _flags(entry)
    return flags[0] if flags else ""


def _flags(entry: HTTPAccessLogEntry) -> list[str]:
    """The flags that Envoy raised, by their names in the protocol."""
    common = entry.common_properties
    if not common.HasField("response_flags"):
        return []
    return [field.name for field, _ in common.response_flags.ListFields()]

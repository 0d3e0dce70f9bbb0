"""Envoy's AccessLogService: one record per attempt and one per call, off the request path.

They reach *some* worker, not the one that served the call. Every one is counted, and every attempt says something about
its backend; told in the log are those that say more than the access record of the call: failed attempts, answers
that broke off and by whom, and calls that Envoy refused before any worker saw them.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import grpc

from extproc.contract import ATTEMPT_LOG, DEPLOYED_HEADER, LISTENER_LOG, NO_ADDRESS, backend_of, is_unresolved
from extproc.routing.attempt import Attempt
from extproc.telemetry import metrics
from protos.access_log_pb2 import HTTPAccessLogEntry, StreamAccessLogsMessage

_WELL = frozenset({"via_upstream", "direct_response"})


class Journal(Protocol):
    def write(self, record: Mapping[str, object]) -> None: ...


class Stream(Protocol):
    """What we use of grpc.aio's servicer context."""

    async def read(self) -> StreamAccessLogsMessage: ...


def _nobody(_attempt: Attempt) -> None:
    """Learns nothing from an attempt."""


class AccessLog:
    """Receives Envoy's own records. `learn` is told each attempt, good ones too, when it has ended."""

    def __init__(self, journal: Journal, learn: Callable[[Attempt], None] = _nobody) -> None:
        self._journal = journal
        self._learn = learn
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
            for entry in message.http_logs.log_entry:
                self._take(name, entry)

    def close(self) -> None:
        """End the streams, which Envoy keeps open for ever."""
        for reading in self._streams:
            reading.cancel()

    def _take(self, name: str, entry: HTTPAccessLogEntry) -> None:
        if name == ATTEMPT_LOG:
            self._attempt(entry)
        elif name == LISTENER_LOG:
            self._call(entry)

    def _attempt(self, entry: HTTPAccessLogEntry) -> None:
        backend = backend_of(entry.common_properties.upstream_cluster)
        if backend is None:
            return
        status, flags = _outcome(entry)
        metrics.count(metrics.ATTEMPTS, backend, str(status or _first(flags) or "none"))
        headers = dict(entry.response.response_headers)
        deployed, call = headers.get(DEPLOYED_HEADER), entry.request.request_id
        self._learn(Attempt(backend, status, flags, headers, deployed, call))
        if status < 400 and not flags:
            return
        told = {"backend": backend, "retry_after": headers.get("retry-after")}
        self._tell(entry, "attempt", status=status, flag=_first(flags), **told)

    def _call(self, entry: HTTPAccessLogEntry) -> None:
        details = entry.response.response_code_details.partition("{")[0]  # socket errors follow the brace
        if (details in _WELL or details.startswith("sluice_")) and not _flag(entry):
            return
        flags = entry.common_properties.response_flags
        if flags.downstream_connection_termination or flags.downstream_remote_reset:
            metrics.count(metrics.BROKEN, "client")
        elif details in ("via_upstream", "upstream_reset_after_response_started"):
            metrics.count(metrics.BROKEN, "upstream")
        elif details == "stream_idle_timeout" and entry.response.response_code.value < 400:
            metrics.count(metrics.BROKEN, "upstream")  # a client who reads nothing for so long is rare
        elif details.startswith("ext_proc_error"):
            metrics.count(metrics.BROKEN, "gateway")
        elif details in _WELL:
            return
        self._tell(entry, "listener", status=entry.response.response_code.value, flag=_flag(entry), details=details)

    def _tell(self, entry: HTTPAccessLogEntry, kind: str, **facts: str | int | None) -> None:
        record = {
            "kind": kind,
            "time": entry.common_properties.start_time.ToMilliseconds() / 1000,
            "request_id": entry.request.request_id,
            "duration_ms": entry.common_properties.duration.ToMicroseconds() / 1000,
            **facts,
        }
        self._journal.write({name: value for name, value in record.items() if value not in (None, "")})


def _outcome(entry: HTTPAccessLogEntry) -> tuple[int, list[str]]:
    """The status, 0 for none, and the flags of an attempt.

    Where no address of the backend was to be had, the sink's 503 is none of the provider's answers.
    """
    if is_unresolved(entry.common_properties.upstream_cluster):
        return 0, [NO_ADDRESS]
    return entry.response.response_code.value, _flags(entry)


def _flag(entry: HTTPAccessLogEntry) -> str:
    """The first flag that Envoy raised; empty where all went well."""
    return _first(_flags(entry))


def _first(flags: list[str]) -> str:
    return next(iter(flags), "")


def _flags(entry: HTTPAccessLogEntry) -> list[str]:
    """The flags that Envoy raised, by their names in the protocol."""
    return [field.name for field, _ in entry.common_properties.response_flags.ListFields()]

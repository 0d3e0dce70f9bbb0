"""The gRPC server of one worker: three services, or four, on one Unix socket and one event loop.

One of them has two roles: Envoy asks it about each call, and to translate the request of an attempt.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import Stream
from extproc.adapter.translator import translate
from extproc.contract import DIALECT_KEY
from protos.access_log_pb2 import StreamAccessLogsMessage
from protos.ext_proc_pb2 import ProcessingRequest

_PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

_TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"

_OVERHEAD = 1 << 20
"""Bytes of a message beside the body: headers, attributes, framing."""

_LARGEST_PIECE = 32 * 2**20
"""Bytes of an answer that Envoy may tell of at once, whatever it may hold back: what it has read by then. Those of a
quick backend have been seen to be 6 MiB."""

NOTICE = 1.0
"""Seconds between saying NOT_SERVING and refusing streams; Envoy asks four times in it."""


class Processor(Protocol):
    """Serves one stream of ExternalProcessor."""

    async def process(self, requests: object, stream: Stream, /) -> None: ...


class ByRole:
    """Gives each stream of ExternalProcessor to whom it is for: gRPC has read its metadata anyway.

    `process` serves calls, whose messages `deserialize` reads; None leaves them as bytes.
    """

    def __init__(self, process: Callable[..., object], deserialize: Callable[[bytes], object] | None) -> None:
        self._process = grpc.stream_stream_rpc_method_handler(process, request_deserializer=deserialize)
        self._translate = grpc.stream_stream_rpc_method_handler(
            translate, request_deserializer=ProcessingRequest.FromString
        )

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """The method's handler, as gRPC asks for it; None: of another service."""
        if details.method != _PROCESS:
            return None
        for name, _ in details.invocation_metadata:
            if name == DIALECT_KEY:
                return self._translate
        return self._process


def _taking(spans: Callable[[bytes], None]) -> grpc.GenericRpcHandler:
    """OTLP's service for traces. Its answer, that all was taken, has no bytes."""

    async def export(request: bytes, _context: object) -> bytes:
        spans(request)
        return b""

    method = grpc.unary_unary_rpc_method_handler(export)
    return grpc.method_handlers_generic_handler(_TRACES, {"Export": method})


class Server:
    """Serves until told to stop; stopping first turns new calls away, then lets live ones end."""

    def __init__(
        self,
        socket: str,
        processor: Processor,
        access_log: AccessLog,
        largest_body: int,
        spans: Callable[[bytes], None] | None = None,
    ) -> None:
        """`spans`: takes those that Envoy makes, in requests of OTLP; None: it makes none."""
        self._health = HealthServicer()
        self._access_log = access_log
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max(largest_body, _LARGEST_PIECE) + _OVERHEAD),
                ("grpc.max_send_message_length", -1),  # an answer that was kept may be larger than any that comes in
                ("grpc.max_concurrent_streams", 100_000),
                # Its windows would grow until Envoy's answers lie here, however slowly a client reads.
                ("grpc.http2.bdp_probe", 0),
            ]
        )
        records = grpc.stream_unary_rpc_method_handler(
            access_log.stream, request_deserializer=StreamAccessLogsMessage.FromString
        )
        self._server.add_generic_rpc_handlers(
            (
                ByRole(processor.process, ProcessingRequest.FromString),
                grpc.method_handlers_generic_handler(
                    "envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": records}
                ),
            )
        )
        if spans is not None:
            self._server.add_generic_rpc_handlers((_taking(spans),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._server.add_insecure_port(f"unix:{socket}")

    async def start(self) -> None:
        await self._server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace: float, notice: float = NOTICE) -> None:
        """Turn new calls away, give live ones `grace` seconds, then cut the rest with an error.

        `notice`: the seconds that Envoy has to learn of it.
        """
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(notice)
        self._access_log.close()
        await self._server.stop(grace)

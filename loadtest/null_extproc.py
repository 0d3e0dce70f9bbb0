"""A policy that decides nothing: the floor under the cost of any policy in Python. `python -m loadtest.null_extproc`.

The same gRPC server, event loop and services as a worker, but nothing is parsed and every reply is a constant.
A call takes the same way through Envoy as with the gateway, in the same messages.
"""

import argparse
import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from extproc.adapter import codec
from extproc.call import BodyMode, Leg, Relay, Route

_PATH = "/v1/chat/completions"


class Stream(Protocol):
    """What we use of grpc.aio's servicer context."""

    async def read(self) -> bytes: ...
    async def write(self, message: bytes) -> None: ...


def replies(backend: str) -> dict[int, bytes]:
    """A reply for every kind of message, by the message's first byte; chat calls go to `backend`.

    The fields of the `request` oneof have lower numbers than all others that Envoy sends, so they come first:
    the tag of field n is `n << 3 | 2` (Protocol Buffers encoding; ext_proc.proto has the numbers).
    """
    route = Route(legs=(Leg(backend, _PATH),))
    return {
        2 << 3 | 2: codec.PROCEED_REQUEST_HEADERS,
        3 << 3 | 2: codec.relay(Relay(BodyMode.STREAMED)),
        4 << 3 | 2: codec.route_after_body(route),
        5 << 3 | 2: codec.UNCHANGED_RESPONSE_BODY,
    }


def process(constant: dict[int, bytes]) -> Callable[[object, Stream], Coroutine[Any, Any, None]]:
    """The handler of `Process`: a look-up per message. An unknown kind fails the stream."""

    async def answer(_requests: object, stream: Stream) -> None:
        while (message := await stream.read()) is not grpc.aio.EOF:
            await stream.write(constant[message[0]])

    return answer


async def _discard(_requests: object, stream: Stream) -> bytes:
    """The handler of the access log."""
    while await stream.read() is not grpc.aio.EOF:
        pass
    return b""


async def _serve(socket: str, backend: str) -> None:
    server = grpc.aio.server(options=[("grpc.max_concurrent_streams", 100_000)])
    handlers = {
        "envoy.service.ext_proc.v3.ExternalProcessor": {
            "Process": grpc.stream_stream_rpc_method_handler(process(replies(backend)))
        },
        "envoy.service.accesslog.v3.AccessLogService": {
            "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(_discard)
        },
    }
    server.add_generic_rpc_handlers(
        tuple(grpc.method_handlers_generic_handler(service, methods) for service, methods in handlers.items())
    )
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(f"unix:{socket}")
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await server.start()
    await health.set("", health_pb2.HealthCheckResponse.SERVING)
    await stopping.wait()
    await server.stop(None)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.null_extproc", description=__doc__)
    parser.add_argument("socket", help="path of the Unix socket to serve on")
    parser.add_argument("backend", help="name of the backend that gets every call")
    options = parser.parse_args()
    uvloop.run(_serve(options.socket, options.backend))


if __name__ == "__main__":
    main()

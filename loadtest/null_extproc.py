"""A policy that decides nothing: the floor under the cost of any policy. `python -m loadtest.null_extproc`.

It is the worker's own server, with its messages parsed and its access log read, but every reply is a constant.
A call takes the same way through Envoy as with the gateway, in the same messages.
"""

import argparse
import asyncio
import signal
from collections.abc import Mapping

import grpc.aio
import uvloop

from extproc.adapter import codec
from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import Stream
from extproc.adapter.server import Server
from extproc.call import BodyMode, Leg, Relay, Route

_PATH = "/v1/chat/completions"
_MODEL = "gpt-4o"
_LARGEST_BODY = 8 * 2**20


def replies(backend: str) -> Mapping[str, bytes]:
    """A reply for every kind of message; chat calls go to `backend`."""
    return {
        "request_headers": codec.PROCEED_REQUEST_HEADERS,
        "request_body": codec.route_after_body(Route(legs=(Leg(backend, _PATH, _MODEL),))),
        "response_headers": codec.relay(Relay(BodyMode.STREAMED)),
        "response_body": codec.UNCHANGED_RESPONSE_BODY,
    }


class Null:
    """The handler of `Process`: a look-up per message. An unknown kind fails the stream."""

    def __init__(self, backend: str) -> None:
        self._replies = replies(backend)

    async def process(self, _requests: object, stream: Stream) -> None:
        while (message := await stream.read()) is not grpc.aio.EOF:
            await stream.write(self._replies[message.WhichOneof("request") or ""])


class Nowhere:
    """The journal of what Envoy tells."""

    def write(self, record: Mapping[str, object]) -> None:
        """Drop it."""


async def _serve(socket: str, backend: str) -> None:
    server = Server(socket, Null(backend), AccessLog(Nowhere()), _LARGEST_BODY)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await server.start()
    await stopping.wait()
    await server.stop(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.null_extproc", description=__doc__)
    parser.add_argument("socket", help="path of the Unix socket to serve on")
    parser.add_argument("backend", help="name of the backend that gets every call")
    options = parser.parse_args()
    uvloop.run(_serve(options.socket, options.backend))


if __name__ == "__main__":
    main()

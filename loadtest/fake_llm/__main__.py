"""The command line: `python -m loadtest.fake_llm`."""

import argparse
import asyncio
import signal
import sys
from functools import partial

import uvloop

from loadtest.fake_llm.connection import Connection
from loadtest.fake_llm.instance import Instance
from loadtest.fake_llm.recorder import Recorder

_EXAMPLES = """\
examples:
  python -m loadtest.fake_llm --port 8090
  python -m loadtest.fake_llm --listen swe=9001 --listen fra=9002 --listen claude=0 --latency-ms 200
  curl localhost:8090/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"x_fake":{"status":429}}'
  curl localhost:8090/_fake/script -d '[{"status":500},{"reset":"before"},{}]'      # the next three calls
  curl localhost:8090/_fake/calls                                                  # what it saw
"""


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    options = _parse()
    named = [("fake", options.port)] if options.port is not None else []
    uvloop.run(_serve(options, named + options.listen or [("fake", 8090)]))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.fake_llm",
        description="A deterministic fake of OpenAI, Azure OpenAI, Anthropic and Gemini.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, help="port of one instance named 'fake' (8090; 0: a free one)")
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="NAME=PORT",
        type=_named_port,
        help="a named instance, as often as wanted",
    )
    parser.add_argument("--address", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--latency-ms", type=float, default=0, help="wait before each answer")
    parser.add_argument("--tokens-per-second", type=float, help="pace of streams (unlimited)")
    parser.add_argument("--keep-bodies", action="store_true", help="record bodies above 64 KiB whole, too")
    parser.add_argument("--keep-bills", action="store_true", help="keep what each call used, for `_fake/bills`")
    return parser.parse_args()


def _named_port(given: str) -> tuple[str, int]:
    name, _, port = given.partition("=")
    return name, int(port)


async def _serve(options: argparse.Namespace, named: list[tuple[str, int]]) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    connections: set[Connection] = set()
    servers = []
    for name, port in named:
        recorder = Recorder(keep_bodies=options.keep_bodies, keep_bills=options.keep_bills)
        instance = Instance(name, recorder, options.latency_ms, options.tokens_per_second)
        try:
            server = await loop.create_server(partial(Connection, instance, connections), options.address, port)
        except OSError as problem:
            sys.exit(f"cannot listen on {options.address}:{port} ({name}): {problem}")
        servers.append(server)
        real_port = server.sockets[0].getsockname()[1]
        print(f"fake provider ready on {options.address}:{real_port} ({name})", flush=True)
    await stop.wait()
    for server in servers:
        server.close()
    for connection in list(connections):
        connection.abort()


if __name__ == "__main__":
    main()

"""Calls that come whether or not earlier ones were answered: `python -m loadtest.open_loop PORT --rate 300`.

What a closed loop cannot show: with it a slow gateway is asked less. Calls begin at the moments of a Poisson process,
each on a connection that is free, else on a new one. Prints what became of each as JSON.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import cast

import httptools
import orjson
import uvloop

from loadtest import load

MOST = 4000
"""Connections. Calls beyond them are not made, and counted."""

_PATIENCE = 20.0  # seconds for answers that are due when the time is over


@dataclass(slots=True)
class Told:
    """One call: when it began, in seconds from the first, how long it took until its end, and how it went.

    `status` 0: the connection broke, or no answer came. `code` is that of an error; `later`: a `retry-after` came.
    """

    began: float
    seconds: float = 0.0
    status: int = 0
    code: str = ""
    later: bool = False


@dataclass(slots=True)
class Course:
    """All calls in the order of their beginnings, and how many were not made for want of connections."""

    calls: list[Told] = field(default_factory=list)
    unmade: int = 0


class _Connection(asyncio.Protocol):
    """One call after the other."""

    def __init__(self, crowd: "_Crowd") -> None:
        self._crowd = crowd
        self._told: Told | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def call(self, told: Told, request: bytes) -> None:
        self._told, self._sent = told, time.perf_counter()
        self._parser, self._body, self._error = httptools.HttpResponseParser(self), b"", False
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_header(self, name: bytes, _value: bytes) -> None:
        if self._told is not None and name.lower() == b"retry-after":
            self._told.later = True

    def on_headers_complete(self) -> None:
        self._error = self._parser.get_status_code() != 200

    def on_body(self, data: bytes) -> None:
        if self._error:
            self._body += data

    def on_message_complete(self) -> None:
        told, self._told = self._told, None
        if told is None:
            return
        told.seconds, told.status = time.perf_counter() - self._sent, self._parser.get_status_code()
        if self._error:
            told.code = _code(self._body)
        if self._parser.should_keep_alive() and not self.transport.is_closing():
            self._crowd.free.append(self)
        else:
            self.transport.close()
            self._crowd.open -= 1
        self._crowd.ended()

    def connection_lost(self, _error: Exception | None) -> None:
        if self in self._crowd.free:
            self._crowd.free.remove(self)
            self._crowd.open -= 1
        if self._told is not None:
            self._told.seconds, self._told = time.perf_counter() - self._sent, None
            self._crowd.open -= 1
            self._crowd.ended()


def _code(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["code"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "none"


class _Crowd:
    """All connections."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[_Connection] = []
        self.open = 0
        self.running = 0
        self.over = asyncio.Event()

    async def call(self, told: Told, request: bytes) -> None:
        """Begin one; it ends by itself."""
        self.running += 1
        self.over.clear()
        if self.free:
            self.free.pop().call(told, request)
            return
        self.open += 1
        try:
            connected = asyncio.get_running_loop().create_connection(lambda: _Connection(self), "127.0.0.1", self.port)
            _, connection = await asyncio.wait_for(connected, 5)
        except (OSError, TimeoutError):
            self.open -= 1
            self.ended()
            return
        connection.call(told, request)

    def ended(self) -> None:
        self.running -= 1
        if self.running == 0:
            self.over.set()


async def put_on(port: int, requests: Iterator[bytes], rate: float, seconds: float) -> Course:
    """So many calls a second to a port of this machine."""
    crowd, course, dice = _Crowd(port), Course(), random.Random(1)
    first, due = time.perf_counter(), 0.0
    async with asyncio.TaskGroup() as connecting:
        while due < seconds:
            await asyncio.sleep(max(0.0, first + due - time.perf_counter()))
            told = Told(began=time.perf_counter() - first)
            if crowd.open - len(crowd.free) < MOST:
                course.calls.append(told)
                if crowd.free:
                    await crowd.call(told, next(requests))
                else:
                    connecting.create_task(crowd.call(told, next(requests)))
            else:
                course.unmade += 1
            due += dice.expovariate(rate)
    try:
        await asyncio.wait_for(crowd.over.wait(), _PATIENCE)
    except TimeoutError:
        for told in course.calls:
            told.seconds = told.seconds or time.perf_counter() - first - told.began
    return course


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.open_loop", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("port", type=int, help="of a gateway on this machine")
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second (100)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--stream", action="store_true", help="server-sent events instead of JSON")
    options = parser.parse_args()
    requests = load.calls(load.request(options.stream), distinct=True)
    course = uvloop.run(put_on(options.port, requests, options.rate, options.seconds))
    print(orjson.dumps(asdict(course)).decode())


if __name__ == "__main__":
    main()

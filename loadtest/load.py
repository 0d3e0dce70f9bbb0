"""The load generator: a closed loop of chat calls over keep-alive connections. `python -m loadtest.load PORT`.

Every connection sends its next call when it has the whole answer to the last. It shares the machine with what it
measures, so it does as little as it can: one request, built once, and answers read only for their status and end.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import cast

import orjson
import uvloop

from extproc.identity.keys import QUICKSTART_KEY

MODEL = "bench-model"
EVENTS_WITH_TEXT = 28  # with the opening and the closing event and [DONE], a stream of about 30 events
_PROMPT = "Say in a few words what a gateway does for the calls that pass it, and why. " * 13  # about 1 kB
_LETTERS = 12
_MISSING, _NONE = "answers are missing", "no call was answered in the time given"
TOO_SLOW = frozenset({_MISSING, _NONE})
"""What is said where a gateway is slower than it was given time."""

_PATIENCE = 15.0  # seconds for answers that are due when the time is over
WORD = _PROMPT[:_LETTERS].encode()
"""What stands in the place of a word that no other call has: letters, because numbers may be somebody's."""

WARM_UP = 0.3
"""Seconds at the start that are not counted: connections are made and caches filled."""


class LoadError(Exception):
    """The load could not be put on as asked, so there is nothing to report."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was measured in `seconds` after the warm-up. Latencies are of whole calls, in seconds.

    `all_calls` counts those of the warm-up and the last ones, too. `cpu` is the generator's own, in seconds.
    """

    calls: int
    all_calls: int
    seconds: float
    p50: float
    p99: float
    cpu: float


def request(stream: bool, model: str = MODEL, uncut: bool = False, prompt: str = _PROMPT) -> bytes:
    """The one call that is repeated: JSON of 1 kB or a little more, answered by 28 tokens.

    They are all that it asks for; `uncut`: all that the fake has to say, so that the answer is a whole one.
    """
    cap = {"max_tokens": EVENTS_WITH_TEXT * (8 if uncut else 1)}
    length = cap | ({"x_fake": {"length": EVENTS_WITH_TEXT}} if uncut else {})
    said = [{"role": "user", "content": prompt}]
    body = orjson.dumps({"model": model, "messages": said, **length, "stream": stream})
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\n"
        f"authorization: Bearer {QUICKSTART_KEY}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        "accept: application/json\r\nuser-agent: bench/1\r\n\r\n"
    )
    return head.encode() + body


def calls(call: bytes, distinct: bool) -> Iterator[bytes]:
    """The same call again and again; `distinct`: each with a word in its prompt that no other has, in any run."""
    if not distinct:
        return itertools.repeat(call)
    before, after = call.split(WORD, 1)
    first = time.time_ns() // 1000  # fewer than one in a microsecond are made
    return (b"%b%b%b" % (before, word(number), after) for number in itertools.count(first))


def word(number: int) -> bytes:
    """As many letters as WORD has, of which two numbers in a row never have the same."""
    letters = []
    for _ in WORD:
        number, letter = divmod(number, 26)
        letters.append(97 + letter)
    return bytes(letters)


class Answer:
    """One HTTP/1.1 answer in pieces: status 200, and a body whose length its head tells, or else a chunked one that
    holds no CR (JSON and events of the fake).
    """

    __slots__ = ("_head", "_left", "_tail")
    _OK = b"HTTP/1.1 200 "
    _LENGTH = b"\r\ncontent-length: "
    _END = b"\r\n0\r\n\r\n"  # RFC 9112, 7.1: the last chunk, without trailers

    def __init__(self) -> None:
        self._head: bytes | None = b""  # None once all of it has been read
        self._left: int | None = None  # bytes of the body, where its length is known
        self._tail = b""

    def feed(self, piece: bytes) -> bool:
        """Whether the answer is complete. Raises LoadError for another status and for bytes after the end."""
        if self._head is not None:
            piece = self._begin(self._head + piece)
            if self._head is not None:
                return False
        if self._left is not None:
            self._left -= len(piece)
            return self._is_over(self._left)
        window = self._tail + piece
        end = window.find(self._END)
        if end < 0:
            self._tail = window[1 - len(self._END) :]
            return False
        return self._is_over(end + len(self._END) - len(window))

    def _is_over(self, left: int) -> bool:
        if left < 0:
            raise LoadError("bytes came after the end of an answer")
        return left == 0

    def _begin(self, head: bytes) -> bytes:
        """Read the head, if all of it has come; returns what follows it."""
        if not head.startswith(self._OK[: len(head)]):
            raise LoadError(f"the answer was not a 200: {head[:600]!r}")
        end = head.find(b"\r\n\r\n")
        if end < 0:
            self._head = head
            return b""
        self._head = None
        at = head.find(self._LENGTH, 0, end)
        if at < 0:
            return head[end + 2 :]  # with the line feed that comes before the last chunk, where it is the only one
        self._left = int(head[at + len(self._LENGTH) : end].partition(b"\r\n")[0])
        return head[end + 4 :]


class _Run:
    """The calls of all connections, and when they may go on."""

    def __init__(self, calls: Iterator[bytes], concurrency: int) -> None:
        self.calls = calls
        self.latencies: list[float] = []
        self.stopping = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._open = concurrency

    def closed(self) -> None:
        """A connection has ended in order."""
        self._open -= 1
        if self._open == 0 and not self.over.done():
            self.over.set_result(None)

    def fail(self, problem: Exception) -> None:
        if not self.over.done():
            self.over.set_exception(problem)


class _Connection(asyncio.Protocol):
    """One caller."""

    def __init__(self, run: _Run) -> None:
        self._run = run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._call()

    def _call(self) -> None:
        self._answer = Answer()
        self._sent = time.perf_counter()
        self._transport.write(next(self._run.calls))

    def data_received(self, data: bytes) -> None:
        try:
            if not self._answer.feed(data):
                return
        except LoadError as problem:
            self._run.fail(problem)
            self._transport.abort()
            return
        self._run.latencies.append(time.perf_counter() - self._sent)
        if self._run.stopping:
            self._transport.close()
            self._run.closed()
        else:
            self._call()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._transport.is_closing() or error is not None:
            self._run.fail(LoadError(f"the gateway closed a connection: {error}"))


async def put_on(port: int, calls: Iterator[bytes], seconds: float, concurrency: int) -> Load:
    """Call the gateway on a port of this machine with `concurrency` connections. Raises LoadError."""
    loop = asyncio.get_running_loop()
    run = _Run(calls, concurrency)
    for _ in range(concurrency):
        await loop.create_connection(lambda: _Connection(run), "127.0.0.1", port)
    await _unless_over(run, WARM_UP)
    first, started, cpu = len(run.latencies), time.perf_counter(), time.process_time()
    await _unless_over(run, seconds)
    last, lasted, cpu = len(run.latencies), time.perf_counter() - started, time.process_time() - cpu
    run.stopping = True
    if not await _unless_over(run, _PATIENCE):
        raise LoadError(_MISSING)
    counted = sorted(run.latencies[first:last])
    if not counted:
        raise LoadError(_NONE)
    return Load(len(counted), len(run.latencies), lasted, percentile(counted, 50), percentile(counted, 99), cpu)


async def _unless_over(run: _Run, seconds: float) -> bool:
    """Wait; raises what a connection failed with. Whether all connections have ended."""
    await asyncio.wait({run.over}, timeout=seconds)
    if run.over.done():
        run.over.result()
    return run.over.done()


def percentile(ordered: list[float], percent: int) -> float:
    """The smallest of the values that at least `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.load", description=__doc__)
    parser.add_argument("port", type=int, help="of a gateway or provider on this machine")
    parser.add_argument("--stream", action="store_true", help="server-sent events instead of JSON")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--uncut", action="store_true", help="answers that no cap ends")
    parser.add_argument("--distinct", action="store_true", help="no call that has been made before")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--concurrency", type=int, default=32)
    options = parser.parse_args()
    try:
        made = calls(request(options.stream, options.model, options.uncut), options.distinct)
        load = uvloop.run(put_on(options.port, made, options.seconds, options.concurrency))
    except (LoadError, OSError) as problem:
        parser.exit(1, f"{problem}\n")
    print(orjson.dumps(asdict(load)).decode())


if __name__ == "__main__":
    main()

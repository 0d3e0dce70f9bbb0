"""A backend whose events tell when they were sent: `python -m loadtest.paced_backend`.

For what the fake provider cannot show: which part of a gap in a stream the gateway made. Each event of a chat stream
carries the time of its sending, by the clock of the machine, in `system_fingerprint`. The request's `max_tokens` says
how many events there are, its `x_fake` how fast they come (`tokens_per_second`), and after how many it falls silent
until the caller leaves (`stall_after`). What it says are the words of the last message, again and again, so that
placeholders come back.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_LATE = 0.001  # seconds that one sleep is worth
_USAGE = b'"usage":{"prompt_tokens":9,"completion_tokens":%d,"total_tokens":%d}'
_WHOLE = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Yes."},"finish_reason":"stop"}],%b}'
)
_EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","system_fingerprint":"t%d",'
    b'"choices":[{"index":0,"delta":{"content":%b},"finish_reason":null}]}\n\n'
)
_LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":'
    b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[],%b}\n\n'
    b"data: [DONE]\n\n"
)


async def _request(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The body of the next request. Raises IncompleteReadError at the end of the connection."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    found: dict[str, Any] = json.loads(await reader.readexactly(length))
    return found


def _words(request: dict[str, Any]) -> Iterator[bytes]:
    text = str(request["messages"][-1]["content"])
    return cycle([json.dumps(f"{word} ").encode() for word in text.split()])


async def _stream(request: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    asked = request.get("x_fake", {})
    count, rate = request.get("max_tokens", 1), asked.get("tokens_per_second", 0)
    stall, words = asked.get("stall_after", -1), _words(request)
    writer.write(_HEAD)
    began = time.monotonic()
    for number in range(count):
        if number == stall:
            await asyncio.Event().wait()  # until the connection breaks, or the process ends
        wait = began + number / rate - time.monotonic() if rate else 0.0
        if wait > _LATE:
            await asyncio.sleep(wait)
        _chunk(writer, _EVENT % (time.monotonic_ns(), next(words)))
        if not rate:
            await writer.drain()
    _chunk(writer, _LAST % (_USAGE % (count, count + 9)))
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            request = await _request(reader)
            if request.get("stream"):
                await _stream(request, writer)
                continue
            count = request.get("max_tokens", 1)
            body = _WHOLE % (_USAGE % (count, count + 9))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
            writer.write(body)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):  # the last: a write after the other end left
        pass
    finally:
        writer.close()


async def _run() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=2**20, backlog=4096)
    print(f"ready on port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_run())

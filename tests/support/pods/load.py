"""Callers at a Service: short calls at a pace, and streams of which so many live at any time; each call is told."""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

PATIENCE_S = 60.0
_LINE = 1 << 20


@dataclass(slots=True)
class Called:
    """One call as its client saw it. `trouble`: empty where it went well; else what went wrong."""

    name: str
    is_stream: bool
    began: float
    ended: float = 0.0
    request_id: str = ""
    status: int = 0
    trouble: str = "is not over"


@dataclass
class Load:
    """`running` makes calls until it is left; then every call that was begun comes to its end.

    `pooled`: short calls share connections, as clients' libraries do; every second one has one of its own.
    """

    host: str
    port: int
    key: str
    per_second: float
    streams: int
    tokens: int = 32
    tokens_per_second: float = 4.0
    model: str = "gpt-4o"
    fake: Mapping[str, object] = field(default_factory=dict)
    told: list[Called] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(1)
        self._stopping = asyncio.Event()
        self.live = 0
        """Streams whose first event has come and whose last has not."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=20)
        url = f"http://{self.host}:{self.port}"
        async with (
            httpx.AsyncClient(base_url=url, limits=limits, trust_env=False, timeout=PATIENCE_S) as self._client,
            asyncio.TaskGroup() as tasks,
        ):
            callers = [tasks.create_task(self._stream_again()) for _ in range(self.streams)]
            callers.append(tasks.create_task(self._pace(tasks)))
            try:
                yield
            finally:
                self.stop()

    async def settled(self, share: float = 0.9, refused: bool = False) -> None:
        """Wait until such a share of the streams lives; those that were `refused` count, too."""
        async with asyncio.timeout(PATIENCE_S):
            while self.live + (len(self.failed) if refused else 0) < self.streams * share:
                await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Begin no more."""
        self._stopping.set()

    @property
    def failed(self) -> Sequence[Called]:
        """Of those that are over."""
        return [one for one in self.told if one.trouble and one.ended]

    def verdict(self) -> str:
        """For a test that fails: what went wrong, and when, in seconds since the first call."""
        first = min((one.began for one in self.told), default=0.0)
        lines = [
            f"{one.began - first:.2f}-{one.ended - first:.2f} {'stream' if one.is_stream else 'call'} "
            f"{one.status} {one.trouble} {one.request_id}"
            for one in self.failed
        ]
        return "\n".join([f"{len(self.failed)} of {len(self.told)} failed", *lines[:40]])

    def kinds(self) -> Counter[str]:
        return Counter("stream" if one.is_stream else "call" for one in self.told)

    async def _pace(self, tasks: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        while not self._stopping.is_set():
            tasks.create_task(self._whole())
            due = max(due + 1 / self.per_second, time.monotonic() - 1.0)  # a busy machine's lag is not caught up
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def _begin(self, is_stream: bool) -> Called:
        called = Called(f"call-{next(self._numbers)}", is_stream, time.monotonic())
        self.told.append(called)
        return called

    def _body(self, called: Called, **more: object) -> bytes:
        said = [{"role": "user", "content": f"This is {called.name}."}]
        return json.dumps({"model": self.model, "messages": said, "stream": called.is_stream, **more}).encode()

    async def _whole(self) -> None:
        called = self._begin(is_stream=False)
        head = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        if called.name[-1] in "02468":
            head["connection"] = "close"
        try:
            answer = await self._client.post("/v1/chat/completions", content=self._body(called), headers=head)
            called.status, called.request_id = answer.status_code, answer.headers.get("x-request-id", "")
            called.trouble = "" if answer.status_code == 200 and "usage" in answer.json() else answer.text[:200]
        except (httpx.HTTPError, ValueError) as error:
            called.trouble = f"{type(error).__name__} {error}"
        finally:
            called.ended = time.monotonic()

    async def _stream_again(self) -> None:
        await asyncio.sleep(next(self._numbers) * 0.02)  # not all in one moment
        while not self._stopping.is_set():
            called = self._begin(is_stream=True)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._stream(called)
            except (OSError, TimeoutError, EOFError, ValueError) as error:
                called.trouble = f"{type(error).__name__} {error}"
            called.ended = time.monotonic()
            if called.trouble:
                await asyncio.sleep(0.2)

    async def _stream(self, called: Called) -> None:
        fake = {"length": self.tokens, "tokens_per_second": self.tokens_per_second, **self.fake}
        body = self._body(called, x_fake=fake)
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=_LINE)
        is_live = False
        try:
            lines = ["POST /v1/chat/completions HTTP/1.1", "host: gateway", f"authorization: Bearer {self.key}"]
            lines += ["content-type: application/json", f"content-length: {len(body)}", "connection: close"]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            called.status = int(head.split(maxsplit=2)[1])
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            called.request_id = fields.get("x-request-id", "")
            said = b""
            while line := await reader.readline():
                if line.startswith(b"data:") and not is_live:
                    is_live = True
                    self.live += 1
                if b"error" in line or called.status != 200:
                    said += line[:300]
                if line.startswith(b"data: [DONE]"):
                    called.trouble = said.decode(errors="replace")
                    return
            called.trouble = f"is cut {said.decode(errors='replace')}"
        finally:
            self.live -= is_live
            writer.transport.abort()

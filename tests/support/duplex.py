"""Provider, policy and readers for answers that end early or flow without end.

`python -m tests.support.duplex SOCKET` is a worker that may be killed: the product's server and codec around a
policy that every call scripts for itself, in the field `x_policy` of its body.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, cast

import httpx
import psutil

from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.server import Server
from extproc.call import PROCEED, BodyMode, Emit, Event, Leg, Origin, Relay, Reply, Route
from extproc.cli import processes
from extproc.cli.envoy_admin import envoy_is_ready
from extproc.cli.processes import State
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, render, write
from extproc.headers import Headers
from extproc.model import Catalogue
from extproc.pipeline import Pipeline
from tests.support.gateway import until
from tests.support.ports import free_port

_ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 30
_LARGEST_BODY = 8 << 20
EVENT = b"data: " + b"x" * 16_000 + b"\n\n"


class _Told:
    """One call: what its body asked of the policy, and how many events have passed."""

    begun = False
    answer_ended = False
    passed = 0
    plan: dict[str, Any]
    who = what = b""
    trace = None
    catalogue = Catalogue({}, {}, {}, 0)


class Scripted:
    """In the pipeline's place. `x_policy`: {mode, headers, events: until the early end, farewell, refuse}."""

    endings: ClassVar[set[Callable[[], None]]] = set()

    def begin(self) -> _Told:
        return _Told()

    async def request_headers(
        self, _call: _Told, _headers: Headers, _end: bool, _token: object, _waited: float
    ) -> object:
        return PROCEED

    async def request_body(self, call: _Told, body: bytes, _end: bool) -> Route:
        call.plan = json.loads(body).get("x_policy", {})
        return Route((Leg("openai", "/v1/chat/completions", "gpt-4o"),), length=len(body))

    async def response_headers(self, call: _Told, _headers: Headers, _origin: Origin, _end: bool) -> Relay | Reply:
        headers = tuple(call.plan.get("headers", {}).items())
        if "refuse" in call.plan:
            return Reply(call.plan["refuse"], headers, b'{"ours":true}', "sluice_test")
        limited = bool(call.plan.get("limited", headers))
        return Relay(BodyMode[call.plan.get("mode", "DUPLEX")], headers=headers, limited=limited)

    async def response_body(self, call: _Told, chunk: bytes, end: bool) -> Emit:
        assert not call.answer_ended, "nothing may be told of an answer after its end"
        call.answer_ended = end
        call.passed += chunk.count(b"\n\n")
        if call.passed < call.plan.get("events", sys.maxsize):
            return Emit()
        call.answer_ended = True
        return Emit(chunk + call.plan.get("farewell", "").encode(), last=True)

    def timed(self, _call: _Told, order: Relay | Reply) -> Relay | Reply:
        return order

    def to_log(self, _call: _Told, _is_last: bool) -> Mapping[str, str]:
        return {}

    async def trailers(self, _call: _Told, _event: Event) -> object:
        return PROCEED

    def fail(self, call: _Told) -> None: ...

    def end(self, call: _Told) -> None: ...


class _Silent:
    def write(self, record: object) -> None: ...


async def _serve(socket: str) -> None:
    processor = ExternalProcessor(cast(Pipeline, Scripted()))
    server = Server(socket, processor, AccessLog(_Silent()), _LARGEST_BODY)
    await server.start()
    await asyncio.Event().wait()  # until it is killed


class DuplexGateway:
    """The real Envoy with the product's files for one backend, and one worker of this file in its own process."""

    def __init__(self, backend_port: int, settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="duplex-"))
        self._state = State(self._folder)
        self._gateway = Gateway.model_validate(
            {
                "listener": {"port": self.port},
                "backends": {"openai": {"dialect": "openai", "url": f"http://127.0.0.1:{backend_port}"}},
                "models": {"gpt-4o": {"targets": [[{"backend": "openai"}]]}},
                **settings,
            }
        )
        self.worker: psutil.Process
        self.envoy: psutil.Process
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        state = self._state
        state.make()
        sockets = (str(state.worker_socket(0)),)
        layout = Layout(str(state.envoy), str(state.secrets), sockets, str(state.admin_socket))
        write(render(self._gateway, layout), state.envoy)
        try:
            self.start_worker()
            self.envoy = self._start(processes.envoy(state).argv, "envoy.log")
            until(self._ready, _START_SECONDS, "Envoy")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start_worker(self) -> None:
        """Serve on the worker's socket; its predecessor must be dead."""
        socket = self._state.worker_socket(0)
        socket.unlink(missing_ok=True)
        self.worker = self._start([sys.executable, "-m", "tests.support.duplex", str(socket)], "worker.log")

    def log(self, name: str) -> str:
        """What `envoy` or `worker` has said."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def stat(self, name: str) -> int:
        """A counter or gauge of Envoy by its full name; 0 where there is none."""
        transport = httpx.HTTPTransport(uds=str(self._state.admin_socket))
        with httpx.Client(transport=transport, base_url="http://admin") as client:
            text = client.get(f"/stats?filter=^{name}$").text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())

    def _start(self, argv: Sequence[str], log: str) -> psutil.Process:
        with (self._folder / log).open("ab") as out:
            process = subprocess.Popen(argv, cwd=_ROOT, stdout=out, stderr=subprocess.STDOUT)
        self._processes.append(process)
        return psutil.Process(process.pid)

    def _ready(self) -> bool:
        ended = [process for process in self._processes if process.poll() is not None]
        assert not ended, self.log("worker") + self.log("envoy")
        asked = asyncio.run(envoy_is_ready(self._state.admin_socket))
        return asked and self.stat("cluster.extproc.membership_healthy") == 1


class Hose:
    """A provider that answers every call with one event and, once `tap` is open, with more as fast as they are taken.

    `size`: bytes of one whole answer.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self.tap = asyncio.Event()
        self.port = 0
        self.sent = 0
        self.open = 0
        self.torn = 0  # answers that the other side ended

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            async with asyncio.timeout(_START_SECONDS):
                while self.open:
                    await asyncio.sleep(0.05)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for _ in range(self._size // len(EVENT)):
                writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
                await writer.drain()
                self.sent += len(EVENT)
                await self.tap.wait()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.torn += 1
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))

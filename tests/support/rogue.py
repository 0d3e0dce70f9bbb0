"""A policy server that misbehaves behind the real Envoy: the product's own processor, but for one trap on a call's way.

Envoy runs with the files that the product renders. Up to the trap every reply is the product's own, so that a trap
is met where a bug in the product would put it.
"""

import asyncio
import random
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from extproc.adapter.external_processor import ExternalProcessor
from extproc.cli import processes
from extproc.cli.envoy_admin import envoy_is_ready
from extproc.cli.processes import State
from extproc.config import compile as compiled
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, render, write, write_secrets
from extproc.identity import keys
from extproc.identity.directory import Directory, Key
from extproc.pipeline import Pipeline
from extproc.routing.health import Health
from extproc.stores.memory import MemoryAffinity
from extproc.stores.ports import Affinity
from protos.ext_proc_pb2 import ProcessingRequest
from tests.support.gateway import until
from tests.support.playbook import Enrolled, Reserved
from tests.support.ports import free_port
from tests.support.screened import screening

_START_SECONDS = 30
_LARGEST_MESSAGE = 80 << 20

Mischief = Callable[[bytes], Sequence[bytes]]
"""From the honest reply (empty where it would be none) to what is sent instead; may raise `CleanEnd` or `Crash`."""


class CleanEnd(BaseException):
    """The handler returns here. No `Exception`, so that the product's own net does not catch it."""


class Crash(BaseException):
    """The handler raises here, past the product's own net."""


@dataclass(frozen=True, slots=True)
class Trap:
    """At the `number`-th message of a kind (`request_body`, ...) do the mischief."""

    at: str
    mischief: Mischief
    number: int = 1


class _Trapped:
    """The stream as the honest processor sees it."""

    def __init__(self, stream: Any, trap: Trap | None, shown: list[bytes]) -> None:
        self._stream = stream
        self._shown = shown
        self._trap = trap
        self._met = 0
        self._sprung = False
        self._due = False

    async def read(self) -> ProcessingRequest:
        if self._due:
            await self._spring(b"")  # the honest processor had no reply to the message
        message: ProcessingRequest = await self._stream.read()
        if message is not grpc.aio.EOF and message.WhichOneof("request") == "response_body":
            self._shown.append(message.response_body.body)
        if self._trap is not None and message is not grpc.aio.EOF and message.WhichOneof("request") == self._trap.at:
            self._met += 1
            self._due = self._met == self._trap.number
        return message

    async def write(self, reply: bytes) -> None:
        if self._due:
            await self._spring(reply)
        else:
            await self._stream.write(reply)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        await self._stream.abort(code, details)

    def invocation_metadata(self) -> Sequence[tuple[str, str]]:
        told: Sequence[tuple[str, str]] = self._stream.invocation_metadata()
        return told

    async def _spring(self, honest: bytes) -> None:
        assert self._trap is not None
        self._due = False
        for reply in self._trap.mischief(honest):
            await self._stream.write(reply)


class _Affinity:
    """The memory store as the pipeline asks for it."""

    def __init__(self) -> None:
        self._store = MemoryAffinity()

    async def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        return self._store.recall(ids)

    async def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        self._store.remember(ids, backend, model, owner)


class RogueGateway:
    """The real Envoy with the product's files, and one worker that springs `trap` on every call while it is set."""

    key = keys.QUICKSTART_KEY

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        self.port = free_port()
        self.trap: Trap | None = None
        self.records: list[Mapping[str, object]] = []
        self.shown: list[bytes] = []  # the pieces of answers that Envoy told, of all calls
        self.folder = Path(tempfile.mkdtemp(prefix="rogue-"))
        self._gateway = Gateway.model_validate({"listener": {"port": self.port}, **settings})
        self._environ = environ
        self._state = State(self.folder)
        self._envoy: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: grpc.aio.Server | None = None
        directory = Directory(keys={keys.fingerprint(self.key): Key("quickstart", "quickstart", "quickstart")})
        catalogue = compiled.catalogue(self._gateway)
        self._processor = ExternalProcessor(
            Pipeline(
                catalogue=lambda: catalogue,
                roster=Enrolled(directory),
                not_ready=lambda: None,
                affinity=_Affinity(),
                health=Health({}, random.random),
                holds=Reserved(),
                screening=screening(),
                journal=self,
            )
        )

    def write(self, record: Mapping[str, object]) -> None:
        """The pipeline's journal."""
        self.records.append(record)

    # ---- life ----

    def __enter__(self) -> Self:
        self._thread.start()
        self._state.make()
        write_secrets(self._gateway, self._environ, self._state.secrets)
        write(render(self._gateway, self._layout()), self._state.envoy)
        self.start_worker()
        with (self.folder / "envoy.log").open("wb") as log:
            argv = processes.envoy(self._state).argv
            self._envoy = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(self._ready, _START_SECONDS, "the rogue's Envoy")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._envoy is not None:
            self._envoy.kill()
            self._envoy.wait()
        self.stop_worker()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_worker(self) -> None:
        """Serve on the worker's socket."""
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(_START_SECONDS)

    def stop_worker(self) -> None:
        """Be gone at once, live streams cut with an error."""
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(0), self._loop).result(_START_SECONDS)
            self._server = None

    def _layout(self) -> Layout:
        state = self._state
        sockets = (str(state.worker_socket(0)),)
        return Layout(str(state.envoy), str(state.secrets), sockets, str(state.admin_socket))

    def _ready(self) -> bool:
        if self._envoy is None or self._envoy.poll() is not None:
            raise AssertionError("Envoy did not start:\n" + self.log())
        asked = asyncio.run_coroutine_threadsafe(envoy_is_ready(self._state.admin_socket), self._loop)
        return asked.result(_START_SECONDS) and self.stat("cluster.extproc.membership_healthy") == 1

    # ---- what happened ----

    @property
    def alive(self) -> bool:
        return self._envoy is not None and self._envoy.poll() is None

    def log(self) -> str:
        """Envoy's log, at the levels at which the product runs it."""
        return (self.folder / "envoy.log").read_text(errors="replace")

    def stat(self, name: str) -> int:
        """A counter or gauge of Envoy by its full name; 0 where there is none."""
        transport = httpx.HTTPTransport(uds=str(self._state.admin_socket))
        with httpx.Client(transport=transport, base_url="http://admin") as client:
            text = client.get(f"/stats?filter=^{name}$").text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())

    # ---- the worker ----

    async def _serve(self) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
                ("grpc.max_send_message_length", _LARGEST_MESSAGE),
            ]
        )
        process = grpc.stream_stream_rpc_method_handler(
            self._process, request_deserializer=ProcessingRequest.FromString
        )
        service = "envoy.service.ext_proc.v3.ExternalProcessor"
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Process": process}),))
        health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, self._server)
        self._server.add_insecure_port(f"unix:{self._state.worker_socket(0)}")
        await self._server.start()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def _process(self, requests: object, stream: Any) -> None:
        try:
            await self._processor.process(requests, _Trapped(stream, self.trap, self.shown))
        except CleanEnd:
            return
        except Crash as crash:
            raise RuntimeError(str(crash)) from None

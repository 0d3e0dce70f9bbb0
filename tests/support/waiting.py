"""The real Envoy before the product's processor, whose decisions take as long as the call itself says."""

import asyncio
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx

from extproc.adapter.access_log import AccessLog
from extproc.adapter.external_processor import ExternalProcessor
from extproc.adapter.patience import Patience
from extproc.adapter.server import Server
from extproc.call import Emit, Origin, Relay, Reply, Route
from extproc.cli import processes
from extproc.cli.envoy_admin import envoy_is_ready
from extproc.cli.processes import State
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, render, write, write_secrets
from extproc.headers import Headers
from extproc.pipeline import Pipeline
from tests.support.duplex import Scripted
from tests.support.duplex import _Told as Told
from tests.support.ports import free_port

CHAT = "/v1/chat/completions"
_START_SECONDS = 30
_LARGEST_BODY = 8 << 20


class Waiting(Scripted):
    """`x_policy`, beside what `Scripted` takes: {wait: {message: seconds}}, of the first of its kind."""

    async def request_body(self, call: Told, body: bytes, end: bool) -> Route:
        route = await super().request_body(call, body, end)
        await self._wait(call, "request_body")
        return route

    async def response_headers(self, call: Told, headers: Headers, origin: Origin, end: bool) -> Relay | Reply:
        await self._wait(call, "response_headers")
        return await super().response_headers(call, headers, origin, end)

    async def response_body(self, call: Told, chunk: bytes, end: bool) -> Emit:
        await self._wait(call, "response_body")
        return await super().response_body(call, chunk, end)

    async def _wait(self, call: Told, message: str) -> None:
        await asyncio.sleep(call.plan.get("wait", {}).pop(message, 0))


class Silent:
    def write(self, record: object) -> None: ...


class WaitingGateway:
    """One Envoy with the product's files, and a worker in the test's own loop."""

    def __init__(self, backend: str, settings: Mapping[str, Any]) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="waiting-"))
        self.process: asyncio.subprocess.Process
        self.state = State(self.folder)
        self.configuration = Gateway.model_validate(
            {
                "listener": {"port": self.port},
                "backends": {"openai": {"dialect": "openai", "url": backend}},
                "models": {"gpt-4o": {"targets": [[{"backend": "openai"}]]}},
                **settings,
            }
        )

    @property
    def layout(self) -> Layout:
        state = self.state
        return Layout(str(state.envoy), str(state.secrets), (str(state.worker_socket(0)),), str(state.admin_socket))

    @property
    def services_socket(self) -> str:
        return self.layout.services_socket

    @asynccontextmanager
    async def serving(self, environ: Mapping[str, str] | None = None) -> AsyncIterator[None]:
        """Until it is left, whatever happens."""
        async with AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.state.make()
            write_secrets(self.configuration, environ or {}, self.state.secrets)
            write(render(self.configuration, self.layout), self.state.envoy)
            times = self.configuration.timeouts
            patience = Patience(times.policy.total_seconds(), times.policy_longest.total_seconds())
            processor = ExternalProcessor(cast(Pipeline, Waiting()), patience)
            server = Server(str(self.state.worker_socket(0)), processor, AccessLog(Silent()), _LARGEST_BODY)
            await server.start()
            stack.push_async_callback(server.stop, 0, 0)
            await stack.enter_async_context(self.envoy())
            yield

    async def chat(self, **body: Any) -> httpx.Response:
        """One call, read to its end."""
        content = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello!"}], **body})
        async with httpx.AsyncClient(trust_env=False, timeout=_START_SECONDS) as client:
            head = {"content-type": "application/json"}
            return await client.post(f"http://127.0.0.1:{self.port}{CHAT}", content=content, headers=head)

    async def stat(self, name: str) -> int:
        """The sum of Envoy's counters and gauges whose full name is `name`, a regular expression."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.state.admin_socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://admin") as client:
            text = (await client.get("/stats", params={"filter": f"^{name}$"})).text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())

    def log(self) -> str:
        return (self.folder / "envoy.log").read_text(errors="replace")

    @asynccontextmanager
    async def envoy(self) -> AsyncIterator[None]:
        """An Envoy that is killed at the end, if it has not been before."""
        with (self.folder / "envoy.log").open("ab") as out:
            argv = processes.envoy(self.state).argv
            process = await asyncio.create_subprocess_exec(*argv, stdout=out, stderr=out)
        self.process = process
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await self._ready():
                    assert process.returncode is None, self.log()
                    await asyncio.sleep(0.05)
            yield
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ready(self) -> bool:
        is_up = await envoy_is_ready(self.state.admin_socket)
        return is_up and await self.stat("cluster.extproc.membership_healthy") == 1

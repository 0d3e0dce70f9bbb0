"""The rendered files in the real Envoy, between a scripted policy and two scripted providers."""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import grpc
import grpc.aio
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption
from envoy_data_plane.envoy.config.core.v3 import HeaderValueOptionHeaderAppendAction as Append
from envoy_data_plane.envoy.data.accesslog.v3 import HttpAccessLogEntry
from envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 import ProcessingMode, ProcessingModeBodySendMode
from envoy_data_plane.envoy.service.accesslog.v3 import StreamAccessLogsMessage
from envoy_data_plane.envoy.service.ext_proc.v3 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HeadersResponse,
    HttpHeaders,
    ImmediateResponse,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
    TrailersResponse,
)
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.protobuf import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as grpc_health

from extproc import contract
from extproc.adapter.server import ByRole
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, render, write, write_secrets
from tests.support.ports import free_port

ENVOY = Path(sys.executable).with_name("envoy")
A, B = contract.cluster_of("a"), contract.cluster_of("b")
JSON_CAP, MULTIPART_CAP, ANSWER_CAP = 2 * 2**20, 3 * 2**20, 4 * 2**20  # all above Envoy's default limit of 1 MiB
KEYS = {"KEY_A": "secret-a", "KEY_B": "secret-b"}
Settings = Mapping[str, object]
PATIENCE = 20.0  # seconds until a test gives up; nothing is asserted about time


# ---- the policy server ---------------------------------------------------------------------------------


@dataclass
class Plan:
    """What the scripted policy answers: a chain of clusters with paths and models, or a refusal."""

    order: tuple[str, ...] = (A,)
    path: dict[str, str] = field(default_factory=lambda: {A: "/a", B: "/b"})
    model: dict[str, str] = field(default_factory=dict)
    deployed: dict[str, str] = field(default_factory=dict)
    translate: dict[str, str] = field(default_factory=dict)
    asking: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)
    refuse: bool = False
    replace_answer: bool = False
    fail: bool = False
    hang: bool = False
    answer_mode: ProcessingModeBodySendMode = ProcessingModeBodySendMode.NONE
    growth: int = 0
    identity: str | None = None

    def metadata(self, length: int | None) -> Struct:
        groups = [
            {"name": f"g{number}", "clusters": [{"cluster_name": name, "weight": 1}]}
            for number, name in enumerate(self.order)
        ]
        call = {"at": str(self.span[0]), "to": str(self.span[1])} | self.asking
        if self.identity is not None:
            call["identity"] = self.identity
        order: dict[str, object] = {contract.ORDER: {"priority_groups": groups}} if groups else {}
        chain = {"path": self.path, "model": self.model, "deployed": self.deployed, "translate": self.translate}
        known = call if length is None else call | {"cl": str(length)}
        tree: Struct = Struct.from_dict(order | {contract.CHAIN: chain, contract.CALL: known})
        return tree

    def mutation(self, length: int | None) -> CommonResponse:
        values = {contract.ROUTED_HEADER: "1", "x-envoy-max-retries": str(max(len(self.order) - 1, 0))}
        if length is not None:
            values["content-length"] = str(length)
        options = [
            HeaderValueOption(
                header=HeaderValue(key=key, raw_value=value.encode()),
                append_action=Append.OVERWRITE_IF_EXISTS_OR_ADD,
            )
            for key, value in values.items()
        ]
        return CommonResponse(header_mutation=HeaderMutation(set_headers=options), clear_route_cache=True)


@dataclass(frozen=True)
class Seen:
    """One message that Envoy sent to the policy."""

    phase: str
    headers: dict[str, str]
    attributes: dict[str, object]
    context: bytes  # the metadata that came with it


class Exchange:
    """The policy's side of one call."""

    def __init__(self, plan: Plan, seen: list[Seen]) -> None:
        self._plan = plan
        self._seen = seen
        self._duplex = False
        self._withheld = False
        self._length: int | None = None

    def replies(self, message: ProcessingRequest) -> list[ProcessingResponse]:
        if message.protocol_config is not None:
            duplex = ProcessingModeBodySendMode.FULL_DUPLEX_STREAMED
            self._duplex = message.protocol_config.request_body_mode == duplex
        if message.request_headers is not None:
            self._note("request_headers", message, message.request_headers)
            self._length = _length(self._seen[-1].headers)
            return self._request_headers(ended=message.request_headers.end_of_stream)
        if message.request_body is not None:
            self._note("request_body", message)
            return self._request_body(message.request_body.body, message.request_body.end_of_stream)
        if message.request_trailers is not None:
            return [ProcessingResponse(request_trailers=TrailersResponse())]
        if message.response_headers is not None:
            self._note("response_headers", message, message.response_headers)
            if self._plan.replace_answer:
                return [_refusal()]
            chosen = self._plan.answer_mode
            mode = ProcessingMode(response_body_mode=chosen) if chosen != ProcessingModeBodySendMode.NONE else None
            return [ProcessingResponse(response_headers=HeadersResponse(), mode_override=mode)]
        self._note("response_body", message)
        return [ProcessingResponse(response_body=BodyResponse())]

    def _request_headers(self, *, ended: bool) -> list[ProcessingResponse]:
        if self._plan.refuse:
            return [_refusal()]
        if ended:
            return [self._ordered_headers()]
        if self._duplex:
            self._withheld = True
            return []
        return [ProcessingResponse(request_headers=HeadersResponse())]

    def _request_body(self, body: bytes, ended: bool) -> list[ProcessingResponse]:
        if not self._duplex:
            grown = body + b" " * self._plan.growth
            reply = self._plan.mutation(len(grown))
            reply.body_mutation = BodyMutation(body=grown)
            metadata = self._plan.metadata(len(grown))
            return [ProcessingResponse(request_body=BodyResponse(response=reply), dynamic_metadata=metadata)]
        piece = BodyMutation(streamed_response=StreamedBodyResponse(body=body, end_of_stream=ended))
        echo = ProcessingResponse(request_body=BodyResponse(response=CommonResponse(body_mutation=piece)))
        first, self._withheld = self._withheld, False
        return [self._ordered_headers(), echo] if first else [echo]

    def _ordered_headers(self) -> ProcessingResponse:
        reply = HeadersResponse(response=self._plan.mutation(None))
        return ProcessingResponse(request_headers=reply, dynamic_metadata=self._plan.metadata(self._length))

    def _note(self, phase: str, message: ProcessingRequest, headers: HttpHeaders | None = None) -> None:
        values = headers.headers.headers if headers and headers.headers else []
        attributes: dict[str, object] = {}
        for tree in message.attributes.values():
            attributes.update(tree.to_dict())
        named = {value.key: (value.raw_value or value.value.encode()).decode() for value in values}
        context = b"" if message.metadata_context is None else bytes(message.metadata_context)
        self._seen.append(Seen(phase, named, attributes, context))


def _length(headers: Mapping[str, str]) -> int | None:
    return int(headers["content-length"]) if "content-length" in headers else None


def _refusal() -> ProcessingResponse:
    reply = ImmediateResponse(
        status=HttpStatus(code=StatusCode.Unauthorized), body=b'{"ours":true}', details="sluice_test"
    )
    return ProcessingResponse(immediate_response=reply)


class Policy:
    """Speaks ext_proc, the access-log service and health, with messages of `envoy_data_plane`."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.seen: list[Seen] = []
        self.records: list[tuple[str, HttpAccessLogEntry]] = []

    def last(self, phase: str) -> Seen:
        return [seen for seen in self.seen if seen.phase == phase][-1]

    @asynccontextmanager
    async def serving(self, path: str) -> AsyncIterator[None]:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 80 * 2**20)])
        server.add_generic_rpc_handlers((ByRole(self._process, None),))
        log_service = "envoy.service.accesslog.v3.AccessLogService"
        self._add(server, log_service, "StreamAccessLogs", self._log)
        health = grpc_health.HealthServicer()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    def _add(self, server: grpc.aio.Server, service: str, method: str, handler: Callable[..., object]) -> None:
        rpc = grpc.stream_stream_rpc_method_handler(handler)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: rpc}),))

    async def _process(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        exchange = Exchange(self.plan, self.seen)
        async for raw in requests:
            if self.plan.fail:
                await context.abort(grpc.StatusCode.INTERNAL, "secret reason")
            if self.plan.hang:
                await asyncio.Event().wait()
            for reply in exchange.replies(ProcessingRequest.parse(raw)):
                await context.write(bytes(reply))

    async def _log(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        name = ""
        async for raw in requests:
            message = StreamAccessLogsMessage.parse(raw)
            name = message.identifier.log_name if message.identifier else name
            entries = message.http_logs.log_entry if message.http_logs else []
            self.records.extend((name, entry) for entry in entries)


# ---- a provider ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One request as a provider read it."""

    path: str
    headers: dict[str, str]
    body: bytes


RESET = 0
"""In a script, in place of a status: the connection is closed without an answer."""


class Provider:
    """Answers on kept-alive HTTP/1.1 connections: the next status of `script`, then 200."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.script: list[int] = []
        self.received: list[Received] = []
        self.extra_headers = ""
        self.padding = 0
        self._tls = tls
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}" if self._tls else f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            await self.stop()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await _head(reader):
                start, headers = head
                self.received.append(Received(start.split()[1], headers, await _body(reader, headers)))
                status = self.script.pop(0) if self.script else 200
                if status == RESET:
                    break
                answer = json.dumps({"status": status}).encode() + b" " * self.padding
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{self.extra_headers}"
                    f"content-length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]] | None:
    try:
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    start, *lines = text.strip().split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    return start, headers


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


# ---- a client and the gateway --------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, object]:
        error = json.loads(self.body)["error"]
        assert isinstance(error, dict)
        return error


@dataclass
class Running:
    """The gateway under test with its neighbours."""

    configuration: Gateway
    policy: Policy
    a: Provider
    b: Provider
    layout: Layout
    tls: ssl.SSLContext | None = None
    host: str = "127.0.0.1"

    async def raw(self, request: bytes) -> Answer:
        async with asyncio.timeout(PATIENCE):
            port = self.configuration.listener.port
            reader, writer = await asyncio.open_connection(self.host, port, ssl=self.tls)
            try:
                return await _exchange(reader, writer, request)
            finally:
                writer.close()
                await writer.wait_closed()

    async def post(self, path: str, body: bytes, headers: str = "", *, chunked: bool = False) -> Answer:
        framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
        head = f"POST {path} HTTP/1.1\r\nhost: gateway.test:8080\r\n{headers}{framing}\r\n\r\n"
        return await self.raw(head.encode() + (_chunks(body) if chunked else body))

    async def get(self, path: str, headers: str = "") -> Answer:
        return await self.raw(f"GET {path} HTTP/1.1\r\nhost: gateway.test\r\n{headers}\r\n".encode())


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> Answer:
    writer.write(request)
    head = await _head(reader)  # an early refusal may come before all is sent: no drain
    assert head is not None, "the connection was closed without an answer"
    start, headers = head
    return Answer(int(start.split()[1]), headers, await _body(reader, headers))


def _chunks(body: bytes) -> bytes:
    pieces = [body[start : start + 16_000] for start in range(0, len(body), 16_000)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def _configuration(a: Provider, b: Provider, backend_a: Settings, listener: Settings, more: Settings) -> Gateway:
    tree: dict[str, object] = {
        "listener": {"port": free_port(), **listener},
        "limits": {"json_request": JSON_CAP, "multipart_request": MULTIPART_CAP, "json_answer": ANSWER_CAP},
        "backends": {
            "a": {"dialect": "openai", "url": a.url, **backend_a},
            "b": {
                "dialect": "azure-openai",
                "url": f"http://localhost:{b.port}",
                "credential": {"env": "KEY_B"},
            },
        },
        "models": {"gpt-4o": {"targets": [[{"backend": "a"}], [{"backend": "b"}]]}},
        **more,
    }
    return Gateway.model_validate(tree)


@asynccontextmanager
async def _envoy(bootstrap: Path, log: Path) -> AsyncIterator[None]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            str(ENVOY), "-c", str(bootstrap), "--concurrency", "1", "--use-dynamic-base-id", "-l", "warn",
            stdout=out, stderr=out,
        )  # fmt: skip
        try:
            yield
        finally:
            process.terminate()
            await process.wait()


def layout_in(directory: Path, workers: int = 1) -> Layout:
    return Layout(
        config_dir=str(directory / "envoy"),
        secrets_dir=str(directory / "secrets"),
        worker_sockets=tuple(str(directory / f"worker{number}.sock") for number in range(workers)),
        admin_socket=str(directory / "admin.sock"),
    )


@asynccontextmanager
async def running_gateway(
    directory: Path,
    *,
    backend_a: Settings = MappingProxyType({"credential": {"env": "KEY_A"}}),
    listener: Settings = MappingProxyType({}),
    more: Settings = MappingProxyType({}),
    tls_a: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
    workers: int = 1,
    before_start: Callable[[], None] = lambda: None,
) -> AsyncIterator[Running]:
    """Envoy with the files that are rendered for two providers, `a` first, and whatever else is set.

    All `workers` are the same policy.
    """
    policy, a, b = Policy(), Provider(tls_a), Provider()
    layout = layout_in(directory, workers)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a.serving())
        await stack.enter_async_context(b.serving())
        for socket in layout.worker_sockets:
            await stack.enter_async_context(policy.serving(socket))
        configuration = _configuration(a, b, backend_a, listener, more)
        write_secrets(configuration, KEYS, Path(layout.secrets_dir))
        write(render(configuration, layout), Path(layout.config_dir))
        before_start()
        bootstrap = Path(layout.config_dir) / "bootstrap.yaml"
        await stack.enter_async_context(_envoy(bootstrap, directory / "envoy.log"))
        running = Running(configuration, policy, a, b, layout, host=host)
        if configuration.listener.tls is None:
            await _ready(running)
        yield running


async def _ready(running: Running) -> None:
    async def healthy() -> bool:
        try:
            return (await running.get("/healthz")).status == 200
        except OSError:
            return False

    await eventually(healthy)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll until `holds`; TimeoutError after PATIENCE."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.05)

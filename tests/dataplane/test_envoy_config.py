"""The rendered files in the real Envoy, with a scripted policy server and scripted providers."""

import asyncio
import json
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import grpc
import grpc.aio
import pytest
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
from ruamel.yaml import YAML

from extproc import contract
from extproc.config.schema import Gateway
from extproc.dataplane import Layout, clusters, render, write, write_for_validation, write_secrets

ROOT = Path(__file__).parents[2]
ENVOY = Path(sys.executable).with_name("envoy")
QUICKSTART = ROOT / "examples/quickstart/gateway.yaml"
A, B = contract.cluster_of("a"), contract.cluster_of("b")
CHAT = "/v1/chat/completions"
UPLOAD = "/v1/audio/transcriptions"
JSON_CAP, MULTIPART_CAP, ANSWER_CAP = 2 * 2**20, 3 * 2**20, 4 * 2**20  # all above Envoy's default limit of 1 MiB
KEYS = {"KEY_A": "secret-a", "KEY_B": "secret-b"}
PATIENCE = 20.0  # seconds until a test gives up; nothing is asserted about time


# --- the policy server ---------------------------------------------------------------------------------


@dataclass
class Plan:
    """What the scripted policy answers: a chain of clusters with paths and models, or a refusal."""

    order: tuple[str, ...] = (A,)
    path: dict[str, str] = field(default_factory=lambda: {A: "/a", B: "/b"})
    model: dict[str, str] = field(default_factory=dict)
    span: tuple[int, int] = (0, 0)
    refuse: bool = False
    fail: bool = False
    hang: bool = False
    whole_answer: bool = False
    growth: int = 0

    def metadata(self, length: int | None) -> Struct:
        groups = [
            {"name": f"g{number}", "clusters": [{"cluster_name": name, "weight": 1}]}
            for number, name in enumerate(self.order)
        ]
        call = {"at": str(self.span[0]), "to": str(self.span[1])}
        order: dict[str, object] = {contract.ORDER: {"priority_groups": groups}} if groups else {}
        chain = {"path": self.path, "model": self.model}
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
            whole = ProcessingMode(response_body_mode=ProcessingModeBodySendMode.BUFFERED)
            mode = whole if self._plan.whole_answer else None
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
        self._seen.append(Seen(phase, named, attributes))


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
        self._add(server, "envoy.service.ext_proc.v3.ExternalProcessor", "Process", self._process)
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


# --- a provider ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    """One request as a provider read it."""

    path: str
    headers: dict[str, str]
    body: bytes


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
    parts = [line.partition(":") for line in lines]
    return start, {name: value.strip() for name, _, value in parts}


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return body


# --- a client and the gateway --------------------------------------------------------------------------


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

    async def raw(self, request: bytes) -> Answer:
        async with asyncio.timeout(PATIENCE):
            port = self.configuration.listener.port
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=self.tls)
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        assert isinstance(port, int)
        return port


def _configuration(a: Provider, b: Provider, credential_a: Mapping[str, str], tls: Mapping[str, str] | None) -> Gateway:
    tree: dict[str, object] = {
        "listener": {"port": _free_port(), "tls": tls},
        "limits": {"json_request": JSON_CAP, "multipart_request": MULTIPART_CAP, "json_answer": ANSWER_CAP},
        "backends": {
            "a": {"dialect": "openai", "url": a.url, "credential": credential_a},
            "b": {
                "dialect": "azure-openai",
                "url": f"http://localhost:{b.port}",
                "credential": {"env": "KEY_B"},
            },
        },
        "models": {"gpt-4o": {"targets": [[{"backend": "a"}], [{"backend": "b"}]]}},
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


def _layout(directory: Path) -> Layout:
    return Layout(
        config_dir=str(directory / "envoy"),
        secrets_dir=str(directory / "secrets"),
        worker_sockets=(str(directory / "worker.sock"),),
        admin_socket=str(directory / "admin.sock"),
    )


@asynccontextmanager
async def _gateway(
    directory: Path,
    credential_a: Mapping[str, str] = MappingProxyType({"env": "KEY_A"}),
    tls: Mapping[str, str] | None = None,
    tls_a: ssl.SSLContext | None = None,
    before_start: Callable[[], None] = lambda: None,
) -> AsyncIterator[Running]:
    policy, a, b = Policy(), Provider(tls_a), Provider()
    layout = _layout(directory)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(a.serving())
        await stack.enter_async_context(b.serving())
        await stack.enter_async_context(policy.serving(layout.worker_sockets[0]))
        configuration = _configuration(a, b, credential_a, tls)
        write_secrets(configuration, KEYS, Path(layout.secrets_dir))
        write(render(configuration, layout), Path(layout.config_dir))
        before_start()
        bootstrap = Path(layout.config_dir) / "bootstrap.yaml"
        await stack.enter_async_context(_envoy(bootstrap, directory / "envoy.log"))
        running = Running(configuration, policy, a, b, layout)
        if tls is None:
            await _ready(running)
        yield running


async def _ready(running: Running) -> None:
    async def healthy() -> bool:
        try:
            return (await running.get("/healthz")).status == 200
        except OSError:
            return False

    await _eventually(healthy)


async def _eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll until `holds`; TimeoutError after PATIENCE."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():
            await asyncio.sleep(0.05)


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Running]:
    async with _gateway(tmp_path) as running:
        yield running


# --- configurations that Envoy must take ---------------------------------------------------------------

LARGE = {
    "listener": {
        "address": "0.0.0.0",
        "port": 8443,
        "tls": {"certificate": "/run/tls/tls.crt", "private_key": "/run/tls/tls.key"},
        "trusted_proxies": 1,
    },
    "workers": 3,
    "backends": {
        "swe": {
            "dialect": "azure-openai",
            "url": "https://swe.openai.azure.com",
            "api_version": "2024-10-21",
            "credential": {"file": "/run/secrets/swe"},
        },
        "0-odd--name-": {
            "dialect": "anthropic",
            "url": "https://api.anthropic.com:8443/prefix",
            "credential": {"env": "CLAUDE"},
        },
        "v6": {"dialect": "openai", "url": "https://[2001:db8::1]:9443/v1"},
        "kaito": {"dialect": "openai", "url": "http://workspace-phi-4.models.svc:80"},
    },
    "models": {"m": {"targets": [[{"backend": "swe"}], [{"backend": "kaito", "model": "phi-4"}]]}},
}


def _validate(path: Path) -> "subprocess.CompletedProcess[str]":
    command = [str(ENVOY), "--mode", "validate", "-l", "error", "-c", str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("tree", [YAML(typ="safe").load(QUICKSTART), LARGE], ids=["quickstart", "large"])
def test_envoy_takes_the_whole_configuration(tree: dict[str, object], tmp_path: Path) -> None:
    result = _validate(write_for_validation(Gateway.model_validate(tree), _layout(tmp_path), tmp_path))
    assert result.returncode == 0, result.stderr


def test_validation_looks_at_listeners_and_clusters(tmp_path: Path) -> None:
    path = write_for_validation(Gateway.model_validate(LARGE), _layout(tmp_path), tmp_path)
    good = path.read_text()
    for valid, broken in (("normalize_path: true", "normalize_path: 7"), ("lb_policy: LEAST_REQUEST", "lb_policy: X")):
        assert valid in good
        path.write_text(good.replace(valid, broken))
        assert _validate(path).returncode != 0, broken


def test_the_checked_in_bootstrap_is_valid_as_it_stands() -> None:
    result = _validate(ROOT / "envoy/quickstart/bootstrap.yaml")
    assert result.returncode == 0, result.stderr


# --- the edge ------------------------------------------------------------------------------------------

UPGRADE = (
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def test_websocket_is_426(gateway: Running) -> None:
    answer = await gateway.get("/v1/responses", UPGRADE)
    assert answer.status == 426
    assert answer.error["code"] == "websocket_not_served"
    assert "HTTP" in str(answer.error["message"])
    assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]
    assert [seen.phase for seen in gateway.policy.seen] == ["response_headers"]
    assert gateway.policy.seen[0].attributes["response.code_details"] == "upgrade_failed"


async def test_health_needs_no_policy(gateway: Running) -> None:
    answer = await gateway.get("/healthz?x=1")
    assert (answer.status, answer.body) == (200, b"ok\n")
    assert not gateway.policy.seen


async def test_internal_headers_of_clients_are_removed(gateway: Running) -> None:
    spoofed = (
        "X-Sluice-Routed: 1\r\nx-sluice-team: admins\r\nX-SLUICE-anything: 1\r\nx-request-id: mine\r\n"
        "x-envoy-max-retries: 9\r\nx-envoy-upstream-rq-timeout-ms: 1\r\nx-envoy-retry-on: 5xx\r\n"
        "x-envoy-external-address: 6.6.6.6\r\nx-envoy-internal: true\r\n"
    )
    assert (await gateway.get("/v1/models", spoofed)).status == 200
    seen = gateway.policy.last("request_headers").headers
    internal = {name: value for name, value in seen.items() if name.startswith(("x-sluice-", "x-envoy-"))}
    assert internal == {"x-envoy-external-address": "127.0.0.1"}
    assert seen["x-request-id"] != "mine"


async def test_nothing_foreign_reaches_a_provider(gateway: Running) -> None:
    headers = "".join(f"{name}: theirs\r\n" for name in contract.CREDENTIAL_HEADERS)
    kept = "anthropic-version: 2023-06-01\r\nanthropic-beta: b\r\n"
    encoding = "accept-encoding: gzip, br\r\nx-forwarded-host: inside.example\r\n"
    assert (await gateway.post(CHAT, b"{}", headers + kept + encoding)).status == 200
    received = gateway.a.received[-1].headers
    assert received.pop("x-request-id")
    assert received == {
        "host": f"127.0.0.1:{gateway.a.port}",
        "authorization": "Bearer secret-a",
        "content-length": "2",
        "accept-encoding": "identity",
        "anthropic-version": "2023-06-01",
        "anthropic-beta": "b",
    }


async def test_nothing_of_ours_comes_from_a_provider(gateway: Running) -> None:
    gateway.a.extra_headers = (
        "x-sluice-team: a\r\nx-envoy-upstream-service-time: 3\r\nset-cookie: a=b\r\nalt-svc: h3\r\nx-ratelimit: 7\r\n"
    )
    answer = await gateway.post(CHAT, b"{}")
    assert answer.headers.keys() == {
        "content-type", "content-length", "date", "server", "x-request-id", "x-ratelimit",
    }  # fmt: skip
    assert answer.headers["server"] == "sluice"


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("/v1//models", "/v1/models"),
        ("/v1/x/../models", "/v1/models"),
        ("/v1/%6dodels", "/v1/models"),
        ("/v1/models?next=%2f..%2f", "/v1/models?next=%2f..%2f"),
    ],
)
async def test_paths_have_one_spelling(gateway: Running, sent: str, seen: str) -> None:
    await gateway.get(sent)
    assert gateway.policy.last("request_headers").headers[":path"] == seen


HOST = b"host: gateway.test\r\n"


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"GET /v1%2fmodels HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1%5Cmodels HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1/models#f HTTP/1.1\r\n" + HOST + b"\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"x_sluice_team: a\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"no colon\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.0\r\n\r\n", 426, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"a: 1\r\n" * 101 + b"\r\n", 431, "headers_too_large"),
        (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"a: " + b"1" * 65_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (
            b"POST /v1/models HTTP/1.1\r\n" + HOST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            400,
            "bad_request",
        ),
        (b"CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n", 404, "bad_request"),
    ],
)  # fmt: skip
async def test_broken_http_gets_an_answer_and_no_policy(
    gateway: Running, request_bytes: bytes, status: int, code: str
) -> None:
    answer = await gateway.raw(request_bytes)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert not gateway.policy.seen


# --- bodies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("path", "cap"), [(CHAT, JSON_CAP), (UPLOAD, MULTIPART_CAP)], ids=["json", "multipart"])
async def test_body_caps_are_exact(gateway: Running, path: str, cap: int, chunked: bool) -> None:
    assert (await gateway.post(path, b"x" * cap, chunked=chunked)).status == 200
    assert len(gateway.a.received[-1].body) == cap
    gateway.a.received.clear()
    answer = await gateway.post(path, b"x" * (cap + 1), chunked=chunked)
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not gateway.a.received
    refused = gateway.policy.last("response_headers")
    assert refused.attributes["response.code_details"] == "request_payload_too_large"
    assert refused.attributes["request.path"] == path


@pytest.mark.parametrize(
    "path",
    ["/v1/audio/translations", "/openai/v1/images/edits", "/openai/deployments/d/audio/transcriptions?api-version=x"],
)
async def test_uploads_stream_through(gateway: Running, path: str) -> None:
    answer = await gateway.post(path, b"x" * MULTIPART_CAP)
    assert answer.status == 200
    assert len([seen for seen in gateway.policy.seen if seen.phase == "request_body"]) > 1


@pytest.mark.parametrize(
    "path", ["/v1/audio/speech", "/V1/audio/translations", "/x/v1/images/edits", "/v1/images/edits/x"]
)
async def test_other_paths_are_read_whole(gateway: Running, path: str) -> None:
    await gateway.post(path, b"x" * JSON_CAP, chunked=True)
    assert [seen.phase for seen in gateway.policy.seen] == ["request_headers", "request_body", "response_headers"]


async def test_the_largest_json_answer_is_read_whole(gateway: Running) -> None:
    gateway.policy.plan = Plan(whole_answer=True)
    gateway.a.padding = ANSWER_CAP - len('{"status": 200}')
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, len(answer.body)) == (200, ANSWER_CAP)
    assert [seen.phase for seen in gateway.policy.seen].count("response_body") == 1


# --- the order and the attempts ------------------------------------------------------------------------

BODY = b'{"model":"gpt-4o","messages":[]}'
SPAN = (10, 16)  # gpt-4o


async def test_no_order_ends_in_the_sink(gateway: Running) -> None:
    gateway.policy.plan = Plan(order=())
    answer = await gateway.post(CHAT, BODY)
    assert answer.status == contract.SINK_STATUS
    assert answer.error["type"] == "api_error"
    assert gateway.policy.last("response_headers").attributes["xds.cluster_name"] == contract.SINK_CLUSTER
    assert not gateway.a.received + gateway.b.received


@pytest.mark.parametrize("attempt", [1, 2])
@pytest.mark.parametrize("span", [SPAN, (16, 10), (10, 1000), (-1, 16)])
async def test_a_rewrite_that_fails_sends_nothing(gateway: Running, attempt: int, span: tuple[int, int]) -> None:
    path = {A: "/a"} if attempt == 2 else {}
    plan = Plan(order=(A, B) if attempt == 2 else (B,), path=path)
    if span != SPAN:
        plan = Plan(order=plan.order, model={B: "m"}, span=span)
    gateway.policy.plan, gateway.a.script = plan, [503]
    answer = await gateway.post(CHAT, BODY)
    assert (answer.status, answer.error["code"]) == (500, "gateway_error")
    assert not gateway.b.received


@pytest.mark.parametrize("models", [{}, {A: "phi"}, {B: "phi"}, {A: "gpt-4o-france-central", B: "phi"}])
@pytest.mark.parametrize("order", [(A, B), (B, A)])
@pytest.mark.parametrize(("path", "chunked"), [(CHAT, False), (CHAT, True), (UPLOAD, False), (UPLOAD, True)])
async def test_each_attempt_is_right_after_another(
    gateway: Running, models: dict[str, str], order: tuple[str, ...], path: str, chunked: bool
) -> None:
    gateway.policy.plan = Plan(order=order, model=models, span=SPAN)
    providers = {A: gateway.a, B: gateway.b}
    for _ in range(3):  # on kept-alive connections, where a wrong length would reach the next request
        providers[order[0]].script = [503]
        assert (await gateway.post(path, BODY, chunked=chunked)).status == 200
    for cluster, own, foreign in ((A, "authorization", "api-key"), (B, "api-key", "authorization")):
        body = BODY.replace(b"gpt-4o", models.get(cluster, "gpt-4o").encode())
        for received in providers[cluster].received:
            assert (received.path, received.body) == ({A: "/a", B: "/b"}[cluster], body)
            assert own in received.headers
            assert foreign not in received.headers
        assert len(providers[cluster].received) == 3


async def test_the_largest_body_may_grow_on_its_way(gateway: Running) -> None:
    name = "a-model-name-longer-than-the-one-that-was-asked-for"
    gateway.policy.plan = Plan(order=(A, B), model={B: name}, span=SPAN, growth=100_000)
    gateway.a.script = [429]
    body = BODY[:-2] + b"1" * (JSON_CAP - len(BODY)) + BODY[-2:]
    assert (await gateway.post(CHAT, body)).status == 200
    assert gateway.b.received[-1].body == body.replace(b"gpt-4o", name.encode()) + b" " * 100_000


async def test_every_attempt_and_every_call_is_recorded(gateway: Running) -> None:
    gateway.policy.plan, gateway.a.script = Plan(order=(A, B)), [429]
    gateway.a.extra_headers = "retry-after: 7\r\n"
    answer = await gateway.post(CHAT, BODY)
    records = gateway.policy.records

    async def logged() -> bool:
        return (
            len(
                [
                    entry
                    for _, entry in records
                    if entry.request and entry.request.request_id == answer.headers["x-request-id"]
                ]
            )
            == 3
        )

    await _eventually(logged)
    attempts = [
        (entry.common_properties.upstream_cluster, entry.response.response_code, entry.response.response_headers)
        for name, entry in records
        if name == contract.ATTEMPT_LOG and entry.common_properties and entry.response
    ]
    assert attempts == [(A, 429, {"retry-after": "7"}), (B, 200, {})]
    assert {name for name, _ in records} == {contract.ATTEMPT_LOG, contract.LISTENER_LOG}


# --- refusals and failures -----------------------------------------------------------------------------


async def test_the_policy_s_refusals_stay_as_they_are(gateway: Running) -> None:
    gateway.policy.plan = Plan(refuse=True)
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.body) == (401, b'{"ours":true}')


@pytest.mark.parametrize(("plan", "status"), [(Plan(fail=True), 503), (Plan(hang=True), 504)], ids=["fail", "hang"])
async def test_a_failing_policy_closes_the_way(gateway: Running, plan: Plan, status: int) -> None:
    gateway.policy.plan = plan
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.error["code"]) == (status, "gateway_error")
    assert answer.headers["x-should-retry"] == "true"
    assert b"secret reason" not in answer.body
    assert not gateway.a.received


async def test_a_dead_provider_is_no_news_for_clients(gateway: Running) -> None:
    await gateway.a.stop()
    answer = await gateway.post(CHAT, b"{}")
    assert (answer.status, answer.error["code"]) == (503, "gateway_error")
    assert b"connect" not in answer.body


async def test_a_lost_credential_is_the_gateway_s_fault(tmp_path: Path) -> None:
    secret = tmp_path / "keys" / "a"
    write({secret.name: "lost"}, secret.parent)
    async with _gateway(tmp_path, credential_a={"file": str(secret)}, before_start=secret.unlink) as gateway:
        answer = await gateway.post(CHAT, b"{}")
        assert (answer.status, answer.error["code"]) == (502, "gateway_error")
        assert not gateway.a.received


# --- changes while Envoy runs --------------------------------------------------------------------------


async def test_a_credential_from_the_environment_rotates(gateway: Running) -> None:
    write_secrets(gateway.configuration, KEYS | {"KEY_A": "new-a"}, Path(gateway.layout.secrets_dir))
    await _eventually(lambda: _sends(gateway, "Bearer new-a"))


def _mount(files: Mapping[str, str], directory: Path) -> None:
    """As Kubernetes mounts a secret: the names are links through `..data`, which a rename swaps."""
    directory.mkdir(exist_ok=True)
    version = Path(tempfile.mkdtemp(dir=directory, prefix="..v"))
    write(files, version)
    (directory / "..new").symlink_to(version.name)
    (directory / "..new").replace(directory / "..data")
    for name in files:
        if not (directory / name).is_symlink():
            (directory / name).symlink_to(f"..data/{name}")


@pytest.mark.parametrize("put", [write, _mount])
async def test_a_credential_file_rotates(tmp_path: Path, put: Callable[[Mapping[str, str], Path], None]) -> None:
    secret = tmp_path / "keys" / "a"
    put({secret.name: "first\n"}, secret.parent)
    async with _gateway(tmp_path, credential_a={"file": str(secret)}) as gateway:
        assert await _sends(gateway, "Bearer first")
        put({secret.name: "second\n"}, secret.parent)
        await _eventually(lambda: _sends(gateway, "Bearer second"))


async def _sends(gateway: Running, authorization: str) -> bool:
    assert (await gateway.post(CHAT, b"{}")).status == 200
    return gateway.a.received[-1].headers["authorization"] == authorization


async def test_routes_and_clusters_change_without_a_restart(gateway: Running) -> None:
    tree = gateway.configuration.model_dump()
    tree["backends"]["a"]["url"] = f"http://127.0.0.1:{gateway.b.port}"
    tree["limits"]["multipart_request"] = MULTIPART_CAP + 1
    changed = Gateway.model_validate(tree)
    write(render(changed, gateway.layout), Path(gateway.layout.config_dir))

    async def moved() -> bool:
        return (await gateway.post(CHAT, b"{}")).status == 200 and bool(gateway.b.received)

    async def larger() -> bool:
        return (await gateway.post(UPLOAD, b"x" * (MULTIPART_CAP + 1))).status == 200

    await _eventually(moved)
    await _eventually(larger)


# --- TLS -----------------------------------------------------------------------------------------------


def _certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for `name`, written by rename."""
    directory.mkdir(exist_ok=True)
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return certificate, key


@pytest.mark.parametrize("put", [write, _mount])
async def test_the_listener_s_certificate_rotates(
    tmp_path: Path, put: Callable[[Mapping[str, str], Path], None]
) -> None:
    first, second = (_certificate(tmp_path / "made", name) for name in ("first.test", "second.test"))
    served = tmp_path / "served"
    put(_pem(*first), served)
    tls = {"certificate": str(served / "tls.crt"), "private_key": str(served / "tls.key")}
    async with _gateway(tmp_path, tls=tls) as gateway:
        await _eventually(lambda: _trusts(gateway, first[0], "first.test"))
        assert not await _trusts(gateway, second[0], "second.test")
        put(_pem(*second), served)
        await _eventually(lambda: _trusts(gateway, second[0], "second.test"))


def _pem(certificate: Path, key: Path) -> dict[str, str]:
    return {"tls.crt": certificate.read_text(), "tls.key": key.read_text()}


async def _trusts(gateway: Running, authority: Path, name: str) -> bool:
    context = ssl.create_default_context(cafile=str(authority))
    port = gateway.configuration.listener.port
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except (ssl.SSLCertVerificationError, ConnectionRefusedError):
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.parametrize(("name", "status"), [("localhost", 200), ("other.test", 503)])
async def test_a_provider_must_show_the_certificate_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, status: int
) -> None:
    certificate, key = _certificate(tmp_path / "made", name)
    monkeypatch.setattr(clusters, "SYSTEM_CA", str(certificate))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with _gateway(tmp_path, tls_a=context) as gateway:
        assert (await gateway.post(CHAT, b"{}")).status == status
        assert bool(gateway.a.received) is (status == 200)

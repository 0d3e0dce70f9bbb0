"""A collector that takes OTLP over HTTP, and does with it what a test wants."""

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord


@dataclass(frozen=True)
class Seen:
    """A span as it came. Ids are hexadecimal, times seconds; `service` is of its resource."""

    service: str
    name: str
    kind: int
    trace: str
    span: str
    parent: str
    state: str
    began: float
    ended: float
    facts: dict[str, Any]
    is_error: bool


@dataclass
class Collector:
    """What came so far, and how it answers: `status` 0 says nothing for ever, -1 closes the connection."""

    url: str = ""
    status: int = 200
    answer: bytes = b""
    more: dict[str, str] = field(default_factory=dict)  # headers of the answer
    spans: list[Seen] = field(default_factory=list)
    lines: list[LogRecord] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)  # bodies that came to no signal's path
    headers: list[dict[str, str]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # at which it was asked, whatever came of it
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def asked(self) -> int:
        """How often."""
        return len(self.times)

    def of(self, trace: str) -> list[Seen]:
        """The spans of a trace so far."""
        return [span for span in self.spans if span.trace == trace]

    def take(self, path: str, body: bytes) -> None:
        if path == "/v1/traces":
            self._spans(ExportTraceServiceRequest.FromString(body))
            return
        if path != "/v1/logs":
            self.raw.append(body)
            return
        for of_process in ExportLogsServiceRequest.FromString(body).resource_logs:
            self.resources.append(plain(of_process.resource.attributes))
            for scope in of_process.scope_logs:
                self.lines.extend(scope.log_records)

    def _spans(self, request: ExportTraceServiceRequest) -> None:
        for of_process in request.resource_spans:
            resource = plain(of_process.resource.attributes)
            self.resources.append(resource)
            for scope in of_process.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        Seen(
                            resource["service.name"],
                            span.name,
                            span.kind,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.trace_state,
                            span.start_time_unix_nano / 1e9,
                            span.end_time_unix_nano / 1e9,
                            plain(span.attributes),
                            span.status.code == 2,
                        )
                    )


def certificate(folder: Path) -> Path:
    """One for localhost, signed by itself, with its key in the same file; alone it is in `trusted.pem` beside it."""
    made, alone = folder / "localhost.pem", folder / "trusted.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", made, "-out", alone],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_text(made.read_text() + alone.read_text())
    return made


def plain(pairs: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {pair.key: value(pair.value) for pair in pairs if isinstance(pair, KeyValue)}


def value(told: AnyValue) -> Any:
    kind = told.WhichOneof("value")
    if kind == "kvlist_value":
        return plain(told.kvlist_value.values)
    if kind == "array_value":
        return [value(one) for one in told.array_value.values]
    return None if kind is None else getattr(told, kind)


@contextmanager
def collector(tls: Path | None = None, **given: Any) -> Iterator[Collector]:
    """One on this machine. `tls`: a certificate for localhost, with its key in the same file."""
    made = Collector(**given)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = made.status  # before anybody can see that it was asked
            made.headers.append({name.lower(): text for name, text in self.headers.items()})
            made.times.append(time.monotonic())
            body = self.rfile.read(int(self.headers["content-length"]))
            if status == 0:
                made.ended.wait()
                return
            if status < 0:
                self.close_connection = True
                return
            if status == 200:
                made.take(self.path, body)
            self.send_response(status)
            for name, text in made.more.items():
                self.send_header(name, text)
            self.send_header("content-length", str(len(made.answer)))
            self.end_headers()
            self.wfile.write(made.answer)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}"
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        made.url = f"https://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()

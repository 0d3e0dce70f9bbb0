"""A backend that answers with given bytes, whatever it is asked, and remembers what it was asked."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

Pairs = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Recorded:
    """An answer to give. `pieces` are sent one by one, as chunks unless a content-length is among the headers."""

    status: int
    headers: Pairs
    pieces: Sequence[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came. Header names in lower case."""

    method: str
    path: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> list[str]:
        """All values of a header, by its lower-case name."""
        return [value for given, value in self.headers if given == name]


@dataclass
class ReplayBackend:
    """Listens on a free port of 127.0.0.1 between entering and leaving; `answer` may be replaced at any time."""

    answer: Recorded = Recorded(200, (("content-type", "application/json"),), (b"{}",))
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def replay(self, answer: Recorded) -> None:
        """Give this answer from now on, and forget what was asked before."""
        self.asked.clear()
        self.answer = answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:
                    self.close_connection = True

            def _any(self) -> None:
                headers = [(name.lower(), value) for name, value in self.headers.items()]
                backend.asked.append(Asked(self.command, self.path, headers, self._body()))
                self._send(backend.answer)

            do_GET = do_POST = do_DELETE = _any  # noqa: N815 - the names that http.server looks for

            def _body(self) -> bytes:
                if self.headers.get("transfer-encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _send(self, answer: Recorded) -> None:
                self.send_response_only(answer.status)
                chunked = all(name.lower() != "content-length" for name, _ in answer.headers)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if chunked:
                    self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for piece in answer.pieces:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
                    self.wfile.flush()
                if chunked:
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
                """Say nothing."""

        return Handler

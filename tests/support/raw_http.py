"""HTTP/1.1 by hand, for what no client library sends: torn, odd or hostile requests; answers read piece by piece."""

import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httptools
import orjson

_PIECE = 64 * 1024
_LINGER_ZERO = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Answer:
    """What came back. `whole`: the message ended by its own framing, not because the connection broke."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bool = False

    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def request_id(self) -> str:
        """The id under which the gateway's records know the call."""
        return self.headers["x-request-id"]


class Connection:
    """One TCP connection to a gateway. Reading waits at most `patience` seconds for the next bytes."""

    def __init__(self, port: int, patience: float = 30.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), patience)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Leave without a word: the peer gets a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._socket.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def try_send(self, data: bytes) -> bool:
        """Send to a peer that may have answered and closed already; False when it has."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> Answer:
        """Read one answer to its end, or as far as it comes. Interim answers (100) are passed over."""
        return [Answer(), *self.progress()][-1]

    def progress(self) -> Iterator[Answer]:
        """The answer as far as it has come, after each read from the socket."""
        reader = _Reader()
        while not reader.answer.whole and (data := self._receive()):
            reader.feed(data)
            yield reader.answer

    def pieces(self) -> Iterator[Answer]:
        """The answer as far as it has come, after each read that brought some of its body."""
        size = 0
        for answer in self.progress():
            if len(answer.body) > size:
                size = len(answer.body)
                yield answer

    def rest(self) -> bytes:
        """Whatever else comes until the peer closes the connection."""
        received = b""
        while data := self._receive():
            received += data
        return received

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(_PIECE)
        except ConnectionError:
            return b""


class _Reader:
    """Collects one answer from the parser's events."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)
        self.answer.body = b"".join(self._parts)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        status: int = self._parser.get_status_code()
        if status < 200:
            self.answer.headers.clear()
            return
        self.answer.status, self.answer.whole = status, True
        self.answer.body = b"".join(self._parts)

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()


def head(method: str, path: str, headers: Mapping[str, str] | list[tuple[str, str]], key: str | None = None) -> bytes:
    """A request head on localhost, the headers in their order and spelling, with `key` as bearer token."""
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"authorization: Bearer {key}"] if key else []
    lines += [f"{name}: {value}" for name, value in pairs]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def request(path: str, body: bytes, key: str | None, content_type: str = "application/json", **more: str) -> bytes:
    """A whole POST with a content-length; `more` headers have dashes where Python wants underscores."""
    headers = {"content-type": content_type, "content-length": str(len(body))}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return head("POST", path, headers, key) + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; of no data it is the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(path: str, body: bytes, key: str | None, size: int, content_type: str = "application/json") -> bytes:
    """A whole POST whose body goes in chunks of `size` bytes."""
    opening = head("POST", path, {"content-type": content_type, "transfer-encoding": "chunked"}, key)
    parts = [chunk(body[at : at + size]) for at in range(0, len(body), size)]
    return opening + b"".join(parts) + chunk(b"")


def form(fields: Mapping[str, str], file: bytes, boundary: str = "boundary") -> tuple[str, bytes]:
    """A multipart form with its fields before its one file: the content type and the body."""
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n'
        "content-type: audio/wav\r\n\r\n".encode()
        + file
    )
    return f"multipart/form-data; boundary={boundary}", b"".join(parts) + f"\r\n--{boundary}--\r\n".encode()

"""A webhook of a stranger: it answers as it is told, or does worse, and remembers what it got."""

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tests.support.gateway import until

_TLS = b"\x16"  # how a handshake begins
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def status(code: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {code} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "content-length: 0", "", ""]).encode()


@dataclass(frozen=True)
class Message:
    target: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeWebhook:
    """Answers with what is in `script`, one after the other, and then with OK.

    b"" closes without a word; None says nothing until the other side leaves. `met` is called before each answer.
    """

    def __init__(self, met: Callable[[], None] = lambda: None) -> None:
        self.script: list[bytes | None] = []
        self.got: list[Message] = []
        self.met = met
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/services/T0/B0?x=1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def wait(self, messages: int, patience: float = 20.0) -> list[Message]:
        """What it got, once it is so many messages."""
        until(lambda: len(self.got) >= messages, patience, f"{messages} messages, got {self.got}")
        return self.got

    def texts(self) -> list[str]:
        return [message.body["text"] for message in self.got]

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(peer,), daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            peer.settimeout(30)
            try:
                if peer.recv(1, socket.MSG_PEEK) == _TLS:
                    peer.sendall(status(400))
                    return
                self.got.append(_read(peer))
                self.met()
                answer = self.script.pop(0) if self.script else OK
                if answer is None:
                    peer.recv(1)
                elif answer:
                    peer.sendall(answer)
            except OSError:
                return


def _read(peer: socket.socket) -> Message:
    data = b""
    while b"\r\n\r\n" not in data:
        data += peer.recv(65536) or _left()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += peer.recv(65536) or _left()
    return Message(first.split(" ")[1], headers, json.loads(body))


def _left() -> bytes:
    raise ConnectionError("it left")

"""A Key Vault on loopback: TLS, the sign-in challenge, and as much of its REST API as storing a secret takes."""

import json
import re
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "a-token-for-the-vault"
CHALLENGE = 'Bearer authorization="https://login.microsoftonline.com/{tenant}", resource="{resource}"'
TENANT = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the vault says instead of storing."""

    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    repeats_the_request: bool = False  # as some proxies do in their error pages


@dataclass
class KeyVault:
    """What a test sees of the vault, and what it tells it to do."""

    secrets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # versions, by lower-case name
    tries: list[str] = field(default_factory=list)  # names, of every request that was signed in
    answers: dict[str, list[Answer]] = field(default_factory=dict)  # by name: what its next tries get
    resource: str = "https://vault.azure.net"
    before_sign_in: list[bytes] = field(default_factory=list)  # bodies of requests without a token
    port: int = 0

    def value(self, name: str) -> str:
        return str(self.secrets[name.lower()][-1]["value"])

    def answer(self, name: str, authorization: str | None, body: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
        if authorization != f"Bearer {TOKEN}":
            self.before_sign_in.append(body)
            challenge = CHALLENGE.format(tenant=TENANT, resource=self.resource)
            return 401, {"WWW-Authenticate": challenge}, problem("Unauthorized", "AKV10000: no token")
        self.tries.append(name)
        if self.answers.get(name):
            told = self.answers[name].pop(0)
            text = body.decode() if told.repeats_the_request else "no"
            return told.status, told.headers, problem(told.code, text)
        return self.store(name, json.loads(body))

    def store(self, name: str, secret: dict[str, Any]) -> tuple[int, dict[str, str], dict[str, Any]]:
        tags = secret.get("tags", {})
        if not re.fullmatch(r"[0-9A-Za-z-]{1,127}", name) or len(tags) > 15:
            return 400, {}, problem("BadParameter", "the name or the tags")
        if any(len(text) > 256 for tag in tags.items() for text in tag) or len(secret["value"]) > 25_000:
            return 400, {}, problem("BadParameter", "too long")
        self.secrets.setdefault(name.lower(), []).append(secret)
        attributes = {"enabled": True, "created": 1, "updated": 1, **secret.get("attributes", {})}
        return 200, {}, {**secret, "attributes": attributes, "id": f"https://x.vault.azure.net/secrets/{name}/1"}


def problem(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


def handler(vault: KeyVault) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # one packet an answer

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path, _, query = self.path.partition("?")
            assert re.fullmatch(r"api-version=[0-9.-]+", query), query
            name = path.removeprefix("/secrets/")
            status, headers, answer = vault.answer(name, self.headers.get("authorization"), body)
            sent = json.dumps(answer).encode()
            self.send_response(status)
            for header, value in {"content-type": "application/json", **headers}.items():
                self.send_header(header, value)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *args: object) -> None:
            """Silence: the tests read `tries`."""

    return Handler


def certificate(folder: Path) -> Path:
    """A certificate for any vault, signed by itself, with its key in the same file."""
    made = folder / "vault.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=vault", "-addext", "subjectAltName=DNS:*.vault.azure.net",
         "-keyout", made, "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_text(made.read_text() + (folder / "certificate.pem").read_text())
    return made


@contextmanager
def serving(vault: KeyVault, pem: Path) -> Iterator[KeyVault]:
    """The vault, answering on a port of 127.0.0.1 until the block ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(vault)) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        vault.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield vault
        finally:
            server.shutdown()
            thread.join()

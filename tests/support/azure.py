"""Azure on loopback, for processes that reach it through a proxy: Entra's sign-in, the machine's own, and Key Vaults.

The hosts keep their true names: the proxy ends TLS with a certificate for them, which the environment of the process
says is to be trusted. So nothing of the product has to know that it is tested.
"""

import itertools
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
from urllib.parse import parse_qs, urlsplit

LOGIN = "login.microsoftonline.com"
SOVEREIGN = "login.microsoftonline.us"
MACHINE = "169.254.169.254"
TENANT = "11111111-2222-3333-4444-555555555555"
VAULT_SCOPE = "https://vault.azure.net/.default"
_VAULT = re.compile(r"([a-z0-9-]+)\.vault\.azure\.net")

Json = dict[str, Any]
Answer = tuple[int, dict[str, str], Json]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for a token: where, with what fields, and which token it got, if any."""

    host: str
    path: str
    fields: dict[str, str]
    token: str | None


@dataclass
class Azure:
    """What a test sees of it, and what it tells it to do."""

    lifetime: int = 3600  # seconds that a token is good for
    refresh_in: int | None = None
    client_secrets: dict[str, str] = field(default_factory=dict)  # of applications that have one
    refuses: str | None = None  # a code of Entra's, for every request for a token
    down: bool = False  # it hangs up on everybody
    asked: list[Asked] = field(default_factory=list)
    secrets: dict[tuple[str, str], str] = field(default_factory=dict)  # by vault and name
    vault_problem: Answer | None = None
    looks: list[str] = field(default_factory=list)  # paths that a vault was asked for with a good token
    port: int = 0
    pem: Path = Path()
    _number: Iterator[int] = field(default_factory=itertools.count)

    @property
    def tokens(self) -> list[str]:
        """All that were given, the oldest first."""
        return [asked.token for asked in self.asked if asked.token is not None]

    @property
    def environ(self) -> dict[str, str]:
        """For a process that is to find it."""
        proxy = f"http://127.0.0.1:{self.port}"
        nowhere = dict.fromkeys(("NO_PROXY", "no_proxy", "all_proxy", "ALL_PROXY"), "")
        proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy)
        return {**nowhere, **proxies, "REQUESTS_CA_BUNDLE": str(self.pem)}

    def answer(self, host: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        if _VAULT.fullmatch(host):
            return self._vault(host, path, headers)
        if path.endswith("/openid-configuration"):
            return 200, {}, _metadata(host, path.split("/")[1])
        given = parse_qs(body.decode() if body else urlsplit(path).query)
        return self._token(host, path, {name: values[0] for name, values in given.items()})

    def _token(self, host: str, path: str, fields: dict[str, str]) -> Answer:
        client = fields.get("client_id", "machine")
        is_wrong = "client_secret" in fields and fields["client_secret"] != self.client_secrets.get(client)
        refusal = self.refuses or ("AADSTS7000215" if is_wrong else None)
        if refusal is not None:
            self.asked.append(Asked(host, path, fields, None))
            told = f"{refusal}: you sent {json.dumps(fields)}"  # as a server that echoes would
            return 401, {}, {"error": "invalid_client", "error_description": told}
        token = f"token-{next(self._number)}-of-{client}"
        self.asked.append(Asked(host, path, fields, token))
        times: Json = {"expires_in": self.lifetime}
        if self.refresh_in is not None:
            times["refresh_in"] = self.refresh_in
        return 200, {}, {"token_type": "Bearer", "access_token": token, **times}

    def _vault(self, host: str, path: str, headers: dict[str, str]) -> Answer:
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if not any(asked.token == given and asked.fields.get("scope") == VAULT_SCOPE for asked in self.asked):
            challenge = f'Bearer authorization="https://{LOGIN}/{TENANT}", resource="https://vault.azure.net"'
            return 401, {"WWW-Authenticate": challenge}, _problem("Unauthorized")
        self.looks.append(urlsplit(path).path)
        if self.vault_problem is not None:
            return self.vault_problem
        _, _, name, *version = urlsplit(path).path.split("/")
        value = self.secrets.get((host.split(".")[0], name))
        if value is None:
            return 404, {}, _problem("SecretNotFound")
        identifier = f"https://{host}/secrets/{name}/{version[0] if version and version[0] else '0' * 32}"
        return 200, {}, {"value": value, "id": identifier, "attributes": {"enabled": True, "created": 1, "updated": 1}}


DISABLED: Answer = (
    403,
    {},
    {"error": {"code": "Forbidden", "message": "disabled", "innererror": {"code": "SecretDisabled"}}},
)
FORBIDDEN: Answer = (403, {}, {"error": {"code": "Forbidden", "message": "no role"}})


def _problem(code: str) -> Json:
    return {"error": {"code": code, "message": "no"}}


def _metadata(host: str, tenant: str) -> Json:
    base = f"https://{host}/{tenant}"
    return {
        "issuer": f"{base}/v2.0",
        "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
        "token_endpoint": f"{base}/oauth2/v2.0/token",
    }


class _Handler(BaseHTTPRequestHandler):
    """Of one connection; behind the proxy's tunnel the same again, over TLS."""

    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # one packet an answer
    server: "_Server"

    def do_CONNECT(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.wfile.flush()
        self.close_connection = True
        try:
            with self.server.tls.wrap_socket(self.connection, server_side=True) as inside:
                _Handler(inside, self.client_address, self.server)
        except OSError:
            return  # the client left

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.azure.down:
            self.close_connection = True
            return
        host = str(self.headers["host"]).partition(":")[0]
        path = self.path[self.path.index(host) + len(host) :] if self.path.startswith("http://") else self.path
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more, answer = self.server.azure.answer(host, path, headers, body)
        sent = json.dumps(answer).encode()
        self.send_response(status)
        for header, value in {"content-type": "application/json", **more}.items():
            self.send_header(header, value)
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *args: object) -> None:
        """Silence: the tests read `asked`."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, azure: Azure) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.azure = azure
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(azure.pem)


def certificate(folder: Path) -> Path:
    """A certificate for all the hosts, signed by itself, with its key in the same file."""
    made = folder / "azure.pem"
    names = ",".join(f"DNS:{name}" for name in (LOGIN, SOVEREIGN, "*.vault.azure.net"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=azure", "-addext", f"subjectAltName={names}",
         "-keyout", made, "-out", folder / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    made.write_text(made.read_text() + (folder / "certificate.pem").read_text())
    return made


@contextmanager
def serving(azure: Azure) -> Iterator[Azure]:
    """It answers on a port of 127.0.0.1 until the block ends."""
    with _Server(azure) as server:
        azure.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield azure
        finally:
            server.shutdown()
            thread.join()

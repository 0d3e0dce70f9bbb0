"""Where tokens come from: the certified provider of npm's `oidc-provider`, and a server of keys that can misbehave.

`OidcProvider` issues real tokens, to applications and to people who sign in; `JwksServer` stands where an issuer
publishes its keys, counts who fetches them, and is down, slow or wrong on command.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

_SOURCES = Path(__file__).resolve().parent / "oidc"
_NODE = (20, 12)  # the first with all that the provider calls
_INSTALL_SECONDS = 300
_STOP_SECONDS = 10
CALLBACK = "http://127.0.0.1/signed-in"
"""Where the provider sends people back to; nobody listens there, for the code stands in the address."""

Json = dict[str, Any]


# ---- the provider -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Application:
    """A client of the provider. With a secret it calls for itself, without one people sign in to it.

    `claims` are put over those that the provider would send: as the provider of a company adds its own.
    """

    secret: str | None = None
    alg: str = "RS256"
    claims: Mapping[str, Any] = field(default_factory=dict)
    redirect_uri: str = CALLBACK


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """`jwks` is a key set with private parts; `users` the claims that people's tokens carry, by name."""

    jwks: Mapping[str, Any]
    audience: str
    clients: Mapping[str, Application]
    users: Mapping[str, Mapping[str, Any]]
    lifetime: int = 3600  # seconds


class OidcProvider:
    """Starts the provider on entering, ends it on leaving. Skips the test, and says so, without Node.js."""

    def __init__(self, settings: OidcSettings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        command = [_node(), str(_installed() / "provider.mjs")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self.configure(self.settings)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def configure(self, settings: OidcSettings) -> None:
        """Go on with other settings, as after a restart: other keys, other claims."""
        pipes = self._running
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        pipes.stdin.write(json.dumps(asdict(settings)) + "\n")
        pipes.stdin.flush()
        told = pipes.stdout.readline().strip()
        assert told.isdigit(), f"the provider did not start; {told!r}, see standard error"
        self.settings, self._port = settings, int(told)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def jwks_url(self) -> str:
        """Where it publishes its keys, as its own discovery document says."""
        with self._client() as client:
            found: str = client.get("/.well-known/openid-configuration").json()["jwks_uri"]
        return found

    def application_token(self, client_id: str) -> str:
        """What an application gets for its own secret (client credentials)."""
        secret = self.settings.clients[client_id].secret
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret}
        return self._token(form)

    def user_token(self, client_id: str, user: str) -> str:
        """What an application gets after a person has signed in to it (authorization code with PKCE)."""
        verifier = secrets.token_urlsafe(48)
        asked = {
            "client_id": client_id,
            "redirect_uri": CALLBACK,
            "response_type": "code",
            "scope": "openid use",
            "resource": self.settings.audience,
            "code_challenge": urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        form = {
            "grant_type": "authorization_code",
            "client_id": client_id,
            "redirect_uri": CALLBACK,
            "code": self._sign_in(asked, user),
            "code_verifier": verifier,
        }
        return self._token(form)

    def _sign_in(self, asked: Mapping[str, str], user: str) -> str:
        """Go through the provider's pages as a browser does, and bring back the code."""
        with self._client() as browser:
            page = browser.get("/auth", params=asked)
            for answers in ({"prompt": "login", "login": user, "password": "any"}, {"prompt": "consent"}):
                while page.is_redirect:
                    page = browser.get(page.headers["location"])
                action = re.search(r'action="([^"]+)"', page.text)
                assert action is not None, f"no form on the provider's page: {page.status_code}"
                page = browser.post(action[1], data=answers)
            while not page.headers["location"].startswith(CALLBACK):
                page = browser.get(page.headers["location"])
        (code,) = parse_qs(urlsplit(page.headers["location"]).query)["code"]
        return code

    def _token(self, form: Mapping[str, str | None]) -> str:
        with self._client() as client:
            answer = client.post("/token", data=form)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.issuer, trust_env=False, timeout=10)

    @property
    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "use it as a context manager"
        return self._process

    def _stop(self) -> None:
        process = self._running
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # tells it to end
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()
            process.stdout.close()


def _tool(name: str) -> str | None:
    """A program of Node.js, best from the virtual environment, where a Python package may have put it."""
    beside = Path(sys.executable).parent
    return shutil.which(name, path=str(beside)) or shutil.which(name)


def _node() -> str:
    node = _tool("node")
    if node is None or _tool("npm") is None:
        pytest.skip("Node.js with npm is not installed: there is no OpenID provider to get tokens from")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if tuple(int(part) for part in version.lstrip("v").split(".")[:2]) < _NODE:
        pytest.skip(f"Node.js {version} is too old for the OpenID provider: it needs {_NODE[0]}.{_NODE[1]} or later")
    return node


def _installed() -> Path:
    """The folder of the provider and all that it needs, made once for each state of its sources."""
    sources = sorted(path for path in _SOURCES.iterdir() if path.is_file())
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice-tests"
    folder = caches / f"oidc-{state}"
    if folder.is_dir():
        return folder
    caches.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="oidc-", dir=caches))
    try:
        for path in sources:
            shutil.copy(path, fresh)
        _npm_ci(fresh)
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another run of the tests was faster
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _npm_ci(folder: Path) -> None:
    npm = _tool("npm")
    assert npm is not None
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    assert done.returncode == 0, f"npm could not install the OpenID provider:\n{done.stderr}"


# ---- the keys of an issuer ----------------------------------------------------------------------------

_HTML = "<!doctype html><title>Sign in</title><p>This hotel's network wants you to sign in."
_SLOW_SECONDS = 10.0


class JwksServer:
    """Publishes public keys at `url` on 127.0.0.1 from entering to leaving.

    `mood`: "well", "500", "html", "empty" (no keys), "slow" (ten seconds), or "hangs up" (without an answer).
    `closed()` refuses connections altogether, until `open()`.
    """

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self.keys = keys
        self.mood = "well"
        self.fetches = 0
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._leaving = threading.Event()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/keys"

    def open(self) -> None:
        """Listen, on the same port as before."""
        server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        server.daemon_threads = True
        self._server, self._port = server, server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        jwks = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                jwks.fetches += 1
                if jwks.mood == "hangs up":
                    return
                if jwks.mood == "slow":
                    jwks._leaving.wait(_SLOW_SECONDS)
                status, kind, body = jwks._answer()
                try:
                    self.send_response(status)
                    self.send_header("content-type", kind)
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    return  # who asked has gone

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it is called by
                """Say nothing."""

        return Handler

    def _answer(self) -> tuple[int, str, bytes]:
        if self.mood == "500":
            return 500, "text/plain", b"broken"
        if self.mood == "html":
            return 200, "text/html", _HTML.encode()
        keys = {"keys": []} if self.mood == "empty" else self.keys
        return 200, "application/json", json.dumps(keys).encode()

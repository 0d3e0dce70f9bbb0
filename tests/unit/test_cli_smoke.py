"""`sluice smoke` against servers that are wrong in one way each: every one of them is found out."""

import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from extproc.cli import app
from extproc.identity.keys import mint

KEY = mint(b"smoke--." * 4)
ID = "5dc6ec60"
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False  # less comes than was promised


def answer(tree: Json, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(tree), {"content-type": "application/json", "x-request-id": ID, **headers})


def refusal(status: int, code: str) -> Answer:
    error = {"message": "No.", "type": "invalid_request_error", "param": None, "code": code}
    return answer({"error": error, "request_id": ID}, status, **{"x-should-retry": "false"})


def stream(*events: Json, done: bool = True) -> Answer:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ("data: [DONE]\n\n" if done else "")
    return Answer(200, body, {"content-type": "text/event-stream", "x-request-id": ID})


USAGE = {"total_tokens": 7}
DELTA = {"choices": [{"delta": {"content": "OK"}}]}
SOUND: dict[str, Answer] = {
    "health": Answer(body="ok\n"),
    "readiness": answer({"status": "ready"}),
    "models": answer({"data": [{"id": "vectors"}, {"id": "gpt-4o"}]}),
    "no key": refusal(401, "missing_api_key"),
    "wrong key": refusal(401, "invalid_api_key"),
    "unknown model": refusal(404, "model_not_found"),
    "vectors": refusal(400, "unsupported_by_model"),
    "chat": answer({"choices": [{"message": {"content": "OK"}}], "usage": USAGE}),
    "stream": stream(DELTA, DELTA, {"choices": [], "usage": USAGE}),
}


def asked(handler: BaseHTTPRequestHandler) -> str:
    """Which of the checks a request is of."""
    if handler.command == "GET":
        return {"/healthz": "health", "/readyz": "readiness"}.get(handler.path, "models")
    body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
    if "authorization" not in handler.headers:
        return "no key"
    if handler.headers["authorization"] != f"Bearer {KEY}":
        return "wrong key"
    if body["model"] == "vectors":
        return "vectors"
    if body["model"] != "gpt-4o":
        return "unknown model"
    return "stream" if body.get("stream") else "chat"


@contextmanager
def serving(answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = answers[asked(self)]
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(given.body) + (10 if given.cut else 0)))
            self.end_headers()
            self.wfile.write(given.body.encode())

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http{'s' if tls else ''}://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def smoke(folder: Path, url: str, *words: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what was found, by check."""
    file = folder / "key"
    file.write_text(KEY + "\n")
    run = CliRunner().invoke(app, ["smoke", "--url", url, "--key-file", str(file), "--json", *words])
    assert KEY not in run.output
    return run.exit_code, {check["check"]: check for check in json.loads(run.stdout)["checks"]}


def test_a_sound_server_passes_and_the_first_model_that_chats_is_asked(tmp_path: Path) -> None:
    with serving(SOUND) as url:
        code, told = smoke(tmp_path, url + "/v1/")
    assert code == 0
    assert told["chat"]["detail"] == "gpt-4o: 7 tokens"
    assert told["stream"]["detail"].endswith(" 2 events, 7 tokens")


BROKEN: dict[str, tuple[str, Answer, str]] = {
    "unhealthy": ("health", Answer(503), "503"),
    "not ready": ("readiness", refusal(503, "not_ready"), "503"),
    "no models": ("models", answer({"data": []}), "may use no model"),
    "models that are no JSON": ("models", Answer(body="<html>"), "no JSON came, with 200 <html>"),
    "a list of models that is none": ("models", answer({"data": 7}), "may use no model"),
    "anybody is served": ("no key", SOUND["chat"], "200"),
    "any key is taken": ("wrong key", SOUND["chat"], "200"),
    "a refusal that names itself not": (
        "wrong key",
        replace(refusal(401, "invalid_api_key"), headers={"x-should-retry": "false"}),
        "does not tell its x-request-id",
    ),
    "a refusal that is tried again": (
        "unknown model",
        replace(refusal(404, "model_not_found"), headers={"x-request-id": ID}),
        "x-should-retry",
    ),
    "an error of another shape": ("unknown model", answer({"detail": "no"}, 404), "an error `model_not_found` was"),
    "an error in a text": ("unknown model", answer({"error": "no"}, 404), "an error `model_not_found` was"),
    "a chat that fails": ("chat", refusal(502, "upstream_unavailable"), "502"),
    "a chat without usage": ("chat", answer({"choices": [{"message": {}}]}), "no usage is told"),
    "a chat without a message": ("chat", answer({"choices": [], "usage": USAGE}), "no message"),
    "a stream that is none": ("stream", SOUND["chat"], "a stream was expected, and came 200"),
    "a stream that is refused": ("stream", refusal(429, "rate_limit_exceeded"), "a stream was expected, and came 429"),
    "a stream without its end": ("stream", stream(DELTA, done=False), "the stream broke off after 1 events"),
    "a stream that is cut": ("stream", replace(stream(DELTA, done=False), cut=True), "the stream broke off"),
    "a stream without usage": ("stream", stream(DELTA), "without usage"),
    "a stream without content": ("stream", stream({"choices": [], "usage": USAGE}), "without content"),
    "an empty stream": ("stream", stream(done=False), "no event came"),
    "an error inside a stream": ("stream", stream(DELTA, {"error": {"message": "no"}}), "an error came inside"),
    "an event that is no JSON": (
        "stream",
        Answer(200, "data: {\n\ndata: [DONE]\n\n", {"content-type": "text/event-stream", "x-request-id": ID}),
        "an event is no JSON",
    ),
    "a server that tells the key": ("chat", Answer(500, f"who is {KEY}?", {"x-request-id": ID}), "who is ***?"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_server_is_found_out(tmp_path: Path, name: str) -> None:
    check, wrong, said = BROKEN[name]
    with serving({**SOUND, check: wrong}) as url:
        code, told = smoke(tmp_path, url)
    assert code == 1
    assert [found["check"] for found in told.values() if found["ok"] is False] == [check]
    assert said in told[check]["detail"]
    assert told[check]["request_id"] == wrong.headers.get("x-request-id", "")


def test_a_model_that_is_named_must_be_there(tmp_path: Path) -> None:
    with serving(SOUND) as url:
        code, told = smoke(tmp_path, url, "--model", "gpt-5")
    assert code == 1
    assert told["models"]["detail"] == "gpt-5 is not among 2: vectors, gpt-4o"


def test_where_no_model_chats_that_is_said(tmp_path: Path) -> None:
    with serving({**SOUND, "models": answer({"data": [{"id": "vectors"}]})}) as url:
        code, told = smoke(tmp_path, url)
    assert code == 1
    assert told["chat"]["detail"] == "none of the models chats: name one with --model"
    assert told["stream"]["ok"] is None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "crt", folder / "key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*words, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True, timeout=60)
    return files


def test_only_the_authority_that_is_named_is_trusted(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*certificate)
    with serving(SOUND, tls) as url:
        assert smoke(tmp_path, url, "--ca", str(certificate[0]))[0] == 0
        code, told = smoke(tmp_path, url)
    assert code == 1
    assert "certificate verify failed" in told["health"]["detail"]


MISUSES: dict[str, Callable[[Path], list[str]]] = {
    "no url": lambda folder: ["--url", "ai.example.com", "--key-file", str(folder / "key")],
    "a url with a key in it": lambda folder: ["--url", "http://key@h", "--key-file", str(folder / "key")],
    "no such file": lambda folder: ["--url", "http://h", "--key-file", str(folder / "none")],
    "an empty file": lambda folder: ["--url", "http://h", "--key-file", str(folder / "empty")],
    "no certificate": lambda folder: [
        *("--url", "https://h", "--key-file", str(folder / "key")),
        *("--ca", str(folder / "empty")),
    ],
}


@pytest.mark.parametrize("name", MISUSES)
def test_wrong_usage_is_told_apart(tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "empty").write_text("\n")
    run = CliRunner().invoke(app, ["smoke", *MISUSES[name](tmp_path)])
    assert run.exit_code == 2
    assert run.stderr.startswith("--")
    assert KEY not in run.output

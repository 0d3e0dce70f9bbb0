"""Commands that stand in manifests, run as they stand there: probes and hooks in the shells of Envoy's image."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.gateway import until
from tests.support.helm import only, rendered
from tests.support.ports import free_port

MINIMAL = "charts/sluice/examples/minimal.yaml"
CENTRAL = "charts/sluice/examples/sidecar-central.yaml"


@contextmanager
def answering(status: int) -> Iterator[int]:
    """The port of a server that gives every path the same answer, and keeps its connections open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 500)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def probe(port: int) -> int:
    spec = only(rendered("charts/sluice", CENTRAL), "Deployment")["spec"]["template"]["spec"]
    words = spec["initContainers"][1]["startupProbe"]["exec"]["command"]
    command = [word.replace("8080", str(port)) for word in words]
    return subprocess.run(command, timeout=30, capture_output=True).returncode


def test_the_probe_of_a_sidecar_passes_when_envoy_is_ready() -> None:
    with answering(200) as port:
        assert probe(port) == 0


@pytest.mark.parametrize("status", [404, 503])
def test_the_probe_of_a_sidecar_fails_when_it_is_not(status: int) -> None:
    with answering(status) as port:
        assert probe(port) != 0


def test_the_probe_of_a_sidecar_fails_when_nobody_listens() -> None:
    assert probe(free_port()) != 0


def waiting(folder: Path, longest: int) -> list[str]:
    """Envoy's preStop hook, for a drain that may take so many seconds less the 30 that it allows beside."""
    drain = {"notice": 0, "timeout": 1}
    spec = only(rendered("charts/sluice", MINIMAL, set={"drain": drain}), "Deployment")["spec"]["template"]["spec"]
    words = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert "-ge 31 " in words[-1]
    text = words[-1].replace("/run/sluice/run", str(folder)).replace("-ge 31 ", f"-ge {longest} ")
    return [*words[:-1], text]


def test_envoy_waits_for_the_end_of_the_drain(tmp_path: Path) -> None:
    process = subprocess.Popen(waiting(tmp_path, 60))
    try:
        time.sleep(1.5)
        assert process.poll() is None
        (tmp_path / "drained").touch()
        until(lambda: process.poll() is not None, 20, "the hook's end")
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()


def test_envoy_does_not_wait_for_ever_for_a_drain_that_never_ends(tmp_path: Path) -> None:
    assert subprocess.run(waiting(tmp_path, 2), timeout=60).returncode == 0

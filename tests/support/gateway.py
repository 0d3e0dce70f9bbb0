"""A whole gateway as a user starts it: `sluice up` in a process of its own, on free ports."""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil
from ruamel.yaml import YAML

from extproc.identity.keys import QUICKSTART_KEY
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 90
FORGIVING: Mapping[str, Any] = {"cooling": {"longest_wait": "0s", "failures": 1000}, "retry_share": 1}
"""Faults that one test asks for leave no backend out for the next test."""
PATIENT: Mapping[str, Any] = {"wait": "1h"}
"""Calls wait for their worker: how busy the machine of a test is tells nothing of what it tests."""
_STOP_SECONDS = 60

Json = dict[str, Any]


def until(condition: Callable[[], Any], patience: float = 20.0, what: str = "it") -> Any:
    """The first true value of a condition that is asked again and again; fails the test when time is up."""
    deadline, pause = time.monotonic() + patience, 0.005
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(pause)
        pause = min(1.5 * pause, 0.05)  # what is asked again and again is often a whole call
    raise AssertionError(f"waited {patience} s in vain for {what}")


def _command_line(process: psutil.Process) -> list[str]:
    """Empty for a process that has ended meanwhile, or waits to be reaped."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


class RunningGateway:
    """Starts on entering, ends on leaving; `settings` is the configuration without ports and folders."""

    key = QUICKSTART_KEY

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-"))  # short: Unix sockets stand in it
        self.port = free_port()
        self.metrics_port = free_port()
        self.settings = {
            "metrics": {"port": self.metrics_port},
            "state_dir": str(self.folder / "var"),
            "keys": {"quickstart": True},
            "routing": FORGIVING,
            "overload": PATIENT,
            **settings,
            "listener": {"address": "127.0.0.1", "port": self.port, **settings.get("listener", {})},
            "stores": {"database": f"sqlite:///{self.folder}/sluice.db", **settings.get("stores", {})},
        }
        self.config = self.folder / "gateway.yaml"
        with self.config.open("w") as file:
            YAML().dump(self.settings, file)
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: list[Json] = []
        self._arrived = threading.Condition()
        self._stderr: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    # ---- life ----

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "extproc.cli", "up", "--json", "--config", str(self.config)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._read, daemon=True).start()
        try:
            until(self._ready, _START_SECONDS, "the gateway to be ready")
        except BaseException:
            self.stop()
            raise AssertionError("the gateway did not start:\n" + self.log()) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it as a person or Kubernetes would; returns the exit code."""
        if self._process is None:
            return 0
        children = self._tree()
        if self._process.poll() is None:
            self._process.send_signal(signum)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            for child in children:
                if child.is_running():
                    child.kill()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError("it ended")
        with socket.socket() as probe:  # asked first, as it costs next to nothing beside a client
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        try:
            return httpx.get(f"{self.url}/readyz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    # ---- what it says ----

    def _read(self) -> None:
        process = self._process
        if process is None or process.stdout is None:
            return
        try:
            for line in process.stdout:
                try:
                    record = json.loads(line)
                except ValueError:
                    record = {"kind": "log", "source": "up", "text": line.decode("utf-8", "replace")}
                with self._arrived:
                    self._lines.append(record)
                    self._arrived.notify_all()
        except ValueError:
            return  # closed while reading, at the end

    def records(self, kind: str = "call") -> list[Json]:
        """What has been told so far."""
        with self._arrived:
            return [line for line in self._lines if line.get("kind") == kind]

    def record(self, request_id: str, kind: str = "call", patience: float = 20.0) -> Json:
        """The record of one call, waited for."""

        def found() -> Json | None:
            return next((line for line in self.records(kind) if line.get("request_id") == request_id), None)

        result: Json = until(found, patience, f"the {kind} record of {request_id}; log:\n{self.log()}")
        return result

    def told(self) -> str:
        """Everything it printed, one record or line of a log after the other."""
        with self._arrived:
            return "\n".join(json.dumps(line, ensure_ascii=False) for line in self._lines)

    def log(self) -> str:
        """Everything it printed that is not a record, and the last records."""
        with self._arrived:
            return "\n".join(str(line.get("text") or line) for line in self._lines[-60:])

    def metrics(self) -> str:
        """The Prometheus text."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}/metrics", trust_env=False).text

    def envoy_stat(self, name: str) -> int:
        """A counter or gauge of Envoy, by its full name; 0 where Envoy has none."""
        transport = httpx.HTTPTransport(uds=str(self.folder / "var/run/admin.sock"))
        with httpx.Client(transport=transport, base_url="http://admin") as client:
            text = client.get(f"/stats?filter=^{name}$").text
        return sum(int(line.rpartition(": ")[2]) for line in text.splitlines())

    # ---- where it is ----

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client with the quickstart key."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, trust_env=False, timeout=30, **options)

    def _tree(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def processes(self, word: str) -> list[psutil.Process]:
        """Its child processes whose command line has the word: `extproc.worker`, `envoy`, `fake_llm`."""
        return [child for child in self._tree() if any(word in part for part in _command_line(child))]

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

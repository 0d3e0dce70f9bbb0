"""A gateway in the two parts of a pod: `sluice serve`, and an Envoy beside it that somebody else runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from extproc.cli import processes
from extproc.cli.processes import State
from tests.support.gateway import ROOT, RunningGateway, until

_START_SECONDS = 90
_STOP_SECONDS = 60


class ServedGateway(RunningGateway):
    """Starts both on entering; either can be ended, and started again, by itself."""

    def __init__(self, settings: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> None:
        super().__init__(settings, environ)
        self.state = State(self.folder / "var")
        self.envoy: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.serve()
            self.run_envoy()
            until(self._ready, _START_SECONDS, "the gateway to be ready")
        except BaseException as error:
            self.stop()
            raise AssertionError(f"the gateway did not start: {error}\n{self.log()}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_served()
        super().__exit__(kind, error, trace)

    def serve(self) -> None:
        """`sluice serve`, until it says that it is healthy."""
        command = [sys.executable, "-m", "extproc.cli", "serve", "--config", str(self.config)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=self._environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._read, daemon=True).start()
        until(lambda: self.health() == (200, "ok\n"), _START_SECONDS, "the workers to answer")

    def run_envoy(self) -> None:
        """As a container of its own would: with the files that are there, and none of our variables."""
        argv = processes.envoy(self.state).argv
        self.envoy = subprocess.Popen(argv, env={"PATH": os.environ["PATH"]}, stderr=subprocess.DEVNULL)

    def health(self) -> tuple[int, str]:
        """What `/healthz` of the metrics says; 0 while nobody does."""
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            answer = httpx.get(f"http://127.0.0.1:{self.metrics_port}/healthz", trust_env=False)
        except httpx.HTTPError:
            return 0, ""
        return answer.status_code, answer.text

    @property
    def listens(self) -> bool:
        """Whether Envoy takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @property
    def ended(self) -> bool:
        """Whether what runs beside Envoy has ended."""
        return self._process is None or self._process.poll() is not None

    def kill_served(self) -> None:
        """End it as a container that is out of memory ends: at once, with all that it has started."""
        if self._process is None:
            return
        family = self._tree()
        self._process.kill()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait(_STOP_SECONDS)
        psutil.wait_procs(family, _STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def stop_envoy(self) -> int:
        """SIGTERM, as whoever runs it would; its exit code."""
        assert self.envoy is not None
        self.envoy.send_signal(signal.SIGTERM)
        return self.envoy.wait(_STOP_SECONDS)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End what runs beside Envoy, then Envoy, if they have not ended yet; the exit code of the first."""
        try:
            return super().stop(signum)
        finally:
            if self.envoy is not None and self.envoy.poll() is None:
                self.envoy.kill()
                self.envoy.wait(_STOP_SECONDS)

    def drain(self) -> subprocess.Popen[str]:
        """`sluice drain`, which is running then, as the hook of a pod starts it."""
        command = [sys.executable, "-m", "extproc.cli", "drain", "--config", str(self.config)]
        environ = {**self._environ, "SLUICE__STATE_DIR": str(self.folder / "var")}
        return subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def told(run: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a command, and what it said; waited for."""
    out, err = run.communicate(timeout=_STOP_SECONDS)
    return run.returncode, out + err

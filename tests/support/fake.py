"""A handle on the fake provider: a subprocess with named instances on free ports."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

_ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 10

Json = dict[str, Any]


class FakeProvider:
    """Starts `loadtest.fake_llm` with the named instances on entering, ends it on leaving.

    `options` are further command-line arguments. Records are complete when the client has its whole answer;
    that a peer left, an instance learns later: poll for that.
    """

    def __init__(self, *names: str, options: Sequence[str] = (), address: str = "127.0.0.1") -> None:
        self._names = names or ("fake",)
        self._options = ("--address", address, *options)
        self._address = address
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[str] | None = None
        self._client = httpx.Client(trust_env=False, timeout=10)

    def __enter__(self) -> Self:
        listen = [part for name in self._names for part in ("--listen", f"{name}=0")]
        command = [sys.executable, "-m", "loadtest.fake_llm", *listen, *self._options]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        try:
            self._ports = dict(self._read_ready_line() for _ in self._names)
        except BaseException:
            self._client.close()
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self.stop()

    def stop(self) -> int:
        """End the process as an operator would and return its exit code."""
        process = self._running
        process.terminate()
        try:
            return process.wait(_STOP_SECONDS)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()

    def port(self, name: str = "fake") -> int:
        """The port of an instance."""
        return self._ports[name]

    def url(self, name: str = "fake") -> str:
        """The base URL of an instance, without a path: `http://ADDRESS:PORT`."""
        return f"http://{self._address}:{self._ports[name]}"

    def calls(self, name: str = "fake") -> list[Json]:
        """What an instance saw, oldest call first."""
        recorded: list[Json] = self._ask("GET", name, "calls")
        return recorded

    def totals(self, name: str = "fake") -> Json:
        """The counts of an instance."""
        counted: Json = self._ask("GET", name, "totals")
        return counted

    def bills(self, name: str = "fake") -> list[Json]:
        """What each call at an instance used that is over: see `loadtest.fake_llm.recorder`; needs `--keep-bills`."""
        billed: list[Json] = self._ask("GET", name, "bills")
        return billed

    def script(self, name: str, steps: Sequence[Mapping[str, Any]]) -> None:
        """Let the next calls of an instance have these faults, in order, after those still waiting."""
        self._ask("POST", name, "script", list(steps))

    def unscript(self, name: str) -> None:
        """Forget the rest of an instance's script."""
        self._ask("DELETE", name, "script")

    def release(self, name: str = "fake") -> None:
        """Let go the calls of an instance that are held now."""
        self._ask("POST", name, "release")

    def reset(self) -> None:
        """Forget the records and the rest of the scripts of all instances."""
        for name in self._names:
            self._ask("DELETE", name, "script")
            self._ask("DELETE", name, "calls")

    @property
    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None, "use it as a context manager"
        return self._process

    def _read_ready_line(self) -> tuple[str, int]:
        assert self._running.stdout is not None
        words = self._running.stdout.readline().split()
        assert words[:3] == ["fake", "provider", "ready"], f"the fake provider did not start: {words}"
        return words[-1].strip("()"), int(words[-2].rpartition(":")[2])

    def _ask(self, method: str, name: str, what: str, body: Any = None) -> Any:
        response = self._client.request(method, f"{self.url(name)}/_fake/{what}", json=body)
        response.raise_for_status()
        return response.json()

"""A real redis-server of our own, on a free port of the loopback: to be stalled, killed and started again."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.ports import free_port

_PATIENCE = 10.0  # seconds for a server to start or to end


class RedisServer:
    """One server: the port and the options stay the same from one start to the next.

    `options` are redis.conf's, such as `appendonly="yes"`, with `_` for `-`. Without any it keeps nothing on disk,
    and a restart is empty.
    """

    def __init__(self, folder: Path, **options: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = {"save": "", "appendonly": "no", **options}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server was not started"
        return self._process.pid

    def start(self) -> None:
        """Start, and return once it takes connections. It may still be loading its data."""
        words = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        for name, value in self._options.items():
            words += [f"--{name.replace('_', '-')}", value]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log)
        self._await_connection()

    def stop(self) -> None:
        """Shut down as an operator does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill, and start again."""
        self.kill()
        self.start()

    def stall(self) -> None:
        """Stop answering: connections are taken by the kernel, and nobody reads them."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def flush(self) -> None:
        self.call("FLUSHALL")

    def call(self, *words: str | bytes | int) -> Any:
        """One command on a connection of its own, and redis-py's reading of the answer."""
        with redis.Redis(port=self.port, socket_timeout=_PATIENCE) as client:
            return client.execute_command(*words)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server was not started"
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # a stalled one, too
        process.wait(_PATIENCE)

    def _await_connection(self) -> None:
        assert self._process is not None
        until = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError(f"redis-server did not start: {(self._folder / 'redis.log').read_text()[-500:]}")


@contextmanager
def redis_server(**options: str) -> Iterator[RedisServer]:
    """A running server with these options. Skips the test where there is none to run."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed: no Redis to test with")
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), **options)
        server.start()
        try:
            yield server
        finally:
            server.kill()

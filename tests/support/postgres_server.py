"""A real PostgreSQL of our own, on a free port of the loopback: to be stalled, killed and started again."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.ports import free_port


class PostgresServer:
    """One server in a temporary folder: the port stays the same from one start to the next. `synced`: what is committed
    is on the disk, for which tests need not wait.

    PostgreSQL refuses root: as root it runs as the user `postgres`. `programs`: the folder of `initdb` and the others.
    """

    def __init__(self, programs: Path, synced: bool = False) -> None:
        self._programs = programs
        self._synced = synced
        self._folder = Path(tempfile.mkdtemp(prefix="sluice-pg-"))
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
        self.port = free_port()
        self._run("initdb", "--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories={self._folder}"
        options += "" if self._synced else " -c fsync=off"
        self._run("pg_ctl", "--log", str(self._folder / "log"), "--wait", "--options", options, "start")

    def stop(self) -> None:
        """As its administrator does who cannot wait: transactions in the middle are undone."""
        self._run("pg_ctl", "--mode", "fast", "--wait", "stop")

    def kill(self) -> None:
        """As a machine does: what was committed is in its log, and read from there at the next start."""
        self._run("pg_ctl", "--mode", "immediate", "--wait", "stop")

    def stall(self) -> None:
        """Stop answering, in all connections, in the middle of whatever they do."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.resume()
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(int((self._folder / "data/postmaster.pid").read_text().split()[0]))
        except (OSError, ValueError, psutil.NoSuchProcess):  # it does not run
            return []
        return [first, *first.children(recursive=True)]

    def _run(self, program: str, *options: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*user, str(self._programs / program), "--pgdata", str(self._folder / "data"), *options]
        subprocess.run(command, cwd="/", check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def postgres_server(synced: bool = False) -> Iterator[PostgresServer]:
    """A running server. Skips the test where there is none to run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.skip("PostgreSQL is not installed: none to test with")
    server = PostgresServer(found[-1].parent, synced)
    try:
        server.start()
        yield server
    finally:
        server.remove()

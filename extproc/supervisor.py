"""Starts, watches and drains the processes of one gateway: the workers and, for `up`, Envoy and the fake provider.

Children run in sessions of their own, so that a Ctrl-C reaches the supervisor alone and it can end them in
order. A worker that dies is started again, with a growing pause while it keeps dying.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

Line = Callable[[str, bytes], None]
"""Takes the name of a child and one line of its output."""

_HEALTHY_AFTER = 5.0  # seconds a child must live for its next death to count as the first
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 10.0
_LINE_LIMIT = 1 << 20


_running: set[int] = set()
"""Every process that was started here and has not ended: each leads a session of its own."""


def kill_all() -> None:
    """End every child at once, with all that it started."""
    for pid in _running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `stdin` is fed at the start; `environ` is added to what it has of our own environment.

    `listens`: its standard input stays open, for what `Child.hand` gives it later.
    `may_have`: tells, by its name, whether it has a variable of ours.
    `inherits`: it writes to our own standard output, not to us.
    """

    name: str
    argv: Sequence[str]
    stdin: bytes = b""
    environ: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    listens: bool = False
    inherits: bool = False
    may_have: Callable[[str], bool] = lambda _: True


def _environment(program: Program) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if program.may_have(name)}
    return {**own, **program.environ}


class Child:
    """One running program, kept running until it is stopped."""

    def __init__(self, program: Program, line: Line, on_exit: Callable[[int], None] | None = None) -> None:
        self.program = program
        self._line = line
        self._on_exit = on_exit  # told the process id of every run that ended
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.gone = asyncio.Event()  # it ended and will not be started again
        self._keeper = asyncio.ensure_future(self._keep())

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def hand(self, program: Program) -> None:
        """From now on it is this one: a run that listens gets its `stdin`, and so does every later run."""
        self.program = program
        process = self._process
        if process is not None and process.returncode is None and process.stdin is not None:
            process.stdin.write(program.stdin)

    async def _keep(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            began = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                break
            if not self.program.restart:
                log.error("%s ended with status %s", self.program.name, code)
                break
            log.error("%s ended with status %s; starting it again", self.program.name, code)
            lived = time.monotonic() - began > _HEALTHY_AFTER
            pause = _FIRST_PAUSE if lived else min(pause * 2, _LONGEST_PAUSE)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
        self.gone.set()

    async def _run_once(self) -> int | None:
        """Run it to its end; the exit status, or None where it could not be started."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.program.argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=None if self.program.inherits else asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(self.program),
                start_new_session=True,
                limit=_LINE_LIMIT,
            )
        except OSError as error:
            log.error("%s cannot be started: %s: %s", self.program.name, self.program.argv[0], error.strerror)
            return None
        self._process = process
        _running.add(process.pid)
        if self._stopping.is_set():  # told to stop while it was being started
            self._signal(signal.SIGTERM)
        if process.stdin is not None:
            process.stdin.write(self.program.stdin)
            if not self.program.listens:
                process.stdin.close()
        await asyncio.gather(*(self._read(stream) for stream in (process.stdout, process.stderr) if stream is not None))
        code = await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        _running.discard(process.pid)
        if self._on_exit is not None:
            self._on_exit(process.pid)
        return code

    async def _read(self, stream: asyncio.StreamReader) -> None:
        """Pass the lines on. Whatever becomes of them, the stream is read to its end: a full pipe would stop it."""
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                continue  # longer than a line may be: asyncio has dropped it
            if not line:
                return
            with contextlib.suppress(OSError, ValueError):  # who reads our own output may have left
                self._line(self.program.name, line.rstrip(b"\n"))

    async def stop(self, patience: float, signum: signal.Signals = signal.SIGTERM) -> None:
        """End it with SIGTERM, or what it takes for that, and with SIGKILL after `patience` seconds."""
        self._stopping.set()
        self._signal(signum)
        try:
            await asyncio.wait_for(self.gone.wait(), patience)
        except TimeoutError:
            log.warning("%s did not end in time and is killed", self.program.name)
            self._signal(signal.SIGKILL)
            await self.gone.wait()

    def _signal(self, signum: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signum)


async def wait_until(ready: Callable[[], Awaitable[bool]], children: Sequence[Child], patience: float) -> bool:
    """Poll until ready; False when time is up or a child that is not started again has ended."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if await ready():
            return True
        if any(child.gone.is_set() for child in children):
            return False
        await asyncio.sleep(0.05)
    return False

"""One container of a pod: its process, its probes, its hooks, and its restarts."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.pods.commands import alone, inside
from tests.support.pods.probes import Probe, get
from tests.support.pods.roots import Ground, NotRun, identity, script
from tests.support.pods.sandbox import Sandbox
from tests.support.pods.volumes import MissingObject

Json = Mapping[str, Any]

_PAUSE_S = 0.01
_SHORTEST_GRACE_S = 2.0  # a kubelet's, whatever hooks have used up
_LONGEST_BACK_OFF_S = 300.0
_FORGIVEN_AFTER_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of a container is made of; made again for each run, as Secrets may have changed."""

    ground: Ground
    environ: Mapping[str, str]
    command: Sequence[str]


class Container:
    """`note` is told what happens to it. `back_off`: seconds before a second restart, doubled for each that follows."""

    def __init__(
        self, spec: Json, sandbox: Sandbox, plan: Callable[[], Plan], log: Path, note: Callable[[str, str], None]
    ) -> None:
        self.name: str = spec["name"]
        self.spec = spec
        self.log = log
        self.started = asyncio.Event()
        self.gone = asyncio.Event()
        """It has ended, and is not started again."""
        self.is_ready = False
        self.restarts = 0
        self.code: int | None = None
        """With what its last run ended."""
        self.back_off = 10.0
        self.grace = 30.0
        """Seconds that it has for its end where a probe ends it, and does not say otherwise itself."""
        self.again_after_failure = True
        self.again_after_success = True
        self._sandbox = sandbox
        self._plan = plan
        self._note = note
        self._ending = asyncio.Event()
        self._runs = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._first: psutil.Process | None = None
        self._made: Plan | None = None

    # ---- its life ----

    async def keep(self) -> None:
        """Run it, again and again as its pod's restartPolicy says, until it is stopped or done."""
        failures = 0
        while not self._ending.is_set():
            began = time.monotonic()
            self.code = await self._run()
            self.note(f"ended {self.code}")
            if not (self.again_after_failure if self.code else self.again_after_success):
                break
            failures = 0 if time.monotonic() - began > _FORGIVEN_AFTER_S else failures + 1
            pause = 0.0 if failures <= 1 else min(self.back_off * 2 ** (failures - 2), _LONGEST_BACK_OFF_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
            self.restarts += 1
        self.gone.set()

    async def _run(self) -> int:
        try:
            self._made = plan = self._plan()
            lines = script(plan.ground, plan.command, self.spec.get("workingDir"))
        except (NotRun, MissingObject) as error:
            self.note(f"not run: {error}")
            return 128
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._sandbox.entering(),
                *alone("sh", "-c", lines),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(plan.environ),
                start_new_session=True,
            )
        try:
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch())
                code = await self._process.wait()
                watching.cancel()
        finally:
            self.started.clear()
            self._runs.clear()
            self.is_ready, self._first = False, None
        return code if code >= 0 else 128 - code

    async def _watch(self) -> None:
        """Wait until it runs, then probe it."""
        self._first = await self._found()
        self._runs.set()
        self.note("runs")
        startup, readiness, liveness = (self._probe(kind) for kind in ("startup", "readiness", "liveness"))
        if startup is not None and not await self._comes_up(startup):
            return
        self.started.set()
        self.note("started")
        if readiness is None:
            self.is_ready = True
        async with asyncio.TaskGroup() as tasks:
            if readiness is not None:
                tasks.create_task(self._follow(readiness))
            if liveness is not None:
                tasks.create_task(self._guard(liveness))

    async def _comes_up(self, probe: Probe) -> bool:
        """Probe until it has passed; where it fails too often, this run is ended."""
        failures = 0
        await asyncio.sleep(probe.delay)
        while not await probe.passes():
            failures += 1
            if failures >= probe.failures and not self._ending.is_set():
                self.note(f"killed: startup probe: {probe.last}")
                await self._stop_run(probe.grace or self.grace)
                return False
            await asyncio.sleep(probe.period)
        return True

    async def _follow(self, probe: Probe) -> None:
        """Readiness, also while the pod ends."""
        passed = failed = 0
        await asyncio.sleep(probe.delay)
        while True:
            if await probe.passes():
                passed, failed = passed + 1, 0
                if passed >= probe.successes and not self.is_ready:
                    self.is_ready = True
                    self.note("ready")
            else:
                passed, failed = 0, failed + 1
                if failed >= probe.failures and self.is_ready:
                    self.is_ready = False
                    self.note(f"not ready: {probe.last}")
            await asyncio.sleep(probe.period)

    async def _guard(self, probe: Probe) -> None:
        """Liveness, which is not asked any more once the pod ends."""
        failures = 0
        await asyncio.sleep(probe.delay)
        while not self._ending.is_set():
            failures = 0 if await probe.passes() else failures + 1
            if failures >= probe.failures and not self._ending.is_set():
                self.note(f"killed: liveness probe: {probe.last}")
                await self._stop_run(probe.grace or self.grace)
                return
            await asyncio.sleep(probe.period)

    def _probe(self, kind: str) -> Probe | None:
        spec = self.spec.get(f"{kind}Probe")
        return None if spec is None else Probe(spec, self._sandbox.address, self.port, self._probed)

    async def _probed(self, command: list[str]) -> int:
        return (await self.execute(command))[0]

    def port(self, name: str | int) -> int:
        """The number of one of its ports."""
        if isinstance(name, int) or name.isdigit():
            return int(name)
        named = {port.get("name"): port["containerPort"] for port in self.spec.get("ports", [])}
        return int(named[name])

    # ---- its end ----

    async def stop(self, grace: float, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        """As its pod ends: the preStop hook, then its `turn`, then SIGTERM, after `grace` seconds in all SIGKILL."""
        self._ending.set()
        await self._stop_run(grace, turn)

    def finish(self) -> None:
        """It is not to be started again."""
        self._ending.set()

    async def _stop_run(self, grace: float, turn: Callable[[], Awaitable[None]] | None = None) -> None:
        until = time.monotonic() + grace
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook is not None and self._first is not None:
            await self._pre_stop(hook, grace)
        if turn is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(turn(), max(0.0, until - time.monotonic()))
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(TimeoutError):  # one that is just being made is let come up
            await asyncio.wait_for(self._runs.wait(), _SHORTEST_GRACE_S)
        self.note("SIGTERM")
        self.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), max(_SHORTEST_GRACE_S, until - time.monotonic()))
        except TimeoutError:
            self.note("SIGKILL: its grace is over")
            self.signal(signal.SIGKILL)
            await process.wait()

    async def _pre_stop(self, hook: Json, grace: float) -> None:
        self.note("preStop begins")
        try:
            async with asyncio.timeout(grace):
                if "exec" in hook:
                    code, told = await self.execute(hook["exec"]["command"])
                elif "sleep" in hook:
                    code, told = 0, ""
                    await asyncio.sleep(hook["sleep"]["seconds"])
                else:
                    spec = hook["httpGet"]
                    code, told = await get(self._sandbox.address, self.port(spec["port"]), spec) // 400, ""
        except TimeoutError:
            self.note("preStop is cut off")
        except OSError as error:
            self.note(f"preStop failed {error}")
        else:
            self.note(f"preStop ended {code} {told.strip()}".rstrip())

    # ---- from outside ----

    def signal(self, number: signal.Signals, everyone: bool = False) -> None:
        """Send a signal to its first process, or to `everyone`. SIGKILL to the first ends all."""
        first = self._first
        if first is None:  # it is still being made, or is gone
            if self._process is not None and self._process.returncode is None and number == signal.SIGKILL:
                for process in [*psutil.Process(self._process.pid).children(recursive=True)]:
                    process.kill()
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [first, *(first.children(recursive=True) if everyone else ())]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def processes(self, word: str = "") -> list[psutil.Process]:
        """Its processes whose command line has the word."""
        if self._first is None:
            return []
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [self._first, *self._first.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    if word in " ".join(process.cmdline()):
                        found.append(process)
        return found

    async def execute(self, command: Sequence[str]) -> tuple[int, str]:
        """As `kubectl exec`: its exit code and what it printed, the last 10,000 characters. 137: nothing to run in."""
        first, made = self._first, self._made
        if first is None or made is None:
            return 137, ""
        entering = [*inside(first.pid, "mount", "net", "ipc", "uts", "pid", "root", "wd"), *identity(made.ground)]
        process = await asyncio.create_subprocess_exec(
            *entering,
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(made.environ),
            start_new_session=True,
        )
        try:
            told, _ = await process.communicate()
        except asyncio.CancelledError:
            with contextlib.suppress(psutil.NoSuchProcess):
                for part in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
                    part.kill()
            raise
        return process.returncode or 0, told.decode(errors="replace")[-10_000:]

    def note(self, what: str) -> None:
        self._note(self.name, what)

    async def _found(self) -> psutil.Process:
        """Its first process, once it stands in its own root."""
        assert self._process is not None
        assert self._made is not None
        root = str(self._made.ground.folder)
        while True:
            with contextlib.suppress(psutil.NoSuchProcess, OSError):
                for process in psutil.Process(self._process.pid).children(recursive=True):
                    if _number_inside(process.pid) == "1" and str(Path(f"/proc/{process.pid}/root").readlink()) == root:
                        return process
            await asyncio.sleep(_PAUSE_S)


def _number_inside(pid: int) -> str:
    """Its number in the innermost PID namespace."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[-1]
    return str(os.getpid())

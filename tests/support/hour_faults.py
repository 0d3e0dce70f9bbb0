"""What goes wrong in an hour, by a seed: each part of the gateway has its own troubles, one after the other."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import psutil
from redis import RedisError
from ruamel.yaml import YAML

from tests.support.gateway import ROOT, RunningGateway
from tests.support.hour_callers import Callers
from tests.support.postgres_server import PostgresServer
from tests.support.redis_server import RedisServer

Fault = Callable[[], Awaitable[None]]
_STALL_S = (0.3, 2.5)
_PATIENCE_S = 60.0
_WORKERS = 2


class Writers:
    """Processes that write the ledger, as somebody runs them who starts each again that ends."""

    def __init__(self, gateway: RunningGateway, count: int) -> None:
        self._command = [sys.executable, "-m", "extproc.cli", "ledger", "run", "--config", str(gateway.config)]
        self._log = gateway.folder / "ledger.log"
        self._running = [self._started() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self, which: int) -> None:
        self._running[which].kill()

    def tend(self) -> None:
        """Start again what has ended: killed, or begun while the database was away."""
        self._running = [one if one.poll() is None else self._started() for one in self._running]

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)


@dataclass(slots=True)
class Troubles:
    """Every fault there is. `deaths`: from when to when calls may have been lost with a worker, or waited for one."""

    gateway: RunningGateway
    writers: Writers
    redis: RedisServer
    postgres: PostgresServer
    dice: random.Random
    deaths: list[tuple[float, float]] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)

    def _lanes(self, rounds: int) -> Iterator[list[Fault]]:
        """Faults of each part of the gateway, in an order that `dice` says."""
        lanes: tuple[list[Fault], ...] = (
            [self.worker_killed, self.worker_stopped, self.worker_killed],
            [self.redis_stalled, self.redis_restarted, self.redis_flushed],
            [self.postgres_stalled, self.postgres_stopped, self.postgres_killed],
            [self.writer_killed, self.writer_killed],
            [self.reloaded],
        )
        for lane in lanes:
            yield [fault for _ in range(rounds) for fault in self.dice.sample(lane, len(lane))]

    async def run(self, callers: Callers, calls: int, rounds: int) -> None:
        """Have all faults happen so often, spread over the first nine tenths of so many calls."""
        async with asyncio.TaskGroup() as running:
            for lane in self._lanes(rounds):
                moments = sorted(self.dice.uniform(0.05, 0.9) * calls for _ in lane)
                running.create_task(self._happen(callers, zip(moments, lane, strict=True)))

    async def _happen(self, callers: Callers, due: Iterable[tuple[float, Fault]]) -> None:
        for moment, fault in due:
            await callers.reached(int(moment))
            self.happened.append(f"{callers.made}: {getattr(fault, '__name__', '')}")
            await fault()

    # ---- workers ----

    async def worker_killed(self) -> None:
        """At once, with whatever it does."""
        worker = self._worker()
        if worker is not None:
            began = time.monotonic()
            with suppress(psutil.NoSuchProcess):
                worker.kill()
            self.deaths.append((began, time.monotonic() + 0.1))
            await self._all_serve()

    async def worker_stopped(self) -> None:
        """So long that Envoy gives up its calls; then it goes on, as one does whose machine was suspended."""
        worker = self._worker()
        if worker is not None:
            began = time.monotonic()
            with suppress(psutil.NoSuchProcess):
                worker.suspend()
                await asyncio.sleep(self.dice.uniform(*_STALL_S))
                worker.resume()
            self.deaths.append((began, time.monotonic() + 0.5))

    async def _all_serve(self) -> None:
        """Wait until Envoy finds every worker again, so that the next trouble meets an hour and no ruin."""
        await asyncio.sleep(1)
        until = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until and await asyncio.to_thread(self._serving) < _WORKERS:
            await asyncio.sleep(0.1)

    def _serving(self) -> int:
        return self.gateway.envoy_stat("cluster.extproc.membership_healthy")

    def _worker(self) -> psutil.Process | None:
        workers = self.gateway.processes("extproc.worker")
        return self.dice.choice(workers) if workers else None

    # ---- stores ----

    async def redis_stalled(self) -> None:
        self.redis.stall()
        await asyncio.sleep(self.dice.uniform(*_STALL_S))
        self.redis.resume()

    async def redis_restarted(self) -> None:
        """It keeps what it had a second before; the rest is said to it again."""
        await asyncio.to_thread(self.redis.kill)
        await asyncio.sleep(self.dice.uniform(0.1, 1.5))
        await asyncio.to_thread(self.redis.start)

    async def redis_flushed(self) -> None:
        with suppress(RedisError):  # it may still be reading what it had
            await asyncio.to_thread(self.redis.flush)

    async def postgres_stalled(self) -> None:
        self.postgres.stall()
        await asyncio.sleep(self.dice.uniform(*_STALL_S))
        self.postgres.resume()

    async def postgres_stopped(self) -> None:
        await self._without_postgres(self.postgres.stop)

    async def postgres_killed(self) -> None:
        await self._without_postgres(self.postgres.kill)

    async def _without_postgres(self, end: Callable[[], None]) -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(self.dice.uniform(0.1, 1.5))
        await asyncio.to_thread(self.postgres.start)

    # ---- the rest ----

    async def writer_killed(self) -> None:
        self.writers.kill(self.dice.randrange(2))

    async def reloaded(self) -> None:
        """A new revision of the configuration, with one model more than at first."""
        settings: dict[str, Any] = {**self.gateway.settings}
        models = settings["models"]
        settings["models"] = {**models, f"new-{self.dice.getrandbits(32):x}": models["plain"]}
        aside = self.gateway.folder / "next.yaml"
        with aside.open("w") as file:
            YAML().dump(settings, file)
        aside.replace(self.gateway.config)

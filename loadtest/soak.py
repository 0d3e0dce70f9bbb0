"""Ten minutes of calls and mixed faults, after which nothing may have grown: `python -m loadtest.soak`.

Two workers and a Redis. Calls of all kinds, whole and streamed; providers that fail, hang, reset or stall; callers
that leave in the middle, send nonsense or have no key; connections to Redis that are cut. Watched are the workers'
memory, descriptors and threads, Envoy's memory and descriptors, Redis' keys that nothing ends, and what the gateway
itself says of calls, holds and settlements that are open. What was after the first quarter is compared with the end.
Status 1 where something grew, or a worker has more memory than it may.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx
import psutil
import redis.asyncio
import uvloop

from loadtest import load, mixes
from loadtest.bench_budget import redis_server
from loadtest.rehearsal import Place, gateway
from loadtest.setups import StartError
from loadtest.workers import processes

MOST_MIB = 200.0
"""The most that may be resident of a worker, what it shares with others included."""

RESIDENT = "largest worker's resident MiB"

_WORKERS = 2
_CALLERS = 12
_PAUSE = 0.05  # mean seconds between the calls of one caller
_EVERY = 2.0  # seconds between two looks
_CUT_EVERY = 15.0  # seconds between two cuts of all connections to Redis
_OPEN = ("sluice_calls_in_flight", "sluice_holds_open", "sluice_settlements_pending")
_SETTLE = (
    90  # seconds in which all that is open must be over, once nobody calls; a hold that nobody renews lives for 60
)

_FAULTS: Sequence[Mapping[str, Any]] = (
    {"status": 500},
    {"status": 429, "retry_after": 1},
    {"reset": "before"},
    {"reset": 5},
    {"stall_after": 4},
    {"error_event_after": 3},
    {"delay_ms": 300},
    {"malformed_sse": True},
    {"usage": "none"},
)


@dataclass(slots=True)
class Looks:
    """What was seen at each look, by the name of what was looked at."""

    at: dict[str, list[float]] = field(default_factory=dict)

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.at.setdefault(name, []).append(value)


@dataclass(frozen=True, slots=True)
class Growth:
    """Something after the first quarter and in the last; `most` is the largest that it may be then."""

    name: str
    before: float
    after: float
    most: float

    @property
    def flat(self) -> bool:
        return self.after <= self.most


SLACK: Mapping[str, tuple[float, float]] = {
    "MiB": (1.05, 4.0),
    "descriptors": (1.1, 12.0),
    "threads": (1.0, 2.0),
    "keys": (1.0, 3.0),
}
"""By the last word of a name: by which factor, and by how much beside, it may be larger at the end."""


def growth(looks: Looks) -> list[Growth]:
    """Medians of the second quarter beside those of the last one."""
    found = []
    for name, values in looks.at.items():
        quarter = max(1, len(values) // 4)
        before, after = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
        factor, beside = SLACK[name.rpartition(" ")[2]]
        found.append(Growth(name, before, after, before * factor + beside))
    return found


# ---- callers -------------------------------------------------------------------------------------------


class _Crowd:
    """The callers, and what became of their calls."""

    def __init__(self, place: Place, keys: mixes.Keys) -> None:
        self._keys = keys
        self.told: Counter[str] = Counter()
        self._client = httpx.AsyncClient(base_url=place.url, trust_env=False, timeout=20)
        self._over = False

    async def run(self, seconds: float) -> None:
        async with asyncio.TaskGroup() as callers, self._client:
            for number in range(_CALLERS):
                callers.create_task(self._calls(random.Random(number)))
            await asyncio.sleep(seconds)
            self._over = True
            await asyncio.sleep(_PAUSE)

    async def _calls(self, dice: random.Random) -> None:
        while not self._over:
            try:
                self.told[await self._call(dice)] += 1
            except httpx.HTTPError as problem:
                self.told[type(problem).__name__] += 1
            await asyncio.sleep(dice.expovariate(1 / _PAUSE))

    async def _call(self, dice: random.Random) -> str:
        kind, chance = mixes.draw(mixes.MIXES["all"], dice), dice.random()
        body = mixes.body(kind, mixes.Wish(tokens=30), dice)
        key = self._keys.of(kind, dice) if chance > 0.03 else "sk-nobody"
        content = json.dumps(body).encode()
        if chance > 0.95:
            content = content[: dice.randrange(len(content))]
        elif chance > 0.75:
            content = json.dumps(body | {"x_fake": dice.choice(_FAULTS)}).encode()
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        leaves = dice.randrange(1, 6) if dice.random() < 0.1 else 0
        async with self._client.stream("POST", kind.path, content=content, headers=headers) as answer:
            seen = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(3):  # those of a backend that stalls leave, too
                    async for _ in answer.aiter_bytes():
                        seen += 1
                        if leaves and seen == leaves:
                            return "left"
        return str(answer.status_code)


async def _cuts(url: str) -> None:
    async with redis.asyncio.Redis.from_url(url) as client:
        while True:
            await asyncio.sleep(_CUT_EVERY)
            await client.client_kill_filter(_type="normal", skipme=True)


# ---- looking -------------------------------------------------------------------------------------------


async def _looks(place: Place, url: str, looks: Looks) -> None:
    workers, children = processes(place), psutil.Process(place.pid).children(recursive=True)
    envoys = [child for child in children if child.name().startswith("envoy")]
    async with redis.asyncio.Redis.from_url(url) as client:
        while True:
            await asyncio.sleep(_EVERY)
            seen = {"Envoy's MiB": _mib(envoys), "Envoy's descriptors": _sum(envoys, "num_fds")}
            seen |= {"workers' MiB": _mib(workers), "workers' descriptors": _sum(workers, "num_fds")}
            seen["workers' threads"] = _sum(workers, "num_threads")
            seen[RESIDENT] = resident(workers)
            with suppress(redis.ConnectionError):  # cut just then
                seen["Redis' endless keys"] = _endless(await client.info("keyspace"))
            looks.add(seen)


def _endless(keyspace: Mapping[str, Mapping[str, int]]) -> float:
    """Keys that no time removes. Each call leaves one that has its end after hours: it tells a repeat."""
    return float(sum(one["keys"] - one["expires"] for one in keyspace.values()))


def _mib(watched: Sequence[psutil.Process]) -> float:
    return sum(process.memory_full_info().uss for process in watched) / 2**20


def resident(workers: Sequence[psutil.Process]) -> float:
    """Of the worker that has most: what is promised is promised of each."""
    return float(max(worker.memory_info().rss for worker in workers)) / 2**20


def _sum(watched: Sequence[psutil.Process], what: str) -> float:
    return float(sum(getattr(process, what)() for process in watched))


def _open_things(place: Place) -> dict[str, float]:
    """What the gateway says of what is open."""
    lines = httpx.get(f"http://127.0.0.1:{place.metrics}/metrics", trust_env=False).text.splitlines()
    return {
        name: sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and line[0] != "#")
        for name in _OPEN
    }


async def _settled(place: Place) -> dict[str, float]:
    """What stays open when nobody calls any more."""
    left: dict[str, float] = {}
    for _ in range(_SETTLE):
        left = await asyncio.to_thread(_open_things, place)
        if not any(left.values()):
            break
        await asyncio.sleep(1)
    return left


async def soaked(place: Place, url: str, seconds: float) -> tuple[Looks, Counter[str], dict[str, float]]:
    """The looks, what became of the calls, and what stayed open."""
    looks, crowd = Looks(), _Crowd(place, mixes.keys(place.keys))
    beside = asyncio.gather(_looks(place, url, looks), _cuts(url))
    try:
        await crowd.run(seconds)
    finally:
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside
    return looks, crowd.told, await _settled(place)


def of_a_worker(found: Sequence[Growth]) -> float:
    """MiB that are resident at the end of the one that has most."""
    return next(one.after for one in found if one.name == RESIDENT)


def text(found: Sequence[Growth], told: Counter[str], left: Mapping[str, float]) -> str:
    """The table for people."""
    lines = [f"calls: {', '.join(f'{count} x {what}' for what, count in told.most_common())}", ""]
    lines.append(f"{'':<24}{'before':>10}{'after':>10}{'at most':>10}")
    lines += [
        f"{one.name:<24}{one.before:>10.1f}{one.after:>10.1f}{one.most:>10.1f}  {'met' if one.flat else 'MISSED'}"
        for one in found
    ]
    lines += [f"{name:<34}{count:>10.0f}{0:>10}  {'MISSED' if count else 'met'}" for name, count in left.items()]
    return "\n".join(lines)


def _settings(url: str) -> dict[str, str]:
    return {
        "SLUICE__WORKERS": str(_WORKERS),
        "SLUICE__STORES__COUNTERS": url,
        "SLUICE__KEYS__QUICKSTART": "true",
        "SLUICE__CACHE__KEY": "{env: LOAD_CACHE_KEY}",
        "SLUICE__CACHE__TTL": "20s",  # what is kept for longer than a quarter of the time would look like growth
        "LOAD_CACHE_KEY": "k" * 32,
        "SLUICE__MODELS__LOAD_CHAT__ALIASES": f"[{load.MODEL}]",
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="(600)")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        with ExitStack() as stack:
            url = stack.enter_context(redis_server()).url
            place = stack.enter_context(gateway(more=_settings(url)))
            began = time.monotonic()
            looks, told, left = uvloop.run(soaked(place, url, options.seconds))
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    found = growth(looks)
    each = of_a_worker(found)
    if options.json:
        grown = [{**asdict(one), "flat": one.flat} for one in found]
        print(
            json.dumps({"looks": looks.at, "calls": told, "left": left, "growth": grown, "worker_mib": each}, indent=2)
        )
    else:
        print(text(found, told, left))
        print(
            f"\nresident of the largest worker: {each:.0f} MiB, target <= {MOST_MIB:.0f}: "
            f"{'met' if each <= MOST_MIB else 'MISSED'}"
        )
        print(f"{time.monotonic() - began:.0f} s, {os.cpu_count()} cores shared by all.")
    sys.exit(0 if all(one.flat for one in found) and not any(left.values()) and each <= MOST_MIB else 1)


if __name__ == "__main__":
    main()

"""Several workers of one gateway: `python -m loadtest.workers`.

How many calls a second 1, 2, ... workers serve, up to the cores that there are; and whether calls with prompts of 400
kB, one after the other, delay short ones of others. A machine on which the generator, the provider, Envoy and Redis
run, too, has fewer cores for workers than it has: so what is judged is the CPU of a call, which is the same with any
number where workers share nothing. Status 1 where a target is missed, 2 where nothing was measured.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import httpx
import psutil

from extproc.identity.keys import QUICKSTART_KEY
from extproc.interpreter import python
from loadtest import load, mixes
from loadtest.bench_budget import redis_server
from loadtest.open_loop import Told
from loadtest.rehearsal import Place, gateway
from loadtest.setups import ROOT, StartError

DEARER = 1.25
"""The most that the workers' CPU of a call may be, of that with one worker."""

ADDED_MS = 100.0
"""The most that long prompts may add to the 99th percentile of short calls, where there are two workers or more."""

_RATE = 15.0  # short calls a second beside the long ones


@dataclass(frozen=True, slots=True)
class Scale:
    """So many workers under a closed loop."""

    workers: int
    calls_per_second: float
    p99_ms: float
    cpu_us: float  # of all workers, per call


@dataclass(frozen=True, slots=True)
class Beside:
    """Short calls by themselves, and beside long ones, with so many workers."""

    workers: int
    alone_ms: float  # 99th percentile
    beside_ms: float
    failed: int
    long_calls: int


def _settings(workers: int, redis: str) -> dict[str, str]:
    return {
        "SLUICE__WORKERS": str(workers),
        "SLUICE__STORES__COUNTERS": redis,
        "SLUICE__KEYS__QUICKSTART": "true",
        "SLUICE__CACHE__KEY": "{env: LOAD_CACHE_KEY}",
        "LOAD_CACHE_KEY": "k" * 32,
        "SLUICE__MODELS__LOAD_CHAT__ALIASES": f"[{load.MODEL}]",
    }


@contextmanager
def running(workers: int) -> Iterator[Place]:
    """A gateway with so many workers and a Redis of its own."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server()).url
        yield stack.enter_context(gateway(more=_settings(workers, redis)))


def processes(place: Place) -> list[psutil.Process]:
    """Its workers."""
    children = psutil.Process(place.pid).children(recursive=True)
    return [child for child in children if "extproc.worker" in child.cmdline()]


def _cpu(workers: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (worker.cpu_times() for worker in workers))


def _port(place: Place) -> int:
    return int(place.url.rpartition(":")[2])


def _json(command: Sequence[str], patience: float) -> Any:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=patience, check=False)
    if done.returncode != 0:
        raise StartError(f"the load failed: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout)


def scaled(workers: int, seconds: float) -> Scale:
    """Measure one number of workers."""
    with running(workers) as place:
        watched = processes(place)
        before = _cpu(watched)
        options = ("--seconds", str(seconds), "--concurrency", str(8 * workers), "--distinct")
        told = _json(python("loadtest.load", str(_port(place)), *options), seconds + 60)
        done = load.Load(**told)
        spent = _cpu(watched) - before
    return Scale(workers, done.calls / done.seconds, done.p99 * 1e3, spent / done.all_calls * 1e6)


def beside(workers: int, seconds: float) -> Beside:
    """Measure short calls alone, and then beside long ones."""
    with running(workers) as place:
        alone = _short(place, seconds)
        stop, made = threading.Event(), [0]
        long = threading.Thread(target=_long, args=(place, stop, made))
        long.start()
        try:
            mixed = _short(place, seconds)
        finally:
            stop.set()
            long.join()
    failed = sum(told.status != 200 for told in (*alone, *mixed))
    return Beside(workers, _p99(alone), _p99(mixed), failed, made[0])


def _short(place: Place, seconds: float) -> list[Told]:
    options = ("--rate", str(_RATE), "--seconds", str(seconds))
    told = _json(python("loadtest.open_loop", str(_port(place)), *options), seconds + 60)
    return [Told(**one) for one in told["calls"]]


def _long(place: Place, stop: threading.Event, made: list[int]) -> None:
    dice = Random(1)
    headers = {"authorization": f"Bearer {QUICKSTART_KEY}"}
    with httpx.Client(base_url=place.url, headers=headers, trust_env=False, timeout=30) as client:
        while not stop.is_set():
            said = [{"role": "user", "content": mixes.prompt(mixes.LONGEST, dice)}]
            client.post(mixes.CHAT, json={"model": load.MODEL, "messages": said, "max_tokens": 8})
            made[0] += 1


def _p99(calls: Sequence[Told]) -> float:
    return load.percentile(sorted(told.seconds * 1e3 for told in calls), 99)


def missed(scales: Sequence[Scale], found: Beside) -> list[str]:
    """What of the targets was, in words."""
    told = [
        f"{one.workers} workers take {one.cpu_us / scales[0].cpu_us:.2f} times the CPU for a call, target <= {DEARER}"
        for one in scales
        if one.cpu_us > DEARER * scales[0].cpu_us
    ]
    if found.failed:
        told.append(f"{found.failed} short calls failed")
    if found.beside_ms - found.alone_ms > ADDED_MS:
        told.append(f"long prompts add {found.beside_ms - found.alone_ms:.0f} ms, target <= {ADDED_MS:.0f}")
    return told


def text(scales: Sequence[Scale], found: Beside) -> str:
    """The tables for people."""
    lines = [f"{'workers':>8}{'calls/s':>10}{'x one':>8}{'p99 ms':>9}{'worker µs/call':>16}"]
    lines += [
        f"{one.workers:>8}{one.calls_per_second:>10.0f}{one.calls_per_second / scales[0].calls_per_second:>8.2f}"
        f"{one.p99_ms:>9.0f}{one.cpu_us:>16.0f}"
        for one in scales
    ]
    lines.append(
        f"\nshort calls beside prompts of 400 kB, {found.workers} workers: p99 {found.alone_ms:.0f} ms alone, "
        f"{found.beside_ms:.0f} ms beside {found.long_calls} long ones"
    )
    lines += ["", *(f"MISSED: {what}" for what in missed(scales, found))] if missed(scales, found) else ["", "met"]
    lines.append(f"{os.cpu_count()} cores, shared with the generator, the provider, Envoy and Redis.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.workers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (8)")
    parser.add_argument("--most", type=int, default=os.cpu_count() or 1, help="workers (the cores of the machine)")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        scales = [scaled(count, options.seconds) for count in range(1, options.most + 1)]
        found = beside(max(2, options.most), options.seconds)
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    plain = {"scale": [asdict(one) for one in scales], "beside": asdict(found), "missed": missed(scales, found)}
    print(json.dumps(plain, indent=2) if options.json else text(scales, found))
    sys.exit(1 if missed(scales, found) else 0)


if __name__ == "__main__":
    main()

"""Whether a long prompt holds up everybody else: `python -m loadtest.stalls`.

While calls with long prompts pass one after the other, with all policies on, the worker is asked every two milliseconds
whether it is well: the answer comes from the loop that serves the calls, so that the longest time of an answer is the
time for which the loop stood still. The median over many calls counts, less what the same question takes while nothing
long passes, so that what else happens on the machine counts as little as it can. Status 1 where a target is missed.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from extproc.identity.keys import QUICKSTART_KEY
from loadtest import load, mixes
from loadtest.bench_budget import redis_server
from loadtest.setups import Setup, StartError, policies, provider, setup

TARGET_MS = 20.0
SIZES = (1_000, 100_000, 400_000)
"""Bytes of the prompts; the first is what the others are compared with."""

_BETWEEN = 0.002  # seconds between two questions


@dataclass(frozen=True, slots=True)
class Stall:
    """Of prompts of one size: for how long the loop stood still in each call, over the calls, in milliseconds.

    `call_ms` is the median time of a whole call. `above`: the median less that of the shortest prompts.
    """

    size: int
    median_ms: float
    worst_ms: float
    call_ms: float
    above: float


class Watch:
    """Asks the worker all the time; what the answers took since it was asked last."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._asked = 0.0  # when the question went out that has no answer yet

    async def run(self, socket: Path) -> None:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while True:
                self._asked = time.perf_counter()
                await stub.Check(health_pb2.HealthCheckRequest())
                self._longest, self._asked = max(self._longest, time.perf_counter() - self._asked), 0.0
                await asyncio.sleep(_BETWEEN)

    def longest(self) -> float:
        """In seconds."""
        waiting = time.perf_counter() - self._asked if self._asked else 0.0
        longest, self._longest = max(self._longest, waiting), 0.0
        return longest


@asynccontextmanager
async def watching(socket: Path) -> AsyncIterator[Watch]:
    """A watch that asks for as long as the block lasts."""
    watch = Watch()
    asking = asyncio.ensure_future(watch.run(socket))
    try:
        yield watch
    finally:
        asking.cancel()
        await asyncio.wait([asking])


async def _measured(running: Setup, calls: int) -> dict[int, tuple[list[float], list[float]]]:
    """By size, the longest stall and the time of each call, in turns. Raises StartError where a call fails."""
    numbers, dice = itertools.count(), Random(1)
    found: dict[int, tuple[list[float], list[float]]] = {size: ([], []) for size in SIZES}
    headers = {"authorization": f"Bearer {QUICKSTART_KEY}"}
    async with (
        watching(running.state.worker_socket(0)) as watch,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.port}", headers=headers, trust_env=False) as client,
    ):
        for size in (*SIZES, *SIZES * calls):
            said = [{"role": "user", "content": f"{next(numbers)} {mixes.prompt(size, dice)}"}]
            watch.longest()
            began = time.perf_counter()
            answer = await client.post(
                mixes.CHAT, json={"model": load.MODEL, "messages": said, "max_tokens": 8}, timeout=30
            )
            lasted = time.perf_counter() - began
            if answer.status_code != 200:
                raise StartError(f"a call with {size} bytes failed: {answer.text[:300]}")
            await asyncio.sleep(0.02)  # what comes after the answer counts, too
            stalls, times = found[size]
            stalls.append(watch.longest() * 1e3)
            times.append(lasted * 1e3)
    return {size: (stalls[1:], times[1:]) for size, (stalls, times) in found.items()}  # without the warm-up


def report(found: dict[int, tuple[list[float], list[float]]]) -> list[Stall]:
    """The figures of each size."""
    base = statistics.median(found[SIZES[0]][0])
    return [
        Stall(size, statistics.median(stalls), max(stalls), statistics.median(times), statistics.median(stalls) - base)
        for size, (stalls, times) in found.items()
    ]


def text(found: Sequence[Stall]) -> str:
    """The table for people."""
    lines = [f"{'prompt':>12}{'stall ms':>11}{'worst ms':>11}{'call ms':>11}{'above ms':>11}"]
    for one in found:
        line = f"{one.size:>12,}{one.median_ms:>11.1f}{one.worst_ms:>11.1f}{one.call_ms:>11.1f}{one.above:>11.1f}"
        verdict = f"  target <= {TARGET_MS:g}: {'met' if one.above <= TARGET_MS else 'MISSED'}"
        lines.append(line + (verdict if one.size > SIZES[0] else ""))
    lines.append(f"\nMedians over the calls; {os.cpu_count()} cores shared by all, load {os.getloadavg()[0]:.1f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.stalls", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=25, help="of each size (25)")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-stalls-")))
            records = stack.enter_context((folder / "records").open("w+b"))
            redis = stack.enter_context(redis_server()).url
            more = policies(folder / "gateway", redis) | {"timeouts": {"policy": "10s"}}
            running = setup(stack, "stalls", folder / "gateway", provider(stack)[1], records, more)
            found = report(asyncio.run(_measured(running, options.calls)))
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    print(json.dumps([asdict(one) for one in found], indent=2) if options.json else text(found))
    sys.exit(0 if all(one.above <= TARGET_MS for one in found) else 1)


if __name__ == "__main__":
    main()

"""What one call alone waits for: `python -m loadtest.waits`.

Calls one after the other, in turns by Envoy alone, with the null policy, with all policies on, and with all policies on
while each reply of Redis is kept back for some milliseconds by a relay before it. What a call takes longer then, over
that time, is for how many round trips it waits. A round trip is whatever goes to Redis before a reply to any of it is
there; those that a call could not have waited for come after it. Envoy's own records of attempts, which go to Redis in
batches of many calls, are not counted. Status 1 where it is more than one before a call or more than one after it in
any round, 2 where nothing was measured: no call of the gateway's goes without Redis, so that where nothing was seen
before or after most of them, nothing was told of them at all.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from extproc.stores.redis import answers, counters
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.figures import SETUPS, Spread
from loadtest.setups import StartError, policies, provider, setup

MOST = 1
"""Round trips before a call, and after it."""

DELAY = 0.03  # seconds for which a reply is kept back
_REST = 0.05  # seconds between two calls, beside what their replies take
_WARM_UP = 3  # rounds
_STEP = re.compile(rb"EVALSHA\r\n\$40\r\n([0-9a-f]{40})")
_OF_A_CALL = frozenset(
    counters._sha(script)
    for script in (
        *(counters.scripts()[name] for name in ("reserve", "settle")),
        *(answers._scripts()[name] for name in ("look", "keep", "release")),
    )
)
_OF_ENVOY = b":done:attempts."


class Relay:
    """Stands before a Redis, keeps replies back for `delay` seconds, and notes what it is asked, and when."""

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self._to = place.hostname, place.port
        self.delay = 0.0
        self.asked: list[tuple[float, bytes]] = []
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1")

    async def closed(self) -> None:
        """Waits until all connections are."""
        if self._serving:
            await asyncio.wait(self._serving)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        redis, to_redis = await asyncio.open_connection(*self._to)
        with suppress(ConnectionError, asyncio.CancelledError):  # the workers end, or all does
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(client, to_redis))
                both.create_task(self._reply(redis, to_client))
        for writer in (to_client, to_redis):
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _ask(self, client: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        while said := await client.read(1 << 16):
            self.asked.append((time.perf_counter(), said))
            to_redis.write(said)
        to_redis.close()

    async def _reply(self, redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while said := await redis.read(1 << 16):
            if self.delay:
                loop.call_later(self.delay, to_client.write, said)
            else:
                to_client.write(said)


def is_of_a_call(said: bytes) -> bool:
    """Whether one of the commands is a step of a call."""
    ends = [*(step.start() for step in _STEP.finditer(said)), len(said)][1:]
    return any(
        step[1] in _OF_A_CALL and _OF_ENVOY not in said[step.end() : end]
        for step, end in zip(_STEP.finditer(said), ends, strict=True)
    )


def trips(asked: Sequence[tuple[float, bytes]], delay: float) -> list[float]:
    """When each round trip of calls began."""
    began: list[float] = []
    for moment, said in asked:
        if is_of_a_call(said) and (not began or moment - began[-1] >= delay):
            began.append(moment)
    return began


@dataclass(frozen=True, slots=True)
class Round:
    """One call of each setup, in milliseconds; and of the one whose Redis was slow the round trips."""

    alone_ms: Mapping[str, float]
    slow_ms: float
    before: int
    after: int


class _Client:
    """A connection that is kept."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def call(self, request: bytes) -> tuple[float, float]:
        """When it began and ended. Raises StartError for anything but a whole answer."""
        answer, began = load.Answer(), time.perf_counter()
        self._writer.write(request)
        try:
            while not answer.feed(piece := await self._reader.read(1 << 16)):
                if not piece:
                    raise StartError("a connection ended before its answer")
        except load.LoadError as problem:
            raise StartError(str(problem)) from None
        return began, time.perf_counter()

    def close(self) -> None:
        self._writer.close()


async def _round(clients: Mapping[str, _Client], relay: Relay, calls: Iterator[bytes]) -> Round:
    alone = {}
    for name, client in clients.items():
        began, ended = await client.call(next(calls))
        alone[name] = (ended - began) * 1e3
        await asyncio.sleep(_REST)
    relay.delay = DELAY
    relay.asked.clear()
    began, ended = await clients["C"].call(next(calls))
    await asyncio.sleep(_REST + 3 * DELAY)
    relay.delay = 0.0
    found = trips(relay.asked, DELAY)
    before = sum(moment + DELAY <= ended for moment in found)
    return Round(alone, (ended - began) * 1e3, before, len(found) - before)


async def measured(rounds: int) -> list[Round]:
    """Raises StartError, FileNotFoundError where there is no redis-server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-waits-")))
        relay = Relay(stack.enter_context(redis_server()).url)
        async with await relay.start() as server:
            url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            records = stack.enter_context((folder / "records").open("w+b"))
            _, backend = provider(stack)
            clients = {}
            for name in ("A", "B", "C"):
                more = policies(folder / name, url)
                running = await asyncio.to_thread(setup, stack, name, folder / name, backend, records, more)
                clients[name] = _Client(*await asyncio.open_connection("127.0.0.1", running.port))
            calls = load.calls(load.request(stream=False, uncut=True), distinct=True)
            done = [await _round(clients, relay, calls) for _ in range(_WARM_UP + rounds)]
            for client in clients.values():
                client.close()
            return done[_WARM_UP:]


def report(done: Sequence[Round]) -> dict[str, Any]:
    """Spreads over the rounds. `added_ms`: of a call with all policies over one by Envoy alone.

    Raises StartError where round trips that must have been were not seen.
    """
    if not all(statistics.median(getattr(one, when) for one in done) for when in ("before", "after")):
        raise StartError("calls go to Redis and nothing of them was seen there: are these the steps of a call?")
    usual = statistics.median(one.alone_ms["C"] for one in done)
    return {
        "rounds": len(done),
        "delay_ms": DELAY * 1e3,
        "alone_ms": {name: asdict(Spread.of([one.alone_ms[name] for one in done])) for name in done[0].alone_ms},
        "added_ms": asdict(Spread.of([one.alone_ms["C"] - one.alone_ms["A"] for one in done])),
        "waited": asdict(Spread.of([(one.slow_ms - usual) / (DELAY * 1e3) for one in done])),
        "before": asdict(Spread.of([one.before for one in done])),
        "after": asdict(Spread.of([one.after for one in done])),
        "above": {when: sum(getattr(one, when) > MOST for one in done) for when in ("before", "after")},
    }


def met(found: Mapping[str, Any]) -> bool:
    return all(is_met(found, when) for when in ("before", "after"))


def is_met(found: Mapping[str, Any], when: str) -> bool:
    """A count is no figure with noise: one round with more is a miss."""
    return not found["above"][when]


def text(found: Mapping[str, Any]) -> str:
    """The table for people."""
    lines = [f"{'one call alone, ms':<28}{'median':>9}{'from':>9}{'to':>9}"]
    rows = {SETUPS[name]: spread for name, spread in found["alone_ms"].items()}
    rows["added to Envoy alone"] = found["added_ms"]
    lines += [f"{name:<28}{one['median']:>9.2f}{one['low']:>9.2f}{one['high']:>9.2f}" for name, one in rows.items()]
    lines.append(f"\nreplies of Redis kept back for {found['delay_ms']:.0f} ms: a call takes {_times(found['waited'])}")
    for when in ("before", "after"):
        verdict = "met" if is_met(found, when) else "MISSED"
        count = f"{found[when]['max']:g} at most, more than {MOST} in {found['above'][when]} rounds"
        lines.append(f"round trips {when} a call: {count}, target <= {MOST}: {verdict}")
    lines.append(f"\nMedians of {found['rounds']} rounds; {os.cpu_count()} cores shared by all.")
    return "\n".join(lines)


def _times(waited: Mapping[str, float]) -> str:
    return f"{waited['median']:.2f} times that longer ({waited['low']:.2f}..{waited['high']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.waits", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=60, help="(60)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        found = report(uvloop.run(measured(options.rounds)))
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else text(found))
    sys.exit(0 if met(found) else 1)


if __name__ == "__main__":
    main()

"""What a reserve and a settle in Redis cost, and whether many callers can overspend. `python -m loadtest.bench_budget`.

Pairs: our counters, which put concurrent commands into one write, and the same scripts called one by one with
redis-py, in turns (ABAB...) on one redis-server of the bench's own, so that whatever else happens on the machine
meets both alike. Overspend: callers in several processes draw at once on a budget for exactly so many of them.
The status is 1 where a target is missed.
"""

import argparse
import asyncio
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import redis
import redis.asyncio
import uvloop

from extproc.interpreter import python
from extproc.stores.counters import Answer, Counter, CountersUnavailable, Draw, Window
from extproc.stores.redis.counters import RedisCounters, scripts, slot_keys
from loadtest.setups import ROOT

RATIO = 2.5
"""Target: pairs per second of ours over those of plain calls, at the median of the rounds."""

_MINUTE = 60_000
_DAY = 86_400_000
_PATIENCE_S = 10.0
_UNITS = 1_000  # that one caller of the overspend run draws


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds` is the time of one store in one round. Of the overspend run: callers of each process, and repeats."""

    rounds: int
    seconds: float
    concurrency: int
    processes: tuple[int, ...]
    callers: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Pairs:
    """One store in one round. CPU in microseconds a pair; steps: calls of scripts that Redis counted, a pair."""

    per_second: float
    client_us: float
    redis_us: float
    p50_ms: float  # of one reserve
    p99_ms: float
    steps: float


@dataclass(frozen=True, slots=True)
class Overspend:
    """Callers that drew at once on a budget for exactly `room` of them. Overspent: tokens over the capacity."""

    processes: int
    callers: int
    repeats: int
    room: int  # over all repeats, as the figures that follow
    admitted: int
    refused: int
    failed: int
    overspent: int


class PlainCounters(RedisCounters):
    """The same steps as a program would write them with redis-py: one EVALSHA at a time on a pool of connections."""

    def __init__(self, url: str, prefix: str) -> None:
        super().__init__(url, prefix=prefix)
        self._client = redis.asyncio.Redis.from_url(url, protocol=2)

    async def load(self) -> None:
        for script in scripts().values():
            await self._client.script_load(script.decode())

    async def _step(self, name: str, slot: str, hold: str, *rest: bytes) -> list[int]:
        *keys, done = slot_keys(self._prefix, slot)
        keys.append(done + hold)
        reply = await self._client.evalsha(self._shas[name].decode(), len(keys), *keys, "", hold, *rest)
        return reply if isinstance(reply, list) else [reply]

    async def close(self) -> None:
        await self._client.aclose()
        await super().close()


# ---- pairs ----


def draws(now: int, requests: int, tokens: int, money: int) -> list[Draw]:
    """What one call draws on: a key's requests, a user's and a team's tokens, an area's money."""
    windows = {length: _windows(now, length) for length in (_MINUTE, _DAY, 30 * _DAY)}
    wanted = [
        ("key/requests", windows[_MINUTE], requests),
        ("user/tokens", windows[_DAY], tokens),
        ("team/tokens", windows[30 * _DAY], tokens),
        ("area/money", windows[30 * _DAY], money),
    ]
    return [Draw(Counter(key, 10**15, both), units) for key, both, units in wanted]


def _windows(now: int, length: int) -> tuple[Window, Window]:
    start = now - now % length
    return Window(start, start + length), Window(start + length, start + 2 * length)


async def _call_on(store: RedisCounters, names: str, until: float, waits: list[float]) -> None:
    now = time.time_ns() // 1_000_000
    held, used = draws(now, 1, 1_500, 45_000_000), draws(now, 1, 812, 23_345_678)
    event, number = b"x" * 300, 0
    while (began := time.perf_counter()) < until:
        hold = f"{names}-{number}"
        number += 1
        if not (await store.reserve("area", hold, held, _MINUTE)).granted:
            raise RuntimeError("a reserve was refused: the figures would mislead")
        waits.append(time.perf_counter() - began)
        await store.settle("area", hold, used, event)


async def measure(store: RedisCounters, server: "Server", plan: Plan, names: str) -> Pairs:
    server.client.config_resetstat()
    cpu, redis_cpu, began, waits = time.process_time(), server.cpu(), time.perf_counter(), list[float]()
    until = began + plan.seconds
    await asyncio.gather(*[_call_on(store, f"{names}-{one}", until, waits) for one in range(plan.concurrency)])
    lasted, done = time.perf_counter() - began, len(waits)
    centiles = statistics.quantiles(waits, n=100)
    return Pairs(
        per_second=done / lasted,
        client_us=(time.process_time() - cpu) / done * 1e6,
        redis_us=(server.cpu() - redis_cpu) / done * 1e6,
        p50_ms=centiles[49] * 1e3,
        p99_ms=centiles[98] * 1e3,
        steps=server.client.info("commandstats")["cmdstat_evalsha"]["calls"] / done,
    )


async def _rounds(server: "Server", plan: Plan) -> list[dict[str, Pairs]]:
    plain = PlainCounters(server.url, "plain")
    stores: dict[str, RedisCounters] = {"ours": RedisCounters(server.url, _PATIENCE_S, "ours"), "plain": plain}
    await plain.load()
    rounds: list[dict[str, Pairs]] = []
    try:
        for store in stores.values():  # connect, and warm up
            await measure(store, server, Plan(1, 0.3, plan.concurrency, (), 0, 0), "warm")
        for number in range(plan.rounds):
            print(f"pairs, round {number + 1} of {plan.rounds}", file=sys.stderr, flush=True)
            rounds.append({name: await measure(store, server, plan, str(number)) for name, store in stores.items()})
    finally:
        for store in stores.values():
            await store.close()
    return rounds


# ---- overspend ----


async def spend(url: str, prefix: str, name: str, callers: int, capacity: int, at: float) -> dict[str, int]:
    """Many callers of one process draw at once on one budget, at this Unix time: how it went for them."""
    store = RedisCounters(url, _PATIENCE_S, prefix)
    budget = Draw(Counter("budget", capacity, (Window(0, 2**43),)), _UNITS)
    try:
        await store.expire("area")  # connect
        await asyncio.sleep(max(0.0, at - time.time()))
        asked = [store.reserve("area", f"{name}-{one}", [budget], _MINUTE) for one in range(callers)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        granted = [one for one, answer in enumerate(answers) if isinstance(answer, Answer) and answer.granted]
        await asyncio.gather(*[store.settle("area", f"{name}-{one}", [budget]) for one in granted])
    finally:
        await store.close()
    failed = [answer for answer in answers if not isinstance(answer, Answer)]
    for error in failed:
        if not isinstance(error, CountersUnavailable):
            raise error
    return {"admitted": len(granted), "refused": callers - len(granted) - len(failed), "failed": len(failed)}


async def spent(url: str, prefix: str, capacity: int) -> int:
    """How many tokens were used of the budget in the end."""
    store = RedisCounters(url, _PATIENCE_S, prefix)
    try:
        budget = Draw(Counter("budget", capacity, (Window(0, 2**43),)), 0)
        return (await store.extend("area", "nobody", [budget], 1)).readings[0].used
    finally:
        await store.close()


def overspend(server: "Server", plan: Plan, processes: int) -> Overspend:
    room = processes * plan.callers // 3 + 1
    totals = {"admitted": 0, "refused": 0, "failed": 0}
    over = 0
    for repeat in range(plan.repeats):
        print(f"overspend, {processes} processes, {repeat + 1} of {plan.repeats}", file=sys.stderr, flush=True)
        prefix, capacity = f"spend{processes}-{repeat}", room * _UNITS
        at = time.time() + 0.5 + 0.7 * processes  # when all have started
        words = [server.url, prefix, str(plan.callers), str(capacity), str(at)]
        commands = [python("loadtest.bench_budget", "--spend", f"p{one}", *words) for one in range(processes)]
        children = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) for command in commands]
        for child in children:
            told, _ = child.communicate(timeout=60)
            for name, count in json.loads(told).items():
                totals[name] += count
        over += max(0, uvloop.run(spent(server.url, prefix, capacity)) - capacity)
    return Overspend(processes, plan.callers, plan.repeats, room * plan.repeats, **totals, overspent=over)


# ---- the server ----


class Server:
    """The redis-server of the bench, which keeps nothing on disk."""

    def __init__(self, process: psutil.Popen, port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis(port=port)
        self.process = process

    def cpu(self) -> float:
        """Seconds of user and system time."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@contextmanager
def redis_server() -> Iterator[Server]:
    """Raises FileNotFoundError where none is installed."""
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("redis-server is not installed; on Debian and Ubuntu: apt-get install redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        options = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", folder]
        process = psutil.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            server = Server(process, port)
            _await(server)
            yield server
            server.client.close()
        finally:
            process.terminate()
            process.wait(_PATIENCE_S)


def _await(server: Server) -> None:
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            server.client.ping()
        except redis.ConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


# ---- the report ----


def report(rounds: Sequence[Mapping[str, Pairs]], spent: Sequence[Overspend]) -> dict[str, Any]:
    """The medians of the rounds, the ratios round by round, and what missed its target."""
    ratios = [done["ours"].per_second / done["plain"].per_second for done in rounds]
    medians = {
        name: {figure: statistics.median(getattr(done[name], figure) for done in rounds) for figure in Pairs.__slots__}
        for name in ("ours", "plain")
    }
    found = {
        "pairs": medians,
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "overspend": [asdict(one) for one in spent],
    }
    return {**found, "missed": _missed(found)}


def _missed(found: Mapping[str, Any]) -> list[str]:
    missed = []
    if found["ratio"]["median"] < RATIO:
        missed.append(f"{found['ratio']['median']:.2f} times the pairs of plain calls, not {RATIO}")
    if found["pairs"]["ours"]["steps"] != 2:
        missed.append(f"{found['pairs']['ours']['steps']:.3f} round trips a pair, not 2")
    missed += [
        f"{one['processes']} processes: {one['admitted']} admitted of {one['room']}, {one['overspent']} tokens over"
        for one in found["overspend"]
        if (one["admitted"], one["overspent"], one["failed"]) != (one["room"], 0, 0)
    ]
    return missed


def table(found: Mapping[str, Any]) -> str:
    lines = [
        f"{'reserve + settle':18}{'pairs/s':>10}{'client us':>11}{'Redis us':>10}{'p50 ms':>9}{'p99 ms':>9}{'trips':>7}"
    ]
    for name, row in found["pairs"].items():
        lines.append(
            f"{name:18}{row['per_second']:>10,.0f}{row['client_us']:>11.1f}{row['redis_us']:>10.1f}"
            f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['steps']:>7.2f}"
        )
    ratio = found["ratio"]
    lines += [f"ratio {ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f}), target {RATIO}", ""]
    lines.append(
        f"{'processes':>9}{'callers':>9}{'room':>8}{'admitted':>10}{'refused':>9}{'failed':>8}{'overspent':>11}"
    )
    lines += [
        f"{row['processes']:>9}{row['processes'] * row['callers']:>9}{row['room']:>8}{row['admitted']:>10}"
        f"{row['refused']:>9}{row['failed']:>8}{row['overspent']:>11}"
        for row in found["overspend"]
    ]
    return "\n".join(lines + [f"MISSED: {one}" for one in found["missed"]])


def run(plan: Plan) -> dict[str, Any]:
    with redis_server() as server:
        rounds = uvloop.run(_rounds(server, plan))
        return report(rounds, [overspend(server, plan, processes) for processes in plan.processes])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_budget", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement (1)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each store is measured (5)")
    parser.add_argument("--concurrency", type=int, default=32, help="callers at a time (32)")
    parser.add_argument("--callers", type=int, default=200, help="of each process, in the overspend run (200)")
    parser.add_argument("--repeats", type=int, default=3, help="of the overspend run (3)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    parser.add_argument("--spend", nargs=6, help=argparse.SUPPRESS)  # one process of the overspend run
    options = parser.parse_args()
    if options.spend:
        name, url, prefix, callers, capacity, at = options.spend
        print(json.dumps(uvloop.run(spend(url, prefix, name, int(callers), int(capacity), float(at)))))
        return
    plan = Plan(options.rounds, options.seconds, options.concurrency, (1, 2, 4), options.callers, options.repeats)
    try:
        found = run(plan)
    except FileNotFoundError as problem:
        parser.exit(1, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else table(found))
    sys.exit(1 if found["missed"] else 0)


if __name__ == "__main__":
    main()

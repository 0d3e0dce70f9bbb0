"""What the answer cache costs and saves: `python -m loadtest.bench_cache`.

An answer from the cache beside a call that a policy passes that decides nothing, and calls that find nothing beside
calls of a gateway that keeps nothing, in turns (ABCABC...), so that whatever else happens on the machine meets all of
them alike; what counts are the ratios within one round. Answers are kept in the worker's memory, and in a redis-server
of the bench's own. The status is 1 where a target is missed. See loadtest/results/README.md for how to read figures.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from loadtest.bench import BenchError, Plan, measure
from loadtest.bench_budget import redis_server
from loadtest.figures import WORKLOADS, Ratio, Sample, Spread
from loadtest.setups import Setup, StartError, provider, setup

_KEY = "k" * 32
_FIRST = 64  # calls of a load that may come before the first answer is kept


@dataclass(frozen=True, slots=True)
class Way:
    """How calls are made: of which setup, and whether each asks what none has asked."""

    name: str
    setup: str
    distinct: bool = False

    @property
    def options(self) -> Sequence[str]:
        """Of the load. Answers that a cap ends are not kept."""
        return ("--uncut", "--distinct") if self.distinct else ("--uncut",)


WAYS = {
    "null": Way("null policy", "B"),
    "memory": Way("hit, in memory", "memory"),
    "redis": Way("hit, in Redis", "redis"),
    "off": Way("no cache", "off", distinct=True),
    "memory-miss": Way("miss, in memory", "memory", distinct=True),
    "redis-miss": Way("miss, in Redis", "redis", distinct=True),
}
TARGET = 1.5
"""The most that a hit may take of the time of a null call."""


def _latency(sample: Sample) -> float:
    return sample.p50_ms


def _cpu(sample: Sample) -> float:
    return sample.policy_us + sample.envoy_us


def _policy(sample: Sample) -> float:
    return sample.policy_us


RATIOS = (
    Ratio("hit in memory / null, p50", "memory", "null", _latency, TARGET, at_least=False),
    Ratio("hit in memory / null, CPU", "memory", "null", _cpu),
    Ratio("hit in memory / null, ext_proc CPU", "memory", "null", _policy),
    Ratio("hit in Redis / null, p50", "redis", "null", _latency, TARGET, at_least=False),
    Ratio("hit in Redis / null, CPU", "redis", "null", _cpu),
    Ratio("hit in Redis / null, ext_proc CPU", "redis", "null", _policy),
    Ratio("miss in memory / no cache, p50", "memory-miss", "off", _latency),
    Ratio("miss in memory / no cache, CPU", "memory-miss", "off", _cpu),
    Ratio("miss in Redis / no cache, p50", "redis-miss", "off", _latency),
    Ratio("miss in Redis / no cache, CPU", "redis-miss", "off", _cpu),
)

Rounds = Mapping[str, Sequence[Mapping[str, Sample]]]
"""By workload, the rounds in order, each with a sample for each of the WAYS."""


# ---- measuring -----------------------------------------------------------------------------------------


def _setups(stack: ExitStack, records: IO[bytes], port: int, redis: str) -> dict[str, Setup]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
    (folder / "key").write_text(_KEY)
    kept = {"mode": "enforce", "key": {"file": str(folder / "key")}}
    more: dict[str, dict[str, Any]] = {
        "B": {},
        "off": {},
        "memory": {"cache": kept},
        "redis": {"cache": kept, "stores": {"answers": redis}},
    }
    return {name: setup(stack, name, folder / name, port, records, given) for name, given in more.items()}


def _rounds(stack: ExitStack, plan: Plan, records: IO[bytes]) -> Rounds:
    redis = stack.enter_context(redis_server()).url
    child, port = provider(stack)
    fake = psutil.Process(child.pid)
    setups = _setups(stack, records, port, redis)
    rounds: dict[str, list[dict[str, Sample]]] = {workload: [] for workload in WORKLOADS}
    for number in range(1, plan.rounds + 1):
        for workload, done in rounds.items():
            print(f"round {number} of {plan.rounds}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
            stream = workload == "sse"
            done.append(
                {name: measure(plan, setups[way.setup], fake, stream, more=way.options) for name, way in WAYS.items()}
            )
    return rounds


def went(records: Iterable[bytes]) -> Counter[str]:
    """How many calls the gateways' own records show as hits and as misses that were served in full."""
    calls = [record for record in map(json.loads, records) if record["kind"] == "call" and "cache" in record]
    endings = {"hit": "cached", "miss": "complete"}
    results = [call["cache"]["result"] for call in calls if call["ending"] == endings.get(call["cache"]["result"])]
    return Counter(results)


def _check(found: Counter[str], rounds: Rounds) -> None:
    """Raises BenchError where calls did not go as their figures are named."""
    done = [one for all_done in rounds.values() for one in all_done]
    for result, names in (("hit", ("memory", "redis")), ("miss", ("memory-miss", "redis-miss"))):
        calls = sum(one[name].calls for one in done for name in names)
        if found[result] < calls - _FIRST:
            raise BenchError(f"{found[result]} of {calls} calls were a {result}; the figures would mislead")


def run(plan: Plan) -> dict[str, Any]:
    """The report. Raises BenchError."""
    with tempfile.TemporaryFile() as records:
        with ExitStack() as stack:
            rounds = _rounds(stack, plan, records)
        records.seek(0)
        found = went(records)
    _check(found, rounds)
    return {**asdict(plan), "cores": os.cpu_count(), "went": dict(found), "workloads": report(rounds)}


# ---- telling -------------------------------------------------------------------------------------------

_COLUMNS = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "calls_per_second": "calls/s", "policy_us": "ext_proc µs/call"}
_COLUMNS |= {"envoy_us": "Envoy µs/call"}


def report(rounds: Rounds) -> dict[str, Any]:
    """All figures over the rounds, as plain values."""
    return {workload: _of_workload(done) for workload, done in rounds.items()}


def _of_workload(done: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
    ways = {
        name: {column: asdict(Spread.of([getattr(one[name], column) for one in done])) for column in _COLUMNS}
        for name in WAYS
    }
    ratios = {}
    for ratio in RATIOS:
        found = ratio.spread(done)
        ratios[ratio.name] = {**asdict(found), "target": ratio.bound, "met": ratio.met(found)}
    return {"ways": ways, "ratios": ratios}


def missed(found: Mapping[str, Any]) -> list[str]:
    """The targets that were, of the whole report."""
    return [
        f"{workload}: {name}"
        for workload, told in found["workloads"].items()
        for name, ratio in told["ratios"].items()
        if ratio["met"] is False
    ]


def text(found: Mapping[str, Any]) -> str:
    """The report for people."""
    lines: list[str] = []
    for workload, told in found["workloads"].items():
        lines += ["", WORKLOADS[workload], "  " + " " * 16 + "".join(f"{title:>18}" for title in _COLUMNS.values())]
        for name, figures in told["ways"].items():
            cells = "".join(f"{figures[column]['median']:>18.2f}" for column in _COLUMNS)
            lines.append(f"  {WAYS[name].name:<16}{cells}")
        lines += [_line(name, ratio) for name, ratio in told["ratios"].items()]
    lines.append(
        f"\nMedians of {found['rounds']} rounds of {found['seconds']} s (lowest..highest), "
        f"{found['concurrency']} calls at a time, {found['cores']} cores shared by all.\n"
        f"The gateways' records show {found['went'].get('hit', 0)} hits and {found['went'].get('miss', 0)} misses."
    )
    return "\n".join(lines)


def _line(name: str, found: Mapping[str, Any]) -> str:
    told = f"  {name}: {found['median']:.2f} ({found['min']:.2f}..{found['max']:.2f})"
    if found["target"] is None:
        return told
    return f"{told}, target <= {found['target']}: {'met' if found['met'] else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_cache", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement, without warm-up (1.2)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--concurrency", type=int, default=8, help="calls at a time (8)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        found = run(Plan(options.rounds, options.seconds, options.concurrency))
    except (BenchError, StartError, FileNotFoundError) as problem:
        parser.exit(1, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else text(found))
    parser.exit(1 if missed(found) else 0)


if __name__ == "__main__":
    main()

"""What the answer cache costs and saves: `python -m loadtest.bench_cache`.

An answer from the cache beside a call that a policy passes that decides nothing, and calls that find nothing beside
calls of a gateway that keeps nothing, in turns (ABCABC...), so that whatever else happens on the machine meets all of
them alike; what counts are the ratios within one round. Answers are kept in the worker's memory, and in a redis-server
of the bench's own. The status is 1 where a target is missed. See loadtest/results/README.md for how to read figures.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from loadtest import turns
from loadtest.bench import BenchError, Plan, measure
from loadtest.bench_budget import redis_server
from loadtest.figures import Ratio, Sample
from loadtest.setups import Setup, provider, setup
from loadtest.turns import Found, Rounds, Turns

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

TURNS = Turns({name: way.name for name, way in WAYS.items()}, RATIOS)


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

    def measured(name: str, stream: bool) -> Sample:
        way = WAYS[name]
        return measure(plan, setups[way.setup], fake, stream, more=way.options)

    return TURNS.rounds(plan.rounds, measured)


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
    return {**asdict(plan), "cores": os.cpu_count(), "went": dict(found), "workloads": TURNS.report(rounds)}


def text(found: Found) -> str:
    """The report for people."""
    hits, misses = (found["went"].get(result, 0) for result in ("hit", "miss"))
    return TURNS.text(found, f"{hits} hits and {misses} misses")


if __name__ == "__main__":
    turns.main("bench_cache", __doc__, run, text)

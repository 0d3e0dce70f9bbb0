"""How many pods a company needs, and what is in its way first: `python -m loadtest.simulate`.

A model, fed with measured costs (loadtest/results/costs.json, each with the command that made it). What is a sum is
summed: CPU, memory, steps of Redis, rows. How busy a worker may be is not a sum: one loop serves calls, events and, now
and then, a long prompt, and what waits behind that is simulated, message by message. The cores of a pod are shared out
between workers and Envoy so that the fewest pods are needed. See docs/capacity.md.

Not in it: the providers' own limits, and the network between pods, Redis and PostgreSQL.
"""

import argparse
import json
import math
import random
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any

COSTS = Path(__file__).resolve().parent / "results/costs.json"
_MIB = 1024.0  # KiB
_MESSAGES = 20_000  # of one simulation of a worker
_BUSIEST = 0.7  # a larger share of a core leaves nothing for the death of a neighbour, whatever the waiting says


@dataclass(frozen=True, slots=True)
class Costs:
    """What was measured. Microseconds are CPU of one core, user and system."""

    worker_call_us: float  # a JSON call with all policies on
    worker_event_us: float  # an event of a stream that passes
    worker_kilobyte_us: float  # each further kB of prompt
    worker_stall_ms: float  # the longest that the loop stands still for a prompt of 400 kB
    envoy_call_us: float
    envoy_event_us: float
    redis_call_us: float  # of Redis' one thread: reserve and settle in all limits
    redis_event_us: float  # of the same, what no lease saves: the look into the cache, the event for the ledger
    ledger_rows_per_second: float  # from the stream into one PostgreSQL
    worker_stream_kib: float  # memory of a stream that is open
    envoy_stream_kib: float
    worker_base_mib: float
    envoy_base_mib: float


@dataclass(frozen=True, slots=True)
class Demand:
    """What callers do at their busiest, all of them together."""

    calls_per_second: float
    streams: float = 0.8  # share of the calls
    events: float = 300.0  # of a stream
    stream_seconds: float = 12.0
    call_seconds: float = 3.0  # of a call that is no stream
    prompt_kilobytes: float = 8.0  # mean
    long_prompts: float = 0.005  # share of the calls with some 400 kB
    biggest_area: float = 0.2  # its share of all calls: an area's counters live in one slot of Redis
    rows: float = 2.1  # of the ledger, for each call: itself and its attempts

    def open(self) -> float:
        """Calls in flight (Little's law)."""
        return self.calls_per_second * (self.streams * self.stream_seconds + (1 - self.streams) * self.call_seconds)


@dataclass(frozen=True, slots=True)
class Layout:
    """How it is deployed. `cores` of a pod, of which `workers` have one each and Envoy the others; None: as many as
    make for the fewest pods. `delay_ms`: what 99 of 100 messages may wait for a worker at most.

    `lease`: how many calls of a limit are drawn from Redis at once, 1: each by itself. `areas_split`: over how many
    slots the counters of the biggest area are spread.
    """

    cores: int = 3
    workers: int | None = None
    memory_mib: float = 4096.0  # of a pod
    redis_shards: int = 3
    databases: int = 1
    lease: int = 1
    areas_split: int = 1
    delay_ms: float = 20.0
    redis_busiest: float = 0.6  # share of the core of a Redis node


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that can run out. `units` of it are needed, each a `unit`; `has` are there, None where pods bring more.

    `ceiling`: the calls per second at which those that are there are used up; infinite where pods bring more.
    """

    name: str
    units: float
    has: float | None
    ceiling: float
    unit: str = "pods"


@dataclass(frozen=True, slots=True)
class Plan:
    """`first` is the part that is used up at the fewest calls; `holds`: whether none is at this demand."""

    pods: int
    workers: int  # of a pod
    envoy_cores: int
    pod_bound_by: str
    utilisation: float
    open_calls: float
    parts: tuple[Part, ...]
    first: str
    holds: bool


# ---- one worker ----------------------------------------------------------------------------------------


def waits(arrivals: Sequence[float], services: Sequence[float]) -> list[float]:
    """How long each of some messages waits for one server that takes them in order (Lindley's recursion)."""
    waited, found = 0.0, [0.0] if services else []
    for (before, now), service in zip(pairwise(arrivals), services, strict=False):
        waited = max(0.0, waited + service - (now - before))
        found.append(waited)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share does not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def _mixture(costs: Costs, demand: Demand) -> tuple[Sequence[float], Sequence[float]]:
    """Milliseconds of a worker for one message, and how often each comes for a call.

    A call's own cost is in four messages; its prompt adds to the second; a long prompt is a stall of its own.
    """
    step = costs.worker_call_us / 4000
    body = step + demand.prompt_kilobytes * costs.worker_kilobyte_us / 1000
    event = costs.worker_event_us / 1000
    return (step, body, event, costs.worker_stall_ms), (3.0, 1.0, demand.streams * demand.events, demand.long_prompts)


@cache
def wait_p99(costs: Costs, demand: Demand, busy: float) -> float:
    """What 99 of 100 messages wait for a worker at most that is `busy` this share of its time, in milliseconds.

    Messages of many calls come independently of each other, so that their times are those of a Poisson process.
    """
    services, weights = _mixture(costs, demand)
    mean = sum(map(mul, services, weights)) / sum(weights)
    dice = random.Random(1)  # the same for all, so that more work never waits less by luck
    drawn = dice.choices(services, weights, k=_MESSAGES)
    gaps = [dice.expovariate(1.0) for _ in range(_MESSAGES)]
    moment, arrivals = 0.0, []
    for gap in gaps:
        moment += gap * mean / busy
        arrivals.append(moment)
    return percentile(waits(arrivals, drawn), 0.99)


def utilisation(costs: Costs, demand: Demand, delay_ms: float) -> float:
    """The largest share of its core that a worker may be busy, in percents, so that p99 stays within the delay."""
    alike = replace(demand, calls_per_second=1.0)  # what a worker waits for is a matter of the mixture alone
    steps = [step / 100 for step in range(5, round(_BUSIEST * 100) + 1, 5)]
    fits = bisect_right(steps, delay_ms, key=lambda busy: wait_p99(costs, alike, busy))
    return steps[max(0, fits - 1)]


# ---- all of it -----------------------------------------------------------------------------------------


def worker_cores(costs: Costs, demand: Demand) -> float:
    """Cores that are busy all the time."""
    services, weights = _mixture(costs, demand)
    busy: float = sum(map(mul, services, weights))  # milliseconds for a call
    return demand.calls_per_second * busy / 1000


def envoy_cores(costs: Costs, demand: Demand) -> float:
    call = costs.envoy_call_us + demand.streams * demand.events * costs.envoy_event_us
    return demand.calls_per_second * call / 1e6


def _in_pods(costs: Costs, demand: Demand, layout: Layout, workers: int, busy: float) -> Mapping[str, float]:
    """How many pods with so many workers each part asks for. Raises ValueError for pods that could hold no call."""
    base = costs.envoy_base_mib + workers * costs.worker_base_mib
    room = (layout.memory_mib * 0.8 - base) * _MIB  # KiB; a fifth is left to peaks
    if room <= 0:
        raise ValueError("a pod has no memory left for calls: raise memory_mib")
    return {
        "CPU of the workers": worker_cores(costs, demand) / (workers * busy),
        "CPU of Envoy": envoy_cores(costs, demand) / ((layout.cores - workers) * _BUSIEST),
        "memory": demand.open() * (costs.worker_stream_kib + costs.envoy_stream_kib) / room,
    }


def workers_of(costs: Costs, demand: Demand, layout: Layout, busy: float) -> int:
    """How many of a pod's cores are best given to workers. Raises ValueError where there is none for each."""
    if layout.workers is not None:
        if not 1 <= layout.workers < layout.cores:
            raise ValueError(
                f"of {layout.cores} cores {layout.workers} are workers: Envoy needs one, and a worker, too"
            )
        return layout.workers
    if layout.cores < 2:
        raise ValueError("a pod needs two cores: one for Envoy, one for a worker")

    def pods(workers: int) -> float:
        return max(_in_pods(costs, demand, layout, workers, busy).values())

    return min(range(1, layout.cores), key=pods)


def _shared(costs: Costs, demand: Demand, layout: Layout) -> Mapping[str, tuple[float, float, str]]:
    """What pods share: how much of each is needed, and is there, and in what."""
    step = costs.redis_event_us + costs.redis_call_us / layout.lease
    cores = demand.calls_per_second * step / 1e6 / layout.redis_busiest
    return {
        "Redis, all nodes": (cores, layout.redis_shards, "nodes"),
        "Redis, the slot of the biggest area": (cores * demand.biggest_area, layout.areas_split, "nodes"),
        "PostgreSQL, rows of the ledger": (
            demand.calls_per_second * demand.rows / costs.ledger_rows_per_second,
            layout.databases,
            "databases",
        ),
    }


def plan(costs: Costs, demand: Demand, layout: Layout) -> Plan:
    """What it takes. Raises ValueError for a pod that could hold nothing."""
    busy = utilisation(costs, demand, layout.delay_ms)
    workers = workers_of(costs, demand, layout, busy)
    pods = _in_pods(costs, demand, layout, workers, busy)
    shared = _shared(costs, demand, layout)
    parts = [Part(name, units, None, math.inf) for name, units in pods.items()]
    parts += [
        Part(name, units, has, demand.calls_per_second * has / units, unit)
        for name, (units, has, unit) in shared.items()
    ]
    first = min(parts, key=lambda part: part.ceiling)
    return Plan(
        pods=max(2, math.ceil(max(pods.values())) + 1),  # one more than needed: one may die, or be replaced
        workers=workers,
        envoy_cores=layout.cores - workers,
        pod_bound_by=max(pods, key=lambda name: pods[name]),
        utilisation=busy,
        open_calls=demand.open(),
        parts=tuple(parts),
        first=first.name,
        holds=first.ceiling >= demand.calls_per_second,
    )


# ---- the two companies ---------------------------------------------------------------------------------


def engineers(count: int, calls_per_hour: float = 60.0, peak: float = 3.0) -> Demand:
    """So many people with coding agents: `peak` times the mean of a working hour at the busiest moment."""
    return Demand(calls_per_second=count * calls_per_hour / 3600 * peak)


_GOES_ON = "..."
_LARGE = Demand(
    100_000, streams=0.5, events=100, stream_seconds=5, call_seconds=1, prompt_kilobytes=2, long_prompts=0.0005
)
_WIDE = Layout(cores=6, memory_mib=8192, redis_shards=12, databases=4)
SCENARIOS: Mapping[str, tuple[Demand, Layout]] = {
    "2,000 engineers": (engineers(2000), Layout(redis_shards=1)),
    "100,000 calls/s": (_LARGE, _WIDE),
    "... with leases of 100 calls": (_LARGE, replace(_WIDE, lease=100)),
    "... and the ledger over 60 databases": (_LARGE, replace(_WIDE, lease=100, databases=60)),
    "... without leases, by more slots and nodes": (
        _LARGE,
        replace(_WIDE, redis_shards=60, areas_split=12, databases=60),
    ),
}
"""The first two are the question; the others take out of the way what was in it."""


def costs_of(file: Path) -> Costs:
    """Those of a file. Raises ValueError for one that is missing, or that nothing is known of."""
    told = json.loads(file.read_text())
    names = {field.name for field in fields(Costs)}
    if set(told) != names:
        raise ValueError(f"{file}: costs that are missing or unknown: {', '.join(sorted(set(told) ^ names))}")
    return Costs(**{name: float(cost["value"]) for name, cost in told.items()})


def _number(value: float) -> str:
    if value >= 10:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.01 else "< 0.01"


def text(name: str, demand: Demand, layout: Layout, found: Plan, before: str = "") -> str:
    """One plan for people, without the lines that `before`, the text of another, has as well."""
    events = demand.calls_per_second * demand.streams * demand.events
    cores = "a core" if found.envoy_cores == 1 else f"{found.envoy_cores} cores"
    lines = [
        f"  {_number(demand.calls_per_second)} calls/s, {_number(events)} events/s, "
        f"{_number(found.open_calls)} calls open at a time",
        f"  {found.pods:,} pods, each of {found.workers} workers and {cores} for Envoy; "
        f"{found.pod_bound_by} decides, and one pod is to spare",
        f"  workers are busy {found.utilisation:.0%} at most: 99 of 100 messages wait {layout.delay_ms:g} ms or less",
        f"  {'':<38}{'needed':>18}{'there':>8}{'used up at':>20}",
        *map(_part_line, found.parts),
    ]
    known = set(before.splitlines())
    verdict = "enough" if found.holds else "NOT ENOUGH"
    last = f"  first bottleneck: {found.first}: {verdict}"
    return "\n".join([name, *(line for line in lines if line not in known), last])


def _part_line(part: Part) -> str:
    needed = f"{_number(part.units)} {part.unit}"
    if part.has is None:
        return f"  {part.name:<38}{needed:>18}"
    return f"  {part.name:<38}{needed:>18}{part.has:>8g}{f'{_number(part.ceiling)} calls/s':>20}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.simulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--costs", type=Path, default=COSTS, help="measured costs (loadtest/results/costs.json)")
    parser.add_argument("--engineers", type=int, help="a company of so many, in place of the two of the docs")
    parser.add_argument("--calls-per-hour", type=float, default=60.0, help="of each of them (60)")
    parser.add_argument("--calls-per-second", type=float, help="or so many calls, as engineers make them")
    parser.add_argument(
        "--workers", type=int, help="of a pod; the other cores are Envoy's (what makes the fewest pods)"
    )
    for part in ("cores", "redis-shards", "databases", "lease", "areas-split"):
        parser.add_argument(f"--{part}", type=int, help=f"of the layout ({getattr(Layout(), part.replace('-', '_'))})")
    parser.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args()
    try:
        costs = costs_of(options.costs)
        asked = _asked(options)
        found = {name: (demand, layout, plan(costs, demand, layout)) for name, (demand, layout) in asked.items()}
    except (OSError, ValueError) as problem:
        parser.exit(2, f"{problem}\n")
    if options.json:
        print(json.dumps({name: _plain(*one) for name, one in found.items()}, indent=2))
    else:
        print("\n\n".join(_texts(found)))
    sys.exit(0)


def _texts(found: Mapping[str, tuple[Demand, Layout, Plan]]) -> Iterator[str]:
    """Of those that go on from the one before, what changes."""
    before = ""
    for name, one in found.items():
        yield text(name, *one, before if name.startswith(_GOES_ON) else "")
        before = text(name, *one)


def _plain(demand: Demand, layout: Layout, found: Plan) -> dict[str, Any]:
    told = asdict(found)
    for part in told["parts"]:
        part["ceiling"] = None if part["ceiling"] == math.inf else part["ceiling"]
    return {"demand": asdict(demand), "layout": asdict(layout), "plan": told}


def _asked(options: argparse.Namespace) -> Mapping[str, tuple[Demand, Layout]]:
    """The scenarios of the options."""
    names = ("cores", "workers", "redis_shards", "databases", "lease", "areas_split")
    changed = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.calls_per_second is not None:
        return {"as asked": (Demand(options.calls_per_second), replace(Layout(), **changed))}
    if options.engineers is not None:
        demand = engineers(options.engineers, options.calls_per_hour)
        return {f"{options.engineers:,} engineers": (demand, replace(Layout(), **changed))}
    return {name: (demand, replace(layout, **changed)) for name, (demand, layout) in SCENARIOS.items()}


if __name__ == "__main__":
    main()

"""What the reports of the benches come to, figure by figure, each with its target and whether it is met.

A part is a bench with the options that it is run with for what is published; see loadtest.published.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest import bench_pii, compare, overload, soak, stalls, streams, waits, workers
from loadtest.figures import KEPT, SETUPS, WAYS, Spread

Json = Any
"""What a bench printed."""

MET, MISSED, NOT_TOLD = "met", "missed", "not told"

ROWS: Mapping[int, str] = {
    1: "calls/s, all policies ÷ null",
    2: "CPU of the worker a call, all policies ÷ null",
    3: "calls/s, all policies ÷ LiteLLM without any",
    4: "clean text of 10 kB through redaction, beside Presidio; hostile text up to 1 MB",
    5: "round trips to Redis, before a call and after it",
    6: "streams through one worker, no gap over 100 ms that the backend did not make",
    7: "memory over ten minutes, and of a worker",
    8: "calls/s of other ways ÷ the plain call",
}
"""The targets, in their order, for a part that could not be measured."""


@dataclass(frozen=True, slots=True)
class Figure:
    """`row`: of ROWS, 0 for what no target of the project is about. `low` to `high`: over the rounds, None where there
    are none. `verdict`: MET, MISSED, NOT_TOLD, or empty where nothing is asked of it."""

    row: int
    name: str
    value: float
    unit: str = ""
    target: str = ""
    verdict: str = ""
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """`words`: its options, `quick` those for seeing that it works. `patience`: seconds after which it is ended.
    `kept`: a file of loadtest/results that gets its whole report."""

    name: str
    module: str
    rows: Sequence[int]
    read: Callable[[Json], Iterator[Figure]]
    words: Sequence[str] = ()
    quick: Sequence[str] = ()
    patience: float = 600
    kept: str = ""


def _said(is_met: bool) -> str:
    return MET if is_met else MISSED


def _spread(found: Mapping[str, float], by: float = 1.0) -> dict[str, Any]:
    return {"value": found["median"] * by, "low": found["min"] * by, "high": found["max"] * by}


_KINDS = {"json": "JSON", "sse": "stream of 31 events"}


# ---- each bench ----------------------------------------------------------------------------------------


def of_bench(found: Json) -> Iterator[Figure]:
    for workload, told in found["workloads"].items():
        kind = _KINDS[workload]
        rate, cpu = told["ratios"]["C / B, calls/s"], told["ratios"]["C / B, ext_proc CPU per call"]
        yield _judged(1, f"{ROWS[1]}, {kind}", rate, "≥")
        yield _judged(2, f"{ROWS[2]}, {kind}", cpu, "≤")
        for way, ratios in told["ways"].items():
            if way != KEPT:
                yield _judged(8, f"calls/s, {WAYS[way]} ÷ the plain call, {kind}", ratios["calls/s / C"], "≥")
        for setup in ("B", "C0", "C"):
            spread = _spread(told["setups"][setup]["policy_us"], 1e-3)
            yield Figure(0, f"CPU of the worker a call, {SETUPS[setup]}, {kind}", unit="ms", **spread)
        yield Figure(
            0,
            f"CPU of Envoy a call, {SETUPS['C']}, {kind}",
            unit="ms",
            **_spread(told["setups"]["C"]["envoy_us"], 1e-3),
        )


def _judged(row: int, name: str, ratio: Mapping[str, Any], sign: str) -> Figure:
    verdict = _said(ratio["met"]) if ratio["told"] else NOT_TOLD
    return Figure(row, name, target=f"{sign} {ratio['target']:g}", verdict=verdict, **_spread(ratio))


def of_compare(found: Json) -> Iterator[Figure]:
    for workload, told in found["workloads"].items():
        kind, ratio, null = _KINDS[workload], told["times_as_many"]["litellm"], told["null_times_as_many"]["litellm"]
        null_told = f"null itself comes to {null['median']:.1f} ({null['min']:.1f}..{null['max']:.1f})"
        dearer = told["peers"]["litellm"]["cpu_us"]["median"] / told["peers"][compare.OURS]["cpu_us"]["median"]
        note = f"{null_told}; CPU of a call, LiteLLM ÷ ours: {dearer:.1f}; LiteLLM {found['versions']['litellm']}"
        yield Figure(
            3,
            f"{ROWS[3]}, {kind}",
            target=f"≥ {compare.TARGET}",
            verdict=compare.verdict(ratio),
            note=note,
            **_spread(ratio),
        )
        for name, figures in told["peers"].items():
            spread = _spread(figures["cpu_us"], 1e-3)
            yield Figure(0, f"CPU of a call, all processes, {name}, {kind}", unit="ms", **spread)


def of_waits(found: Json) -> Iterator[Figure]:
    for when in ("before", "after"):
        spread, told = _spread(found[when]), _said(waits.is_met(found, when))
        waited, above = found["waited"], found["above"][when]
        note = f"waited for: {waited['median']:.2f} ({waited['low']:.2f}..{waited['high']:.2f})" * (when == "before")
        if above:
            more = f"more than {waits.MOST} in {above} of {found['rounds']} rounds"
            note = f"{note}; {more}" if note else more
        yield Figure(
            5, f"round trips to Redis {when} a call", target=f"≤ {waits.MOST}", verdict=told, note=note, **spread
        )
    for name, one in found["alone_ms"].items():
        yield Figure(0, f"one call alone, {SETUPS[name]}", unit="ms", **_middle(one))
    yield Figure(0, "one call alone, added to Envoy alone", unit="ms", **_middle(found["added_ms"]))


def _middle(found: Mapping[str, float]) -> dict[str, Any]:
    """Of single calls the slowest says little: what holds the true median with 95 % of confidence."""
    return {"value": found["median"], "low": found["low"], "high": found["high"]}


def of_pii(found: Json) -> Iterator[Figure]:
    clean = next(row for row in found["rows"] if row["name"] == "clean, 10 kB")
    took, most = clean["default"] * 1e3, clean["bound"] * 1e3
    yield Figure(4, "clean text of 10 kB through redaction", took, "ms", f"≤ {most:g} ms", _said(took <= most))
    if clean["ratio"] is not None:
        least = clean["ratio_bound"]
        told = _said(clean["ratio"] >= least)
        yield Figure(
            4, "clean text of 10 kB, times as fast as Presidio", clean["ratio"], target=f"≥ {least:g}", verdict=told
        )
    worst = max(found["hostile"], key=lambda one: float(one["exponent"]))
    longest = max(map(int, worst["times"])) // 1000
    size = "1 MB" if longest == 1000 else f"{longest} kB"
    yield Figure(
        4,
        f"hostile text up to {size}, the worst exponent of {len(found['hostile'])} (1 is linear)",
        worst["exponent"],
        target=f"≤ {bench_pii.EXPONENT:g}",
        verdict=_said(worst["exponent"] <= bench_pii.EXPONENT),
        note=worst["name"],
    )


def of_streams(found: Json) -> Iterator[Figure]:
    for one in found:
        plan, seen, told = one["load"], one["seen"], _said(not one["missed"])
        if plan["rate"]:
            due, sent = streams.Load(**plan).due, plan["streams"] * plan["rate"]
            joined = f", which {sent:,.0f} become where text waits for its rest" if due < sent else ""
            note = f"{seen['per_second']:,.0f} of {due:,.0f} events/s{joined}"
            name = f"{plan['name']}: longest gap that was added"
            yield Figure(6, name, seen["added_ms"], "ms", f"≤ {streams.GAP_MS:g} ms at that rate", told, note=note)
            for what, cost in (("the worker", one["worker_us"]), ("Envoy", one["envoy_us"])):
                yield Figure(0, f"{plan['name']}: CPU of {what} an event", cost, "µs")
        else:
            name, most = f"{plan['name']}: memory of one", streams.Load(**plan).most_kib
            note = f"worker {one['worker_kib']:.0f}, Envoy {one['envoy_kib']:.0f}"
            both = one["worker_kib"] + one["envoy_kib"]
            yield Figure(0, name, both, "KiB", f"≤ {most:,} KiB", told, note=note)


def of_cost(found: Json) -> Iterator[Figure]:
    for kind, cost in found.items():
        for who, name in (("governed", "all policies"), ("null", "null")):
            spread = _spread(asdict(Spread.of(cost[who])))
            yield Figure(0, f"the worker without gRPC and Envoy, {name}, {_KINDS.get(kind, kind)}", unit="µs", **spread)


def of_usage(found: Json) -> Iterator[Figure]:
    units = {"ext_proc CPU": "CPU of the null policy", "Envoy CPU": "CPU of Envoy", "messages": "messages"}
    for workload, told in found["workloads"].items():
        for name, ratio in told["ratios"].items():
            what = name.removesuffix(", told over pieces").removesuffix(" per call")
            what = f"{units[what]} a call" if what in units else what
            title = f"{what}, usage told by Envoy at the end ÷ each piece told, {_KINDS[workload]}"
            yield Figure(0, title, **_spread(ratio))


def of_overload(found: Json) -> Iterator[Figure]:
    yield Figure(0, "capacity of one worker, all policies, JSON", found["capacity"], "calls/s")
    for one in found["targets"]:
        sign = "≥" if one["at_least"] else "≤"
        name = f"calls at {overload.FACTOR:g} × capacity: {one['name']}"
        yield Figure(0, name, one["figure"], target=f"{sign} {one['bound']:,g}", verdict=_said(one["met"]))


def of_stalls(found: Json) -> Iterator[Figure]:
    for one in found[1:]:
        told = _said(one["above"] <= stalls.TARGET_MS)
        name = f"a prompt of {one['size'] // 1000} kB: what it adds to the longest pause of the loop"
        yield Figure(0, name, one["above"], "ms", f"≤ {stalls.TARGET_MS:g} ms", told)


def of_workers(found: Json) -> Iterator[Figure]:
    first, *others = found["scale"]
    for one in others:
        dearer, faster = one["cpu_us"] / first["cpu_us"], one["calls_per_second"] / first["calls_per_second"]
        note, told = f"{faster:.2f} times the calls/s", _said(dearer <= workers.DEARER)
        name = f"CPU of a call with {one['workers']} workers ÷ with one"
        yield Figure(0, name, dearer, target=f"≤ {workers.DEARER:g}", verdict=told, note=note)
    beside = found["beside"]
    added = beside["beside_ms"] - beside["alone_ms"]
    told = _said(added <= workers.ADDED_MS and not beside["failed"])
    name = "prompts of 400 kB: what they add to the p99 of short calls beside them"
    yield Figure(0, name, added, "ms", f"≤ {workers.ADDED_MS:g} ms", told)


def of_soak(found: Json) -> Iterator[Figure]:
    grown = {one["name"]: one for one in found["growth"]}
    rising = [name for name, one in grown.items() if not one["flat"]]
    rising += [name for name, count in found["left"].items() if count]
    own = grown["workers' MiB"]
    note = f"grew: {', '.join(rising)}" if rising else "nor did descriptors, threads, Envoy or endless keys grow"
    yield Figure(
        7,
        f"memory of all workers at the end of {sum(found['calls'].values()):,} calls, before: {own['before']:.0f} MiB",
        own["after"],
        "MiB",
        f"≤ {own['most']:.0f} MiB",
        _said(not rising),
        note=note,
    )
    each = found["worker_mib"]
    told = _said(each <= soak.MOST_MIB)
    yield Figure(7, "resident memory of the larger worker then", each, "MiB", f"≤ {soak.MOST_MIB:g} MiB", told)


PARTS: Sequence[Part] = (
    Part(
        "bench",
        "loadtest.bench",
        (1, 2, 8),
        of_bench,
        ("--rounds", "9", "--seconds", "0.7"),
        ("--rounds", "2", "--seconds", "0.3"),
        kept="bench.json",
    ),
    Part(
        "compare",
        "loadtest.compare",
        (3,),
        of_compare,
        ("--peer", "litellm", "--rounds", "5", "--seconds", "2.5"),
        ("--peer", "litellm", "--rounds", "2", "--seconds", "2.5"),
        patience=1800,  # LiteLLM is installed at the first time, and is slow beside others
    ),
    Part("waits", "loadtest.waits", (5,), of_waits, (), ("--rounds", "8")),
    Part("pii", "loadtest.bench_pii", (4,), of_pii, ("--presidio",), ("--presidio", "--quick"), patience=900),
    Part("streams", "loadtest.streams", (6,), of_streams, (), ("--streams", "64", "--seconds", "3")),
    Part("cost", "loadtest.cost", (), of_cost, ("--rounds", "9"), ("--rounds", "2", "--calls", "50")),
    Part(
        "usage",
        "loadtest.bench_usage",
        (),
        of_usage,
        ("--rounds", "3", "--seconds", "1"),
        ("--rounds", "2", "--seconds", "0.5"),
    ),
    Part("overload", "loadtest.overload", (), of_overload, (), ("--seconds", "3")),
    Part("stalls", "loadtest.stalls", (), of_stalls, (), ("--calls", "4")),
    Part("workers", "loadtest.workers", (), of_workers, ("--seconds", "6"), ("--seconds", "2")),
    Part("soak", "loadtest.soak", (7,), of_soak, (), ("--seconds", "20"), patience=900),
)
"""In the order in which they are run: what the targets are about first, what takes longest last."""

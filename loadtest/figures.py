"""The figures of a bench: samples, their spread over the rounds, and the ratios that count."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from typing import Any

SETUPS = {"A": "Envoy alone", "B": "Envoy + null", "C0": "gateway, no policies", "C": "gateway, all policies"}
KEPT = "kept"
WAYS = {
    KEPT: "answers that the cache keeps",
    "renamed": "a renamed model",
    "legacy": "Azure's legacy path",
    "anthropic": "chat → Anthropic",
    "gemini": "chat → Gemini",
}
"""How else the gateway carries a call, each a model of its own: beside C, whose model has one name everywhere."""
WORKLOADS = {"json": "JSON chat, 1 kB prompt", "sse": "SSE chat, 1 kB prompt, 31 events"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One setup under one workload for one round. CPU is user and system time."""

    calls: int  # all of them, the warm-up's, too
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    policy_us: float  # CPU of the ext_proc process per call; 0 where there is none
    envoy_us: float
    messages: float  # from Envoy to the ext_proc process, per call
    generator_cores: float  # CPU of the load generator: what it took from the others
    provider_cores: float
    memory_mib: float = 0.0  # of the ext_proc process at the end: what is its own and resident


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    min: float
    max: float
    low: float = math.nan
    high: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """`low` to `high` hold the true median with 95 % of confidence, or as much as all the rounds give."""
        ordered = sorted(values)
        out = _outside(len(ordered))
        return cls(statistics.median(ordered), ordered[0], ordered[-1], ordered[out], ordered[-1 - out])


def _outside(count: int) -> int:
    """How many of so many values are left out at each end, so that the rest holds the median with 95 %."""
    chance, out = 0.5**count, 0
    while (chance := chance + math.comb(count, out + 1) * 0.5**count) <= 0.025:
        out += 1
    return out


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of a setup divided by the same figure of another, round by round. `bound` is the target."""

    name: str
    of: str
    over: str
    figure: Callable[[Sample], float]
    bound: float | None = None
    at_least: bool = True

    def spread(self, rounds: Sequence[Mapping[str, Sample]]) -> Spread:
        return Spread.of([self.figure(done[self.of]) / self.figure(done[self.over]) for done in rounds])

    def met(self, found: Spread) -> bool | None:
        """Whether the median meets the target; None where there is none."""
        if self.bound is None:
            return None
        return found.median >= self.bound if self.at_least else found.median <= self.bound

    def is_told(self, found: Spread) -> bool:
        """Whether the rounds can tell it: the target is not within their noise."""
        return self.bound is None or not found.low < self.bound < found.high


def _rate(sample: Sample) -> float:
    return sample.calls_per_second


def _cpu(sample: Sample) -> float:
    return sample.policy_us


RATIOS = (
    Ratio("B / A, calls/s", "B", "A", _rate),
    Ratio("C0 / B, calls/s", "C0", "B", _rate),
    Ratio("C0 / B, ext_proc CPU per call", "C0", "B", _cpu),
    Ratio("C / B, calls/s", "C", "B", _rate, 0.5),
    Ratio("C / B, ext_proc CPU per call", "C", "B", _cpu, 2.0, at_least=False),
)

LEAST_OF_PLAIN = 0.6
"""Target: calls per second of each of the WAYS, over those of the plain call."""


def _way_ratios(way: str) -> Mapping[str, Ratio]:
    """What is told of a way: a figure of it, over the same one of a setup, by its title."""
    return {
        "ext_proc CPU / B": Ratio("", way, "B", _cpu),
        "ext_proc CPU / C": Ratio("", way, "C", _cpu),
        "Envoy CPU / C": Ratio("", way, "C", lambda sample: sample.envoy_us),
        "calls/s / C": Ratio("", way, "C", _rate, LEAST_OF_PLAIN),
    }


WAY_RATIOS = tuple(_way_ratios(""))

Rounds = Mapping[str, Sequence[Mapping[str, Sample]]]
"""By workload, the rounds in order, each with a sample by setup and by way."""


def report(rounds: Rounds) -> dict[str, Any]:
    """All figures over the rounds, as plain values."""
    return {workload: _workload_report(done) for workload, done in rounds.items()}


def _workload_report(rounds: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
    figures = {
        setup: {
            field.name: asdict(Spread.of([getattr(done[setup], field.name) for done in rounds]))
            for field in fields(Sample)
        }
        for setup in SETUPS
    }
    ratios = {ratio.name: _ratio_report(ratio, rounds) for ratio in RATIOS}
    ways = {way: _way_report(way, rounds) for way in WAYS}
    return {"setups": figures, "ratios": ratios, "ways": ways, "growth_kib": growth(rounds)}


def _ratio_report(ratio: Ratio, rounds: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
    found = ratio.spread(rounds)
    return {**asdict(found), "target": ratio.bound, "met": ratio.met(found), "told": ratio.is_told(found)}


def _way_report(way: str, rounds: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
    """By the names of WAY_RATIOS; and the policy's CPU and the messages of a call as they are."""
    found = {name: _ratio_report(ratio, rounds) for name, ratio in _way_ratios(way).items()}
    plain = ("policy_us", "messages")
    return found | {name: asdict(Spread.of([getattr(done[way], name) for done in rounds])) for name in plain}


def growth(rounds: Sequence[Mapping[str, Sample]]) -> float | None:
    """KiB of memory that the gateway grows by in a thousand calls, after the first round; None: too few rounds."""
    if len(rounds) < 4:
        return None
    made, points = 0, []
    for done in rounds[1:]:
        made += sum(done[name].calls for name in ("C", *WAYS))
        points.append((made, done["C"].memory_mib * 1024))
    slope, _ = statistics.linear_regression(*zip(*points, strict=True))
    return float(slope * 1000)


def verdict(found: Mapping[str, Any]) -> str:
    """Of one workload after the other: `missed` where a target surely is, else `noise` where one cannot be told."""
    told = [
        ratio
        for figures in found.values()
        for ratio in (*figures["ratios"].values(), *(way["calls/s / C"] for way in figures["ways"].values()))
        if ratio["target"] is not None
    ]
    if any(ratio["told"] and not ratio["met"] for ratio in told):
        return "missed"
    return "met" if all(ratio["told"] for ratio in told) else "noise"


_COLUMNS = (
    ("calls/s", "calls_per_second", "{:.0f}"),
    ("p50 ms", "p50_ms", "{:.1f}"),
    ("p99 ms", "p99_ms", "{:.1f}"),
    ("ext_proc µs/call", "policy_us", "{:.0f}"),
    ("Envoy µs/call", "envoy_us", "{:.0f}"),
    ("messages/call", "messages", "{:.1f}"),
    ("generator cores", "generator_cores", "{:.2f}"),
    ("provider cores", "provider_cores", "{:.2f}"),
    ("MiB", "memory_mib", "{:.0f}"),
)


def table(found: Mapping[str, Any]) -> str:
    """The report for people: medians over the rounds, the spread behind the figures that are compared."""
    out = StringIO()
    for workload, figures in found.items():
        rows = [["", *(title for title, _, _ in _COLUMNS)]]
        for setup, name in SETUPS.items():
            rows.append([f"{setup} {name}", *_cells(figures["setups"][setup])])
        print(f"\n{WORKLOADS[workload]}\n{_aligned(rows)}", file=out)
        for ratio in RATIOS:
            print(f"  {_ratio_line(ratio, figures['ratios'][ratio.name])}", file=out)
        if figures["growth_kib"] is not None:
            print(f"  C, memory: {figures['growth_kib']:+.0f} KiB in a thousand calls", file=out)
        print(_aligned(_way_rows(figures["ways"])), file=out)
    return out.getvalue()


def _way_rows(ways: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "ext_proc µs/call", "messages/call", *WAY_RATIOS]]
    for way, name in WAYS.items():
        figures = [
            f"{ways[way][column]['median']:{form}}" for column, form in (("policy_us", ".0f"), ("messages", ".1f"))
        ]
        rows.append([name, *figures, *(_cell(ways[way][ratio]) for ratio in WAY_RATIOS)])
    return rows


def _cell(found: Mapping[str, Any]) -> str:
    if found["target"] is None:
        return _spread(found)
    return f"{_spread(found)} {('met' if found['met'] else 'MISSED') if found['told'] else 'NOT TOLD'}"


def _spread(found: Mapping[str, float]) -> str:
    return f"{found['median']:.2f} ({found['min']:.2f}..{found['max']:.2f})"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "  ".join(map(str.rjust, row, widths)) for row in rows)


def _cells(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    cells = [form.format(figures[name]["median"]) for _, name, form in _COLUMNS]
    calls = figures["calls_per_second"]
    cells[0] += f" ({calls['min']:.0f}..{calls['max']:.0f})"
    return cells


def _ratio_line(ratio: Ratio, found: Mapping[str, Any]) -> str:
    text = f"{ratio.name}: {_spread(found)}"
    return text + _against(ratio, found)


def _against(ratio: Ratio, found: Mapping[str, Any]) -> str:
    if ratio.bound is None:
        return ""
    sign = ">=" if ratio.at_least else "<="
    if not found["told"]:
        return f", target {sign} {ratio.bound}: NOT TOLD, the noise is larger than the difference"
    return f", target {sign} {ratio.bound}: {'met' if found['met'] else 'MISSED'}"

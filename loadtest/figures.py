"""The figures of a bench: samples, their spread over the rounds, and the ratios that count."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from typing import Any

SETUPS = {"A": "Envoy alone", "B": "Envoy + null", "C": "gateway"}
WAYS = {
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


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


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


RATIOS = (
    Ratio("B / A, calls/s", "B", "A", lambda sample: sample.calls_per_second),
    Ratio("C / B, calls/s", "C", "B", lambda sample: sample.calls_per_second, 0.7),
    Ratio("C / B, ext_proc CPU per call", "C", "B", lambda sample: sample.policy_us, 2.0, at_least=False),
)

WAY_RATIOS = {
    "ext_proc CPU / B": ("B", lambda sample: sample.policy_us),
    "ext_proc CPU / C": ("C", lambda sample: sample.policy_us),
    "Envoy CPU / C": ("C", lambda sample: sample.envoy_us),
    "calls/s / C": ("C", lambda sample: sample.calls_per_second),
}
"""What is told of a way: a figure of it, over the same one of a setup."""

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
    ratios = {}
    for ratio in RATIOS:
        found = ratio.spread(rounds)
        ratios[ratio.name] = {**asdict(found), "target": ratio.bound, "met": ratio.met(found)}
    return {"setups": figures, "ratios": ratios, "ways": {way: _way_report(way, rounds) for way in WAYS}}


def _way_report(way: str, rounds: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
    """By the names of WAY_RATIOS; and the policy's CPU and the messages of a call as they are."""
    found = {name: asdict(Ratio(name, way, over, figure).spread(rounds)) for name, (over, figure) in WAY_RATIOS.items()}
    plain = ("policy_us", "messages")
    return found | {name: asdict(Spread.of([getattr(done[way], name) for done in rounds])) for name in plain}


_COLUMNS = (
    ("calls/s", "calls_per_second", "{:.0f}"),
    ("p50 ms", "p50_ms", "{:.1f}"),
    ("p99 ms", "p99_ms", "{:.1f}"),
    ("ext_proc µs/call", "policy_us", "{:.0f}"),
    ("Envoy µs/call", "envoy_us", "{:.0f}"),
    ("messages/call", "messages", "{:.1f}"),
    ("generator cores", "generator_cores", "{:.2f}"),
    ("provider cores", "provider_cores", "{:.2f}"),
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
        print(_aligned(_way_rows(figures["ways"])), file=out)
    return out.getvalue()


def _way_rows(ways: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "ext_proc µs/call", "messages/call", *WAY_RATIOS]]
    for way, name in WAYS.items():
        figures = [
            f"{ways[way][column]['median']:{form}}" for column, form in (("policy_us", ".0f"), ("messages", ".1f"))
        ]
        rows.append([name, *figures, *(_spread(ways[way][ratio]) for ratio in WAY_RATIOS)])
    return rows


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
    if ratio.bound is None:
        return text
    sign, verdict = ">=" if ratio.at_least else "<=", "met" if found["met"] else "MISSED"
    return f"{text}, target {sign} {ratio.bound}: {verdict}"

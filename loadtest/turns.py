"""Ways to make calls that are measured in turns (ABCABC...), and what is told of them.

Whatever else happens on the machine meets all of the ways alike; what counts are the ratios within one round.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.bench import BenchError, Plan
from loadtest.figures import WORKLOADS, Ratio, Sample, Spread
from loadtest.setups import StartError

Rounds = Mapping[str, Sequence[Mapping[str, Sample]]]
"""By workload, the rounds in order, each with a sample for each of the ways."""
Found = Mapping[str, Any]
"""A report: the settings of its plan, `cores`, and under `workloads` what `Turns.report` makes of the rounds."""

_COLUMNS = {"p50_ms": "p50 ms", "p99_ms": "p99 ms", "calls_per_second": "calls/s", "policy_us": "ext_proc µs/call"}
_COLUMNS |= {"envoy_us": "Envoy µs/call"}


@dataclass(frozen=True, slots=True)
class Turns:
    """The ways of a bench, by key as people read them, and what counts of them."""

    ways: Mapping[str, str]
    ratios: Sequence[Ratio]

    def rounds(self, count: int, measured: Callable[[str, bool], Sample]) -> Rounds:
        """`measured` is told the key of a way, and whether its calls are streams."""
        rounds: dict[str, list[dict[str, Sample]]] = {workload: [] for workload in WORKLOADS}
        for number in range(1, count + 1):
            for workload, done in rounds.items():
                print(f"round {number} of {count}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
                done.append({way: measured(way, workload == "sse") for way in self.ways})
        return rounds

    def report(self, rounds: Rounds) -> dict[str, Any]:
        """All figures over the rounds, as plain values."""
        return {workload: self._of_workload(done) for workload, done in rounds.items()}

    def _of_workload(self, done: Sequence[Mapping[str, Sample]]) -> dict[str, Any]:
        ways = {
            way: {column: asdict(Spread.of([getattr(one[way], column) for one in done])) for column in _COLUMNS}
            for way in self.ways
        }
        ratios = {}
        for ratio in self.ratios:
            found = ratio.spread(done)
            ratios[ratio.name] = {**asdict(found), "target": ratio.bound, "met": ratio.met(found)}
        return {"ways": ways, "ratios": ratios}

    def text(self, found: Found, records: str) -> str:
        """The report for people. `records` says what the gateways' own records show."""
        lines: list[str] = []
        width = max(map(len, self.ways.values()))
        head = "  " + " " * width + "".join(f"{title:>18}" for title in _COLUMNS.values())
        for workload, told in found["workloads"].items():
            lines += ["", WORKLOADS[workload], head]
            for way, figures in told["ways"].items():
                cells = "".join(f"{figures[column]['median']:>18.2f}" for column in _COLUMNS)
                lines.append(f"  {self.ways[way]:<{width}}{cells}")
            lines += [_line(name, ratio) for name, ratio in told["ratios"].items()]
        lines.append(
            f"\nMedians of {found['rounds']} rounds of {found['seconds']} s (lowest..highest), "
            f"{found['concurrency']} calls at a time, {found['cores']} cores shared by all.\n"
            f"The gateways' records show {records}."
        )
        return "\n".join(lines)


def _line(name: str, found: Found) -> str:
    told = f"  {name}: {found['median']:.2f} ({found['min']:.2f}..{found['max']:.2f})"
    if found["target"] is None:
        return told
    return f"{told}, target <= {found['target']}: {'met' if found['met'] else 'MISSED'}"


def missed(found: Found) -> list[str]:
    """The targets that were, of the whole report."""
    return [
        f"{workload}: {name}"
        for workload, told in found["workloads"].items()
        for name, ratio in told["ratios"].items()
        if ratio["met"] is False
    ]


def main(name: str, doc: str | None, run: Callable[[Plan], Found], text: Callable[[Found], str]) -> None:
    """A command line. Its status is 1 where a target is missed or nothing could be measured."""
    parser = argparse.ArgumentParser(prog=f"python -m loadtest.{name}", description=(doc or "").partition("\n")[0])
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

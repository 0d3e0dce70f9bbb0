"""What traces and logs by OpenTelemetry cost a call: `python -m loadtest.bench_telemetry`.

Gateways without and with them are measured in turns (ABCABC...), so that whatever else happens on the machine meets
all of them alike; what counts are the ratios within one round. The collector is a process of the bench's own, which
reads and counts; another one takes connections and says nothing. The status is 1 where a target is missed. See
loadtest/results/README.md for how to read figures.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from extproc.interpreter import python
from loadtest.bench import BenchError, Plan, measure
from loadtest.figures import WORKLOADS, Ratio, Sample, Spread
from loadtest.setups import Setup, StartError, provider, setup, start

WAYS = {
    "off": "no telemetry",
    "unsampled": "traces, none sampled",
    "tenth": "traces, a tenth sampled",
    "sampled": "traces, all sampled",
    "logs": "logs of all calls",
    "hanging": "all of it, collector hangs",
    "away": "all of it, collector away",
    "envoy": "all of it, Envoy's spans too",
}
TARGET = 1.05
"""The most CPU that a worker may take for a call that is not sampled, over one without traces."""


def _policy(sample: Sample) -> float:
    return sample.policy_us


def _envoy(sample: Sample) -> float:
    return sample.envoy_us


def _median(sample: Sample) -> float:
    return sample.p50_ms


def _slow(sample: Sample) -> float:
    return sample.p99_ms


RATIOS = (
    Ratio("none sampled / off, ext_proc CPU", "unsampled", "off", _policy, TARGET, at_least=False),
    Ratio("a tenth sampled / off, ext_proc CPU", "tenth", "off", _policy),
    Ratio("all sampled / off, ext_proc CPU", "sampled", "off", _policy),
    Ratio("logs / off, ext_proc CPU", "logs", "off", _policy),
    Ratio("collector hangs / off, ext_proc CPU", "hanging", "off", _policy),
    Ratio("collector hangs / off, p50", "hanging", "off", _median),
    Ratio("collector hangs / off, p99", "hanging", "off", _slow),
    Ratio("collector away / off, p99", "away", "off", _slow),
    Ratio("Envoy's spans too / off, ext_proc CPU", "envoy", "off", _policy),
    Ratio("Envoy's spans too / off, Envoy's CPU", "envoy", "off", _envoy),
)

Rounds = Mapping[str, Sequence[Mapping[str, Sample]]]
"""By workload, the rounds in order, each with a sample for each of the WAYS."""


def _collector(stack: ExitStack, *words: str) -> str:
    """The URL of one, in a process of its own."""
    child = start(stack, python("loadtest.collector", *words), stdout=-1)
    if child.stdout is None:
        raise AssertionError("a pipe was asked for")
    port = child.stdout.readline()
    if not port:
        raise StartError("the collector did not start")
    return f"http://127.0.0.1:{int(port)}"


def _telemetry(quick: str, hanging: str, away: str) -> Mapping[str, Mapping[str, Any]]:
    def all_of_it(url: str, **more: Any) -> Mapping[str, Any]:
        return {"traces": {"endpoint": url, "sample": 1, **more}, "logs": {"endpoint": url}}

    return {
        "off": {},
        "unsampled": {"traces": {"endpoint": quick, "sample": 0}},
        "tenth": {"traces": {"endpoint": quick, "sample": 0.1}},
        "sampled": {"traces": {"endpoint": quick, "sample": 1}},
        "logs": {"logs": {"endpoint": quick}},
        "hanging": all_of_it(hanging),
        "away": all_of_it(away),
        "envoy": all_of_it(quick, envoy=True),
    }


def _setups(stack: ExitStack, records: IO[bytes], port: int) -> dict[str, Setup]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
    told = _telemetry(_collector(stack), _collector(stack, "--hang"), "http://127.0.0.1:9")
    return {name: setup(stack, name, folder / name, port, records, {"telemetry": told[name]}) for name in WAYS}


def _rounds(stack: ExitStack, plan: Plan, records: IO[bytes]) -> Rounds:
    child, port = provider(stack)
    fake = psutil.Process(child.pid)
    setups = _setups(stack, records, port)
    rounds: dict[str, list[dict[str, Sample]]] = {workload: [] for workload in WORKLOADS}
    for number in range(1, plan.rounds + 1):
        for workload, done in rounds.items():
            print(f"round {number} of {plan.rounds}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
            done.append({name: measure(plan, setups[name], fake, workload == "sse") for name in WAYS})
    return rounds


def run(plan: Plan) -> dict[str, Any]:
    """The report. Raises BenchError, StartError."""
    with tempfile.TemporaryFile() as records:
        with ExitStack() as stack:
            rounds = _rounds(stack, plan, records)
        records.seek(0)
        traced = sum("span_id" in json.loads(record) for record in records)
    _check(traced, rounds)
    return {**asdict(plan), "cores": os.cpu_count(), "traced": traced, "workloads": report(rounds)}


def _check(traced: int, rounds: Rounds) -> None:
    """Raises BenchError where calls that should have been traced were not, or the other way round."""
    done = [one for all_done in rounds.values() for one in all_done]
    whole = sum(one[name].calls for one in done for name in ("sampled", "hanging", "away", "envoy"))
    tenth = sum(one["tenth"].calls for one in done)
    if not whole <= traced <= whole + tenth / 5 + 200:
        raise BenchError(
            f"{traced} calls were traced, and not {whole} and a tenth of {tenth}; the figures would mislead"
        )


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
        lines += ["", WORKLOADS[workload], "  " + " " * 28 + "".join(f"{title:>18}" for title in _COLUMNS.values())]
        for name, figures in told["ways"].items():
            cells = "".join(f"{figures[column]['median']:>18.2f}" for column in _COLUMNS)
            lines.append(f"  {WAYS[name]:<28}{cells}")
        lines += [_line(name, ratio) for name, ratio in told["ratios"].items()]
    lines.append(
        f"\nMedians of {found['rounds']} rounds of {found['seconds']} s (lowest..highest), "
        f"{found['concurrency']} calls at a time, {found['cores']} cores shared by all.\n"
        f"The gateways' records show {found['traced']} calls that were traced."
    )
    return "\n".join(lines)


def _line(name: str, found: Mapping[str, Any]) -> str:
    told = f"  {name}: {found['median']:.2f} ({found['min']:.2f}..{found['max']:.2f})"
    if found["target"] is None:
        return told
    return f"{told}, target <= {found['target']}: {'met' if found['met'] else 'MISSED'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.bench_telemetry", description=(__doc__ or "").partition("\n")[0]
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
    except (BenchError, StartError) as problem:
        parser.exit(1, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else text(found))
    parser.exit(1 if missed(found) else 0)


if __name__ == "__main__":
    main()

"""What the gateway costs: Envoy alone, Envoy with a policy that decides nothing, and the gateway, side by side.

`python -m loadtest.bench`. The gateway has all its policies on, and a redis-server of the bench's own; beside it stands
one that only knows its callers. The setups are measured in turns (ABCABC...), so that whatever else happens on the
machine meets all of them alike; what counts are the ratios within one round. So are the other ways in which the gateway
carries a call: under another name, by another path, in another dialect. Everything runs on this machine and ends with
the bench. The status is 1 where a target is missed, and 3 where the rounds differ too much to tell. See
loadtest/results/README.md for how to read the figures.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from extproc.interpreter import python
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.figures import KEPT, SETUPS, WAYS, WORKLOADS, Sample, report, table, verdict
from loadtest.setups import ROOT, Setup, StartError, policies, provider, setup


class BenchError(Exception):
    """The figures would say nothing, or something wrong; the text says why."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. `seconds` is the time of one setup under one workload in one round."""

    rounds: int
    seconds: float
    concurrency: int


_AFRESH = ("--distinct",)  # no call is made twice, so that the cache is asked in vain; what a cap ends it does not keep
_STATUS = {"met": 0, "missed": 1, "noise": 3}


def measure(
    plan: Plan, running: Setup, fake: psutil.Process, stream: bool, model: str = load.MODEL, more: Sequence[str] = ()
) -> Sample:
    """Put a load on one setup, in a process of its own, with `more` options. Raises BenchError when a call failed.

    CPU and messages are taken over all calls, the warm-up's, too; rate and latency without it.
    """
    watched = (running.envoy, running.policy, fake)
    messages, cpu, began = running.messages(), [_cpu(process) for process in watched], time.monotonic()
    done = _generate(plan, running.port, ["--model", model, *["--stream"] * stream, *more])
    lasted = time.monotonic() - began
    envoy, policy, provided = (_cpu(process) - before for process, before in zip(watched, cpu, strict=True))
    return Sample(
        calls=done.all_calls,
        calls_per_second=done.calls / done.seconds,
        p50_ms=done.p50 * 1e3,
        p99_ms=done.p99 * 1e3,
        policy_us=policy / done.all_calls * 1e6,
        envoy_us=envoy / done.all_calls * 1e6,
        messages=(running.messages() - messages) / done.all_calls,
        generator_cores=done.cpu / done.seconds,
        provider_cores=provided / lasted,
        memory_mib=0.0 if running.policy is None else running.policy.memory_full_info().uss / 2**20,
    )


def _generate(plan: Plan, port: int, what: Sequence[str]) -> load.Load:
    options = ["--seconds", str(plan.seconds), "--concurrency", str(plan.concurrency)]
    command = python("loadtest.load", str(port), *options, *what)
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=plan.seconds + 60, check=True)
    except subprocess.CalledProcessError as failed:
        raise BenchError(f"the load failed: {failed.stderr.decode()}") from None
    return load.Load(**json.loads(done.stdout))


def _cpu(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _rounds(stack: ExitStack, plan: Plan, records: IO[bytes]) -> dict[str, list[dict[str, Sample]]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
    redis = stack.enter_context(redis_server()).url
    child, port = provider(stack)
    fake = psutil.Process(child.pid)
    more = {name: {} if name == "C0" else policies(folder / name, redis) for name in SETUPS}
    setups = {name: setup(stack, name, folder / name, port, records, more[name]) for name in SETUPS}
    rounds: dict[str, list[dict[str, Sample]]] = {workload: [] for workload in WORKLOADS}
    for number in range(1, plan.rounds + 1):
        for workload, done in rounds.items():
            print(f"round {number} of {plan.rounds}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
            stream = workload == "sse"
            found = {name: measure(plan, running, fake, stream, more=_AFRESH) for name, running in setups.items()}
            kept = {KEPT: measure(plan, setups["C"], fake, stream, more=("--uncut", *_AFRESH))}
            ways = {way: measure(plan, setups["C"], fake, stream, way, _AFRESH) for way in WAYS if way != KEPT}
            done.append(found | kept | ways)
    return rounds


def governed(records: Iterable[bytes]) -> int:
    """How many calls the gateway's own records show as whole, their caller known and the provider's usage read."""
    calls = [record for record in map(json.loads, records) if record["kind"] == "call"]
    return sum(
        call["ending"] == "complete" and "key" in call and call.get("usage", {}).get("source") == "reported"
        for call in calls
    )


def run(plan: Plan) -> dict[str, Any]:
    """The report, once the gateway's records prove that it did its work on every call. Raises BenchError."""
    with tempfile.TemporaryFile() as records:
        with ExitStack() as stack:
            rounds = _rounds(stack, plan, records)
        records.seek(0)
        counted = governed(records)
    calls = sum(done[name].calls for all_done in rounds.values() for done in all_done for name in ("C0", "C", *WAYS))
    if counted < calls:
        raise BenchError(f"the gateway checked and counted {counted} of {calls} calls; its figures would mislead")
    found = report(rounds)
    return {
        **asdict(plan),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "governed_calls": counted,
        "verdict": verdict(found),
        "workloads": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement, without warm-up (1.2)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each setup is measured (7)")
    parser.add_argument("--concurrency", type=int, default=32, help="calls at a time (32)")
    parser.add_argument(
        "--quick", action="store_true", help="two short rounds, to see that all is well: they tell little"
    )
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    plan = Plan(options.rounds, options.seconds, options.concurrency)
    try:
        found = run(replace(plan, rounds=2, seconds=0.5) if options.quick else plan)
    except (BenchError, StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else _text(found))
    sys.exit(_STATUS[found["verdict"]])


def _text(found: Mapping[str, Any]) -> str:
    return (
        f"{table(found['workloads'])}\n"
        f"Medians of {found['rounds']} rounds of {found['seconds']} s (lowest..highest), "
        f"{found['concurrency']} calls at a time, {found['cores']} cores shared by all.\n"
        f"The gateway's records show {found['governed_calls']} calls, each with its caller and the provider's usage."
    )


if __name__ == "__main__":
    main()

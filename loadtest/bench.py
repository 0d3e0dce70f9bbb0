"""What the gateway costs: Envoy alone, Envoy with a policy that decides nothing, and the gateway, side by side.

`python -m loadtest.bench`. The three setups are measured in turns (ABCABC...), so that whatever else happens on
the machine meets all of them alike; what counts are the ratios within one round. Everything runs on this machine
and ends with the bench. See results/README.md for how to read the figures.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import psutil

from extproc.supervisor import python
from loadtest import load
from loadtest.figures import SETUPS, WORKLOADS, Sample, report, table
from loadtest.setups import ROOT, Setup, provider, setup


class BenchError(Exception):
    """The bench cannot say anything; the text says why."""


def measure(setup: Setup, provider: psutil.Process, stream: bool, seconds: float, concurrency: int) -> Sample:
    """Put a load on one setup, in a process of its own. Raises BenchError when a call did not succeed.

    CPU and messages are taken over all calls, the warm-up's, too; rate and latency without it.
    """
    policy, before_messages = setup.policy, setup.messages()
    cpu = [_cpu(process) for process in (setup.envoy, policy, provider)]
    began = time.monotonic()
    done = _generate(setup.port, stream, seconds, concurrency)
    lasted = time.monotonic() - began
    envoy, decided, provided = (
        _cpu(process) - before for process, before in zip((setup.envoy, policy, provider), cpu, strict=True)
    )
    return Sample(
        calls=done.all_calls,
        calls_per_second=done.calls / done.seconds,
        p50_ms=done.p50 * 1e3,
        p99_ms=done.p99 * 1e3,
        policy_us=decided / done.all_calls * 1e6,
        envoy_us=envoy / done.all_calls * 1e6,
        messages=(setup.messages() - before_messages) / done.all_calls,
        generator_cores=done.cpu / done.seconds,
        provider_cores=provided / lasted,
    )


def _generate(port: int, stream: bool, seconds: float, concurrency: int) -> load.Load:
    command = python("loadtest.load", str(port), "--seconds", str(seconds), "--concurrency", str(concurrency))
    command += ["--stream"] if stream else []
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + 60, check=True)
    except subprocess.CalledProcessError as failed:
        raise BenchError(f"the load failed: {failed.stderr.decode()}") from None
    return load.Load(**json.loads(done.stdout))


def _cpu(process: psutil.Process | None) -> float:
    if process is None:
        return 0.0
    times = process.cpu_times()
    return float(times.user + times.system)


def _rounds(stack: ExitStack, options: argparse.Namespace, records: IO[bytes]) -> dict[str, list[dict[str, Sample]]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
    child, provider_port = provider(stack)
    provider = psutil.Process(child.pid)
    setups = {name: setup(stack, name, folder / name, provider_port, records) for name in SETUPS}
    rounds: dict[str, list[dict[str, Sample]]] = {workload: [] for workload in WORKLOADS}
    for number in range(1, options.rounds + 1):
        for workload, done in rounds.items():
            print(f"round {number} of {options.rounds}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
            done.append(
                {
                    name: measure(setup, provider, workload == "sse", options.seconds, options.concurrency)
                    for name, setup in setups.items()
                }
            )
    return rounds


def governed(records: Iterable[bytes]) -> int:
    """How many calls the gateway's own records show as whole, their caller known and the provider's usage read."""
    calls = [record for record in map(json.loads, records) if record["kind"] == "call"]
    return sum(
        call["ending"] == "complete" and "key" in call and call.get("usage", {}).get("source") == "reported"
        for call in calls
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All rounds, and the proof that the gateway did its work on every call. Raises BenchError."""
    with tempfile.TemporaryFile() as records:
        with ExitStack() as stack:
            rounds = _rounds(stack, options, records)
        records.seek(0)
        counted = governed(records)
    calls = sum(done["C"].calls for all_done in rounds.values() for done in all_done)
    if counted < calls:
        raise BenchError(f"the gateway checked and counted {counted} of {calls} calls; its figures would mislead")
    return {
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "concurrency": options.concurrency,
        "governed_calls": counted,
        "workloads": report(rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.bench", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=1.2, help="of each measurement, without warm-up (1.2)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each setup is measured (5)")
    parser.add_argument("--concurrency", type=int, default=32, help="calls at a time (32)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        found = run(options)
    except BenchError as problem:
        parser.exit(1, f"{problem}\n")
    if options.json:
        print(json.dumps(found, indent=2))
        return
    print(table(found["workloads"]))
    print(
        f"Medians of {options.rounds} rounds of {options.seconds} s (lowest..highest), {options.concurrency} calls at "
        f"a time, {found['cores']} cores shared by all; the gateway checked and counted {found['governed_calls']} calls."
    )


if __name__ == "__main__":
    main()

"""What traces and logs by OpenTelemetry cost a call: `python -m loadtest.bench_telemetry`.

Gateways without and with them are measured in turns (ABCABC...), so that whatever else happens on the machine meets
all of them alike; what counts are the ratios within one round. The collector is a process of the bench's own, which
reads and counts; another one takes connections and says nothing. The status is 1 where a target is missed. See
loadtest/results/README.md for how to read figures.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from extproc.interpreter import python
from loadtest import turns
from loadtest.bench import BenchError, Plan, measure
from loadtest.figures import Ratio, Sample
from loadtest.setups import Setup, StartError, provider, setup, start
from loadtest.turns import Found, Rounds, Turns

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

TURNS = Turns(WAYS, RATIOS)


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
    return TURNS.rounds(plan.rounds, lambda way, stream: measure(plan, setups[way], fake, stream))


def run(plan: Plan) -> dict[str, Any]:
    """The report. Raises BenchError, StartError."""
    with tempfile.TemporaryFile() as records:
        with ExitStack() as stack:
            rounds = _rounds(stack, plan, records)
        records.seek(0)
        traced = sum("span_id" in json.loads(record) for record in records)
    _check(traced, rounds)
    return {**asdict(plan), "cores": os.cpu_count(), "traced": traced, "workloads": TURNS.report(rounds)}


def _check(traced: int, rounds: Rounds) -> None:
    """Raises BenchError where calls that should have been traced were not, or the other way round."""
    done = [one for all_done in rounds.values() for one in all_done]
    whole = sum(one[name].calls for one in done for name in ("sampled", "hanging", "away", "envoy"))
    tenth = sum(one["tenth"].calls for one in done)
    if not whole <= traced <= whole + tenth / 5 + 200:
        raise BenchError(
            f"{traced} calls were traced, and not {whole} and a tenth of {tenth}; the figures would mislead"
        )


def text(found: Found) -> str:
    """The report for people."""
    return TURNS.text(found, f"{found['traced']} calls that were traced")


if __name__ == "__main__":
    turns.main("bench_telemetry", __doc__, run, text)

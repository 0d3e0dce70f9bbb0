"""Measures what the capacity model is fed with: `python -m loadtest.costs` writes loadtest/results/costs.json.

CPU is user and system time of a process, from the operating system, so that neighbours move it less than time. The rows
of the ledger come from `make bench-ledger`, and stay as they are in the file. Some three minutes.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil

from extproc.identity.keys import QUICKSTART_KEY
from extproc.interpreter import python
from loadtest import load, mixes
from loadtest.bench_budget import Server, redis_server
from loadtest.setups import ROOT, Setup, StartError, policies, provider, setup
from loadtest.simulate import COSTS

_LONG = 100_000  # bytes of the prompt by which a kilobyte is measured
_LONG_CALLS = 12


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _mib(process: psutil.Process) -> float:
    return float(process.memory_full_info().uss) / 2**20


class _Gateway:
    """One worker, one thread of Envoy and a Redis, of which CPU is counted."""

    def __init__(self, stack: ExitStack, limits: bool) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-costs-")))
        self._redis: Server = stack.enter_context(redis_server())
        records = stack.enter_context((folder / "records").open("w+b"))
        more = policies(folder / "gateway", self._redis.url)
        if not limits:
            del more["policies"]["limits"]
        self.running: Setup = setup(stack, "costs", folder / "gateway", provider(stack)[1], records, more)
        if self.running.policy is None:
            raise AssertionError("a gateway has a policy")
        self.worker: psutil.Process = self.running.policy

    def spent(self, work: Callable[[], int]) -> tuple[float, float, float]:
        """Microseconds of the worker, of Envoy and of Redis for each call of the work, which tells their number."""
        before = self._all()
        calls = work()
        worker, envoy, redis = (
            (after - earlier) / calls * 1e6 for after, earlier in zip(self._all(), before, strict=True)
        )
        return worker, envoy, redis

    def _all(self) -> tuple[float, float, float]:
        return _cpu(self.worker), _cpu(self.running.envoy), self._redis.cpu()

    def load(self, seconds: float) -> int:
        options = ("--seconds", str(seconds), "--concurrency", "8", "--distinct")
        done = subprocess.run(
            python("loadtest.load", str(self.running.port), *options), cwd=ROOT, capture_output=True, check=False
        )
        if done.returncode != 0:
            raise StartError(f"the load failed: {done.stderr.decode()[-2000:]}")
        return int(json.loads(done.stdout)["all_calls"])

    def long(self) -> int:
        return long_calls(self.running.port)


def long_calls(port: int) -> int:
    """Calls with long prompts, and how many. Raises StartError where one is not served: its cost would say nothing."""
    dice, headers = Random(1), {"authorization": f"Bearer {QUICKSTART_KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False, timeout=30) as client:
        for _ in range(_LONG_CALLS):
            said = [{"role": "user", "content": mixes.prompt(_LONG, dice)}]
            answer = client.post(mixes.CHAT, json={"model": load.MODEL, "messages": said, "max_tokens": 28})
            if answer.status_code != HTTPStatus.OK:
                raise StartError(f"a call with a long prompt got {answer.status_code}: {answer.text[:500]}")
    return _LONG_CALLS


def _told(module: str, *words: str) -> Any:
    """What another bench found; that it missed a target is no matter here."""
    done = subprocess.run(python(module, "--json", *words), cwd=ROOT, capture_output=True, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        raise StartError(f"{module} failed: {done.stderr.decode()[-2000:]}")
    return json.loads(done.stdout)


def measured(seconds: float) -> dict[str, tuple[float, str]]:
    """Values with their commands, by the names of `Costs`. Raises StartError."""
    with ExitStack() as stack:
        gateway = _Gateway(stack, limits=True)
        base = _mib(gateway.worker), _mib(gateway.running.envoy)
        worker, envoy, redis = gateway.spent(lambda: gateway.load(seconds))
        long, _, _ = gateway.spent(gateway.long)
    with ExitStack() as stack:
        unlimited = _Gateway(stack, limits=False)
        _, _, event = unlimited.spent(lambda: unlimited.load(seconds))
    stall = next(one for one in _told("loadtest.stalls") if one["size"] == mixes.LONGEST)
    (idle,) = _told("loadtest.streams", "--only", "idle")
    # At a pace, or Envoy joins the events that a worker is too late for.
    (paced,) = _told("loadtest.streams", "--only", "usage", "--streams", "200", "--seconds", "8")
    own = "make costs"
    return {
        "worker_call_us": (worker, own),
        "worker_event_us": (paced["worker_us"], "make bench-streams"),
        "worker_kilobyte_us": (max(0.0, long - worker) / (_LONG / 1000), own),
        "worker_stall_ms": (stall["median_ms"], "make bench-stalls"),
        "envoy_call_us": (envoy, own),
        "envoy_event_us": (paced["envoy_us"], "make bench-streams"),
        "redis_call_us": (max(0.0, redis - event), own),
        "redis_event_us": (event, own),
        "worker_stream_kib": (idle["worker_kib"], "make bench-streams"),
        "envoy_stream_kib": (idle["envoy_kib"], "make bench-streams"),
        "worker_base_mib": (base[0], own),
        "envoy_base_mib": (base[1], own),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.costs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load (6)")
    parser.add_argument("--print", action="store_true", help="print the file in place of writing it")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        found = measured(options.seconds)
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    told, today = json.loads(COSTS.read_text()), time.strftime("%Y-%m-%d", time.gmtime())
    for name, (value, command) in found.items():
        told[name] |= {"value": round(value, 1), "command": command, "date": today}
    text = json.dumps(told, indent=2, ensure_ascii=False) + "\n"
    if options.print:
        print(text, end="")
    else:
        COSTS.write_text(text)


if __name__ == "__main__":
    main()

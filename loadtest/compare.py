"""The gateway beside its peers on the same backend: `python -m loadtest.compare --peer litellm`.

In turns (ABAB...), one worker each, so that whatever else happens on the machine meets both alike; what counts are the
ratios within one round. The gateway has all its policies on, the peer none. Beside them stands the null policy of the
bench, which answers each of Envoy's messages with a constant: no policy in one process of grpc.aio that is told the
same messages comes to more over a peer than it does. A peer that is known by name is installed into an environment of
its own under var/; any other runs already: `--peer-url NAME=http://127.0.0.1:4000`, started by you before the same
backend, whose port `--provider-port` fixes. CPU is told of processes that are started here.

Status: 0 where the gateway is at least 15 times as fast as LiteLLM in calls, 1 where not, 2 where nothing was measured,
3 where the rounds differ too much to tell.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from ruamel.yaml import YAML

from extproc.interpreter import python
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.figures import WORKLOADS, Spread
from loadtest.setups import ROOT, StartError, free_port, policies, provider, setup, start

OURS, NULL = "sluice", "null"
TARGET = 15
"""How many times as many calls a second as LiteLLM, each with one worker."""

_START_SECONDS = 240.0
_LONGER = (1, 4, 12)
"""How many times as long a peer is measured that was too slow to answer one call within its time."""

_INSTALLED = {"litellm": "litellm[proxy]"}
"""Peers that can be installed here, and what of."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Something that serves the bench's calls. `roots` are its processes; their children count, too."""

    name: str
    port: int
    roots: tuple[psutil.Process, ...] = ()

    def cpu(self) -> float:
        """Seconds of all its processes so far."""
        alive = [process for root in self.roots for process in (root, *root.children(recursive=True))]
        return sum(times.user + times.system for times in (process.cpu_times() for process in alive))


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one peer in one round. `cpu_us` is of a call, over all its processes; 0 where they are not ours."""

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


# ---- peers ---------------------------------------------------------------------------------------------


def _sluice(stack: ExitStack, folder: Path, backend: int) -> Peer:
    redis = stack.enter_context(redis_server())
    records = stack.enter_context((folder / "records").open("w+b"))
    running = setup(stack, "compared", folder / OURS, backend, records, policies(folder / OURS, redis.url))
    if running.policy is None:
        raise AssertionError("a gateway has a policy")
    return Peer(OURS, running.port, (running.envoy, running.policy, redis.process))


def _null(stack: ExitStack, folder: Path, backend: int) -> Peer:
    """The gateway's own files with a policy that decides nothing."""
    records = stack.enter_context((folder / "records-of-null").open("w+b"))
    running = setup(stack, "B", folder / NULL, backend, records)
    if running.policy is None:
        raise AssertionError("the null policy is a process")
    return Peer(NULL, running.port, (running.envoy, running.policy))


def _litellm(stack: ExitStack, folder: Path, backend: int) -> Peer:
    """Its proxy with one model and nothing else: no key, no database, no limit, no log."""
    home = _environment("litellm")
    port, config = free_port(), folder / "litellm.yaml"
    settings = {
        "model_list": [
            {
                "model_name": load.MODEL,
                "litellm_params": {
                    "model": f"openai/{load.MODEL}",
                    "api_base": f"http://127.0.0.1:{backend}/v1",
                    "api_key": "sk-of-the-fake",
                },
            }
        ],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True},  # on loopback, and to check no key
    }
    with config.open("w") as file:
        YAML().dump(settings, file)
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_PROXY": "127.0.0.1"}
    words = [str(home / "bin/litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    log = stack.enter_context((folder / "litellm.log").open("w+b"))
    child = start(stack, [*words, "--num_workers", "1"], env=environ, stdout=log, stderr=log)
    peer = Peer("litellm", port, (psutil.Process(child.pid),))
    if not _answers(peer.port, lambda: child.poll() is None):
        log.seek(0)
        raise StartError(f"litellm does not answer:\n{log.read()[-4000:].decode(errors='replace')}")
    return peer


STARTED: Mapping[str, Callable[[ExitStack, Path, int], Peer]] = {"litellm": _litellm}


def _home(name: str) -> Path:
    """Of a peer's virtual environment: it runs with the interpreter that we run with, or it would be no comparison."""
    return ROOT / "var/compare" / f"{name}-{platform.python_version()}"


def _environment(name: str) -> Path:
    """Made at the first time."""
    home = _home(name)
    if not (home / "bin" / name).exists():
        print(f"installing {_INSTALLED[name]} into {home} (some minutes)", file=sys.stderr, flush=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        for command in (
            [sys.executable, "-m", "venv", str(home)],
            [str(home / "bin/pip"), "install", "--quiet", _INSTALLED[name]],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise StartError(f"{name} cannot be installed: {done.stderr[-2000:]}")
    return home


def _version(name: str) -> str:
    command = [str(_home(name) / "bin/pip"), "show", "--disable-pip-version-check", name]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((line.partition(": ")[2] for line in told.splitlines() if line.startswith("Version: ")), "")


def _answers(port: int, alive: Callable[[], bool] = lambda: True) -> bool:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and alive():
        try:
            _loaded(port, 1.0, 1, ())
        except StartError:
            time.sleep(0.5)
        else:
            return True
    return False


def _known(text: str) -> Peer:
    name, _, url = text.partition("=")
    place = urlsplit(url)
    if not name or place.hostname not in ("127.0.0.1", "localhost") or place.port is None:
        raise StartError(f"--peer-url must be like NAME=http://127.0.0.1:4000, not {text}")
    if not _answers(place.port):
        raise StartError(f"{name} does not answer a chat call for the model {load.MODEL} at {url}")
    return Peer(name, place.port)


# ---- measuring -----------------------------------------------------------------------------------------


class _TooSlow(StartError):
    """Calls were not answered in the time that they had: on a busy machine no word about the peer."""


def _loaded(port: int, seconds: float, concurrency: int, more: Sequence[str]) -> load.Load:
    """Raises StartError where not every call was answered in full, _TooSlow where none was in time."""
    options = ["--seconds", str(seconds), "--concurrency", str(concurrency), "--distinct", *more]
    command = python("loadtest.load", str(port), *options)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        said = done.stderr.decode()[-2000:]
        raise (_TooSlow if load.TOO_SLOW & set(said.splitlines()) else StartError)(f"the load failed: {said}")
    return load.Load(**json.loads(done.stdout))


_MORE: Mapping[str, Sequence[str]] = {"json": (), "sse": ("--stream",)}


def _measured(peer: Peer, plan: argparse.Namespace, workload: str) -> Figures:
    for longer in _LONGER:
        before = peer.cpu()
        try:
            done = _loaded(peer.port, plan.seconds * longer, plan.concurrency, _MORE[workload])
            break
        except _TooSlow:
            if longer == _LONGER[-1]:
                raise
    cpu = (peer.cpu() - before) / done.all_calls
    return Figures(done.calls / done.seconds, done.p50 * 1e3, done.p99 * 1e3, cpu * 1e6)


Rounds = Mapping[str, Sequence[Mapping[str, Figures]]]
"""By workload, the rounds in order, each with the figures of all peers by name."""


def _rounds(plan: argparse.Namespace) -> Rounds:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-compare-")))
        backend = plan.provider_port or provider(stack)[1]
        peers = [_sluice(stack, folder, backend), _null(stack, folder, backend)]
        peers += [STARTED[name](stack, folder, backend) for name in plan.peer]
        peers += [_known(text) for text in plan.peer_url]
        rounds: dict[str, list[dict[str, Figures]]] = {workload: [] for workload in WORKLOADS}
        for number in range(1, plan.rounds + 1):
            for workload, done in rounds.items():
                print(f"round {number} of {plan.rounds}: {WORKLOADS[workload]}", file=sys.stderr, flush=True)
                done.append({peer.name: _measured(peer, plan, workload) for peer in peers})
        return rounds


# ---- telling -------------------------------------------------------------------------------------------


def report(rounds: Rounds) -> dict[str, Any]:
    """By workload: the spread of each figure of each peer, and of the ratios of calls per second.

    `times_as_many`: ours over each of the others, `null_times_as_many`: the null policy's over each of the peers.
    """
    return {workload: _of_workload(done) for workload, done in rounds.items()}


def _of_workload(done: Sequence[Mapping[str, Figures]]) -> dict[str, Any]:
    names = list(done[0])
    figures = {
        name: {field: asdict(Spread.of([getattr(one[name], field) for one in done])) for field in Figures.__slots__}
        for name in names
    }
    return {
        "peers": figures,
        "times_as_many": {name: _ratio(done, OURS, name) for name in names if name != OURS},
        "null_times_as_many": {name: _ratio(done, NULL, name) for name in names if name not in (OURS, NULL)},
    }


def _ratio(done: Sequence[Mapping[str, Figures]], one: str, other: str) -> dict[str, float]:
    return asdict(Spread.of([figures[one].calls_per_second / figures[other].calls_per_second for figures in done]))


def verdict(ratio: Mapping[str, float]) -> str:
    """`met`, `missed`, or `not told` where the target lies within the noise of the rounds."""
    if ratio["low"] < TARGET < ratio["high"]:
        return "not told"
    return "met" if ratio["median"] >= TARGET else "missed"


def status(found: Mapping[str, Any]) -> int:
    """That of the command: see above."""
    told = [verdict(one["times_as_many"]["litellm"]) for one in found.values() if "litellm" in one["times_as_many"]]
    return 1 if "missed" in told else 3 if "not told" in told else 0


_COLUMNS = {"calls_per_second": "calls/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "cpu_us": "CPU µs/call"}


def text(found: Mapping[str, Any]) -> str:
    """The table for people."""
    lines: list[str] = []
    for workload, told in found.items():
        lines += ["", WORKLOADS[workload], " " * 14 + "".join(f"{title:>14}" for title in _COLUMNS.values())]
        for name, figures in told["peers"].items():
            cells = "".join(f"{figures[column]['median']:>14.1f}" for column in _COLUMNS)
            lines.append(f"  {name:<12}{cells}")
        for name, ratio in told["times_as_many"].items():
            line = _ratio_line(OURS, name, ratio)
            lines.append(f"{line}, target >= {TARGET}: {_shouted(verdict(ratio))}" if name == "litellm" else line)
        for name, ratio in told["null_times_as_many"].items():
            lines.append(f"{_ratio_line(NULL, name, ratio)}, of a policy that decides nothing")
    return "\n".join(lines)


def _shouted(verdict: str) -> str:
    return verdict if verdict == "met" else verdict.upper()


def _ratio_line(one: str, other: str, ratio: Mapping[str, float]) -> str:
    return f"  {one} / {other}, calls/s: {ratio['median']:.2f} ({ratio['min']:.2f}..{ratio['max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", action="append", default=[], choices=sorted(STARTED), help="installed and started")
    parser.add_argument("--peer-url", action="append", default=[], metavar="NAME=URL", help="one that runs already")
    parser.add_argument("--provider-port", type=int, default=0, help="of a backend that runs already, for such peers")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, without warm-up (4)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")
    parser.add_argument("--concurrency", type=int, default=16, help="calls at a time (16)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    if not options.peer and not options.peer_url:
        options.peer = ["litellm"]
    try:
        found = report(_rounds(options))
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    versions = {name: _version(name) for name in options.peer}
    print(json.dumps({"versions": versions, "workloads": found}, indent=2) if options.json else text(found))
    if not options.json:
        told = ", ".join(f"{name} {version}" for name, version in versions.items()) or "peers"
        print(
            f"\nMedians of {options.rounds} rounds of {options.seconds} s (lowest..highest), {options.concurrency} "
            f"calls at a time, {os.cpu_count()} cores shared by all; {OURS} with all policies on, {told} with none."
            f" {time.strftime('%Y-%m-%d', time.gmtime())}"
        )
    sys.exit(status(found))


if __name__ == "__main__":
    main()

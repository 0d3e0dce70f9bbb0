"""Three times as many calls as the gateway can serve: `python -m loadtest.overload`.

The capacity of one worker with all policies on is measured first, in a closed loop. Then calls come at three times that
rate, whether or not earlier ones were answered; then at half of it. Told are: what became of the calls beyond capacity,
how long the admitted took, how many were served in spite of it, and when all was as before. Status 1 where a target is
missed, 2 where nothing was measured.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from extproc.interpreter import python
from loadtest import load
from loadtest.bench_budget import redis_server
from loadtest.open_loop import Told
from loadtest.setups import ROOT, StartError, policies, provider, setup

FACTOR = 3.0
REST = 0.5
SHEDS = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Phase:
    """One rate for some seconds. `right` is the share of the refused that were told, by 429 or 503, when to come
    again; 1 where none was refused. Times are of the admitted, whole, in milliseconds."""

    rate: float
    served_per_second: float
    refused: int
    right: float
    p50_ms: float
    p99_ms: float
    others: Mapping[str, int]


def phase(calls: Sequence[Told], rate: float, seconds: float) -> Phase:
    """The sum of what became of the calls of one phase."""
    served = sorted(told.seconds * 1e3 for told in calls if told.status == 200)
    refused = [told for told in calls if told.status != 200]
    right = [told for told in refused if is_right(told)]
    others = Counter(f"{told.status} {told.code}".strip() for told in refused if not is_right(told))
    return Phase(
        rate=rate,
        served_per_second=len(served) / seconds,
        refused=len(refused),
        right=len(right) / len(refused) if refused else 1.0,
        p50_ms=load.percentile(served, 50) if served else 0.0,
        p99_ms=load.percentile(served, 99) if served else 0.0,
        others=dict(others),
    )


def is_right(told: Told) -> bool:
    """A refusal that a client can work with: it says when to come again."""
    return told.status in SHEDS and told.later


def recovered(calls: Sequence[Told], bound: float) -> float:
    """Seconds from the end of the overload until every later call was served within the bound."""
    late = [told.began for told in calls if told.status != 200 or told.seconds > bound]
    return max(late, default=0.0)


# ---- targets -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """What must hold of a run; `figure` is shown beside it."""

    name: str
    figure: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


def targets(capacity: float, over: Phase, after: float) -> Sequence[Target]:
    """`after`: seconds until all was as before."""
    return (
        Target("refused calls told when to come again, share", over.right, 0.99, at_least=True),
        Target("served at overload / capacity", over.served_per_second / capacity, 0.5, at_least=True),
        Target("p99 of admitted calls, ms", over.p99_ms, 1500),
        Target("recovery, s", after, 5),
    )


# ---- measuring -----------------------------------------------------------------------------------------


def _closed(port: int, seconds: float) -> load.Load:
    command = python("loadtest.load", str(port), "--seconds", str(seconds), "--concurrency", "8", "--distinct")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + 60, check=False)
    if done.returncode != 0:
        raise StartError(f"the load failed: {done.stderr.decode()[-2000:]}")
    return load.Load(**json.loads(done.stdout))


def _open(port: int, rate: float, seconds: float) -> list[Told]:
    command = python("loadtest.open_loop", str(port), "--rate", str(rate), "--seconds", str(seconds))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=seconds + 90, check=False)
    if done.returncode != 0:
        raise StartError(f"the load failed: {done.stderr.decode()[-2000:]}")
    course = json.loads(done.stdout)
    if course["unmade"]:
        raise StartError(f"{course['unmade']} calls were not made, for want of connections")
    return [Told(**told) for told in course["calls"]]


def measured(seconds: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """The report. Raises StartError, FileNotFoundError where there is no redis-server."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-overload-")))
        redis = stack.enter_context(redis_server()).url
        records = stack.enter_context((folder / "records").open("w+b"))
        _, backend = provider(stack)
        more = policies(folder / "gateway", redis) | {"overload": {}}  # as it is where nobody sets it
        running = setup(stack, "overload", folder / "gateway", backend, records, more)
        tell("capacity")
        usual = _closed(running.port, min(seconds, 5.0))
        capacity = usual.calls / usual.seconds
        tell(f"{FACTOR:g} x {capacity:.0f} calls/s")
        over = phase(_open(running.port, FACTOR * capacity, seconds), FACTOR * capacity, seconds)
        tell(f"{REST:g} x {capacity:.0f} calls/s")
        calm = _open(running.port, REST * capacity, seconds)
    rest = phase(calm, REST * capacity, seconds)
    bound = max(0.25, 5 * usual.p99)
    judged = targets(capacity, over, recovered(calm, bound))
    return {
        "capacity": capacity,
        "usual_p99_ms": usual.p99 * 1e3,
        "overload": asdict(over),
        "after": asdict(rest),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "targets": [{**asdict(target), "met": target.met} for target in judged],
    }


def text(found: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [f"capacity {found['capacity']:.0f} calls/s, p99 {found['usual_p99_ms']:.0f} ms with 8 at a time", ""]
    lines.append(f"{'':<10}{'calls/s':>9}{'served/s':>10}{'refused':>9}{'p50 ms':>9}{'p99 ms':>9}  other failures")
    for name in ("overload", "after"):
        one = found[name]
        others = ", ".join(f"{count} x {what}" for what, count in one["others"].items()) or "none"
        lines.append(
            f"{name:<10}{one['rate']:>9.0f}{one['served_per_second']:>10.0f}{one['refused']:>9}"
            f"{one['p50_ms']:>9.0f}{one['p99_ms']:>9.0f}  {others}"
        )
    lines.append("")
    for target in found["targets"]:
        sign, verdict = ">=" if target["at_least"] else "<=", "met" if target["met"] else "MISSED"
        lines.append(f"  {target['name']}: {target['figure']:.2f}, target {sign} {target['bound']:g}: {verdict}")
    lines.append(f"\nAll on {found['cores']} cores, load {found['load']:.1f}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each phase (15)")
    parser.add_argument("--json", action="store_true", help="the report for machines")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends all children
    try:
        found = measured(options.seconds, lambda line: print(line, file=sys.stderr, flush=True))
    except (StartError, FileNotFoundError) as problem:
        parser.exit(2, f"{problem}\n")
    print(json.dumps(found, indent=2) if options.json else text(found))
    sys.exit(0 if all(target["met"] for target in found["targets"]) else 1)


if __name__ == "__main__":
    main()

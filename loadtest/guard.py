"""Whether a call got dearer than it was: `make guard`, or `python -m loadtest.guard [--baseline]`.

The driver of `loadtest.cost`, but what is counted is the work of the interpreter, in bytecodes, and not time: on a
machine that does other things beside, times of one and the same code differ by more than what is looked for here, and
these numbers do not. What Python does not see is counted by itself: tasks, handles of the loop and scans of texts; and
with a redis-server, one call after the other, commands, writes and bytes to it. loadtest/results/cost.json says what
they were; the status is 1 where one of them has risen by more than a tenth. `--baseline` writes them anew: say in the
commit why they rose.

What happens within C code, such as the reading of a longer JSON text, is not seen here; `loadtest.bench` sees it.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch

import uvloop

from extproc.app import _publish
from extproc.cooling import Cooler
from extproc.stores.redis.batch import _Line
from loadtest import cost, recording

FILE = Path(__file__).with_name("results") / "cost.json"
MOST = 1.1
"""The most that a figure may be, over what it was; see also `_SLACK`."""

Figures = Mapping[str, Mapping[str, float]]
"""Of each kind of call, by what is counted."""

COUNTED = ("work", "tasks", "handles", "scans")
COUNTED_WITH_REDIS = ("redis_commands", "redis_writes", "redis_bytes")
_SLACK = {"tasks": 0.75, "handles": 5, "redis_tasks": 0.75, "redis_handles": 8, "redis_writes": 0.9}
"""What these may rise by in any case: calls that end together, and timers that fall into a round, share or add some."""

_WITH_REDIS = {name: f"redis_{name}" for name in COUNTED}

PLAN = cost.Plan(rounds=2, calls=16, concurrency=8)
_REDIS_PLAN = cost.Plan(rounds=2, calls=8, concurrency=1, rest=0.03)
_CALL = 5  # bytecodes take about as long as one call into C
_SCAN = "scan"  # of Hyperscan, and of nothing else in a call
_WITH_TIME = frozenset({_publish.__code__, Cooler.run.__code__})


class Counts(Counter[str]):
    """What is counted beside the work: how often, since the beginning."""

    def loop(self) -> uvloop.Loop:
        """Counts its tasks and handles here."""
        counts = self

        class Counting(uvloop.Loop):
            def create_task(self, *args: Any, **more: Any) -> Any:
                counts["tasks"] += 1
                return super().create_task(*args, **more)

            def call_soon(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
                counts["handles"] += 1
                return super().call_soon(*args, **more)

            def call_later(self, *args: Any, **more: Any) -> Any:  # type: ignore[override]
                counts["handles"] += 1
                return super().call_later(*args, **more)

        return Counting()

    @contextmanager
    def of_redis(self) -> Iterator[None]:
        """Meanwhile what goes to Redis is counted."""
        write = _Line.write

        def counted(line: _Line, commands: list[bytes], replies: Any) -> None:
            self["redis_writes"] += 1
            self["redis_commands"] += len(commands)
            self["redis_bytes"] += sum(map(len, commands))
            write(line, commands, replies)

        with patch.object(_Line, "write", counted):
            yield


class Work:
    """What the main thread has done since this was asked first, but for what comes with time and not with calls; in
    thousandths, as a Plan has it."""

    def __init__(self, counts: Counts | None = None) -> None:
        self._counts = Counts() if counts is None else counts
        self._done = 0
        self._runs = False
        self._aside = False  # what is done now is not counted

    def done(self, _code: CodeType, units: int) -> None:
        """Count what was done, and where."""
        self._done += units

    def __call__(self) -> int:
        if not self._runs:
            self._runs = True
            sys.setprofile(self._called)
            sys.settrace(self._begun)
        return self._done * 1000

    def end(self) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _begun(self, frame: FrameType, _event: str, _of: object) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if frame.f_code in _WITH_TIME:
            self._aside = True
            return self._on_aside
        return self._on

    def _on(self, frame: FrameType, event: str, _of: object) -> Any:
        if event == "opcode" and not self._aside:
            self.done(frame.f_code, 1)
        return self._on

    def _on_aside(self, _frame: FrameType, event: str, _of: object) -> Any:
        if event == "return":  # for as long as it waits, too
            self._aside = False
        return self._on_aside

    def _called(self, frame: FrameType, event: str, of: object) -> None:
        if event == "c_call" and not self._aside:
            self.done(frame.f_code, _CALL)
            if getattr(of, "__name__", "") == _SCAN:
                self._counts["scans"] += 1


def measured(kinds: Sequence[str] = tuple(recording.KINDS)) -> dict[str, dict[str, float]]:
    """What a call of each kind costs; with Redis, too, where there is one."""
    found = _measured(PLAN, kinds, COUNTED, redis=False)
    if shutil.which("redis-server") is not None:
        names = (*COUNTED, *COUNTED_WITH_REDIS)
        for kind, figures in _measured(_REDIS_PLAN, kinds, names, redis=True).items():
            found[kind] |= {_WITH_REDIS.get(name, name): figure for name, figure in figures.items()}
    return found


def _measured(plan: cost.Plan, kinds: Sequence[str], names: Sequence[str], redis: bool) -> dict[str, dict[str, float]]:
    counts = Counts()
    work = Work(counts)

    def spent() -> tuple[int, ...]:
        return work(), *(1000 * counts[name] for name in names[1:])

    try:
        with counts.of_redis():
            costs = cost.run(replace(plan, spent=spent), kinds, redis, counts.loop)
    finally:
        work.end()
    return {kind: dict(zip(names, _typical(of_kind), strict=True)) for kind, of_kind in costs.items()}


def _typical(of_kind: cost.Cost) -> Iterator[float]:
    """The median of the work; of what is counted the least, as what comes with time only adds to it."""
    yield round(statistics.median(of_kind.governed))
    for counted in zip(*of_kind.more, strict=True):
        yield round(min(counted), 2)


def baseline() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = json.loads(FILE.read_text())
    return found


def risen(before: Figures, now: Figures) -> list[str]:
    """What has risen too far, in words."""
    return [
        f"{name} of a call ({kind}) rose from {before[kind][name]} to {figure}: see loadtest/guard.py"
        for kind, figures in now.items()
        for name, figure in figures.items()
        if figure > MOST * before[kind][name] and figure > before[kind][name] + _SLACK.get(name, 0)
    ]


def _table(before: Figures, now: Figures) -> str:
    lines = [f"{'':28}{'was':>8}{'is':>8}"]
    for kind, figures in now.items():
        for name, figure in figures.items():
            was = before[kind][name]
            more = f"{figure / was - 1:+.1%}" if was else ""
            lines.append(f"{kind:12}{name:16}{was:8g}{figure:8g}  {more}".rstrip())
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.guard", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--baseline", action="store_true", help="from now on what it costs today is what it may cost")
    options = parser.parse_args()
    now = measured()
    if options.baseline:
        FILE.write_text(json.dumps(now, indent=2) + "\n")
    before = baseline()
    print(_table(before, now))
    found = risen(before, now)
    parser.exit(1 if found else 0, "".join(f"{line}\n" for line in found))


if __name__ == "__main__":
    main()

"""Whether a call got dearer than it was: `make guard`, or `python -m loadtest.guard [--baseline]`.

The driver of `loadtest.cost`, but what is counted is the work of the interpreter, in bytecodes, and not time: on a
machine that does other things beside, times of one and the same code differ by more than what is looked for here, and
these numbers do not. loadtest/results/cost.json says what they were; the status is 1 where one of them has risen by
more than a tenth. `--baseline` writes them anew: say in the commit why they rose.

What happens within C code, such as the reading of a longer JSON text, is not seen here; `loadtest.bench` sees it.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from extproc.app import _publish
from extproc.cooling import Cooler
from loadtest import cost, recording

FILE = Path(__file__).with_name("results") / "cost.json"
MOST = 1.1
"""The most that a figure may be, over what it was."""

_PLAN = cost.Plan(rounds=3, calls=16, concurrency=8)
_CALL = 5  # bytecodes take about as long as one call into C
_WITH_TIME = frozenset({_publish.__code__, Cooler.run.__code__})


class Work:
    """What the main thread has done since this was asked first, but for what comes with time and not with calls; in
    thousandths, as a Plan has it."""

    def __init__(self) -> None:
        self._done = 0
        self._runs = False
        self._aside = False  # what is done now is not counted

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
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        if frame.f_code in _WITH_TIME:
            self._aside = True
            return self._on_aside
        return self._on

    def _on(self, _frame: FrameType, event: str, _of: object) -> Any:
        if event == "opcode" and not self._aside:
            self._done += 1
        return self._on

    def _on_aside(self, _frame: FrameType, event: str, _of: object) -> Any:
        if event == "return":  # for as long as it waits, too
            self._aside = False
        return self._on_aside

    def _called(self, _frame: FrameType, event: str, _of: object) -> None:
        if event == "c_call" and not self._aside:
            self._done += _CALL


def measured(kinds: Sequence[str] = tuple(recording.KINDS)) -> dict[str, int]:
    """The work of a call of each kind."""
    work = Work()
    try:
        costs = cost.run(replace(_PLAN, spent=work), kinds)
    finally:
        work.end()
    return {kind: round(statistics.median(of_kind.governed)) for kind, of_kind in costs.items()}


def baseline() -> dict[str, int]:
    found: dict[str, int] = json.loads(FILE.read_text())
    return found


def risen(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    """What has risen too far, in words."""
    return [
        f"the work of a call ({kind}) rose from {before[kind]} to {work}: see loadtest/guard.py"
        for kind, work in now.items()
        if work > MOST * before[kind]
    ]


def _table(before: Mapping[str, int], now: Mapping[str, int]) -> str:
    lines = [f"{'':12}{'was':>8}{'is':>8}"]
    lines += [f"{kind:12}{before[kind]:8}{work:8}  {work / before[kind] - 1:+.1%}" for kind, work in now.items()]
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

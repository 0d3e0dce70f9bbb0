"""Where the work of a call is: `make profile`, or `python -m loadtest.profile [--functions N]`.

The driver of `loadtest.cost` and the count of `loadtest.guard`: bytecodes, and calls into C as five, so that it comes
out the same on every machine and beside any load. First by room of the code, then the functions that do most; what
nobody can see here is gRPC, the kernel, and what happens within a call into C.
"""

import argparse
import json
import site
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import CodeType

from loadtest import cost, recording
from loadtest.guard import PLAN, Work
from loadtest.setups import ROOT

Shares = Mapping[str, float]
"""Units of work of one call, by where they are done."""

_DRIVER = "loadtest/"
_MADE = "<"  # the file of code that the interpreter made, such as the __init__ of a dataclass
_PACKAGES = tuple(f"{folder}/" for folder in site.getsitepackages())


class _Spread(Work):
    """Notes for each piece of code what was done there while the worker served, and not the null policy."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = -1
        self._here: Counter[CodeType] = Counter()
        self.of_worker: Counter[CodeType] = Counter()

    def done(self, code: CodeType, units: int) -> None:
        super().done(code, units)
        self._here[code] += units

    def __call__(self) -> int:
        """Asked before and after the null policy, and then before and after the worker; the first round warms up."""
        self._asked += 1
        if self._asked % 4 == 3 and self._asked > 4:
            self.of_worker.update(self._here)
        self._here.clear()
        return super().__call__()


def spread(kind: str) -> Counter[CodeType]:
    """What is done for one call of a kind, in all rounds together."""
    work = _Spread()
    try:
        cost.run(replace(PLAN, spent=lambda: (work(),)), [kind])
    finally:
        work.end()
    return work.of_worker


def where(code: CodeType) -> str:
    """Its file: within the project, the library, or that of the language."""
    name = code.co_filename
    for folder in (f"{ROOT}/", *_PACKAGES, f"{Path(json.__file__).parents[1]}/"):
        name = name.removeprefix(folder)
    return name


def room(code: CodeType) -> str:
    """The room of the project that it is in: a folder, or a module that stands by itself."""
    name = where(code)
    if name.startswith(_MADE):
        return "made by dataclasses and named tuples"
    return "/".join(name.split("/")[:2]) if name.startswith("extproc/") else "libraries"


def shares(found: Counter[CodeType], by_function: bool) -> dict[str, float]:
    """Of one call, the largest first; what only drives the measurement is left out."""
    calls = PLAN.rounds * PLAN.calls
    summed: Counter[str] = Counter()
    for code, units in found.items():
        if not where(code).startswith(_DRIVER):
            summed[f"{where(code)}: {code.co_qualname}" if by_function else room(code)] += units
    return {name: units / calls for name, units in summed.most_common()}


def table(columns: Mapping[str, Shares], most: int) -> str:
    """A row for each place, and for the rest together, in the order of the first column; `most` rows."""
    first = next(iter(columns.values()))
    names = [*first, *sorted({name for column in columns.values() for name in column} - set(first))]
    shown, rest = names[:most], names[most:]
    rows = {name: [column.get(name, 0) for column in columns.values()] for name in shown}
    if rest:
        rows[f"{len(rest)} others"] = [sum(column.get(name, 0) for name in rest) for column in columns.values()]
    rows["a call"] = [sum(column.values()) for column in columns.values()]
    width = max(map(len, rows))
    lines = [f"{'':{width}}" + "".join(f"{kind:>20}" for kind in columns)]
    for name, figures in rows.items():
        cells = (f"{units:>12.0f} {units / whole:>6.1%}" for units, whole in zip(figures, rows["a call"], strict=True))
        lines.append(f"{name:{width}}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m loadtest.profile", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--functions", type=int, default=25, help="how many functions are shown (25)")
    parser.add_argument("--kinds", nargs="+", choices=list(recording.KINDS), default=list(recording.KINDS))
    parser.add_argument("--json", action="store_true", help="units of work of a call, by function and kind")
    options = parser.parse_args()
    found = {}
    for kind in options.kinds:
        print(f"{kind} ...", file=sys.stderr, flush=True)
        found[kind] = spread(kind)
    functions = {kind: shares(codes, by_function=True) for kind, codes in found.items()}
    if options.json:
        print(json.dumps(functions, indent=2))
        return
    rooms = {kind: shares(codes, by_function=False) for kind, codes in found.items()}
    print(f"{table(rooms, len(rooms[options.kinds[0]]))}\n\n{table(functions, options.functions)}")


if __name__ == "__main__":
    main()

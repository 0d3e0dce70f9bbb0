"""Puts what `make figures` found into docs/performance.md and docs/cost.svg: `python docs/measured.py`.

Between the marks of the page everything is written by this, from loadtest/results/published.json; the picture is drawn
from bench.json beside it. `--check`: status 1 where the page or the picture is not what they say.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import drawing
from drawing import Box, Series

from loadtest import published
from loadtest.readings import MET, MISSED, NOT_TOLD, PARTS, ROWS, Figure

Json = dict[str, Any]

DOCS = Path(__file__).resolve().parent
PAGE, PICTURE = DOCS / "performance.md", DOCS / "cost.svg"
WIDTH, HEIGHT = 480, 190
_BUSY = 0.3  # cores that others have: the reader is told at once
NAMES = {"A": "Envoy alone", "B": "null policy", "C0": "no policies", "C": "all policies"}
WORKLOADS = {"json": "JSON", "sse": "stream"}


# ---- the picture ---------------------------------------------------------------------------------------


def picture(found: Json) -> str:
    """Two rows of panels: JSON calls, and streams."""
    parts = []
    for row, (workload, name) in enumerate(WORKLOADS.items()):
        figures = found["workloads"][workload]
        panels = (
            (f"{name}: calls a second", _setups(figures, "calls_per_second", float), "reqps"),
            (f"{name}: CPU of the worker a call", _setups(figures, "policy_us", lambda us: us / 1e6), "s"),
            (f"{name}: calls a second, over those of the plain call", _ways(figures), "none"),
        )
        for column, (title, series, unit) in enumerate(panels):
            box = Box(column * WIDTH, row * HEIGHT, WIDTH, HEIGHT)
            parts.append(drawing.panel(box, title, drawing.bars(box, list(series), unit)))
    return drawing.page("What a call costs", len(panels) * WIDTH, len(WORKLOADS) * HEIGHT, parts)


def _setups(figures: Json, figure: str, shown: Callable[[float], float]) -> Iterator[Series]:
    for name, said in NAMES.items():
        value = figures["setups"][name][figure]["median"]
        if value:
            yield Series(said, [(0, shown(value))])


def _ways(figures: Json) -> Iterator[Series]:
    for way, told in figures["ways"].items():
        yield Series(way, [(0, told["calls/s / C"]["median"])])


# ---- the page ------------------------------------------------------------------------------------------


def page(text: str, whole: Json) -> str:
    """The page with what is between its marks written anew. Raises ValueError for a short run, which is not shown."""
    quick = [name for name, entry in whole.items() if entry.get("quick")]
    if quick:
        raise ValueError(f"measured by a short run, to see that it works: {', '.join(quick)}")
    blocks = {"summary": summary, "targets": targets, "others": others, "parts": parts}
    for name, write in blocks.items():
        mark = f"<!-- make figures: {name} -->\n"
        if mark not in text:
            raise ValueError(f"the page has no place for {name}")
        before, _, rest = text.partition(mark)
        text = f"{before}{mark}{write(whole)}<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def summary(whole: Json) -> str:
    """What a call costs, and what became of the targets."""
    found = {figure.name: figure for _, figure in published.figures(whole)}
    costs = {name: found.get(f"CPU of {name} a call, gateway, all policies, JSON") for name in ("the worker", "Envoy")}
    told = [f"**{published.amount(cost)}** of CPU in {name}" for name, cost in costs.items() if cost]
    first = [f"A JSON call with all policies on costs {' and '.join(told)}."] if told else []
    added = found.get("one call alone, added to Envoy alone")
    if added:
        first.append(f"Made alone, it takes **{published.amount(added)}** longer than through Envoy alone.")
    judged = [figure for figure in found.values() if figure.row]
    met = sum(figure.verdict == MET for figure in judged)
    second = [f"Of {len(judged)} figures with a target of the project, **{met} are met**."]
    for verdict in (MISSED, NOT_TOLD):
        names = _grouped([figure for figure in judged if figure.verdict == verdict])
        second += [f"{verdict.capitalize()}: {'; '.join(names)}."] if names else []
    lost = [ROWS[row] for row in _unmeasured(whole)]
    second += [f"Not measured: {'; '.join(lost)}."] if lost else []
    busiest = max((entry.get("others_cores", 0.0) for entry in whole.values()), default=0.0)
    if busiest >= _BUSY:
        second.append(
            f"While it was measured others had up to {busiest:.1f} of the machine's cores: see the column `load`."
        )
    return f"{' '.join(first)}\n\n{' '.join(second)}\n"


def _grouped(found: Sequence[Figure]) -> list[str]:
    """Their names, those that begin like their target with what they differ in behind it."""
    kinds: dict[str, list[str]] = {}
    for figure in found:
        title = ROWS[figure.row] if figure.name.startswith(f"{ROWS[figure.row]}, ") else figure.name
        kinds.setdefault(title, []).append(figure.name[len(title) + 2 :])
    return [f"{title} ({', '.join(of_it)})" if any(of_it) else title for title, of_it in kinds.items()]


def _unmeasured(whole: Json) -> list[int]:
    """The targets of which nothing was found, in their order."""
    seen = {figure.row for _, figure in published.figures(whole)}
    return [row for row in ROWS if row not in seen]


_HEAD = ("figure", "target", "found", "verdict", "command", "date", "load")


def targets(whole: Json) -> str:
    """All that has a target of the project's, in their order."""
    rows = [_row(part, figure, whole[part]) for part, figure in published.figures(whole) if figure.row]
    for row in _unmeasured(whole):
        part = next(part.name for part in PARTS if row in part.rows)
        rows.append([ROWS[row], "", "", "**not measured**", _command(part), "", ""])
    return _table(_HEAD, rows)


def others(whole: Json) -> str:
    """All other figures of the same run."""
    found = [(part, figure) for part, figure in published.figures(whole) if not figure.row]
    return _table((*_HEAD[:4], "part"), [[*_row(part, figure, whole[part])[:4], part] for part, figure in found])


def _row(part: str, figure: Figure, entry: Json) -> list[str]:
    verdict = figure.verdict if figure.verdict in ("", MET) else f"**{figure.verdict}**"
    found = f"{published.amount(figure)}{f'; {figure.note}' if figure.note else ''}"
    return [figure.name, figure.target, found, verdict, _command(part), entry["date"][:10], _load(entry)]


def _command(part: str) -> str:
    return f"`make figures ONLY={part}`"


def _load(entry: Json) -> str:
    """Of the machine before and after; and what of it were others, where they had a tenth of a core."""
    before, after = entry["load"]
    others = entry.get("others_cores", 0.0)
    return f"{before:.1f} → {after:.1f}" + (f", others {others:.1f} cores" if others >= 0.1 else "")


def parts(whole: Json) -> str:
    """What was run, when, where and of what."""
    rows = []
    for name, entry in whole.items():
        machine = entry["machine"]
        build = machine["note"] or machine["build"]
        what = f"{machine['cores']} × {machine['processor']}, {machine['memory_gib']:g} GiB"
        cells = [name, f"`{entry['command']}`", entry["date"], f"{entry['seconds']:.0f}", _load(entry)]
        rows.append([*cells, f"{machine['python']}, {build}", what, machine["commit"]])
    return _table(("part", "command", "date (UTC)", "s", "load", "Python", "machine", "commit"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([re.sub(r"\|", r"\\|", cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only tell whether they are fresh")
    options = parser.parse_args()
    whole = json.loads(published.FILE.read_text())
    bench = json.loads((published.RESULTS / "bench.json").read_text())
    fresh = {PAGE: page(PAGE.read_text(), whole), PICTURE: picture(bench)}
    stale = [file.name for file, text in fresh.items() if file.read_text() != text]
    if options.check:
        sys.exit(f"{' and '.join(stale)}: stale, python docs/measured.py writes them" if stale else 0)
    for file, text in fresh.items():
        file.write_text(text)


if __name__ == "__main__":
    main()

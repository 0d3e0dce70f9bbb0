"""What is published: a part that fails takes nothing from the others, and the page says what the file says."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loadtest import (
    bench_usage,
    compare,
    figures,
    load,
    overload,
    published,
    readings,
    soak,
    stalls,
    streams,
    waits,
    workers,
)
from loadtest.figures import Sample
from loadtest.readings import MET, MISSED, NOT_TOLD, PARTS, ROWS, Figure, Part
from loadtest.setups import StartError

ROOT = Path(__file__).resolve().parents[2]

# ---- readings ----


def sample(rate: float, cpu: float) -> Sample:
    return Sample(100, rate, 1.0, 2.0, cpu, 400.0, 4.0, 0.1, 0.1, 90.0)


def bench() -> Any:
    """Half as fast as null at 3 times its CPU; other ways as fast as the plain call."""
    one = {name: sample(500.0, 1500.0) for name in ("C0", "C", *figures.WAYS)}
    rounds = [one | {"A": sample(4000.0, 0.0), "B": sample(1000.0, 500.0)}] * 3
    return {"workloads": figures.report({"json": rounds, "sse": rounds})}


def peer(rate: float) -> compare.Figures:
    return compare.Figures(rate, 1.0, 2.0, 3000.0)


def compared() -> Any:
    done = [{"sluice": peer(100.0), "null": peer(180.0), "litellm": peer(10.0)}] * 3
    return {"workloads": compare.report({"json": done}), "versions": {"litellm": "1.2.3"}}


STREAM = streams.Found(
    streams.Load("many", 10, 2, 5), streams.Seen(100, 20.0, 1, 2, 3, 50, 0, 0), 1.0, 1.0, 40.0, 40.0, 0.1
)
LATE = replace(STREAM, seen=replace(STREAM.seen, gaps=3, added_ms=140.0))
IDLE = replace(STREAM, load=replace(STREAM.load, name="idle", rate=0))
OVER = overload.Phase(300.0, 80.0, 500, 1.0, 100.0, 900.0, {})
GROWN = {"name": "workers' MiB", "before": 200.0, "after": 201.0, "most": 214.0, "flat": True}
CLEAN = {"name": "clean, 10 kB", "default": 0.5e-4, "bound": 1e-4, "ratio": 400.0, "ratio_bound": 150}

REPORTS: Mapping[str, Any] = {
    "bench": bench(),
    "compare": compared(),
    "waits": waits.report([waits.Round({"A": 1.0, "B": 2.0, "C": 4.0}, 34.0, 1, 1)] * 3),
    "pii": {"rows": [CLEAN], "hostile": [{"name": "x", "times": {"1000": 1, "1000000": 2}, "exponent": 1.3}]},
    "streams": [{**asdict(one), "missed": one.missed} for one in (STREAM, LATE, IDLE)],
    "cost": {"json": {"null": [30.0, 40.0], "governed": [600.0, 700.0]}},
    "usage": {
        "workloads": bench_usage.TURNS.report(
            {kind: [{"B": sample(100.0, 500.0), "told": sample(90.0, 300.0)}] for kind in ("json", "sse")}
        )
    },
    "overload": {
        "capacity": 100.0,
        "targets": [{**asdict(one), "met": one.met} for one in overload.targets(100.0, OVER, 9.0)],
    },
    "stalls": [asdict(one) for one in stalls.report({1_000: ([1], [5]), 100_000: ([10], [7]), 400_000: ([23], [8])})],
    "workers": {
        "scale": [asdict(workers.Scale(1, 100, 5, 1000)), asdict(workers.Scale(2, 190, 5, 1100))],
        "beside": asdict(workers.Beside(2, 10.0, 60.0, 0, 9)),
    },
    "soak": {"growth": [GROWN], "left": {"sluice_holds_open": 2.0}, "calls": {"200": 1234}, "worker_mib": 137.0},
}
"""Of each part a report as its bench makes one."""

SAID: Mapping[str, list[str]] = {
    "bench": [MET, MISSED, *[MET] * 4] * 2,
    "compare": [MISSED],
    "waits": [MET, MET],
    "pii": [MET, MET, MISSED],
    "streams": [MET, MISSED, MET],
    "cost": [],
    "usage": [],
    "overload": [MET, MET, MET, MISSED],
    "stalls": [MET, MISSED],
    "workers": [MET, MET],
    "soak": [MISSED, MET],
}


def part_of(name: str) -> Part:
    return next(part for part in PARTS if part.name == name)


@pytest.mark.parametrize("name", [part.name for part in PARTS])
def test_a_report_is_read_and_says_all_that_its_part_is_asked_for(name: str) -> None:
    found = list(part_of(name).read(json.loads(json.dumps(REPORTS[name]))))
    assert [figure.verdict for figure in found if figure.verdict] == SAID[name]
    assert {figure.row for figure in found} - {0} == set(part_of(name).rows)
    assert all(figure.target for figure in found if figure.row)


def test_what_lies_within_the_noise_is_not_told() -> None:
    report = REPORTS["bench"]
    ratio = report["workloads"]["json"]["ratios"]["C / B, calls/s"]
    told = readings._judged(1, "x", ratio | {"median": 0.51, "told": False}, "≥")
    assert told.verdict == NOT_TOLD


def test_every_target_has_its_part_and_one_alone() -> None:
    assert sorted(row for part in PARTS for row in part.rows) == sorted(ROWS)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part_has_options_that_its_bench_knows(part: Part) -> None:
    found = find_spec(part.module)
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text()
    if "loadtest.turns import Turns, main" in source:  # whose command line it has
        source = (ROOT / "loadtest/turns.py").read_text()
    assert all(f'"{word}"' in source for word in (*part.words, *part.quick, "--json") if word.startswith("--"))


class Resident:
    """A process with so many MiB."""

    def __init__(self, mib: int) -> None:
        self.rss = mib * 2**20

    def memory_info(self) -> "Resident":
        return self


def test_the_largest_worker_of_a_soak_is_looked_at_by_itself() -> None:
    workers_seen: Any = [Resident(290), Resident(100)]
    looks = soak.Looks()
    looks.add({soak.RESIDENT: soak.resident(workers_seen)})
    assert soak.of_a_worker(soak.growth(looks)) == 290.0


def test_two_trips_in_one_round_miss_the_target_and_are_counted() -> None:
    rounds = [waits.Round({"A": 1.0, "B": 2.0, "C": 4.0}, 34.0, 1, after) for after in (1, 1, 2)]
    before, after, *_ = readings.of_waits(waits.report(rounds))
    assert (before.verdict, after.verdict) == (MET, MISSED)
    assert "more than 1 in 1 of 3 rounds" in after.note


def test_what_litellm_takes_of_cpu_stands_beside_its_calls() -> None:
    assert "LiteLLM ÷ ours: 1.0;" in next(readings.of_compare(REPORTS["compare"])).note


# ---- running ----


def reading(found: Any) -> Iterator[Figure]:
    yield Figure(0, "x", found["x"], verdict=MET)


PART = Part("x", "x", (), reading, patience=20)


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_figures_are_kept_with_what_the_machine_was() -> None:
    entry, report = published.measured(PART, program("print('{\"x\": 7}'); raise SystemExit(3)"), "of Debian")
    assert report == {"x": 7}
    assert (entry["status"], entry["figures"][0]["value"]) == (3, 7)
    assert (entry["machine"]["note"], entry["machine"]["python"]) == ("of Debian", sys.version.split()[0])
    assert {"date", "seconds", "load", "others_cores"} <= set(entry)


@pytest.mark.parametrize(
    ("part", "text", "why"),
    [
        (PART, "import sys; print('no Redis', file=sys.stderr); sys.exit(2)", "status 2: no Redis"),
        (replace(PART, patience=0.2), "import time; time.sleep(60)", "ended after"),
        (PART, "print('hello')", "not what it was"),
        (PART, "print('{}')", "not what it was"),
        (replace(PART, rows=(5,)), "print('{\"x\": 1}')", "says nothing of: round trips"),
    ],
    ids=["failed", "hung", "no report", "another report", "no figure of its target"],
)
def test_a_part_that_fails_says_why(part: Part, text: str, why: str) -> None:
    entry, report = published.measured(part, program(text))
    assert report is None
    assert why in entry["problem"]


def test_parts_take_nothing_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "published.json"
    of_today, other = {"command": published.shown(part_of("pii"), quick=True)}, {"command": "pii, otherwise"}
    published.write(file, {"bench": {"seconds": 5.0, "figures": []}, "waits": {"seconds": 1.0, "problem": "x"}})
    published.write(file, json.loads(file.read_text()) | {"pii": of_today, "soak": other})
    entry = {"seconds": 2.0, "figures": []}
    monkeypatch.setattr(published, "measured", lambda *_: (entry, {"whole": True}))
    published.run([part_of("waits"), part_of("bench")], file, quick=True)
    kept = json.loads(file.read_text())
    assert kept.pop("pii") == of_today
    assert list(kept) == ["bench", "waits"], "what was measured with other options is no figure of today's command"
    assert all(one["figures"] == [] and one["seconds"] == 2.0 and one["quick"] for one in kept.values())
    assert json.loads((tmp_path / "bench.json").read_text()) == {"whole": True}


def test_a_commit_has_a_plus_for_what_a_run_does_not_write_itself(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    written, code = [tmp_path / name for name in ("docs/performance.md", "loadtest/results/x.json")], tmp_path / "x.py"
    for file in (*written, code):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("before")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    for file in written:
        file.write_text("after")
    clean = published.commit(tmp_path)
    assert clean
    assert "+" not in clean
    code.write_text("after")
    assert published.commit(tmp_path) == f"{clean}+"


def test_the_commit_is_that_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter(["clean", "clean+"])
    monkeypatch.setattr(published, "commit", lambda: next(told))
    monkeypatch.setattr(published, "measured", lambda *words: ({"seconds": 2.0, "figures": [], "of": words[-1]}, None))
    whole = published.run([part_of("waits"), part_of("bench")], tmp_path / "published.json", quick=True)
    assert [entry["of"] for entry in whole.values()] == ["clean", "clean"]


@pytest.mark.parametrize(("slow", "lasted"), [(0, [2.5]), (1, [2.5, 10.0])], ids=["in time", "too slow at first"])
def test_a_peer_that_answers_nothing_in_its_time_gets_more(
    slow: int, lasted: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def loaded(_port: int, seconds: float, *_: object) -> load.Load:
        asked.append(seconds)
        if len(asked) <= slow:
            raise compare._TooSlow("x")
        return load.Load(10, 12, seconds, 0.1, 0.2, 0.1)

    monkeypatch.setattr(compare, "_loaded", loaded)
    plan = argparse.Namespace(seconds=2.5, concurrency=1)
    assert compare._measured(compare.Peer("x", 1), plan, "json").calls_per_second == 10 / lasted[-1]
    assert asked == lasted


@pytest.mark.parametrize("why", sorted(load.TOO_SLOW))
def test_a_load_that_says_that_it_was_too_slow_is_known(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "python", lambda *_: program(f"raise SystemExit({why!r})"))
    with pytest.raises(compare._TooSlow):
        compare._loaded(1, 1.0, 1, ())
    monkeypatch.setattr(compare, "python", lambda *_: program("raise SystemExit('the answer was not a 200')"))
    with pytest.raises(StartError) as found:
        compare._loaded(1, 1.0, 1, ())
    assert not isinstance(found.value, compare._TooSlow)


@pytest.mark.parametrize(
    ("said", "status"),
    [([MET], 0), ([MET, NOT_TOLD], 3), ([NOT_TOLD, MISSED], 1), ([MISSED, None], 2), ([""], 0)],
    ids=["met", "not told", "missed", "not measured", "no target"],
)
def test_the_status_says_the_worst(said: list[str | None], status: int) -> None:
    entries = [{"problem": "x"} if one is None else {"figures": [{"verdict": one}]} for one in said]
    assert published.status(entries) == status


def test_parts_are_chosen_by_name() -> None:
    assert [part.name for part in published.chosen("soak,bench")] == ["bench", "soak"]
    assert published.chosen("") == list(PARTS)
    with pytest.raises(ValueError, match="nope; there are bench, compare"):
        published.chosen("bench,nope")


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        (Figure(1, "x", 0.347, low=0.3, high=0.391), "0.35 (0.30..0.39)"),
        (Figure(1, "x", 443.3, "ms"), "443 ms"),
        (Figure(1, "x", 1, low=1, high=1), "1 (1..1)"),
        (Figure(1, "x", 12.34), "12.3"),
    ],
    ids=["ratio", "large", "whole", "middle"],
)
def test_a_figure_has_no_more_digits_than_it_needs(figure: Figure, shown: str) -> None:
    assert published.amount(figure) == shown


def test_the_table_has_targets_first_and_what_failed_last() -> None:
    told = [asdict(Figure(0, "plain", 1)), asdict(Figure(6, "late", 2, verdict=MISSED)), asdict(Figure(1, "early", 3))]
    lines = published.table({"a": {"figures": told}, "b": {"problem": "no Redis"}}).splitlines()
    assert [line.split()[-1] for line in lines if line] == ["early", "late", "plain", "Redis"]
    assert "MISSED" in lines[1]


# ---- the page ----


def test_the_page_shows_no_short_run() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    program_text = (
        "import sys; sys.path.insert(0, 'docs'); import measured; "
        "measured.page(sys.stdin.read(), {'waits': {'quick': True, 'figures': []}})"
    )
    done = subprocess.run(program(program_text), cwd=ROOT, input=text, capture_output=True, text=True, check=False)
    assert "measured by a short run, to see that it works: waits" in done.stderr


def test_the_page_and_the_picture_say_what_was_found() -> None:
    command = [sys.executable, "docs/measured.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

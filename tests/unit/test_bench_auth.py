"""The bench of knowing the caller: that its parts measure what they say, and that a missed target fails it."""

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.enrolment import Enrolment
from extproc.identity import keys
from extproc.refusals import Refused
from extproc.stages.identify import identify
from extproc.stores.ports import KeyChange
from extproc.stores.sql import open_stores
from loadtest import bench_auth, crowd, timing
from loadtest.bench_auth import Figure, Guesses

ROOT = Path(__file__).resolve().parents[2]
COUNT = 50
DICE = random.Random(7)

# ---- the crowd ----


def test_the_crowd_is_the_same_at_every_run_and_has_a_key_for_every_number() -> None:
    made = [change for change in crowd.changes(COUNT) if isinstance(change, KeyChange)]
    assert made == [change for change in crowd.changes(COUNT) if isinstance(change, KeyChange)]
    assert [change.digest for change in made] == [keys.digest(crowd.key(number)) for number in range(COUNT)]
    assert len({change.record.id for change in made}) == COUNT
    assert all(keys.is_well_formed(crowd.key(number)) for number in range(COUNT))


def test_everybody_in_the_crowd_may_call() -> None:
    directory = Enrolment(quickstart=False).take(crowd.changes(3 * crowd.TEAMS), lambda: None)
    callers = [
        identify(*bench_auth.call(crowd.key(number)), directory, {}, bench_auth._NOW)
        for number in range(0, 3 * crowd.TEAMS, 97)
    ]
    assert {caller.team is not None for caller in callers} == {True}
    assert {caller.user is None for caller in callers} == {True, False}
    named = identify(*bench_auth.token_call(5), directory, bench_auth._ISSUERS, bench_auth._NOW)
    assert named.user == crowd.user(5)


def test_a_settled_database_holds_the_crowd(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/crowd.db"
    crowd.settle(database, COUNT)
    with closing(open_stores(database)) as stores:
        told = Enrolment(quickstart=False).take(stores.directory.changes(0), lambda: None)
    made = Enrolment(quickstart=False).take(crowd.changes(COUNT), lambda: None)
    assert told.teams == made.teams
    assert told.users == made.users
    unnumbered = [
        {mark: replace(key, id="", lineage="", expires=None) for mark, key in directory.keys.items()}
        for directory in (told, made)
    ]
    assert unnumbered[0] == unnumbered[1]


# ---- what is guessed ----

GUESSES = Guesses(COUNT, DICE)
DIRECTORY = GUESSES.directory()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (GUESSES.unknown, "unknown, expired"),
        (GUESSES.revoked, "unknown, expired"),
        (GUESSES.near, "unknown, expired"),
        (GUESSES.mistyped, "mistyped"),
        (GUESSES.cut, "mistyped or cut off"),
    ],
)
def test_what_is_guessed_is_refused_as_what_it_is(make: Callable[[], str], words: str) -> None:
    for _ in range(20):
        with pytest.raises(Refused) as refused:
            identify(*bench_auth.call(make()), DIRECTORY, {}, bench_auth._NOW)
        assert words in refused.value.refusal.message


def test_a_near_guess_begins_like_a_key_in_force() -> None:
    known = {crowd.key(number)[:20] for number in range(5, COUNT)}
    for _ in range(200):
        guess = GUESSES.near()
        assert guess[:20] in known
        assert keys.is_well_formed(guess)


def test_keys_in_force_are_known_and_revoked_ones_are_of_the_crowd() -> None:
    for _ in range(20):
        identify(*bench_auth.call(GUESSES.known()), DIRECTORY, {}, bench_auth._NOW)
    assert {GUESSES.revoked() for _ in range(200)} == {crowd.key(number) for number in range(5)}


# ---- the test of times ----


def _normal(mean: float, count: int = 4000) -> list[int]:
    return [round(DICE.gauss(mean, 1000)) for _ in range(count)]


def test_the_same_time_is_not_told_apart_and_another_is() -> None:
    assert not timing.compare(_normal(10_000), _normal(10_000)).distinguishable
    found = timing.compare(_normal(10_000), _normal(10_500))
    assert found.distinguishable
    assert found.d == pytest.approx(0.5, abs=0.1)
    assert found.medians == pytest.approx(500, abs=150)
    assert timing.compare(_normal(10_500), _normal(10_000)).t == pytest.approx(-found.t, abs=5)


def test_what_could_have_been_seen_is_told() -> None:
    found = timing.compare(_normal(10_000), _normal(10_000))
    assert found.resolution == pytest.approx(4.5 * 1000 * math.sqrt(2 / 4000), rel=0.15)


def test_a_few_very_slow_samples_change_nothing() -> None:
    first, second = _normal(10_000), _normal(10_000)
    assert not timing.compare(first + [10**9] * 20, second).distinguishable


@given(st.lists(st.integers(0, 10**6), min_size=100, max_size=200))
def test_samples_beside_themselves_are_never_told_apart(samples: list[int]) -> None:
    found = timing.compare(samples, samples)
    assert (found.t, found.d, found.medians) == (0, 0, 0)


def test_what_never_varies_is_told_apart_at_once() -> None:
    assert timing.compare([5] * 100, [6] * 200).t == math.inf


def test_every_round_has_each_kind_once_in_an_order_of_its_own() -> None:
    order: list[str] = []
    kinds = {name: (lambda name=name: name) for name in "abc"}

    def timed(one: str) -> int:
        order.append(one)
        return ord(one)

    samples = timing.interleaved(kinds, str, timed, 200, DICE, batch=30)
    assert samples == {name: [ord(name)] * 200 for name in "abc"}
    rounds = ["".join(order[at : at + 3]) for at in range(0, 600, 3)]
    assert {"".join(sorted(one)) for one in rounds} == {"abc"}
    assert len(set(rounds)) == 6


# ---- the report ----


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("f", 9, "µs"), True),
        (Figure("f", 9, "µs", bound=9), True),
        (Figure("f", 9.1, "µs", bound=9), False),
        (Figure("f", 9.1, "|t|", bound=9, at_least=True), True),
        (Figure("f", 8.9, "|t|", bound=9, at_least=True), False),
    ],
)
def test_a_target_is_met_or_missed(figure: Figure, met: bool) -> None:
    assert figure.met is met
    assert ("MISSED" in bench_auth.line(figure)) is not met
    assert bench_auth.figures_of(bench_auth.plain([figure])) == [figure]


@pytest.mark.parametrize(("value", "status"), [(1.0, 0), (30.0, 1)])
def test_a_missed_target_is_told_by_the_status(
    value: float, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def found(_part: str, _plan: bench_auth.Plan) -> list[Figure]:
        return [Figure("one lookup", value, "µs", bound=20.0)]

    monkeypatch.setattr(bench_auth, "run", found)
    monkeypatch.setattr(sys, "argv", ["bench_auth"])
    with pytest.raises(SystemExit) as ended:
        bench_auth.main()
    assert int(ended.value.code or 0) == status
    assert capsys.readouterr().out.count("one lookup") == len(bench_auth.PARTS)


def test_a_part_that_fails_fails_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_auth", "--only", "memory", "--keys", "-1"])
    with pytest.raises(SystemExit) as ended:
        bench_auth.main()
    assert ended.value.code == 1


def test_a_small_run_measures_every_part() -> None:
    few = ["--keys", "500", "--samples", "200", "--wire-samples", "100", "--rounds", "2"]
    command = [sys.executable, "-m", "loadtest.bench_auth", "--json", *few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=False)
    told = {part: bench_auth.figures_of(figures) for part, figures in json.loads(done.stdout).items()}
    assert list(told) == list(bench_auth.PARTS)
    assert all(figure.value >= 0 for figures in told.values() for figure in figures)
    assert {part: len(figures) for part, figures in told.items()} == {
        "lookups": 6,
        "memory": 2,
        "pauses": 4,
        "timing": 4,
        "wire": 2,
    }
    missed = any(not figure.met for figures in told.values() for figure in figures)
    assert done.returncode == int(missed)

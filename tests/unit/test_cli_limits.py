"""`sluice limits`, beside calls that hold something of them: reserved as workers do it, in a real Redis."""

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from extproc import surfaces
from extproc.cli import app
from extproc.config import compile as compiled
from extproc.config.loader import load
from extproc.enrolment import Enrolment
from extproc.headers import Headers
from extproc.identity import keys
from extproc.limits.demand import Extent
from extproc.limits.limit import Limit, Measure, Priority, Scope
from extproc.limits.sums import Sums
from extproc.model import Cap, CleanPrompt, Prompt
from extproc.routing.health import Health
from extproc.stages import budget, route
from extproc.stages.identify import identify
from extproc.stores import sql
from extproc.stores.ports import Member, MemberKind
from extproc.stores.redis.counters import RedisCounters
from tests.support.redis_server import RedisServer, redis_server
from tests.support.stores import apply, create, team
from tests.support.terminal import on_a_terminal

DATABASE = "sqlite:///keys.db"
GATEWAY = """\
stores: {database: "sqlite:///keys.db", counters: "COUNTERS", counters_prefix: PREFIX}
listener: {low_priority_prefix: /batch}
policies:
  currency: CHF
  limits:
    company: {money: 5000, per: month, zone: Europe/Zurich, raise: {to: 6500, until: 2020-01-01}}
    tokens: {scope: [team, model], tokens: 100000, per: minute, kept_for_high: 20}
    people: {scope: user, requests: 10, per: 90s, mode: shadow}
    backends: {scope: [backend, priority], concurrent: 20}
    batch: {requests: 600, per: hour, window: calendar, only: {low_route: true, teams: [search]}}
    labs: {requests: 1, per: day, only: {areas: [lab]}}
    big: {scope: model, input_tokens: 400000, per: day, only: {models: [gpt-4o]}}
    production: {requests: 7, per: hour, only: {environments: [prod]}}
    gone: {requests: 1, per: day, mode: "off"}
backends:
  swe: {dialect: openai, url: "https://swe.example"}
  fra: {dialect: openai, url: "https://fra.example"}
models:
  gpt-4o:
    targets: [[{backend: swe}], [{backend: fra, model: a}, {backend: fra, model: b}]]
    price: {input: 1, output: 0}
  gpt-4o-mini: {targets: [[{backend: swe}]], price: {input: 1, output: 0}, tiers: [gold]}
  o4: {targets: [[{backend: swe}]], price: {input: 1, output: 0}, tiers: [platinum]}
"""
CI, ANN, LOOSE = keys.mint(b"c" * 32), keys.mint(b"a" * 32), keys.mint(b"l" * 32)
OF_TEAM = (
    Limit("hourly", Measure.TOKENS, 500_000, owner="team/search", scope=(Scope.TEAM,), sliding=3_600_000),
    Limit("each", Measure.REQUESTS, 10, owner="team/search", scope=(Scope.USER,), sliding=3_600_000),
)
OF_KEY = (Limit("few", Measure.REQUESTS, 2, scope=(Scope.KEY,), sliding=600_000, warn_at=(40,)),)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> Path:
    """The current directory, with a configuration, two teams, three keys, and counters of its own."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(_counted_in(server.url))
    sql.upgrade(DATABASE)
    people = tuple(Member(MemberKind.USER, name, "developer") for name in ("ann@example.com", "bob@example.com"))
    names = ("gpt-4o", "gpt-4o-mini")
    teams = (
        team("search", members=people, models=names, limits=OF_TEAM),
        team("shop", members=people[1:], models=names),
    )
    with closing(sql.open_stores(DATABASE)) as stores:
        apply(stores.directory, teams=teams)
        create(stores.directory, "ci", CI, team="search", limits=OF_KEY, environment="prod")
        create(stores.directory, "ann", ANN, team="search", user="ann@example.com", priority=Priority.LOW)
        create(stores.directory, "loose", LOOSE)
    return tmp_path


def _counted_in(store: str) -> str:
    """The configuration with its counters there, apart from those of other tests."""
    return GATEWAY.replace("COUNTERS", store).replace("PREFIX", f"t{time.time_ns()}")


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["limits", *arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def _facts(*arguments: str) -> dict[str, dict[str, Any]]:
    """What the JSON says, by the limits' names, with the part of those that have several."""
    found = json.loads(_sluice(*arguments, "--json").stdout)
    named = {" ".join([fact["limit"].rpartition("/")[2], *fact["part"].values()]): fact for fact in found}
    assert len(named) == len(found)
    return named


def _table(*arguments: str) -> dict[str, dict[str, str]]:
    """The cells by the limit's name and the heading."""
    head, *lines = _sluice(*arguments).stdout.splitlines()
    places = [(found.start(), found.group()) for found in re.finditer(r"\S+", head)]
    ends = [start for start, _ in places[1:]] + [None]
    cells = [{name: line[start:end].strip() for (start, name), end in zip(places, ends, strict=True)} for line in lines]
    return {row["limit"]: row for row in cells}


def _call(key: str, model: str, tokens: int = 10, low_route: bool = False, priority: str | None = None) -> None:
    """What a worker reserves for a call, of so many tokens of input and without an answer."""
    gateway = load(Path("gateway.yaml"), {})
    catalogue = compiled.catalogue(gateway)
    place = surfaces.locate("/v1/chat/completions")
    assert place is not None
    with closing(sql.open_stores(DATABASE)) as stores:
        people = Enrolment(quickstart=False).take(stores.directory.changes(0), lambda: None)
    caller = identify(Headers({"authorization": f"Bearer {key}".encode()}), None, people, {}, time.time())
    wanted = route.model_for(caller, place, model, catalogue)
    conditions = route.Conditions(lambda: 0.5, Health({}, lambda: 0.5), 0.0)
    chain = route.chain(wanted, place, CleanPrompt(Prompt(b"", None, None)), conditions)
    asked = budget.priority(priority, caller)
    declared = (*catalogue.limits, *(caller.team.limits if caller.team else ()), *caller.limits)
    terms = budget.Terms(
        budget.applicable(declared, caller, chain, asked, low_route), caller, chain, asked, Extent(tokens), Cap(), False
    )
    now = time.time_ns() // 1_000_000
    hold = budget.hold(terms, f"{time.time_ns()}", budget.Ask(0), Sums(), now)

    async def reserve() -> bool:
        store = RedisCounters(gateway.stores.counters, wait=5, prefix=gateway.stores.counters_prefix)
        try:
            return (await store.reserve(budget.SLOT, hold.id, hold.draws, 60_000)).granted
        finally:
            await store.close()

    assert asyncio.run(reserve())


# ---- what is used ----


def test_what_calls_hold_is_shown_where_they_hold_it() -> None:
    for _ in range(2):
        _call(CI, "gpt-4o", tokens=300)
    _call(ANN, "gpt-4o-mini", tokens=50)
    facts = _facts("--key", "search/ci", "--model", "gpt-4o")
    used = {name: fact["used"] for name, fact in facts.items()}
    assert used == {
        "company": "0.00065",
        "tokens": 600,
        "backends swe high": 2,
        "backends fra high": 2,
        "backends swe low": 1,
        "backends fra low": 0,
        "batch": 0,
        "big": 600,
        "production": 2,
        "hourly": 650,
        "few": 2,
    }
    assert facts["tokens"]["left"] == 99_400
    assert facts["tokens"]["limit"] == "tokens"
    assert facts["few"]["refuses"] is True
    assert facts["hourly"]["refuses"] is False
    assert 0 < facts["hourly"]["reset_ms"] <= 3_600_000 * 33 // 32  # counted in 32nds


def test_to_look_uses_nothing() -> None:
    _call(CI, "gpt-4o")
    first = _facts("--team", "search", "--model", "gpt-4o")
    second = _facts("--team", "search", "--model", "gpt-4o")
    assert [fact["used"] for fact in first.values()] == [fact["used"] for fact in second.values()]
    assert first["hourly"]["used"] == 10


def test_calls_of_low_priority_have_less_room() -> None:
    _call(ANN, "gpt-4o", tokens=80_000)
    mine, all_calls = _facts("--key", "ann", "--model", "gpt-4o"), _facts("--team", "search", "--model", "gpt-4o")
    assert (mine["tokens"]["amount"], mine["tokens"]["left"], mine["tokens"]["refuses"]) == (80_000, 0, True)
    assert (all_calls["tokens"]["amount"], all_calls["tokens"]["left"]) == (100_000, 20_000)
    assert "backends swe high" not in mine


def test_a_user_has_a_sum_over_all_keys() -> None:
    _call(ANN, "gpt-4o")
    facts = _facts("--user", "Ann@Example.com")
    assert facts["people"]["used"] == facts["each"]["used"] == 1
    assert (facts["people"]["mode"], facts["people"]["refuses"]) == ("shadow", False)
    assert _facts("--key", "ann")["people"]["used"] == 1


def test_a_limit_of_one_model_needs_no_model_named() -> None:
    _call(CI, "gpt-4o", tokens=7)
    facts = _facts()
    assert (facts["big"]["used"], facts["big"]["many"]) == (7, [])
    assert (facts["tokens"]["used"], facts["tokens"]["many"]) == (None, ["team", "model"])


# ---- which limits hold ----


def test_a_key_without_a_team_falls_under_no_limit_of_one() -> None:
    assert set(_facts("--key", "loose")) == {"company", "tokens", *_BACKENDS, "big"}


def test_a_team_falls_under_what_its_keys_and_people_may() -> None:
    assert set(_facts("--team", "search")) == {
        *("company", "tokens", "people", *_BACKENDS, "batch", "big", "production", "hourly", "each", "few")
    }
    assert set(_facts("--team", "shop")) == {"company", "tokens", "people", *_BACKENDS, "big", "production"}
    assert "few" not in _facts("--user", "bob@example.com", "--team", "search")


def test_another_model_leaves_the_limits_of_one_out() -> None:
    facts = _facts("--model", "gpt-4o-mini")
    assert "big" not in facts
    assert "backends fra high" not in facts


def test_without_a_question_all_limits_are_shown_but_those_that_are_off() -> None:
    assert set(_facts()) == {
        *("company", "tokens", "people", *_BACKENDS, "batch", "labs", "big", "production", "hourly", "each", "few")
    }


def test_a_key_and_its_successor_have_one_sum() -> None:
    with closing(sql.open_stores(DATABASE)) as stores:
        secret = keys.mint(b"n" * 32)
        stores.directory.rotate("search/ci", keys.digest(secret), keys.hint(secret), timedelta(days=1))
    _call(CI, "gpt-4o")
    _call(secret, "gpt-4o")
    assert _facts("--key", "search/ci")["few"]["used"] == 2
    assert _facts()["few"]["used"] == 2


def test_the_quickstart_key_is_asked_for_by_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE__KEYS__QUICKSTART", "true")
    assert set(_facts("--key", "quickstart")) == set(_facts("--key", "loose"))


# ---- for people ----


def test_the_table_says_amounts_as_people_do() -> None:
    _call(CI, "gpt-4o", tokens=12_345)
    table = _table("--key", "ci", "--model", "gpt-4o")
    assert table["tokens"]["amount"] == "100,000 tokens per minute"
    assert (table["tokens"]["used"], table["tokens"]["left"]) == ("12,345", "87,655")
    assert table["company"]["amount"] == "5,000.00 CHF per month"
    assert table["company"]["left"] == "4,999.987655"
    assert re.fullmatch(r"20\d\d-\d\d-01 00:00 CES?T", table["company"]["resets"])
    few = table["key/few (search/ci)"]
    assert few["amount"] == "2 requests per 10m"
    assert re.fullmatch(r"in (9m\d.*s|10m.*s)", few["resets"])
    assert few["state"] == "50 %"
    assert table["team/search/hourly"]["amount"] == "500,000 tokens per hour"
    assert table["tokens"]["state"] == "ok"
    assert table["batch"]["amount"] == "600 requests per calendar hour"
    assert table["backends (swe, high)"]["amount"] == "20 calls at a time"


def test_the_table_says_what_refuses_now_and_what_would() -> None:
    for _ in range(2):
        _call(CI, "gpt-4o")
    for _ in range(10):
        _call(ANN, "gpt-4o")
    assert _table("--key", "ci")["key/few (search/ci)"]["state"] == "refuses"
    assert _table("--user", "ann@example.com")["people"]["state"] == "would refuse"


def test_it_says_which_option_names_one_of_many_sums() -> None:
    run = _sluice("--team", "search")
    assert run.stderr == ("Where nothing is said to be used, there are many sums: --user, --model names one.\n")
    assert _sluice("--key", "loose", "--model", "gpt-4o").stderr == ""


def test_in_memory_only_the_declarations_are_known(folder: Path) -> None:
    (folder / "gateway.yaml").write_text(_counted_in("memory://"))
    run = _sluice("--key", "ci")
    assert "used" not in run.stdout.splitlines()[0]
    assert "known inside the running worker alone" in run.stderr
    assert _facts("--key", "ci")["few"]["used"] is None


def test_without_limits_it_says_so(folder: Path) -> None:
    without = re.sub(r"(?s)policies:.*?\nbackends:", "backends:", _counted_in("memory://"), count=1)
    (folder / "gateway.yaml").write_text(without)
    run = _sluice("--key", "loose")
    assert (run.stdout, run.stderr) == ("", "No limits hold for such calls.\n")
    assert _sluice("--key", "loose", "--json").stdout == "[]\n"


@pytest.mark.parametrize(
    ("width", "headings"),
    [
        (120, "limit amount scope used left resets state"),
        (160, "limit amount scope used left resets state conditions"),
    ],
)
def test_a_terminal_gets_the_columns_that_it_has_room_for(width: int, headings: str) -> None:
    printed = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(width, "limits", "--key", "ci"))
    lines = printed.splitlines()
    assert lines[0].split() == headings.split()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)


def test_a_narrow_terminal_gets_two_lines_for_each_limit() -> None:
    _call(CI, "gpt-4o", tokens=12_345)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(80, "limits", "--key", "ci", "--model", "gpt-4o"))
    lines = [line.rstrip() for line in printed.splitlines()]
    assert max(map(len, lines)) <= 80
    assert lines[lines.index("team/search/hourly: ok") + 1].startswith(
        "  500,000 tokens per hour, by team, used 12,345, left 487,655, resets"
    )
    assert "key/few (search/ci): 50 %" in lines
    assert {"backends (swe, high): ok", "backends (fra, low): ok"} <= set(lines)


def test_a_raise_that_is_in_force_stands_beside_what_is_declared(folder: Path) -> None:
    file = folder / "gateway.yaml"
    file.write_text(file.read_text().replace("until: 2020-01-01", "until: 2999-12-24"))
    amount = _table()["company"]["amount"]
    assert amount == "5,000.00 CHF per month, raised to 6,500.00 until 2999-12-24 00:00 CET"
    assert _facts()["company"]["amount"] == "6500.00"


def test_one_is_not_told_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE__POLICIES__LIMITS", '{"one": {"requests": 1, "per": "7d"}, "alone": {"concurrent": 1}}')
    table = _table("--key", "loose")
    assert (table["one"]["amount"], table["alone"]["amount"]) == ("1 request per 7d", "1 call at a time")


# ---- wrong questions ----


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--team", "nobody"], 1, "There is no team 'nobody'."),
        (["--key", "nobody"], 1, "No key in force, or more than one, goes by 'nobody'."),
        (["--model", "nobody"], 1, "There is no model 'nobody' in the configuration"),
        (["--team", "search", "--model", "o4"], 1, "such callers may not use it"),
        (["--user", "bob@example.com"], 1, "is in several teams (search, shop)"),
        (["--user", "eve@example.com"], 1, "stands in no team file"),
        (["--key", "ci", "--team", "search"], 2, "name the key alone"),
        (["--key", CI], 2, "there is a key in it"),
        (["--model", CI], 2, "there is a key in it"),
    ],
)
def test_a_wrong_question_is_explained(arguments: list[str], code: int, words: str) -> None:
    run = _sluice(*arguments, code=code)
    assert words in " ".join(re.sub("[│╭╮╰╯─]", " ", run.output).split())
    assert CI not in run.output


def test_a_revoked_key_is_none(folder: Path) -> None:
    with closing(sql.open_stores(DATABASE)) as stores:
        (gone,) = stores.directory.revoke("search/ci")
    assert "No key in force" in _sluice("--key", gone.id, code=1).output


def test_counters_that_do_not_answer_are_told(folder: Path) -> None:
    (folder / "gateway.yaml").write_text(_counted_in("redis://127.0.0.1:1/0"))
    assert "The counters do not answer. Check stores.counters." in _sluice(code=1).output


_BACKENDS = tuple(f"backends {backend} {priority}" for backend in ("swe", "fra") for priority in ("high", "low"))

"""`sluice cache`, beside answers that a gateway keeps in a real Redis."""

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

from extproc.cli import app
from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.answers import BESIDE, Labels
from extproc.stores.redis.answers import RedisAnswers
from tests.support.redis_server import RedisServer, redis_server
from tests.support.stores import apply, create, team
from tests.support.terminal import on_a_terminal

DATABASE = "sqlite:///keys.db"
GATEWAY = """\
stores: {database: "sqlite:///keys.db", answers: "ANSWERS", counters_prefix: PREFIX}
cache: {mode: enforce, key: {env: CACHE_KEY}}
backends: {swe: {dialect: openai, url: "https://swe.example"}}
models: {gpt-4o: {targets: [[{backend: swe}]], aliases: [four]}, o4: {targets: [[{backend: swe}]]}}
"""
HOUR = 3_600_000
SECRET = keys.mint(b"s" * 32)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RedisServer) -> Path:
    """The current directory, with a configuration, two teams, and answers apart from those of other tests."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    _configure(server.url)
    sql.upgrade(DATABASE)
    with closing(sql.open_stores(DATABASE)) as stores:
        apply(stores.directory, teams=(team("search"), team("shop")))
    return tmp_path


def _configure(answers: str) -> None:
    Path("gateway.yaml").write_text(GATEWAY.replace("ANSWERS", answers).replace("PREFIX", f"t{time.time_ns()}"))


def _store(ago: int = 0) -> RedisAnswers:
    """As a gateway has it; with a clock that is so many milliseconds slow."""
    url, prefix = re.findall(r'answers: "(.*?)", counters_prefix: (\w+)', Path("gateway.yaml").read_text())[0]
    return RedisAnswers(url, 5.0, prefix, 2**28, (lambda: time.time_ns() // 1_000_000 - ago) if ago else None)


def _keep(*answers: tuple[str, str, str], size: int = 1000, ago: int = 0) -> None:
    """Answers by team, model and key, each made so many milliseconds ago."""

    async def keep() -> None:
        store = _store(ago)
        try:
            for number, labels in enumerate(answers):
                digest = f"{ago}-{size}-{number}"
                found = await store.look(digest)
                assert await store.keep(digest, b"s" * size, Labels(*labels), 24 * HOUR, found.epoch)
        finally:
            await store.close()

    asyncio.run(keep())


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["cache", *arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def _stats(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_sluice("stats", *arguments, "--json").stdout)
    return found


def _kept(*arguments: str) -> dict[tuple[str | None, str], int]:
    """How many answers, by team and model."""
    return {(part["team"], part["model"]): part["answers"] for part in _stats(*arguments)["by"]}


# ---- stats ----


def test_what_is_kept_is_told_by_team_and_model() -> None:
    _keep(("search", "gpt-4o", "k1"), ("search", "gpt-4o", "k2"), ("shop", "o4", "k3"), ("", "gpt-4o", "k4"))
    _keep(("shop", "o4", "k3"), size=500, ago=2 * HOUR)
    found = _stats()
    assert _kept() == {("search", "gpt-4o"): 2, ("shop", "o4"): 2, (None, "gpt-4o"): 1}
    assert (found["answers"], found["bytes"], found["size"]) == (5, 4500 + 5 * BESIDE, 256 * 2**20)
    ages = {part["team"]: (part["oldest"] < part["newest"]) for part in found["by"]}
    assert ages == {None: False, "search": False, "shop": True}
    assert found["oldest"] < found["newest"]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["oldest"])


def test_nothing_is_told_of_other_gateways() -> None:
    _keep(("search", "gpt-4o", "k"))
    _configure(re.findall(r'answers: "(.*?)"', Path("gateway.yaml").read_text())[0])
    run = _sluice("stats")
    assert (run.stdout, run.stderr) == ("", "Nothing is kept yet.\n")
    assert _sluice("stats", "--older-than", "1h").stderr == "No such answers are kept.\n"
    assert _stats() == {"answers": 0, "bytes": 0, "oldest": None, "newest": None, "size": 256 * 2**20, "by": []}


def test_options_choose_and_an_alias_stands_for_its_model() -> None:
    _keep(("search", "gpt-4o", "k1"), ("search", "o4", "k1"), ("shop", "gpt-4o", "k2"))
    _keep(("shop", "gpt-4o", "k2"), ago=2 * HOUR)
    assert _kept("--team", "search") == {("search", "gpt-4o"): 1, ("search", "o4"): 1}
    assert _kept("--model", "four") == _kept("--model", "gpt-4o") == {("search", "gpt-4o"): 1, ("shop", "gpt-4o"): 2}
    assert _kept("--key", "k2", "--model", "gpt-4o") == {("shop", "gpt-4o"): 2}
    assert _kept("--older-than", "90m") == {("shop", "gpt-4o"): 1}
    assert _kept("--older-than", "3h") == {}


def test_answers_to_callers_without_a_team_can_be_chosen() -> None:
    _keep(("search", "gpt-4o", "k1"), ("", "gpt-4o", "k2"), ("", "o4", "k2"))
    assert _kept("--no-team", "--model", "o4") == {(None, "o4"): 1}
    assert _sluice("purge", "--no-team", "--yes").stdout == "Forgotten: 2 answers.\n"
    assert _kept() == {("search", "gpt-4o"): 1}
    assert _sluice("stats", "--no-team").stderr == "No such answers are kept.\n"


def test_a_key_is_all_keys_of_its_line_and_a_revoked_one_too() -> None:
    with closing(sql.open_stores(DATABASE)) as stores:
        directory = stores.directory
        first = create(directory, "ci", SECRET, team="search")
        other = create(directory, "ci", keys.mint(b"o" * 32), team="shop")
        secret = keys.mint(b"n" * 32)
        _, second = directory.rotate("search/ci", keys.digest(secret), keys.hint(secret), timedelta(days=1))
        directory.revoke(first.id)
    _keep(("search", "gpt-4o", first.id), ("search", "gpt-4o", second.id), ("shop", "o4", other.id))
    for which in (first.id, second.id, "search/ci"):
        assert _kept("--key", which) == {("search", "gpt-4o"): 2}
    assert "Keys of several teams go by 'ci'" in _sluice("stats", "--key", "ci", code=1).output


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_keeps_to_its_terminal_and_ends_with_the_total(width: int) -> None:
    _keep(("search", "gpt-4o", "k1"), ("", "a-model-with-a-rather-long-name-of-its-own", "k2"), size=3 * 2**20)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal(width, "cache", "stats"))
    lines = [line.rstrip() for line in printed.splitlines()]
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["team", "model", "answers", "size", "oldest", "(UTC)", "newest", "(UTC)"]
    assert lines[1].startswith("(no team)")
    assert re.match(r"total +2 +6\.0 MiB +20", lines[-2])
    assert re.fullmatch(r"cache\.size +256\.0 MiB", lines[-1])


def test_a_name_that_nobody_has_is_a_mistake_and_no_empty_answer() -> None:
    _keep(("search", "gpt-4o", "k1"), ("gone", "old", "k2"))
    for arguments, told in (
        (("--team", "serch"), "There is no team 'serch', and nothing is kept of one (did you mean search?)."),
        (("--model", "gpt-4"), "There is no model 'gpt-4' in the configuration, and nothing is kept of one"),
        (("--key", "nobody"), "No key goes by that, and nothing is kept of one."),
    ):
        for verb in (("stats",), ("purge", "--yes")):
            assert told in " ".join(_sluice(*verb, *arguments, code=1).stderr.split())
    assert _kept("--team", "gone") == {("gone", "old"): 1}
    assert _kept("--team", "shop") == {}
    assert _kept("--model", "o4") == {}


# ---- purge ----


def test_a_purge_forgets_what_was_chosen_and_nothing_else() -> None:
    _keep(("search", "gpt-4o", "k1"), ("search", "o4", "k1"), ("shop", "gpt-4o", "k2"))
    assert _sluice("purge", "--team", "search", "--model", "o4", "--yes").stdout == "Forgotten: 1 answer.\n"
    assert _kept() == {("search", "gpt-4o"): 1, ("shop", "gpt-4o"): 1}
    assert json.loads(_sluice("purge", "--all", "--yes", "--json").stdout) == {"forgotten": 2}
    assert _kept() == {}
    assert _sluice("purge", "--all", "--yes").stdout == "Forgotten: 0 answers.\n"


def test_what_was_asked_for_before_a_purge_is_not_kept_after_it() -> None:
    async def around() -> bool:
        store = _store()
        try:
            found = await store.look("d", "claim", 60_000)
            await asyncio.to_thread(_sluice, "purge", "--team", "search", "--yes")
            return await store.keep("d", b"sealed", Labels("search", "gpt-4o", "k"), HOUR, found.epoch, "claim")
        finally:
            await store.close()

    assert asyncio.run(around()) is False


def test_a_purge_of_old_answers_leaves_the_newer_ones() -> None:
    _keep(("search", "gpt-4o", "k"), ("search", "gpt-4o", "k"), ago=13 * HOUR)
    _keep(("search", "gpt-4o", "k"))
    assert _sluice("purge", "--older-than", "12h", "--yes").stdout == "Forgotten: 2 answers.\n"
    assert _kept() == {("search", "gpt-4o"): 1}


def test_where_nobody_can_be_asked_nothing_is_forgotten() -> None:
    _keep(("search", "gpt-4o", "k"))
    told = _sluice("purge", "--all", code=1)
    assert "1 answer would be forgotten" in told.stderr
    assert "give --yes. Nothing was changed." in told.stderr
    assert "gpt-4o" in told.stdout
    assert _sluice("purge", "--all", "--json", code=1).stdout == ""
    assert _kept() == {("search", "gpt-4o"): 1}


@pytest.mark.parametrize(("answer", "left"), [("y", 0), ("n", 1)])
def test_on_a_terminal_a_purge_shows_what_would_go_and_asks(answer: str, left: int) -> None:
    _keep(("search", "gpt-4o", "k"))
    text = on_a_terminal(100, "cache", "purge", "--all", answer=f"{answer}\n", code=left)
    assert "1 answer would be forgotten, and what is just being made. Go on? [y/N]" in text
    assert ("Forgotten: 1 answer." in text, "Nothing was changed." in text) == (not left, bool(left))
    assert len(_kept()) == left


# ---- what cannot be done ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["purge"], "say which answers, or --all"),
        (["purge", "--all", "--team", "search"], "goes with no other option"),
        (["purge", "--older-than", "soon"], "write it like 90s, 12h or 7d"),
        (["stats", "--older-than", "5"], "write it like 90s, 12h or 7d"),
        (["stats", "--key", SECRET], "there is a key in it"),
        (["stats", "--team", " x"], "no space at its ends"),
        (["purge", "--team", "", "--yes"], "1 to 400 printable characters"),
        (["purge", "--team", "search", "--no-team"], "give one of --team and --no-team, not both"),
    ],
)
def test_a_wrong_question_is_explained(arguments: list[str], words: str) -> None:
    run = _sluice(*arguments, code=2)
    assert words in " ".join(re.sub("[│╭╮╰╯─]", " ", run.output).split())
    assert SECRET not in run.output


@pytest.mark.parametrize("verb", [["stats"], ["purge", "--all", "--yes"]])
def test_what_workers_keep_in_memory_nobody_else_sees(verb: list[str]) -> None:
    _configure("memory://")
    run = _sluice(*verb, code=2)
    assert run.stdout == ""
    assert "Restart the gateway to forget them, or name a Redis in stores.answers." in run.stderr


@pytest.mark.parametrize("verb", [["stats"], ["purge", "--all", "--yes"]])
def test_a_store_that_does_not_answer_is_told(verb: list[str]) -> None:
    _configure("redis://127.0.0.1:1/0")
    assert "The store of answers does not answer. Check stores.answers" in _sluice(*verb, code=1).stderr


@pytest.mark.parametrize("login", ["", ":wrong@"])
def test_a_password_that_the_store_does_not_take_is_told_as_such(login: str) -> None:
    with redis_server(requirepass="right") as locked:
        _configure(locked.url.replace("://", f"://{login}"))
        told = _sluice("stats", code=1).stderr
    assert "The store of answers does not take the user or password. Check stores.answers" in told
    assert "wrong" not in told

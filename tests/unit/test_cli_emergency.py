"""`sluice emergency`, as somebody in a hurry uses it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.ports import AreaRecord, ChangeSet, KeyRecord, StopScope
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from tests.support.stores import create, minted, team

DATABASE = "sqlite:///keys.db"
GATEWAY = f"""\
stores: {{database: "{DATABASE}"}}
backends: {{swe: {{dialect: openai, url: "https://swe.example"}}}}
models: {{gpt-4o: {{aliases: [gpt], targets: [[{{backend: swe}}]]}}}}
"""
KEY = keys.mint(b"k" * 32)


@contextmanager
def _directory() -> Iterator[SqlDirectory]:
    engine = connect(DATABASE)
    yield SqlDirectory(engine)
    engine.dispose()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a configuration, and a database with a team in each of two areas."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    sql.upgrade(DATABASE)
    with _directory() as store:
        teams = (team("payments", area="finance"), team("search", area="lab"))
        store.apply(ChangeSet(areas=(AreaRecord("finance"), AreaRecord("lab")), teams=teams), store.revision())
    return tmp_path


@pytest.fixture
def key() -> KeyRecord:
    with _directory() as store:
        return create(store, "ci", KEY, team="payments")


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["emergency", *arguments], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def _stops() -> set[tuple[StopScope, str, str]]:
    """Scope, name and reason of what the workers are told is stopped."""
    with _directory() as store:
        return {(made.scope, made.name, made.reason) for made in store.state().stops}


class TestStop:
    @pytest.mark.parametrize(
        ("arguments", "scope", "name"),
        [
            (("everything",), StopScope.EVERYTHING, ""),
            (("area", "finance"), StopScope.AREA, "finance"),
            (("team", "payments"), StopScope.TEAM, "payments"),
            (("user", "Nobody.Yet@Example.com"), StopScope.USER, "nobody.yet@example.com"),
            (("user", "Nobody.Yet"), StopScope.USER, "Nobody.Yet"),  # `nobody.yet` may be another
            (("user", "Zoe\u0308@x.com"), StopScope.USER, "zo\u00eb@x.com"),
            (("key", "usr_0123456789abcdef"), StopScope.KEY, "usr_0123456789abcdef"),
            (("model", "gpt-4o"), StopScope.MODEL, "gpt-4o"),
            (("backend", "swe"), StopScope.BACKEND, "swe"),
        ],
    )
    def test_each_scope(self, arguments: tuple[str, ...], scope: StopScope, name: str) -> None:
        result = _sluice("stop", *arguments, "--reason", "key on a public page")
        assert _stops() == {(scope, name, "key on a public page")}
        assert result.stdout == f"stopped: {f'{scope.value} {name}'.strip()}\n"

    def test_a_model_is_stopped_by_its_public_name_whatever_it_is_called(self) -> None:
        assert _sluice("stop", "model", "gpt").stdout == "stopped: model gpt-4o\n"
        assert _stops() == {(StopScope.MODEL, "gpt-4o", "")}
        _sluice("lift", "model", "gpt")
        assert _stops() == set()

    @pytest.mark.parametrize("scope", ["model", "backend"])
    def test_what_nobody_has_configured(self, scope: str) -> None:
        shown = _sluice("stop", scope, "other", code=1).stderr
        assert f"There is no {scope} 'other'. There are: " in shown

    @pytest.mark.parametrize("which", ["ci", "payments/ci", keys.hint(KEY), None])
    def test_a_key_is_stopped_by_its_id_whatever_it_is_called(self, key: KeyRecord, which: str | None) -> None:
        shown = _sluice("stop", "key", which or key.id).stdout
        assert _stops() == {(StopScope.KEY, key.id, "")}
        assert shown == f"stopped: key payments/ci ({key.hint})\n"

    @pytest.mark.parametrize("by", ["name", "old hint", "new id"])
    def test_a_rotated_key_is_stopped_with_its_successor(self, key: KeyRecord, by: str) -> None:
        successor = keys.mint(b"s" * 32)
        with _directory() as store:
            _, new = store.rotate(key.id, keys.digest(successor), keys.hint(successor), timedelta(hours=1))
        which = {"name": "payments/ci", "old hint": key.hint, "new id": new.id}[by]
        assert _sluice("stop", "key", which).stdout == f"stopped: key payments/ci ({new.hint})\n"
        assert _stops() == {(StopScope.KEY, key.id, "")}
        _sluice("lift", "key", which)
        assert _stops() == set()

    def test_as_json(self) -> None:
        made = json.loads(_sluice("stop", "team", "payments", "--reason", "leak", "--json").stdout)
        assert abs(datetime.fromisoformat(made.pop("since")) - datetime.now(UTC)) < timedelta(minutes=5)
        assert made == {"scope": "team", "name": "payments", "reason": "leak"}
        assert json.loads(_sluice("stop", "everything", "--json").stdout)["name"] is None

    def test_stopping_again_changes_the_reason(self) -> None:
        first = json.loads(_sluice("stop", "everything", "--json").stdout)
        again = json.loads(_sluice("stop", "everything", "--reason", "fire", "--json").stdout)
        assert again == {**first, "reason": "fire"}

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("area", "nowhere"), "There is no area 'nowhere'. There are: finance, lab.\n"),
            (("team", "Payments"), "There is no team 'Payments'. There are: payments, search.\n"),
            (
                ("key", "nobody"),
                "No key, or more than one, goes by 'nobody'. `sluice keys list --json` shows their ids.\n",
            ),
        ],
    )
    def test_what_is_not_there(self, arguments: tuple[str, str], words: str) -> None:
        assert _sluice("stop", *arguments, code=1).stderr == words
        assert _stops() == set()

    def test_where_there_is_no_team_at_all(self) -> None:
        with _directory() as store:
            store.apply(ChangeSet(teams_removed=("payments", "search")), store.revision())
        assert _sluice("stop", "team", "payments", code=1).stderr.endswith("There are: none.\n")

    def test_a_name_that_fits_two_keys_stops_neither(self, key: KeyRecord) -> None:
        with _directory() as store:
            create(store, "ci", team="search")
        _sluice("stop", "key", "ci", code=1)
        assert _stops() == set()

    @pytest.mark.parametrize("verb", ["stop", "lift"])
    @pytest.mark.parametrize("arguments", [("everything", "payments"), ("team",), ("team", ""), ("key",), ("user", "")])
    def test_everything_takes_no_name_and_the_others_one(self, verb: str, arguments: tuple[str, ...]) -> None:
        assert "everything takes no name, any other scope takes one" in _sluice(verb, *arguments, code=2).stderr
        assert _stops() == set()

    @pytest.mark.parametrize("verb", ["stop", "lift"])
    def test_what_is_no_scope(self, verb: str) -> None:
        shown = _sluice(verb, "tenant", "x", code=2).stderr
        assert "write one of everything, area, team, user, key, model, backend" in " ".join(re.split(r"[\s│]+", shown))

    @pytest.mark.parametrize("name", [" ", "a\nb", "\x1b[31mred", "a\x00b", "a" * 321])
    def test_what_is_no_name(self, name: str) -> None:
        for verb in ("stop", "lift"):
            assert "printable" in _sluice(verb, "user", name, code=2).stderr
        assert _stops() == set()

    @pytest.mark.parametrize("reason", [" ", "a\nb", "\x1b[31mred", "a" * 501])
    def test_what_is_no_reason(self, reason: str) -> None:
        assert "printable" in _sluice("stop", "everything", "--reason", reason, code=2).stderr
        assert _stops() == set()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("stop", KEY),
            ("stop", "key", KEY),
            ("stop", "user", KEY),
            ("stop", "team", KEY),
            ("stop", "area", KEY),
            ("stop", "everything", "--reason", f"found {KEY} on a page"),
            ("lift", KEY),
            ("lift", "key", KEY),
            ("lift", "user", KEY),
        ],
    )
    def test_a_key_itself_is_neither_stored_nor_printed(self, key: KeyRecord, arguments: tuple[str, ...]) -> None:
        assert KEY[10:18] not in _sluice(*arguments, code=2).output
        assert _stops() == set()


class TestLift:
    @pytest.mark.parametrize(
        "arguments", [("everything",), ("area", "lab"), ("team", "payments"), ("user", "ANN@Example.com")]
    )
    def test_what_was_stopped_is_in_service_again(self, arguments: tuple[str, ...]) -> None:
        _sluice("stop", "team", "search")
        _sluice("stop", *arguments)
        shown = _sluice("lift", *arguments).stdout
        assert shown == f"in service again: {' '.join(arguments).lower()}\n"
        assert _stops() == {(StopScope.TEAM, "search", "")}

    @pytest.mark.parametrize("which", ["ci", "payments/ci", keys.hint(KEY), None])
    def test_a_key(self, key: KeyRecord, which: str | None) -> None:
        _sluice("stop", "key", "ci")
        assert _sluice("lift", "key", which or key.id).stdout == f"in service again: key payments/ci ({key.hint})\n"
        assert _stops() == set()

    def test_a_key_that_has_been_rotated_or_revoked_since(self, key: KeyRecord) -> None:
        for change in ("rotate", "revoke"):
            _sluice("stop", "key", key.id)
            with _directory() as store:
                if change == "rotate":
                    new = minted("unused")
                    store.rotate("ci", new.digest, new.hint, timedelta(hours=1))
                else:
                    store.revoke(key.id)
            _sluice("lift", "key", key.hint)
            assert _stops() == set()

    def test_a_key_of_a_name_that_two_stopped_keys_have(self, key: KeyRecord) -> None:
        with _directory() as store:
            other = create(store, "ci", team="search")
        for one in (key, other):
            _sluice("stop", "key", one.id)
        _sluice("lift", "key", "ci", code=1)
        _sluice("lift", "key", "search/ci")
        assert _stops() == {(StopScope.KEY, key.id, "")}

    def test_a_team_and_an_area_that_have_gone_since(self) -> None:
        for arguments in (("team", "payments"), ("area", "finance")):
            _sluice("stop", *arguments)
        with _directory() as store:
            gone = ChangeSet(areas_removed=("finance",), teams_removed=("payments",))
            store.apply(gone, store.revision())
        for arguments in (("team", "payments"), ("area", "finance")):
            _sluice("lift", *arguments)
        assert _stops() == set()

    @pytest.mark.parametrize(
        "arguments",
        [("everything",), ("area", "lab"), ("team", "nobody"), ("user", "nobody"), ("key", "ci"), ("key", "nobody")],
    )
    def test_what_was_not_stopped(self, key: KeyRecord, arguments: tuple[str, ...]) -> None:
        _sluice("stop", "team", "payments")
        assert _sluice("lift", *arguments, code=1).stderr == (
            "There is no such stop. `sluice emergency list` shows them.\n"
        )
        assert len(_stops()) == 1


class TestList:
    def test_the_table(self, key: KeyRecord) -> None:
        long = "a reason that is much longer than the eighty columns of a terminal, " * 3
        _sluice("stop", "everything", "--reason", "[bold]fire[/bold]")
        _sluice("stop", "key", "ci", "--reason", long.strip())
        _sluice("stop", "user", "ann@example.com")
        table = [re.split(r" {2,}", line.rstrip()) for line in _sluice("list").stdout.splitlines()]
        assert [(row[0], *row[2:]) for row in table] == [
            ("stopped", "reason"),
            ("everything", "[bold]fire[/bold]"),
            (f"key payments/ci ({key.hint})", long.strip()),
            ("user ann@example.com",),
        ]
        assert table[0][1] == "since (UTC)"
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", row[1]) for row in table[1:])

    def test_as_json(self, key: KeyRecord) -> None:
        _sluice("stop", "key", "ci", "--reason", "leak")
        _sluice("stop", "everything")
        listed = json.loads(_sluice("list", "--json").stdout)
        assert [(made["scope"], made["name"], made["reason"]) for made in listed] == [
            ("everything", None, ""),
            ("key", key.id, "leak"),
        ]

    def test_nothing(self) -> None:
        result = _sluice("list")
        assert (result.stdout, result.stderr) == ("", "Nothing is stopped.\n")
        assert json.loads(_sluice("list", "--json").stdout) == []


@pytest.mark.parametrize("arguments", [("stop", "everything"), ("lift", "everything"), ("list",)])
def test_a_database_that_cannot_be_used(folder: Path, arguments: tuple[str, ...]) -> None:
    for found in folder.glob("keys.db*"):
        found.unlink()
    (folder / "keys.db").mkdir()
    assert _sluice(*arguments, code=1).stderr == (
        "the database cannot be opened: Is a directory. Check stores.database.\n"
    )


@pytest.mark.parametrize("verb", ["stop", "lift", "list"])
def test_help_shows_examples(verb: str) -> None:
    shown = _sluice(verb, "--help").stdout
    assert "Examples" in shown
    assert f"sluice emergency {verb}" in shown

"""`sluice plan`, `apply` and `teams`, as a person and as a pipeline use them."""

import json
import os
import pty
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.config import loader
from extproc.config.teams import json_schema
from extproc.gitops.delivery import DeliveryError
from extproc.gitops.delivery.files import FileDelivery
from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.ports import Conflict, DirectoryStore, StopScope
from tests.support.gitops import CHECKOUT, LEDGER, rotate

ROOT = Path(__file__).resolve().parents[3]
DATABASE = "sqlite:///sluice.db"
GATEWAY = f"""\
stores: {{database: "{DATABASE}"}}
areas: {{retail: {{}}, finance: {{}}}}
backends: {{swe: {{dialect: openai, url: "https://swe.example"}}}}
models:
  gpt-4o: {{aliases: [big], targets: [[{{backend: swe}}]]}}
  gpt-4o-mini: {{targets: [[{{backend: swe}}]]}}
"""
TO_FILES = ("--deliver-to", "file:keys")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a gateway, two team files and no settings from the environment."""
    for name in [name for name in os.environ if name.startswith("SLUICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(GATEWAY)
    (tmp_path / "teams").mkdir()
    (tmp_path / "teams" / "checkout.yaml").write_text(CHECKOUT)
    (tmp_path / "teams" / "ledger.yaml").write_text(LEDGER)
    return tmp_path


@pytest.fixture
def store() -> Iterator[DirectoryStore]:
    sql.upgrade(DATABASE)
    with closing(sql.open_stores(DATABASE)) as stores:
        yield stores.directory


def _sluice(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments, env={"TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def _apply() -> Result:
    return _sluice("apply", "--yes", *TO_FILES)


def _edit(name: str, before: str, after: str) -> None:
    path = Path("teams") / f"{name}.yaml"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


# ---- plan -----------------------------------------------------------------------------------------


def test_a_plan_says_what_it_would_do_and_does_nothing(store: DirectoryStore) -> None:
    assert _sluice("plan").stdout == (
        "Areas\n"
        " +  finance\n"
        " +  retail\n"
        "\n"
        "Teams\n"
        " +  checkout  area retail; owner anna@example.com; tier standard; models gpt-4o; members anna@example.com "
        "(team_admin),\n"
        "              bob@example.com (developer), eve@example.com (viewer); service accounts ci (11-22)\n"
        " +  ledger    area finance; owner finn@example.com; tier standard; models *; members finn@example.com "
        "(team_admin)\n"
        "\n"
        "Who gains (+) and who loses (-) a model\n"
        "    checkout: gpt-4o     + 2 users, 1 service account, 2 keys\n"
        "    ledger: gpt-4o       + 1 user, 1 key\n"
        "    ledger: gpt-4o-mini  + 1 user, 1 key\n"
        "\n"
        "Keys\n"
        " +  checkout/ci      service account ci; environment prod; lifetime 90d\n"
        " +  checkout/laptop  user bob@example.com; lifetime for ever\n"
        " +  ledger/batch     lifetime for ever\n"
        "\n"
        "Plan: 2 areas to add; 2 teams to add; 3 keys to mint.\n"
    )
    assert store.state().teams == ()


def test_a_plan_of_every_kind_of_step_and_drift(store: DirectoryStore) -> None:
    _apply()
    store.revoke("checkout/ci")
    store.suspend("ledger/batch")
    store.stop(StopScope.TEAM, "ledger", "an \x1b[31modd[/] reason")
    _edit("checkout", "area: retail", "area: finance\ntags: {cost: a}")
    _edit("checkout", "role: viewer", "role: developer")
    _edit("checkout", "{user: bob@example.com}, ", "")
    _edit("checkout", "laptop, user: bob@example.com", "laptop, models: [big]")
    _edit("checkout", "11-22", "33-44")
    printed = _sluice("plan").stdout
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "NOW", printed) == (
        "Teams\n"
        " ~  checkout  area: retail → finance\n"
        "              tags: + cost (a)\n"
        "              members: - bob@example.com (developer), ~ eve@example.com (viewer → developer)\n"
        "              service accounts: ~ ci (11-22 → 33-44)\n"
        "\n"
        "Who gains (+) and who loses (-) a model\n"
        "    checkout: gpt-4o  + 1 user  - 1 user\n"
        "\n"
        "Keys\n"
        " ~  checkout/laptop  user: bob@example.com → none\n"
        "                     models: - all, + gpt-4o\n"
        "\n"
        "Drift: decided in the database, which wins; left as it is\n"
        " !  team ledger   emergency stop since NOW UTC: an �[31modd[/] reason\n"
        " !  checkout/ci   revoked NOW UTC: its name is spent; choose another name, or take it out of the file\n"
        " !  ledger/batch  suspended NOW UTC: stays so until resumed\n"
        "\n"
        "Plan: 1 team to change; 1 key to change.\n"
    )


def test_a_plan_of_limits(store: DirectoryStore) -> None:
    _edit("checkout", "name: gpt-4o", "name: gpt-4o, tokensPerMinute: 5000")
    _edit("checkout", "name: laptop", "name: laptop, priority: low, limits: {all: {concurrent: 5}}")
    printed = " ".join(_sluice("plan").stdout.split())
    assert "limits gpt-4o/tokens-per-minute (tokens 5,000 per minute by team, model; only models gpt-4o)" in printed
    assert "laptop user bob@example.com; lifetime for ever; limits all (concurrent 5 by key); priority low" in printed
    assert "priority high" not in printed
    _apply()
    assert store.state().teams[0].limits[0].owner == "team/checkout"
    assert _sluice("plan").stdout == "No changes. 2 teams, 4 users, 3 keys.\n"
    _edit("checkout", "5000", "6000")
    _edit("checkout", "priority: low, limits: {all: {concurrent: 5}}", "limits: {day: {requests: 9, per: day}}")
    printed = " ".join(_sluice("plan").stdout.split())
    assert "limits: ~ gpt-4o/tokens-per-minute (tokens 5,000 per minute" in printed
    assert "limits: - all (concurrent 5 by key), + day (requests 9 per day by key) priority: low → high" in printed


@pytest.mark.parametrize("verb", [["plan"], ["apply", "--yes", *TO_FILES]])
def test_limits_where_each_worker_would_count_by_itself(folder: Path, store: DirectoryStore, verb: list[str]) -> None:
    (folder / "gateway.yaml").write_text(f"workers: 2\n{GATEWAY}")
    _sluice(*verb)
    before = store.state()
    _edit("checkout", "area: retail", "area: retail\nlimits: {all: {concurrent: 5}}")
    assert _sluice(*verb, code=1).stderr == (
        f"teams/checkout.yaml:2: limits.all: {loader.load(Path('gateway.yaml'), {}).limits_refused}\n"
    )
    assert store.state() == before


def test_no_changes(store: DirectoryStore) -> None:
    _apply()
    assert _sluice("plan", "--exit-code").stdout == "No changes. 2 teams, 4 users, 3 keys.\n"
    rotate(store, "checkout/ci", timedelta(hours=1))
    printed = _sluice("plan", "--exit-code").stdout
    assert "checkout/ci  rotated" in printed
    assert printed.endswith("\nNo changes. 2 teams, 4 users, 3 keys.\n")


def test_names_that_are_spent_are_told_by_plan_and_apply_and_are_no_failure(store: DirectoryStore) -> None:
    _apply()
    file = Path("teams/checkout.yaml")
    text = file.read_text()
    file.unlink()
    _sluice("apply", "--yes")
    file.write_text(text)
    told = (
        "Not minted, as a key of the name was revoked: checkout/ci, checkout/laptop. "
        "Give them other names in their files, or take them out.\n"
    )
    assert _sluice("plan").stderr == told
    for _ in range(2):
        assert _apply().stderr == told
    assert {key.spec.team for key in store.state().keys if key.revoked_at is None} == {"ledger"}


@pytest.mark.parametrize("verb", [["plan"], ["keys", "list"], ["emergency", "list"]])
def test_verbs_that_read_leave_the_schema_as_it_is(folder: Path, verb: list[str]) -> None:
    told = "the database is missing, or its schema is older: run `sluice db upgrade`. "
    assert _sluice(*verb, code=1).stderr == f"{told}Check stores.database.\n"
    assert not list(folder.glob("sluice.db*"))
    sql.upgrade(DATABASE)
    _sluice(*verb)
    for statement, words in (
        ("UPDATE alembic_version SET version_num = '0001'", told),
        (
            "UPDATE alembic_version SET version_num = '9999'; UPDATE compatibility SET oldest = '9999'",
            "the database was written by a newer version of Sluice. ",
        ),
        ("DROP TABLE alembic_version", told),
    ):
        with closing(sqlite3.connect("sluice.db")) as database:
            database.executescript(statement)
            before = "\n".join(database.iterdump())
        assert _sluice(*verb, code=1).stderr.startswith(words)
        with closing(sqlite3.connect("sluice.db")) as database:
            assert "\n".join(database.iterdump()) == before


def test_the_exit_code_tells_of_changes_where_asked(store: DirectoryStore) -> None:
    _sluice("plan")
    _sluice("plan", "--exit-code", code=3)
    _sluice("plan", "--exit-code", "--json", code=3)


def test_a_plan_for_machines() -> None:
    _apply()
    _edit("checkout", "name: ci, service", "name: ci-2, service")
    _edit("checkout", "name: gpt-4o}", "name: gpt-4o}, {name: gpt-4o-mini}")
    plan = json.loads(_sluice("plan", "--json").stdout)
    assert plan == {
        "revision": 2,
        "changes": True,
        "areas": [],
        "teams": [
            {
                "action": "change",
                "name": "checkout",
                "fields": [{"field": "models", "before": ["gpt-4o"], "after": ["gpt-4o", "gpt-4o-mini"]}],
            }
        ],
        "keys": [
            {"action": "revoke", "team": "checkout", "name": "ci", "reason": "left the file", "fields": []},
            {"action": "mint", "team": "checkout", "name": "ci-2", "reason": "", "fields": []},
        ],
        "access": [
            {"team": "checkout", "model": "gpt-4o", "gains": {"keys": 1}, "loses": {"keys": 1}},
            {
                "team": "checkout",
                "model": "gpt-4o-mini",
                "gains": {"users": 2, "service accounts": 1, "keys": 2},
                "loses": {},
            },
        ],
        "drift": [],
    }


def test_a_long_plan_shows_the_gravest_and_counts_the_rest() -> None:
    _apply()
    due = "".join(f"  - {{name: key-{number}}}\n" for number in range(100))
    _edit("ledger", "keys: [{name: batch}]", f"keys:\n{due}")
    people = "".join(f"  - {{user: user-{number}}}\n" for number in range(20))
    _edit("ledger", "owner:", f"members:\n{people}owner:")
    lines = _sluice("plan").stdout.splitlines()
    start = lines.index("Keys")
    assert lines[start + 1].split() == ["-", "ledger/batch", "left", "the", "file"]
    assert lines[start + 31].strip() == "… and 71 more: `sluice plan --json` lists them all"
    assert "and 12 more" in "".join(lines[:start])


@pytest.mark.usefixtures("store")
def test_where_too_many_teams_gain_a_model_they_are_added_up() -> None:
    for number in range(31):
        Path(f"teams/team-{number}.yaml").write_text(LEDGER)
    lines = [line.strip() for line in _sluice("plan").stdout.splitlines()]
    assert "gpt-4o-mini  + 32 users, 32 keys, in 32 teams" in lines


def test_a_mistake_in_a_team_file_is_told_with_its_place() -> None:
    _edit("ledger", "area: finance", "area: finanse")
    for verb in (["plan"], ["apply", "--yes", *TO_FILES]):
        assert _sluice(*verb, code=1).stderr == (
            "teams/ledger.yaml:1: area: there is no area 'finanse' under `areas` of the gateway "
            "(did you mean finance?)\n"
        )


@pytest.mark.usefixtures("store")
def test_another_folder_of_team_files(folder: Path) -> None:
    (folder / "teams").rename(folder / "other")
    assert _sluice("plan", code=1).stderr == "teams: cannot be read (No such file or directory)\n"
    assert "3 keys to mint" in _sluice("plan", "--teams", "other").stdout
    (folder / "gateway.yaml").write_text(f"teams: other\n{GATEWAY}")
    assert "3 keys to mint" in _sluice("plan").stdout


# ---- on a terminal --------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("width", [80, 120])
def test_on_a_terminal_a_plan_is_coloured_and_keeps_to_its_width(width: int) -> None:
    text = _on_a_terminal(width, "plan")
    assert "\x1b[32m +\x1b[0m" in text
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).rstrip() for line in text.splitlines()]
    assert [line for line in lines if len(line) > width] == []
    assert "Plan: 2 areas to add; 2 teams to add; 3 keys to mint." in lines


@pytest.mark.parametrize(("answer", "teams"), [("y", 2), ("n", 0)])
def test_on_a_terminal_an_apply_asks(store: DirectoryStore, answer: str, teams: int) -> None:
    text = _on_a_terminal(100, "apply", *TO_FILES, answer=f"{answer}\n", code=0 if teams else 1)
    assert "Apply this? [y/N]" in text
    assert ("Applied in" in text, "Nothing was changed." in text) == (bool(teams), not teams)
    assert ("delivering keys" in text) == bool(teams)
    assert len(store.state().teams) == teams


def _on_a_terminal(width: int, *arguments: str, answer: str = "", code: int = 0) -> str:
    """What a process prints on a terminal."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "COLUMNS": str(width), "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    environ.pop("NO_COLOR", None)
    command = [sys.executable, "-m", "extproc.cli", *arguments]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ)
    os.close(theirs)
    os.write(ours, answer.encode())
    printed = b""
    try:
        while chunk := os.read(ours, 4096):
            printed += chunk
    except OSError:
        pass  # the terminal of a process that has ended
    finally:
        os.close(ours)
    assert child.wait() == code
    return printed.decode()


# ---- apply ----------------------------------------------------------------------------------------


def test_an_apply_prints_the_plan_delivers_the_keys_and_prints_none(store: DirectoryStore, folder: Path) -> None:
    result = _apply()
    assert result.stdout.startswith("Areas\n")
    assert re.search(r"\nApplied in \d+\.\d s\. 3 new keys delivered to file:keys\.\n$", result.stdout)
    assert result.stderr == ""
    delivered = {str(path.relative_to(folder / "keys")): path.read_text() for path in folder.glob("keys/*/*")}
    assert set(delivered) == {"checkout/ci", "checkout/laptop", "ledger/batch"}
    for key in delivered.values():
        assert keys.is_well_formed(key)
        assert key.removeprefix(keys.PREFIX) not in result.output
    assert {change.digest for change in store.changes(0) if hasattr(change, "digest")} == {
        keys.digest(key) for key in delivered.values()
    }
    assert _apply().stdout == "No changes. 2 teams, 4 users, 3 keys.\n"


def test_without_a_place_for_new_keys_nothing_is_done(store: DirectoryStore) -> None:
    result = _sluice("apply", "--yes", code=1)
    assert result.stdout == ""
    assert result.stderr == (
        "3 keys would be minted: say where they go, such as --deliver-to file:FOLDER. Nothing was changed.\n"
    )
    assert store.state().teams == ()


def test_nobody_there_to_ask(store: DirectoryStore) -> None:
    assert _sluice("apply", *TO_FILES, code=1).stderr == (
        "Nobody is there to ask: give --yes to apply this. Nothing was changed.\n"
    )
    assert store.state().teams == ()


def test_a_change_without_new_keys_needs_no_place() -> None:
    _apply()
    _edit("ledger", "area: finance", "area: retail")
    assert re.search(r"\nApplied in \d+\.\d s\.\n$", _sluice("apply", "--yes").stdout)


def test_what_is_no_place_for_keys() -> None:
    assert "file:FOLDER" in _sluice("apply", "--yes", "--deliver-to", "keys", code=2).stderr.replace("│\n│ ", "")


def test_an_empty_folder_removes_everything_only_where_asked(store: DirectoryStore, folder: Path) -> None:
    _apply()
    for path in folder.glob("teams/*.yaml"):
        path.unlink()
    told = "The folder has no team file: `sluice apply` removes every team only with --remove-all.\n"
    assert _sluice("plan").stdout.endswith(told)
    assert _sluice("apply", "--yes", code=1).stderr == "Is it the right folder? Nothing was changed.\n"
    assert len(store.state().teams) == 2
    _sluice("apply", "--yes", "--remove-all")
    assert store.state().teams == ()
    assert all(key.revoked_at for key in store.state().keys)
    assert _sluice("plan").stdout == "No changes. 0 teams, 0 users, 0 keys.\n"


def test_a_delivery_that_fails_is_told_and_changes_nothing(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_given: object) -> None:
        raise DeliveryError("keys: the disk is full")

    monkeypatch.setattr(FileDelivery, "deliver", full)
    assert _sluice("apply", "--yes", *TO_FILES, code=1).stderr == (
        "keys: the disk is full\nNo new key came in force. Run it again when this is mended.\n"
    )
    assert store.state().teams == ()


def test_another_apply_at_work(store: DirectoryStore) -> None:
    with store.alone():
        assert _sluice("apply", "--yes", *TO_FILES, code=1).stderr == (
            "Another `sluice apply` is at work on this database. Let it end, and run this again.\n"
        )


def test_a_directory_that_never_holds_still(monkeypatch: pytest.MonkeyPatch, store: DirectoryStore) -> None:
    def moved(*_given: object) -> int:
        raise Conflict("the directory is not at this revision any more")

    monkeypatch.setattr(type(store), "apply", moved)
    assert _sluice("apply", "--yes", *TO_FILES, code=1).stderr == (
        "The directory changed at every attempt. No new key came in force, though some may have been delivered: "
        "those will never work. Run it again.\n"
    )


def test_an_apply_that_wrote_over_the_keys_of_another(monkeypatch: pytest.MonkeyPatch, store: DirectoryStore) -> None:
    commit = type(store).apply

    def elsewhere(*given: Any) -> int:
        """The same keys come in force, as another's."""
        commit(*given)
        raise Conflict("the directory is not at this revision any more")

    monkeypatch.setattr(type(store), "apply", elsewhere)
    assert _sluice("apply", "--yes", *TO_FILES, code=1).stderr == (
        "Another `sluice apply` was at work. Keys that work, while their places hold others that never will: "
        "checkout/ci, checkout/laptop, ledger/batch. "
        "Make successors by `sluice keys rotate`, and put them there.\n"
    )


@pytest.mark.parametrize("verb", ["plan", "apply"])
def test_a_database_that_cannot_be_used(folder: Path, verb: str) -> None:
    (folder / "sluice.db").mkdir()
    told = "the database cannot be opened: Is a directory. Check stores.database.\n"
    assert _sluice(verb, code=1).stderr == told


# ---- teams ----------------------------------------------------------------------------------------

ACCESS = """\
team: {name: search, owner: Dora@example.com}
models:
  foundry: [{name: gpt-4o, tokensPerMinute: 50000}, {name: "null"}]
  kaito:
    - name: gpt-4o-mini
      tokensPerMinute: 20000
"""


@pytest.mark.usefixtures("store")
def test_an_access_file_becomes_a_team_file(folder: Path) -> None:
    (folder / "access.yaml").write_text(ACCESS.replace(', {name: "null"}', ""))
    result = _sluice("teams", "import", "access.yaml", "--area", "retail")
    assert result.stdout == "teams/search.yaml\n"
    assert result.stderr == ""
    assert (folder / "teams" / "search.yaml").read_text() == (
        "# Made from access.yaml by `sluice teams import`.\n"
        "area: retail\n"
        "owner: dora@example.com\n"
        "models:\n"
        "- {name: gpt-4o, tokensPerMinute: 50000}\n"
        "- {name: gpt-4o-mini, tokensPerMinute: 20000}\n"
    )
    assert "+  search    area retail; owner dora@example.com" in _sluice("plan").stdout


def test_an_access_file_whose_names_look_like_something_else(folder: Path) -> None:
    (folder / "access.yaml").write_text(ACCESS)
    _sluice("teams", "import", "access.yaml", "--out", "elsewhere/teams")
    made = YAML(typ="safe").load(folder / "elsewhere" / "teams" / "search.yaml")
    assert made["models"] == [
        {"name": "gpt-4o", "tokensPerMinute": 50000},
        {"name": "null"},
        {"name": "gpt-4o-mini", "tokensPerMinute": 20000},
    ]
    assert made["area"] == "default"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("owner:", "ownr:", "access.yaml:1: team.owner: is required\naccess.yaml:1: team.ownr: unknown field"),
        ("search", "Search Team", "access.yaml:1: team.name: must be lower-case letters"),
        ("50000", "many", "access.yaml:3: models.foundry[0].tokensPerMinute: must be a whole number"),
        ("50000", "0", "access.yaml:3: models.foundry[0].tokensPerMinute: must be at least 1"),
        ("gpt-4o-mini", "gpt-4o", "access.yaml:2: models: gpt-4o is given twice"),
        ("Dora@example.com", '"${HOME}"', "access.yaml:1: team.owner: ${HOME} is not filled in"),
        ("kaito", "vllm", "access.yaml:4: models.vllm: unknown field"),
    ],
)
def test_mistakes_in_an_access_file(folder: Path, before: str, after: str, told: str) -> None:
    (folder / "access.yaml").write_text(ACCESS.replace(before, after))
    result = _sluice("teams", "import", "access.yaml", code=1)
    assert result.stderr.startswith(told)
    assert not (folder / "teams" / "search.yaml").exists()


def test_an_import_never_writes_over_a_team(folder: Path) -> None:
    (folder / "access.yaml").write_text(ACCESS.replace("search", "ledger"))
    assert _sluice("teams", "import", "access.yaml", code=1).stderr == (
        "teams/ledger.yaml is there already. Move it away, or add the models to it by hand.\n"
    )
    assert (folder / "teams" / "ledger.yaml").read_text() == LEDGER


def test_an_import_into_what_is_no_folder(folder: Path) -> None:
    (folder / "access.yaml").write_text(ACCESS)
    (folder / "file").write_text("")
    told = _sluice("teams", "import", "access.yaml", "--out", "file", code=1).stderr
    assert told == "Cannot write file/search.yaml: File exists.\n"


def test_the_schema_of_a_team_file() -> None:
    assert json.loads(_sluice("teams", "schema").stdout) == json_schema()


@pytest.mark.parametrize("verb", [["plan"], ["apply"], ["teams", "schema"], ["teams", "import"]])
def test_help_shows_examples(verb: list[str]) -> None:
    shown = _sluice(*verb, "--help").stdout
    assert "Examples" in shown
    assert f"sluice {' '.join(verb)}" in shown


def test_the_published_schemas_are_those_of_the_code() -> None:
    published = {path.name: json.loads(path.read_text()) for path in (ROOT / "docs" / "schemas").iterdir()}
    assert published == {"gateway.schema.json": loader.json_schema(), "team.schema.json": json_schema()}

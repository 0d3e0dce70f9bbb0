"""`sluice db`, and `stores.migrate: false`, with which nothing else touches the schema; on SQLite and PostgreSQL."""

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from textwrap import indent

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import make_url, text
from typer.testing import CliRunner, Result

from extproc.cli import app
from extproc.ledger.events import read
from extproc.stores import sql
from extproc.stores.ports import SchemaAhead, SchemaBehind, StoreUnavailable
from extproc.stores.sql import migrations
from extproc.stores.sql.engine import connect
from tests.support.ledger import call
from tests.support.ports import free_port
from tests.support.stores import create, empty_postgres

ROOT = Path(__file__).parents[2]
NEWEST = max((Path(migrations.__file__).parent / "versions").glob("0*.py")).name[:4]
BEHIND = "the database is missing, or its schema is older: run `sluice db upgrade`"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, of the configuration in the current directory, which lets nothing migrate."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLUICE_CONFIG", raising=False)
    made = "sqlite:///deep/sluice.db" if request.param == "sqlite" else empty_postgres()
    configure(made)
    return made


def configure(url: str) -> None:
    Path("teams").mkdir(exist_ok=True)
    Path("gateway.yaml").write_text(
        f"stores: {{database: '{url}', migrate: false, counters: 'redis://127.0.0.1:1'}}\n"
        f"listener: {{port: {free_port()}}}\nmetrics: {{port: {free_port()}}}\nstate_dir: state\n"
        "identity: {store_outage: {snapshot: true}}\n"
        'backends: {one: {dialect: openai, url: "https://one.example"}}\n'
        "models: {gpt-4o: {targets: [[{backend: one}]]}}\n"
    )


def sluice(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


def bring_to(url: str, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = connect(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


def call_it(url: str, revision: str, oldest: str = "9999") -> None:
    """As a newer version would have left it, with which those before `oldest` cannot live."""
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
        connection.execute(text("UPDATE compatibility SET oldest = :oldest"), {"oldest": oldest})
    engine.dispose()


@contextmanager
def newer_version(steps: str, tmp_path: Path, **marks: str) -> Iterator[str]:
    """Be a version that has one migration more, of which these are the steps; gives its revision."""
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrations.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    made = {"revision": "9998", "down_revision": NEWEST, **marks}
    lines = [f"{name} = {value!r}" for name, value in made.items()]
    lines = ["import sqlalchemy as sa", "from alembic import op", *lines, "def upgrade():", indent(steps, "    ")]
    (folder / "versions" / "9998_newer.py").write_text("\n".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrations, "_FOLDER", folder)
        yield made["revision"]


EXPANDS = """
op.add_column("calls", sa.Column("colour", sa.String(20)))
op.add_column("calls", sa.Column("weight", sa.BigInteger, nullable=False, server_default="7"))
op.add_column("keys", sa.Column("colour", sa.String(20), nullable=False, server_default="red"))
op.create_table("colours", sa.Column("name", sa.String(20), primary_key=True))
op.create_index("calls_colour", "calls", ["colour"])
"""


def test_an_empty_database_is_brought_to_the_newest_schema(url: str) -> None:
    assert (told := sluice("db", "check")).exit_code == 1
    assert told.output == f"The database is empty; this version needs {NEWEST}: run `sluice db upgrade`.\n"
    assert sql.schema(url) == (None, NEWEST, True, True)  # and a look makes none
    assert not Path("deep").exists()
    assert sluice("db", "upgrade").output == f"The database is at {NEWEST} now; it was empty.\n"
    assert (told := sluice("db", "check")).exit_code == 0
    assert told.output == f"The database is at {NEWEST}; this version needs {NEWEST}: nothing to do.\n"
    assert sluice("db", "upgrade").output == f"The database is at {NEWEST} already, the newest.\n"


def test_one_that_is_behind_keeps_what_it_has(url: str) -> None:
    bring_to(url, "0007")
    told = sluice("db", "check", "--json")
    assert (told.exit_code, json.loads(told.output)) == (
        1,
        {"revision": "0007", "newest": NEWEST, "state": "behind", "shared": True},
    )
    engine = connect(url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO odd_events VALUES ('o', '2026-01-01 00:00:00', 'odd', 'it')"))
    assert json.loads(sluice("db", "upgrade", "--json").output) == {"from": "0007", "to": NEWEST}
    with engine.begin() as connection:
        assert connection.execute(text("SELECT digest FROM odd_events")).scalars().all() == ["o"]
    engine.dispose()
    assert json.loads(sluice("db", "check", "--json").output)["state"] == "current"


def test_one_of_a_newer_version_is_left_alone(url: str) -> None:
    sql.upgrade(url)
    call_it(url, "9999")
    told = sluice("db", "check")
    assert (told.exit_code, told.output) == (
        1,
        f"The database is at 9999; this version needs {NEWEST}: it was written by a newer version of Sluice. "
        "Use that.\n",
    )
    assert json.loads(sluice("db", "check", "--json").output)["state"] == "newer"
    told = sluice("db", "upgrade")
    assert (told.exit_code, "a newer version of Sluice" in told.output) == (1, True)
    assert sql.schema(url).found == "9999"


def test_a_version_lives_with_what_a_newer_one_has_added(url: str, tmp_path: Path) -> None:
    """As the pods of the version before do while an upgrade goes on, and after a rollback."""
    sql.upgrade(url)
    with newer_version(EXPANDS, tmp_path, kind="expand") as newest:
        assert sql.schema(url) == (NEWEST, newest, True, True)
        assert not sql.upgrade(url)
    assert sql.schema(url) == (newest, NEWEST, False, True)
    for migrate in (True, False):
        assert sql.ready(url, migrate), "it is newer"
    why = "it was written by a newer version of Sluice, and this one can live with its schema.\n"
    for verb, needs in (("check", f"; this version needs {NEWEST}"), ("upgrade", "")):
        said = sluice("db", verb)
        assert (said.exit_code, said.output) == (0, f"The database is at {newest}{needs}: {why}")
    assert json.loads(sluice("db", "upgrade", "--json").output) == {"from": newest, "to": newest}
    assert json.loads(sluice("db", "check", "--json").output)["state"] == "newer"
    with closing(sql.open_stores(url)) as stores:
        create(stores.directory, "app")
        stores.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
        stores.ledger.write(read([call("w.1", user="ann")], "USD"))
        assert stores.ledger.rebuild("UTC") == 1
        with stores.engine.begin() as connection:
            assert connection.execute(text("SELECT colour, weight FROM calls")).all() == [(None, 7)]
            assert connection.execute(text("SELECT colour FROM keys")).all() == [("red",)]
        assert stores.retention.erase("ann", datetime(2026, 2, 1)).calls == 1


@pytest.mark.parametrize(("oldest", "is_shared"), [("9998", False), (NEWEST, True), ("0005", True)])
def test_what_a_newer_version_takes_away_only_those_live_with_that_have_no_use_for_it(
    url: str, tmp_path: Path, oldest: str, is_shared: bool
) -> None:
    sql.upgrade(url)
    with newer_version('op.drop_column("calls", "tier")', tmp_path, kind="contract", oldest=oldest) as newest:
        assert sql.schema(url) == (NEWEST, newest, True, is_shared)
        asked = sluice("db", "check")
        assert (asked.exit_code, "end the gateways of the version before" in asked.output) == (1, not is_shared)
        told = sluice("db", "upgrade")
        assert (told.exit_code, "do not start again" in told.output) == (0, not is_shared)
    assert sql.schema(url) == (newest, NEWEST, False, is_shared)
    if is_shared:
        assert sql.ready(url, migrate=False)
    else:
        with pytest.raises(SchemaAhead):
            sql.ready(url, migrate=True)


@pytest.mark.parametrize("verb", ["check", "upgrade"])
def test_one_that_does_not_answer_is_said(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configure("postgresql+psycopg://nobody:hidden@127.0.0.1:1/none")
    told = sluice("db", verb)
    assert told.exit_code == 1
    assert told.output.endswith("Check stores.database.\n")
    assert "hidden" not in told.output


@pytest.mark.parametrize(
    "verb",
    [
        ["up"],
        ["serve"],
        ["apply", "--yes"],
        ["keys", "create", "app"],
        ["emergency", "stop", "everything"],
        ["ledger", "run"],
        ["ledger", "rebuild"],
        ["ledger", "erase", "--user", "ann@example.com"],
        ["budgets", "rebuild"],
        ["usage"],
        ["explain", "id"],
        ["alerts", "list"],
        ["limits"],
    ],
    ids=" ".join,
)
def test_nothing_else_migrates_where_it_must_not(url: str, verb: list[str]) -> None:
    bring_to(url, "0010")
    told = sluice(*verb)
    assert told.exit_code == 1, told.output
    assert BEHIND in told.output
    assert sql.schema(url).found == "0010"


@pytest.mark.parametrize("verb", ["up", "serve"])
def test_a_gateway_does_not_start_on_a_newer_schema_even_with_a_snapshot(url: str, verb: str) -> None:
    sql.upgrade(url)
    call_it(url, "9999")
    told = sluice(verb)
    assert told.exit_code == 1
    assert "a newer version of Sluice" in told.output


def test_it_says_whether_it_may(url: str) -> None:
    with pytest.raises(SchemaBehind):
        sql.ready(url, migrate=False)
    sql.ready(url, migrate=True)
    sql.ready(url, migrate=False)
    call_it(url, "9999")
    for migrate in (True, False):
        with pytest.raises(StoreUnavailable, match="a newer version") as raised:
            sql.ready(url, migrate)
        assert not isinstance(raised.value, SchemaBehind)


def granted(role: str, migrations: str) -> tuple[str, str]:
    """The statements that docs/operations.md has for a gateway's user: by who may grant, and by who migrates."""
    page = (ROOT / "docs" / "operations.md").read_text()
    page = page.replace('"sluice-migrations"', migrations).replace(" TO sluice;", f" TO {role};")
    first, second = (block.partition("```")[0] for block in page.split("```sql\n")[1:3])
    return first, second


def as_role(url: str, role: str) -> str:
    return make_url(url).update_query_dict({"options": f"-c role={role}"}).render_as_string(hide_password=False)


def test_a_gateway_needs_no_right_to_make_tables() -> None:
    url, role = empty_postgres(), f"sluice_{secrets.token_hex(4)}"
    migrations = f"{role}_migrations"
    by_owner, by_migrations = granted(role, migrations)
    own, owner = as_role(url, role), connect(url)
    with owner.begin() as connection:
        connection.execute(text(f"CREATE ROLE {role}; CREATE ROLE {migrations}; {by_owner}"))
        connection.execute(text(f"SET LOCAL ROLE {migrations}; {by_migrations}"))
    try:
        bring_to(as_role(url, migrations), "0010")
        with pytest.raises(StoreUnavailable, match="permission denied"):
            sql.ready(own, migrate=True)
        sql.upgrade(as_role(url, migrations))
        with owner.begin() as connection:  # who grants table by table may know only those that are used
            connection.execute(text(f"REVOKE ALL ON compatibility FROM {role}"))
        for migrate in (True, False):
            assert not sql.ready(own, migrate), "nothing but the revision is read where that is known"
        with closing(sql.open_stores(own)) as stores:
            create(stores.directory, "app")
            stores.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
            stores.ledger.write(read([call("w.1", user="ann")], "USD"))
            assert stores.ledger.rebuild("UTC") == 1
            assert stores.retention.erase("ann", datetime(2026, 2, 1)).calls == 1
            assert not stores.alerts.recent(1)
    finally:
        with owner.begin() as connection:
            connection.execute(text(f"DROP OWNED BY {role}, {migrations}; DROP ROLE {role}, {migrations}"))
        owner.dispose()

"""The database itself, and the affinity of stateful calls; the directory has a file of its own.

PostgreSQL takes part when SLUICE_TEST_POSTGRES holds the URL of a database that may be emptied.
"""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import text

from extproc.identity import keys
from extproc.roster import Roster
from extproc.stores import sql
from extproc.stores.ports import (
    AFFINITY_LIFE,
    Affinity,
    ChangeSet,
    Conflict,
    KeyChange,
    KeyRecord,
    KeySpec,
    NameTaken,
    StopScope,
    StoreUnavailable,
)
from extproc.stores.sql import migrations
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from extproc.stores.sql.tables import metadata
from tests.support.stores import Clock, Ground, apply, changes, create, empty_postgres, minted, team


class TestAffinity:
    def test_what_is_remembered_is_recalled_by_every_worker(self, ground: Ground) -> None:
        ground.affinity.remember(["resp_1", "msg_1"], "swe", "gpt-4o", "key_1")
        held = Affinity("swe", "gpt-4o", "key_1")
        assert ground.same_affinity.recall(["resp_1", "resp_2", "msg_1"]) == {"resp_1": held, "msg_1": held}

    def test_nothing_is_known_of_nothing(self, ground: Ground) -> None:
        ground.affinity.remember([], "swe", "gpt-4o", "key_1")
        assert ground.affinity.recall([]) == {}
        assert ground.affinity.recall([""]) == {}

    def test_the_first_to_name_an_id_owns_it(self, ground: Ground) -> None:
        ground.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
        ground.same_affinity.remember(["resp_1", "resp_2"], "fra", "o3", "key_2")
        assert ground.affinity.recall(["resp_1", "resp_2"]) == {
            "resp_1": Affinity("swe", "gpt-4o", "key_1"),
            "resp_2": Affinity("fra", "o3", "key_2"),
        }

    def test_an_id_named_twice_in_one_call_counts_once(self, ground: Ground) -> None:
        ground.affinity.remember(["resp_1", "resp_1"], "swe", "gpt-4o", "key_1")
        assert list(ground.affinity.recall(["resp_1", "resp_1"])) == ["resp_1"]

    def test_it_is_forgotten_after_its_life_and_the_id_is_free_again(self, ground: Ground, clock: Clock) -> None:
        ground.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
        clock.advance(AFFINITY_LIFE - timedelta(microseconds=1))
        assert "resp_1" in ground.affinity.recall(["resp_1"])
        clock.advance(timedelta(microseconds=1))
        assert ground.affinity.recall(["resp_1"]) == {}
        ground.affinity.remember(["resp_1"], "fra", "gpt-4o", "key_2")
        assert ground.affinity.recall(["resp_1"]) == {"resp_1": Affinity("fra", "gpt-4o", "key_2")}

    def test_naming_an_id_again_does_not_prolong_its_life(self, ground: Ground, clock: Clock) -> None:
        ground.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
        clock.advance(AFFINITY_LIFE / 2)
        ground.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
        clock.advance(AFFINITY_LIFE / 2)
        assert ground.affinity.recall(["resp_1"]) == {}

    def test_a_caller_may_name_more_ids_than_a_statement_takes(self, ground: Ground) -> None:
        ground.affinity.remember(["id-0", "id-69999"], "swe", "gpt-4o", "key_1")
        assert list(ground.affinity.recall([f"id-{number}" for number in range(70_000)])) == ["id-0", "id-69999"]

    def test_ids_may_be_any_text(self, ground: Ground) -> None:
        odd = ["\x00", "é\U0001f511", "'; --", "x" * 1_000_000, " resp", "resp ", "RESP"]
        ground.affinity.remember(odd, "swe", "gpt-4o", "key_1")
        assert set(ground.affinity.recall([*odd, "resp"])) == set(odd)


class TestSqliteFile:
    def test_it_and_its_folder_are_private(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "state" / "sluice.db"
        sql.upgrade(f"sqlite:///{path}")
        with closing(sql.open_stores(f"sqlite:///{path}")) as stores:
            create(stores.directory, "app")
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert modes["sluice.db"] == 0o600
        assert set(modes.values()) == {0o600}

    def test_it_never_holds_a_key_or_an_id(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/sluice.db"
        sql.upgrade(url)
        key = keys.mint(os.urandom(32))
        with closing(sql.open_stores(url)) as stores:
            create(stores.directory, "canary-name", key=key)
            stores.affinity.remember(["resp_canary"], "swe", "gpt-4o", "key_1")
        held = b"".join(found.read_bytes() for found in tmp_path.iterdir())
        assert b"canary-name" in held
        assert key.removeprefix(keys.PREFIX)[:43].encode() not in held
        assert b"resp_canary" not in held

    def test_a_reader_does_not_wait_for_a_writer(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/sluice.db"
        sql.upgrade(url)
        with closing(sql.open_stores(url)) as stores, closing(sqlite3.connect(tmp_path / "sluice.db")) as writer:
            writer.execute("BEGIN IMMEDIATE")
            assert changes(stores.directory) == []
            writer.rollback()

    def test_many_may_start_at_once(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/sluice.db"
        failed: list[BaseException] = []
        start = threading.Barrier(6)

        def bring_up() -> None:
            start.wait()
            try:
                sql.upgrade(url)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=bring_up) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        with closing(sql.open_stores(url)) as stores:
            assert stores.directory.state().keys == ()

    def test_a_migration_that_breaks_off_leaves_nothing_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "sluice.db"
        with closing(sqlite3.connect(path)) as squatter:
            squatter.execute("CREATE TABLE affinity (other TEXT)")  # the second table of the first migration
        with pytest.raises(StoreUnavailable, match="already exists"):
            sql.upgrade(f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as reader:
            assert reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall() == [("affinity",)]

    def test_upgrading_again_changes_nothing(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/sluice.db"
        sql.upgrade(url)
        with closing(sql.open_stores(url)) as stores:
            made = create(stores.directory, "app")
        sql.upgrade(url)
        with closing(sql.open_stores(url)) as stores:
            assert stores.directory.state().keys == (made,)


class TestExchangedFile:
    """A backup is put in the place of a database file that is in use."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "sluice.db"
        sql.upgrade(f"sqlite:///{path}")
        return path

    def _back_up(self, path: Path) -> Path:
        backup = path.with_name("backup.db")
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        return backup

    @pytest.mark.parametrize("later", [0, 1, 2, 3])
    def test_what_is_done_in_the_new_one_reaches_a_worker_that_had_the_old_one(self, path: Path, later: int) -> None:
        """Whatever the revisions of the two: lower, equal or higher."""
        url = f"sqlite:///{path}"
        leaked, lost = keys.mint(b"l" * 32), keys.mint(b"o" * 32)
        with closing(sql.open_stores(url)) as worker, closing(sql.open_stores(url)) as person:
            create(person.directory, "leaked", leaked)
            backup = self._back_up(path)
            create(person.directory, "lost", lost)
            create(person.directory, "lost too")
            roster = Roster(worker.directory)
            roster.refresh()
            assert len(roster.current().keys) == 3
            backup.replace(path)
            with closing(sql.open_stores(url)) as another:
                for number in range(later):
                    create(another.directory, f"new-{number}")
                another.directory.revoke("leaked")
                another.directory.stop(StopScope.EVERYTHING, "", "fire")
            with pytest.raises(StoreUnavailable, match="another database file"):
                roster.refresh()
            roster.refresh()
            assert {key.name for key in roster.current().keys.values()} == {f"new-{n}" for n in range(later)}
            assert roster.current().stops == {("everything", "")}

    def test_each_connection_turns_to_the_new_one_without_a_word(self, path: Path) -> None:
        url = f"sqlite:///{path}"
        with closing(sql.open_stores(url)) as stores:
            backup = self._back_up(path)
            stores.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1")
            backup.replace(path)
            assert stores.affinity.recall(["resp_1"]) == {}

    def test_the_same_file_is_not_told_as_another(self, path: Path) -> None:
        with closing(sql.open_stores(f"sqlite:///{path}")) as stores:
            assert stores.directory.revision() == 1
            stores.engine.dispose()
            assert stores.directory.revision() == 1

    def test_one_that_is_away_for_a_while_is_not_made_anew(self, path: Path) -> None:
        aside = path.with_name("aside.db")
        with closing(sql.open_stores(f"sqlite:///{path}")) as stores:
            create(stores.directory, "app")
            path.rename(aside)
            with pytest.raises(StoreUnavailable, match="cannot be opened: No such file"):
                stores.directory.revision()
            assert not path.exists()
            aside.rename(path)
            assert stores.directory.revision() == 2


@pytest.mark.parametrize("place", ["nowhere/sluice.db", "text.db/sluice.db", ""])
def test_stores_are_there_before_their_database_is(tmp_path: Path, place: str) -> None:
    """A worker that starts from the snapshot needs them while a mount or a permission is gone."""
    (tmp_path / "text.db").write_text("no folder")
    with closing(sql.open_stores(f"sqlite:///{tmp_path}/{place}")) as stores:
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            stores.directory.revision()
        with pytest.raises(StoreUnavailable, match="cannot be opened"):
            stores.affinity.recall(["resp_1"])
    assert [found.name for found in tmp_path.iterdir()] == ["text.db"]


def test_a_worker_that_had_no_database_at_first_has_it_when_it_comes(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/mount/sluice.db"
    with closing(sql.open_stores(url)) as stores:
        with pytest.raises(StoreUnavailable):
            stores.directory.revision()
        sql.upgrade(url)
        assert stores.directory.revision() == 1


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    return f"sqlite:///{tmp_path}/sluice.db" if request.param == "sqlite" else empty_postgres()


def test_the_tables_are_what_the_migrations_make(url: str) -> None:
    sql.upgrade(url)
    engine = connect(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


class TestMigrations:
    """From the first schema, which knew keys alone."""

    ROWS = (
        ("key_1", "d1", "app", "hint-1", "2026-01-01 00:00:00.000001", None, "2026-01-02 00:00:00.000000", None),
        ("key_2", "d2", "app", "hint-2", "2026-01-02 00:00:00.000000", "2027-01-01 00:00:00.000000", None, None),
        ("key_3", "d3", "ci", "hint-3", "2026-01-03 00:00:00.000000", None, None, '["gpt-4o", "claude"]'),
        ("key_4", "d4", "none", "hint-4", "2026-01-04 00:00:00.000000", None, None, "[]"),
    )

    @pytest.fixture
    def old(self, url: str) -> str:
        engine = connect(url)
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(migrations.__file__).parent))
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
            names = ("id", "digest", "name", "hint", "created_at", "expires_at", "revoked_at", "models")
            insert = text(f"INSERT INTO keys ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})")
            if engine.dialect.name == "postgresql":
                insert = text(str(insert).replace(":models", "CAST(:models AS json)"))
            connection.execute(insert, [dict(zip(names, row, strict=True)) for row in self.ROWS])
            connection.execute(
                text("INSERT INTO affinity VALUES (:digest, 'swe', 'gpt-4o', 'key_2', '2999-01-01 00:00:00.000000')"),
                {"digest": keys.digest("resp_1")},
            )
        engine.dispose()
        return url

    def test_the_keys_of_before_work_on(self, old: str) -> None:
        sql.upgrade(old)
        with closing(sql.open_stores(old)) as stores:
            records = stores.directory.state().keys
            told = {
                change.digest: change.record for change in changes(stores.directory) if isinstance(change, KeyChange)
            }
            assert stores.affinity.recall(["resp_1"]) == {"resp_1": Affinity("swe", "gpt-4o", "key_2")}

        def day(number: int, micros: int = 0) -> datetime:
            return datetime(2026, 1, number, microsecond=micros, tzinfo=UTC)

        both = ("gpt-4o", "claude")
        assert records == (
            KeyRecord("key_1", KeySpec("app"), "hint-1", "key_1", day(1, 1), revoked_at=day(2)),
            KeyRecord("key_2", KeySpec("app"), "hint-2", "key_2", day(2), datetime(2027, 1, 1, tzinfo=UTC)),
            KeyRecord("key_3", KeySpec("ci", models=both), "hint-3", "key_3", day(3)),
            KeyRecord("key_4", KeySpec("none", models=()), "hint-4", "key_4", day(4)),
        )
        assert told == dict(zip(("d2", "d3", "d4"), records[1:], strict=True))

    def test_and_are_changed_like_any_other(self, old: str) -> None:
        sql.upgrade(old)
        with closing(sql.open_stores(old)) as stores:
            before = stores.directory.revision()
            with pytest.raises(NameTaken):
                create(stores.directory, "ci")
            new = minted("unused")
            replaced, successor = stores.directory.rotate("ci", new.digest, new.hint, timedelta(hours=1))
            assert (replaced.id, successor.lineage, successor.spec.models) == ("key_3", "key_3", ("gpt-4o", "claude"))
            assert len(changes(stores.directory, before)) == 2

    def test_teams_and_keys_from_before_there_were_limits_have_none(self, url: str) -> None:
        engine = connect(url)
        with engine.begin() as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(migrations.__file__).parent))
            config.attributes["connection"] = connection
            command.upgrade(config, "0002")
            for statement in (
                "INSERT INTO teams VALUES ('ops', 'lab', 'o@example.com', 'gold', NULL, '[]', '[]', NULL, 2)",
                "INSERT INTO keys (id, digest, name, hint, created_at, lineage, revision) "
                "VALUES ('key_1', 'd1', 'app', 'hint', '2026-01-01 00:00:00.000000', 'key_1', 2)",
            ):
                connection.execute(text(statement))
        engine.dispose()
        sql.upgrade(url)
        with closing(sql.open_stores(url)) as stores:
            state = stores.directory.state()
        assert state.teams == (team("ops", area="lab", models=None, redaction="default", guardrails="default"),)
        assert [key.spec for key in state.keys] == [KeySpec("app")]

    def test_one_that_breaks_off_leaves_the_keys_where_they_were(self, old: str) -> None:
        engine = connect(old)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE stops (other TEXT)"))  # the last table of the second migration
        with pytest.raises(StoreUnavailable, match="already exists"):
            sql.upgrade(old)
        with engine.begin() as connection:
            assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "0001"
            connection.execute(text("DROP TABLE stops"))
        engine.dispose()
        sql.upgrade(old)
        with closing(sql.open_stores(old)) as stores:
            assert len(stores.directory.state().keys) == 4


UNUSABLE = {
    "a folder": "sqlite:///{tmp}",
    "a text": "sqlite:///{tmp}/text.db",
    "inside a file": "sqlite:///{tmp}/text.db/sluice.db",
    "nobody listens": "postgresql://user:s3cret@127.0.0.1:1/sluice",
    "no such driver": "postgresql+nosuch://user:s3cret@127.0.0.1/sluice",
    "a driver that is not installed": "postgresql+psycopg2://user:s3cret@127.0.0.1/sluice",
    "no such option": "postgresql://user:s3cret@127.0.0.1/sluice?nosuch=1",
    "no port": "postgresql://user:s3cret@127.0.0.1:s3cret/sluice",
    "no URL": "s3cret",
}


@pytest.mark.parametrize("url", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_a_database_that_cannot_be_used_says_so_in_one_line_without_the_password(url: str, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("long enough to be looked at, and no database. " * 30)
    with pytest.raises(StoreUnavailable) as caught:
        sql.upgrade(url.format(tmp=tmp_path))
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_does_not_wait_for_ever_for_somebody_who_holds_a_lock(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extproc.stores.sql.engine._WAIT", 0.2)
    sql.upgrade(url)
    holder = connect(url)
    with closing(sql.open_stores(url)) as stores, holder.begin() as held:
        held.execute(text("UPDATE directory SET revision = revision + 1"))
        with pytest.raises(StoreUnavailable, match="lock"):
            stores.directory.used({"key_1": clock.time})
        assert stores.directory.revision() == 1, "reading goes on"
        assert changes(stores.directory) == []
    holder.dispose()


_HOLD = """
import sys
from extproc.stores.sql import open_stores
with open_stores(sys.argv[1]).directory.alone():
    print("alone", flush=True)
    sys.stdin.read()
"""


def test_another_process_is_kept_out_until_it_ends_however_it_ends(url: str) -> None:
    sql.upgrade(url)
    root = Path(__file__).parents[2]
    with closing(sql.open_stores(url)) as stores:
        holder = subprocess.Popen(
            [sys.executable, "-c", _HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"alone\n"
            with pytest.raises(Conflict), stores.directory.alone():
                pytest.fail("two at once")
        finally:
            holder.kill()
            holder.communicate()
        assert _until(lambda: _enters(stores.directory))


def _enters(directory: SqlDirectory) -> bool:
    try:
        with directory.alone():
            return True
    except Conflict:
        return False


def _until(condition: Callable[[], bool]) -> bool:
    """Whether it comes true in ten seconds: a server takes a moment to see that a client has gone."""
    end = time.monotonic() + 10
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("url", ["postgresql+psycopg://user:s3cret@127.0.0.1:1/sluice", "sqlite:///{tmp}/sluice.db"])
def test_nobody_is_alone_on_a_database_that_is_not_there(url: str, tmp_path: Path) -> None:
    directory = SqlDirectory(connect(url.format(tmp=tmp_path)))
    (tmp_path / "sluice.db.apply").mkdir()
    with pytest.raises(StoreUnavailable) as caught, directory.alone():
        pytest.fail("let in")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        """teams SET limits = '[{"name": "l", "measure": "tokens", "amount": 1, "only": {"regions": ["eu"]}}]'""",
        """keys SET limits = '[{"name": "l", "measure": "joules", "amount": 1}]'""",
        "keys SET priority = 'medium'",
    ],
)
def test_limits_of_a_newer_version_are_not_passed_over(url: str, row: str) -> None:
    """What a worker does not understand it must not leave out: it goes on with what it knew before, and tells."""
    sql.upgrade(url)
    with closing(sql.open_stores(url)) as stores:
        apply(stores.directory, teams=(team("ops"),), keys_minted=(minted("app"),))
        engine = connect(url)
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE {row}"))
        engine.dispose()
        for read in (stores.directory.state, lambda: changes(stores.directory)):
            with pytest.raises(StoreUnavailable, match=r"^the database holds a limit or a priority of a newer version"):
                read()


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sluice.db"
    sql.upgrade(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.execute("UPDATE compatibility SET oldest = '9999'")
        newer.commit()
    with pytest.raises(StoreUnavailable, match="newer version"):
        sql.upgrade(f"sqlite:///{path}")


def test_a_database_that_goes_away_is_unavailable_for_every_method(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path}/sluice.db"
    sql.upgrade(url)
    with closing(sql.open_stores(url)) as stores:
        (tmp_path / "sluice.db").write_bytes(b"overwritten " * 1000)
        directory = stores.directory
        uses: tuple[Callable[[], Any], ...] = (
            directory.revision,
            lambda: changes(directory),
            lambda: directory.used({"key_1": clock.time}),
            directory.state,
            lambda: directory.apply(ChangeSet(teams=(team("new"),)), 1),
            lambda: create(directory, "app"),
            lambda: directory.rotate("app", "digest", "hint", timedelta()),
            lambda: directory.suspend("app"),
            lambda: directory.resume("app"),
            lambda: directory.revoke("app"),
            lambda: directory.stop(StopScope.EVERYTHING, "", "fire"),
            lambda: directory.lift(StopScope.EVERYTHING, ""),
            lambda: stores.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1"),
            lambda: stores.affinity.recall(["resp_1"]),
        )
        for use in uses:
            with pytest.raises(StoreUnavailable):
                use()

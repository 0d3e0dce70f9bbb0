"""What every store must do. The store in memory is the specification; the databases must agree with it.

PostgreSQL takes part when SLUICE_TEST_POSTGRES holds the URL of a database that may be emptied.
"""

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from extproc import keys
from extproc.stores import sql
from extproc.stores.memory import MemoryAffinity, MemoryKeys
from extproc.stores.ports import (
    AFFINITY_LIFE,
    Affinity,
    AffinityStore,
    KeyRecord,
    KeyStore,
    NameTaken,
    StoreUnavailable,
    UnknownKey,
)
from extproc.stores.sql.affinity import SqlAffinity
from extproc.stores.sql.engine import connect
from extproc.stores.sql.keys import SqlKeys

POSTGRES = os.environ.get("SLUICE_TEST_POSTGRES", "")
START = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def advance(self, step: timedelta) -> None:
        self.time += step


@dataclass(frozen=True, slots=True)
class Ground:
    """The stores under test, and a second view of the same state, as another worker has it."""

    keys: KeyStore
    affinity: AffinityStore
    same_keys: KeyStore
    same_affinity: AffinityStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def ground(request: pytest.FixtureRequest, clock: Clock, tmp_path: Path) -> Iterator[Ground]:
    if request.param == "memory":
        made, affinity = MemoryKeys(clock), MemoryAffinity(clock)
        yield Ground(made, affinity, made, affinity)
        return
    url = f"sqlite:///{tmp_path}/state/sluice.db" if request.param == "sqlite" else _empty_postgres()
    sql.upgrade(url)
    one, two = connect(url), connect(url)
    yield Ground(SqlKeys(one, clock), SqlAffinity(one, clock), SqlKeys(two, clock), SqlAffinity(two, clock))
    one.dispose()
    two.dispose()


def _empty_postgres() -> str:
    if not POSTGRES:
        pytest.skip("SLUICE_TEST_POSTGRES is not set: no PostgreSQL to test with")
    engine = create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS keys, affinity, alembic_version"))
    engine.dispose()
    return POSTGRES


def _create(
    store: KeyStore,
    name: str,
    *,
    key: str | None = None,
    expires_at: datetime | None = None,
    models: tuple[str, ...] | None = None,
) -> KeyRecord:
    secret = key or keys.mint(os.urandom(32))
    return store.create(name, keys.digest(secret), keys.hint(secret), expires_at, models)


class TestKeys:
    def test_a_created_key_is_returned_as_every_worker_will_read_it(self, ground: Ground, clock: Clock) -> None:
        key = keys.mint(b"a" * 32)
        expires = clock.time + timedelta(days=30)
        made = _create(ground.keys, "app", key=key, expires_at=expires, models=("gpt-4o", "claude"))
        assert made == KeyRecord(made.id, "app", keys.hint(key), START, expires, None, ("gpt-4o", "claude"))
        assert ground.same_keys.list() == [made]
        assert ground.same_keys.snapshot() == {keys.digest(key): made}

    def test_no_models_is_not_all_models(self, ground: Ground) -> None:
        _create(ground.keys, "none", models=())
        _create(ground.keys, "all", models=None)
        assert {record.name: record.models for record in ground.same_keys.list()} == {"none": (), "all": None}

    def test_times_are_utc_whatever_zone_they_were_given_in(self, ground: Ground) -> None:
        tokyo = datetime(2026, 2, 1, 3, 30, tzinfo=timezone(timedelta(hours=9)))
        _create(ground.keys, "app", expires_at=tokyo)
        read = ground.same_keys.list()[0].expires_at
        assert read == tokyo
        assert read is not None
        assert read.utcoffset() == timedelta(0)

    def test_ids_tell_keys_apart(self, ground: Ground) -> None:
        assert len({_create(ground.keys, f"app-{number}").id for number in range(5)}) == 5

    def test_the_list_is_oldest_first_and_keeps_revoked_keys(self, ground: Ground, clock: Clock) -> None:
        for name in ("c", "a", "b"):
            _create(ground.keys, name)
            clock.advance(timedelta(seconds=1))
        ground.keys.revoke("a")
        assert [(record.name, record.revoked_at) for record in ground.keys.list()] == [
            ("c", None),
            ("a", clock.time),
            ("b", None),
        ]

    def test_a_name_is_taken_until_its_key_is_revoked(self, ground: Ground) -> None:
        first = _create(ground.keys, "app")
        with pytest.raises(NameTaken):
            _create(ground.same_keys, "app")
        ground.keys.revoke("app")
        second = _create(ground.same_keys, "app")
        assert [record.id for record in ground.keys.snapshot().values()] == [second.id]
        assert {record.id for record in ground.keys.list()} == {first.id, second.id}

    def test_an_expired_key_keeps_its_name_and_stays_in_the_snapshot(self, ground: Ground, clock: Clock) -> None:
        made = _create(ground.keys, "app", expires_at=clock.time + timedelta(hours=1))
        clock.advance(timedelta(days=1))
        assert list(ground.keys.snapshot().values()) == [made]
        with pytest.raises(NameTaken):
            _create(ground.keys, "app")

    @pytest.mark.parametrize("by", ["id", "name", "hint"])
    def test_revoking(self, ground: Ground, clock: Clock, by: str) -> None:
        made, other = _create(ground.keys, "app"), _create(ground.keys, "other")
        clock.advance(timedelta(hours=1))
        revoked = ground.keys.revoke(getattr(made, by))
        assert revoked == replace(made, revoked_at=clock.time)
        assert revoked in ground.same_keys.list()
        assert list(ground.same_keys.snapshot().values()) == [other]

    def test_revoking_again_by_id_keeps_the_first_time(self, ground: Ground, clock: Clock) -> None:
        made = _create(ground.keys, "app")
        revoked = ground.keys.revoke(made.id)
        clock.advance(timedelta(hours=1))
        assert ground.keys.revoke(made.id) == revoked

    @pytest.mark.parametrize("which", ["", "nobody", "app", "%", "_pp", "' OR 1=1 --", "ap\u0440"])
    def test_what_fits_no_key_in_force_revokes_nothing(self, ground: Ground, which: str) -> None:
        _create(ground.keys, "app")
        ground.keys.revoke("app")
        kept = _create(ground.keys, "kept")
        with pytest.raises(UnknownKey):
            ground.keys.revoke(which)
        assert list(ground.keys.snapshot().values()) == [kept]

    def test_a_hint_that_fits_two_keys_revokes_neither(self, ground: Ground) -> None:
        for name in ("one", "two"):
            ground.keys.create(name, keys.digest(name), "sk-sluice-…same", None, None)
        with pytest.raises(UnknownKey):
            ground.keys.revoke("sk-sluice-…same")
        assert len(ground.keys.snapshot()) == 2

    def test_the_revision_changes_with_the_snapshot_and_only_then(self, ground: Ground) -> None:
        seen = [ground.same_keys.revision()]
        made = _create(ground.keys, "app")
        seen.append(ground.same_keys.revision())
        ground.keys.revoke("app")
        seen.append(ground.same_keys.revision())
        _create(ground.keys, "app")
        seen.append(ground.same_keys.revision())
        assert len(set(seen)) == 4
        ground.keys.revoke(made.id)  # already revoked
        with pytest.raises(NameTaken):
            _create(ground.keys, "app")
        with pytest.raises(UnknownKey):
            ground.keys.revoke("nobody")
        assert ground.same_keys.revision() == seen[-1]

    def test_any_text_is_a_name(self, ground: Ground) -> None:
        names = ["Ünïcode \U0001f511", "'; DROP TABLE keys; --", "[bold]", "a" * 200, "%s", "\\"]
        for name in names:
            _create(ground.keys, name)
        assert {record.name for record in ground.same_keys.list()} == set(names)
        assert ground.keys.revoke(names[1]).name == names[1]


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


_Step = tuple[str, str]
_STEPS = st.lists(
    st.tuples(st.sampled_from(["create", "revoke", "wait"]), st.sampled_from(["a", "b", "c"])), max_size=25
)


def _play(store: KeyStore, clock: Clock, steps: list[_Step]) -> list[object]:
    """What a store answers to a history; ids are its own, so names stand for keys."""
    seen: list[object] = []
    for number, (verb, name) in enumerate(steps):
        clock.advance(timedelta(seconds=1))
        try:
            if verb == "create":
                store.create(name, f"digest-{number}", f"hint-{number}", None, None)
            elif verb == "revoke":
                store.revoke(name)
        except (NameTaken, UnknownKey) as error:
            seen.append(type(error))
        seen.append({digest: record.name for digest, record in store.snapshot().items()})
        seen.append([(record.name, record.hint, record.created_at, record.revoked_at) for record in store.list()])
    return seen


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=_STEPS)
def test_sqlite_agrees_with_the_specification_on_any_history(
    steps: list[_Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite:///{tmp_path_factory.mktemp('history')}/sluice.db"
    sql.upgrade(url)
    engine = connect(url)
    memory_clock, sql_clock = Clock(), Clock()
    try:
        expected = _play(MemoryKeys(memory_clock), memory_clock, steps)
        assert _play(SqlKeys(engine, sql_clock), sql_clock, steps) == expected
    finally:
        engine.dispose()


class TestSqliteFile:
    def test_it_and_its_folder_are_private(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "state" / "sluice.db"
        sql.upgrade(f"sqlite:///{path}")
        with closing(sql.open_stores(f"sqlite:///{path}")) as stores:
            _create(stores.keys, "app")
            modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in path.parent.iterdir()}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert modes["sluice.db"] == 0o600
        assert set(modes.values()) == {0o600}

    def test_it_never_holds_a_key_or_an_id(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/sluice.db"
        sql.upgrade(url)
        key = keys.mint(os.urandom(32))
        with closing(sql.open_stores(url)) as stores:
            _create(stores.keys, "canary-name", key=key)
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
            assert stores.keys.snapshot() == {}
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
            assert stores.keys.list() == []

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
            made = _create(stores.keys, "app")
        sql.upgrade(url)
        with closing(sql.open_stores(url)) as stores:
            assert stores.keys.list() == [made]


def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from extproc.stores.sql.tables import metadata

    url = f"sqlite:///{tmp_path}/sluice.db"
    sql.upgrade(url)
    engine = connect(url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


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


def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "sluice.db"
    sql.upgrade(f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
        newer.commit()
    with pytest.raises(StoreUnavailable, match="newer version"):
        sql.upgrade(f"sqlite:///{path}")


def test_a_database_that_goes_away_is_unavailable_for_every_method(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path}/sluice.db"
    sql.upgrade(url)
    with closing(sql.open_stores(url)) as stores:
        (tmp_path / "sluice.db").write_bytes(b"overwritten " * 1000)
        for use in (
            lambda: _create(stores.keys, "app"),
            stores.keys.list,
            lambda: stores.keys.revoke("app"),
            stores.keys.revision,
            stores.keys.snapshot,
            lambda: stores.affinity.remember(["resp_1"], "swe", "gpt-4o", "key_1"),
            lambda: stores.affinity.recall(["resp_1"]),
        ):
            with pytest.raises(StoreUnavailable):
                use()

"""A PostgreSQL that fails in every way it can: nothing is lost, nothing doubled, and nobody waits in silence."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from extproc.ledger import consumer as module
from extproc.ledger.consumer import Consumer
from extproc.ledger.events import read
from extproc.stores import spool, sql
from extproc.stores.ledger import Written
from extproc.stores.ports import StoreUnavailable
from extproc.stores.spool import Settlement, Spool
from extproc.stores.spool_bus import SpoolBus
from extproc.stores.sql import engine as engine_module
from tests.support.gateway import until
from tests.support.ledger import AT, attempts, breaks, call, ledger_on
from tests.support.postgres_server import PostgresServer, postgres_server

STATES = {
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "40P01": "deadlock",
    "40001": "serialization failure",
    "55P03": "lock not available",
    "57014": "statement timeout",
    "57P01": "shut down by an administrator",
    "58030": "input/output error",
    "XX002": "index corrupted",
    "25006": "read only, as a replica is",
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", (0.001, 0.01))
    monkeypatch.setattr(module, "_LOOK_S", 0.05)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Spool]:
    made = spool.begin(tmp_path / "spool")
    yield made
    made.close()


def write(log: Spool, *names: str) -> None:
    told = [call(name) for name in names] + [attempts(f"a.{names[0]}", {}), breaks(f"b.{names[0]}", {"left": "client"})]
    log.write([Settlement(f"{names}{number}", (), one.data, AT) for number, one in enumerate(told)])
    log.keep(log.end, AT)


@contextmanager
def running(consumer: Consumer) -> Iterator[None]:
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield
    finally:
        consumer.stop()
        thread.join(30)
        assert not thread.is_alive()


def rows(stores: sql.Stores) -> dict[str, int]:
    tables = ("calls", "attempts", "breaks", "odd_events")
    found = {name: scalar(stores, f"SELECT count(*) FROM {name}") for name in tables}
    return {**found, "sums": scalar(stores, "SELECT coalesce(sum(calls), 0) FROM usage_models")}


def scalar(stores: sql.Stores, statement: str) -> int:
    with stores.engine.connect() as connection:
        return int(connection.execute(text(statement)).scalar_one())


def whole(calls: int, events: int = 1) -> dict[str, int]:
    return {"calls": calls, "attempts": events, "breaks": events, "odd_events": 0, "sums": calls}


def empty(stores: sql.Stores) -> None:
    with stores.engine.begin() as connection:
        for table in ("calls", "attempts", "breaks", "odd_events", "usage_models", "usage_callers"):
            connection.execute(text(f"DELETE FROM {table}"))


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sql.Stores]:
    with ledger_on("postgresql", tmp_path_factory.mktemp("faults")) as made:
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as made:
        sql.upgrade(made.url)
        yield made


class TestWhatItRefuses:
    @pytest.fixture
    def failing(self, postgres: sql.Stores) -> Iterator[sql.Stores]:
        """One that can be made to fail."""
        empty(postgres)
        yield postgres
        self.mend(postgres)

    def fail(self, stores: sql.Stores, state: str, table: str) -> None:
        body = f"BEGIN RAISE EXCEPTION 'a fault of the test' USING ERRCODE = '{state}'; END"
        with stores.engine.begin() as connection:
            connection.execute(
                text(f"CREATE OR REPLACE FUNCTION fault() RETURNS trigger AS $${body}$$ LANGUAGE plpgsql")
            )
            connection.execute(
                text(f"CREATE TRIGGER fault BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION fault()")
            )

    def mend(self, stores: sql.Stores) -> None:
        with stores.engine.begin() as connection:
            connection.execute(text("DROP FUNCTION IF EXISTS fault CASCADE"))

    @pytest.mark.parametrize("table", ["calls", "usage_callers"])
    @pytest.mark.parametrize("state", STATES, ids=STATES.values())
    def test_it_is_tried_again_and_nothing_is_odd(
        self, failing: sql.Stores, log: Spool, tmp_path: Path, state: str, table: str
    ) -> None:
        """COPY and plain statements alike, at the first row and at the last sum."""
        write(log, "w.1", "w.2")
        self.fail(failing, state, table)
        with closing(SpoolBus(tmp_path / "spool")) as bus:
            consumer = Consumer(bus, failing.ledger)
            for _ in range(2):
                with pytest.raises(StoreUnavailable) as told:
                    consumer.step()
                assert "w.1" not in str(told.value)
                assert rows(failing) == whole(0, 0)
            self.mend(failing)
            assert consumer.step() == 4
            assert rows(failing) == whole(2)

    def test_a_row_that_it_does_not_take_is_another_matter(
        self, failing: sql.Stores, log: Spool, tmp_path: Path
    ) -> None:
        write(log, "w.1")
        self.fail(failing, "23514", "calls")  # a check constraint
        with closing(SpoolBus(tmp_path / "spool")) as bus:
            Consumer(bus, failing.ledger).step()
        assert rows(failing) == {**whole(0), "odd_events": 1}

    def test_who_holds_a_lock_for_long_is_not_waited_for(
        self, failing: sql.Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "_WAIT", 0.2)
        with failing.engine.begin() as other:
            other.execute(text("UPDATE ledger SET batches = batches"))
            with pytest.raises(StoreUnavailable, match="lock timeout"):
                failing.ledger.write(read([call()]))
        assert failing.ledger.write(read([call()])) == Written(calls=1)

    def test_two_that_wait_for_each_other_are_both_written_in_the_end(
        self, failing: sql.Stores, log: Spool, tmp_path: Path
    ) -> None:
        """A deadlock that PostgreSQL itself finds: somebody else takes the rows in another order."""
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        failing.ledger.write(read([call("w.0")]))
        write(log, "w.1")
        with failing.engine.connect() as other:
            other.execute(text("UPDATE usage_models SET calls = calls"))
            with running(Consumer(SpoolBus(tmp_path / "spool"), failing.ledger)):
                until(lambda: scalar(failing, waits), 30)
                with suppress(DBAPIError):  # one of the two is the victim
                    other.execute(text("UPDATE ledger SET batches = batches"))
                other.rollback()
                until(lambda: rows(failing) == whole(2, 1), 30)

    def test_a_pool_without_a_connection_is_a_database_that_is_away(
        self, failing: sql.Stores, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_module, "_WAIT", 0.1)
        url = failing.engine.url.render_as_string(hide_password=False)
        with closing(sql.open_stores(url)) as stores:
            taken = [stores.engine.connect() for _ in range(15)]  # all that a pool has
            with pytest.raises(StoreUnavailable, match="TimeoutError"):
                stores.ledger.write(read([call()]))
            taken.pop().close()
            assert stores.ledger.write(read([call()])) == Written(calls=1)
            for one in taken:
                one.close()


def _let_no_file_grow(connection: sqlite3.Connection, _entry: object) -> None:
    connection.execute("PRAGMA max_page_count=1")  # SQLite takes as many as there are


def test_a_full_disk_under_sqlite_delays_and_loses_nothing(log: Spool, tmp_path: Path) -> None:
    with ledger_on("sqlite", tmp_path) as stores, closing(SpoolBus(tmp_path / "spool")) as bus:
        consumer = Consumer(bus, stores.ledger)
        consumer.step()
        event.listen(stores.engine, "connect", _let_no_file_grow)
        write(log, *[f"w.{number}" for number in range(100)])
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="disk is full"):
                consumer.step()
        event.remove(stores.engine, "connect", _let_no_file_grow)
        assert consumer.step() == 102
        assert rows(stores) == whole(100)


class TestItsServer:
    @pytest.fixture
    def stores(self, server: PostgresServer) -> Iterator[sql.Stores]:
        with closing(sql.open_stores(server.url)) as made:
            empty(made)
            yield made

    @pytest.mark.parametrize("how", ["stop", "kill"])
    def test_it_goes_and_comes_back(
        self, server: PostgresServer, stores: sql.Stores, log: Spool, tmp_path: Path, how: str
    ) -> None:
        consumer = Consumer(SpoolBus(tmp_path / "spool"), stores.ledger)
        with running(consumer):
            write(log, "w.1")
            until(lambda: rows(stores) == whole(1))
            getattr(server, how)()
            try:
                write(log, "w.2", "w.3")
                until(lambda: consumer.lag() > 1, 30)
            finally:
                server.start()
            until(lambda: rows(stores) == whole(3, 2), 30)

    def test_one_that_says_nothing_any_more_is_told_as_lag(
        self, server: PostgresServer, stores: sql.Stores, log: Spool, tmp_path: Path
    ) -> None:
        """Stopped in the middle of whatever it does: what hangs is written once, and the lag grows meanwhile."""
        consumer = Consumer(SpoolBus(tmp_path / "spool"), stores.ledger)
        with running(consumer):
            until(lambda: consumer.lag() < 1)
            server.stall()
            try:
                write(log, "w.1")
                until(lambda: consumer.lag() > 1.5, 30)
            finally:
                server.resume()
            until(lambda: rows(stores) == whole(1), 30)
            until(lambda: consumer.lag() < 1, 30)

"""`sluice ledger run`, a process of its own: it goes on where it was killed, and ends when it is told to."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from extproc.stores import spool, sql
from extproc.stores.ledger import CallRow
from extproc.stores.ports import StoreUnavailable
from extproc.stores.spool import Settlement, Spool
from tests.support.gateway import ROOT, until
from tests.support.ledger import AT, call
from tests.support.ports import free_port
from tests.support.postgres_server import postgres_server

PATIENCE = 40.0


@contextmanager
def running(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-m", "extproc.cli", "ledger", "run", "--config", str(folder / "gateway.yaml"), *words]
    process = subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Spool]:
    """A worker's spool, beside a configuration that is about it."""
    lines = [
        f"stores: {{database: 'sqlite:///{tmp_path}/sluice.db'}}",
        f"state_dir: {tmp_path}/var",
        "ledger: {consumer: false}",
        "backends: {one: {dialect: openai, url: 'https://one.example'}}",
        "models: {m: {targets: [[{backend: one}]]}}",
    ]
    (tmp_path / "gateway.yaml").write_text("\n".join(lines))
    made = spool.begin(tmp_path / "var" / spool.FOLDER)
    yield made
    made.close()


def write(log: Spool, *names: str) -> None:
    log.write([Settlement(name, (), call(name).data, AT) for name in names])
    log.keep(log.end, AT)


def rows(folder: Path, name: str) -> list[CallRow]:
    if not (folder / "sluice.db").exists():
        return []
    with closing(sql.open_stores(f"sqlite:///{folder}/sluice.db")) as stores:
        return [row for row, _ in stores.ledger.call(name)]


def test_it_goes_on_where_it_was_killed(log: Spool, tmp_path: Path) -> None:
    write(log, "w.1", "w.2")
    port = free_port()
    sql.upgrade(f"sqlite:///{tmp_path}/sluice.db")
    with running(tmp_path, "--metrics-port", str(port)):
        until(lambda: rows(tmp_path, "w.2"), PATIENCE)
        told = until(lambda: metrics(port), PATIENCE)
        assert 'sluice_ledger_rows_total{what="calls"} 2.0' in told
        assert 'sluice_ledger_lag_seconds{bus="spool"}' in told
    write(log, "w.3")
    with running(tmp_path) as process:
        until(lambda: rows(tmp_path, "w.3"), PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    assert [len(rows(tmp_path, name)) for name in ("w.1", "w.2", "w.3")] == [1, 1, 1]


def metrics(port: int) -> str:
    try:
        told = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
    except httpx.HTTPError:
        return ""
    return told if 'what="calls"} 2.0' in told else ""


def test_a_server_that_is_away_at_the_start_is_waited_for(log: Spool, tmp_path: Path) -> None:
    write(log, "w.1")
    with postgres_server() as server:
        config = tmp_path / "gateway.yaml"
        config.write_text(config.read_text().replace(f"sqlite:///{tmp_path}/sluice.db", server.url))
        server.stop()
        with running(tmp_path) as process:
            assert process.stderr is not None
            assert b"the ledger waits: the database cannot be used" in process.stderr.readline()
            server.start()
            with closing(sql.open_stores(server.url)) as stores:
                until(lambda: is_there(stores, "w.1"), PATIENCE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def is_there(stores: sql.Stores, name: str) -> bool:
    try:
        return bool(stores.ledger.call(name))
    except StoreUnavailable:  # its tables are not made yet
        return False


def test_who_waits_for_a_server_ends_when_it_is_told_to(log: Spool, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    away = f"postgresql+psycopg://sluice:secret@127.0.0.1:{free_port()}/sluice"
    config.write_text(config.read_text().replace(f"sqlite:///{tmp_path}/sluice.db", away))
    with running(tmp_path) as process:
        assert process.stderr is not None
        assert b"secret" not in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0


def test_a_database_of_a_newer_version_is_not_waited_for(log: Spool, tmp_path: Path) -> None:
    sql.upgrade(f"sqlite:///{tmp_path}/sluice.db")
    with closing(sqlite3.connect(tmp_path / "sluice.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        database.execute("UPDATE compatibility SET oldest = '9999'")
    with running(tmp_path) as process:
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert b"newer version" in process.stderr.read()


def test_a_database_that_cannot_be_had_is_told(log: Spool, tmp_path: Path) -> None:
    (tmp_path / "sluice.db").mkdir()
    with running(tmp_path) as process:
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert b"Check stores.database." in process.stderr.read()

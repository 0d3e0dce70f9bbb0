"""The stores under test: in memory, SQLite, and PostgreSQL where there is one to test with."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url, text

from extproc.identity import keys
from extproc.stores import sql
from extproc.stores.memory import MemoryAffinity, MemoryDirectory
from extproc.stores.ports import (
    AffinityStore,
    ChangeSet,
    DirectoryChange,
    DirectoryStore,
    KeyRecord,
    KeySpec,
    MintedKey,
    TeamRecord,
)
from extproc.stores.sql.affinity import SqlAffinity
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect


def _postgres() -> str:
    """The database that this process has for itself: beside others, one of its own. Empty where there is none."""
    url, process = os.environ.get("SLUICE_TEST_POSTGRES", ""), os.environ.get("PYTEST_XDIST_WORKER")
    if not url or not process:
        return url
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    own = make_url(url).set(database=f"sluice_{process}")
    with engine.connect() as connection:
        there = text("SELECT 1 FROM pg_database WHERE datname = :name")
        if connection.execute(there, {"name": own.database}).scalar() is None:
            connection.execute(text(f"CREATE DATABASE {own.database} TEMPLATE template0"))
    engine.dispose()
    return own.render_as_string(hide_password=False)


POSTGRES = _postgres()
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
    """The stores under test, and a second view of the same state, as another process has it."""

    directory: DirectoryStore
    affinity: AffinityStore
    same_directory: DirectoryStore
    same_affinity: AffinityStore


@contextmanager
def ground_on(kind: str, clock: Clock, folder: Path) -> Iterator[Ground]:
    """The stores of one kind, empty. Skips the test where there is no PostgreSQL."""
    if kind == "memory":
        directory, affinity = MemoryDirectory(clock), MemoryAffinity(clock)
        yield Ground(directory, affinity, directory, affinity)
        return
    url = f"sqlite:///{folder}/state/sluice.db" if kind == "sqlite" else empty_postgres()
    sql.upgrade(url)
    one, two = connect(url), connect(url)
    try:
        yield Ground(
            SqlDirectory(one, clock), SqlAffinity(one, clock), SqlDirectory(two, clock), SqlAffinity(two, clock)
        )
    finally:
        one.dispose()
        two.dispose()


def empty_postgres() -> str:
    """The URL of the PostgreSQL to test with, emptied."""
    if not POSTGRES:
        pytest.skip("SLUICE_TEST_POSTGRES is not set: no PostgreSQL to test with")
    engine = create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return POSTGRES


def minted(name: str, key: str | None = None, **spec: Any) -> MintedKey:
    """A new key of this name, of random bits where none is given."""
    secret = key or keys.mint(os.urandom(32))
    return MintedKey(KeySpec(name, **spec), keys.digest(secret), keys.hint(secret))


def create(store: DirectoryStore, name: str, key: str | None = None, **spec: Any) -> KeyRecord:
    return store.create(minted(name, key, **spec))


def team(name: str, **more: Any) -> TeamRecord:
    return TeamRecord(**{"name": name, "area": "ops", "owner": "o@example.com", "tier": "gold", **more})


def apply(store: DirectoryStore, **changes: Any) -> int:
    """Carry out changes on the directory as it is now."""
    return store.apply(ChangeSet(**changes), store.revision())


def changes(store: DirectoryStore, since: int = 0) -> list[DirectoryChange]:
    return list(store.changes(since))

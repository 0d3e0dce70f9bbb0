"""Connections to the database."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from extproc.stores.ports import StoreUnavailable

_WAIT = 5.0  # seconds for a connection or a lock


def connect(url: str) -> Engine:
    """An engine; nothing is opened before it is used. Raises StoreUnavailable for a URL that cannot work."""
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(url, parsed.database or "")
        return create_engine(url, pool_pre_ping=True, pool_timeout=_WAIT, connect_args=_libpq(parsed.drivername))
    except (ArgumentError, NoSuchModuleError, ValueError):  # their texts quote the URL, which may hold a password
        raise StoreUnavailable("stores.database is not the URL of a known database") from None
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"stores.database needs the Python package {error.name}. Install it.") from None
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None


def _libpq(driver: str) -> dict[str, int]:
    """A PostgreSQL that is gone without a word fails in seconds; by default the kernel waits for a quarter hour."""
    if driver not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return {}
    return {"connect_timeout": int(_WAIT), "tcp_user_timeout": int(_WAIT * 1000)}


def _sqlite(url: str, path: str) -> Engine:
    if path and path != ":memory:":
        Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # private from birth
    engine = create_engine(url, connect_args={"timeout": _WAIT, "check_same_thread": False})
    event.listen(engine, "connect", _sqlite_settings)
    return engine


def _sqlite_settings(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction; every failure of the database leaves as StoreUnavailable, without its parameters.

    Of the driver's words only the first line is kept: the reason. Lines after it may quote a row.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        raise StoreUnavailable(f"the database cannot be used: {reason}") from None
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {type(error).__name__}") from None
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None

"""Connections to the database."""

import errno
import fcntl
import os
import sqlite3
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from extproc import password_files
from extproc.stores.ports import StoreUnavailable

_WAIT = 5.0  # seconds for a connection or a lock
_AUTHORITIES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
"""Where machines keep those that they trust. The libpq inside psycopg's wheel looks in a folder that no machine has."""
_FILE = "file"  # in the notes of a connection


def connect(url: str, create: bool = True) -> Engine:
    """An engine; nothing is opened before it is used. Raises StoreUnavailable for a URL that cannot work.

    `create`: make the file of an SQLite database, and its folder, where there is none; then that may fail at once.
    """
    url, password = password_files.taken(url)
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite":
            return _sqlite(url, parsed.database or "", create)
        engine = create_engine(url, pool_pre_ping=True, pool_timeout=_WAIT, connect_args=_libpq(parsed))
        if password is not None:
            event.listen(engine, "do_connect", partial(_sign_in, password))
        return engine
    except (ArgumentError, NoSuchModuleError, ValueError):  # their texts quote the URL, which may hold a password
        raise StoreUnavailable("stores.database is not the URL of a known database") from None
    except ModuleNotFoundError as error:
        raise StoreUnavailable(f"stores.database needs the Python package {error.name}. Install it.") from None
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None


def _sign_in(password: Path, _dialect: object, _entry: object, _args: object, options: dict[str, Any]) -> None:
    """With the password of this moment. PostgreSQL looks at it when a connection begins, and never again."""
    options["password"] = password_files.read(password)


def _libpq(url: URL) -> dict[str, int | str]:
    """A PostgreSQL that is gone without a word fails in seconds; by default the kernel waits for a quarter hour."""
    if url.drivername not in ("postgresql", "postgresql+psycopg", "postgresql+psycopg2"):
        return {}
    options: dict[str, int | str] = {"connect_timeout": int(_WAIT), "tcp_user_timeout": int(_WAIT * 1000)}
    if url.query.get("sslrootcert") == "system" and "SSL_CERT_FILE" not in os.environ:
        options["sslrootcert"] = next((file for file in _AUTHORITIES if Path(file).exists()), "system")
        options["sslmode"] = "verify-full"  # as goes with `system`
    return options


def _sqlite(url: str, path: str, create: bool) -> Engine:
    is_file = path not in ("", ":memory:")
    if is_file and create:
        _make(path)
    options = {"timeout": _WAIT, "check_same_thread": False}
    if is_file:
        # None is kept open: it would go on with a file that another was put in the place of, and leave it a log
        # (-wal) that the other takes for its own.
        engine = create_engine(url, connect_args=options, poolclass=NullPool)
        event.listen(engine, "do_connect", partial(_note_file, path))
    else:
        engine = create_engine(url, connect_args=options)
    event.listen(engine, "connect", _sqlite_settings)
    event.listen(engine, "begin", _sqlite_begin)
    return engine


def _make(path: str) -> None:
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not Path(path).exists():  # to open and close one that is in use would end this process's locks on it
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # private from birth


def _note_file(path: str, _dialect: object, entry: ConnectionPoolEntry, _args: object, _options: object) -> None:
    """Which file a connection is about to open. Raises OSError where there is none: SQLite would make one."""
    found = Path(path).stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    entry.info[_FILE] = found.st_dev, found.st_ino


def opened_file(connection: Connection) -> Any:
    """Which file the connection has open, to be compared only; None where the database is none."""
    return connection.info.get(_FILE)


def _sqlite_settings(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # Python's driver would begin a transaction at the first write only
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN")


@contextmanager
def transaction(engine: Engine, snapshot: bool = False) -> Iterator[Connection]:
    """One transaction; every failure of the database leaves as StoreUnavailable, without its parameters.

    `snapshot`: all of its reads see one state, whatever is written meanwhile (SQLite's always do).
    Of the driver's words only the first line is kept: the reason. Lines after it may quote a row.
    """
    with _failures(), engine.connect() as connection:
        if snapshot and engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        reason = str(error.orig).partition("\n")[0]
        raise StoreUnavailable(f"the database cannot be used: {reason}") from None
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"the database cannot be used: {type(error).__name__}") from None
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None


def wait_briefly(connection: Connection) -> None:
    """Have this transaction fail where others hold a lock for seconds, as it does on SQLite anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(_WAIT * 1000)}")  # milliseconds


@contextmanager
def alone(engine: Engine, what: str) -> Iterator[bool]:
    """Whether this is the only one at some work on the database: a lock that ends with its process.

    On SQLite a lock file beside the database, on PostgreSQL an advisory lock of a session of its own.
    Raises StoreUnavailable; what the work itself raises stays as it is.
    """
    if engine.dialect.name == "postgresql":
        lock = _advisory_lock(engine, zlib.crc32(f"sluice {what}".encode()))
    else:
        lock = _locked_file(f"{engine.url.database}.{what}")
    with lock as got:
        yield got


@contextmanager
def _advisory_lock(engine: Engine, key: int) -> Iterator[bool]:
    with _failures():
        session = engine.connect().execution_options(isolation_level="AUTOCOMMIT")  # no transaction while it waits
    try:
        with _failures():
            got = bool(session.execute(select(func.pg_try_advisory_lock(key))).scalar_one())
        yield got
    finally:
        session.invalidate()  # ends the session, and with it the lock, even where the database is gone
        session.close()


@contextmanager
def _locked_file(path: str) -> Iterator[bool]:
    with _failures():
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield _lock(lock)
    finally:
        os.close(lock)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

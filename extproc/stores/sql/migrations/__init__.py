"""Bringing a database to the newest schema, with Alembic, from inside the package.

Alembic is loaded by who needs it: that takes a tenth of a second, which no worker should spend.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from extproc.stores.ports import StoreUnavailable
from extproc.stores.sql.engine import connect, transaction

if TYPE_CHECKING:
    from alembic.config import Config

_NEWER = "the database was written by a newer version of Sluice. Use that version"
_OLDER = "the database is missing, or its schema is older: run `sluice apply`, or start the gateway"


def upgrade(url: str) -> None:
    """Run what is missing; safe when several processes start at once. Raises StoreUnavailable."""
    from alembic import command
    from alembic.util import CommandError

    engine = connect(url)
    try:
        with _alone(url), transaction(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError:  # its revision is unknown here
        raise StoreUnavailable(_NEWER) from None
    finally:
        engine.dispose()


def check_current(url: str) -> None:
    """Change nothing, and raise StoreUnavailable unless the database has the newest schema."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    if _is_missing(url):  # a connection would make the file
        raise StoreUnavailable(_OLDER)
    engine = connect(url)
    try:
        with transaction(engine) as connection:
            found = MigrationContext.configure(connection).get_current_heads()
    finally:
        engine.dispose()
    scripts = ScriptDirectory.from_config(_config())
    if found != tuple(scripts.get_heads()):
        known = {script.revision for script in scripts.walk_revisions()}
        raise StoreUnavailable(_OLDER if known.issuperset(found) else _NEWER)


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _is_missing(url: str) -> bool:
    path = _sqlite_file(url)
    return path is not None and not Path(path).exists()


def _sqlite_file(url: str) -> str | None:
    """The file of a SQLite database; None for any other, and for one in memory."""
    try:
        parsed = make_url(url)
    except ArgumentError:  # `connect` says so
        return None
    if parsed.get_backend_name() != "sqlite" or parsed.database == ":memory:":
        return None
    return parsed.database or None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Two processes cannot switch a new SQLite file to WAL at once, so a lock file keeps them apart."""
    database = _sqlite_file(url)
    if database is None:
        yield
        return
    try:
        with open(f"{database}.lock", "w", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None

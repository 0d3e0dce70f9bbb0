"""Bringing a database to the newest schema, with Alembic, from inside the package.

Alembic is loaded by who needs it: that takes a tenth of a second, which no worker should spend.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from extproc.stores.ports import SchemaAhead, SchemaBehind, StoreUnavailable
from extproc.stores.sql.engine import connect, transaction

if TYPE_CHECKING:
    from alembic.config import Config

_NEWER = "the database was written by a newer version of Sluice. Use that version"
_OLDER = "the database is missing, or its schema is older: run `sluice db upgrade`"


class Schema(NamedTuple):
    """The revision of a database, None where it has no schema yet, and the one that this version needs."""

    found: str | None
    newest: str
    is_known: bool  # `found` is of a version no newer than this one

    @property
    def is_current(self) -> bool:
        return self.found == self.newest


def ready(url: str, migrate: bool) -> None:
    """Have the database at the newest schema. Raises StoreUnavailable; SchemaBehind where it may not `migrate`."""
    (upgrade if migrate else check_current)(url)


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
        raise SchemaAhead(_NEWER) from None
    finally:
        engine.dispose()


def schema(url: str) -> Schema:
    """How the database stands; nothing is changed. Raises StoreUnavailable."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config())
    found = _revision(url)
    known = {script.revision for script in scripts.walk_revisions()}
    return Schema(found, scripts.get_heads()[0], found is None or found in known)


def check_current(url: str) -> None:
    """Change nothing, and raise SchemaBehind or StoreUnavailable unless the database has the newest schema."""
    stands = schema(url)
    if not stands.is_known:
        raise SchemaAhead(_NEWER)
    if not stands.is_current:
        raise SchemaBehind(_OLDER)


def _revision(url: str) -> str | None:
    from alembic.migration import MigrationContext

    if _is_missing(url):  # a connection would make the file
        return None
    engine = connect(url)
    try:
        with transaction(engine) as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


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

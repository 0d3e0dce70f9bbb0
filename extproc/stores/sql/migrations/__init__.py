"""Bringing a database to the newest schema, with Alembic, from inside the package.

Each step says by `kind` whether gateways of the version before can live with it. One that expands adds tables, columns
that need not be given, and indexes: they can. One that contracts takes away or changes, and names the `oldest`
revision whose versions have no use for that any more. The newest such name is kept in the database, for versions that
do not know its steps.

Alembic is loaded by who needs it: that takes a tenth of a second, which no worker should spend.
"""

import fcntl
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from extproc.stores.ports import SchemaAhead, SchemaBehind, StoreUnavailable
from extproc.stores.sql.engine import connect, transaction
from extproc.stores.sql.tables import compatibility

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_NEWER = "the database was written by a newer version of Sluice. Use that version"
_FOLDER = Path(__file__).parent
_OLDER = "the database is missing, or its schema is older: run `sluice db upgrade`"


class Schema(NamedTuple):
    """The revision of a database, None where it has no schema yet, and the one that this version needs."""

    found: str | None
    newest: str
    is_known: bool  # `found` is of a version no newer than this one
    is_shared: bool = True  # of the two versions the older one can live with the schema of the newer one

    @property
    def is_current(self) -> bool:
        return self.found == self.newest


def ready(url: str, migrate: bool) -> bool:
    """Have the database at the newest schema; whether it is at a newer one, which this version can live with.

    Raises StoreUnavailable; SchemaBehind where it may not `migrate`; SchemaAhead.
    """
    return (upgrade if migrate else check_current)(url)


def upgrade(url: str) -> bool:
    """Run what is missing; safe when several processes start at once. Returns and raises as `ready`."""
    from alembic import command
    from alembic.migration import MigrationContext
    from alembic.util import CommandError

    engine = connect(url)
    try:
        with _alone(url), transaction(engine) as connection:
            config = _config()
            config.attributes["connection"] = connection
            revision = MigrationContext.configure(connection).get_current_revision
            found = revision()
            command.upgrade(config, "head")
            if revision() != found:
                _keep_oldest(connection)
    except CommandError:  # its revision is unknown here
        return check_current(url)
    finally:
        engine.dispose()
    return False


def schema(url: str) -> Schema:
    """How the database stands; nothing is changed. Raises StoreUnavailable."""
    scripts = _scripts()
    known = [script.revision for script in scripts.walk_revisions()]
    newest = known[0]
    found, oldest = _found(url, known)
    if found is None:
        return Schema(None, newest, True)
    if found not in known:
        return Schema(found, newest, False, oldest in known)
    return Schema(found, newest, True, known.index(found) <= known.index(_oldest(scripts)))


def check_current(url: str) -> bool:
    """Change nothing. Returns and raises as `ready`."""
    stands = schema(url)
    if stands.is_known and not stands.is_current:
        raise SchemaBehind(_OLDER)
    if not stands.is_shared:
        raise SchemaAhead(_NEWER)
    return not stands.is_known


def _found(url: str, known: Collection[str]) -> tuple[str | None, str | None]:
    """The revision of a database, and the oldest one whose versions can live with it, where the first is not known.

    Where it is known nothing else is read: who has no right to the table that tells needs none.
    """
    from alembic.migration import MigrationContext

    if _is_missing(url):  # a connection would make the file
        return None, None
    engine = connect(url)
    try:
        with transaction(engine) as connection:
            found = MigrationContext.configure(connection).get_current_revision()
            return found, None if found is None or found in known else _kept_oldest(connection)
    finally:
        engine.dispose()


def _kept_oldest(connection: Connection) -> str | None:
    if not inspect(connection).has_table(compatibility.name):
        return None
    return connection.execute(select(compatibility.c.oldest)).scalar()


def _keep_oldest(connection: Connection) -> None:
    """Leave word for versions that do not know the newest steps."""
    oldest = _oldest(_scripts())
    if _kept_oldest(connection) != oldest:
        connection.execute(update(compatibility).values(oldest=oldest))


def _oldest(scripts: "ScriptDirectory") -> str:
    """The oldest revision whose versions can live with the newest schema."""
    return next(str(script.module.oldest) for script in scripts.walk_revisions() if script.module.kind == "contract")


def _scripts() -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config())


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_FOLDER))
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

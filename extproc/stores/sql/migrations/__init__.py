"""Bringing a database to the newest schema, with Alembic, from inside the package."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import make_url

from extproc.stores.ports import StoreUnavailable
from extproc.stores.sql.engine import connect, transaction


def upgrade(url: str) -> None:
    """Run what is missing; safe when several processes start at once. Raises StoreUnavailable."""
    engine = connect(url)
    try:
        with _alone(url), transaction(engine) as connection:
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except CommandError:  # its revision is unknown here
        raise StoreUnavailable("the database was written by a newer version of Sluice. Use that version") from None
    finally:
        engine.dispose()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """Two processes cannot switch a new SQLite file to WAL at once, so a lock file keeps them apart."""
    database = make_url(url).database
    if not url.startswith("sqlite") or not database or database == ":memory:":
        yield
        return
    try:
        with open(f"{database}.lock", "w", opener=_private) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None

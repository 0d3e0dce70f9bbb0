"""Bringing a database to the newest schema, with Alembic, from inside the package."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
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
    finally:
        engine.dispose()


@contextmanager
def _alone(url: str) -> Iterator[None]:
    """SQLite has no lock that spans its schema changes, so a file beside it serves; PostgreSQL locks by itself."""
    database = make_url(url).database
    if not url.startswith("sqlite") or not database or database == ":memory:":
        yield
        return
    try:
        with Path(f"{database}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise StoreUnavailable(f"the database cannot be opened: {error.strerror}") from None

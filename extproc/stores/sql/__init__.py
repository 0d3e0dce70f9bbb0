"""The database: SQLite by default, PostgreSQL at scale."""

from dataclasses import dataclass

from sqlalchemy import Engine

from extproc.stores.sql.affinity import SqlAffinity
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from extproc.stores.sql.migrations import check_current, upgrade

__all__ = ["Stores", "check_current", "open_stores", "upgrade"]


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one database."""

    engine: Engine
    directory: SqlDirectory
    affinity: SqlAffinity

    def close(self) -> None:
        self.engine.dispose()


def open_stores(url: str) -> Stores:
    """The stores of a database that `upgrade` has brought to the newest schema; nothing is opened before it is used.

    Raises StoreUnavailable for a URL that cannot work.
    """
    engine = connect(url, create=False)
    return Stores(engine, SqlDirectory(engine), SqlAffinity(engine))

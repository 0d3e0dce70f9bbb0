"""The database: SQLite by default, PostgreSQL at scale."""

from dataclasses import dataclass

from sqlalchemy import Engine

from extproc.stores.sql.affinity import SqlAffinity
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from extproc.stores.sql.migrations import upgrade

__all__ = ["Stores", "open_stores", "upgrade"]


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one database."""

    engine: Engine
    directory: SqlDirectory
    affinity: SqlAffinity

    def close(self) -> None:
        self.engine.dispose()


def open_stores(url: str) -> Stores:
    """The stores of a database that `upgrade` has brought to the newest schema. Raises StoreUnavailable."""
    engine = connect(url)
    return Stores(engine, SqlDirectory(engine), SqlAffinity(engine))

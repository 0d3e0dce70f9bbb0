"""The database: SQLite by default, PostgreSQL at scale."""

from dataclasses import dataclass

from sqlalchemy import Engine

from extproc.stores.sql.affinity import SqlAffinity
from extproc.stores.sql.alerts import SqlAlerts
from extproc.stores.sql.budgets import SqlBudgets
from extproc.stores.sql.directory import SqlDirectory
from extproc.stores.sql.engine import connect
from extproc.stores.sql.ledger import SqlLedger
from extproc.stores.sql.migrations import check_current, ready, schema, upgrade
from extproc.stores.sql.retention import SqlRetention

__all__ = ["SqlLedger", "Stores", "check_current", "open_stores", "ready", "schema", "upgrade"]


@dataclass(frozen=True, slots=True)
class Stores:
    """All stores of one database."""

    engine: Engine
    directory: SqlDirectory
    affinity: SqlAffinity
    ledger: SqlLedger
    retention: SqlRetention
    budgets: SqlBudgets
    alerts: SqlAlerts

    def close(self) -> None:
        self.engine.dispose()


def open_stores(url: str) -> Stores:
    """The stores of a database that `upgrade` has brought to the newest schema; nothing is opened before it is used.

    Raises StoreUnavailable for a URL that cannot work.
    """
    engine = connect(url, create=False)
    return Stores(
        engine,
        SqlDirectory(engine),
        SqlAffinity(engine),
        SqlLedger(engine),
        SqlRetention(engine),
        SqlBudgets(engine),
        SqlAlerts(engine),
    )

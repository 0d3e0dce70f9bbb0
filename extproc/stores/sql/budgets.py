"""The sums of limits' counters, as the ledger has them."""

from collections.abc import Sequence

from sqlalchemy import Engine, delete, select

from extproc.limits.booking import Booking
from extproc.stores.sql.engine import transaction
from extproc.stores.sql.tables import budget_sums


class SqlBudgets:
    """Every method blocks, and raises StoreUnavailable. Times are milliseconds of Unix time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def current(self, now: int) -> Sequence[Booking]:
        """What still counts, by counter and window; of a sliding one by bucket."""
        table = budget_sums.c
        columns = (table.counter, table.limit_name, table.units, table.first, table.last, table.sliding)
        counting = select(*columns).where(table.last > now, table.units > 0)
        with transaction(self._engine) as connection:
            found = connection.execute(counting.order_by(table.limit_name, table.counter, table.first))
            return [Booking(*row) for row in found]

    def forget(self, before: int) -> int:
        """Let go of windows that were over by then; how many there were."""
        with transaction(self._engine) as connection:
            return connection.execute(delete(budget_sums).where(budget_sums.c.last < before)).rowcount

"""The affinity of stateful calls in the database, shared by all workers."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, delete, insert, select
from sqlalchemy.exc import IntegrityError

from extproc.stores.memory import Clock, id_digest, utc_now
from extproc.stores.ports import AFFINITY_LIFE, Affinity
from extproc.stores.sql.engine import transaction
from extproc.stores.sql.tables import affinity

_AT_ONCE = 1000  # ids in one statement: callers choose how many they name, databases limit the parameters


class SqlAffinity:
    """See AffinityStore."""

    def __init__(self, engine: Engine, now: Clock = utc_now) -> None:
        self._engine = engine
        self._now = now

    def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        now = self._naive_now()
        with transaction(self._engine) as connection:
            connection.execute(delete(affinity).where(affinity.c.expires_at <= now))
            for digest in dict.fromkeys(map(id_digest, ids)):
                row = {
                    "digest": digest,
                    "backend": backend,
                    "model": model,
                    "owner": owner,
                    "expires_at": now + AFFINITY_LIFE,
                }
                _insert_once(connection, row)

    def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        digests = {id_digest(made): made for made in ids}
        asked = list(digests)
        live = affinity.c.expires_at > self._naive_now()
        known: dict[str, Affinity] = {}
        with transaction(self._engine) as connection:
            for start in range(0, len(asked), _AT_ONCE):
                wanted = affinity.c.digest.in_(asked[start : start + _AT_ONCE])
                for row in connection.execute(select(affinity).where(wanted, live)):
                    known[digests[row.digest]] = Affinity(row.backend, row.model, row.owner)
        return known

    def _naive_now(self) -> datetime:
        return self._now().astimezone(UTC).replace(tzinfo=None)


def _insert_once(connection: Connection, row: Mapping[str, object]) -> None:
    """Insert, unless the id is known: a savepoint keeps the transaction alive on both databases."""
    try:
        with connection.begin_nested():
            connection.execute(insert(affinity).values(row))
    except IntegrityError:
        return

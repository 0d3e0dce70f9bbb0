"""Users who have been erased from the ledger: what is told later of their calls from before may not name them, either.

Kept is a digest under a salt of its own, for as long as an event can wait on the usage bus.
"""

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, insert, select

from extproc.stores.ledger import CallRow
from extproc.stores.retention import ERASED
from extproc.stores.sql.tables import erasures

_LONGEST_WAIT = timedelta(days=30)  # of an event; spools keep theirs for days


def note(connection: Connection, user: str, now: datetime) -> None:
    """Calls of a user that ended before now are nobody's. Notes that have served are let go."""
    salt = secrets.token_hex(16)
    connection.execute(delete(erasures).where(erasures.c.before < now - _LONGEST_WAIT))
    connection.execute(insert(erasures).values(salt=salt, digest=_digest(salt, user), before=now))


def apply(connection: Connection, rows: Iterable[CallRow]) -> None:
    """Take the names of erased users out of rows that are about to be written."""
    known = list(connection.execute(select(erasures)))
    if not known:
        return
    for row in rows:
        if row.user_name and any(
            row.ended_at < one.before and _digest(one.salt, row.user_name) == one.digest for one in known
        ):
            forget(row, ERASED)


def forget(row: CallRow, user: str = "") -> None:
    """Take out of a row who made the call, and with which key. `user`: what stands there instead."""
    if row.user_name:
        row.key_id = row.key_name = ""
    row.user_name, row.session_id, row.tags, row.booked = user, None, None, None


def _digest(salt: str, user: str) -> str:
    return hashlib.sha256(f"{salt} {user}".encode()).hexdigest()

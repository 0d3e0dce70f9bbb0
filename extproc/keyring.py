"""The keys that may call now, in memory, refreshed from the database every two seconds."""

import asyncio
import logging
import time
from dataclasses import dataclass

from extproc import keys
from extproc.model import Caller
from extproc.stores.ports import KeyRecord, KeyStore, StoreUnavailable

log = logging.getLogger(__name__)

_PERIOD = 2.0  # seconds; a revocation must be in force everywhere within five


@dataclass(frozen=True, slots=True)
class _Entry:
    caller: Caller
    expires: float | None  # Unix time


class Keyring:
    """From the digest of a key to its caller. A dead database leaves the last known keys in force."""

    def __init__(self, store: KeyStore, quickstart: bool) -> None:
        self._store = store
        self._fixed: dict[str, _Entry] = {}
        if quickstart:
            caller = Caller(key_id="quickstart", name="quickstart")
            self._fixed[keys.digest(keys.QUICKSTART_KEY)] = _Entry(caller, None)
        self._entries: dict[str, _Entry] = dict(self._fixed)
        self._revision: str | None = None

    @property
    def loaded(self) -> bool:
        """Whether the database has been read at least once."""
        return self._revision is not None

    def find(self, digest: str) -> Caller | None:
        """The caller, or None for a key that is unknown, revoked or expired.

        Raises StoreUnavailable while no keys have been read: then nobody can say that a key is unknown.
        """
        entry = self._entries.get(digest)
        if entry is None and not self.loaded:
            raise StoreUnavailable("the keys have not been read yet")
        if entry is None or (entry.expires is not None and entry.expires <= time.time()):
            return None
        return entry.caller

    def refresh(self) -> None:
        """Read the keys again if they have changed. Blocks; raises StoreUnavailable."""
        revision = self._store.revision()
        if revision == self._revision:
            return
        entries = {digest: _entry(record) for digest, record in self._store.snapshot().items()}
        self._entries = entries | self._fixed
        self._revision = revision

    async def keep_fresh(self) -> None:
        """Refresh for ever, off the event loop."""
        while True:
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:  # whatever it is: were this to end, no revocation would be seen any more
                reason = str(error) if isinstance(error, StoreUnavailable) else type(error).__name__
                log.warning("the keys could not be read again, the last known stay in force: %s", reason)
            await asyncio.sleep(_PERIOD)


def _entry(record: KeyRecord) -> _Entry:
    models = None if record.models is None else frozenset(record.models)
    expires = None if record.expires_at is None else record.expires_at.timestamp()
    return _Entry(Caller(key_id=record.id, name=record.name, models=models), expires)

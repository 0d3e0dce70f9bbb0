"""Stores in memory: the specification, and enough for one worker's tests."""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from extproc.stores.ports import AFFINITY_LIFE, Affinity, KeyRecord, NameTaken, UnknownKey

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryKeys:
    """See KeyStore."""

    def __init__(self, now: Clock = utc_now) -> None:
        self._now = now
        self._keys: dict[str, KeyRecord] = {}
        self._numbers = itertools.count(1)
        self._revision = 0

    def create(
        self, name: str, digest: str, hint: str, expires_at: datetime | None, models: tuple[str, ...] | None
    ) -> KeyRecord:
        if any(key.name == name and key.revoked_at is None for key in self._keys.values()):
            raise NameTaken(name)
        until = None if expires_at is None else expires_at.astimezone(UTC)
        record = KeyRecord(f"key_{next(self._numbers)}", name, hint, self._now(), until, None, models)
        self._keys[digest] = record
        self._revision += 1
        return record

    def list(self) -> list[KeyRecord]:
        return list(self._keys.values())

    def revoke(self, which: str) -> KeyRecord:
        found = [
            (digest, key)
            for digest, key in self._keys.items()
            if key.id == which or (key.revoked_at is None and which in (key.name, key.hint))
        ]
        if len(found) != 1:
            raise UnknownKey(which)
        digest, key = found[0]
        if key.revoked_at is None:
            key = replace(key, revoked_at=self._now())
            self._keys[digest] = key
            self._revision += 1
        return key

    def revision(self) -> str:
        return str(self._revision)

    def snapshot(self) -> dict[str, KeyRecord]:
        return {digest: key for digest, key in self._keys.items() if key.revoked_at is None}


class MemoryAffinity:
    """See AffinityStore."""

    def __init__(self, now: Clock = utc_now) -> None:
        self._now = now
        self._known: dict[str, tuple[Affinity, datetime]] = {}

    def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        until = self._now() + AFFINITY_LIFE
        for made in ids:
            known = self._known.get(id_digest(made))
            if known is None or known[1] <= self._now():
                self._known[id_digest(made)] = (Affinity(backend, model, owner), until)

    def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        now = self._now()
        found = {made: self._known.get(id_digest(made)) for made in ids}
        return {made: known[0] for made, known in found.items() if known is not None and known[1] > now}


def id_digest(made: str) -> str:
    """An id or an encrypted item as it is stored."""
    return hashlib.sha256(made.encode()).hexdigest()

"""What the gateway asks of a store. Methods block: the worker calls them in a thread.

Every method raises StoreUnavailable when the store cannot be reached or does not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

AFFINITY_LIFE = timedelta(days=30)
"""How long a provider keeps a stored response, and we its place."""


class StoreUnavailable(Exception):
    """The store does not answer. The text never holds a credential."""


class NameTaken(ValueError):
    """There is an unrevoked key of this name."""


class UnknownKey(LookupError):
    """No key, or more than one, goes by this name, id or hint."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is stored: never the key itself. Times are UTC; `models` None means all."""

    id: str
    name: str
    hint: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    models: tuple[str, ...] | None = None


class KeyStore(Protocol):
    """Keys by digest."""

    def create(
        self, name: str, digest: str, hint: str, expires_at: datetime | None, models: tuple[str, ...] | None
    ) -> KeyRecord:
        """Raises NameTaken."""

    def list(self) -> list[KeyRecord]:
        """All keys, revoked ones too, oldest first."""

    def revoke(self, which: str) -> KeyRecord:
        """By id, or by the name or hint of an unrevoked key. Raises UnknownKey."""

    def revision(self) -> str:
        """Changes whenever `snapshot` would; cheap enough to ask every two seconds."""

    def snapshot(self) -> dict[str, KeyRecord]:
        """Unrevoked keys by digest; expiry is judged by who uses them."""


@dataclass(frozen=True, slots=True)
class Affinity:
    """Which backend made a stored response or item, of which model, for which key."""

    backend: str
    model: str
    owner: str


class AffinityStore(Protocol):
    """Where the state of stateful calls is held. Ids are kept as SHA-256 only."""

    def remember(self, ids: Sequence[str], backend: str, model: str, owner: str) -> None:
        """The first to name an id owns it; naming it again changes nothing."""

    def recall(self, ids: Sequence[str]) -> Mapping[str, Affinity]:
        """What is known of these ids; unknown and expired ones are left out."""

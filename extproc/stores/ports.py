"""What the gateway asks of a store. Methods block: the worker calls them in a thread.

Every method raises StoreUnavailable when the store cannot be reached or does not answer.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from extproc.limits.limit import Limit, Priority
from extproc.model import DEFAULT_POLICY

AFFINITY_LIFE = timedelta(days=30)
"""How long a provider keeps a stored response, and we its place."""


class StoreUnavailable(Exception):
    """The store does not answer. The text never holds a credential."""


class SchemaBehind(StoreUnavailable):
    """The database answers, and its schema is older than this version needs; or there is none yet."""


class SchemaAhead(StoreUnavailable):
    """The database answers, and its schema is newer than this version knows."""


class NameTaken(ValueError):
    """There is a key in force of this name in this team."""


class UnknownKey(LookupError):
    """No key, or more than one, goes by this name, id or hint."""


class UnknownTeam(LookupError):
    """There is no team of this name."""


class Conflict(Exception):
    """The directory has changed since it was read: read it again and decide again."""


ANOTHER_APPLY = "another `sluice apply` is at work on this database"


@dataclass(frozen=True, slots=True)
class KeySpec:
    """What a key is for and what it may do. None means no limit; `team` is "" for a key of no team.

    `declared`: a team file asks for it, so `apply` keeps it in step with the file. `limits` are without their owner,
    which is the line of keys and not known before there is one. `priority` is the highest that its calls may have.
    """

    name: str
    team: str = ""
    user: str | None = None
    service_account: str | None = None
    environment: str | None = None
    lifetime: timedelta | None = None  # whole seconds
    models: tuple[str, ...] | None = None
    surfaces: tuple[str, ...] | None = None
    ip_ranges: tuple[str, ...] = ()
    declared: bool = False
    limits: tuple[Limit, ...] = ()
    priority: Priority = Priority.HIGH


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key as it is stored: never the key itself. Times are UTC.

    `lineage` is the id of the first key of a line of rotations; `replaced_by` the id of the next one.
    """

    id: str
    spec: KeySpec
    hint: str
    lineage: str
    created_at: datetime
    expires_at: datetime | None = None
    suspended_at: datetime | None = None
    revoked_at: datetime | None = None
    replaced_by: str | None = None
    last_used_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key on its way into the store: its digest and what may be shown of it."""

    spec: KeySpec
    digest: str  # hex SHA-256
    hint: str


class MemberKind(StrEnum):
    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    GROUP = "group"  # of an issuer of tokens: whoever is in it is a member


@dataclass(frozen=True, slots=True)
class Member:
    """Who belongs to a team. `client_id` is the application's id at the issuer of tokens, for service accounts."""

    kind: MemberKind
    name: str
    role: str
    client_id: str | None = None


@dataclass(frozen=True, slots=True)
class TeamRecord:
    """A team, as its file declares it. `models` None means every model that is open to its tier."""

    name: str
    area: str
    owner: str
    tier: str
    models: tuple[str, ...] | None = ()
    ip_ranges: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    members: tuple[Member, ...] = ()
    limits: tuple[Limit, ...] = ()  # owned by `team/NAME`
    redaction: str = DEFAULT_POLICY  # the name of its policy
    guardrails: str = DEFAULT_POLICY  # the name of its policy
    providers: tuple[str, ...] | None = None  # whose backends its calls may go to; None: anybody's
    regions: tuple[str, ...] | None = None  # where its calls may go; None: anywhere
    brought: str = ""  # its own backends and models as its file has them, in JSON; empty: none. See config.byob


@dataclass(frozen=True, slots=True)
class AreaRecord:
    """A part of the company. Owners may manage all of its teams."""

    name: str
    owners: tuple[str, ...] = ()


class StopScope(StrEnum):
    """What an emergency stop takes out of service."""

    EVERYTHING = "everything"
    AREA = "area"
    TEAM = "team"
    USER = "user"
    KEY = "key"  # by id
    MODEL = "model"  # by its public name
    BACKEND = "backend"


@dataclass(frozen=True, slots=True)
class Stop:
    """An emergency stop; it wins over whatever files declare. `name` is "" for everything."""

    scope: StopScope
    name: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key as it is now. `digest` is hex SHA-256."""

    digest: str
    record: KeyRecord


@dataclass(frozen=True, slots=True)
class TeamRemoved:
    name: str


@dataclass(frozen=True, slots=True)
class AreaRemoved:
    name: str


@dataclass(frozen=True, slots=True)
class StopLifted:
    scope: StopScope
    name: str


DirectoryChange = KeyChange | TeamRecord | TeamRemoved | AreaRecord | AreaRemoved | Stop | StopLifted


@dataclass(frozen=True, slots=True)
class DirectoryState:
    """The whole directory at one revision; revoked and replaced keys too, without digests."""

    revision: int
    areas: tuple[AreaRecord, ...]
    teams: tuple[TeamRecord, ...]
    keys: tuple[KeyRecord, ...]
    stops: tuple[Stop, ...]


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What one `apply` carries out, all or nothing. Keys to change and to revoke go by id."""

    areas: tuple[AreaRecord, ...] = ()
    areas_removed: tuple[str, ...] = ()
    teams: tuple[TeamRecord, ...] = ()
    teams_removed: tuple[str, ...] = ()
    keys_minted: tuple[MintedKey, ...] = ()
    keys_changed: tuple[tuple[str, KeySpec], ...] = ()
    keys_revoked: tuple[str, ...] = ()


class DirectoryStore(Protocol):
    """Areas, teams, members, keys and stops. A write that changes something raises the revision."""

    # ---- for the workers ----

    def revision(self) -> int:
        """Changes whenever the directory does; cheap enough to ask every two seconds. 0 when nothing is there."""

    def changes(self, since: int) -> Generator[DirectoryChange]:
        """What has changed after a revision, as it is now; for 0, all there is but revoked keys, and nothing of
        what has been removed or lifted.

        Areas and teams come before keys. The read is one snapshot of the database; exhaust or close it.
        """

    def used(self, last: Mapping[str, datetime]) -> None:
        """Note when keys (by id) were used last; an earlier time changes nothing. Does not raise the revision."""

    def brought(self) -> Mapping[str, str]:
        """By team what it brings, see TeamRecord; only teams that bring something. Cheap enough to ask every second."""

    # ---- for people ----

    def state(self) -> DirectoryState:
        """All of it: keys oldest first, members by kind and name, everything else by name."""

    def apply(self, changes: ChangeSet, revision: int) -> int:
        """Carry out a set of changes on the directory of `revision`; returns the new one.

        A changed key ends a lifetime after it was made; where it has a successor, not later than it did before.
        Raises Conflict where the directory is not at `revision` any more, NameTaken for a minted key that is
        there already, UnknownKey for an id that is not; then it changes nothing.
        """

    def alone(self) -> AbstractContextManager[None]:
        """While it is entered no other `apply` delivers keys: they would write over each other's.

        It holds up nothing else, least of all an emergency stop. Raises Conflict where another is at work.
        """

    def create(self, key: MintedKey) -> KeyRecord:
        """Raises NameTaken, UnknownTeam."""

    def rotate(self, which: str, digest: str, hint: str, overlap: timedelta) -> tuple[KeyRecord, KeyRecord]:
        """A successor with the same rights for a full lifetime; the old key, returned first, ends with the overlap.

        Raises UnknownKey, also for a key that is not in force or has a successor already.
        """

    def suspend(self, which: str) -> tuple[KeyRecord, ...]:
        """Out of force until resumed; `which` and the answer as for `revoke`. Raises UnknownKey for a revoked key."""

    def resume(self, which: str) -> tuple[KeyRecord, ...]:
        """In force again; `which` and the answer as for `revoke`. Raises UnknownKey for a revoked key."""

    def revoke(self, which: str) -> tuple[KeyRecord, ...]:
        """For ever. `which`: an id or a hint, for one key, or `team/name` or a name, for all unrevoked keys of it.

        Returns the keys meant, oldest first. Raises UnknownKey where that is none, or it could mean two things.
        """

    def stop(self, scope: StopScope, name: str, reason: str) -> Stop:
        """Take out of service at once; stopping again changes nothing but the reason."""

    def lift(self, scope: StopScope, name: str) -> bool:
        """End a stop; False where there was none."""


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

"""Everybody who may call, as one immutable value in memory: looked up, never asked of a database."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

from extproc.limits.limit import Limit, Priority
from extproc.model import Network, Team

T = TypeVar("T")
PARTS = 256
"""Of a KeyTable: a key is in the part that its fingerprint's first byte names."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that is not revoked. `expires` is Unix time; None means no limit wherever it may stand."""

    id: str
    name: str
    lineage: str
    team: str = ""
    user: str | None = None
    service_account: str | None = None
    environment: str | None = None
    expires: float | None = None
    models: frozenset[str] | None = None
    surfaces: frozenset[str] | None = None
    networks: tuple[Network, ...] = ()
    suspended: bool = False
    limits: tuple[Limit, ...] = ()
    priority: Priority = Priority.HIGH


class KeyTable(Mapping[bytes, Key]):
    """Keys by fingerprint, in parts that tables share where they are alike.

    So a change copies a few hundred keys and not all: no copy, growth or end of a dict takes as long as a call.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Mapping[bytes, Key]]) -> None:
        self.parts = tuple(parts)

    def __getitem__(self, fingerprint: bytes) -> Key:
        return self.parts[fingerprint[0]][fingerprint]

    @overload
    def get(self, fingerprint: bytes, /) -> Key | None: ...
    @overload
    def get(self, fingerprint: bytes, default: Key | T, /) -> Key | T: ...
    def get(self, fingerprint: bytes, default: object = None, /) -> object:
        return self.parts[fingerprint[0]].get(fingerprint, default)

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield from part

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True, slots=True)
class Membership:
    """A place in a team."""

    team: str
    role: str
    service_account: str | None = None


@dataclass(frozen=True, slots=True)
class Directory:
    """The keys by their fingerprints, the teams by name, and who belongs to which.

    Users are as `claims.folded` leaves them. `stops` are the emergency stops in force, as (scope, name).
    """

    keys: Mapping[bytes, Key] = field(default_factory=dict)
    teams: Mapping[str, Team] = field(default_factory=dict)
    users: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)
    clients: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)  # by application id
    groups: Mapping[str, tuple[Membership, ...]] = field(default_factory=dict)  # by id at the issuer
    owners: Mapping[str, frozenset[str]] = field(default_factory=dict)  # user to the areas it owns
    stops: frozenset[tuple[str, str]] = frozenset()

"""A large company for benches: as many keys as wanted in 2,000 teams, each the same at every run."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from extproc.identity import keys
from extproc.stores.ports import (
    AreaRecord,
    ChangeSet,
    DirectoryChange,
    KeyChange,
    KeyRecord,
    KeySpec,
    Member,
    MemberKind,
    MintedKey,
    TeamRecord,
)
from extproc.stores.sql import open_stores, upgrade

TEAMS = 2_000
AREAS = 20
_CREATED = datetime(2026, 1, 1, tzinfo=UTC)
_MODELS = (None, ("gpt-4o", "gpt-4o-mini"), ("gpt-4o", "claude-sonnet-5-5", "text-embedding-3-small"))
_RANGES: tuple[tuple[str, ...], ...] = ((), (), (), ("10.0.0.0/8", "192.168.0.0/16"))


def secret(number: int) -> bytes:
    """What a key is made from: 32 bytes, for any number."""
    return hashlib.sha256(b"crowd %d" % number).digest()


def key(number: int) -> str:
    """The text of a key."""
    return keys.mint(secret(number))


def user(number: int) -> str:
    """Users are in one team each; `user(n)` is in the team of `spec(n)`."""
    return f"user-{number % TEAMS}-{number // TEAMS % 5}@example.com"


def spec(number: int) -> KeySpec:
    """Of every two keys one is a user's and one a service account's."""
    team, own = f"team-{number % TEAMS:04}", number // TEAMS % 2 == 0
    return KeySpec(
        name=f"key-{number}",
        team=team,
        user=user(number) if own else None,
        service_account=None if own else "nightly",
        environment=("production", "staging", "test")[number % 3],
        lifetime=timedelta(days=365),
        models=_MODELS[number % len(_MODELS)],
        surfaces=("chat", "responses") if number % 5 == 0 else None,
        ip_ranges=_RANGES[number % len(_RANGES)],
        declared=True,
    )


def teams() -> list[TeamRecord]:
    return [
        TeamRecord(
            name=f"team-{number:04}",
            area=f"area-{number % AREAS}",
            owner=user(number),
            tier=("gold", "silver", "bronze")[number % 3],
            models=("gpt-4o", "gpt-4o-mini", "claude-sonnet-5-5"),
            tags=(("cost_center", str(4000 + number)),),
            members=(
                *(Member(MemberKind.USER, user(number + TEAMS * one), "developer") for one in range(5)),
                Member(MemberKind.SERVICE_ACCOUNT, "nightly", "service_account", f"application-{number}"),
                Member(MemberKind.GROUP, f"group-{number}", "developer"),
            ),
        )
        for number in range(TEAMS)
    ]


def changes(count: int) -> Iterator[DirectoryChange]:
    """Everything there is, as a store tells it; nothing of it is kept."""
    yield from (AreaRecord(f"area-{number}") for number in range(AREAS))
    yield from teams()
    for number in range(count):
        yield key_change(number)


def key_change(number: int, revoked: bool = False) -> KeyChange:
    """What a store tells of a key, with values of its own as rows have them."""
    key_id = f"key_{number:016x}"
    text = key(number)
    record = KeyRecord(
        key_id, spec(number), keys.hint(text), f"key_{number:016x}", _CREATED, _CREATED + timedelta(3650)
    )
    return KeyChange(keys.digest(text), replace(record, revoked_at=_CREATED) if revoked else record)


def minted(numbers: Sequence[int]) -> tuple[MintedKey, ...]:
    """Keys on their way into a database."""
    texts = [(number, key(number)) for number in numbers]
    return tuple(MintedKey(spec(number), keys.digest(text), keys.hint(text)) for number, text in texts)


def settle(database: str, count: int) -> None:
    """Write the company into a new database."""
    upgrade(database)
    with closing(open_stores(database)) as stores:
        whole = ChangeSet(
            areas=tuple(AreaRecord(f"area-{number}") for number in range(AREAS)),
            teams=tuple(teams()),
            keys_minted=minted(range(count)),
        )
        stores.directory.apply(whole, stores.directory.revision())

"""Events as workers put them onto the usage bus, and ledgers to write them to."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import orjson

from extproc.stores import sql
from extproc.stores.ledger import Event
from tests.support.stores import empty_postgres

AT = 1_769_860_800_000
"""2026-01-31 12:00 UTC, in milliseconds."""

CALL: dict[str, Any] = {
    "time": AT / 1000,
    "kind": "call",
    "request_id": "r-1",
    "surface": "chat",
    "key": "app",
    "key_id": "key_1",
    "user": "ann@example.com",
    "team": "search",
    "area": "shop",
    "tier": "gold",
    "model": "gpt-4o",
    "chain": ["one", "two"],
    "backend": "two",
    "status": 200,
    "ending": "complete",
    "stream": True,
    "usage": {"input": 12, "output": 9, "cached_input": 4, "source": "reported"},
    "cost": 5_000,
    "currency": "USD",
    "first_byte_ms": 100.4,
    "duration_ms": 1_500.25,
}


def event(record: object, at: int = AT) -> Event:
    return Event("place", at, orjson.dumps(record))


def call(name: str = "w.1", **more: Any) -> Event:
    """A call as its worker tells it; None leaves a fact out."""
    return event({key: value for key, value in {"id": name, **CALL, **more}.items() if value is not None})


def expired(name: str = "w.1", at: int = AT, **kept: int) -> Event:
    """A hold that nobody settled, with what stays of each measure."""
    return event({"id": name, "expired": True, "kept": {f"{measure}/d": units for measure, units in kept.items()}}, at)


def attempts(name: str, *given: dict[str, Any]) -> Event:
    base = {"request_id": "r-1", "time": AT / 1000 - 1.5, "backend": "one", "status": 429}
    return event({"id": name, "kind": "attempts", "attempts": [{**base, **one} for one in given]})


def breaks(name: str, *given: dict[str, Any]) -> Event:
    base = {"request_id": "r-1", "time": AT / 1000 - 1.5}
    return event({"id": name, "kind": "breaks", "breaks": [{**base, **one} for one in given]})


@contextmanager
def ledger_on(kind: str, folder: Path) -> Iterator[sql.Stores]:
    """An empty ledger: `sqlite` or `postgresql`. Skips the test where there is no PostgreSQL."""
    url = f"sqlite:///{folder}/ledger.db" if kind == "sqlite" else empty_postgres()
    sql.upgrade(url)
    with closing(sql.open_stores(url)) as stores:
        yield stores

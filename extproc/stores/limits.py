"""Limits as stores keep them: only what differs from the defaults of `Limit`, which therefore must stay what they are.

So a version that knows fewer fields reads all limits that do without the new ones.
"""

from collections.abc import Sequence
from dataclasses import MISSING, fields
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import orjson
from pydantic import TypeAdapter, ValidationError

from extproc.limits.limit import Limit, Only, Raise
from extproc.stores.ports import StoreUnavailable

_LIMITS: Final = TypeAdapter(tuple[Limit, ...])
_NONE: tuple[Limit, ...] = ()
NEWER = "the database holds a limit or a priority of a newer version of Sluice. Use that version"


def stored(limits: Sequence[Limit]) -> list[dict[str, Any]] | None:
    """What JSON can hold; None for none."""
    return [_plain(limit) for limit in limits] or None


def restored(given: object) -> tuple[Limit, ...]:
    """The limits of what `stored` gave. Raises StoreUnavailable for what this version does not understand whole."""
    return _NONE if given is None else _read(orjson.dumps(given))


@lru_cache(maxsize=1024)  # of 100,000 keys most that have limits have the same
def _read(text: bytes) -> tuple[Limit, ...]:
    try:
        found = _LIMITS.validate_json(text, strict=True)
    except ValidationError:
        found = _NONE
    if stored(found) != orjson.loads(text):  # an unknown field would be passed over, and more allowed than was meant
        raise StoreUnavailable(NEWER)
    return found


def _plain(value: Limit | Only | Raise) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    found = {field.name: (getattr(value, field.name), field.default) for field in fields(value) if field.init}
    return {name: _json(own) for name, (own, default) in found.items() if default is MISSING or own != default}


def _json(value: Any) -> Any:
    if isinstance(value, Limit | Only | Raise):
        return _plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, frozenset):
        return sorted(value)
    return [_json(one) for one in value] if isinstance(value, tuple) else value

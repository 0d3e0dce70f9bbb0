"""An answer as it is kept: its redacted form, packed, and sealed so that nobody else can have made it.

What does not open is a miss: another key, another digest, another version of this file, a byte that was changed.

A version byte, the HMAC-SHA256 over all else, the length of the head in four bytes, the head as JSON, the body.
"""

from dataclasses import asdict
from typing import NamedTuple

import orjson
import zstandard

from extproc.cache import seals
from extproc.values import frozen

_KIND, _VERSION = b"entry", b"\x01"
_LENGTH = 4
_START = seals.OVERHEAD + _LENGTH
_LEVEL = 3  # zstd's own default: the next ones take twice the time for some percent
_MOST = 2**63  # of any number in a head
_LONGEST_HEAD = 4096
_TEXTS = frozenset(("content_type", "model", "backend"))
_NUMBERS = frozenset(("made", "input", "output"))
_PACKING = frozenset(("size", "packed"))
_KEYS = _TEXTS | _NUMBERS | _PACKING | {"cost"}


@frozen
class Entry:
    """`body` is what a caller gets, as one piece, but that its placeholders have not been taken back.

    `made` is Unix time in milliseconds. `cost`: nano-units that it cost, None where it has no price. `input` and
    `output` are tokens. `backend` made it.
    """

    body: bytes
    content_type: str
    made: int
    model: str
    backend: str
    input: int
    output: int
    cost: int | None = None


class _Head(NamedTuple):
    """What stands before the body. `size`: bytes of the body, unpacked."""

    fields: dict[str, object]
    size: int
    is_packed: bool


def seal(entry: Entry, digest: str, key: bytes) -> bytes:
    """The sealed form, which opens under the same digest and key only."""
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(entry.body)
    is_packed = len(packed) < len(entry.body)
    fields = asdict(entry) | {"size": len(entry.body), "packed": is_packed}
    del fields["body"]
    head = orjson.dumps(fields)
    rest = len(head).to_bytes(_LENGTH) + head + (packed if is_packed else entry.body)
    return seals.seal(_KIND, _VERSION, digest, rest, key)


def unseal(sealed: bytes, digest: str, key: bytes, largest: int) -> Entry | None:
    """The entry; None for anything that is not exactly one, or whose body is larger than `largest` bytes."""
    fits = _START <= len(sealed) <= _START + _LONGEST_HEAD + largest
    rest = seals.unseal(_KIND, _VERSION, digest, sealed, key) if fits else None
    if rest is None:
        return None
    end = _LENGTH + int.from_bytes(rest[:_LENGTH])
    head = _head(rest[_LENGTH:end]) if end <= _LENGTH + _LONGEST_HEAD else None
    if head is None or head.size > largest:
        return None
    body = _unpacked(rest[end:], head.size) if head.is_packed else rest[end:]
    if body is None or len(body) != head.size:
        return None
    return Entry(body=body, **head.fields)  # type: ignore[arg-type]  # as _head has seen


def _head(written: bytes) -> _Head | None:
    """A head with exactly the fields that it must have, of the right types; else None."""
    try:
        fields = orjson.loads(written)
    except ValueError:
        return None
    if not isinstance(fields, dict) or fields.keys() != _KEYS:
        return None
    size, is_packed, cost = fields.pop("size"), fields.pop("packed"), fields["cost"]
    fits = (
        all(isinstance(fields[name], str) for name in _TEXTS)
        and all(_is_count(fields[name]) for name in _NUMBERS)
        and (cost is None or _is_count(cost))
        and _is_count(size)
        and isinstance(is_packed, bool)
    )
    return _Head(fields, size, is_packed) if fits else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _unpacked(packed: bytes, size: int) -> bytes | None:
    """The body, if it is one frame that says it has so many bytes: memory is taken for what a frame says."""
    try:
        if zstandard.frame_content_size(packed) != size:
            return None
        return zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    except zstandard.ZstdError:
        return None

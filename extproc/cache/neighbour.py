"""A question that has been answered, as it is kept to be found by others that ask the same in other words.

Sealed as answers are. What does not open, or is not exactly one, is as if it were not there.
"""

from dataclasses import dataclass, field

import orjson

from extproc.cache import seals, vectors
from extproc.cache.question import LONGEST
from extproc.cache.vectors import Vector

_KIND, _VERSION = b"neighbour", b"\x01"
_LENGTH = 4
_LARGEST = seals.OVERHEAD + _LENGTH + 6 * LONGEST + 1024 + vectors.MOST  # a character is six bytes of JSON at most
_MOST = 2**63


@dataclass(frozen=True, slots=True)
class Neighbour:
    """`text` is redacted. `digest`: under which its answer is kept. `ends` is Unix time in milliseconds."""

    text: str = field(repr=False)
    vector: Vector = field(repr=False)
    digest: str
    ends: int


def seal(neighbour: Neighbour, partition: str, key: bytes) -> bytes:
    """The sealed form, which opens in the same partition and under the same key only."""
    fields = {"text": neighbour.text, "digest": neighbour.digest, "ends": neighbour.ends}
    head = orjson.dumps(fields)
    return seals.seal(_KIND, _VERSION, partition, len(head).to_bytes(_LENGTH) + head + neighbour.vector.data, key)


def unseal(sealed: bytes, partition: str, key: bytes) -> Neighbour | None:
    """The neighbour; None for anything that is not exactly one."""
    content = seals.unseal(_KIND, _VERSION, partition, sealed, key) if len(sealed) <= _LARGEST else None
    if content is None:
        return None
    end = _LENGTH + int.from_bytes(content[:_LENGTH])
    vector = vectors.read(content[end:])
    try:
        fields = orjson.loads(content[_LENGTH:end])
    except ValueError:
        return None
    match fields:
        case {"text": str(text), "digest": str(digest), "ends": int(ends), **rest} if vector and not rest:
            return Neighbour(text, vector, digest, ends) if 0 <= ends < _MOST else None
    return None

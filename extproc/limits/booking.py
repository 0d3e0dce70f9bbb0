"""What a call has used of limits whose windows are long, told to the ledger: the counters can be made again from it.

Windows under an hour are over before anybody has made them again, and are left out.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import orjson

from extproc.limits.hold import Hold
from extproc.stores.counters import Draw, bucket

_SHORTEST = 3_600_000  # milliseconds


class Booking(NamedTuple):
    """`units` that a counter of a limit, by its title, took in [first, last), in milliseconds of Unix time.

    Of a calendar's window these are its bounds; of a `sliding` one of that length `first` is the end of the bucket
    (see `counters.bucket`), and `last` when that counts no more.
    """

    counter: str
    limit: str
    units: int
    first: int
    last: int
    sliding: int = 0


def told(held: Hold, draws: Sequence[Draw], now: int) -> list[list[str | int]]:
    """As `read` reads them. `draws`: those that a call is settled with, in the order of its stakes. `now`:
    milliseconds of Unix time."""
    found: list[list[str | int]] = []
    for stake, (counter, units, _) in zip(held.stakes, draws, strict=True):
        if not units:
            continue
        if counter.sliding >= _SHORTEST:
            edge = bucket(counter.sliding, now)
            last = edge + counter.sliding
            found.append([counter.key, stake.limit.title, units, edge, last, counter.sliding])
        elif counter.windows and counter.windows[0].end - counter.windows[0].start >= _SHORTEST:
            window = counter.windows[0]
            found.append([counter.key, stake.limit.title, units, window.start, window.end, 0])
    return found


def read(text: str) -> Iterator[Booking]:
    """Those in a JSON text. What is none is left out."""
    parsed = orjson.loads(text)
    for one in parsed if isinstance(parsed, list) else ():
        if isinstance(one, list) and len(one) == len(Booking._fields) and _fits(*one):
            yield Booking(*one)


def _fits(counter: object, limit: object, *amounts: object) -> bool:
    texts = isinstance(counter, str) and isinstance(limit, str) and len(counter) <= 64 and len(limit) <= 200
    return texts and all(type(amount) is int and 0 <= amount < 2**53 for amount in amounts)

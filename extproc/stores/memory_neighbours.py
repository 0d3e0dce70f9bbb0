"""Neighbours in memory: the specification of the port, and what each worker without Redis has for itself."""

import heapq
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from extproc.stores.neighbours import BESIDE, LARGEST, MOST, PAGE, News, Row

_SPARE = 1_000
"""Ends beyond those that are needed, before it is worth looking for them."""


class _Kept(NamedTuple):
    row: Row
    ends: int

    @property
    def size(self) -> int:
        return len(self.row.sealed) + BESIDE


class MemoryNeighbours:
    """See NeighbourStore. No step awaits anything, which makes each of them atomic on its event loop.

    `clock` tells Unix time in milliseconds. `most_bytes` bounds all, with what is counted beside each.
    """

    def __init__(self, clock: Callable[[], int], most_bytes: int) -> None:
        self._clock = clock
        self._most = most_bytes
        self._epoch = clock()
        self._number = self._count = self._bytes = 0
        self._partitions: dict[str, dict[str, _Kept]] = {}  # by digest, the oldest first
        self._ends: list[tuple[int, str, str]] = []  # a heap, also of what is not kept any more

    async def since(self, partition: str, number: int, epoch: int = 0) -> News:
        now, least = self._clock(), number if epoch == self._epoch else 0
        kept = self._partitions.get(partition, {}).values()
        rows = (one.row for one in kept if one.row.number > least and one.ends > now)
        return News(self._epoch, tuple(islice(rows, PAGE)))

    async def add(self, partition: str, digest: str, sealed: bytes, life: int, epoch: int) -> bool:
        now, size = self._clock(), len(sealed) + BESIDE
        if epoch != self._epoch or len(sealed) > LARGEST or size > self._most:
            return False
        self._drop(partition, digest)
        self._make_room(now, self._most - size)
        self._number += 1
        kept = self._partitions.setdefault(partition, {})
        kept[digest] = _Kept(Row(self._number, digest, sealed), now + life)
        self._bytes += size
        self._count += 1
        if len(kept) > MOST:
            self._drop(partition, next(iter(kept)))
        self._note_end(now + life, partition, digest)
        return True

    async def purge(self) -> None:
        self._epoch = max(self._clock(), self._epoch + 1)
        self._partitions.clear()
        self._ends.clear()
        self._count = self._bytes = 0

    async def close(self) -> None:
        """There are no connections."""

    def _drop(self, partition: str, digest: str) -> None:
        kept = self._partitions.get(partition, {})
        if digest in kept:
            self._bytes -= kept.pop(digest).size
            self._count -= 1
            if not kept:
                del self._partitions[partition]

    def _note_end(self, ends: int, partition: str, digest: str) -> None:
        heapq.heappush(self._ends, (ends, partition, digest))
        if len(self._ends) > 2 * self._count + _SPARE:
            self._ends = [(one.ends, name, of) for name, kept in self._partitions.items() for of, one in kept.items()]
            heapq.heapify(self._ends)

    def _make_room(self, now: int, most: int) -> None:
        while self._ends and (self._ends[0][0] <= now or self._bytes > most):
            ends, partition, digest = heapq.heappop(self._ends)
            kept = self._partitions.get(partition, {}).get(digest)
            if kept is not None and kept.ends == ends:
                self._drop(partition, digest)

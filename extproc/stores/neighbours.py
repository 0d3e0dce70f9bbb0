"""The port of the questions that have been answered, which others that ask the same in other words may find.

They stand in partitions: a call sees only its own. What is kept is sealed (see cache.neighbour): a store knows only the
digest under which the answer is kept, its size and its end. All of it is disposable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MOST = 512
"""Neighbours of a partition; beyond them those go that were added first."""
LARGEST = 64 * 1024
"""The most bytes of a sealed neighbour. A larger one is neither kept nor given out."""
PAGE = 128
"""About as many are told at once."""
BESIDE = 600
"""Bytes that a store counts for each beside its own."""


class NeighboursUnavailable(Exception):
    """The store does not answer, or not in time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One neighbour. `number` grows within a partition, whatever becomes of the others."""

    number: int
    digest: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class News:
    """What was added to a partition, the oldest first. `epoch` must come with whatever is then added.

    A purge begins another epoch: of one before nothing is true any more.
    """

    epoch: int
    rows: Sequence[Row] = ()


class NeighbourStore(Protocol):
    """Every method raises NeighboursUnavailable, and `since` does so within the store's wait. Partitions and digests
    are hexadecimal digits.
    """

    async def since(self, partition: str, number: int, epoch: int = 0) -> News:
        """What was added after the row with this number and has not ended, or at all, where the epoch is another.

        Who is told of PAGE rows, or more, must ask for the next ones.
        """

    async def add(self, partition: str, digest: str, sealed: bytes, life: int, epoch: int) -> bool:
        """Keep a neighbour for `life` milliseconds, in place of one with the same digest; says whether it is kept.

        It is not where a purge came between, or there is no room for it. Beyond the store's size those go first that
        end soonest.
        """

    async def purge(self) -> None:
        """Forget all."""

    async def close(self) -> None:
        """Let go of connections."""

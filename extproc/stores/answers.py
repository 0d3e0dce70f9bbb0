"""The port of the answers that are kept for calls that ask the same again.

What is kept is sealed (see cache.entry): a store knows only its digest, its labels and its size. All of it is
disposable: an answer that is lost is asked for again.

Of calls that ask the same at the same time one is to make the answer: it claims the digest. A claim lives for as long
as it is renewed, and ends when the answer is kept, the claim is released, or somebody purges.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from extproc.values import frozen

LARGEST = 65 * 2**20
"""The most bytes of a sealed answer. A larger one is neither kept nor given out."""

BESIDE = 600
"""Bytes that a store counts for each answer beside its own, for all that it has to know of it."""


class AnswersUnavailable(Exception):
    """The store does not answer, or not in time: take it for a miss."""


@frozen
class Labels:
    """Of whom an answer is, for people: to count and to purge by. `team` is empty where there is none."""

    team: str
    model: str
    key: str  # id of the key that paid for it


@frozen
class Kept:
    """What is known of an answer that is kept. Times are milliseconds of Unix time by the store's clock."""

    digest: str
    labels: Labels
    made: int
    ends: int
    size: int  # bytes, as it is kept


@frozen
class Found:
    """What a look found: the sealed answer; else whether it is now the caller's to make (`leads`), or somebody makes
    it already (`made_by_another`). Where neither holds, nobody claimed it.

    `epoch` must come with the answer when it is kept: a purge begins another one.
    """

    sealed: bytes | None = None
    leads: bool = False
    made_by_another: bool = False
    epoch: int = 0


class AnswerStore(Protocol):
    """Every method raises AnswersUnavailable: `look`, `renew` and `release` within the store's wait, the others as soon
    as nothing comes or goes for a second. `life` is in milliseconds. A digest is never empty.
    """

    async def look(self, digest: str, claim: str = "", life: int = 0) -> Found:
        """The answer; where there is none and `claim` is not empty, claim it for `life` unless another has.

        A look that raises, or is given up, claims nothing: what it may have claimed is released.
        """

    async def keep(self, digest: str, sealed: bytes, labels: Labels, life: int, epoch: int, claim: str = "") -> bool:
        """Keep an answer for `life`, in place of one that is there; says whether it is kept.

        It is not where a purge came between, or the store has forgotten when the last one was, or where there is no
        room. Beyond the store's size others go first: those that have ended, then, in memory, those that nobody looked
        at for longest, and in Redis those that end soonest. The claim ends in any case.
        """

    async def renew(self, digest: str, claim: str, life: int) -> bool:
        """Let the claim live for `life` from now; False where it is not in force any more."""

    async def release(self, digest: str, claim: str) -> None:
        """End the claim, if it is still in force."""

    def give_back(self, digest: str, claim: str) -> None:
        """As `release`, for who waits for nothing. Never raises: if need be it is said again when the store is back."""

    def all(self) -> AsyncIterator[Sequence[Kept]]:
        """Everything that is kept and has not ended, each once, some at a time, in no order. What is kept or forgotten
        meanwhile may be missed.
        """

    async def purge(self, which: Callable[[Kept], bool]) -> int:
        """Forget those, and whatever has ended; says how many of those there were.

        First it ends all claims, and lets nothing be kept that was asked for before.
        """

    async def close(self) -> None:
        """Let go of connections."""

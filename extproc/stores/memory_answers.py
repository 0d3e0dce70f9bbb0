"""Answers in memory: the specification of the port, and what each worker of a gateway without Redis has for itself."""

import heapq
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

from extproc.stores.answers import BESIDE, LARGEST, Found, Kept, Labels

_SPARE = 1_000
"""Claims and ends beyond those that are needed, before it is worth looking for them."""


class _Answer(NamedTuple):
    sealed: bytes
    kept: Kept


class _Claim(NamedTuple):
    by: str
    ends: int


class MemoryAnswers:
    """See AnswerStore. No step awaits anything, which makes each of them atomic on its event loop.

    `clock` tells Unix time in milliseconds. `most_bytes` bounds all answers, with what is counted beside each.
    """

    def __init__(self, clock: Callable[[], int], most_bytes: int) -> None:
        self._clock = clock
        self._most = most_bytes
        self._epoch = clock()
        self._bytes = 0
        self._answers: OrderedDict[str, _Answer] = OrderedDict()  # by digest, those that nobody looks at first
        self._ends: list[tuple[int, str]] = []  # a heap, also of answers that are not kept any more
        self._claims: dict[str, _Claim] = {}  # by digest, also of claims that have run out
        self._most_claims = _SPARE

    async def look(self, digest: str, claim: str = "", life: int = 0) -> Found:
        now, answer = self._clock(), self._answers.get(digest)
        if answer is not None and answer.kept.ends > now:
            self._answers.move_to_end(digest)
            return Found(answer.sealed, epoch=self._epoch)
        another = self._claims.get(digest)
        if another is not None and another.ends > now and another.by != claim:
            return Found(made_by_another=True, epoch=self._epoch)
        if claim:
            self._claims[digest] = _Claim(claim, now + life)
            self._forget_claims(now)
        return Found(leads=bool(claim), epoch=self._epoch)

    async def keep(self, digest: str, sealed: bytes, labels: Labels, life: int, epoch: int, claim: str = "") -> bool:
        await self.release(digest, claim)
        now, size = self._clock(), len(sealed)
        if epoch != self._epoch or size > LARGEST or size + BESIDE > self._most:
            return False
        self._drop(digest)
        self._forget_ended(now)
        while self._bytes + size + BESIDE > self._most:
            self._drop(next(iter(self._answers)))
        self._answers[digest] = _Answer(sealed, Kept(digest, labels, now, now + life, size))
        self._bytes += size + BESIDE
        heapq.heappush(self._ends, (now + life, digest))
        if len(self._ends) > 2 * len(self._answers) + _SPARE:
            self._ends = [(answer.kept.ends, digest) for digest, answer in self._answers.items()]
            heapq.heapify(self._ends)
        return True

    async def renew(self, digest: str, claim: str, life: int) -> bool:
        now, held = self._clock(), self._claims.get(digest)
        if held is None or held.by != claim or held.ends <= now:
            return False
        self._claims[digest] = _Claim(claim, now + life)
        return True

    async def release(self, digest: str, claim: str) -> None:
        self.give_back(digest, claim)

    def give_back(self, digest: str, claim: str) -> None:
        held = self._claims.get(digest)
        if held is not None and held.by == claim:
            del self._claims[digest]

    async def all(self) -> AsyncIterator[Sequence[Kept]]:
        now = self._clock()
        yield [answer.kept for answer in self._answers.values() if answer.kept.ends > now]

    async def purge(self, which: Callable[[Kept], bool]) -> int:
        now = self._clock()
        self._epoch = max(now, self._epoch + 1)
        self._claims.clear()
        self._forget_ended(now)
        chosen = [digest for digest, answer in self._answers.items() if which(answer.kept)]
        for digest in chosen:
            self._drop(digest)
        return len(chosen)

    async def close(self) -> None:
        """There are no connections."""

    def _drop(self, digest: str) -> None:
        answer = self._answers.pop(digest, None)
        if answer is not None:
            self._bytes -= answer.kept.size + BESIDE

    def _forget_ended(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            ends, digest = heapq.heappop(self._ends)
            answer = self._answers.get(digest)
            if answer is not None and answer.kept.ends == ends:
                self._drop(digest)

    def _forget_claims(self, now: int) -> None:
        """Those that ran out, every time that there are twice as many as at the last time."""
        if len(self._claims) > self._most_claims:
            self._claims = {digest: claim for digest, claim in self._claims.items() if claim.ends > now}
            self._most_claims = 2 * len(self._claims) + _SPARE

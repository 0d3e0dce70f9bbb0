"""Stores of answers under test: in memory, and in a Redis of our own."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from extproc.stores.answers import AnswerStore, AnswersUnavailable, Kept, Labels
from extproc.stores.memory_answers import MemoryAnswers
from extproc.stores.redis.answers import RedisAnswers
from tests.support.counters import PATIENCE, Clock
from tests.support.redis_server import RedisServer

LABELS = Labels("data", "gpt-4o", "key_1")
LIFE = 60_000
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Ground:
    """A store, empty at first, and the clock that it goes by."""

    store: AnswerStore
    clock: Clock
    evicts_soonest: bool = False  # else those that nobody looked at for longest

    async def keep(self, digest: str, sealed: bytes = b"sealed", life: int = LIFE, labels: Labels = LABELS) -> bool:
        """Keep an answer that was asked for just now, by a caller without a claim."""
        epoch = (await self.store.look(digest)).epoch
        return await self.store.keep(digest, sealed, labels, life, epoch)

    async def kept(self) -> dict[str, Kept]:
        """All that is kept; each is told once."""
        found = [one async for some in self.store.all() for one in some]
        by_digest = {one.digest: one for one in found}
        assert len(by_digest) == len(found)
        return by_digest


_prefixes = (f"test{number}" for number in itertools.count())


@asynccontextmanager
async def ground_on(server: RedisServer | None, most_bytes: int = MIB) -> AsyncIterator[Ground]:
    """Answers in this Redis, or in memory where there is none."""
    clock = Clock()
    if server is None:
        yield Ground(MemoryAnswers(clock, most_bytes), clock)
        return
    store = RedisAnswers(server.url, PATIENCE, next(_prefixes), most_bytes, clock)
    try:
        await _connected(store)
        yield Ground(store, clock, evicts_soonest=True)
    finally:
        await store.close()


async def _connected(store: AnswerStore) -> None:
    """What a busy machine needs for it is not under test."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await store.look("nobody")
            except AnswersUnavailable:
                await asyncio.sleep(0.01)
            else:
                return

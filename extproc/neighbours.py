"""Questions that ask the same in other words, as one worker finds them: embedded, compared within their partition, and
let through by a second gate.

Of partitions that are asked for a worker has a copy, to which it adds what is new in the store at every search.
Whatever goes wrong is as if nothing had been found.
"""

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from extproc import beside
from extproc.cache import neighbour, vectors
from extproc.cache.lookup import COMPARED, Comparison, Match, Near
from extproc.cache.neighbour import Neighbour
from extproc.cache.vectors import Columns, Vector
from extproc.semantic.embedding import Embedder, EmbeddingFailed
from extproc.stores.neighbours import MOST, PAGE, NeighbourStore, NeighboursUnavailable, News, Row
from extproc.telemetry import metrics

log = logging.getLogger(__name__)

MATCHES = 3
"""The most that are given of one search."""
_TRIED = 6
"""Near ones that the second gate looks at, at most."""
_PURGED_S = 30.0
_MOST_BYTES = 32 * 2**20
_MOST_COPIES = 1024
_COLUMNS = 5
"""Bytes for each number of a vector: its own, and that in a column."""
_BESIDE = 1_000
"""Bytes of Python for each neighbour, about."""
_WEIGHT = 64
"""As a character of a question weighs on the second gate, against a number of a vector on the search."""
_STAND_INS = re.compile(r"<[A-Z][A-Z0-9_]{0,40}_[0-9]{1,7}[a-z]{0,2}>|\[[A-Z][A-Z0-9_]{0,40}(?:#[0-9a-f]{16})?\]|…")
"""What redaction puts in place of values."""
_PLACEHOLDER = re.compile(r"<([A-Z][A-Z0-9_]{0,40}_[0-9]{1,7}[a-z]{0,2})>")

Agree = Callable[[str, str], bool]
"""Whether an answer to the second text, which is near, answers the first one, too."""


class Journal(Protocol):
    def write(self, record: Mapping[str, object]) -> None: ...


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class _View:
    """Neighbours ready to be compared with, by the size of their vectors. None changes."""

    def __init__(self, known: Sequence[Neighbour]) -> None:
        by_size: dict[int, list[Neighbour]] = {}
        for one in known:
            by_size.setdefault(len(one.vector.data), []).append(one)
        self._known = by_size
        self._columns = {size: Columns([one.vector for one in alike]) for size, alike in by_size.items()}

    def matches(self, text: str, vector: Vector, threshold: float, agree: Agree, now: int) -> list[Match]:
        """Those that ask the same, the nearest first."""
        size = len(vector.data)
        if size not in self._known:
            return []
        found: list[Match] = []
        stand_ins, tried = _STAND_INS.findall(text), 0
        for similarity, at in self._columns[size].nearest(vector):
            one = self._known[size][at]
            if similarity < threshold or tried == _TRIED or len(found) == MATCHES:
                break
            if one.ends <= now or one.text == text or _STAND_INS.findall(one.text) != stand_ins:
                continue
            tried += 1
            if agree(_bare(text), _bare(one.text)):
                found.append(Match(one.digest, min(similarity, 1.0)))
        return found


@dataclass(eq=False, slots=True)
class _Copy:
    """What a worker knows of a partition, the oldest first, with the number of each."""

    epoch: int = 0
    number: int = 0
    known: dict[str, tuple[int, Neighbour]] = field(default_factory=dict)
    view: _View | None = None
    size: int = 0  # bytes, about
    ends: int = 0

    def take(self, rows: Sequence[tuple[Row, Neighbour | None]], now: int) -> None:
        """Add what is new, and let go of what has ended, and of the oldest of too many."""
        for row, one in rows:
            self.number = max(self.number, row.number)
            before = self.known.get(row.digest)
            if one is None:
                metrics.count(metrics.CACHE_ERRORS, "unseal")
            elif before is None or before[0] < row.number:
                self.known.pop(row.digest, None)
                self.known[row.digest] = (row.number, one)
        alive = [(digest, pair) for digest, pair in self.known.items() if pair[1].ends > now]
        self.known = dict(alive[-MOST:])
        numbers = sum([len(one.vector.data) for _, one in self.known.values()])
        self.size = _COLUMNS * numbers + sum([len(one.text) + _BESIDE for _, one in self.known.values()])
        self.ends = max([one.ends for _, one in self.known.values()], default=0)
        self.view = None


class Neighbours:
    """All that is known of questions, as one worker sees it."""

    def __init__(
        self,
        store: NeighbourStore,
        embedder: Embedder,
        agree: Agree,
        journal: Journal,
        key: bytes,
        clock: Callable[[], int] = _wall_ms,
    ) -> None:
        """`key` seals. `clock` tells Unix time in milliseconds."""
        self._store = store
        self._embedder = embedder
        self._agree = agree
        self._journal = journal
        self._key = key
        self._now = clock
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    async def search(self, near: Near, threshold: float, seconds: float) -> Sequence[Match]:
        """Questions with the same answer, the nearest first; a few at most. What was learned is noted in `near`."""
        try:
            return await self._matches(near, threshold, seconds)
        except Exception as error:  # whatever it is: a call goes on without; its text may hold that of the call
            log.error("other words could not be looked for: %s", type(error).__name__)
            metrics.count(metrics.CACHE_ERRORS, "search")
            return ()

    async def _matches(self, near: Near, threshold: float, seconds: float) -> Sequence[Match]:
        near.vector, copy = await asyncio.gather(
            self._embedded(near.text, seconds, "question"), self._fresh(near.partition)
        )
        if near.vector is None or copy is None:
            return ()
        near.epoch = copy.epoch
        if not copy.known:
            return ()
        view = await _viewed(copy)
        size = len(copy.known) * len(near.vector.data) + _WEIGHT * len(near.text)
        return await beside.loop(size, view.matches, near.text, near.vector, threshold, self._agree, self._now())

    async def remember(self, near: Near, digest: str, life: int) -> None:
        """Let others find the question of a call whose answer is kept for `life` milliseconds. Never raises."""
        if near.vector is None:
            return
        made = Neighbour(near.text, near.vector, digest, self._now() + life)
        try:
            sealed = neighbour.seal(made, near.partition, self._key)
            await self._store.add(near.partition, digest, sealed, life, near.epoch)
        except NeighboursUnavailable:
            metrics.count(metrics.CACHE_ERRORS, "remember")

    async def compare(self, made: Comparison, seconds: float) -> None:
        """Tell whether the answer that would have served says what the real one does. Never raises."""
        agrees = _plain(made.would) == _plain(made.real)
        if not agrees:
            both = [await self._embedded(text[:COMPARED], seconds, "answer") for text in (made.would, made.real)]
            if both[0] is None or both[1] is None:
                return
            agrees = vectors.cosine(both[0], both[1]) >= made.threshold
        metrics.count(metrics.CACHE_SHADOW, made.model, str(agrees).lower())
        self._journal.write(
            {
                "time": round(self._now() / 1000, 3),
                "kind": "cache_shadow",
                "request_id": made.request_id,
                "model": made.model,
                "similarity": made.similarity,
                "agrees": agrees,
            }
        )

    async def run(self) -> None:
        """See to it that what was purged is not kept here for longer, where nobody asks; for ever."""
        while True:
            await asyncio.sleep(_PURGED_S)
            if self._copies:
                await self._fresh(next(reversed(self._copies)))

    async def close(self) -> None:
        """Let go of the store and of what embeds."""
        await self._embedder.close()
        await self._store.close()

    async def _embedded(self, text: str, seconds: float, purpose: str) -> Vector | None:
        vector = None
        try:
            vector = vectors.packed(vectors.floats(await self._embedder.embed(text, seconds)))
        except EmbeddingFailed:
            pass
        except Exception as error:  # whatever it is: a call goes on without; its text may hold that of the call
            log.error("a text could not be embedded: %s", type(error).__name__)
        metrics.count(metrics.CACHE_EMBEDDINGS, purpose, "failed" if vector is None else "ok")
        if vector is None:
            metrics.count(metrics.CACHE_ERRORS, "embed")
        return vector

    # ---- copies of partitions ----

    async def _fresh(self, partition: str) -> _Copy | None:
        """What is known of a partition, with what is new in the store; None where that does not answer."""
        copy = self._copies.get(partition) or _Copy()
        try:
            while True:
                news = await self._store.since(partition, copy.number, copy.epoch)
                copy = await self._taken(copy, partition, news)
                if len(news.rows) < PAGE:
                    return copy
        except NeighboursUnavailable:
            metrics.count(metrics.CACHE_ERRORS, "neighbours")
            return None

    async def _taken(self, copy: _Copy, partition: str, news: News) -> _Copy:
        if news.epoch != copy.epoch:
            if copy.epoch:  # somebody has purged: nothing of before may stay
                self._copies.clear()
            copy = _Copy(news.epoch)
        if news.rows:
            size = sum([len(row.sealed) for row in news.rows])
            copy.take(await beside.loop(size, _opened, news.rows, partition, self._key), self._now())
        self._keep(partition, copy)
        return copy

    def _keep(self, partition: str, copy: _Copy) -> None:
        """Keep a copy that holds anything. Those go that nobody has asked for since they ended, or for longest."""
        self._copies.pop(partition, None)
        if copy.known:
            self._copies[partition] = copy
        size, now = sum([one.size for one in self._copies.values()]), self._now()
        while self._copies:
            oldest = next(iter(self._copies.values()))
            if size <= _MOST_BYTES and len(self._copies) <= _MOST_COPIES and oldest.ends > now:
                return
            size -= self._copies.popitem(last=False)[1].size


async def _viewed(copy: _Copy) -> _View:
    if copy.view is not None:
        return copy.view
    number = copy.number
    view = await beside.loop(copy.size, _View, [one for _, one in copy.known.values()])
    if copy.number == number:
        copy.view = view
    return view


def _opened(rows: Sequence[Row], partition: str, key: bytes) -> list[tuple[Row, Neighbour | None]]:
    """The neighbours; None for what does not open, or leads to another answer than the store says."""
    found = [(row, neighbour.unseal(row.sealed, partition, key)) for row in rows]
    return [(row, one if one is not None and one.digest == row.digest else None) for row, one in found]


def _bare(text: str) -> str:
    """A text with its placeholders as words: else they would be code, which may stand nowhere else."""
    return _PLACEHOLDER.sub(r"\1", text)


def _plain(text: str) -> str:
    """A text without what makes no difference: white space and case."""
    return " ".join(text.casefold().split())

"""Questions in other words as one worker finds them: its copies of partitions, what is near, and what goes wrong."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import mul
from typing import Any

import pytest

from extproc import beside, neighbours
from extproc.cache import vectors
from extproc.cache.agreement import agree
from extproc.cache.lookup import Match, Near
from extproc.cache.neighbour import Neighbour
from extproc.neighbours import MATCHES, Neighbours, _Copy
from extproc.stores.memory_neighbours import MemoryNeighbours
from extproc.stores.neighbours import MOST, PAGE, NeighboursUnavailable, News, Row
from extproc.telemetry import metrics
from loadtest import semantic_set
from tests.support.embedding import Embedding
from tests.support.recorded_vectors import RecordedEmbedder

KEY = b"k" * 32
LIFE = 60_000
PARTITION = "a" * 64
TEXT = "where is the town hall"


@dataclass
class Clock:
    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


class Store(MemoryNeighbours):
    """Counts what it is asked; `down`: it does not answer."""

    def __init__(self, clock: Callable[[], int]) -> None:
        super().__init__(clock, 2**24)
        self.asked: list[int] = []
        self.down = False
        self.closed = False

    async def since(self, partition: str, number: int, epoch: int = 0) -> News:
        self._reach()
        self.asked.append(number)
        return await super().since(partition, number, epoch)

    async def add(self, partition: str, digest: str, sealed: bytes, life: int, epoch: int) -> bool:
        self._reach()
        return await super().add(partition, digest, sealed, life, epoch)

    async def close(self) -> None:
        self.closed = True

    def _reach(self) -> None:
        if self.down:
            raise NeighboursUnavailable("as the test wants it")


@dataclass
class Worker:
    """One worker on a store that it may share."""

    clock: Clock = field(default_factory=Clock)
    store: Store | None = None
    agree: Callable[[str, str], bool] = lambda _asked, _kept: True
    key: bytes = KEY

    def __post_init__(self) -> None:
        self.kept = self.store or Store(self.clock)
        self.embedding = Embedding()
        self.records: list[Any] = []
        self.of = Neighbours(self.kept, self.embedding, self.agree, self, self.key, self.clock)

    def write(self, record: Any) -> None:
        self.records.append(record)

    async def search(self, text: str, threshold: float = 0.8, partition: str = PARTITION) -> list[Match]:
        return list(await self.of.search(Near(partition, text), threshold, 1.0))

    async def learn(self, text: str, digest: str, partition: str = PARTITION, life: int = LIFE) -> Near:
        near = Near(partition, text)
        await self.of.search(near, 0.8, 1.0)
        await self.of.remember(near, digest, life)
        return near

    async def found(self, text: str, partition: str = PARTITION) -> list[str]:
        return [match.digest for match in await self.search(text, partition=partition)]


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that were counted as errors."""
    counted: list[str] = []

    def count(counter: object, *labels: str) -> None:
        if counter is metrics.CACHE_ERRORS:
            counted.extend(labels)

    monkeypatch.setattr(metrics, "count", count)
    return counted


class TestSearch:
    async def test_what_is_near_is_found_the_nearest_first(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now please", "d2")
        await worker.learn(f"{TEXT} now", "d1")
        await worker.learn("something else", "d3")
        first, second = await worker.search(TEXT)
        assert (first.digest, second.digest) == ("d1", "d2")
        assert 0.8 < second.similarity < first.similarity < 1

    async def test_no_more_than_a_few(self) -> None:
        worker = Worker()
        for at in range(MATCHES + 3):
            await worker.learn(f"{TEXT} {at}", f"d{at}")
        assert len(await worker.search(TEXT)) == MATCHES

    async def test_not_below_the_threshold(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        (match,) = await worker.search(TEXT)
        assert await worker.search(TEXT, match.similarity + 0.001) == []

    async def test_the_second_gate_decides_and_gets_placeholders_as_words(self) -> None:
        told = []

        def agree(asked: str, kept: str) -> bool:
            told.append((asked, kept))
            return False

        worker = Worker(agree=agree)
        await worker.learn("write to <EMAIL_ADDRESS_1> and <PERSON_2a> now", "d1")
        assert await worker.found("write to <EMAIL_ADDRESS_1> and <PERSON_2a> today") == []
        assert told == [("write to EMAIL_ADDRESS_1 and PERSON_2a today", "write to EMAIL_ADDRESS_1 and PERSON_2a now")]

    async def test_it_looks_at_a_few_alone(self) -> None:
        told = []

        def agree(asked: str, kept: str) -> bool:
            told.append(kept)
            return False

        worker = Worker(agree=agree)
        for at in range(20):
            await worker.learn(f"{TEXT} {at}", f"d{at}")
        told.clear()
        assert await worker.found(TEXT) == []
        assert len(told) == 6

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("<EMAIL_ADDRESS_1> and <EMAIL_ADDRESS_2>", "<EMAIL_ADDRESS_2> and <EMAIL_ADDRESS_1>"),
            ("<EMAIL_ADDRESS_1> and <EMAIL_ADDRESS_2>", "<EMAIL_ADDRESS_1> and <EMAIL_ADDRESS_1>"),
            ("<EMAIL_ADDRESS_1>", "<PERSON_1>"),
            ("<PERSON_1>", "<PERSON_1a>"),
            ("<PERSON_1>", "PERSON_1"),
            ("[EMAIL_ADDRESS#00000000000000ab]", "[EMAIL_ADDRESS#00000000000000ac]"),
            ("[EMAIL_ADDRESS]", "[PERSON]"),
            ("x …", "x"),
        ],
    )
    async def test_what_stands_for_values_must_be_the_same_in_the_same_order(self, one: str, other: str) -> None:
        worker = Worker()
        await worker.learn(f"write all of these words to {one}", "d1")
        assert await worker.found(f"write all of these words to {other}") == []
        assert await worker.found(f"write all of those words to {one}") == ["d1"]

    async def test_the_same_words_are_none_of_its_business(self) -> None:
        worker = Worker()
        await worker.learn(TEXT, "d1")
        assert await worker.found(TEXT) == []

    async def test_another_partition(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1", partition="b" * 64)
        assert await worker.found(TEXT) == []

    async def test_what_has_ended(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        await worker.learn(f"{TEXT} today", "d2", life=2 * LIFE)
        assert sorted(await worker.found(TEXT)) == ["d1", "d2"]
        worker.clock.now += LIFE
        assert await worker.found(TEXT) == ["d2"]

    async def test_vectors_of_another_size(self, errors: list[str]) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        worker.embedding.vector = bytes([0, 0, 128, 63]) * 16
        assert await worker.found(TEXT) == []
        await worker.learn(f"{TEXT} today", "d2")
        assert await worker.found(TEXT) == ["d2"]
        worker.embedding.vector = None
        assert await worker.found(TEXT) == ["d1"]
        worker.embedding.vector = bytes([0, 0, 128, 63]) * 24
        assert await worker.found(TEXT) == []
        assert errors == []


class TestCopies:
    async def test_workers_learn_from_each_other_and_ask_for_what_is_new_alone(self) -> None:
        one = Worker()
        other = Worker(one.clock, one.kept)
        await one.learn(f"{TEXT} now", "d1")
        assert await other.found(TEXT) == ["d1"]
        await one.learn(f"{TEXT} today", "d2")
        one.kept.asked.clear()
        assert sorted(await other.found(TEXT)) == ["d1", "d2"]
        await other.found(TEXT)
        assert one.kept.asked == [1, 2]

    async def test_a_large_partition_comes_in_pages(self) -> None:
        one = Worker()
        near = await one.learn(f"{TEXT} now", "d0")
        assert near.vector is not None
        for at in range(1, 2 * PAGE + 5):
            await one.of.remember(Near(PARTITION, f"word{at}", vector=near.vector, epoch=near.epoch), f"d{at}", LIFE)
        other = Worker(one.clock, one.kept)
        one.kept.asked.clear()
        await other.found(TEXT)
        assert one.kept.asked == [0, PAGE, 2 * PAGE]
        assert len(other.of._copies[PARTITION].known) == 2 * PAGE + 5

    async def test_no_more_than_a_partition_may_have(self) -> None:
        worker = Worker()
        near = await worker.learn(TEXT, "d0")
        assert near.vector is not None
        for at in range(MOST + 10):
            await worker.of.remember(Near(PARTITION, f"{at}", vector=near.vector, epoch=near.epoch), f"e{at}", LIFE)
            if at == MOST // 2:
                await worker.found(TEXT)
        await worker.found(TEXT)
        assert list(worker.of._copies[PARTITION].known) == [f"e{at}" for at in range(10, MOST + 10)]

    async def test_a_purge_forgets_the_copies_of_all_partitions(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        await worker.learn(f"{TEXT} now", "d2", partition="b" * 64)
        assert await worker.found(TEXT) == ["d1"]
        assert await worker.found(TEXT, "b" * 64) == ["d2"]
        await worker.kept.purge()
        assert await worker.found(TEXT) == []
        assert worker.of._copies == {}
        await worker.learn(f"{TEXT} now", "d3")
        assert await worker.found(TEXT) == ["d3"]

    async def test_it_does_so_where_nobody_asks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "_PURGED_S", 0.001)
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        await worker.found(TEXT)
        running = asyncio.ensure_future(worker.of.run())
        worker.kept.down = True
        await asyncio.sleep(0.01)
        assert worker.of._copies
        worker.kept.down = False
        await worker.kept.purge()
        async with asyncio.timeout(10):
            while worker.of._copies:
                await asyncio.sleep(0.001)
        running.cancel()

    async def test_what_was_looked_for_before_a_purge_is_not_remembered(self) -> None:
        worker = Worker()
        near = Near(PARTITION, f"{TEXT} now")
        await worker.of.search(near, 0.8, 1.0)
        await worker.kept.purge()
        await worker.of.remember(near, "d1", LIFE)
        assert await worker.found(TEXT) == []

    async def test_those_that_nobody_asks_for_go_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(neighbours, "_MOST_COPIES", 2)
        worker = Worker()
        for name in "abc":
            await worker.learn(f"{TEXT} now", f"d{name}", partition=name)
            assert await worker.found(TEXT, name) == [f"d{name}"]
            await worker.found(TEXT, "a")
        assert list(worker.of._copies) == ["c", "a"]
        assert await worker.found(TEXT, "b") == ["db"]
        copy = worker.of._copies["b"]
        monkeypatch.setattr(neighbours, "_MOST_BYTES", copy.size)
        await worker.found(TEXT, "b")
        assert list(worker.of._copies) == ["b"]

    async def test_one_that_has_ended_goes(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        await worker.found(TEXT)
        assert list(worker.of._copies) == [PARTITION]
        worker.clock.now += LIFE
        await worker.found(TEXT, "b" * 64)
        assert worker.of._copies == {}

    async def test_news_that_come_late_change_nothing(self) -> None:
        vector = vectors.packed([1.0] * 8)
        assert vector is not None
        copy, rows = _Copy(), [(Row(at, "d", b""), Neighbour(f"{at}", vector, "d", 2)) for at in (1, 2)]
        for _ in range(2):
            copy.take(rows[:1], 1)
            copy.take(rows[1:], 1)
        copy.take(rows[:1], 1)
        assert (copy.number, copy.known["d"]) == (2, (2, rows[1][1]))

    async def test_a_view_that_has_become_old_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        plain = beside.loop

        async def slow(size: int, work: Any, *args: Any) -> Any:
            done = await plain(size, work, *args)
            if work is neighbours._View:
                monkeypatch.setattr(beside, "loop", plain)
                await worker.learn(f"{TEXT} today", "d2")
                await worker.found("something else")
            return done

        monkeypatch.setattr(beside, "loop", slow)
        assert await worker.found(TEXT) == ["d1"]
        assert sorted(await worker.found(TEXT)) == ["d1", "d2"]

    async def test_many_at_once(self) -> None:
        worker = Worker()
        await worker.learn(f"{TEXT} now", "d1")
        found = await asyncio.gather(*[worker.found(f"{TEXT} {at}") for at in range(20)])
        assert all(one == ["d1"] for one in found)


class TestRecorded:
    """With vectors of a real model, and the second gate."""

    async def test_what_asks_the_same_is_found_and_what_only_seems_to_is_not(self) -> None:
        known = semantic_set.recorded().keys()
        pairs = [pair for pair in semantic_set.read() if {pair.one, pair.other} <= known]
        worker = Worker(agree=agree)
        worker.of._embedder = RecordedEmbedder()
        found: Counter[bool] = Counter()
        for number, pair in enumerate(pairs):
            name = f"{number:x}"
            await worker.learn(pair.one, "d", name)
            matches = await worker.search(pair.other, 0.9, name)
            assert pair.same or not matches, pair
            found[pair.same] += len(matches)
        assert found[True] > 0.4 * sum(pair.same for pair in pairs) > 100

    def test_a_byte_for_a_number_is_enough(self) -> None:
        kept = [(list(numbers), vectors.packed(numbers)) for numbers in list(semantic_set.recorded().values())[:60]]
        for (one, packed), (other, also) in itertools.pairwise(kept):
            assert packed is not None
            assert also is not None
            exact = sum(map(mul, one, other))
            assert vectors.cosine(packed, also) == pytest.approx(exact, abs=0.003)


class TestTrouble:
    async def test_without_a_vector_nothing_is_found_nor_remembered(self, errors: list[str]) -> None:
        worker = Worker()
        worker.embedding.fails = True
        await worker.learn(f"{TEXT} now", "d1")
        assert errors == ["embed"]
        worker.embedding.fails = False
        assert await worker.found(TEXT) == []

    @pytest.mark.parametrize("vector", [b"", b"123", bytes(64), b"\xff\xff\xff\x7f" * 16])
    async def test_a_vector_that_is_none(self, errors: list[str], vector: bytes) -> None:
        worker = Worker()
        worker.embedding.vector = vector
        assert await worker.found(TEXT) == []
        assert errors == ["embed"]

    async def test_an_embedder_that_breaks_is_logged_without_its_words(
        self, errors: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Worker()

        async def breaks(text: str, seconds: float) -> bytes:
            raise RuntimeError(text)

        monkeypatch.setattr(worker.embedding, "embed", breaks)
        assert await worker.found(TEXT) == []
        assert errors == ["embed"]
        assert "RuntimeError" in caplog.text
        assert TEXT not in caplog.text

    async def test_a_second_gate_that_breaks_is_a_miss(
        self, errors: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        def breaks(asked: str, kept: str) -> bool:
            raise RecursionError(asked + kept)

        worker = Worker(agree=breaks)
        await worker.learn(f"{TEXT} now", "d1")
        assert await worker.found(TEXT) == []
        assert errors == ["search"]
        assert "RecursionError" in caplog.text
        assert TEXT not in caplog.text

    async def test_a_store_that_does_not_answer(self, errors: list[str]) -> None:
        worker = Worker()
        near = await worker.learn(f"{TEXT} now", "d1")
        worker.kept.down = True
        assert await worker.found(TEXT) == []
        await worker.of.remember(near, "d2", LIFE)
        assert errors == ["neighbours", "remember"]
        worker.kept.down = False
        assert await worker.found(TEXT) == ["d1"]

    async def test_what_does_not_open_is_as_if_it_were_not_there(self, errors: list[str]) -> None:
        one = Worker()
        near = await one.learn(f"{TEXT} now", "d1")
        row = (await one.kept.since(PARTITION, 0)).rows[0]
        for digest, sealed in (("d2", row.sealed), ("d3", b"rubbish"), ("d4", b"")):
            assert await one.kept.add(PARTITION, digest, sealed, LIFE, near.epoch)
        assert await one.found(TEXT) == ["d1"]
        assert errors == ["unseal"] * 3
        assert await Worker(one.clock, one.kept, key=b"x" * 32).found(TEXT) == []

    async def test_it_closes_what_it_uses(self) -> None:
        worker = Worker()
        await worker.of.close()
        assert worker.embedding.closed
        assert worker.kept.closed

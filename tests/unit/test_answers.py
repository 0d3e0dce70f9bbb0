"""Many who ask the same: one asks a backend, and the others get its answer, or learn that there will be none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

import extproc.answers as module
from extproc.answers import Answers, Seat
from extproc.cache.entry import Entry
from extproc.cache.lookup import Offer
from extproc.stores.answers import AnswersUnavailable, Found, Labels
from extproc.stores.memory_answers import MemoryAnswers

KEY = b"k" * 32
DIGEST = "d" * 64
LABELS = Labels("red", "gpt-4o", "key_1")
ENTRY = Entry(b'{"said":"blue"}', "application/json", 1_000, "gpt-4o", "one", 7, 30, 127)


@dataclass
class Clock:
    now: int = 1_000

    def __call__(self) -> int:
        return self.now


class Store(MemoryAnswers):
    """One that may be down."""

    down = False

    async def look(self, digest: str, claim: str = "", life: int = 0) -> Found:
        if self.down:
            raise AnswersUnavailable("down")
        return await super().look(digest, claim, life)

    async def keep(self, digest: str, sealed: bytes, labels: Labels, life: int, epoch: int, claim: str = "") -> bool:
        if self.down:
            raise AnswersUnavailable("down")
        return await super().keep(digest, sealed, labels, life, epoch, claim)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, 2**20)


def worker(store: Store, clock: Clock) -> Answers:
    return Answers(store, KEY, 2**20, clock)


def offer(entry: Entry | str = ENTRY) -> Offer:
    return Offer(lambda: entry, 100, LABELS, 60_000)


async def leads(answers: Answers) -> Seat:
    """The seat of the one that asks a backend."""
    seat = answers.seat(DIGEST)
    assert seat.is_first
    assert await seat.look() is None
    assert not seat.follows
    return seat


@asynccontextmanager
async def running(*workers: Answers) -> AsyncIterator[None]:
    background = [asyncio.ensure_future(answers.run()) for answers in workers]
    try:
        yield
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


class TestOneWorker:
    async def test_the_others_get_the_answer(self, store: Store, clock: Clock) -> None:
        answers = worker(store, clock)
        first = await leads(answers)
        others = [answers.seat(DIGEST) for _ in range(3)]
        assert not any(seat.is_first for seat in others)
        waiting = [asyncio.ensure_future(seat.wait(60)) for seat in others]
        first.offer(offer())
        assert await asyncio.gather(*waiting) == [ENTRY] * 3
        await answers.close(1)
        later = answers.seat(DIGEST)
        assert later.is_first
        assert await later.look() == ENTRY

    @pytest.mark.parametrize("how", ["leaves", "turns out to be none to keep", "fails"])
    async def test_they_learn_that_there_is_none(
        self, store: Store, clock: Clock, how: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        answers = worker(store, clock)
        first, other = await leads(answers), answers.seat(DIGEST)
        waiting = asyncio.ensure_future(other.wait(60))
        if how == "leaves":
            first.leave()
        elif how == "fails":
            first.offer(Offer(lambda: Entry(**{"secret": "text"}), 100, LABELS, 60_000))  # type: ignore[arg-type]
        else:
            first.offer(offer("cut"))
        assert await waiting is None
        await answers.close(1)
        assert "secret" not in caplog.text
        again = answers.seat(DIGEST)
        assert again.is_first
        assert (await again.look(), again.follows) == (None, False)  # nobody claims it any more

    async def test_one_that_waits_no_longer_disturbs_nobody(self, store: Store, clock: Clock) -> None:
        answers = worker(store, clock)
        first = await leads(answers)
        gone, stays = (asyncio.ensure_future(answers.seat(DIGEST).wait(60)) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        assert await answers.seat(DIGEST).wait(0.01) is None
        first.offer(offer())
        assert await stays == ENTRY

    async def test_a_call_that_leaves_before_its_look_is_over_keeps_no_claim(self, store: Store, clock: Clock) -> None:
        answers = worker(store, clock)
        seat = answers.seat(DIGEST)
        look = asyncio.ensure_future(seat.look())
        seat.leave()
        await look
        await answers.close(1)
        assert (await store.look(DIGEST)).made_by_another is False

    async def test_too_many_at_once_are_not_kept(
        self, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_MOST_KEEPING", 0)
        answers = worker(store, clock)
        first = await leads(answers)
        waiting = asyncio.ensure_future(answers.seat(DIGEST).wait(60))
        first.offer(offer())
        assert await waiting is None

    async def test_without_sharing_each_looks_for_itself(self, store: Store, clock: Clock) -> None:
        answers = worker(store, clock)
        one, two = answers.seat(DIGEST, shares=False), answers.seat(DIGEST, shares=False)
        assert (one.is_first, two.is_first) == (True, True)
        assert (await one.look(), await two.look()) == (None, None)
        assert await two.wait(60) is None
        one.offer(offer())
        await answers.close(1)
        assert await two.look() == ENTRY


class TestTwoWorkers:
    async def test_the_other_gets_the_answer(self, store: Store, clock: Clock) -> None:
        one, two = worker(store, clock), worker(store, clock)
        first = await leads(one)
        seat = two.seat(DIGEST)
        assert await seat.look() is None
        assert seat.follows
        beside = two.seat(DIGEST)
        waiting = [asyncio.ensure_future(seat.wait(60)), asyncio.ensure_future(beside.wait(60))]
        await asyncio.sleep(0.05)
        first.offer(offer())
        assert await asyncio.gather(*waiting) == [ENTRY, ENTRY]

    async def test_a_leader_that_leaves_lets_them_go(self, store: Store, clock: Clock) -> None:
        one, two = worker(store, clock), worker(store, clock)
        first, seat = await leads(one), two.seat(DIGEST)
        await seat.look()
        waiting = asyncio.ensure_future(seat.wait(60))
        first.leave()
        assert await waiting is None

    async def test_a_worker_that_was_killed_lets_them_go_when_its_claim_ends(self, store: Store, clock: Clock) -> None:
        one, two = worker(store, clock), worker(store, clock)
        await leads(one)
        seat = two.seat(DIGEST)
        await seat.look()
        waiting = asyncio.ensure_future(seat.wait(60))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        clock.now += module.CLAIM_MS
        assert await waiting is None

    async def test_a_claim_lives_for_as_long_as_its_call(
        self, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_RENEW_S", 0.01)
        one, two = worker(store, clock), worker(store, clock)
        async with running(one):
            first = await leads(one)
            for _ in range(5):
                clock.now += module.CLAIM_MS // 2
                await asyncio.sleep(0.05)
            seat = two.seat(DIGEST)
            await seat.look()
            assert seat.follows
            first.leave()

    async def test_many_claims_are_renewed_at_once(
        self, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_RENEW_S", 0.01)
        under_way, most = 0, 0
        renew = store.renew

        async def slow(digest: str, claim: str, life: int) -> bool:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1
            if digest.startswith("1"):
                raise AnswersUnavailable("slow")
            return await renew(digest, claim, life)

        monkeypatch.setattr(store, "renew", slow)
        one = worker(store, clock)
        seats = [one.seat(f"{number:064}"[::-1]) for number in range(300)]
        for seat in seats:
            await seat.look()
        async with running(one):
            for _ in range(4):
                clock.now += module.CLAIM_MS // 2
                await asyncio.sleep(0.1)
        assert 100 < most <= 200
        assert (await store.look(f"{299:064}"[::-1])).made_by_another
        for seat in seats:
            seat.leave()

    async def test_nobody_waits_for_a_store_that_is_down(self, store: Store, clock: Clock) -> None:
        one, two = worker(store, clock), worker(store, clock)
        await leads(one)
        seat = two.seat(DIGEST)
        await seat.look()
        store.down = True
        assert await seat.wait(60) is None

    async def test_what_another_key_has_sealed_is_nothing(self, store: Store, clock: Clock) -> None:
        one, two = worker(store, clock), Answers(store, b"o" * 32, 2**20, clock)
        (await leads(one)).offer(offer())
        await one.close(1)
        assert await two.seat(DIGEST).look() is None


async def test_operators_are_told_of_a_store_that_is_down(
    store: Store, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    answers = worker(store, clock)
    for store.down in (True, True, False, False):
        await answers.seat(DIGEST, shares=False).look()
    assert [record.getMessage() for record in caplog.records] == [
        "the store of the answers does not answer: down",
        "the store of the answers answers again",
    ]


class TestKeeping:
    async def test_nothing_is_kept_over_a_purge(self, store: Store, clock: Clock) -> None:
        answers = worker(store, clock)
        first = await leads(answers)
        clock.now += 1
        await store.purge(lambda _: True)
        first.offer(offer())
        await answers.close(1)
        assert (await store.look(DIGEST)).sealed is None

    async def test_a_store_that_is_down_keeps_nothing_and_those_who_wait_get_it(
        self, store: Store, clock: Clock
    ) -> None:
        answers = worker(store, clock)
        first, other = await leads(answers), answers.seat(DIGEST)
        store.down = True
        waiting = asyncio.ensure_future(other.wait(60))
        first.offer(offer())
        assert await waiting == ENTRY

    async def test_nothing_is_kept_that_was_not_looked_for(self, store: Store, clock: Clock) -> None:
        """Its epoch is not known: a purge may have come between."""
        answers = worker(store, clock)
        store.down = True
        seat = answers.seat(DIGEST)
        assert await seat.look() is None
        store.down = False
        seat.offer(offer())
        await answers.close(1)
        assert (await store.look(DIGEST)).sealed is None

"""Answers that are kept: what every store does, in memory and in Redis."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from extproc.stores import memory_answers
from extproc.stores.answers import BESIDE, Found, Kept, Labels
from extproc.stores.memory_answers import MemoryAnswers
from tests.support.answers import LABELS, LIFE, MIB, Ground, ground_on
from tests.support.redis_server import RedisServer, redis_server

BODIES = {
    "every byte": bytes(range(256)),
    "line ends": b"\r\n\r\n$5\r\n*2\r\n:1\r\n-ERR\r\n",
    "only a line end": b"\r\n",
    "nothing": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "large": os.urandom(MIB // 2),
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    server = request.getfixturevalue("server") if request.param == "redis" else None
    async with ground_on(server) as made:
        yield made


class TestWhatIsKept:
    async def test_nothing_at_first(self, ground: Ground) -> None:
        found = await ground.store.look("one")
        assert found == Found(epoch=found.epoch)
        assert found.epoch > 0
        assert await ground.kept() == {}

    @pytest.mark.parametrize("name", BODIES)
    async def test_an_answer_is_given_as_it_was_kept(self, ground: Ground, name: str) -> None:
        assert await ground.keep("one", BODIES[name])
        found = await ground.store.look("one", "claim", LIFE)
        assert found == Found(BODIES[name], epoch=found.epoch)
        assert (await ground.store.look("two")).sealed is None

    async def test_until_it_ends(self, ground: Ground) -> None:
        await ground.keep("one", life=LIFE)
        ground.clock.now += LIFE - 1
        assert (await ground.store.look("one")).sealed == b"sealed"
        assert list(await ground.kept()) == ["one"]
        ground.clock.now += 1
        assert (await ground.store.look("one", "claim", LIFE)).leads
        assert await ground.kept() == {}

    async def test_what_is_known_of_it(self, ground: Ground) -> None:
        began = ground.clock.now
        team, none = Labels("räksmörgås", 'gpt "4o"\n', "key_1"), Labels("", "m\x00", "")
        await ground.keep("one", b"x" * 100, LIFE, team)
        ground.clock.now += 5
        await ground.keep("two", b"", 2 * LIFE, none)
        assert await ground.kept() == {
            "one": Kept("one", team, began, began + LIFE, 100),
            "two": Kept("two", none, began + 5, began + 5 + 2 * LIFE, 0),
        }

    async def test_another_takes_its_place(self, ground: Ground) -> None:
        await ground.keep("one", b"long" * 100, LIFE)
        ground.clock.now += 7
        other = Labels("other", "model", "key_2")
        await ground.keep("one", b"short", LIFE // 2, other)
        now = ground.clock.now
        assert await ground.kept() == {"one": Kept("one", other, now, now + LIFE // 2, 5)}
        assert (await ground.store.look("one")).sealed == b"short"
        ground.clock.now += LIFE // 2
        assert (await ground.store.look("one")).sealed is None

    async def test_one_that_is_kept_again_lives_longer(self, ground: Ground) -> None:
        await ground.keep("one", b"old", LIFE)
        await ground.keep("one", b"new", 2 * LIFE)
        ground.clock.now += LIFE
        await ground.keep("other")
        assert (await ground.store.look("one")).sealed == b"new"

    async def test_one_that_ended_is_kept_anew(self, ground: Ground) -> None:
        await ground.keep("one", b"old")
        ground.clock.now += LIFE
        await ground.keep("one", b"new")
        assert (await ground.store.look("one")).sealed == b"new"
        assert len(await ground.kept()) == 1

    async def test_many(self, ground: Ground) -> None:
        """More than a step of any store looks at."""
        names = {f"{number}" for number in range(700)}
        for name in names:
            assert await ground.keep(name, name.encode())
        assert {one.digest: one.size for one in (await ground.kept()).values()} == {name: len(name) for name in names}
        assert await ground.store.purge(lambda one: one.digest.endswith("7")) == 70
        assert set(await ground.kept()) == {name for name in names if not name.endswith("7")}
        assert await ground.store.purge(lambda _one: True) == 630
        assert await ground.kept() == {}


class TestClaims:
    async def test_one_makes_the_answer_and_the_others_know_of_it(self, ground: Ground) -> None:
        first = await ground.store.look("one", "mine", LIFE)
        assert first == Found(leads=True, epoch=first.epoch)
        others = Found(made_by_another=True, epoch=first.epoch)
        assert await ground.store.look("one", "yours", LIFE) == others
        assert await ground.store.look("one") == others
        assert (await ground.store.look("two", "yours", LIFE)).leads

    async def test_who_has_it_has_it_when_he_asks_again(self, ground: Ground) -> None:
        await ground.store.look("one", "mine", LIFE)
        ground.clock.now += LIFE - 1
        assert (await ground.store.look("one", "mine", LIFE)).leads
        ground.clock.now += LIFE - 1
        assert (await ground.store.look("one", "yours", LIFE)).made_by_another

    async def test_no_claim_where_nobody_wants_one(self, ground: Ground) -> None:
        found = await ground.store.look("one", "", LIFE)
        assert not found.leads
        assert (await ground.store.look("one", "mine", LIFE)).leads

    async def test_one_that_ran_out_is_free(self, ground: Ground) -> None:
        await ground.store.look("one", "mine", LIFE)
        ground.clock.now += LIFE - 1
        assert (await ground.store.look("one", "yours", LIFE)).made_by_another
        ground.clock.now += 1
        assert not (await ground.store.look("one")).made_by_another
        assert not await ground.store.renew("one", "mine", LIFE)
        assert (await ground.store.look("one", "yours", LIFE)).leads

    async def test_it_lives_while_it_is_renewed(self, ground: Ground) -> None:
        await ground.store.look("one", "mine", LIFE)
        for _ in range(3):
            ground.clock.now += LIFE - 1
            assert await ground.store.renew("one", "mine", LIFE)
        ground.clock.now += LIFE - 1
        assert (await ground.store.look("one", "yours", LIFE)).made_by_another

    async def test_only_its_holder_renews_and_releases(self, ground: Ground) -> None:
        await ground.store.look("one", "mine", LIFE)
        for stranger in ("yours", "min", "mine ", ""):
            assert not await ground.store.renew("one", stranger, LIFE)
            await ground.store.release("one", stranger)
            assert (await ground.store.look("one")).made_by_another
        await ground.store.release("two", "mine")
        assert not await ground.store.renew("two", "mine", LIFE)
        assert (await ground.store.look("one")).made_by_another

    async def test_released(self, ground: Ground) -> None:
        await ground.store.look("one", "mine", LIFE)
        await ground.store.release("one", "mine")
        assert not await ground.store.renew("one", "mine", LIFE)
        assert (await ground.store.look("one", "yours", LIFE)).leads
        await ground.store.release("one", "mine")
        assert await ground.store.renew("one", "yours", LIFE)

    async def test_the_answer_ends_it(self, ground: Ground) -> None:
        epoch = (await ground.store.look("one", "mine", LIFE)).epoch
        assert await ground.store.keep("one", b"answer", LABELS, 1, epoch, "mine")
        ground.clock.now += 1
        assert not await ground.store.renew("one", "mine", LIFE)
        assert (await ground.store.look("one", "yours", LIFE)).leads

    async def test_somebody_elses_answer_does_not(self, ground: Ground) -> None:
        epoch = (await ground.store.look("one", "mine", LIFE)).epoch
        for claim in ("", "yours"):
            assert await ground.store.keep("one", b"answer", LABELS, LIFE, epoch, claim)
            assert await ground.store.renew("one", "mine", LIFE)
        assert (await ground.store.look("one")).sealed == b"answer"

    async def test_an_answer_that_is_too_large_ends_it(self, ground: Ground) -> None:
        epoch = (await ground.store.look("one", "mine", LIFE)).epoch
        assert not await ground.store.keep("one", b"x" * MIB, LABELS, LIFE, epoch, "mine")
        assert (await ground.store.look("one", "yours", LIFE)).leads

    async def test_names_with_spaces_and_line_ends(self, ground: Ground) -> None:
        claim = "1 2 3\r\nåäö"
        assert (await ground.store.look("one\r\n", claim, LIFE)).leads
        assert (await ground.store.look("one\r\n", "3", LIFE)).made_by_another
        assert await ground.store.renew("one\r\n", claim, LIFE)


class TestPurge:
    async def test_by_label_age_and_size(self, ground: Ground) -> None:
        began = ground.clock.now
        await ground.keep("one", b"1", labels=Labels("a", "m", "k1"))
        await ground.keep("two", b"22", labels=Labels("a", "n", "k2"))
        ground.clock.now += 10
        await ground.keep("three", b"333", labels=Labels("b", "m", "k3"))
        await ground.keep("four", b"4444", labels=Labels("", "m", "k4"))
        assert await ground.store.purge(lambda one: one.labels.team == "a" and one.labels.model == "n") == 1
        assert set(await ground.kept()) == {"one", "three", "four"}
        assert await ground.store.purge(lambda one: one.made <= began) == 1
        assert await ground.store.purge(lambda one: one.labels.key == "k4" and one.size == 4) == 1
        assert set(await ground.kept()) == {"three"}
        assert (await ground.store.look("one")).sealed is None
        assert (await ground.store.look("three")).sealed == b"333"

    async def test_what_was_asked_before_is_not_kept(self, ground: Ground) -> None:
        before = (await ground.store.look("one", "mine", LIFE)).epoch
        assert await ground.store.purge(lambda _one: True) == 0
        assert not await ground.store.keep("one", b"old", LABELS, LIFE, before, "mine")
        after = (await ground.store.look("one")).epoch
        assert after > before
        assert (await ground.store.look("one")).sealed is None
        assert await ground.store.keep("one", b"new", LABELS, LIFE, after)
        assert not await ground.store.keep("one", b"old", LABELS, LIFE, before)
        assert (await ground.store.look("one")).sealed == b"new"

    async def test_each_is_another_even_within_one_moment(self, ground: Ground) -> None:
        epochs = [(await ground.store.look("one")).epoch]
        for _ in range(5):
            await ground.store.purge(lambda _one: False)
            epochs.append((await ground.store.look("one")).epoch)
        assert sorted(set(epochs)) == epochs

    async def test_claims_end_with_it(self, ground: Ground) -> None:
        """What they make could not be kept: nobody shall wait for it."""
        await ground.store.look("one", "mine", LIFE)
        await ground.store.purge(lambda _one: False)
        assert not await ground.store.renew("one", "mine", LIFE)
        assert (await ground.store.look("one", "yours", LIFE)).leads
        await ground.store.release("one", "mine")
        assert await ground.store.renew("one", "yours", LIFE)

    async def test_an_answer_of_before_ends_no_claim_of_after(self, ground: Ground) -> None:
        before = (await ground.store.look("one", "mine", LIFE)).epoch
        await ground.store.purge(lambda _one: False)
        await ground.store.look("one", "yours", LIFE)
        assert not await ground.store.keep("one", b"old", LABELS, LIFE, before, "mine")
        assert (await ground.store.look("one")).made_by_another

    async def test_what_has_ended_does_not_count(self, ground: Ground) -> None:
        asked: list[str] = []
        await ground.keep("ended", life=1)
        await ground.keep("here", life=LIFE)
        ground.clock.now += 1
        assert await ground.store.purge(lambda one: not asked.append(one.digest)) == 1  # type: ignore[func-returns-value]
        assert asked == ["here"]


class TestRoom:
    SIZE = 10_000
    FIT = 5

    @pytest.fixture(params=["memory", "redis"])
    async def ground(self, request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
        server = request.getfixturevalue("server") if request.param == "redis" else None
        async with ground_on(server, self.FIT * (self.SIZE + BESIDE)) as made:
            yield made

    async def fill(self, ground: Ground) -> list[str]:
        """As many as fit, those first that end first."""
        names = [f"{number}" for number in range(self.FIT)]
        for number, name in enumerate(names):
            assert await ground.keep(name, b"x" * self.SIZE, LIFE + number)
        assert set(await ground.kept()) == set(names)
        return names

    async def test_beyond_it_the_first_go(self, ground: Ground) -> None:
        names = await self.fill(ground)
        await ground.keep("more", b"x" * self.SIZE, 2 * LIFE)
        assert set(await ground.kept()) == {*names[1:], "more"}
        await ground.keep("large", b"x" * (2 * self.SIZE), 2 * LIFE)
        assert set(await ground.kept()) == {*names[3:], "more", "large"}

    async def test_those_that_ended_go_before_all_others(self, ground: Ground) -> None:
        await ground.keep("long", b"x" * self.SIZE, 2 * LIFE)
        for number in range(self.FIT - 1):
            await ground.keep(f"{number}", b"x" * self.SIZE, 1)
        ground.clock.now += 1
        for number in range(self.FIT - 1):
            await ground.keep(f"new {number}", b"x" * self.SIZE, LIFE)
        assert set(await ground.kept()) == {"long", *[f"new {number}" for number in range(self.FIT - 1)]}

    async def test_who_takes_his_own_place_needs_no_other(self, ground: Ground) -> None:
        names = await self.fill(ground)
        for _ in range(3):
            await ground.keep(names[2], b"y" * self.SIZE)
        assert set(await ground.kept()) == set(names)

    async def test_a_look_keeps_an_answer_in_memory(self, ground: Ground) -> None:
        names = await self.fill(ground)
        await ground.store.look(names[0])
        await ground.keep("more", b"x" * self.SIZE, 2 * LIFE)
        gone = names[0] if ground.evicts_soonest else names[1]
        assert set(await ground.kept()) == {*names, "more"} - {gone}

    async def test_one_that_is_larger_than_all_of_it_moves_nobody(self, ground: Ground) -> None:
        names = await self.fill(ground)
        all_of_it = self.FIT * (self.SIZE + BESIDE) - BESIDE
        assert not await ground.keep("vast", b"x" * (all_of_it + 1))
        assert set(await ground.kept()) == set(names)
        assert await ground.keep("vast", b"x" * all_of_it)
        assert set(await ground.kept()) == {"vast"}

    async def test_small_ones_count_for_what_a_store_has_to_know_of_them(self, ground: Ground) -> None:
        for number in range(200):
            await ground.keep(f"{number}", b"", LIFE + number)
        kept = await ground.kept()
        assert len(kept) == self.FIT * (self.SIZE + BESIDE) // BESIDE
        assert "199" in kept


class TestMemory:
    """What only the store in memory can be asked, seen at its own tables: it may not grow with what is over."""

    async def test_answers_that_took_anothers_place(self) -> None:
        async with ground_on(None) as ground:
            for number in range(5 * memory_answers._SPARE):
                await ground.keep(f"{number % 3}", b"", LIFE + number)
            store = ground.store
            assert isinstance(store, MemoryAnswers)
            assert len(store._ends) <= memory_answers._SPARE + 2 * 3
            assert len(await ground.kept()) == 3
            ground.clock.now += 10 * LIFE
            await ground.keep("new")
            assert len(store._answers) == len(store._ends) == 1

    async def test_claims_that_ran_out(self) -> None:
        async with ground_on(None) as ground:
            for number in range(5 * memory_answers._SPARE):
                await ground.store.look(f"{number}", "mine", 10)
                ground.clock.now += 1
            store = ground.store
            assert isinstance(store, MemoryAnswers)
            assert len(store._claims) < 2 * memory_answers._SPARE
            assert sum([await store.renew(f"{number}", "mine", 10) for number in range(5 * memory_answers._SPARE)]) == 9

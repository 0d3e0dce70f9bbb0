"""The life of a hold: its end, its renewal, what is held until then, and a hold that is taken again."""

import json
from dataclasses import replace

import pytest

from extproc.stores.counters import CALM, MOST, QUIET, SWEEP, Counter, Draw, MemoryLost, Renewal
from tests.contract.counters.steps import LIFE, OPEN, extend, granted, reserve, settle, sliding
from tests.support.counters import HOUR, MINUTE, SECOND, Ground, minute, month


class TestExpire:
    async def test_all_but_what_is_kept_goes_back(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6, kept=2), Draw(sliding(), 6), Draw(OPEN, 1))
        ground.clock.now += LIFE - 1
        assert await ground.store.expire("slot") == 0
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1
        assert [await ground.used(counter) for counter in (tokens, sliding(), OPEN)] == [2, 0, 0]
        assert await ground.store.expire("slot") == 0
        assert await ground.used(tokens) == 2

    async def test_no_more_is_kept_than_was_held(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4, kept=9))
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        assert await ground.used(tokens) == 4

    @pytest.mark.parametrize("name", ["one", 'a"b\\/ü 🙂\n'])
    async def test_each_is_told_to_the_bus(self, ground: Ground, tokens: Counter, name: str) -> None:
        wide = Counter('wide "ü"', MOST, month(ground.clock.now))
        await granted(ground, name, Draw(wide, MOST, kept=MOST), Draw(tokens, 6, kept=2), Draw(OPEN, 1, kept=1))
        await granted(ground, "nothing", life=LIFE + 1)
        ground.clock.now += LIFE + 1
        assert await ground.store.expire("slot") == 2
        told = [json.loads(event) for event in ground.events()]
        assert told == [
            {"id": name, "expired": True, "kept": {'wide "ü"': MOST, "tokens": 2, "calls": 0}},
            {"id": "nothing", "expired": True, "kept": {}},
        ]
        assert list(told[0]["kept"]) == ['wide "ü"', "tokens", "calls"]

    @pytest.mark.parametrize("note", [b'{"team":"search"}', 'a"b\\/ü 🙂\n'.encode(), b"x" * 2_000])
    async def test_the_note_of_its_hold_is_told(self, ground: Ground, tokens: Counter, note: bytes) -> None:
        """Whatever was done with the hold in between."""
        store, draws = ground.store, [Draw(tokens, 2, kept=1)]
        for name in ("reserved", "extended", "renewed"):
            assert (await store.reserve("slot", name, draws, LIFE, note=note)).granted
        await extend(ground, "extended", Draw(tokens, 3, kept=1))
        await store.renew("slot", ["renewed"], LIFE)
        await store.retake("slot", "retaken", draws, LIFE, note)
        ground.clock.now += LIFE
        await store.renew("slot", [], LIFE)
        ground.clock.now += CALM
        assert await store.expire("slot") == 4
        told = {record["id"]: record["note"] for record in map(json.loads, ground.events())}
        assert told == dict.fromkeys(("reserved", "extended", "renewed", "retaken"), note.decode())

    async def test_a_note_outlives_the_expiry_of_its_hold(self, ground: Ground, tokens: Counter) -> None:
        assert (await ground.store.reserve("slot", "one", [Draw(tokens, 2)], LIFE, note=b"mine")).granted
        for _ in range(2):  # which its worker did not die of
            ground.clock.now += LIFE
            assert await ground.store.expire("slot") == 1
            await ground.store.retake("slot", "one", [Draw(tokens, 2)], LIFE)
        assert [json.loads(event)["note"] for event in ground.events()] == ["mine", "mine"]

    async def test_what_is_told_adds_up_over_windows(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 8, kept=9), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        await extend(ground, "one", Draw(later, 14, kept=9), life=SECOND)
        ground.clock.now += SECOND
        await ground.store.expire("slot")
        assert [json.loads(event)["kept"] for event in ground.events()] == [{"tokens": 9}]

    async def test_an_empty_slot_has_none(self, ground: Ground) -> None:
        assert await ground.store.expire("nothing here") == 0

    async def test_it_closes_all_there_are(self, ground: Ground) -> None:
        many = Counter("calls", 100)
        for number in range(3 * SWEEP):
            await granted(ground, f"hold {number}", Draw(many, 1), life=1 + number % 7)
        await granted(ground, "alive", Draw(many, 1))
        ground.clock.now += SECOND
        assert await ground.store.expire("slot") == 3 * SWEEP
        assert await ground.used(many) == 1

    async def test_a_reserve_begins_with_some(self, ground: Ground) -> None:
        many = Counter("calls", SWEEP)
        for number in range(SWEEP):
            await granted(ground, f"dead {number}", Draw(many, 1))
        ground.clock.now += LIFE
        assert await ground.used(many) == SWEEP
        assert await granted(ground, "alive", Draw(many, SWEEP)) == [SWEEP]
        assert await ground.store.expire("slot") == 0

    async def test_it_begins_with_the_oldest(self, ground: Ground) -> None:
        many = Counter("calls", 100)
        for number in range(SWEEP + 3):
            await granted(ground, f"dead {number}", Draw(many, 1 + (number < 3)), life=LIFE + SWEEP + 3 - number)
        ground.clock.now += HOUR
        assert await granted(ground, "alive", Draw(many, 0)) == [6]
        assert await ground.store.expire("slot") == 3

    async def test_a_refused_reserve_closes_some_as_well(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "dead", Draw(OPEN, 1))
        ground.clock.now += LIFE
        assert not (await reserve(ground, "two", Draw(tokens, 11))).granted
        assert await ground.used(OPEN) == 0


@pytest.mark.parametrize("step", [-HOUR, HOUR])
class TestAClockThatSteps:
    async def test_closes_no_hold_of_a_worker_that_lives(self, ground: Ground, tokens: Counter, step: int) -> None:
        await ground.store.renew("slot", [], LIFE)
        await granted(ground, "one", Draw(tokens, 6, kept=2))
        ground.clock.now += step
        await granted(ground, "two", Draw(tokens, 1))  # it sweeps
        for _ in range(5):
            assert (await ground.store.renew("slot", ["one", "two"], LIFE)).gone == ()
            assert await ground.store.expire("slot") == 0
            ground.clock.now += SECOND
        assert await settle(ground, "one", Draw(tokens, 3), event=b"one")
        assert ground.events() == [b"one"]
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) in (3, 3 + 1)

    async def test_keeps_that_of_a_dead_one_no_longer_than_it_stepped(
        self, ground: Ground, tokens: Counter, step: int
    ) -> None:
        await ground.store.renew("slot", [], LIFE)
        await granted(ground, "one", Draw(tokens, 6, kept=2))
        ground.clock.now += step
        await ground.store.renew("slot", [], LIFE)
        ground.clock.now += max(0, -step) + LIFE
        await ground.store.renew("slot", [], LIFE)
        ground.clock.now += CALM
        assert await ground.store.expire("slot") == 1
        assert [json.loads(event)["kept"] for event in ground.events()] == [{"tokens": 2}]


class TestRenew:
    async def test_holds_live_on_and_nothing_else_changes(self, ground: Ground) -> None:
        rate = sliding(length=HOUR)
        await granted(ground, "one", Draw(rate, 4, kept=1))
        await granted(ground, "two", Draw(OPEN, 1))
        await granted(ground, "other", Draw(OPEN, 1))
        ground.clock.now += LIFE - 1
        await ground.store.renew("slot", ["one", "two"], 2 * LIFE)
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1
        assert (await ground.used(rate), await ground.used(OPEN)) == (4, 1)
        await ground.wait(2 * LIFE - 2)
        assert await ground.store.expire("slot") == 0
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 2
        assert (await ground.used(rate), await ground.used(OPEN)) == (1, 0)

    async def test_it_may_shorten_a_life(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(OPEN, 1), life=HOUR)
        await ground.store.renew("slot", ["one"], SECOND)
        ground.clock.now += SECOND
        assert await ground.store.expire("slot") == 1

    async def test_what_is_gone_stays_gone(self, ground: Ground, tokens: Counter) -> None:
        for name in ("settled", "over", "expired"):
            await granted(ground, name, Draw(tokens, 2), life=LIFE + (name == "over"))
        await settle(ground, "settled", Draw(tokens, 2))
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        ground.clock.now += 1
        told = await ground.store.renew("slot", ["settled", "over", "expired", "unknown"], HOUR)
        assert told.gone == ("settled", "expired", "unknown")
        assert await ground.store.expire("slot") == 0
        assert await ground.used(tokens) == 4
        assert (await extend(ground, "over", Draw(tokens, 2))).granted
        assert not (await extend(ground, "expired", Draw(tokens, 2))).granted
        assert (await reserve(ground, "unknown", Draw(tokens, 1))).readings[0].used == 5

    async def test_it_takes_any_number(self, ground: Ground) -> None:
        many = Counter("calls", MOST)
        names = [f"hold {number}" for number in range(450)]
        for name in names:
            await granted(ground, name, Draw(many, 1))
        await ground.store.renew("slot", names, HOUR)
        await ground.wait(LIFE)
        assert await ground.store.expire("slot") == 0

    async def test_nobody_is_closed_while_nobody_renews_nor_right_after(self, ground: Ground) -> None:
        """The outage is everybody's: who lives comes back, and says which are his."""
        many = Counter("calls", 3)
        for name in ("mine", "yours", "dead"):
            await granted(ground, name, Draw(many, 1))
        await ground.store.renew("slot", ["mine", "yours", "dead"], LIFE)
        ground.clock.now += HOUR
        assert not (await reserve(ground, "new", Draw(many, 1))).granted
        assert await ground.store.expire("slot") == 0
        assert (await ground.store.renew("slot", ["mine"], LIFE)).gone == ()
        ground.clock.now += CALM - 1
        assert await ground.store.expire("slot") == 0
        assert (await ground.store.renew("slot", ["yours"], LIFE)).gone == ()
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1
        assert await ground.used(many) == 2

    async def test_a_pause_that_is_no_outage_changes_nothing(self, ground: Ground) -> None:
        await granted(ground, "dead", Draw(OPEN, 1), life=SECOND)
        await ground.store.renew("slot", [], LIFE)
        ground.clock.now += QUIET
        assert await ground.store.expire("slot") == 1

    async def test_it_says_since_when_the_store_remembers(self, ground: Ground, tokens: Counter) -> None:
        since = (await ground.store.renew("slot", [], LIFE)).since
        assert 0 < since <= ground.clock.now
        await granted(ground, "one", Draw(tokens, 2))
        ground.clock.now += HOUR
        for known in (0, since, since - 1):
            assert await ground.store.renew("slot", ["one"], LIFE, known) == Renewal(since)

    async def test_nothing_is_taken_where_the_caller_knows_of_another_time(
        self, ground: Ground, tokens: Counter
    ) -> None:
        since = (await ground.store.renew("slot", [], LIFE)).since
        assert (await ground.store.reserve("slot", "one", [Draw(tokens, 2)], LIFE, since)).granted
        assert (await ground.store.extend("slot", "one", [Draw(tokens, 3)], LIFE, since)).granted
        with pytest.raises(MemoryLost):
            await ground.store.reserve("slot", "two", [Draw(tokens, 2)], LIFE, since - 1)
        with pytest.raises(MemoryLost):
            await ground.store.extend("slot", "one", [Draw(tokens, 5)], LIFE, since + 1)
        assert await ground.used(tokens) == 3
        assert (await ground.store.renew("slot", ["two"], LIFE)).gone == ("two",)


class TestHeld:
    """What of that which is used is only held."""

    async def held(self, ground: Ground, *counters: Counter) -> list[tuple[int, int]]:
        looks = [await ground.look(counter) for counter in counters]
        return [(look.used, look.held) for look in looks]

    async def test_until_it_is_settled(self, ground: Ground, tokens: Counter) -> None:
        every = (tokens, sliding(), OPEN)
        await granted(ground, "one", Draw(tokens, 6), Draw(sliding(), 6), Draw(OPEN, 1))
        assert await self.held(ground, *every) == [(6, 6), (6, 6), (1, 1)]
        await settle(ground, "one", Draw(tokens, 4), Draw(sliding(), 9), Draw(OPEN, 1))
        assert await self.held(ground, *every) == [(4, 0), (9, 0), (0, 0)]
        await granted(ground, "two", Draw(tokens, 3), Draw(sliding(), 1), Draw(OPEN, 2))
        assert await self.held(ground, *every) == [(7, 3), (10, 1), (2, 2)]

    async def test_it_is_told_of_a_step_whether_granted_or_refused(self, ground: Ground, tokens: Counter) -> None:
        await settle(ground, "used", Draw(tokens, 1), Draw(sliding(), 2))
        answer = await reserve(ground, "one", Draw(tokens, 6), Draw(sliding(), 5))
        assert [(reading.used, reading.held) for reading in answer.readings] == [(7, 6), (7, 5)]
        answer = await reserve(ground, "two", Draw(tokens, 6), Draw(sliding(), 1))
        assert [(reading.used, reading.held) for reading in answer.readings] == [(7, 6), (7, 5)]

    async def test_until_the_hold_is_closed(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6, kept=2), Draw(sliding(), 6, kept=2), Draw(OPEN, 1, kept=1))
        ground.clock.now += LIFE
        assert await self.held(ground, tokens, sliding(), OPEN) == [(6, 6), (6, 6), (1, 1)]
        await ground.store.expire("slot")
        assert await self.held(ground, tokens, sliding(), OPEN) == [(2, 0), (2, 0), (0, 0)]
        await settle(ground, "one", Draw(tokens, 5), Draw(sliding(), 5))
        assert await self.held(ground, tokens, sliding(), OPEN) == [(5, 0), (5, 0), (0, 0)]

    async def test_in_the_window_in_which_it_was_taken(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6), Draw(sliding(), 6), life=HOUR)
        ground.clock.now += 2 * MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        assert await self.held(ground, later, sliding()) == [(0, 0), (0, 0)]
        await extend(ground, "one", Draw(later, 9), Draw(sliding(), 8), life=HOUR)
        assert await self.held(ground, later, sliding()) == [(3, 3), (2, 2)]
        assert await self.held(ground, replace(tokens, windows=tokens.windows[:1])) == [(6, 6)]


class TestRetake:
    """Holds of calls that run, of which the store does not know any more."""

    async def test_a_closed_one_has_again_what_it_had(self, ground: Ground, tokens: Counter) -> None:
        """Though others have taken the room: what they have is not less true."""
        draws = (Draw(tokens, 8, kept=3), Draw(sliding(), 8), Draw(OPEN, 2))
        await granted(ground, "one", *draws)
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        await granted(ground, "two", Draw(tokens, 7), Draw(sliding(), 7), Draw(OPEN, 1), life=HOUR)
        for _ in range(2):
            await ground.store.retake("slot", "one", draws, LIFE)
            looks = [await ground.look(counter) for counter in (tokens, sliding(), OPEN)]
            assert [(look.used, look.held) for look in looks] == [(15, 15), (15, 15), (3, 3)]
        assert (await ground.store.renew("slot", ["one"], LIFE)).gone == ()
        assert await settle(ground, "one", Draw(tokens, 5), Draw(sliding(), 5))
        assert [await ground.used(counter) for counter in (tokens, sliding(), OPEN)] == [12, 12, 1]
        assert len(ground.events()) == 1

    async def test_what_it_took_earlier_comes_back_there(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 8))
        ground.clock.now += MINUTE
        await ground.store.expire("slot")
        later = replace(tokens, windows=minute(ground.clock.now))
        await ground.store.retake("slot", "one", [Draw(later, 9)], LIFE)
        assert await ground.used(later) == 1
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 8

    async def test_one_that_was_forgotten_is_made_anew(self, ground: Ground, tokens: Counter) -> None:
        await ground.store.retake("slot", "one", [Draw(tokens, 14, kept=2), Draw(OPEN, 1)], LIFE)
        assert (await ground.used(tokens), await ground.used(OPEN)) == (14, 1)
        assert not (await extend(ground, "one", Draw(tokens, 15))).granted
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 1
        assert (await ground.used(tokens), await ground.used(OPEN)) == (2, 0)

    async def test_an_open_one_gets_what_it_lacks_and_lives_on(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 8))
        ground.clock.now += SECOND
        await ground.store.retake("slot", "one", [Draw(tokens, 12)], LIFE)
        assert await ground.used(tokens) == 12
        ground.clock.now += LIFE - 1
        assert await ground.store.expire("slot") == 0
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1

    async def test_one_that_was_settled_stays_settled(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 8))
        await settle(ground, "one", Draw(tokens, 3))
        await ground.store.retake("slot", "one", [Draw(tokens, 8)], LIFE)
        assert await ground.used(tokens) == 3
        assert (await ground.store.renew("slot", ["one"], LIFE)).gone == ("one",)

    async def test_after_hours(self, ground: Ground) -> None:
        """Whatever of the store's own books was put away meanwhile."""
        await granted(ground, "one", Draw(OPEN, 1))
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        for _ in range(5):
            ground.clock.now += HOUR
            await ground.store.expire("slot")
        await ground.store.retake("slot", "one", [Draw(OPEN, 1)], LIFE)
        assert await ground.used(OPEN) == 1
        await settle(ground, "one")
        assert await ground.used(OPEN) == 0

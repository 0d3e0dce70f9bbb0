"""What a settlement books: in place of what was held, late, and by many at once."""

import asyncio
import json
from dataclasses import replace

import pytest

from extproc.stores.counters import MARK, MOST, Counter, Draw
from tests.contract.counters.steps import LIFE, OPEN, extend, granted, reserve, settle, sliding
from tests.support.counters import DAY, HOUR, MINUTE, SECOND, Ground, minute, month


class TestSettle:
    @pytest.mark.parametrize("used", [0, 3, 6, 8, 25])
    async def test_what_was_used_is_put_in_place_of_what_was_held(
        self, ground: Ground, tokens: Counter, used: int
    ) -> None:
        await granted(ground, "one", Draw(tokens, 6), Draw(sliding(), 6))
        assert await settle(ground, "one", Draw(tokens, used), Draw(sliding(), used))
        assert (await ground.used(tokens), await ground.used(sliding())) == (used, used)

    async def test_the_second_time_changes_nothing(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6))
        assert await settle(ground, "one", Draw(tokens, 5), event=b"first")
        for units in (5, 0, 9):
            assert not await settle(ground, "one", Draw(tokens, units), event=b"second")
        assert await ground.used(tokens) == 5
        assert ground.events() == [b"first"]

    async def test_it_counts_where_it_was_reserved(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6), life=HOUR)
        await granted(ground, "two", Draw(tokens, 4), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        await settle(ground, "one", Draw(later, 9))
        await settle(ground, "two", Draw(later, 1))
        assert await ground.used(later) == 0
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 10

    async def test_nothing_drawn_counts_where_it_was_reserved_too(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 0), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        await settle(ground, "one", Draw(later, 7))
        assert await ground.used(later) == 0
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 7

    async def test_a_counter_that_is_not_named_was_not_used(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6), Draw(sliding(), 6), Draw(OPEN, 1))
        assert await settle(ground, "one", Draw(tokens, 2))
        assert [await ground.used(counter) for counter in (tokens, sliding(), OPEN)] == [2, 0, 0]

    async def test_a_counter_it_had_nothing_on_is_booked_now(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(sliding(), 6), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        assert await settle(ground, "one", Draw(sliding(), 6), Draw(later, 14), Draw(OPEN, 1))
        assert [await ground.used(counter) for counter in (later, OPEN)] == [14, 0]

    async def test_an_unknown_hold_is_booked_whole_and_once(self, ground: Ground, tokens: Counter) -> None:
        assert await settle(ground, "lost", Draw(tokens, 14), Draw(sliding(), 3), event=b"lost")
        assert not await settle(ground, "lost", Draw(tokens, 14), Draw(sliding(), 3), event=b"lost")
        assert (await ground.used(tokens), await ground.used(sliding())) == (14, 3)
        assert ground.events() == [b"lost"]

    @pytest.mark.parametrize("used", [0, 2, 5, 9, 20])
    @pytest.mark.parametrize("swept", [False, True])
    async def test_it_may_come_after_the_expiry(self, ground: Ground, tokens: Counter, used: int, swept: bool) -> None:
        await granted(ground, "one", Draw(tokens, 9, kept=5), Draw(OPEN, 1))
        ground.clock.now += LIFE
        if swept:
            assert await ground.store.expire("slot") == 1
            assert (await ground.used(tokens), await ground.used(OPEN)) == (5, 0)
        assert await settle(ground, "one", Draw(tokens, used), event=b"late")
        assert not await settle(ground, "one", Draw(tokens, used), event=b"late")
        assert (await ground.used(tokens), await ground.used(OPEN)) == (used, 0)
        kept = {"tokens": 5, "calls": 0}
        told = [json.loads(event) for event in ground.events()[:-1]]
        assert told == [{"id": "one", "expired": True, "kept": kept}] * swept
        assert ground.events()[-1] == b"late"
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 0

    @pytest.mark.parametrize("used", [0, 4, 8, 11, 14, 20])
    @pytest.mark.parametrize("kept", [0, 4, 8, 11, 30])
    async def test_an_expiry_before_it_makes_no_difference(
        self, ground: Ground, tokens: Counter, used: int, kept: int
    ) -> None:
        """Held: 8 in one minute and 6 in the next. What was taken first was used first."""
        await granted(ground, "one", Draw(tokens, 8, kept=kept), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        await extend(ground, "one", Draw(later, 14, kept=kept), life=SECOND)
        first = replace(tokens, windows=tokens.windows[:1])
        ground.clock.now += SECOND
        assert await ground.store.expire("slot") == 1
        assert [await ground.used(counter) for counter in (first, later)] == [min(kept, 8), min(max(kept - 8, 0), 6)]
        assert await settle(ground, "one", Draw(later, used))
        assert [await ground.used(counter) for counter in (first, later)] == [min(used, 8), max(used - 8, 0)]

    async def test_it_is_remembered_for_as_long_as_it_may_be_said_again(self, ground: Ground) -> None:
        ground.clock.now += DAY  # into a month
        money = Counter("money", 100, month(ground.clock.now))
        await granted(ground, "settled", Draw(money, 10, kept=10))
        for turn in (1, 2):
            assert await settle(ground, "settled", Draw(money, 1))
            assert await settle(ground, "unknown", Draw(money, 2))
            ground.clock.now += MARK - 1
            assert not await settle(ground, "settled", Draw(money, 50))
            assert not await settle(ground, "unknown", Draw(money, 50))
            assert (await reserve(ground, "settled", Draw(money, 50))).granted
            assert await ground.used(money) == 3 * turn
            ground.clock.now += 1
        assert await granted(ground, "settled", Draw(money, 5)) == [11]

    async def test_a_hold_that_is_over_can_be_settled_for_a_day(self, ground: Ground) -> None:
        ground.clock.now += DAY  # into a month
        money = Counter("money", 100, month(ground.clock.now))
        await granted(ground, "expired", Draw(money, 10, kept=10))
        await granted(ground, "over", Draw(money, 10, kept=10), life=2 * LIFE)
        ground.clock.now += LIFE
        await granted(ground, "alive", Draw(money, 10), life=3 * DAY)
        assert not (await extend(ground, "expired", Draw(money, 20))).granted
        ground.clock.now += DAY - LIFE - 1
        assert await settle(ground, "over", Draw(money, 2))
        assert await settle(ground, "expired", Draw(money, 3))
        assert await settle(ground, "alive", Draw(money, 4))
        assert await ground.used(money) == 9

    async def test_a_settled_hold_does_not_expire(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6, kept=6))
        await settle(ground, "one", Draw(tokens, 2))
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 0
        assert await ground.used(tokens) == 2

    @pytest.mark.parametrize("event", [b"", b"\0\xff{}\r\n", b"x" * 100_000])
    async def test_the_event_is_put_on_the_bus(self, ground: Ground, tokens: Counter, event: bytes) -> None:
        await granted(ground, "one", Draw(tokens, 6))
        await settle(ground, "one", Draw(tokens, 2), event=event)
        assert ground.events() == [event]

    async def test_without_an_event_there_is_none(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6))
        await settle(ground, "one", Draw(tokens, 2))
        assert ground.events() == []


class TestWhatIsBookedLate:
    """A settlement of a hold that the store does not know counts when its call ended."""

    async def test_in_the_window_of_then(self, ground: Ground, tokens: Counter) -> None:
        ended = ground.clock.now
        ground.clock.now = tokens.windows[0].end + 5
        ago = ground.clock.now - ended
        assert await ground.store.settle("slot", "one", [Draw(tokens, 7)], ago=ago)
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 7
        assert await ground.used(tokens) == 0

    async def test_in_a_sliding_window_for_as_long_as_if_it_had_come_at_once(self, ground: Ground) -> None:
        await ground.store.settle("slot", "in time", [Draw(sliding(), 2)])
        ground.clock.now += MINUTE // 2
        await ground.store.settle("slot", "now", [Draw(sliding(), 3)])
        await ground.store.settle("slot", "late", [Draw(sliding(), 4)], ago=MINUTE // 2)
        await ground.store.settle("slot", "too late", [Draw(sliding(), 5)], ago=2 * MINUTE)
        assert await ground.used(sliding()) == 9
        ground.clock.now += (await ground.look(sliding(9), units=1)).wait or 0
        assert await ground.used(sliding()) == 3

    async def test_what_was_reserved_counts_where_it_was_reserved(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6), life=HOUR)
        await ground.store.settle("slot", "one", [Draw(tokens, 7)], ago=HOUR)
        assert await ground.used(tokens) == 7


class TestManyAtOnce:
    async def test_of_200_calls_on_a_budget_for_k_k_are_admitted(self, ground: Ground, tokens: Counter) -> None:
        for turn in range(100):
            capacity = turn * 2
            budget, wide = Counter(f"budget {turn}", capacity, month(ground.clock.now)), sliding(MOST, HOUR)
            answers = await asyncio.gather(
                *(reserve(ground, f"{turn}.{call}", Draw(budget, 1), Draw(wide, 5)) for call in range(200))
            )
            assert sum(answer.granted for answer in answers) == capacity
            used = sorted(answer.readings[0].used for answer in answers if answer.granted)
            assert used == list(range(1, capacity + 1))
            assert await ground.used(budget) == capacity

    async def test_each_is_settled_once_however_often_it_is_tried(self, ground: Ground) -> None:
        budget = Counter("budget", 1000, month(ground.clock.now))
        await asyncio.gather(*(reserve(ground, f"{call}", Draw(budget, 10)) for call in range(50)))
        tries = [settle(ground, f"{call}", Draw(budget, 7), event=b"%d" % call) for call in range(50) for _ in range(4)]
        assert sum(await asyncio.gather(*tries)) == 50
        assert await ground.used(budget) == 350
        assert sorted(ground.events(), key=int) == [b"%d" % call for call in range(50)]

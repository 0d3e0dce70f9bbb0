"""What the store in memory forgets, and when."""

import pytest

from extproc.stores.counters import MARK, MOST, SWEEP, Counter, Draw
from extproc.stores.memory_counters import MemoryCounters, _Slot
from tests.contract.counters.steps import LIFE, OPEN, extend, granted, reserve, settle, sliding
from tests.support.counters import DAY, HOUR, MINUTE, SECOND, Clock, Ground, minute, month


def kept(slot: "_Slot") -> int:
    """How much a slot remembers, seen at its own tables."""
    return len(slot._holds) + len(slot._marks) + len(slot._sums)


class TestMemory:
    """What only the store in memory can be asked."""

    @pytest.fixture
    def ground(self) -> Ground:
        clock = Clock()
        return Ground(MemoryCounters(clock), clock, list)

    async def test_what_is_over_is_forgotten_after_a_day(self, ground: Ground) -> None:
        """And with it all that a store keeps: seen at its own tables, as nothing outside shows it."""
        for call in range(300):
            slot, hold = f"slot {call % 7}", f"hold {call}"
            draws = [Draw(Counter("tokens", 1000, minute(ground.clock.now)), 3), Draw(sliding(MOST), 2), Draw(OPEN, 1)]
            await reserve(ground, hold, *draws, slot=slot)
            if call % 3 == 0:
                await settle(ground, hold, Draw(sliding(MOST), 1), slot=slot)
            if call % 3 == 1:
                await extend(ground, hold, *draws, life=MINUTE, slot=slot)
            await settle(ground, f"unknown {call}", *draws, slot=slot)
            ground.clock.now += SECOND
        store = ground.store
        assert isinstance(store, MemoryCounters)
        assert sum(map(kept, store._slots.values())) > 500
        for _ in range(20):  # some at each step, and what they gave back to a day later
            ground.clock.now += DAY // 4
            for slot in list(store._slots):
                await store.expire(slot)
        assert sum(map(kept, store._slots.values())) == 0

    async def test_no_step_forgets_much(self, ground: Ground) -> None:
        for call in range(10 * SWEEP):
            draws = [Draw(Counter(f"tokens {call}", 10, minute(ground.clock.now)), 1)]
            await settle(ground, f"settled {call}", *draws)
            await granted(ground, f"dead {call}", *draws)
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 10 * SWEEP
        ground.clock.now += 2 * DAY
        store = ground.store
        assert isinstance(store, MemoryCounters)
        for step in range(11):
            assert kept(store._slots["slot"]) == 3 * SWEEP * (10 - step)
            await store.renew("slot", [], LIFE)

    async def test_a_counter_of_one_call_is_forgotten_soon(self, ground: Ground) -> None:
        for call in range(5):
            await granted(ground, f"{call}", Draw(Counter(f"once/{call}", 1), 1))
            if call:
                await settle(ground, f"{call}")
        ground.clock.now += MINUTE
        assert await ground.used(Counter("once/0", 1)) == 1
        assert isinstance(ground.store, MemoryCounters)
        assert len(ground.store._slots["slot"]._sums) == 1

    async def test_marks_of_settled_holds_are_forgotten_the_oldest_first(self, ground: Ground) -> None:
        for name in ("one", "two", "three"):
            await settle(ground, name)
            ground.clock.now += MARK // 2
        store = ground.store
        assert isinstance(store, MemoryCounters)
        await settle(ground, "one")
        assert list(store._slots["slot"]._marks) == ["three", "one"]

    async def test_a_refusal_is_soon_forgotten(self, ground: Ground, tokens: Counter) -> None:
        assert isinstance(ground.store, MemoryCounters)
        assert not (await reserve(ground, "one", Draw(tokens, 11))).granted
        assert not (await extend(ground, "one", Draw(tokens, 1))).granted
        ground.clock.now += MINUTE
        await ground.store.expire("slot")
        assert kept(ground.store._slots["slot"]) == 0

    async def test_a_hold_that_nobody_closed_goes_back_when_it_is_forgotten(self, ground: Ground) -> None:
        await granted(ground, "dead", Draw(OPEN, 2), life=LIFE)
        ground.clock.now += LIFE
        assert await ground.used(OPEN) == 2
        await reserve(ground, "alive", Draw(Counter("others", 1), 1), life=3 * DAY)
        ground.clock.now += DAY
        assert await ground.used(OPEN) == 0

    async def test_a_forgotten_hold_is_booked_whole(self, ground: Ground) -> None:
        money = Counter("money", 10, month(ground.clock.now + DAY))
        ground.clock.now = money.windows[0].start
        await granted(ground, "one", Draw(money, 4, kept=1))
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        ground.clock.now += DAY
        assert await settle(ground, "one", Draw(money, 3))
        assert await ground.used(money) == 4

    async def test_a_clock_that_steps_back_makes_no_room(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(sliding(), 6), life=DAY)
        began = ground.clock.now
        ground.clock.now += HOUR
        await granted(ground, "two", Draw(sliding(), 5), life=DAY)
        ground.clock.now = began
        await settle(ground, "one")
        assert await ground.used(sliding()) == 5
        assert not (await reserve(ground, "three", Draw(sliding(), 6))).granted

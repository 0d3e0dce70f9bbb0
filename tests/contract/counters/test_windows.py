"""Where units count: in calendar windows, in sliding ones, and among the holds that are open."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.stores.counters import MARK, Answer, Counter, Draw, Reading, Window
from tests.contract.counters.steps import LIFE, OPEN, extend, granted, reserve, settle, sliding
from tests.support.counters import DAY, HOUR, MINUTE, SECOND, Ground, minute, month


class TestCalendarWindows:
    async def test_they_add_up_to_their_capacity_and_no_further(self, ground: Ground, tokens: Counter) -> None:
        assert await granted(ground, "one", Draw(tokens, 7)) == [7]
        assert await granted(ground, "two", Draw(tokens, 3)) == [10]
        assert not (await reserve(ground, "three", Draw(tokens, 1))).granted

    async def test_the_last_millisecond_is_in_and_the_next_begins_anew(self, ground: Ground, tokens: Counter) -> None:
        ground.clock.now = tokens.windows[0].end - 1
        await granted(ground, "one", Draw(tokens, 10))
        assert not (await reserve(ground, "two", Draw(tokens, 1))).granted
        ground.clock.now += 1
        assert await granted(ground, "two", Draw(tokens, 4)) == [4]

    async def test_a_month_ends_at_its_last_millisecond(self, ground: Ground) -> None:
        money = Counter("money", 10, month(ground.clock.now))
        ground.clock.now = money.windows[0].end - 1
        assert await granted(ground, "one", Draw(money, 10)) == [10]
        assert (await ground.look(money)).reset == 1
        ground.clock.now += 1
        money = replace(money, windows=month(ground.clock.now))
        assert await granted(ground, "two", Draw(money, 10)) == [10]
        assert (await ground.look(money, units=1)) == Reading(10, 28 * DAY, 28 * DAY, 10)

    async def test_a_clock_ahead_of_the_callers_counts_in_the_next_window(
        self, ground: Ground, tokens: Counter
    ) -> None:
        ground.clock.now = tokens.windows[1].start + 5
        assert await granted(ground, "one", Draw(tokens, 6)) == [6]
        assert await ground.used(replace(tokens, windows=minute(ground.clock.now))) == 6
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 0

    async def test_a_clock_behind_the_callers_counts_in_the_first_window(self, ground: Ground, tokens: Counter) -> None:
        ground.clock.now = tokens.windows[0].start - 5
        await granted(ground, "one", Draw(tokens, 6))
        assert await ground.look(tokens, units=5) == Reading(6, MINUTE + 5, MINUTE + 5, 6)
        ground.clock.now = tokens.windows[0].start
        assert await ground.used(tokens) == 6

    async def test_a_clock_past_all_windows_counts_in_the_last(self, ground: Ground, tokens: Counter) -> None:
        ground.clock.now = tokens.windows[1].end
        await granted(ground, "one", Draw(tokens, 6, kept=6))
        ground.clock.now += MARK // 2
        assert await ground.look(tokens, units=5) == Reading(6, 1, 1, 6)
        assert await granted(ground, "two", Draw(tokens, 4)) == [10]
        ground.clock.now += MARK // 2
        assert await ground.used(tokens) == 10
        assert await ground.used(replace(tokens, windows=tokens.windows[1:])) == 10
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 0

    async def test_windows_of_the_same_start_or_end_are_counted_apart(self, ground: Ground) -> None:
        start, end = ground.clock.now - SECOND, ground.clock.now + HOUR
        spans = [(start, end), (start, end + 1), (start - 1, end)]
        for number, span in enumerate(spans, 1):
            counter = Counter("tokens", 10, (Window(*span),))
            assert await granted(ground, f"hold {number}", Draw(counter, number)) == [number]

    async def test_waiting_as_told_makes_it_fit_and_a_millisecond_less_does_not(
        self, ground: Ground, tokens: Counter
    ) -> None:
        await granted(ground, "one", Draw(tokens, 8), life=HOUR)
        refused = await reserve(ground, "two", Draw(tokens, 3))
        until_next = tokens.windows[0].end - ground.clock.now
        assert refused == Answer(False, (Reading(8, until_next, until_next, 8),))
        ground.clock.now += until_next - 1
        assert not (await reserve(ground, "two", Draw(tokens, 3))).granted
        ground.clock.now += 1
        assert await granted(ground, "two", Draw(tokens, 3)) == [3]

    async def test_all_capacity_is_back_after_the_reset(self, ground: Ground, tokens: Counter) -> None:
        answer = await reserve(ground, "one", Draw(tokens, 8))
        ground.clock.now += answer.readings[0].reset - 1
        assert await ground.used(tokens) == 8
        ground.clock.now += 1
        assert await ground.look(tokens) == Reading(0, 0, 0)


STEPS = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 7)), min_size=5, max_size=40)
LENGTHS = st.sampled_from([1, 7, 31, 32, 50, 63, 64, 1000, 1024, 2000])


class TestSlidingWindows:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=STEPS, length=LENGTHS, seed=st.uuids())
    async def test_no_window_ever_holds_more_than_the_capacity(
        self, ground: Ground, steps: list[tuple[int, int]], length: int, seed: object
    ) -> None:
        """And nothing is refused that would fit if the window were a 32nd longer."""
        counter, log = Counter(f"rate {seed}", 10, sliding=length), list[tuple[int, int]]()
        ground.clock.now += HOUR
        for pause, units in steps:
            ground.clock.now += pause
            answer = await reserve(ground, f"{seed} {len(log)} {pause} {ground.clock.now}", Draw(counter, units))
            longer = sum(used for at, used in log if at > ground.clock.now - length - length // 32)
            assert answer.granted or longer + units > 10
            if answer.granted:
                log.append((ground.clock.now, units))
            assert sum(used for at, used in log if at > ground.clock.now - length) <= 10

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=STEPS, length=LENGTHS, seed=st.uuids())
    async def test_waiting_as_told_makes_it_fit_and_a_millisecond_less_does_not(
        self, ground: Ground, steps: list[tuple[int, int]], length: int, seed: object
    ) -> None:
        counter = Counter(f"rate {seed}", 10, sliding=length)
        ground.clock.now += HOUR
        for pause, units in steps:
            ground.clock.now += pause
            hold = f"{seed} {ground.clock.now}"
            answer = await reserve(ground, hold, Draw(counter, units))
            wait = answer.readings[0].wait
            assert wait is not None
            assert answer.granted is (wait == 0)
            if wait:
                assert wait <= length + length // 32
                ground.clock.now += wait - 1
                assert not (await reserve(ground, hold, Draw(counter, units))).granted
                ground.clock.now += 1
                assert (await reserve(ground, hold, Draw(counter, units))).granted

    @pytest.mark.parametrize("length", [1, 2, 33, 63])
    async def test_short_ones_are_exact(self, ground: Ground, length: int) -> None:
        counter = sliding(1, length)
        await granted(ground, "one", Draw(counter, 1))
        assert await ground.look(counter, units=1) == Reading(1, length, length, 1)
        ground.clock.now += length - 1
        assert await ground.used(counter) == 1
        ground.clock.now += 1
        assert await ground.used(counter) == 0

    async def test_reset_is_when_the_last_of_it_is_gone(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(sliding(), 2))
        ground.clock.now += 20 * SECOND
        answer = await reserve(ground, "two", Draw(sliding(), 3))
        reset = answer.readings[0].reset
        assert MINUTE <= reset < MINUTE + MINUTE // 32
        ground.clock.now += reset - 1
        assert await ground.used(sliding()) == 3
        ground.clock.now += 1
        assert await ground.look(sliding()) == Reading(0, 0, 0)

    async def test_what_was_given_back_is_not_waited_for(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(sliding(), 2))
        before = await ground.look(sliding())
        ground.clock.now += 20 * SECOND
        await granted(ground, "two", Draw(sliding(), 3))
        await settle(ground, "two", Draw(sliding(), 0))
        assert await ground.look(sliding()) == Reading(2, before.reset - 20 * SECOND, 0, 2)

    async def test_another_length_is_another_sum(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(sliding(), 10))
        assert await granted(ground, "two", Draw(sliding(length=HOUR), 10)) == [10]

    async def test_a_long_hold_is_counted_where_it_took_more(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(sliding(), 6), life=HOUR)
        ground.clock.now += 2 * MINUTE
        assert await ground.used(sliding()) == 0
        answer = await extend(ground, "one", Draw(sliding(), 14), life=HOUR)
        assert (answer.granted, answer.readings[0].used) == (True, 8)
        assert not (await extend(ground, "one", Draw(sliding(), 17))).granted
        await settle(ground, "one", Draw(sliding(), 10))
        assert await ground.used(sliding()) == 4


class TestOpenHolds:
    async def test_so_many_are_open_at_once(self, ground: Ground) -> None:
        assert await granted(ground, "one", Draw(OPEN, 1)) == [1]
        assert await granted(ground, "two", Draw(OPEN, 1)) == [2]
        assert await reserve(ground, "three", Draw(OPEN, 1)) == Answer(False, (Reading(2, 0, 1, 2),))
        await settle(ground, "one", Draw(OPEN, 1))
        assert await granted(ground, "three", Draw(OPEN, 1)) == [2]

    async def test_time_alone_closes_none(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(OPEN, 1), life=40 * DAY)
        ground.clock.now += 30 * DAY
        assert await ground.used(OPEN) == 1
        assert await settle(ground, "one")
        assert await ground.used(OPEN) == 0

    async def test_all_goes_back_at_the_end_of_life_too(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(OPEN, 2, kept=2))
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 1
        assert await ground.used(OPEN) == 0
        assert await settle(ground, "one", Draw(OPEN, 2))
        assert await ground.used(OPEN) == 0

    async def test_an_unknown_hold_opens_none(self, ground: Ground, tokens: Counter) -> None:
        assert await settle(ground, "unknown", Draw(OPEN, 1), Draw(tokens, 4))
        assert (await ground.used(OPEN), await ground.used(tokens)) == (0, 4)

    async def test_more_than_there_are_never_fit(self, ground: Ground) -> None:
        assert await reserve(ground, "one", Draw(OPEN, 3)) == Answer(False, (Reading(0, 0, None),))

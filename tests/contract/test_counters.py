"""What every store of counters promises: in memory, the specification, and in Redis."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from extproc.stores.counters import (
    CALM,
    GRACE,
    MARK,
    MOST,
    QUIET,
    SWEEP,
    Answer,
    Counter,
    Draw,
    MemoryLost,
    Reading,
    Renewal,
    Window,
)
from extproc.stores.memory_counters import MemoryCounters, _Slot
from extproc.stores.redis import counters
from extproc.stores.redis.counters import RedisCounters
from tests.support.counters import DAY, HOUR, MINUTE, PATIENCE, SECOND, Clock, Ground, ground_on, minute, month
from tests.support.redis_server import RedisServer, redis_server

LIFE = 30 * SECOND
OPEN = Counter("calls", 2)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
async def ground(request: pytest.FixtureRequest) -> AsyncIterator[Ground]:
    server = request.getfixturevalue("server") if request.param == "redis" else None
    async with ground_on(server) as made:
        yield made


@pytest.fixture
def tokens(ground: Ground) -> Counter:
    """10 a minute."""
    return Counter("tokens", 10, minute(ground.clock.now))


def sliding(capacity: int = 10, length: int = MINUTE) -> Counter:
    return Counter("rate", capacity, sliding=length)


async def reserve(ground: Ground, hold: str, *draws: Draw, life: int = LIFE, slot: str = "slot") -> Answer:
    return await ground.store.reserve(slot, hold, draws, life)


async def extend(ground: Ground, hold: str, *draws: Draw, life: int = LIFE, slot: str = "slot") -> Answer:
    return await ground.store.extend(slot, hold, draws, life)


async def settle(ground: Ground, hold: str, *draws: Draw, event: bytes | None = None, slot: str = "slot") -> bool:
    return await ground.store.settle(slot, hold, draws, event)


async def granted(ground: Ground, hold: str, *draws: Draw, life: int = LIFE) -> list[int]:
    """Reserve what must be granted: what is used of each counter then."""
    answer = await reserve(ground, hold, *draws, life=life)
    assert answer.granted
    assert [reading.wait for reading in answer.readings] == [0] * len(draws)
    return [reading.used for reading in answer.readings]


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


class TestReserve:
    async def test_one_counter_without_room_and_nothing_is_taken_anywhere(
        self, ground: Ground, tokens: Counter
    ) -> None:
        money = Counter("money", 5, month(ground.clock.now))
        await granted(ground, "one", Draw(money, 3), Draw(sliding(), 1), Draw(OPEN, 1))
        draws = (Draw(tokens, 4), Draw(OPEN, 1), Draw(money, 3), Draw(sliding(), 4))
        answer = await reserve(ground, "two", *draws)
        assert not answer.granted
        assert [reading.used for reading in answer.readings] == [0, 1, 3, 1]
        assert [bool(reading.wait) for reading in answer.readings] == [False, False, True, False]
        assert not (await extend(ground, "two", Draw(tokens, 1))).granted
        assert [await ground.used(draw.counter) for draw in draws] == [0, 1, 3, 1]
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 1

    async def test_each_that_lacks_room_tells_its_own_wait(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 10), Draw(sliding(), 10), Draw(OPEN, 2))
        answer = await reserve(ground, "two", Draw(sliding(), 11), Draw(OPEN, 1), Draw(tokens, 1))
        assert [reading.wait for reading in answer.readings] == [None, 1, tokens.windows[0].end - ground.clock.now]

    async def test_a_refused_hold_may_be_tried_again(self, ground: Ground, tokens: Counter) -> None:
        assert not (await reserve(ground, "one", Draw(tokens, 11))).granted
        assert await granted(ground, "one", Draw(tokens, 9)) == [9]

    async def test_nothing_drawn_always_fits_and_reads(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 10), Draw(OPEN, 2), Draw(sliding(), 10))
        none = (Draw(replace(tokens, capacity=3), 0), Draw(replace(OPEN, capacity=0), 0), Draw(sliding(0), 0))
        assert await granted(ground, "two", *none) == [10, 2, 10]

    async def test_no_draws_at_all_are_granted(self, ground: Ground) -> None:
        assert await reserve(ground, "one") == Answer(True, ())
        assert await settle(ground, "one")
        assert not await settle(ground, "one")

    @pytest.mark.parametrize("kind", ["calendar", "sliding", "open"])
    async def test_a_capacity_of_nothing_never_fits(self, ground: Ground, tokens: Counter, kind: str) -> None:
        counter = {"calendar": replace(tokens, capacity=0), "sliding": sliding(0), "open": Counter("calls", 0)}[kind]
        assert await reserve(ground, "one", Draw(counter, 1)) == Answer(False, (Reading(0, 0, None),))

    @pytest.mark.parametrize("kind", ["calendar", "sliding", "open"])
    async def test_a_capacity_lowered_below_what_is_used(self, ground: Ground, tokens: Counter, kind: str) -> None:
        counter = {"calendar": tokens, "sliding": sliding(), "open": Counter("calls", 10)}[kind]
        await granted(ground, "one", Draw(counter, 8))
        lowered = replace(counter, capacity=5)
        (refused,) = (await reserve(ground, "two", Draw(lowered, 1))).readings
        assert refused.used == 8
        assert refused.wait is not None
        if kind != "open":
            assert refused.wait == refused.reset > 0
        assert await granted(ground, "two", Draw(replace(counter, capacity=9), 1)) == [9]

    async def test_a_shadow_counts_and_tells_and_refuses_nothing(self, ground: Ground, tokens: Counter) -> None:
        shadow = replace(tokens, enforced=False)
        assert await granted(ground, "one", Draw(shadow, 8)) == [8]
        wait = tokens.windows[0].end - ground.clock.now
        assert await reserve(ground, "two", Draw(shadow, 5)) == Answer(True, (Reading(13, wait, wait, 13),))
        assert await reserve(ground, "three", Draw(shadow, 11)) == Answer(True, (Reading(24, wait, None, 24),))
        assert (await reserve(ground, "four", Draw(replace(OPEN, enforced=False), 3))).granted
        assert not (await reserve(ground, "five", Draw(tokens, 1))).granted

    async def test_a_shadow_takes_nothing_where_another_refuses(self, ground: Ground, tokens: Counter) -> None:
        shadow = replace(sliding(), enforced=False)
        assert not (await reserve(ground, "one", Draw(shadow, 4), Draw(tokens, 11))).granted
        assert await ground.used(shadow) == 0

    async def test_a_repeat_is_granted_and_takes_nothing(self, ground: Ground, tokens: Counter) -> None:
        draws = (Draw(tokens, 10), Draw(OPEN, 2), Draw(sliding(), 10))
        first = await reserve(ground, "one", *draws)
        assert await reserve(ground, "one", *draws) == first

    async def test_a_repeat_does_not_live_longer(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 10))
        ground.clock.now += LIFE - 1
        await granted(ground, "one", Draw(tokens, 10))
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1

    async def test_a_repeat_after_the_settling_takes_nothing(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 10))
        await settle(ground, "one", Draw(tokens, 3))
        assert await granted(ground, "one", Draw(tokens, 10)) == [3]
        assert await ground.used(tokens) == 3

    async def test_one_that_was_settled_before_it_came_takes_nothing(self, ground: Ground, tokens: Counter) -> None:
        assert await settle(ground, "one")
        assert await granted(ground, "one", Draw(tokens, 10), Draw(OPEN, 1)) == [0, 0]

    @pytest.mark.parametrize("swept", [False, True])
    async def test_a_hold_whose_life_is_over_is_refused(self, ground: Ground, tokens: Counter, swept: bool) -> None:
        await granted(ground, "one", Draw(tokens, 10, kept=2))
        ground.clock.now += LIFE
        if swept:
            assert await ground.store.expire("slot") == 1
        answer = await reserve(ground, "one", Draw(tokens, 3))
        assert (answer.granted, answer.readings[0].used) == (False, 2)
        assert await ground.used(tokens) == 2

    @pytest.mark.parametrize("units", [MOST, MOST - 1, 10**15 + 1, 10**14 + 1])
    async def test_the_largest_amounts_are_exact(self, ground: Ground, units: int) -> None:
        money = [Counter("month", MOST, month(ground.clock.now)), Counter("hour", MOST, sliding=HOUR)]
        assert await granted(ground, "one", *(Draw(counter, units, kept=units - 1) for counter in money)) == [units] * 2
        rest = MOST - units
        assert not (await reserve(ground, "two", *(Draw(counter, rest + 1) for counter in money))).granted
        assert await granted(ground, "two", *(Draw(counter, rest) for counter in money)) == [MOST] * 2
        await settle(ground, "two")
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 1
        assert [await ground.used(counter) for counter in money] == [units - 1] * 2
        await settle(ground, "one", *(Draw(counter, MOST) for counter in money))
        assert [await ground.used(counter) for counter in money] == [MOST] * 2

    async def test_slots_never_mix(self, ground: Ground, tokens: Counter) -> None:
        for slot in ("one", "two"):
            answer = await reserve(ground, "same", Draw(tokens, 7), Draw(OPEN, 1), slot=slot)
            assert [reading.used for reading in answer.readings] == [7, 1]
        assert await settle(ground, "same", slot="one")
        assert (await ground.used(tokens, "one"), await ground.used(tokens, "two")) == (0, 7)
        ground.clock.now += LIFE
        assert (await ground.store.expire("one"), await ground.store.expire("two")) == (0, 1)

    async def test_kinds_of_the_same_key_never_mix(self, ground: Ground, tokens: Counter) -> None:
        kinds = [tokens, replace(tokens, windows=month(ground.clock.now)), Counter("tokens", 10)]
        kinds += [Counter("tokens", 10, sliding=length) for length in (MINUTE, HOUR)]
        for number, counter in enumerate(kinds, 1):
            assert await granted(ground, f"hold {number}", Draw(counter, number)) == [number]

    async def test_any_text_is_a_name(self, ground: Ground, tokens: Counter) -> None:
        texts = [
            "a",
            "a:b",
            "a{b}",
            "{",
            "}",
            "}{",
            "{}",
            "a b",
            "a\n",
            "\xe9",
            "e\u0301",
            "\0",
            "*",
            "%7B",
            "",
            "1",
            "01",
        ]
        for number, text in enumerate(texts):
            draw = Draw(replace(tokens, key=text), 1)
            assert await granted(ground, f"key {number}", draw) == [1], text
            assert await granted(ground, text, Draw(replace(tokens, key="holds"), 0)) == [0], text
            answer = await reserve(ground, "one", Draw(tokens, 1), slot=text)
            assert (answer.granted, answer.readings[0].used) == (True, 1), text

    async def test_names_that_run_together_are_apart(self, ground: Ground, tokens: Counter) -> None:
        for slot, hold, key in [("a", "b:c", "d"), ("a:b", "c", "d"), ("a}:{b", "c", "d"), ("a", "b", "c:d")]:
            answer = await reserve(ground, hold, Draw(replace(tokens, key=key), 1), slot=slot)
            assert (answer.granted, answer.readings[0].used) == (True, 1)


class TestExtend:
    async def test_the_units_are_in_all(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4))
        assert (await extend(ground, "one", Draw(tokens, 7))).readings[0].used == 7
        assert (await extend(ground, "one", Draw(tokens, 10))).readings[0].used == 10
        assert await settle(ground, "one", Draw(tokens, 5))
        assert await ground.used(tokens) == 5

    async def test_a_repeat_takes_nothing(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4), Draw(OPEN, 1))
        first = await extend(ground, "one", Draw(tokens, 9), Draw(OPEN, 1))
        assert first.granted
        assert await extend(ground, "one", Draw(tokens, 9), Draw(OPEN, 1)) == first
        assert await ground.used(tokens) == 9

    async def test_less_gives_nothing_back(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 9))
        assert (await extend(ground, "one", Draw(tokens, 2))).readings[0].used == 9

    async def test_it_renews_the_life_from_now(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4), life=LIFE)
        ground.clock.now += LIFE - 1
        assert (await extend(ground, "one", life=LIFE)).granted
        ground.clock.now += LIFE - 1
        assert await ground.store.expire("slot") == 0
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1
        assert await ground.store.expire("slot") == 0

    async def test_it_may_shorten_the_life(self, ground: Ground) -> None:
        await granted(ground, "one", Draw(OPEN, 1), life=HOUR)
        assert (await extend(ground, "one", life=1)).granted
        ground.clock.now += 1
        assert await ground.store.expire("slot") == 1
        ground.clock.now += HOUR
        assert await ground.store.expire("slot") == 0

    async def test_without_room_nothing_changes(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4, kept=1), Draw(sliding(), 1))
        wait = tokens.windows[0].end - ground.clock.now
        answer = await extend(ground, "one", Draw(sliding(), 5, kept=5), Draw(tokens, 11, kept=4), life=HOUR)
        assert not answer.granted
        assert answer.readings[0].used == 1
        assert answer.readings[1] == Reading(4, wait, wait, 4)  # 7 more would fit in the next
        ground.clock.now += LIFE
        assert await ground.store.expire("slot") == 1
        assert (await ground.used(tokens), await ground.used(sliding())) == (1, 0)

    async def test_what_can_never_fit_beside_nothing(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 4))
        assert (await extend(ground, "one", Draw(tokens, 15))).readings[0].wait is None

    async def test_kept_is_instead_of_what_it_was(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 6, kept=6), Draw(sliding(), 6, kept=6))
        await extend(ground, "one", Draw(tokens, 8, kept=3))
        ground.clock.now += LIFE
        await ground.store.expire("slot")
        assert (await ground.used(tokens), await ground.used(sliding())) == (3, 6)

    async def test_a_counter_it_had_nothing_on_is_drawn_on(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(OPEN, 1))
        assert (await extend(ground, "one", Draw(tokens, 8, kept=3))).readings[0].used == 8
        assert not (await reserve(ground, "two", Draw(tokens, 3))).granted
        ground.clock.now += LIFE
        assert await granted(ground, "two", Draw(tokens, 3)) == [6]

    async def test_it_takes_from_the_present_window(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 9), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        assert (await extend(ground, "one", Draw(later, 19), life=HOUR)).readings[0].used == 10
        assert not (await extend(ground, "one", Draw(later, 20))).granted
        await settle(ground, "one", Draw(later, 11))
        assert await ground.used(later) == 2
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 9

    async def test_a_renewal_alone_books_nowhere_else(self, ground: Ground, tokens: Counter) -> None:
        await granted(ground, "one", Draw(tokens, 9), life=HOUR)
        ground.clock.now += MINUTE
        later = replace(tokens, windows=minute(ground.clock.now))
        assert (await extend(ground, "one", Draw(later, 9), life=HOUR)).granted
        await settle(ground, "one", Draw(later, 12))
        assert await ground.used(later) == 0
        assert await ground.used(replace(tokens, windows=tokens.windows[:1])) == 12

    async def test_one_whose_life_is_over_lives_on_where_nobody_closed_it(
        self, ground: Ground, tokens: Counter
    ) -> None:
        await granted(ground, "one", Draw(tokens, 4), life=SECOND)
        ground.clock.now += HOUR
        assert (await extend(ground, "one", Draw(tokens, 4), Draw(OPEN, 1))).granted
        assert await ground.store.expire("slot") == 0

    @pytest.mark.parametrize("gone", ["unknown", "settled", "closed"])
    async def test_a_hold_that_is_gone_is_refused(self, ground: Ground, tokens: Counter, gone: str) -> None:
        await granted(ground, "other", Draw(tokens, 2))
        if gone != "unknown":
            await granted(ground, "one", Draw(tokens, 4, kept=4), life=SECOND)
        if gone == "settled":
            await settle(ground, "one", Draw(tokens, 4))
        else:
            ground.clock.now += SECOND
        if gone == "closed":
            assert await ground.store.expire("slot") == 1
        used = 2 if gone == "unknown" else 6
        answer = await extend(ground, "one", Draw(tokens, 4))
        assert (answer.granted, answer.readings[0].used, answer.readings[0].wait) == (False, used, 0)
        assert await ground.used(tokens) == used
        assert await ground.store.expire("slot") == 0


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


class TestWhatNoStepTakes:
    """ValueError before anything happens."""

    @pytest.mark.parametrize("step", ["reserve", "extend", "retake", "settle"])
    @pytest.mark.parametrize(
        "wrong",
        [
            [Draw(OPEN, 1), Draw(OPEN, 1)],
            [Draw(OPEN, 1), Draw(sliding(), 1), Draw(replace(sliding(), key=OPEN.key), 0)],
            [Draw(OPEN, -1)],
            [Draw(OPEN, MOST + 1)],
            [Draw(OPEN, 1, kept=-1)],
            [Draw(OPEN, 1, kept=MOST + 1)],
            [Draw(Counter("calls", -1), 1)],
            [Draw(Counter("calls", MOST + 1), 1)],
            [Draw(sliding(length=-1), 1)],
            [Draw(replace(sliding(), windows=(Window(0, 1),)), 1)],
        ],
    )
    async def test_it_is_refused(self, ground: Ground, tokens: Counter, step: str, wrong: Sequence[Draw]) -> None:
        await granted(ground, "one", Draw(tokens, 1))
        draws = [Draw(tokens, 5), *wrong]
        steps: dict[str, Callable[[], Awaitable[object]]] = {
            "reserve": lambda: reserve(ground, "two", *draws),
            "extend": lambda: extend(ground, "one", *draws),
            "retake": lambda: ground.store.retake("slot", "one", draws, LIFE),
            "settle": lambda: settle(ground, "one", *draws, event=b"event"),
        }
        with pytest.raises(ValueError, match=r"^(two draws|a counter|an amount)"):
            await steps[step]()
        assert await ground.used(tokens) == 1
        assert ground.events() == []
        assert await settle(ground, "one")


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


class TestRedis:
    """What only the store in Redis can be asked."""

    async def test_the_time_is_the_servers(self, server: RedisServer) -> None:
        store = RedisCounters(server.url, PATIENCE, "time")
        try:
            now = int(time.time() * 1000)
            past, here = Window(now - 2 * HOUR, now - HOUR), Window(now - HOUR, now + HOUR)
            counters = [Counter("hours", 10, (past, here)), Counter("rate", 10, sliding=HOUR)]
            answer = await store.reserve("slot", "one", [Draw(counter, 10) for counter in counters], MINUTE)
            assert answer.granted
            assert 0 < HOUR - answer.readings[0].reset < MINUTE
            refused = await store.reserve("slot", "two", [Draw(counters[0], 1)], MINUTE)
            assert not refused.granted
            assert await store.expire("slot") == 0
        finally:
            await store.close()

    async def test_a_store_that_lost_its_memory_is_not_trusted_at_once(self, server: RedisServer) -> None:
        """Whoever was here before tells it first what was used; what is told and retaken counts meanwhile."""
        server.flush()
        async with ground_on(server) as ground:
            rate, store = sliding(), ground.store
            since = (await store.renew("slot", [], LIFE)).since
            assert since == ground.clock.now
            await store.reserve("slot", "open", [Draw(rate, 3)], HOUR, since)
            server.flush()
            ground.clock.now += SECOND
            for known in (since, since - HOUR, 0):  # the next ones change nothing
                told = await store.renew("slot", ["open"], LIFE, known)
                assert told == Renewal(since + SECOND + GRACE, ("open",))
            for known in (since, told.since):
                with pytest.raises(MemoryLost):
                    await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, known)
                with pytest.raises(MemoryLost):
                    await store.extend("slot", "open", [Draw(rate, 4)], LIFE, known)
            await store.retake("slot", "open", [Draw(rate, 3)], HOUR)
            await store.settle("slot", "before", [Draw(rate, 6)])
            ground.clock.now += GRACE - 1
            with pytest.raises(MemoryLost):
                await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, told.since)
            ground.clock.now += 1
            assert not (await store.reserve("slot", "two", [Draw(rate, 2)], LIFE, told.since)).granted
            assert (await store.reserve("slot", "two", [Draw(rate, 1)], LIFE, told.since)).granted

    async def test_what_one_call_alone_uses_is_not_remembered(self, server: RedisServer, tokens: Counter) -> None:
        async with ground_on(server) as ground:
            before = len(counters._packed_counters)
            for call in range(20):
                await reserve(ground, f"{call}", Draw(Counter(f"once/{call}", 1), 1), Draw(tokens, 0))
            assert len(counters._packed_counters) <= before + 1

    async def test_workers_share_one_budget(self, server: RedisServer) -> None:
        stores = [RedisCounters(server.url, PATIENCE, "shared") for _ in range(4)]
        try:
            for turn in range(20):
                budget = Counter(f"budget {turn}", 7 * turn, sliding=DAY)
                calls = [
                    (store, f"{turn}.{number}.{call}") for call in range(50) for number, store in enumerate(stores)
                ]
                steps = [store.reserve("slot", hold, [Draw(budget, 1)], MINUTE) for store, hold in calls]
                assert sum(answer.granted for answer in await asyncio.gather(*steps)) == 7 * turn
        finally:
            await asyncio.gather(*(store.close() for store in stores))

    async def test_no_key_lives_for_ever(self, server: RedisServer) -> None:
        server.flush()
        async with ground_on(server) as ground:
            draws = [Draw(Counter("tokens", 10, minute(ground.clock.now)), 3), Draw(sliding(), 3), Draw(OPEN, 1)]
            await reserve(ground, "one", *draws)
            await extend(ground, "one", *draws)
            await reserve(ground, "two", *draws)
            await settle(ground, "two", *draws, event=b"event")
            await settle(ground, "unknown", *draws)
            await ground.store.renew("slot", ["one"], LIFE)
            await ground.store.renew("empty", [], LIFE)
            keys = server.call("KEYS", "*")
            assert keys
            assert [key for key in keys if server.call("PTTL", key) < 0 and server.call("TYPE", key) != b"stream"] == []

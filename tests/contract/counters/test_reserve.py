"""What a reserve and its extensions take, what they refuse, and what no step takes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from extproc.stores.counters import MOST, Answer, Counter, Draw, Reading, Window
from tests.contract.counters.steps import LIFE, OPEN, extend, granted, reserve, settle, sliding
from tests.support.counters import HOUR, MINUTE, SECOND, Ground, minute, month


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

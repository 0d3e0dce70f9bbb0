"""Counters on any history: the same answers as a model that keeps every unit apart and counts anew each time."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from extproc.stores.counters import CALM, QUIET, SWEEP, Answer, Counter, Draw, Reading, Window
from tests.support.counters import HOUR, MINUTE, SECOND, Clock, Ground, ground_on, minute, month
from tests.support.redis_server import RedisServer, redis_server

LONGEST_LIFE = 10 * MINUTE


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit that a hold took. A draw of 0 is one that weighs nothing: it says where the hold came by."""

    key: str
    window: Window | None
    length: int
    taken: int
    weight: int = 1

    @property
    def place(self) -> object:
        """Its window, or bucket."""
        return self.window or self.leaves(0)

    def leaves(self, now: int) -> int:
        """When it no longer counts; a calendar's and an open hold's counts on for those who ask for its window."""
        if not self.length:
            return now + 1 if self.window is None else max(now + 1, self.window.end)
        grain = max(1, self.length // 32)
        bucket_end = -(-(self.taken + 1) // grain) * grain
        return bucket_end - 1 + self.length


@dataclass(slots=True)
class Held:
    end: int
    units: list[Unit] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    state: Literal["open", "closed", "settled"] = "open"

    def left(self, key: str, count: int) -> list[Unit]:
        """The units of a counter that stay where so many of them were used."""
        units = [unit for unit in self.units if unit.key == key]
        if not units or (units[0].window is None and not units[0].length):
            return []
        places = list(dict.fromkeys([unit.place for unit in units]))  # where it took more later, all is as of the first
        real = sorted([unit for unit in units if unit.weight], key=lambda unit: places.index(unit.place))
        last = replace(next(unit for unit in units if unit.place == places[-1]), weight=1)
        return (real + [last] * count)[:count]

    def has(self, key: str) -> int:
        return sum(unit.weight for unit in self.units if unit.key == key)

    def counted(self) -> list[Unit]:
        if self.state != "closed":
            return self.units
        return [unit for key, kept in self.kept.items() for unit in self.left(key, min(kept, self.has(key)))]


class Model:
    """What the port says, on one thread, with no thought of speed."""

    def __init__(self) -> None:
        self.holds: dict[str, Held] = {}
        self.obituaries: list[dict[str, object]] = []
        self.renewed: int | None = None
        self.calm = 0

    def standing(self, counter: Counter, now: int, *states: str) -> list[Unit]:
        """The units that a counter counts now, those that leave first in front; all, or those of holds in a state."""
        window = _window(counter, now)
        units = [
            unit
            for hold in self.holds.values()
            if not states or hold.state in states
            for unit in hold.counted()
            if (unit.key, unit.window, unit.length) == (counter.key, window, counter.sliding)
            if unit.weight and unit.leaves(now) > now
        ]
        return sorted(units, key=lambda unit: unit.leaves(now))

    def reading(self, counter: Counter, units: int, now: int) -> Reading:
        standing = self.standing(counter, now)
        is_open = not counter.windows and not counter.sliding
        reset = 0 if is_open or not standing else standing[-1].leaves(now) - now
        held = len(self.standing(counter, now, "open"))
        return Reading(len(standing), reset, self._wait(counter, units, now), held)

    def _wait(self, counter: Counter, units: int, now: int) -> int | None:
        if units > counter.capacity:
            return None
        leaving = [unit.leaves(now) for unit in self.standing(counter, now)]
        for time in (now, *leaving):
            if not units or sum(leaves > time for leaves in leaving) + units <= counter.capacity:
                return time - now
        raise AssertionError("what fits beside nothing fits in the end")

    def take(self, hold: Held, draws: Sequence[Draw], now: int) -> Answer:
        more = [max(0, draw.units - hold.has(draw.counter.key)) for draw in draws]
        before = [self.reading(draw.counter, units, now) for draw, units in zip(draws, more, strict=True)]
        if any(draw.counter.enforced and reading.wait != 0 for draw, reading in zip(draws, before, strict=True)):
            return Answer(False, tuple(before))
        self.give(hold, draws, now)
        return Answer(True, tuple(before))

    def give(self, hold: Held, draws: Sequence[Draw], now: int) -> None:
        for draw in draws:
            counter = draw.counter
            units = max(0, draw.units - hold.has(counter.key))
            unit = Unit(counter.key, _window(counter, now), counter.sliding, now)
            is_new = counter.key not in hold.kept
            hold.units += [unit] * units or [replace(unit, weight=0)] * is_new
            hold.kept[counter.key] = draw.kept

    def reserve(self, name: str, draws: Sequence[Draw], life: int, now: int) -> Answer:
        self.expire(now)
        known = self.holds.get(name)
        if known is not None and known.state == "closed":
            return Answer(False, tuple(self.reading(draw.counter, draw.units, now) for draw in draws))
        if known is not None:
            return Answer(True, tuple(self.reading(draw.counter, 0, now) for draw in draws))
        hold = Held(now + life)
        return self._put(name, hold, self.take(hold, draws, now), draws, now)

    def extend(self, name: str, draws: Sequence[Draw], life: int, now: int) -> Answer:
        hold = self.holds.get(name)
        if hold is None or hold.state != "open":
            return Answer(False, tuple(self.reading(draw.counter, draw.units, now) for draw in draws))
        answer = self.take(hold, draws, now)
        hold.end = now + life if answer.granted else hold.end
        return self._put(name, hold, answer, draws, now)

    def _put(self, name: str, hold: Held, answer: Answer, draws: Sequence[Draw], now: int) -> Answer:
        if not answer.granted:
            return answer
        self.holds[name] = hold
        after = [self.reading(draw.counter, 0, now) for draw in draws]
        return Answer(True, tuple(new._replace(wait=old.wait) for new, old in zip(after, answer.readings, strict=True)))

    def retake(self, name: str, draws: Sequence[Draw], life: int, now: int) -> None:
        hold = self.holds.setdefault(name, Held(now))
        if hold.state != "settled":
            self.give(hold, draws, now)
            hold.state, hold.end = "open", now + life

    def renew(self, names: Sequence[str], life: int, now: int) -> tuple[str, ...]:
        if self.renewed is not None and now - self.renewed > QUIET:
            self.calm = now + CALM
        self.renewed = now
        gone = []
        for name in names:
            hold = self.holds.get(name)
            if hold is None or hold.state != "open":
                gone.append(name)
            else:
                hold.end = now + life
        return tuple(gone)

    def settle(self, name: str, draws: Sequence[Draw], now: int, ago: int = 0) -> bool:
        hold = self.holds.setdefault(name, Held(now))
        if hold.state == "settled":
            return False
        used = {draw.counter.key: draw.units for draw in draws}
        units = [unit for key in hold.kept for unit in hold.left(key, used.get(key, 0))]
        for draw in draws:
            counter = draw.counter
            if counter.key not in hold.kept and (counter.windows or counter.sliding):
                units += [Unit(counter.key, _window(counter, now - ago), counter.sliding, now - ago)] * draw.units
        hold.units, hold.state, hold.end = units, "settled", now
        return True

    def expire(self, now: int) -> int:
        over = self.over(now)
        for name, hold in over.items():
            hold.state = "closed"
            kept = {key: len(hold.left(key, min(kept, hold.has(key)))) for key, kept in hold.kept.items()}
            self.obituaries.append({"id": name, "expired": True, "kept": kept})
        return len(over)

    def over(self, now: int) -> dict[str, Held]:
        if self.renewed is not None and (now - self.renewed > QUIET or now < self.calm):
            return {}
        return {name: hold for name, hold in self.holds.items() if hold.state == "open" and hold.end <= now}

    def remembered(self, now: int) -> list[str]:
        """The holds that every store must know yet: for the others nothing is promised."""
        return [name for name, hold in self.holds.items() if hold.end + 20 * HOUR > now]


def _window(counter: Counter, now: int) -> Window | None:
    if not counter.windows:
        return None
    return next((window for window in counter.windows if window.end > now), counter.windows[-1])


CAPACITY = {"minute": 12, "month": 100, "second": 10, "wide": 20, "calls": 30, "shadow": 5}
KEYS = list(CAPACITY)
AMOUNTS = st.one_of(st.integers(0, 4), st.integers(0, 15))
LIVES = st.one_of(st.integers(1, 3 * SECOND), *[st.integers(1, LONGEST_LIFE)] * 2)
CAPACITIES = st.sampled_from([0, 1, 8, 12, 20, 30, 100])
WANTED = st.dictionaries(st.sampled_from(KEYS), st.tuples(AMOUNTS, AMOUNTS), max_size=4)
FITTING = st.dictionaries(st.sampled_from(KEYS), st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1)
USED = st.dictionaries(st.sampled_from(KEYS), st.one_of(st.just(0), AMOUNTS, st.just(40)), max_size=4)
PAUSES = st.one_of(st.integers(1, 200), st.integers(1, 3 * SECOND), st.integers(1, 2 * MINUTE))


class Histories(RuleBasedStateMachine):
    """Steps in one slot, by a caller whose clock is a little off. Subclasses say on what ground."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.context = self.make_ground()
        self.ground = self.runner.run(self.context.__aenter__())
        self.model = Model()
        self.capacity = dict(CAPACITY)
        self.skew = 0
        self.names = 0
        self.since: int | None = None

    def make_ground(self) -> AbstractAsyncContextManager[Ground]:
        raise NotImplementedError

    def teardown(self) -> None:
        """The bus was told of the same ends; of several in one step in any order."""
        told = [json.loads(event) for event in self.ground.events()]
        assert sorted(told, key=str) == sorted(self.model.obituaries, key=str)
        self.runner.run(self.context.__aexit__(None, None, None))
        self.runner.close()

    @property
    def clock(self) -> Clock:
        return self.ground.clock

    def counter(self, key: str) -> Counter:
        callers = self.clock.now + self.skew
        made = {
            "minute": Counter(key, 0, minute(callers)),
            "month": Counter(key, 0, month(callers)),
            "second": Counter(key, 0, sliding=SECOND),
            "wide": Counter(key, 0, sliding=100 * SECOND + 7),
            "calls": Counter(key, 0),
            "shadow": Counter(key, 0, minute(callers), enforced=False),
        }[key]
        return replace(made, capacity=self.capacity[key])

    def draws(self, wanted: dict[str, tuple[int, int]]) -> list[Draw]:
        return [Draw(self.counter(key), units, kept) for key, (units, kept) in wanted.items()]

    def new_name(self) -> str:
        self.names += 1
        return f"hold {self.names}"

    def some_hold(self, data: st.DataObject, *states: str) -> str:
        """One in such a state mostly, or any that a store must know yet, or one that was never there."""
        known = self.model.remembered(self.clock.now)
        likely = [name for name in known if self.model.holds[name].state in states]
        which = data.draw(st.sampled_from([likely or known] * 7 + [known] * 2 + [[]]), "of these")
        return data.draw(st.sampled_from(which), "hold") if which else self.new_name()

    def check_reserve(self, name: str, draws: list[Draw], life: int) -> None:
        assume(len(self.model.over(self.clock.now)) <= SWEEP)
        expected = self.model.reserve(name, draws, life, self.clock.now)
        assert self.runner.run(self.ground.store.reserve("slot", name, draws, life)) == expected

    @rule(wanted=WANTED, life=LIVES)
    def reserve(self, wanted: dict[str, tuple[int, int]], life: int) -> None:
        self.check_reserve(self.new_name(), self.draws(wanted), life)

    @rule(wanted=FITTING, life=LIVES)
    def reserve_a_little(self, wanted: dict[str, tuple[int, int]], life: int) -> None:
        self.check_reserve(self.new_name(), self.draws(wanted), life)

    @rule(data=st.data(), wanted=WANTED, life=LIVES)
    def reserve_again(self, data: st.DataObject, wanted: dict[str, tuple[int, int]], life: int) -> None:
        self.check_reserve(self.some_hold(data, "open", "closed"), self.draws(wanted), life)

    @rule(data=st.data(), more=st.one_of(FITTING, WANTED), life=LIVES)
    def extend(self, data: st.DataObject, more: dict[str, tuple[int, int]], life: int) -> None:
        self.check_extend(self.some_hold(data, "open"), more, life)

    @rule(data=st.data(), more=FITTING, life=LIVES)
    def extend_in_the_next_minute(self, data: st.DataObject, more: dict[str, tuple[int, int]], life: int) -> None:
        name = self.some_hold(data, "open")
        next_minute, end = minute(self.clock.now)[0].end, self.model.holds.get(name, Held(0)).end
        self.clock.now = max(self.clock.now, min(next_minute, end - 1))
        self.check_extend(name, more, life)

    def check_extend(self, name: str, more: dict[str, tuple[int, int]], life: int) -> None:
        """Twice, as the second time changes nothing."""
        has = self.model.holds.get(name, Held(0)).has
        draws = self.draws({key: (has(key) + units, kept) for key, (units, kept) in more.items()})
        for _ in range(2):
            expected = self.model.extend(name, draws, life, self.clock.now)
            assert self.runner.run(self.ground.store.extend("slot", name, draws, life)) == expected

    @rule(data=st.data(), used=USED, again=st.booleans(), ago=st.one_of(st.just(0), PAUSES))
    def settle(self, data: st.DataObject, used: dict[str, int], again: bool, ago: int) -> None:
        name = self.some_hold(data, data.draw(st.sampled_from(["open", "closed"]), "state"))
        draws = [Draw(self.counter(key), units) for key, units in used.items()]
        for _ in range(1 + again):
            expected = self.model.settle(name, draws, self.clock.now, ago)
            assert self.runner.run(self.ground.store.settle("slot", name, draws, ago=ago)) == expected

    @rule(data=st.data(), wanted=WANTED, life=LIVES)
    def retake(self, data: st.DataObject, wanted: dict[str, tuple[int, int]], life: int) -> None:
        name = self.some_hold(data, data.draw(st.sampled_from(["open", "closed", "closed"]), "state"))
        for _ in range(2):
            self.model.retake(name, self.draws(wanted), life, self.clock.now)
            self.runner.run(self.ground.store.retake("slot", name, self.draws(wanted), life))

    @rule(data=st.data(), count=st.integers(0, 4), life=LIVES)
    def renew(self, data: st.DataObject, count: int, life: int) -> None:
        self.check_renew([self.some_hold(data, "open") for _ in range(count)], life)

    def check_renew(self, names: list[str], life: int) -> None:
        gone = self.model.renew(names, life, self.clock.now)
        told = self.runner.run(self.ground.store.renew("slot", names, life))
        assert told.gone == gone
        assert self.since in (None, told.since)
        self.since = told.since

    @rule()
    def expire(self) -> None:
        expected = self.model.expire(self.clock.now)
        assert self.runner.run(self.ground.store.expire("slot")) == expected

    @rule(pause=PAUSES)
    def wait(self, pause: int) -> None:
        self.clock.now += pause

    @rule(edge=st.sampled_from(["minute", "month"]), beside=st.sampled_from([-1, 0, 1]))
    def wait_for_an_edge(self, edge: str, beside: int) -> None:
        if edge == "month":
            self.close_all()
        (window, _) = minute(self.clock.now) if edge == "minute" else month(self.clock.now)
        self.clock.now = max(self.clock.now, window.end + beside)

    @rule(beside=st.sampled_from([-1, 0]))
    def wait_for_the_end_of_a_life(self, beside: int) -> None:
        ends = [hold.end for hold in self.model.holds.values() if hold.state == "open" and hold.end > self.clock.now]
        self.clock.now = max(self.clock.now, min(ends, default=0) + beside)

    @rule(key=st.sampled_from(["second", "wide"]), beside=st.sampled_from([-1, 0]))
    def wait_until_something_leaves(self, key: str, beside: int) -> None:
        leaving = [unit.leaves(self.clock.now) for unit in self.model.standing(self.counter(key), self.clock.now)]
        self.clock.now = max(self.clock.now, min(leaving, default=0) + beside)

    def close_all(self) -> None:
        """Before a sleep of more than a day: when a store closes by itself what nobody closed is its own affair."""
        self.clock.now += LONGEST_LIFE
        for _ in range(2):
            self.check_renew([], 1)
            self.clock.now += CALM
        self.expire()

    @rule(key=st.sampled_from(KEYS), data=st.data())
    def wait_as_told(self, key: str, data: st.DataObject) -> None:
        """What is refused for now fits when it was told to, and not a millisecond sooner.

        Where the caller comes with the next window, and nobody whose clock is ahead was there before.
        """
        if key == "month":
            self.close_all()
        counter = self.counter(key)
        units = data.draw(st.integers(0, counter.capacity), "units")
        wait = self.runner.run(self.ground.look(counter, units=units)).wait
        assert wait is not None
        next_window = replace(counter, windows=counter.windows[1:])
        if counter.windows and (
            counter.windows[0].end <= self.clock.now or self.model.standing(next_window, self.clock.now)
        ):
            return
        if not wait or key == "calls":
            return
        self.clock.now += wait - 1
        assert self.runner.run(self.ground.look(counter, units=units)).wait == 1
        self.clock.now += 1
        assert self.runner.run(self.ground.look(counter, units=units)).wait == 0

    @rule(key=st.sampled_from(KEYS), capacity=CAPACITIES)
    def change_a_limit(self, key: str, capacity: int) -> None:
        self.capacity[key] = capacity

    @rule(skew=st.sampled_from([0, 0, -30 * SECOND, 30 * SECOND, -3 * MINUTE, 3 * MINUTE]))
    def skew_the_callers_clock(self, skew: int) -> None:
        self.skew = skew

    @invariant()
    def every_counter_stands_as_in_the_model(self) -> None:
        draws = [Draw(self.counter(key), 3) for key in KEYS]
        answer = self.runner.run(self.ground.store.extend("slot", "nobody", draws, 1))
        expected = [self.model.reading(draw.counter, 3, self.clock.now) for draw in draws]
        assert answer == Answer(False, tuple(expected))


class InMemory(Histories):
    def make_ground(self) -> AbstractAsyncContextManager[Ground]:
        return ground_on(None)


TestMemory = InMemory.TestCase
TestMemory.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


def test_redis(server: RedisServer) -> None:
    class InRedis(Histories):
        def make_ground(self) -> AbstractAsyncContextManager[Ground]:
            return ground_on(server)

    run_state_machine_as_test(InRedis, settings=settings(max_examples=40, stateful_step_count=60, deadline=None))

"""Counters in memory: the specification of the port, and enough for one worker.

Read it beside extproc/stores/counters.py, which says what a step means; here is how each comes about. Units lie at
places: in a calendar window, in a bucket of a sliding window, or among all open holds. A hold remembers, in order, the
places that it has units at, so that what comes back later comes back where it was taken.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from extproc.stores.counters import (
    CALM,
    DAY,
    MARK,
    QUIET,
    SWEEP,
    Answer,
    Counter,
    Draw,
    MemoryLost,
    Reading,
    Renewal,
    bucket,
    checked,
    obituary,
)

_TIDY = 60_000  # milliseconds between two looks whether a sum can be forgotten


class MemoryCounters:
    """See Counters. No step awaits anything, which makes each of them atomic on its event loop.

    `clock` tells Unix time in milliseconds; `bus` is given the slot and the event of a hold that has ended.
    What has been over for long is forgotten as other steps are taken, a little at each: memory stays bounded without
    a timer, but for some 200 bytes of every call that was settled within MARK.
    """

    def __init__(self, clock: Callable[[], int], bus: Callable[[str, bytes], None] | None = None) -> None:
        self._clock = clock
        self._bus = bus or (lambda _slot, _event: None)
        self._since = clock()
        self._slots: dict[str, _Slot] = {}

    @property
    def connections(self) -> int:
        """There are none that could break."""
        return 0

    async def reserve(
        self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0, note: bytes = b""
    ) -> Answer:
        checked(draws)
        self._check(since)
        each, now = self._step(slot)
        return each.reserve(hold, draws, life, now, note)

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0) -> Answer:
        checked(draws)
        self._check(since)
        each, now = self._step(slot)
        return each.extend(hold, draws, life, now)

    async def retake(self, slot: str, hold: str, draws: Sequence[Draw], life: int, note: bytes = b"") -> None:
        checked(draws)
        each, now = self._step(slot)
        each.retake(hold, draws, life, now, note)

    async def renew(self, slot: str, holds: Sequence[str], life: int, since: int = 0) -> Renewal:  # noqa: ARG002
        each, now = self._step(slot)
        return Renewal(self._since, each.renew(holds, life, now))

    async def settle(
        self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
    ) -> bool:
        checked(draws)
        each, now = self._step(slot)
        is_new = each.settle(hold, draws, now, ago)
        if is_new and event is not None:
            self._bus(slot, event)
        return is_new

    def be_patient(self, seconds: float) -> None:
        """It answers at once."""

    async def expire(self, slot: str) -> int:
        each, now = self._step(slot)
        return each.sweep(now)

    async def close(self) -> None:
        """There are no connections."""

    def _check(self, since: int) -> None:
        if since not in (0, self._since):
            raise MemoryLost("this memory has not been there for as long")

    def _step(self, name: str) -> tuple["_Slot", int]:
        """The slot of a step, and its time."""
        now = self._clock()
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = _Slot(name, self._bus)
        slot.forget(now)
        return slot, now


# ---- sums ----


class _Total:
    """Of a calendar window; where `end` is 0, of the open holds."""

    __slots__ = ("_end", "_until", "held", "used")

    def __init__(self, end: int) -> None:
        self._end = end
        self._until = 0
        self.used = self.held = 0

    @property
    def is_open(self) -> bool:
        return not self._end

    def place(self, _now: int) -> "_Place":
        """Where the units go that are taken now."""
        return self, 0

    def add(self, _edge: int, units: int, held: int, now: int) -> None:
        """Add units, or take some away where they are below 0: what was forgotten meanwhile may not become room.

        `held`: how many more, or fewer, of them an open hold has.
        """
        self.used = max(0, self.used + units)
        self.held = min(max(0, self.held + held), self.used)
        if self._end:
            self._until = max(self._end, now) + MARK

    def keep(self, until: int) -> None:
        """Remember it until then at least: a hold that was closed may come back to it."""
        self._until = max(self._until, until)

    def reset(self, now: int) -> int:
        return max(self._end - now, 1) if self.used and self._end else 0

    def wait(self, units: int, capacity: int, now: int) -> int | None:
        """How long until so many units fit.

        An open hold may end at any time, so soon; and a window that is over on our clock alone counts until its
        caller comes with the next one.
        """
        if not units or self.used + units <= capacity:
            return 0
        return max(self._end - now, 1) if units <= capacity else None

    def needed_until(self, now: int) -> int:
        """When it may be forgotten, as far as is known."""
        return now + _TIDY if self.is_open and self.used else self._until


_Bucket = tuple[int, int]
"""Its units, and how many of them open holds have."""

_NONE: _Bucket = (0, 0)


class _Sliding:
    """Of a sliding window, by buckets. One counts for as long as its edge does, its last millisecond."""

    __slots__ = ("_buckets", "_length", "_until", "held", "used")

    is_open = False

    def __init__(self, length: int) -> None:
        self._length = length
        self._buckets: dict[int, _Bucket] = {}  # by edge, the oldest first, none without units
        self._until = 0
        self.used = self.held = 0

    def place(self, now: int) -> "_Place":
        """As _Total. What has left the window is let go of: readings are those of now."""
        self._trim(now)
        return self, bucket(self._length, now)

    def add(self, edge: int, units: int, held: int, now: int) -> None:
        """As _Total."""
        self._until = now + self._length + MARK
        self._trim(now)
        if edge + self._length <= now:
            return
        before = self._buckets.get(edge, _NONE)
        after = max(0, before[0] + units)
        still_held = min(max(0, before[1] + held), after)
        self.used += after - before[0]
        self.held += still_held - before[1]
        if not after:
            self._buckets.pop(edge, None)
        elif edge in self._buckets or edge > next(reversed(self._buckets), 0):
            self._buckets[edge] = after, still_held
        else:
            self._buckets = dict(sorted([*self._buckets.items(), (edge, (after, still_held))]))

    def keep(self, _until: int) -> None:
        """There is nothing to come back to where all has left the window."""

    def reset(self, now: int) -> int:
        return next(reversed(self._buckets)) + self._length - now if self._buckets else 0

    def wait(self, units: int, capacity: int, now: int) -> int | None:
        """How long until so many units fit."""
        over = self.used + units - capacity
        if not units or over <= 0:
            return 0
        for edge, (units_there, _) in self._buckets.items():
            over -= units_there
            if over <= 0:
                return edge + self._length - now
        return None

    def needed_until(self, _now: int) -> int:
        """As _Total."""
        return self._until

    def _trim(self, now: int) -> None:
        while self._buckets and (edge := next(iter(self._buckets))) + self._length <= now:
            units, held = self._buckets.pop(edge)
            self.used -= units
            self.held -= held


_Sum = _Total | _Sliding

_SumId = tuple[str, int, int]
"""A counter's key, and what its window is: of another kind, window or length it is another sum."""

_Place = tuple[_Sum, int]
"""A sum, and the edge of its bucket where it has some."""


# ---- holds ----


@dataclass(slots=True)
class _Booking:
    """What a hold has of one counter, by place, in the order in which it was taken."""

    places: dict[_Place, int] = field(default_factory=dict)
    kept: int = 0

    @property
    def held(self) -> int:
        return sum(self.places.values())

    def ended(self, units: int) -> dict[_Place, int]:
        """What stays at each place when the hold ends with so many units used.

        What was taken first was used first; what is more than was held counts at the last place.
        """
        *earlier, last = self.places
        if last[0].is_open:
            return dict.fromkeys(self.places, 0)
        shares = {}
        for place in earlier:
            shares[place] = min(units, self.places[place])
            units -= shares[place]
        shares[last] = units
        return shares

    def expired(self) -> dict[_Place, int]:
        return self.ended(min(self.kept, self.held))


@dataclass(slots=True)
class _Hold:
    """One that nobody has settled."""

    end: int = 0  # of its life
    is_closed: bool = False
    bookings: dict[str, _Booking] = field(default_factory=dict)  # by the counter's key
    note: bytes = b""


class _Slot:
    """What one atomic step can touch."""

    def __init__(self, name: str, bus: Callable[[str, bytes], None]) -> None:
        self._name = name
        self._bus = bus
        self._sums: dict[_SumId, _Sum] = {}
        self._looks: list[tuple[int, _SumId]] = []  # a heap: when to look whether each can be forgotten
        self._holds: dict[str, _Hold] = {}
        self._lives: list[tuple[int, str]] = []  # a heap of ends and holds; a hold that lives on has more than one
        self._closed: OrderedDict[str, int] = OrderedDict()  # when holds were closed, the first of them first
        self._marks: OrderedDict[str, int] = OrderedDict()  # when holds were settled, likewise
        self._renewed: int | None = None  # when holds were, of whomever
        self._calm = 0  # until when none are closed

    # ---- steps ----

    def reserve(self, name: str, draws: Sequence[Draw], life: int, now: int, note: bytes) -> Answer:
        self.sweep(now, SWEEP)
        hold = self._own(name, now)
        if self._is_settled(name, now) or (hold is not None and not hold.is_closed):
            return Answer(True, self._readings(draws, [0 for _ in draws], now))
        if hold is not None:
            return Answer(False, self._readings(draws, [draw.units for draw in draws], now))
        hold = _Hold(note=note)
        answer = self._take(hold, draws, now)
        if answer.granted:
            self._live_on(name, hold, now + life)
        return answer

    def extend(self, name: str, draws: Sequence[Draw], life: int, now: int) -> Answer:
        hold = self._own(name, now)
        if hold is None or hold.is_closed:
            return Answer(False, self._readings(draws, [draw.units for draw in draws], now))
        answer = self._take(hold, draws, now)
        if answer.granted:
            self._live_on(name, hold, now + life)
        return answer

    def retake(self, name: str, draws: Sequence[Draw], life: int, now: int, note: bytes) -> None:
        if self._is_settled(name, now):
            return
        hold = self._own(name, now) or _Hold(note=note)
        if hold.is_closed:
            for booking in hold.bookings.values():
                _move(booking, booking.expired(), booking.places, 1, now)
            hold.is_closed = False
            del self._closed[name]
        places = [self._place(draw.counter, now) for draw in draws]
        _give(hold, draws, _lacking(hold, draws), places, now)
        self._live_on(name, hold, now + life)

    def renew(self, names: Sequence[str], life: int, now: int) -> tuple[str, ...]:
        if self._renewed is not None and now - self._renewed > QUIET:
            self._calm = now + CALM
        self._renewed = now
        gone = []
        for name in names:
            hold = self._holds.get(name)
            if hold is None or hold.is_closed:
                gone.append(name)
            else:
                self._live_on(name, hold, now + life)
        return tuple(gone)

    def settle(self, name: str, draws: Sequence[Draw], now: int, ago: int) -> bool:
        if self._is_settled(name, now):
            return False
        hold = self._own(name, now)
        used = {draw.counter.key: draw.units for draw in draws}
        if hold is not None:
            for key, booking in hold.bookings.items():
                after = booking.ended(used.pop(key, 0))
                if hold.is_closed:
                    _move(booking, booking.expired(), after, 0, now)
                else:
                    _move(booking, booking.places, after, -1, now)
            self._drop(name)
        for draw in draws:
            if draw.counter.key in used:
                unheld = _Booking({self._place(draw.counter, now - ago): 0})
                _move(unheld, unheld.places, unheld.ended(draw.units), 0, now)
        self._marks[name] = now
        self._marks.move_to_end(name)
        return True

    def sweep(self, now: int, most: int | None = None) -> int:
        """Close holds whose life is over, the oldest first, and say how many."""
        closed = 0
        if self._renewed is not None and (now - self._renewed > QUIET or now < self._calm):
            return 0
        while self._lives and self._lives[0][0] <= now and closed != most:
            end, name = heapq.heappop(self._lives)
            hold = self._holds.get(name)
            if hold is not None and not hold.is_closed and hold.end == end:
                self._close(name, hold, now)
                closed += 1
        return closed

    # ---- what is over ----

    def forget(self, now: int) -> None:
        """Forget some of what has been over for long: a little at each step, so that none takes long."""
        for _ in range(SWEEP):
            if not self._marks or self._is_settled(next(iter(self._marks)), now):
                break
            self._marks.popitem(last=False)
        for _ in range(SWEEP):
            if not self._closed or self._own(next(iter(self._closed)), now) is not None:
                break
        for _ in range(SWEEP):
            if not self._looks or self._looks[0][0] > now:
                break
            self._look(heapq.heappop(self._looks)[1], now)

    def _look(self, name: "_SumId", now: int) -> None:
        until = self._sums[name].needed_until(now)
        if until <= now:
            del self._sums[name]
        else:
            heapq.heappush(self._looks, (max(until, now + _TIDY), name))

    def _own(self, name: str, now: int) -> _Hold | None:
        """The hold of this name, where it was not closed a day ago."""
        closed = self._closed.get(name)
        if closed is not None and closed + DAY <= now:
            self._drop(name)
        return self._holds.get(name)

    def _drop(self, name: str) -> None:
        del self._holds[name]
        self._closed.pop(name, None)

    def _is_settled(self, name: str, now: int) -> bool:
        when = self._marks.get(name)
        return when is not None and when + MARK > now

    # ---- holds ----

    def _live_on(self, name: str, hold: _Hold, end: int) -> None:
        hold.end = end
        self._holds[name] = hold
        heapq.heappush(self._lives, (end, name))

    def _take(self, hold: _Hold, draws: Sequence[Draw], now: int) -> Answer:
        """Bring what a hold has up to the draws' units; change nothing where an enforced counter lacks room."""
        more = _lacking(hold, draws)
        places = [self._place(draw.counter, now) for draw in draws]
        asked = zip(places, draws, more, strict=True)
        waits = [each.wait(units, draw.counter.capacity, now) for (each, _), draw, units in asked]
        if any(wait != 0 and draw.counter.enforced for draw, wait in zip(draws, waits, strict=True)):
            return Answer(False, self._readings(draws, more, now))
        _give(hold, draws, more, places, now)
        stood = zip(places, waits, strict=True)
        return Answer(True, tuple([Reading(each.used, each.reset(now), wait, each.held) for (each, _), wait in stood]))

    def _close(self, name: str, hold: _Hold, now: int) -> None:
        kept = {key: booking.expired() for key, booking in hold.bookings.items()}
        for key, booking in hold.bookings.items():
            _move(booking, booking.places, kept[key], -1, now)
            for each, _ in booking.places:
                each.keep(now + DAY)
        hold.is_closed = True
        self._closed[name] = now
        stays = {key: sum(shares.values()) for key, shares in kept.items()}
        self._bus(self._name, obituary(name, stays, hold.note))

    # ---- sums ----

    def _readings(self, draws: Sequence[Draw], units: Sequence[int], now: int) -> tuple[Reading, ...]:
        """How the counters stand, and how long until so many units of each would fit."""
        readings = []
        for draw, more in zip(draws, units, strict=True):
            each, _ = self._place(draw.counter, now)
            wait = each.wait(more, draw.counter.capacity, now)
            readings.append(Reading(each.used, each.reset(now), wait, each.held))
        return tuple(readings)

    def _place(self, counter: Counter, now: int) -> _Place:
        """Where the units go that a counter is drawn on for at a time."""
        start, end = -1, counter.sliding
        if counter.windows:
            window = next((window for window in counter.windows if now < window.end), counter.windows[-1])
            start, end = window.start, window.end
        name = counter.key, start, end
        known = self._sums.get(name)
        if known is None:
            known = self._sums[name] = _Sliding(end) if counter.sliding else _Total(end)
            heapq.heappush(self._looks, (now + _TIDY, name))
        return known.place(now)


def _lacking(hold: _Hold, draws: Sequence[Draw]) -> list[int]:
    """How many units a hold lacks of each draw."""
    bookings = [hold.bookings.get(draw.counter.key) for draw in draws]
    return [
        draw.units if booking is None else max(0, draw.units - booking.held)
        for draw, booking in zip(draws, bookings, strict=True)
    ]


def _give(hold: _Hold, draws: Sequence[Draw], more: Sequence[int], places: Sequence[_Place], now: int) -> None:
    """Book so many units more of each draw at its place."""
    for draw, units, place in zip(draws, more, places, strict=True):
        booking = hold.bookings.get(draw.counter.key)
        if booking is None:
            booking = hold.bookings[draw.counter.key] = _Booking()
        each, edge = place
        each.add(edge, units, units, now)
        if units or not booking.places:
            booking.places[place] = booking.places.get(place, 0) + units
        booking.kept = draw.kept


def _move(booking: _Booking, before: Mapping[_Place, int], after: Mapping[_Place, int], held: int, now: int) -> None:
    """Book what differs at the places of a hold; -1: what it held there is held no more, 1: it is held again."""
    for place, units in booking.places.items():
        each, edge = place
        each.add(edge, after[place] - before[place], held * units, now)

"""Counters in memory: the specification of the port, and enough for one worker.

Read it beside extproc/stores/counters.py, which says what a step means; here is how each comes about. Units lie at
places: a calendar window, a bucket of a sliding window, or among all open holds. A hold remembers, in order, the
places that it has units at, so that what comes back later comes back where it was taken.
"""

import heapq
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from extproc.stores.counters import DAY, SWEEP, Answer, Counter, Draw, Reading, bucket, checked


class MemoryCounters:
    """See Counters. No step awaits anything, which makes each of them atomic on its event loop.

    `clock` tells Unix time in milliseconds; `bus` is given the slot and the event of a settled hold.
    What has been over for a day is forgotten as other steps are taken: memory stays bounded without a timer.
    """

    def __init__(self, clock: Callable[[], int], bus: Callable[[str, bytes], None] | None = None) -> None:
        self._clock = clock
        self._bus = bus
        self._slots: dict[str, _Slot] = {}  # those that have anything to remember
        self._numbers = itertools.count()
        self._due: list[tuple[int, int, _Slot, _Id]] = []  # a heap: when to look whether something is to be forgotten

    async def reserve(self, slot: str, hold: str, draws: Sequence[Draw], life: int) -> Answer:
        checked(draws)
        now = self._now()
        return self._slot(slot).reserve(hold, draws, life, now)

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int) -> Answer:
        checked(draws)
        now = self._now()
        return self._slot(slot).extend(hold, draws, life, now)

    async def settle(self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None) -> bool:
        checked(draws)
        now = self._now()
        is_new = self._slot(slot).settle(hold, draws, now)
        if is_new and event is not None and self._bus is not None:
            self._bus(slot, event)
        return is_new

    async def expire(self, slot: str) -> int:
        now = self._now()
        return self._slot(slot).sweep(now)

    async def close(self) -> None:
        """There are no connections."""

    def _slot(self, name: str) -> "_Slot":
        known = self._slots.get(name)
        return known if known is not None else _Slot(name, self._watch)

    def _watch(self, slot: "_Slot", what: "_Id", due: int) -> None:
        self._slots[slot.name] = slot
        heapq.heappush(self._due, (due, next(self._numbers), slot, what))

    def _now(self) -> int:
        """The time of a step, after what is to be forgotten by then is forgotten."""
        now = self._clock()
        while self._due and self._due[0][0] <= now:
            _, _, slot, what = heapq.heappop(self._due)
            due = slot.forget(what, now)
            if due is not None:
                self._watch(slot, what, due)
            elif slot.is_empty:
                del self._slots[slot.name]
        return now


class _Id(NamedTuple):
    """Of a sum or a hold. A counter of another kind, another window or another length is another sum."""

    kind: Literal["calendar", "sliding", "open", "hold"]
    key: str
    start: int = 0  # of a calendar window
    end: int = 0
    length: int = 0  # of a sliding window


class _Place(NamedTuple):
    sum: _Id
    edge: int = 0  # of a sliding window's bucket: its last millisecond


@dataclass(slots=True)
class _Sum:
    until: int = 0  # remembered at least until then
    parts: dict[int, int] = field(default_factory=dict)  # units by edge of the place, none of them 0


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
        shares = dict.fromkeys(self.places, 0)
        last = next(reversed(shares))
        if last.sum.kind == "open":
            return shares
        for place, held in self.places.items():
            shares[place] = units if place == last else min(units, held)
            units -= shares[place]
        return shares

    def expired(self) -> dict[_Place, int]:
        return self.ended(min(self.kept, self.held))


@dataclass(slots=True)
class _Hold:
    end: int  # of its life; once it is settled: when that was
    state: Literal["open", "expired", "settled"] = "open"
    bookings: dict[str, _Booking] = field(default_factory=dict)  # by the counter's key

    def is_over(self, now: int) -> bool:
        return self.state == "expired" or (self.state == "open" and self.end <= now)


class _Slot:
    """What one atomic step can touch."""

    def __init__(self, name: str, watch: "Callable[[_Slot, _Id, int], None]") -> None:
        self.name = name
        self._watch = watch
        self._sums: dict[_Id, _Sum] = {}
        self._holds: dict[str, _Hold] = {}
        self._lives: list[tuple[int, str]] = []  # a heap of ends and holds; a hold that lives on has more than one

    # ---- steps ----

    def reserve(self, name: str, draws: Sequence[Draw], life: int, now: int) -> Answer:
        self.sweep(now, SWEEP)
        hold = self._holds.get(name)
        if hold is not None:
            if hold.is_over(now):
                return Answer(False, self._readings(draws, [draw.units for draw in draws], now))
            return Answer(True, self._readings(draws, [0 for _ in draws], now))
        hold = _Hold(now + life)
        answer = self._take(hold, draws, now)
        if answer.granted:
            self._remember(name, hold)
            heapq.heappush(self._lives, (hold.end, name))
        return answer

    def extend(self, name: str, draws: Sequence[Draw], life: int, now: int) -> Answer:
        hold = self._holds.get(name)
        if hold is None or hold.state == "settled" or hold.is_over(now):
            return Answer(False, self._readings(draws, [draw.units for draw in draws], now))
        answer = self._take(hold, draws, now)
        if answer.granted:
            hold.end = now + life
            heapq.heappush(self._lives, (hold.end, name))
        return answer

    def settle(self, name: str, draws: Sequence[Draw], now: int) -> bool:
        hold = self._holds.get(name)
        if hold is None:
            hold = _Hold(now)
            self._remember(name, hold)
        if hold.state == "settled":
            return False
        used = {draw.counter.key: draw.units for draw in draws}
        for key, booking in hold.bookings.items():
            before = booking.expired() if hold.state == "expired" else booking.places
            self._move(before, booking.ended(used.pop(key, 0)), now)
        for draw in draws:
            if draw.counter.key in used:
                unheld = _Booking({_place(draw.counter, now): 0})
                self._move({}, unheld.ended(draw.units), now)
        hold.end, hold.state, hold.bookings = now, "settled", {}
        return True

    def sweep(self, now: int, most: int | None = None) -> int:
        """Close holds whose life is over, the oldest first, and say how many."""
        closed = 0
        while self._lives and self._lives[0][0] <= now and closed != most:
            end, name = heapq.heappop(self._lives)
            hold = self._holds.get(name)
            if hold is not None and hold.state == "open" and hold.end == end:
                self._expire(hold, now)
                closed += 1
        return closed

    def forget(self, what: _Id, now: int) -> int | None:
        """Let go of a hold or sum that has been over for a day; when to ask again where it has not."""
        if what.kind == "hold":
            hold = self._holds[what.key]
            if hold.end + DAY > now:
                return hold.end + DAY
            if hold.state == "open":
                self._expire(hold, now)
            del self._holds[what.key]
            return None
        known = self._sums[what]
        if known.until > now:
            return known.until
        if what.kind == "open" and known.parts:  # a hold that lives longer than that
            return now + DAY
        del self._sums[what]
        return None

    @property
    def is_empty(self) -> bool:
        return not self._holds and not self._sums

    # ---- holds ----

    def _remember(self, name: str, hold: _Hold) -> None:
        self._holds[name] = hold
        self._watch(self, _Id("hold", name), hold.end + DAY)

    def _take(self, hold: _Hold, draws: Sequence[Draw], now: int) -> Answer:
        """Bring what a hold has up to the draws' units; change nothing where an enforced counter lacks room."""
        bookings = [hold.bookings.get(draw.counter.key) or _Booking() for draw in draws]
        more = [max(0, draw.units - booking.held) for draw, booking in zip(draws, bookings, strict=True)]
        before = self._readings(draws, more, now)
        if any(draw.counter.enforced and reading.wait != 0 for draw, reading in zip(draws, before, strict=True)):
            return Answer(False, before)
        for draw, booking, units in zip(draws, bookings, more, strict=True):
            place = _place(draw.counter, now)
            if units or not booking.places:
                booking.places[place] = booking.places.get(place, 0) + units
            booking.kept = draw.kept
            hold.bookings[draw.counter.key] = booking
            self._add(place, units, now)
        after = self._readings(draws, more, now)
        return Answer(True, tuple(replace(new, wait=old.wait) for new, old in zip(after, before, strict=True)))

    def _expire(self, hold: _Hold, now: int) -> None:
        for booking in hold.bookings.values():
            self._move(booking.places, booking.expired(), now)
        hold.state = "expired"

    # ---- sums ----

    def _readings(self, draws: Sequence[Draw], units: Sequence[int], now: int) -> tuple[Reading, ...]:
        """How the counters stand, and how long until so many units of each would fit."""
        return tuple(self._reading(draw.counter, more, now) for draw, more in zip(draws, units, strict=True))

    def _reading(self, counter: Counter, units: int, now: int) -> Reading:
        name = _place(counter, now).sum
        known = self._sums.get(name)
        parts = sorted(known.parts.items()) if known is not None else []
        ends = [(end, part) for edge, part in parts if (end := _end(name, edge, now)) > now]
        used = sum(part for _, part in ends)
        reset = ends[-1][0] - now if ends and name.kind != "open" else 0
        return Reading(used, reset, _wait(counter.capacity, units, ends, now))

    def _move(self, before: Mapping[_Place, int], after: Mapping[_Place, int], now: int) -> None:
        for place, units in after.items():
            self._add(place, units - before.get(place, 0), now)

    def _add(self, place: _Place, units: int, now: int) -> None:
        """Add units at a place, or take some away where they are below 0."""
        name = place.sum
        known = self._sums.get(name)
        if known is None:
            known = self._sums[name] = _Sum()
            self._watch(self, name, now)
        known.until = max(name.end, now + name.length) + DAY
        known.parts[place.edge] = known.parts.get(place.edge, 0) + units
        # Below 0 only where the units were forgotten before they came back: that may not become room.
        known.parts = {edge: part for edge, part in known.parts.items() if part > 0 and _end(name, edge, now) > now}


def _place(counter: Counter, now: int) -> _Place:
    """Where the units go that a counter is drawn on for now."""
    if counter.windows:
        window = next((window for window in counter.windows if now < window.end), counter.windows[-1])
        return _Place(_Id("calendar", counter.key, start=window.start, end=window.end))
    if counter.sliding:
        return _Place(_Id("sliding", counter.key, length=counter.sliding), bucket(counter.sliding, now))
    return _Place(_Id("open", counter.key))


def _end(name: _Id, edge: int, now: int) -> int:
    """When units at a place no longer count, after now where they still do.

    A bucket counts for as long as its last millisecond does. An open hold may end at any time, so soon; and a
    window that is over on our clock alone counts until its caller comes with the next one.
    """
    if name.kind == "sliding":
        return edge + name.length
    return max(name.end, now + 1)


def _wait(capacity: int, units: int, ends: Sequence[tuple[int, int]], now: int) -> int | None:
    """How long until units fit beside those that count until these ends, the first first."""
    used = sum(part for _, part in ends)
    if not units or used + units <= capacity:
        return 0
    for end, part in ends:
        used -= part
        if used + units <= capacity:
            return end - now
    return None

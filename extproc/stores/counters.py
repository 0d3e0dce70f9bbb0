"""The port of the counters that limits look at: reserve before a call, settle after it, all or nothing.

All amounts are whole numbers: requests, tokens, nano-units of money, open calls. Times are milliseconds of
Unix time by the store's own clock, never by the caller's. None of this is the truth about what was used: that is
the ledger's, from which the counters can be made again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import NamedTuple, Protocol

from extproc.values import frozen

MOST = 2**53 - 1
"""The largest amount: Redis' scripts count in doubles."""

SWEEP = 16
"""How many holds whose life is over a reserve closes, and how much of what is over any step forgets."""

GRACE = 5_000
"""Milliseconds for which a store that lost its memory is told what was used, and not yet trusted."""

QUIET, CALM = 15_000, 3_000
"""Milliseconds without any renewal after which there was an outage, and those after it for which nobody's hold is
closed: who lives says first which are his."""

DAY = 86_400_000
"""How long, in milliseconds, a hold is remembered at least after it was closed, where nobody settled it."""

MARK = 7_200_000
"""How long it is remembered at least that a hold was settled, and a window after its end: for as long as a worker says
anything again (the hour of its spool, and some time to say it), or has a clock that is behind. There is a mark for
every call, so this is what the store needs memory for."""

_AGAIN = "~"


class CountersUnavailable(Exception):
    """The store does not answer, or not in time: whether a step was taken is not known."""


class MemoryLost(CountersUnavailable):
    """The store answers, but does not remember since the time that the caller knows: nothing was taken."""


@frozen
class Window:
    """A stretch of the calendar, [start, end) in milliseconds. The caller knows time zones, the store the time."""

    start: int
    end: int


@frozen
class Counter:
    """One sum with a capacity. Of `windows`, `sliding` and neither, exactly one holds:

    - `windows`: adds up over a calendar window: the present one and the next, so that the store's clock may be
      a little ahead of the caller's; before the first the first counts, after the last the last.
    - `sliding`: adds up over the last so many milliseconds, to a 32nd, never counting less than was used: in
      buckets as `bucket` tells them. A bucket counts for as long as its last millisecond does.
    - neither: what the holds have that are open now.

    `key` names it within its slot; of another kind, window or length it is another sum. `enforced` False: it counts
    and tells, and refuses nothing. `prepared`: what a store makes of it once, and nobody else looks at.
    """

    key: str
    capacity: int
    windows: tuple[Window, ...] = ()
    sliding: int = 0
    enforced: bool = True
    prepared: bytes = field(default=b"", init=False, compare=False, repr=False)


class Draw(NamedTuple):
    """What a hold takes from a counter: `units` now; `kept` of them stay if nobody ever settles it."""

    counter: Counter
    units: int
    kept: int = 0


class Reading(NamedTuple):
    """A counter after a step, or, where the step was refused, as it stands.

    `reset`: milliseconds until it has all of its capacity again if nothing else happens (0 for open holds).
    `wait`: milliseconds until the units of this step would have fitted, None where they never will; 0 where they
    did. A counter that is not enforced tells it, too. A calendar's next window is taken to be empty. For open
    holds it is 1, as one may end at any time.
    `held`: what of `used` is only held, by holds that are open, and may be used less when they are settled.
    """

    used: int
    reset: int
    wait: int | None = 0
    held: int = 0


@frozen
class Answer:
    """Whether a step was taken. Readings are in the order of the draws."""

    granted: bool
    readings: tuple[Reading, ...]


@frozen
class Renewal:
    """`since`: since when the store remembers, a time of its own; in the future where it lost its memory just now.

    `gone`: those of the holds that are not open.
    """

    since: int
    gone: tuple[str, ...] = ()


class Counters(Protocol):
    """Draws of one call lie in one slot: what one atomic step of the store can touch.

    A step is taken whole or not at all, and a refused one leaves no trace. Every method raises
    CountersUnavailable, and those with draws the ValueError of `checked`. Steps of one hold may be repeated: the
    second time changes nothing.

    A hold is open until it is settled or closed. It may be closed by anybody once its life is over, but not while
    nobody renews any, nor right after that (QUIET, CALM): its worker may have been cut off as well.

    A store that lost its memory would give every budget out again. So `since` says what the caller knows from
    `renew`, 0 for nothing: where that is not since when the store remembers, or has not come yet, MemoryLost is
    raised.
    """

    @property
    def connections(self) -> int:
        """How many connections were made. Behind a new one may be a store that lacks the last of what was settled."""

    async def reserve(
        self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0, note: bytes = b""
    ) -> Answer:
        """Take all draws, or none where an enforced counter lacks room. The hold lives for `life` milliseconds.

        A hold that is there already, or was settled, is answered as it was granted, and nothing is taken again;
        one that was closed is refused. Draws of 0 units always fit, so that a counter can be read. `note`: a text of
        some hundred bytes that is kept beside the hold, for its obituary.
        """

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int, since: int = 0) -> Answer:
        """Take more for a hold, and let it live for `life` from now.

        `units` are what it shall have of a counter in all: what it lacks is taken now, in the present window, and
        nothing goes back. `kept` is instead of what it was. Counters that are not named stay as they are.
        Refused, too, where the hold is not open.
        """

    async def retake(self, slot: str, hold: str, draws: Sequence[Draw], life: int, note: bytes = b"") -> None:
        """Let a hold have what its caller knows it to have, whether there is room or not: the call is running.

        It is opened again where it was closed, made anew where the store has forgotten it, and then as in
        `extend`. One that was settled stays settled.
        """

    async def renew(self, slot: str, holds: Sequence[str], life: int, since: int = 0) -> Renewal:
        """Let the open ones of these holds live for `life` from now, and say which are not open.

        A store that remembers nothing begins to: at once where the caller knows of no other time, else GRACE from
        now, so that all who were here before can tell it meanwhile what was used.
        """

    async def settle(
        self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None, ago: int = 0
    ) -> bool:
        """Put what was really used, `units`, in place of what is held; False where that was done before.

        It counts in the windows in which it was reserved: what was taken first was used first, and what is more
        than was held counts where the hold last took something. It may be more than there is room for: what was
        used was used. Of a counter that is not named, nothing was used; of one that the hold had nothing on, all
        is booked as of `ago` milliseconds ago, when the call ended. An expiry before it makes no difference; where
        the store has forgotten the hold, all is booked so. From counters of open holds all goes back. `event` is
        put on the usage bus in the same step.
        """

    async def expire(self, slot: str) -> int:
        """Close the holds of the slot whose life is over, and say how many: all but `kept` goes back.

        `reserve` begins with SWEEP of them, the oldest first, so that a dead worker's holds never block a slot
        for long. In the same step the `obituary` of each is put on the usage bus: its call ended nobody knows how.
        Should it be settled yet, its own event comes as well, and is the one that counts.
        """

    def be_patient(self, seconds: float) -> None:
        """Wait so long for each answer from now on: no call waits for any more, and what was used is to be booked."""

    async def close(self) -> None:
        """Let go of connections."""


def bucket(length: int, now: int) -> int:
    """The last millisecond of the bucket that counts what is used now in a sliding window of this length."""
    width = max(1, length // 32)
    return now - now % width + width - 1


def obituary(hold: str, kept: Mapping[str, int], note: bytes = b"") -> bytes:
    """The event of a hold that nobody settled. `kept`: the units that stay, by counter, in the order of its draws."""
    told = {"id": hold, "expired": True, "kept": kept} | ({"note": note.decode()} if note else {})
    return json.dumps(told).encode()


def checked(draws: Sequence[Draw]) -> None:
    """What every step asks of its draws. Raises ValueError."""
    if len({draw.counter.key for draw in draws}) != len(draws):
        raise ValueError("two draws of one step name the same counter")
    for draw in draws:
        counter = draw.counter
        if counter.sliding < 0 or (counter.sliding and counter.windows):
            raise ValueError("a counter has calendar windows, or a sliding one of at least 1 ms, or neither")
        if not (0 <= draw.units <= MOST and 0 <= draw.kept <= MOST and 0 <= counter.capacity <= MOST):
            raise ValueError(f"an amount lies outside 0..{MOST}")


def hold_name(call: str, number: int) -> str:
    """The id of a hold, by that of its call: 0 is its first. Each that asks for other counters needs one of its own: a
    store answers what it knows as it did at first, and that answer may have been lost."""
    return call if not number else f"{call}{_AGAIN}{number}"


def call_of(hold: str) -> str:
    """The id of the call that a hold of this id is of."""
    return hold.partition(_AGAIN)[0]

"""The port of the counters that limits look at: reserve before a call, settle after it, all or nothing.

All amounts are whole numbers: requests, tokens, nano-units of money, open calls. Times are milliseconds of
Unix time by the store's own clock, never by the caller's. None of this is the truth about what was used: that is
the ledger's, from which the counters can be made again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

MOST = 2**53 - 1
"""The largest amount: Redis' scripts count in doubles."""

SWEEP = 16
"""How many holds whose life is over a reserve closes."""

DAY = 86_400_000
"""How long, in milliseconds, what is over is remembered at least: holds, and windows after their end."""


class CountersUnavailable(Exception):
    """The store does not answer, or not in time: whether a step was taken is not known."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the calendar, [start, end) in milliseconds. The caller knows time zones, the store the time."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Counter:
    """One sum with a capacity. Of `windows`, `sliding` and neither, exactly one holds:

    - `windows`: adds up over a calendar window: the present one and the next, so that the store's clock may be
      a little ahead of the caller's; before the first the first counts, after the last the last.
    - `sliding`: adds up over the last so many milliseconds, to a 32nd, never counting less than was used: in
      buckets as `bucket` tells them. A bucket counts for as long as its last millisecond does.
    - neither: what the holds have that are open now.

    `key` names it within its slot; of another kind, window or length it is another sum. `enforced` False: it counts
    and tells, and refuses nothing.
    """

    key: str
    capacity: int
    windows: tuple[Window, ...] = ()
    sliding: int = 0
    enforced: bool = True


@dataclass(frozen=True, slots=True)
class Draw:
    """What a hold takes from a counter: `units` now; `kept` of them stay if nobody ever settles it."""

    counter: Counter
    units: int
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """A counter after a step, or, where the step was refused, as it stands.

    `reset`: milliseconds until it has all of its capacity again if nothing else happens (0 for open holds).
    `wait`: milliseconds until the units of this step would have fitted, None where they never will; 0 where they
    did. A counter that is not enforced tells it, too. A calendar's next window is taken to be empty. For open
    holds it is 1, as one may end at any time.
    """

    used: int
    reset: int
    wait: int | None = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Whether a step was taken. Readings are in the order of the draws."""

    granted: bool
    readings: tuple[Reading, ...]


class Counters(Protocol):
    """Draws of one call lie in one slot: what one atomic step of the store can touch.

    A step is taken whole or not at all, and a refused one leaves no trace. Every method raises
    CountersUnavailable, and those with draws the ValueError of `checked`. Steps of one hold may be repeated: the
    second time changes nothing.
    """

    async def reserve(self, slot: str, hold: str, draws: Sequence[Draw], life: int) -> Answer:
        """Take all draws, or none where an enforced counter lacks room. The hold lives for `life` milliseconds.

        A hold that is there already, or was settled, is answered as it was granted, and nothing is taken again;
        one whose life is over is refused. Draws of 0 units always fit, so that a counter can be read.
        """

    async def extend(self, slot: str, hold: str, draws: Sequence[Draw], life: int) -> Answer:
        """Take more for a hold, and let it live for `life` from now.

        `units` are what it shall have of a counter in all: what it lacks is taken now, in the present window, and
        nothing goes back. `kept` is instead of what it was. Counters that are not named stay as they are.
        Refused, too, where the hold is gone: settled, unknown, or its life is over.
        """

    async def settle(self, slot: str, hold: str, draws: Sequence[Draw], event: bytes | None = None) -> bool:
        """Put what was really used, `units`, in place of what is held; False where that was done before.

        It counts in the windows in which it was reserved: what was taken first was used first, and what is more
        than was held counts where the hold last took something. It may be more than there is room for: what was
        used was used. Of a counter that is not named, nothing was used; of one that the hold had nothing on, all
        is booked now. An expiry before it makes no difference; where the store has forgotten the hold, all is
        booked now. From counters of open holds all goes back. `event` is put on the usage bus in the same step.
        """

    async def expire(self, slot: str) -> int:
        """Close the holds of the slot whose life is over, and say how many: all but `kept` goes back.

        `reserve` begins with SWEEP of them, the oldest first, so that a dead worker's holds never block a slot
        for long.
        """

    async def close(self) -> None:
        """Let go of connections."""


def bucket(length: int, now: int) -> int:
    """The last millisecond of the bucket that counts what is used now in a sliding window of this length."""
    width = max(1, length // 32)
    return now - now % width + width - 1


def checked(draws: Sequence[Draw]) -> None:
    """What every step asks of its draws. Raises ValueError."""
    if len({draw.counter.key for draw in draws}) != len(draws):
        raise ValueError("two draws of one step name the same counter")
    for draw in draws:
        counter = draw.counter
        if counter.sliding < 0 or (counter.sliding and counter.windows):
            raise ValueError("a counter has calendar windows, or a sliding one of at least 1 ms, or neither")
        if not all(0 <= amount <= MOST for amount in (draw.units, draw.kept, counter.capacity)):
            raise ValueError(f"an amount lies outside 0..{MOST}")

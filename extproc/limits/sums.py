"""The counters of limits: which sum a call adds to."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from extproc.limits import calendar
from extproc.limits.limit import Limit, Mode
from extproc.stores.counters import Counter, Window

_MOST_KEPT = 50_000
_ALWAYS = Window(0, 2**63)


class Sum(NamedTuple):
    """What a call is counted in. `values` are those of the limit's scopes; `backend`: of a limit by backend."""

    limit: Limit
    counter: Counter
    values: tuple[str, ...]
    backend: str | None


@dataclass(slots=True)
class Kind:
    """Calls that are alike in all that decides which limits hold for them, and in which sums they are counted.

    From `start` until `end`, milliseconds of Unix time, they are counted in `sums`.
    """

    limits: tuple[Limit, ...]
    sums: tuple[Sum, ...] = ()
    start: int = 0
    end: int = 0

    def learn(self, sums: tuple[Sum, ...], now: int) -> None:
        """They are so from now on until a window ends, or a raised amount falls back."""
        ends = [one.counter.windows[0].end for one in sums if one.counter.windows]
        raised = [limit.raised.until for limit in self.limits if limit.raised is not None and now < limit.raised.until]
        self.sums, self.start, self.end = sums, now, min([_ALWAYS.end, *ends, *raised])


class Sums:
    """Makes counters and keeps them: a store prepares each of them once, and nearly all calls use known ones."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, tuple[str, ...], int], tuple[Limit, Window, Counter]] = {}

    def counter(self, limit: Limit, values: tuple[str, ...], capacity: int, now: int) -> Counter:
        """The sum of a limit for these values of its scopes. `now`: milliseconds of Unix time."""
        known = self._kept.get((id(limit), values, capacity))
        if known is not None and known[0] is limit and known[1].start <= now < known[1].end:
            return known[2]
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        windows = () if limit.period is None else calendar.windows(limit.period, limit.zone, now)
        counter = Counter(_key(limit, values), capacity, windows, limit.sliding, limit.mode is Mode.ENFORCE)
        self._kept[id(limit), values, capacity] = (limit, windows[0] if windows else _ALWAYS, counter)
        return counter


def _key(limit: Limit, values: tuple[str, ...]) -> str:
    """Users' names and ids of keys are nobody's business in a store of numbers: their digest tells them apart."""
    named = "\x1f".join((limit.owner, limit.name, *(scope.value for scope in limit.scope), *values))
    return f"{limit.measure}/{hashlib.blake2b(named.encode(), digest_size=16).hexdigest()}"

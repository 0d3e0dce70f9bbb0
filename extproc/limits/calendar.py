"""The windows of a calendar in a named time zone. Times are milliseconds of Unix time.

A day or month begins with its first local moment, so one in which clocks change is an hour longer or shorter.
Shorter windows begin where the local clock shows a whole second, minute or hour.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from extproc.limits.limit import Period
from extproc.stores.counters import Window

_LENGTH = {Period.SECOND: 1_000, Period.MINUTE: 60_000, Period.HOUR: 3_600_000}


def windows(period: Period, zone: str, now: int) -> tuple[Window, Window]:
    """The window that `now` lies in, and the next."""
    present = _around(period, zone, now)
    return present, _around(period, zone, present.end)


def _around(period: Period, zone: str, now: int) -> Window:
    local = datetime.fromtimestamp(now // 1000, _zone(zone))
    if length := _LENGTH.get(period):
        shift = int((local.utcoffset() or timedelta()).total_seconds()) * 1000
        start = now - (now + shift) % length
        return Window(start, start + length)
    first = local.replace(hour=0, minute=0, second=0, fold=0)
    if period is Period.DAY:
        return Window(_instant(first), _instant(first + timedelta(days=1)))
    first = first.replace(day=1)
    return Window(_instant(first), _instant((first + timedelta(days=31)).replace(day=1)))


def _instant(local: datetime) -> int:
    """Of a moment that the clocks leap over, the leap itself; of one that comes twice, the first."""
    return int(local.timestamp()) * 1000


_zone = lru_cache(maxsize=None)(ZoneInfo)

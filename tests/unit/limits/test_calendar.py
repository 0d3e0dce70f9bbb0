"""Windows of calendars: they follow one another without a gap, and clocks that change make none longer or shorter
than the day it was."""

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits.calendar import windows
from extproc.limits.limit import Period
from extproc.stores.counters import Window

HOUR = 3_600_000
ZONES = (
    "UTC",
    "Europe/Zurich",
    "America/Santiago",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Beirut",
)
zones = st.sampled_from(ZONES)
moments = st.integers(min_value=0, max_value=4_102_444_800_000)  # to the year 2100
WHOLE_DAYS = st.sampled_from((Period.DAY, Period.MONTH))


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


@given(period=st.sampled_from(Period), zone=zones, now=moments)
def test_the_present_window_has_the_moment_and_the_next_follows_it(period: Period, zone: str, now: int) -> None:
    present, following = windows(period, zone, now)
    assert present.start <= now < present.end
    assert following.start < following.end
    assert following.end > present.end


@given(period=WHOLE_DAYS, zone=zones, now=moments)
def test_days_and_months_tile_the_time(period: Period, zone: str, now: int) -> None:
    present, following = windows(period, zone, now)
    assert following.start == present.end
    assert windows(period, zone, present.start)[0] == present
    assert windows(period, zone, present.end - 1)[0] == present


@given(zone=zones, first=moments, second=moments)
def test_moments_of_one_local_date_share_a_window_and_no_others_do(zone: str, first: int, second: int) -> None:
    dates = [datetime.fromtimestamp(moment // 1000, ZoneInfo(zone)).date() for moment in (first, second)]
    same = windows(Period.DAY, zone, first)[0] == windows(Period.DAY, zone, second)[0]
    assert same == (dates[0] == dates[1])


@pytest.mark.parametrize(
    ("period", "zone", "moment", "start", "end"),
    [
        (Period.MONTH, "Europe/Zurich", "2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01"),
        (Period.MONTH, "Europe/Zurich", "2027-01-01T00:00:00", "2027-01-01", "2027-02-01"),
        (Period.MONTH, "Pacific/Apia", "2028-02-29T12:00:00", "2028-02-01", "2028-03-01"),
        (Period.DAY, "Asia/Kolkata", "2026-11-21T00:00:00", "2026-11-21", "2026-11-22"),
        (Period.HOUR, "Asia/Kolkata", "2026-11-21T10:59:59", "2026-11-21T10:00", "2026-11-21T11:00"),
        (Period.MINUTE, "UTC", "2026-11-21T10:59:59", "2026-11-21T10:59", "2026-11-21T11:00"),
        (Period.SECOND, "UTC", "2026-11-21T10:59:59.5", "2026-11-21T10:59:59", "2026-11-21T11:00"),
    ],
)
def test_a_window_begins_and_ends_where_the_local_calendar_says(
    period: Period, zone: str, moment: str, start: str, end: str
) -> None:
    assert windows(period, zone, at(moment, zone))[0] == Window(at(start, zone), at(end, zone))


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Zurich", "2026-03-29", 23),
        ("Europe/Zurich", "2026-10-25", 25),
        ("Asia/Beirut", "2026-03-29", 23),  # the clocks leap over midnight itself
        ("America/Santiago", "2026-04-04", 25),  # and there they come back to the day before
    ],
)
def test_a_day_in_which_clocks_change_is_as_long_as_it_is(zone: str, day: str, hours: int) -> None:
    window = windows(Period.DAY, zone, at(f"{day}T12:00:00", zone))[0]
    assert window.end - window.start == hours * HOUR


def test_the_months_of_a_year_are_twelve() -> None:
    zone = "Europe/Zurich"
    starts = {windows(Period.MONTH, zone, at(f"2026-{month:02}-15", zone))[0].start for month in range(1, 13)}
    assert len(starts) == 12
    ordered = sorted(starts)
    assert all(windows(Period.MONTH, zone, before)[0].end == after for before, after in pairwise(ordered))

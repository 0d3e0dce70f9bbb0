"""How long a provider asks to be left alone, in every form that one of them is known to use."""

import time
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.routing import waits
from extproc.routing.waits import HEADERS, SHORTEST

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
WALL = NOW.timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3.0),
        ("2.5", 2.5),
        ("+7", 7.0),
        ("1000000000", 1e9),
        ("99999999999999999999", 1e20),
        ("0", SHORTEST),
        ("0.0001", SHORTEST),
        ("-5", SHORTEST),
        ("Sat, 21 Nov 2026 12:00:09 GMT", 9.0),
        ("Sat, 21 Nov 2026 12:00:09 -0000", 9.0),
        ("Saturday, 21-Nov-26 12:00:09 GMT", 9.0),
        ("Sat Nov 21 12:00:09 2026", 9.0),
        ("Sat, 21 Nov 2026 11:59:00 GMT", SHORTEST),
        ("Mon, 01 Jan 1900 00:00:00 GMT", SHORTEST),
    ],
)
def test_retry_after(text: str, seconds: float) -> None:
    assert waits.retry_after({"retry-after": text}, WALL) == pytest.approx(seconds)
    assert waits.asked({"retry-after": text}, WALL) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["Sat, 21 Nov 2026 12:00:09 -0000", "Sat Nov 21 12:00:09 2026"])
def test_a_date_without_a_zone_is_not_in_ours(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert waits.retry_after({"retry-after": text}, WALL) == 9.0
    finally:
        monkeypatch.undo()
        time.tzset()


GARBAGE = [
    *("", " ", "soon", "nan", "inf", "-inf", "1e9", "1_0", "0x10", "٣", "3 ", "3,5", "5s", "--3", "1.", ".5"),
    *("Sat, 32 Nov 2026 12:00:09 GMT", "2026-11-21T12:00:09Z", "Sat, 21 Nov 99999999 12:00:09 GMT", "9" * 400),
]


@pytest.mark.parametrize("text", GARBAGE)
def test_a_retry_after_that_cannot_be_read_is_none(text: str) -> None:
    assert waits.retry_after({"retry-after": text}, WALL) is None


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_hides_nothing_that_can_be_read(text: str) -> None:
    headers = {"retry-after-ms": text, "retry-after": "4"}
    assert waits.asked(headers, WALL) == 4.0
    headers = {"retry-after": text, "x-ratelimit-reset-tokens": "6s", "x-ratelimit-reset-requests": text + "!"}
    assert waits.asked(headers, WALL) == 6.0


def test_milliseconds_are_more_exact_than_seconds() -> None:
    assert waits.retry_after({"retry-after-ms": "1500", "retry-after": "2"}, WALL) == 1.5


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", SHORTEST),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("2m59.56s", 179.56),
        ("500000µs", 0.5),
        ("700000us", 0.7),
        ("250000000ns", 0.25),
        ("55", 55.0),
        ("0.75", 0.75),
        ("0", SHORTEST),
        ("-3", SHORTEST),
        (f"{WALL + 12:.0f}", 12.0),
        (f"{(WALL + 12) * 1000:.0f}", 12.0),
        (f"{WALL - 12:.0f}", SHORTEST),
        ("2026-11-21T12:00:30Z", 30.0),
        ("2026-11-21T13:00:30.5+01:00", 30.5),
        ("2026-11-21T11:00:00Z", SHORTEST),
    ],
)
@pytest.mark.parametrize(
    "header",
    [
        *("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens", "x-ratelimit-reset"),
        *("x-rate-limit-reset-tokens", "x-ratelimit-timeremaining"),
        *("anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-reset"),
        *("anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-output-tokens-reset"),
    ],
)
def test_every_form_of_a_reset_in_every_header(header: str, text: str, seconds: float) -> None:
    assert waits.asked({header: text}, WALL) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1", "1x", "1s!", "s1", "1m 2s", "tomorrow", "2026-11-21", "1.2.3s", "∞s"])
def test_what_is_no_reset(text: str) -> None:
    found = waits.asked({"x-ratelimit-reset-tokens": text}, WALL)
    assert found == (1.0 if text == "1" else None)


def test_a_time_without_an_offset_means_nothing() -> None:
    assert waits.asked({"anthropic-ratelimit-tokens-reset": "2026-11-21T12:00:30"}, WALL) is None


class TestSeveralAllowances:
    def test_the_one_that_is_used_up_counts(self) -> None:
        headers = {
            "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "2s",
            "x-ratelimit-remaining-tokens": "900",
            "x-ratelimit-reset-tokens": "6m0s",
        }
        assert waits.asked(headers, WALL) == 2.0
        assert waits.spent(headers, WALL) == 2.0

    @pytest.mark.parametrize(("requests", "tokens"), [(3, 8), (8, 3)])
    def test_of_two_that_are_used_up_the_longer(self, requests: int, tokens: int) -> None:
        headers = {
            "anthropic-ratelimit-requests-remaining": "0",
            "anthropic-ratelimit-requests-reset": f"2026-11-21T12:00:0{requests}Z",
            "anthropic-ratelimit-output-tokens-remaining": "0",
            "anthropic-ratelimit-output-tokens-reset": f"2026-11-21T12:00:0{tokens}Z",
        }
        assert waits.spent(headers, WALL) == 8.0

    def test_a_call_too_large_for_what_is_left_waits_for_the_longest(self) -> None:
        headers = {
            "x-ratelimit-remaining-requests": "499",
            "x-ratelimit-reset-requests": "120ms",
            "x-ratelimit-remaining-tokens": "3251",
            "x-ratelimit-reset-tokens": "5.8s",
        }
        assert waits.asked(headers, WALL) == 5.8
        assert waits.spent(headers, WALL) is None

    def test_azures_minus_one_is_no_allowance(self) -> None:
        headers = {"x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"}
        assert waits.asked(headers, WALL) is None
        assert waits.spent(headers, WALL) is None

    def test_used_up_and_nobody_knows_until_when(self) -> None:
        assert waits.spent({"x-ratelimit-remaining-requests": "0"}, WALL) is None

    def test_the_providers_own_word_counts_first(self) -> None:
        headers = {"retry-after": "1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "6m0s"}
        assert waits.asked(headers, WALL) == 1.0


def test_headers_that_say_nothing() -> None:
    assert waits.asked({}, WALL) is None
    assert waits.asked({"date": "Sat, 21 Nov 2026 12:00:09 GMT"}, WALL) is None


def test_envoy_is_asked_for_each_header_once_in_lower_case() -> None:
    assert len(set(HEADERS)) == len(HEADERS)
    assert all(header == header.lower() for header in HEADERS)
    assert {"retry-after", "anthropic-ratelimit-input-tokens-remaining", "x-ratelimit-remaining-tokens"} <= set(HEADERS)


# ---- laws --------------------------------------------------------------------------------------------

_FORMS = st.one_of(
    st.text(max_size=40),
    st.text("0123456789.:-+TZhmsµun ,", max_size=30),
    st.text("SatNov GMT0123456789,:-+", max_size=40),
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.datetimes().map(lambda time: time.isoformat() + "+23:59"),
    st.datetimes().map(lambda time: format_datetime(time.replace(tzinfo=UTC), usegmt=True)),
    st.integers().map(str),
    st.floats().map(str),
)
_WALLS = st.floats(0, 4e9)


@given(st.dictionaries(st.sampled_from(HEADERS), _FORMS), _WALLS)
def test_nothing_that_a_provider_says_breaks_anything(headers: dict[str, str], wall: float) -> None:
    for found in (waits.asked(headers, wall), waits.retry_after(headers, wall), waits.spent(headers, wall)):
        assert found is None or found >= SHORTEST


@given(st.integers(0, 5000), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, milliseconds: int) -> None:
    text = f"{hours}h{minutes}m{seconds}.{milliseconds:03}s"
    expected = max(hours * 3600 + minutes * 60 + seconds + milliseconds / 1000, SHORTEST)
    assert waits.asked({"x-ratelimit-reset-tokens": text}, WALL) == pytest.approx(expected)


@given(st.integers(1, 10**6), st.integers(-14, 14))
def test_dates_mean_the_same_in_every_zone(ahead: int, zone: int) -> None:
    when = (NOW + timedelta(seconds=ahead)).astimezone(timezone(timedelta(hours=zone)))
    assert waits.asked({"anthropic-ratelimit-tokens-reset": when.isoformat()}, WALL) == ahead
    assert waits.asked({"retry-after": format_datetime(when)}, WALL) == ahead

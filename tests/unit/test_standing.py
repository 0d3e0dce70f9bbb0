"""Where a caller stands, as the SDKs and agents read it."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.limits import standing
from extproc.limits.limit import Limit, Measure, Mode, Period
from extproc.limits.standing import Standing, amount, duration, headers, is_final, refusal
from extproc.refusals import QUOTA, RATE_LIMIT
from extproc.stores.counters import Reading
from extproc.surfaces import Face

NOW = 1_793_880_000_000  # 2026-11-05T12:00:00Z
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
NANO = 10**9

REQUESTS = Limit("calls", Measure.REQUESTS, 100, sliding=MINUTE)
TOKENS = Limit("team-minute", Measure.TOKENS, 100_000, sliding=MINUTE)
INPUT = Limit("in", Measure.INPUT_TOKENS, 1_000, sliding=MINUTE)
OUTPUT = Limit("out", Measure.OUTPUT_TOKENS, 500, sliding=MINUTE)
OPEN = Limit("open", Measure.CONCURRENT, 20)
MONEY = Limit("company", Measure.MONEY, 5_000 * NANO, period=Period.MONTH, warn_at=(50, 80, 100))


def stands(limit: Limit, used: int, reset: int = 0, capacity: int | None = None, wait: int | None = 0) -> Standing:
    return limit, Reading(used, reset, wait), limit.amount if capacity is None else capacity


def told(*standings: Standing, face: Face = Face.OPENAI) -> dict[str, str]:
    pairs = headers(standings, face, "USD", NOW)
    assert len(dict(pairs)) == len(pairs), "a header is there twice"
    return dict(pairs)


# ---- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("face", [Face.OPENAI, Face.AZURE])
def test_openai_and_azure_are_told_of_requests_and_tokens(face: Face) -> None:
    assert told(stands(REQUESTS, 1, 600), stands(TOKENS, 96_749, 360_000), face=face) == {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "600ms",
        "x-ratelimit-limit-tokens": "100000",
        "x-ratelimit-remaining-tokens": "3251",
        "x-ratelimit-reset-tokens": "6m0s",
    }


def test_anthropic_is_told_each_kind_of_tokens_with_times() -> None:
    standings = [stands(REQUESTS, 1, 1), stands(TOKENS, 5, MINUTE), stands(INPUT, 10, HOUR), stands(OUTPUT, 600, DAY)]
    assert told(*standings, face=Face.ANTHROPIC) == {
        "anthropic-ratelimit-requests-limit": "100",
        "anthropic-ratelimit-requests-remaining": "99",
        "anthropic-ratelimit-requests-reset": "2026-11-05T12:00:01Z",
        "anthropic-ratelimit-tokens-limit": "100000",
        "anthropic-ratelimit-tokens-remaining": "99995",
        "anthropic-ratelimit-tokens-reset": "2026-11-05T12:01:00Z",
        "anthropic-ratelimit-input-tokens-limit": "1000",
        "anthropic-ratelimit-input-tokens-remaining": "990",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-05T13:00:00Z",
        "anthropic-ratelimit-output-tokens-limit": "500",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "2026-11-06T12:00:00Z",
    }


@pytest.mark.parametrize("face", Face)
def test_money_is_told_on_every_face_and_no_header_is_bare(face: Face) -> None:
    names = told(stands(MONEY, 12_345_678_901, HOUR), stands(REQUESTS, 1), face=face)
    assert {name: value for name, value in names.items() if "budget" in name} == {
        "x-sluice-budget-limit": "5000.00",
        "x-sluice-budget-remaining": "4987.654321099",
        "x-sluice-budget-reset": "2026-11-05T13:00:00Z",
        "x-sluice-budget-currency": "USD",
    }
    assert not names.keys() & {"x-ratelimit-reset", "ratelimit-reset", "ratelimit"}


def test_the_limit_with_the_smallest_part_left_is_told() -> None:
    large, small = replace(TOKENS, name="large", amount=1_000), replace(TOKENS, name="small", amount=10)
    assert told(stands(large, 600), stands(small, 5))["x-ratelimit-limit-tokens"] == "1000"
    assert told(stands(large, 400), stands(small, 5))["x-ratelimit-limit-tokens"] == "10"
    for pair in ((stands(large, 500), stands(small, 5)), (stands(small, 5), stands(large, 500))):
        assert told(*pair)["x-ratelimit-limit-tokens"] == "10"
    assert told(stands(INPUT, 999), stands(TOKENS, 0), stands(OUTPUT, 0))["x-ratelimit-limit-tokens"] == "1000"


def test_what_a_provider_overspent_leaves_nothing_and_never_less() -> None:
    assert told(stands(TOKENS, 100_001))["x-ratelimit-remaining-tokens"] == "0"


def test_a_limit_of_nothing_is_the_tightest() -> None:
    assert told(stands(TOKENS, 99_999), stands(INPUT, 0, capacity=0))["x-ratelimit-limit-tokens"] == "0"


@pytest.mark.parametrize("face", Face)
def test_what_is_not_limited_is_not_told(face: Face) -> None:
    assert told(face=face) == {}
    assert told(stands(OPEN, 3), face=face) == {}


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.OFF])
def test_a_shadow_tells_nothing(mode: Mode) -> None:
    standings = [stands(replace(limit, mode=mode, warn_at=(1,)), limit.amount) for limit in (REQUESTS, TOKENS, MONEY)]
    for face in Face:
        assert told(*standings, face=face) == {}


def test_every_limit_that_has_passed_a_threshold_warns() -> None:
    team = replace(TOKENS, owner="team/search", warn_at=(50,))
    standings = [stands(MONEY, 4_199 * NANO), stands(team, 50_000), stands(REQUESTS, 100)]
    assert told(*standings)["x-sluice-limit-warning"] == "company; used=83, team/search/team-minute; used=50"
    assert "x-sluice-limit-warning" not in told(stands(MONEY, 2_500 * NANO - 1), stands(team, 49_999))
    assert "x-sluice-limit-warning" not in told(stands(team, 0, capacity=0))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0s"),
        (12, "12ms"),
        (999, "999ms"),
        (1_000, "1s"),
        (2_500, "2.5s"),
        (6_210, "6.21s"),
        (10_000, "10s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (62_500, "1m2.5s"),
        (3_600_000, "1h0m0s"),
        (3_723_000, "1h2m3s"),
        (31 * DAY, "744h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(milliseconds: int, text: str) -> None:
    assert duration(milliseconds) == text


_PARTS = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)(?:\.(\d{1,3}))?s)?")


@given(st.integers(0, 400 * DAY))
def test_a_duration_says_exactly_what_it_is(milliseconds: int) -> None:
    text = duration(milliseconds)
    if text.endswith("ms"):
        assert int(text[:-2]) == milliseconds
        return
    found = _PARTS.fullmatch(text)
    assert found
    hours, minutes, seconds, part = found.groups(default="0")
    assert int(hours) * HOUR + int(minutes) * MINUTE + int(seconds) * 1_000 + int(part.ljust(3, "0")) == milliseconds


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (12_000, "0.000012"),
        (NANO, "1.00"),
        (12_340_000_000, "12.34"),
        (1_500_000_000, "1.50"),
        (1_505_000_000, "1.505"),
    ],
)
def test_money_is_written_exactly(nano: int, text: str) -> None:
    assert amount(nano) == text


# ---- refusals ---------------------------------------------------------------------------------------


def refused(
    limit: Limit, wait: int | None, used: int = 0, units: int = 1, team: str = "search"
) -> tuple[str, dict[str, str]]:
    said = refusal(stands(limit, used, wait=wait), units, "gpt-4o", team, NOW, "USD")
    return said.message, dict(said.headers)


def test_a_rate_limit_is_told_in_openai_s_words_with_the_time_to_wait() -> None:
    message, sent = refused(TOKENS, 6_200, used=96_749, units=19_126)
    assert message == (
        "Rate limit reached for gpt-4o in team search on tokens per min (TPM): "
        "Limit 100000, Used 96749, Requested 19126. Please try again in 6.2s. (limit team-minute)"
    )
    assert sent == {"retry-after-ms": "6200", "retry-after": "7", "x-sluice-limit": "team-minute"}


def test_a_quota_is_told_with_the_time_of_its_reset_and_asks_for_no_other_try() -> None:
    message, sent = refused(MONEY, HOUR, used=4_999_990_000_000, units=1_300_000_000)
    assert message == (
        "You exceeded your current quota for gpt-4o in team search on spend per month: Limit 5000.00 USD, "
        "Used 4999.99 USD, Requested 1.30 USD. There is room again at 2026-11-05T13:00:00Z. (limit company)"
    )
    assert sent == {"x-sluice-limit": "company"}


def test_a_long_wait_is_told_as_a_time() -> None:
    message, sent = refused(replace(TOKENS, sliding=HOUR), HOUR, team="")
    assert message == (
        "Rate limit reached for gpt-4o on tokens per hour (TPH): Limit 100000, Used 0, Requested 1. "
        "There is room again at 2026-11-05T13:00:00Z. (limit team-minute)"
    )
    assert sent == {"x-sluice-limit": "team-minute"}


@pytest.mark.parametrize("limit", [TOKENS, MONEY])
def test_what_never_fits_is_too_large(limit: Limit) -> None:
    message, sent = refused(limit, None, units=2 * limit.amount)
    assert message.startswith("Request too large for gpt-4o in team search on ")
    assert message.endswith(f"Make the input or the output cap smaller. (limit {limit.name})")
    assert "try again" not in message
    assert sent == {"x-sluice-limit": limit.name}


SLIDING_DAY = replace(TOKENS, sliding=DAY)
CALENDAR_DAY = replace(TOKENS, sliding=0, period=Period.DAY)
CALENDAR_HOUR = replace(TOKENS, sliding=0, period=Period.HOUR)
LAST_OF_A_MINUTE = MINUTE + MINUTE // 32  # what a sliding minute that is all used may take until it has room again
FINAL = 63_751
MONEY_MINUTE = Limit("burst", Measure.MONEY, NANO, sliding=MINUTE)


@pytest.mark.parametrize(
    ("limit", "wait", "code", "retry", "kind"),
    [
        (TOKENS, 1, "rate_limit_exceeded", True, "tokens"),
        (INPUT, 60_000, "rate_limit_exceeded", True, "tokens"),
        (OUTPUT, LAST_OF_A_MINUTE, "rate_limit_exceeded", True, "tokens"),
        (OUTPUT, FINAL, "rate_limit_exceeded", False, "tokens"),
        (REQUESTS, 1, "rate_limit_exceeded", True, "requests"),
        (REQUESTS, None, "rate_limit_exceeded", False, "requests"),
        (OPEN, 1, "rate_limit_exceeded", True, "requests"),
        (CALENDAR_HOUR, 5, "rate_limit_exceeded", True, "tokens"),
        (CALENDAR_DAY, 5, "insufficient_quota", False, "insufficient_quota"),
        (SLIDING_DAY, 5, "insufficient_quota", False, "insufficient_quota"),
        (MONEY, 5, "insufficient_quota", False, "insufficient_quota"),
        (MONEY_MINUTE, 5, "insufficient_quota", False, "insufficient_quota"),
        (MONEY, None, "insufficient_quota", False, "insufficient_quota"),
    ],
)
def test_the_code_and_the_word_on_trying_again(
    limit: Limit, wait: int | None, code: str, retry: bool, kind: str
) -> None:
    said = refusal(stands(limit, 1, wait=wait), 1, "m", "", NOW, "USD")
    assert said.kind in (RATE_LIMIT, QUOTA)
    assert (said.kind.code, said.status, said.retry, said.type) == (code, 429, retry, kind)
    names = {name for name, _ in said.headers}
    assert ({"retry-after", "retry-after-ms"} <= names) is retry
    assert is_final(limit, Reading(1, 0, wait)) is not retry
    assert "ratelimit-reset" not in names


def test_an_open_call_ends_nobody_knows_when() -> None:
    message, sent = refused(OPEN, 1, used=20)
    assert message.startswith("Rate limit reached for gpt-4o in team search on concurrent requests: Limit 20, Used 20")
    assert "Please try again in 1s." in message
    assert (sent["retry-after-ms"], sent["retry-after"]) == ("1000", "1")


@pytest.mark.parametrize(
    ("wait", "words"), [(1, "1ms"), (999, "999ms"), (1_000, "1s"), (6_200, "6.2s"), (60_000, "60s")]
)
def test_the_wait_is_written_as_codex_reads_it(wait: int, words: str) -> None:
    codex = re.compile(r"(?i)try again in\s*(\d+(?:\.\d+)?)\s*(s|ms|seconds?)")
    message, _ = refused(TOKENS, wait)
    found = codex.search(message)
    assert found
    assert "".join(found.groups()) == words


@given(st.integers(standing.LONGEST_WAIT, FINAL - 1))
def test_a_minute_that_is_counted_a_little_longer_is_told_as_a_minute(wait: int) -> None:
    message, sent = refused(TOKENS, wait)
    assert "Please try again in 60s." in message
    assert (sent["retry-after-ms"], sent["retry-after"]) == ("60000", "60")


@given(st.integers(1, standing.LONGEST_WAIT))
def test_nobody_is_asked_to_come_back_too_early(wait: int) -> None:
    _, sent = refused(TOKENS, wait)
    assert int(sent["retry-after-ms"]) == wait
    assert wait <= int(sent["retry-after"]) * 1_000 < wait + 1_000


@given(st.integers(FINAL, 366 * DAY), st.integers(0, 999))
def test_the_time_of_a_reset_is_never_before_it(wait: int, part: int) -> None:
    said = refusal(stands(TOKENS, 1, wait=wait), 1, "m", "", NOW + part, "USD")
    found = re.search(r"at (\S+Z)\.", said.message)
    assert found
    late = datetime.fromisoformat(found[1]) - datetime.fromtimestamp(0, UTC) - timedelta(milliseconds=NOW + part + wait)
    assert timedelta() <= late < timedelta(seconds=1)


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (replace(REQUESTS, sliding=1_000), "requests per sec (RPS)"),
        (REQUESTS, "requests per min (RPM)"),
        (replace(REQUESTS, sliding=0, period=Period.MINUTE), "requests per min (RPM)"),
        (replace(REQUESTS, sliding=0, period=Period.DAY), "requests per day (RPD)"),
        (replace(TOKENS, sliding=0, period=Period.DAY), "tokens per day (TPD)"),
        (replace(TOKENS, sliding=0, period=Period.MONTH), "tokens per month"),
        (INPUT, "input tokens per min"),
        (OUTPUT, "output tokens per min"),
        (replace(TOKENS, sliding=90_000), "tokens in 1m30s"),
        (OPEN, "concurrent requests"),
        (MONEY, "spend per month"),
    ],
)
def test_what_is_limited_is_named(limit: Limit, words: str) -> None:
    message, _ = refused(limit, None)
    assert f" on {words}: Limit " in message


def test_a_limit_s_own_status_and_words_stand_in_place_of_ours() -> None:
    limit = replace(TOKENS, owner="team/search", status=503, message="rate limited")
    said = refusal(stands(limit, 1, wait=5_000), 1, "m", "search", NOW, "USD")
    assert (said.status, said.message, said.retry, said.kind) == (503, "rate limited", True, RATE_LIMIT)
    assert ("x-sluice-limit", "team/search/team-minute") in said.headers

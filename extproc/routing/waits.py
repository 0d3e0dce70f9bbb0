"""How long a provider asks to be left alone, as the headers of an answer tell it.

Providers say it in many ways: seconds, decimals, milliseconds, HTTP dates (Retry-After), durations such as 6m0s
(OpenAI, Groq), plain seconds (Azure), RFC 3339 (Anthropic), and Unix time in seconds (GitHub) or milliseconds.
Whatever cannot be read counts as not said. Nothing here is capped; a wait is never below SHORTEST.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from extproc.contract import DEPLOYED_HEADER

SHORTEST = 0.1
"""Seconds. What is asked for may be 0, negative or over; whoever asks at all is not asked again at once."""


class _Bucket(NamedTuple):
    """What is left of an allowance, and when it is whole again."""

    remaining: str
    reset: str


def _buckets(form: str, kinds: tuple[str, ...]) -> list[_Bucket]:
    return [_Bucket(form.format(kind, "remaining"), form.format(kind, "reset")) for kind in kinds]


_BUCKETS = (
    *_buckets("x-ratelimit-{1}-{0}", ("requests", "tokens")),
    *_buckets("anthropic-ratelimit-{0}-{1}", ("requests", "tokens", "input-tokens", "output-tokens")),
    _Bucket("x-ratelimit-remaining", "x-ratelimit-reset"),  # GitHub, OpenRouter
)
_REMAINING = frozenset([bucket.remaining for bucket in _BUCKETS])
_LONE_RESETS = (
    "x-rate-limit-reset-tokens",  # Azure, with a hyphen more and no word about what remains
    "x-ratelimit-timeremaining",  # GitHub Models
)

HEADERS = (
    "retry-after",
    "retry-after-ms",
    *(header for bucket in _BUCKETS for header in bucket),
    *_LONE_RESETS,
    DEPLOYED_HEADER,
)
"""The answer's headers that Envoy has to tell of each attempt."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?")
_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(h|ms|m|s|us|µs|ns)")  # of a duration
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_UNIX_S, _UNIX_MS = 1e9, 1e12  # numbers above are no durations but times: the year 2001, in seconds and milliseconds

Headers = Mapping[str, str]


def asked(headers: Headers, wall: float) -> float | None:
    """The pause in seconds that a refusal asks for; None where it asks for none. `wall`: Unix time.

    The provider's own word counts first. Else the allowance that is used up tells it, or, as a call may be too large
    for what is left, the one that takes longest to be whole again.
    """
    said = retry_after(headers, wall)
    if said is not None:
        return said
    used_up = spent(headers, wall)
    return max(_resets(headers, wall), default=None) if used_up is None else used_up


def retry_after(headers: Headers, wall: float) -> float | None:
    """The pause in seconds of `retry-after-ms`, or of `retry-after`; None for neither."""
    exact = _number(headers.get("retry-after-ms"))
    if exact is not None:
        return max(exact / 1000, SHORTEST)
    text = headers.get("retry-after")
    wait = _number(text)
    if wait is None:
        wait = _until(_http_date(text), wall)
    return None if wait is None else max(wait, SHORTEST)


def spent(headers: Headers, wall: float) -> float | None:
    """Seconds until what is used up is there again; None where nothing is, or nobody knows when."""
    if _REMAINING.isdisjoint(headers):
        return None
    longest = None
    for remaining, reset in _BUCKETS:
        if _number(headers.get(remaining)) == 0:
            wait = _reset(headers.get(reset), wall)
            if wait is not None:
                longest = max(wait, longest or SHORTEST)
    return longest


def _resets(headers: Headers, wall: float) -> list[float]:
    """Seconds until each allowance is whole. One below 0 is none (Azure says -1)."""
    told = [name for remaining, name in _BUCKETS if (_number(headers.get(remaining)) or 0) >= 0]
    found = [_reset(headers.get(name), wall) for name in (*told, *_LONE_RESETS)]
    return [max(reset, SHORTEST) for reset in found if reset is not None]


def _reset(text: str | None, wall: float) -> float | None:
    """Seconds until a reset, in any of the providers' forms."""
    number = _number(text)
    if number is None:
        wait = _duration(text)
        return _until(_timestamp(text), wall) if wait is None else wait
    if number >= _UNIX_MS:
        return number / 1000 - wall
    return number - wall if number >= _UNIX_S else number


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None


def _duration(text: str | None) -> float | None:
    """The seconds of a duration such as 1h2m3.5s."""
    seconds, at = 0.0, 0
    while text is not None and (part := _PART.match(text, at)) is not None:
        seconds += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return seconds if text and at == len(text) else None


def _http_date(text: str | None) -> datetime | None:
    try:
        found = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found  # HTTP dates are in GMT, named or not


def _timestamp(text: str | None) -> datetime | None:
    """An RFC 3339 time; without an offset nobody knows what it means."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def _until(time: datetime | None, wall: float) -> float | None:
    return None if time is None else time.timestamp() - wall

"""Where a caller stands: the headers that tell it, and the refusals of a spent limit.

Headers are those of the API that was called. Ours stand in place of the provider's, which tell of the gateway's own
account there. Nothing here names a caller: numbers, titles of limits, the model and the team.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache

from extproc.limits.limit import Limit, Measure, Mode, Period
from extproc.refusals import QUOTA, RATE_LIMIT, Refusal, after
from extproc.stores.counters import Reading
from extproc.surfaces import Face

Standing = tuple[Limit, Reading, int]
"""A limit, its counter after a step, and the counter's capacity for this call."""

Pairs = tuple[tuple[str, str], ...]
_Places = tuple[int, ...]

LONGEST_WAIT = 60_000
"""Milliseconds that a client is asked to wait. Some sleep whatever they are told, so of more than that none is told."""

_FINAL = LONGEST_WAIT + LONGEST_WAIT // 16
"""Above it no try again is asked for: a sliding minute that is counted in 32nds takes a little more than a minute."""

_SOON = 1_000  # milliseconds; nobody knows when an open call ends
_DAY = 86_400_000
_NANO = 10**9
_CENT = _NANO // 100

_TOKENS = frozenset({Measure.TOKENS, Measure.INPUT_TOKENS, Measure.OUTPUT_TOKENS})
_OPENAI = {"requests": frozenset({Measure.REQUESTS}), "tokens": _TOKENS}
_MONEY = frozenset({Measure.MONEY})
_ANTHROPIC = {
    "requests": frozenset({Measure.REQUESTS}),
    "tokens": frozenset({Measure.TOKENS}),
    "input-tokens": frozenset({Measure.INPUT_TOKENS}),
    "output-tokens": frozenset({Measure.OUTPUT_TOKENS}),
}
_WORDS = {
    Measure.REQUESTS: "requests",
    Measure.TOKENS: "tokens",
    Measure.INPUT_TOKENS: "input tokens",
    Measure.OUTPUT_TOKENS: "output tokens",
    Measure.CONCURRENT: "concurrent requests",
    Measure.MONEY: "spend",
}
_LENGTHS = {1_000: Period.SECOND, 60_000: Period.MINUTE, 3_600_000: Period.HOUR, _DAY: Period.DAY}
_SHORT = {Period.SECOND: "sec", Period.MINUTE: "min"}  # as OpenAI writes them; the others in full
_INITIALS = {Measure.REQUESTS: "RP", Measure.TOKENS: "TP"}  # RPM, TPD


# ---- headers ----------------------------------------------------------------------------------------


def headers(standings: Sequence[Standing], face: Face, currency: str, now: int, refused: str | None = None) -> Pairs:
    """What the tightest limit of each kind has left. `now`: milliseconds of Unix time. Shadow limits tell nothing.

    `refused`: the title of the limit that refused the call, which then is the one of its kind that is told.
    """
    enforced = [standing for standing in standings if standing[0].mode is Mode.ENFORCE]
    if refused is not None:
        its = {standing[0].measure for standing in enforced if standing[0].title == refused}
        enforced = [one for one in enforced if one[0].title == refused or one[0].measure not in its]
    kinds, money = _kinds(face is Face.ANTHROPIC, tuple([standing[0].measure for standing in enforced]))
    told: list[tuple[str, str]] = []
    for of_kind, limit, remaining, reset in kinds:
        tightest = _tightest(enforced, of_kind)
        _, reading, capacity = tightest
        back = _time(now + reading.reset) if face is Face.ANTHROPIC else duration(reading.reset)
        told += ((limit, str(capacity)), (remaining, str(_left(tightest))), (reset, back))
    if money:
        told += _budget(_tightest(enforced, money), currency, now)
    return (*told, *_warnings(enforced))


def _named(pattern: str, kinds: Mapping[str, frozenset[Measure]]) -> list[tuple[frozenset[Measure], str, str, str]]:
    """What each kind counts, and the names of its three headers: limit, remaining, reset."""
    return [(of, *_three(pattern, what)) for what, of in kinds.items()]


def _three(pattern: str, what: str) -> tuple[str, str, str]:
    limit, remaining, reset = [pattern.format(what=what, fact=fact) for fact in ("limit", "remaining", "reset")]
    return limit, remaining, reset


_OPENAI_NAMES = _named("x-ratelimit-{fact}-{what}", _OPENAI)
_ANTHROPIC_NAMES = _named("anthropic-ratelimit-{what}-{fact}", _ANTHROPIC)


@lru_cache(1024)
def _kinds(is_anthropic: bool, measures: tuple[Measure, ...]) -> tuple[list[tuple[_Places, str, str, str]], _Places]:
    """Where the limits of each kind are among those of these measures, with the names of its headers; and of money."""

    def places(of: frozenset[Measure]) -> _Places:
        return tuple([place for place, measure in enumerate(measures) if measure in of])

    names = _ANTHROPIC_NAMES if is_anthropic else _OPENAI_NAMES
    kinds = [(places(of), limit, remaining, reset) for of, limit, remaining, reset in names]
    return [kind for kind in kinds if kind[0]], places(_MONEY)


def _budget(tightest: Standing, currency: str, now: int) -> Pairs:
    _, reading, capacity = tightest
    return (
        ("x-sluice-budget-limit", amount(capacity)),
        ("x-sluice-budget-remaining", amount(_left(tightest))),
        ("x-sluice-budget-reset", _time(now + reading.reset)),
        ("x-sluice-budget-currency", currency),
    )


def _warnings(standings: Sequence[Standing]) -> Pairs:
    """Of each limit that has passed a soft threshold how much of it is used, in whole percent, without what is held."""
    passed = [
        f"{limit.title}; used={(reading.used - reading.held) * 100 // capacity}"
        for limit, reading, capacity in standings
        if limit.warn_at and capacity and (reading.used - reading.held) * 100 >= limit.warn_at[0] * capacity
    ]
    return (("x-sluice-limit-warning", ", ".join(passed)),) if passed else ()


def _tightest(standings: Sequence[Standing], places: _Places) -> Standing:
    """The one with the smallest part of its capacity left, of several the one with the least, for the longest."""
    return standings[places[0]] if len(places) == 1 else min([standings[place] for place in places], key=_room)


def _room(standing: Standing) -> tuple[float, int, int]:
    left = _left(standing)
    return left / (standing[2] or 1), left, -standing[1].reset


def _left(standing: Standing) -> int:
    _, reading, capacity = standing
    return max(0, capacity - reading.used)


def duration(milliseconds: int) -> str:
    """As OpenAI writes it: 12ms, 2.5s, 6m0s, 1h2m3s."""
    if 0 < milliseconds < 1_000:
        return f"{milliseconds}ms"
    if milliseconds < 60_000:
        return _seconds(milliseconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{_seconds(rest)}"
    return f"{minutes}m{_seconds(rest)}"


def _seconds(milliseconds: int) -> str:
    whole, part = divmod(milliseconds, 1_000)
    return f"{whole}.{part:03}".rstrip("0") + "s" if part else f"{whole}s"


def _time(now: int) -> str:
    """RFC 3339, in whole seconds, never before the moment itself."""
    return _second(-(-now // 1_000))


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def amount(nano: int) -> str:
    """Money in whole units, to the cent, or as exactly as it must be: 5000.00, 0.000012."""
    whole, part = divmod(nano, _NANO)
    if part % _CENT == 0:
        return f"{whole}.{part // _CENT:02}"
    return f"{whole}.{part:09}".rstrip("0")


# ---- refusals ---------------------------------------------------------------------------------------


def is_running(standing: Standing, units: int) -> bool:
    """Whether there was room for `units` but for what running calls hold, some of which will come back."""
    _, reading, capacity = standing
    return bool(reading.held) and reading.used - reading.held + units <= capacity


def is_final(limit: Limit, reading: Reading) -> bool:
    """Whether waiting does not help, or not soon: no client should try again by itself."""
    return reading.wait is None or reading.wait > _FINAL or is_allowance(limit)


def refusal(standing: Standing, units: int, model: str, team: str, now: int, currency: str) -> Refusal:
    """What the caller of a refused step is told. `units` are what it asked for; `now` is Unix time in milliseconds.

    `team`: the caller's, "" where it has none. A limit's own status and message stand in place of ours.
    """
    limit, reading, _ = standing
    facts = _facts(standing, units, currency)
    where = f"for {model}" + (f" in team {team}" if team else "") + f" on {_per(limit)}: {facts}"
    runs = is_running(standing, units)
    final = not runs and is_final(limit, reading)
    wait = _SOON if runs else _wait(limit, reading)
    if runs:
        message = f"Rate limit reached {where}, Held {reading.held}. Please try again in {_wait_words(wait)}."
    elif reading.wait is None:
        message = f"Request too large {where}. Make the input or the output cap smaller."
    elif is_allowance(limit):
        message = f"You exceeded your current quota {where}. There is room again at {_time(now + reading.wait)}."
    elif final:
        message = f"Rate limit reached {where}. There is room again at {_time(now + reading.wait)}."
    else:
        message = f"Rate limit reached {where}. Please try again in {_wait_words(wait)}."
    said = Refusal(
        QUOTA if final and is_allowance(limit) else RATE_LIMIT,
        limit.message or f"{message} (limit {limit.title})",
        headers=(("x-sluice-limit", limit.title),),
        type=_type(limit, final),
        own_retry=False,
        own_status=limit.status,
    )
    return said if final else replace(said, headers=(*after(wait), *said.headers), own_retry=True)


def is_allowance(limit: Limit) -> bool:
    """Whether it is an allowance and not a speed: clients take that for final."""
    return limit.measure is Measure.MONEY or limit.period in (Period.DAY, Period.MONTH) or limit.sliding >= _DAY


def _type(limit: Limit, final: bool) -> str:
    if final and is_allowance(limit):
        return QUOTA.code
    return "tokens" if limit.measure in _TOKENS else "requests"


def _wait(limit: Limit, reading: Reading) -> int:
    return min(max(reading.wait or 0, _SOON if limit.measure is Measure.CONCURRENT else 1), LONGEST_WAIT)


def _wait_words(milliseconds: int) -> str:
    """Never in minutes: Codex reads the wait from the message, in ms or s alone."""
    return f"{milliseconds}ms" if milliseconds < 1_000 else _seconds(milliseconds)


def _facts(standing: Standing, units: int, currency: str) -> str:
    limit, reading, capacity = standing
    if limit.measure is not Measure.MONEY:
        return f"Limit {capacity}, Used {reading.used}, Requested {units}"
    told = [f"{amount(value)} {currency}" for value in (capacity, reading.used, units)]
    return "Limit {}, Used {}, Requested {}".format(*told)


def _per(limit: Limit) -> str:
    """What is limited: `tokens per min (TPM)`, `concurrent requests`, `requests in 1m30s`."""
    words = _WORDS[limit.measure]
    period = limit.period or _LENGTHS.get(limit.sliding)
    if period is None:
        return f"{words} in {duration(limit.sliding)}" if limit.sliding else words
    initials = _INITIALS.get(limit.measure)
    short = f" ({initials}{period.value[0].upper()})" if initials and period is not Period.MONTH else ""
    return f"{words} per {_SHORT.get(period, period.value)}{short}"

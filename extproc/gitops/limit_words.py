"""A limit in a line, as people and machines see it. Limits that differ in more than name and owner differ in it."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Short

_USUAL = Limit("", Measure.TOKENS, 0)
_WARNS_ANYWAY = (50, 80, 100)  # a limit on money that says nothing of it
_SLIDE_ANYWAY = {1_000: "second", 60_000: "minute", 3_600_000: "hour"}
_DAY = 86_400_000
_UNITS = ((3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms"))


def limit_words(limit: Limit, currency: str = "") -> str:
    """Such as `tokens 100,000 per minute by team, model; shadow`. `currency`: of money, where it is known."""
    window = f" per {_window(limit)}" if _window(limit) else ""
    head = f"{limit.measure.value} {_priced(limit, limit.amount, currency)}{window}{_zone(limit)}"
    scope = f" by {_listed(scope.value for scope in limit.scope)}" if limit.scope else ""
    return "; ".join([head + scope, *_state(limit, currency), *_more(limit)])


def more_words(limit: Limit) -> str:
    """What it says besides its amount, window, scope, mode and raise."""
    return "; ".join(_more(limit))


def short_words(limit: Limit) -> str:
    """What it is at first sight, as `sluice keys create --limit` takes it: `tokens=100000/minute`."""
    amount = _amount(limit, limit.amount).replace(",", "")
    return f"{limit.measure.value}={amount}/{_window(limit).removeprefix('sliding ')}".rstrip("/")


def moment_words(moment: int, zone: str) -> str:
    """A time in milliseconds as its zone has it: `2026-12-24 00:00 CET`."""
    local = datetime.fromtimestamp(moment / 1000, ZoneInfo(zone))
    text = local.replace(tzinfo=None).isoformat(" ", "auto" if moment % 60_000 else "minutes")
    return f"{text} {local.tzname()}"


def _amount(limit: Limit, amount: int) -> str:
    """Money in whole units of the currency, whatever that is."""
    return f"{Decimal(amount).scaleb(-9).normalize():,f}" if limit.measure is Measure.MONEY else f"{amount:,}"


def _priced(limit: Limit, amount: int, currency: str) -> str:
    return f"{_amount(limit, amount)} {currency if limit.measure is Measure.MONEY else ''}".rstrip()


def _window(limit: Limit) -> str:
    if limit.period is not None:
        unusual = "" if limit.period in (Period.DAY, Period.MONTH) else "calendar "
        return f"{unusual}{limit.period.value}"
    if limit.sliding:
        return _SLIDE_ANYWAY.get(limit.sliding) or f"sliding {_duration(limit.sliding)}"
    return ""


def _zone(limit: Limit) -> str:
    return f" in {limit.zone}" if limit.zone != "UTC" else ""


def _duration(length: int) -> str:
    if length > _DAY and length % _DAY == 0:
        return f"{length // _DAY}d"
    size, unit = next((size, unit) for size, unit in _UNITS if length % size == 0)
    return f"{length // size}{unit}"


def _state(limit: Limit, currency: str) -> Iterator[str]:
    if limit.mode is not Mode.ENFORCE:
        yield limit.mode.value
    if limit.raised is not None:
        until = moment_words(limit.raised.until, limit.zone)
        yield f"raised to {_priced(limit, limit.raised.amount, currency)} until {until}"


def _more(limit: Limit) -> Iterator[str]:
    yield from _strictness(limit)
    yield from _conditions(limit.only)
    yield from _shortage(limit)


def _strictness(limit: Limit) -> Iterator[str]:
    if not limit.hard:
        yield "calls pass while anything is left"
    if limit.allow_on_error:
        yield "calls pass while it cannot be counted"
    if limit.warn_at != (_WARNS_ANYWAY if limit.measure is Measure.MONEY else ()):
        yield f"warns at {_listed(map(str, limit.warn_at))} %" if limit.warn_at else "never warns"
    if limit.kept_for_high:
        yield f"{limit.kept_for_high} % kept for high priority"


def _conditions(only: Only) -> Iterator[str]:
    for field in ("models", "backends", "teams", "areas", "tiers", "environments"):
        names: frozenset[str] | None = getattr(only, field)
        if names is not None:
            yield f"only {field} {_listed(sorted(names))}"
    if only.priority is not None:
        yield f"only {only.priority.value} priority"
    if only.low_route is not None:
        yield "only the low route" if only.low_route else "never the low route"


def _shortage(limit: Limit) -> Iterator[str]:
    if limit.short is not Short.REFUSE:
        yield f"{limit.short.value} when short"
    if limit.slice != _USUAL.slice:
        yield f"slices of {limit.slice}"
    if limit.fallback is not None:
        yield f"then {limit.fallback}"
    if limit.status != _USUAL.status:
        yield f"status {limit.status}"
    if limit.message is not None:
        yield f"message {limit.message!r}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)

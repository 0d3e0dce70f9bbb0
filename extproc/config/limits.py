"""Limits as people write them, and what they come to. One limit has one measure; see `extproc.limits.limit`.

Amounts of money are decimals with at most 9 places, so that they are whole numbers of billionths.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from extproc.config.fields import (
    DURATION,
    MOST,
    AnyAmount,
    BackendName,
    Line,
    ModelName,
    Moment,
    Money,
    Name,
    Strict,
    duration,
    nanos,
)
from extproc.config.guardrails import Guardrails
from extproc.config.problems import did_you_mean
from extproc.config.redaction import Redaction
from extproc.limits.limit import Limit, Measure, Mode, Only, Period, Priority, Raise, Scope, Short

PeriodName = Literal["second", "minute", "hour", "day", "month"]
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "month": 30 * 86_400}
_LONGEST = timedelta(days=31)
_WINDOWS = "second, minute, hour, day, month, or a duration like 90s, 24h or 7d"
_SLICE = 256  # tokens
_MONEY_WARNS = (50, 80, 100)  # percent


def _scopes(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _once(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        raise ValueError("names a scope twice")
    return value


def _per(value: object) -> object:
    if isinstance(value, str) and value in _SECONDS:
        return value
    try:
        length = duration(value)
    except ValueError:
        length = None
    if not isinstance(length, timedelta):
        raise ValueError(f"write {_WINDOWS}")
    if not timedelta(seconds=1) <= length <= _LONGEST:
        raise ValueError("a duration must be 1s to 31d")
    return length


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (OSError, ValueError, KeyError):  # what is there is not a zone, is no name of one, is not there
        hint = did_you_mean(value, (zone for zone in available_timezones() if "/" in zone))  # EST knows no summer
        raise ValueError(f"is no time zone; write one like Europe/Zurich{hint}") from None
    return value


def _rising(value: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 1 <= percent <= 100 for percent in value):
        raise ValueError("must be percents from 1 to 100")
    if list(value) != sorted(set(value)):
        raise ValueError("must rise")
    return value


def _one_or_more(*names: str) -> Any:
    """How a scope stands in a JSON Schema: a list, or one name."""
    one = {"type": "string", "enum": list(names)}
    return WithJsonSchema({"anyOf": [{"type": "array", "items": one}, one]})


OTHER_WORDS = {
    field: f"write it as a limit: `limits: {{NAME: {{{measure}: 5000, per: minute}}}}`"
    for field, measure in (("tokensPerMinute", "tokens"), ("requestsPerMinute", "requests"))
}
"""Fields of other places that people may look for in a limit, and what they are told."""

Amount = Annotated[int, Field(ge=1, le=MOST)]
Per = Annotated[
    PeriodName | timedelta,
    BeforeValidator(_per),
    WithJsonSchema(
        {"anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^({'|'.join(_SECONDS)}|{DURATION.pattern})$"}]}
    ),
]
Zone = Annotated[str, AfterValidator(_zone)]
Percents = Annotated[tuple[int, ...], AfterValidator(_rising)]
GatewayScope = Literal["key", "user", "team", "area", "model", "backend", "tier", "priority"]
TeamScope = Literal["team", "key", "user", "model"]
KeyScope = Literal["key", "model"]


class Condition(Strict):
    """Which calls the limit holds for; all that is given must be met."""

    models: tuple[ModelName, ...] | None = Field(default=None, min_length=1, description="of these models")
    backends: tuple[BackendName, ...] | None = Field(
        default=None, min_length=1, description="served by these backends; `team.backend` for one that a team brings"
    )
    environments: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="by keys of these environments"
    )
    priority: Literal["high", "low"] | None = Field(default=None, description="of this class")
    low_route: bool | None = Field(
        default=None, description="through `listener.low_priority_prefix` (`true`), or not (`false`)"
    )


class GatewayCondition(Condition):
    """Which calls the limit holds for; all that is given must be met."""

    teams: tuple[Name, ...] | None = Field(default=None, min_length=1, description="by these teams")
    areas: tuple[Name, ...] | None = Field(default=None, min_length=1, description="by teams of these areas")
    tiers: tuple[Name, ...] | None = Field(default=None, min_length=1, description="by teams of these tiers")


class Raised(Strict):
    """For a time a larger amount."""

    to: AnyAmount = Field(description="the amount, in the limit's own measure")
    until: Moment = Field(
        description="when it ends: a time with its zone, or a date, of which it is the very start in the limit's `zone`"
    )


class Reject(Strict):
    """How a call is refused, in place of 429 and our own words."""

    status: int = Field(default=429, ge=400, le=599, description="HTTP status")
    message: Line | None = Field(default=None, description="text of the error")


class LimitFile(Strict):
    """At most so much of one measure within a window, for each value of its scope."""

    model_config = ConfigDict(serialize_by_alias=True)

    scope: tuple[str, ...] = Field(default=(), description="what has a sum of its own")
    requests: Amount | None = Field(default=None, description="calls")
    tokens: Amount | None = Field(default=None, description="tokens of input and output")
    input_tokens: Amount | None = Field(default=None, description="tokens of input")
    output_tokens: Amount | None = Field(default=None, description="tokens of output")
    concurrent: Amount | None = Field(default=None, description="calls open at one time; takes no `per`")
    money: Money | None = Field(
        default=None, description="in `policies.currency`, at most 9 decimal places; models need a `price`"
    )
    per: Per | None = Field(
        default=None, description="`second`, `minute`, `hour`, `day`, `month`, or a duration up to `31d` such as `90s`"
    )
    window: Literal["sliding", "calendar"] | None = Field(
        default=None,
        description="absent: sliding up to an hour and for durations, else calendar. A sliding month has 30 days",
    )
    zone: Zone | None = Field(
        default=None, description="time zone of a calendar window, such as Europe/Zurich; absent: UTC"
    )
    only: Condition = Field(default=Condition(), description="which calls it holds for; absent: all")
    mode: Literal["enforce", "shadow", "off"] = Field(
        default="enforce", description="`shadow` counts and tells and refuses nothing"
    )
    on_error: Literal["deny", "allow"] = Field(
        default="deny",
        description="while the counters do not answer: refuse calls, or let each worker count by itself",
    )
    warn_at: Percents | None = Field(
        default=None, description="percents of the amount at which to warn; absent: 50, 80 and 100 for money, else none"
    )
    raised: Raised | None = Field(default=None, alias="raise", description="for a time a larger amount")
    kept_for_high: int = Field(
        default=0, ge=0, le=90, description="percent of the amount that calls of low priority leave free"
    )
    when_short: Literal["refuse", "cap", "lease"] = Field(
        default="refuse",
        description="a call without a cap on its output whose longest answer does not fit: refuse it, write the cap "
        "that fits into it, or reserve its output slice by slice and end it when nothing is left (a stream of a model "
        "without `hidden_output`; any other call is refused)",
    )
    slice: int = Field(default=_SLICE, ge=16, le=16_384, description="output tokens of one slice of a lease")
    hard: bool = Field(
        default=True,
        description="`false`: a call needs no room for all that it may use, it passes while anything is left; what it "
        "used is booked when it ends, so that the calls under way can overspend the limit",
    )
    fallback: ModelName | None = Field(
        default=None, description="public model to use instead once this is spent; absent: calls are refused"
    )

    @property
    def measure(self) -> Measure:
        return next(measure for measure in Measure if getattr(self, measure) is not None)

    @property
    def amount(self) -> int:
        """In whole units: of money, billionths."""
        return _units(self.measure, getattr(self, self.measure))

    @property
    def is_calendar(self) -> bool:
        if self.window is None:
            return self.per in ("day", "month")
        return self.window == "calendar"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(getattr(self, measure) is not None for measure in Measure) != 1:
            raise ValueError(f"give exactly one of {_quoted(Measure)}")
        for problem in (self._window_problem(), self._raise_problem(), self._shortage_problem()):
            if problem is not None:
                raise ValueError(problem)
        return self

    def _window_problem(self) -> str | None:
        if self.measure is Measure.CONCURRENT:
            unfit = [name for name in ("per", "window", "zone") if getattr(self, name) is not None]
            return f"`concurrent` counts calls that are open now: it takes no {_quoted(unfit)}" if unfit else None
        if self.per is None:
            return f"give `per`: {_WINDOWS}"
        if self.is_calendar and isinstance(self.per, timedelta):
            return "a calendar window is a second, minute, hour, day or month long; a duration slides"
        if self.zone is not None and not self.is_calendar:
            return "`zone` is for calendar windows, and this one slides"
        return None

    def _raise_problem(self) -> str | None:
        if self.raised is None:
            return None
        if self.measure is not Measure.MONEY and self.raised.to % 1:
            return f"`raise.to` must be a whole number, as `{self.measure}` is"
        if not self.amount < _units(self.measure, self.raised.to) <= MOST:
            return f"`raise.to` must be more than `{self.measure}`, and within what a limit can be"
        return None

    def _shortage_problem(self) -> str | None:
        if self.when_short != "refuse" and self.measure not in (Measure.TOKENS, Measure.OUTPUT_TOKENS, Measure.MONEY):
            return "`when_short` is for limits of `tokens`, `output_tokens` and `money`"
        if self.slice != _SLICE and self.when_short != "lease":
            return "`slice` is for `when_short: lease`"
        if not self.hard and self.measure in (Measure.REQUESTS, Measure.CONCURRENT):
            return "`hard: false` is for limits of tokens and of `money`: a call is one request, and no more"
        if not self.hard and self.when_short != "refuse":
            return "`when_short` is for limits that are hard"
        return None


class GatewayLimit(LimitFile):
    """At most so much of one measure within a window, for each value of its scope."""

    scope: Annotated[
        tuple[GatewayScope, ...],
        BeforeValidator(_scopes),
        AfterValidator(_once),
        _one_or_more(*get_args(GatewayScope)),
    ] = Field(
        default=(),
        description="what has a sum of its own: one of these, or a list, of which each combination has one; "
        "absent: the whole gateway together",
    )
    only: GatewayCondition = Field(default=GatewayCondition(), description="which calls it holds for; absent: all")
    reject: Reject | None = Field(default=None, description="how a call is refused")


class TeamLimit(LimitFile):
    """At most so much of one measure within a window, for the team or each value of a scope within it."""

    scope: Annotated[
        tuple[TeamScope, ...], BeforeValidator(_scopes), AfterValidator(_once), _one_or_more(*get_args(TeamScope))
    ] = Field(
        default=("team",),
        min_length=1,
        description="what has a sum of its own within the team: one of these, or a list, of which each combination "
        "has one",
    )


class KeyLimit(LimitFile):
    """At most so much of one measure within a window, for the key or each model that it uses."""

    scope: Annotated[
        tuple[KeyScope, ...], BeforeValidator(_scopes), AfterValidator(_once), _one_or_more(*get_args(KeyScope))
    ] = Field(default=("key",), min_length=1, description="what has a sum of its own: the key, or each of its models")


def _currency(value: str) -> str:
    if not (len(value) == 3 and value.isascii() and value.isupper() and value.isalpha()):
        raise ValueError("must be three capital letters, such as USD")
    return value


class Policies(Strict):
    """What callers may use, send and get. Of all limits of a call, also those in team files, the tightest decides."""

    currency: Annotated[str, AfterValidator(_currency)] = Field(
        default="USD", description="what prices and limits of money are in; the same for all"
    )
    unpriced: Literal["flag", "refuse"] = Field(
        default="flag",
        description="calls of which nobody knows what they cost: `flag` counts them, `refuse` keeps them from backends "
        "for which the model has no price, and refuses those that no other serves",
    )
    limits: dict[Name, GatewayLimit] = Field(default_factory=dict, description="limits by name")
    redaction: dict[Name, Redaction] = Field(
        default_factory=dict,
        description="personal data and secrets in texts, by name of the policy; `default` is for every caller whose "
        "team names no other, and without it nothing is looked at",
    )
    guardrails: dict[Name, Guardrails] = Field(
        default_factory=dict, description="what may be asked and answered; by name of the policy, as for `redaction`"
    )


def compile_limit(name: str, given: LimitFile, owner: str = "", public: Mapping[str, str] | None = None) -> Limit:
    """What a limit comes to. `owner` as Limit has it; `public`: a model's public name by each name it goes by."""
    public = public or {}
    reject = given.reject if isinstance(given, GatewayLimit) else None
    return Limit(
        name=name,
        measure=given.measure,
        amount=given.amount,
        owner=owner,
        scope=tuple(scope for scope in Scope if scope in given.scope),
        sliding=_sliding(given),
        period=Period(str(given.per)) if given.is_calendar else None,
        zone=given.zone or "UTC",
        only=_only(given.only, public),
        mode=Mode(given.mode),
        allow_on_error=given.on_error == "allow",
        warn_at=_warn_at(given),
        raised=_raised(given),
        kept_for_high=given.kept_for_high,
        short=Short(given.when_short),
        slice=given.slice,
        fallback=public.get(given.fallback, given.fallback) if given.fallback else None,
        status=reject.status if reject else 429,
        message=reject.message if reject else None,
        hard=given.hard,
    )


def _sliding(given: LimitFile) -> int:
    """The length of a sliding window in milliseconds; 0 of what has none."""
    if given.per is None or given.is_calendar:
        return 0
    if isinstance(given.per, timedelta):
        return given.per // timedelta(milliseconds=1)
    return _SECONDS[given.per] * 1000


def _only(given: Condition, public: Mapping[str, str]) -> Only:
    def names(field: str) -> frozenset[str] | None:
        found = getattr(given, field, None)
        return None if found is None else frozenset(found)

    models = None if given.models is None else frozenset(public.get(name, name) for name in given.models)
    return Only(
        models=models,
        backends=names("backends"),
        teams=names("teams"),
        areas=names("areas"),
        tiers=names("tiers"),
        environments=names("environments"),
        priority=Priority(given.priority) if given.priority else None,
        low_route=given.low_route,
    )


def _warn_at(given: LimitFile) -> tuple[int, ...]:
    if given.warn_at is not None:
        return given.warn_at
    return _MONEY_WARNS if given.measure is Measure.MONEY else ()


def _raised(given: LimitFile) -> Raise | None:
    if given.raised is None:
        return None
    until = given.raised.until
    if not isinstance(until, datetime):
        until = datetime.combine(until, time(), ZoneInfo(given.zone) if given.zone else UTC)
    return Raise(_units(given.measure, given.raised.to), round(until.timestamp() * 1000))


def _units(measure: Measure, amount: Decimal | int) -> int:
    return nanos(Decimal(amount)) if measure is Measure.MONEY else int(amount)


def _quoted(names: Any) -> str:
    """As people list things: `a`, `b` and `c`."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last

"""What models cost and how long their calls can be: what a call is held to before it is made."""

from collections.abc import Iterable
from dataclasses import fields, replace
from datetime import UTC, datetime, time
from decimal import Decimal
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from extproc.config.fields import MOST, Moment, ShortLine, Strict, TokenPrice, UnitPrice, nanos
from extproc.model import Bounds
from extproc.model import Price as NanoPrice

_FLOOR = Bounds().floor
_IMAGE_TOKENS = {"gpt-4o-mini": 48_169, "gpt-4.1-nano": 3_779, "o4-mini": 2_642, "gpt-4.1-mini": 2_489}
"""Of one image at the most, by a part of a model's name. Source: OpenAI's guide to vision."""
_TOKENS = (
    *("input", "output", "cached_input", "cache_write", "cache_write_1h", "reasoning"),
    *("audio_input", "audio_output", "image_input", "image_output"),
)
_UNITS = ("request", "minute", "image", "hosted_call")
_SHIFTS = {"1M": 0, "1k": 3}
"""Decimal places from what is written to the price of a million tokens."""

ServiceTier = Literal["batch", "fast", "flex", "performance", "priority", "reserved", "scale"]


class Rates(Strict):
    """What is paid for tokens, by the same number of them as in the price that it stands in."""

    input: TokenPrice | None = Field(default=None, description="tokens of input")
    output: TokenPrice | None = Field(default=None, description="tokens of output")
    cached_input: TokenPrice | None = Field(default=None, description="input that the provider had cached")
    cache_write: TokenPrice | None = Field(default=None, description="input that the provider puts into its cache")
    cache_write_1h: TokenPrice | None = Field(
        default=None, description="input that it puts there for an hour; absent: as `cache_write`"
    )
    reasoning: TokenPrice | None = Field(default=None, description="output that nobody sees")
    audio_input: TokenPrice | None = Field(default=None, description="tokens of audio in")
    audio_output: TokenPrice | None = Field(default=None, description="tokens of audio out")
    image_input: TokenPrice | None = Field(default=None, description="tokens of images in")
    image_output: TokenPrice | None = Field(default=None, description="tokens of images out")

    @model_validator(mode="after")
    def _has_both_sides(self) -> Self:
        if self._given() and None in (self.input, self.output):  # a line that was forgotten would be free
            raise ValueError("prices of tokens need both `input` and `output`; 0 for what costs nothing")
        return self

    def _given(self) -> dict[str, Decimal]:
        return {name: amount for name in _TOKENS if (amount := getattr(self, name)) is not None}

    def check(self, per: str) -> None:
        """Raises ValueError for an amount that is too large, or finer than can be counted."""
        for name, amount in self._given().items():
            if per == "1M" and amount.scaleb(9) % 1:
                raise ValueError(f"`{name}` has more than 9 decimal places, the most for a million tokens")
            if nanos(amount, _SHIFTS[per]) > MOST:
                raise ValueError(f"`{name}` is too large")

    def tokens(self, per: str) -> dict[str, Any]:
        """In whole billionths, of a million, by the fields of a compiled price."""
        return {name: nanos(amount, _SHIFTS[per]) for name, amount in self._given().items()}


class OwnRates(Rates):
    """Prices of some calls in place of all usual ones."""

    input: TokenPrice = Field(description="tokens of input")
    output: TokenPrice = Field(description="tokens of output")


class LongContext(OwnRates):
    """What all tokens of a call cost whose input is long. What has no price of its own costs as `input` or `output`."""

    above: int = Field(ge=1, description="holds for calls with more tokens of input than that, cached ones included")


def _rising(value: tuple[LongContext, ...]) -> tuple[LongContext, ...]:
    floors = [one.above for one in value]
    if floors != sorted(set(floors)):
        raise ValueError("`above` must rise")
    return value


LongContexts = Annotated[tuple[LongContext, ...], AfterValidator(_rising)]
_LONG = "other prices for calls with long input, by how long it is"


class Tier(OwnRates):
    """What tokens cost in a service tier. What has no price of its own costs as `input` or `output` here."""

    long_context: LongContexts = Field(default=(), description=_LONG)


class Price(Rates):
    """What is paid for use, in `policies.currency`. What is not given is free, or costs as `input` or `output` does."""

    model_config = ConfigDict(serialize_by_alias=True)

    per: Literal["1M", "1k"] = Field(default="1M", description="how many tokens the prices of tokens are for")
    request: UnitPrice = Field(default=Decimal(0), description="each call")
    minute: UnitPrice = Field(default=Decimal(0), description="each minute of audio, where time is billed")
    image: UnitPrice = Field(default=Decimal(0), description="each image made")
    hosted_call: UnitPrice = Field(
        default=Decimal(0), description="each call of a tool that the provider runs, such as a search of the web"
    )
    long_context: LongContexts = Field(default=(), description=_LONG)
    service_tiers: dict[ServiceTier, Tier] = Field(
        default_factory=dict,
        description="prices of tokens of calls that the provider says it served in a tier; in one that is not here "
        "they cost what is usual",
    )
    since: Moment | None = Field(
        default=None,
        alias="from",
        description="in force for calls that begin then or later: a time with its zone, or a date, of which it is the "
        "very start in UTC; absent: since ever",
    )
    version: ShortLine | None = Field(
        default=None,
        description="name of this price list, for reports; such as 2026-03. Absent: its `from`, or a digest of it",
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if not self.model_fields_set.intersection((*_TOKENS, *_UNITS)):
            raise ValueError("give a price; of a model that is free, `request: 0`")
        if self.input is None and (self.long_context or self.service_tiers):
            raise ValueError("`long_context` and `service_tiers` need the usual `input` and `output` beside them")
        self.check(self.per)
        tiers = self.service_tiers.values()
        for rates in (*tiers, *self.long_context, *[one for tier in tiers for one in tier.long_context]):
            rates.check(self.per)
        return self

    @property
    def begins(self) -> int:
        """In milliseconds of Unix time; 0: it has always been in force."""
        since = self.since
        if since is None:
            return 0
        if not isinstance(since, datetime):
            since = datetime.combine(since, time(), UTC)
        return max(1, round(since.timestamp() * 1000))

    def compiled(self) -> NanoPrice:
        """In whole billionths, tokens by the million."""
        usual = self._priced(self)
        tiers = tuple((name, self._priced(tier)) for name, tier in sorted(self.service_tiers.items()))
        price = replace(usual, tiers=tiers, since=self.begins)
        return replace(price, version=self._name(price))

    def _priced(self, rates: "Price | Tier") -> NanoPrice:
        units: dict[str, Any] = {name: nanos(getattr(self, name)) for name in _UNITS}
        above = tuple((one.above, NanoPrice(**one.tokens(self.per), **units)) for one in rates.long_context)
        return NanoPrice(**rates.tokens(self.per), **units, above=above)

    def _name(self, price: NanoPrice) -> str:
        """Of the version: what is called nothing has another name once it says something else."""
        if self.version is not None:
            return self.version
        if isinstance(self.since, datetime):
            return self.since.astimezone(UTC).isoformat().replace("+00:00", "Z")
        if self.since is not None:
            return self.since.isoformat()
        return f"auto-{blake2b(repr(_said(price)).encode(), digest_size=4).hexdigest()}"


def _said(value: object) -> object:
    """What a price has that is not there by default, so that fields of later releases change no digest."""
    if isinstance(value, tuple):
        return [_said(one) for one in value]
    if not isinstance(value, NanoPrice):
        return value
    told = ((field, getattr(value, field.name)) for field in fields(value))
    return [(field.name, _said(one)) for field, one in told if one != field.default]


def _in_order(value: tuple[Price, ...]) -> tuple[Price, ...]:
    if not value:
        raise ValueError("must not be empty")
    if any(one.since is None for one in value[1:]):
        raise ValueError("each version but the first needs a `from`")
    if any(earlier.begins >= later.begins for earlier, later in pairwise(value)):
        raise ValueError("`from` must rise: write the versions in the order in which they come into force")
    names = [one.version for one in value if one.version is not None]
    if len(names) != len(set(names)):
        raise ValueError("two versions have the same name")
    return value


def _written(value: object) -> str:
    return "[list]" if isinstance(value, list | tuple) else "[one]"


Prices = Annotated[
    Annotated[Price, Tag("[one]")] | Annotated[tuple[Price, ...], AfterValidator(_in_order), Tag("[list]")],
    Discriminator(_written),
]
"""One price, or the versions of it in the order in which they come into force."""


def versions(given: Price | tuple[Price, ...] | None) -> tuple[NanoPrice, ...]:
    """What is in force one after the other, rising by `since`; nothing where there is no price."""
    if given is None:
        return ()
    return tuple(one.compiled() for one in (given if isinstance(given, tuple) else (given,)))


TokenizerFamily = Literal["openai", "anthropic", "google", "other"]


class Bounded(Strict):
    """The most that a call of a model can be."""

    max_output: int | None = Field(
        default=None, ge=1, description="most tokens of one answer; absent: 16384, written into calls that name no cap"
    )
    min_output: int | None = Field(
        default=None,
        ge=1,
        description="no cap on an answer is lowered below so many tokens, but of a small limit to half of its amount; "
        f"absent: {_FLOOR}, or `max_output` if less",
    )
    context: int | None = Field(default=None, ge=1, description="most tokens of input and output together")
    hidden_output: bool = Field(
        default=False, description="makes output that no stream shows, such as reasoning: `when_short: lease` refuses"
    )
    tokenizer_family: TokenizerFamily | None = Field(
        default=None, description="whose tokenizer it resembles; absent: by the dialect of the first target's backend"
    )
    tokenizer: Path | None = Field(
        default=None,
        description="tokenizer.json of the model, to count its input exactly; needs the extra `tokenizers`",
    )
    image_tokens: int | None = Field(
        default=None,
        ge=1,
        description="most tokens that one image of the input counts as; absent: "
        f"{', '.join(f'{tokens} for {name}' for name, tokens in _IMAGE_TOKENS.items())} (a part of its name, or of a "
        f"target's), else {Bounds().image_tokens}",
    )
    max_seconds: int | None = Field(
        default=None,
        ge=1,
        description="longest audio that it takes, in seconds; none is held to be longer than its upload can be at "
        "8 kbit/s, either",
    )

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.max_output is not None and (self.min_output or 0) > self.max_output:
            raise ValueError("`min_output` must be at most `max_output`")
        if self.context is not None and (self.max_output or 0) > self.context:
            raise ValueError("`max_output` must be at most `context`")
        return self

    def bounds(self, family: str, names: Iterable[str]) -> Bounds:
        """`family`: of tokenizers, where none is given. `names`: all that the model goes by, here and at backends."""
        return Bounds(
            max_output=self.max_output,
            floor=self.min_output or min(_FLOOR, self.max_output or _FLOOR),
            context=self.context,
            hidden_output=self.hidden_output,
            family=self.tokenizer_family or family,
            tokenizer=None if self.tokenizer is None else str(self.tokenizer),
            image_tokens=self.image_tokens or _image_tokens(names),
            max_seconds=self.max_seconds,
        )


def _image_tokens(names: Iterable[str]) -> int:
    told = [tokens for name in names for part, tokens in _IMAGE_TOKENS.items() if part in name.lower()]
    return max(told, default=Bounds().image_tokens)

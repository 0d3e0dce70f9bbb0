"""What models cost and how long their calls can be: what a call is held to before it is made."""

from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from extproc.config.fields import MOST, Line, Strict, TokenPrice, UnitPrice, nanos
from extproc.model import Bounds
from extproc.model import Price as NanoPrice

_FLOOR = Bounds().floor
_IMAGE_TOKENS = {"gpt-4o-mini": 48_169, "gpt-4.1-nano": 3_779, "o4-mini": 2_642, "gpt-4.1-mini": 2_489}
"""Of one image at the most, by a part of a model's name. Source: OpenAI's guide to vision."""
_TOKENS = ("input", "output", "cached_input", "cache_write", "reasoning", "audio_input", "audio_output")
_UNITS = ("request", "minute", "image", "hosted_call")


class Price(Strict):
    """What is paid for use, in `policies.currency`. What is not given is free, or costs as `input` or `output` does."""

    per: Literal["1M", "1k"] = Field(default="1M", description="how many tokens the prices of tokens are for")
    input: TokenPrice | None = Field(default=None, description="tokens of input")
    output: TokenPrice | None = Field(default=None, description="tokens of output")
    cached_input: TokenPrice | None = Field(default=None, description="input that the provider had cached")
    cache_write: TokenPrice | None = Field(default=None, description="input that the provider puts into its cache")
    reasoning: TokenPrice | None = Field(default=None, description="output that nobody sees")
    audio_input: TokenPrice | None = Field(default=None, description="tokens of audio in")
    audio_output: TokenPrice | None = Field(default=None, description="tokens of audio out")
    request: UnitPrice = Field(default=Decimal(0), description="each call")
    minute: UnitPrice = Field(default=Decimal(0), description="each minute of audio, where time is billed")
    image: UnitPrice = Field(default=Decimal(0), description="each image made")
    hosted_call: UnitPrice = Field(
        default=Decimal(0), description="each call of a tool that the provider runs, such as a search of the web"
    )
    version: Line | None = Field(default=None, description="name of this price list, for reports; such as 2026-03")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set.intersection((*_TOKENS, *_UNITS)):
            raise ValueError("give a price; of a model that is free, `request: 0`")
        for name, amount in self._tokens().items():
            if self.per == "1M" and amount.scaleb(9) % 1:
                raise ValueError(f"`{name}` has more than 9 decimal places, the most for a million tokens")
            if nanos(amount, self._shift) > MOST:
                raise ValueError(f"`{name}` is too large")
        if self._tokens() and None in (self.input, self.output):  # a line that was forgotten would be free
            raise ValueError("prices of tokens need both `input` and `output`; 0 for what costs nothing")
        return self

    @property
    def _shift(self) -> int:
        """Decimal places from what is written to the price of a million tokens."""
        return 3 if self.per == "1k" else 0

    def _tokens(self) -> dict[str, Decimal]:
        return {name: amount for name in _TOKENS if (amount := getattr(self, name)) is not None}

    def compiled(self) -> NanoPrice:
        """In whole billionths, tokens by the million."""
        tokens = {name: nanos(amount, self._shift) for name, amount in self._tokens().items()}
        units = {name: nanos(getattr(self, name)) for name in _UNITS}
        return NanoPrice(**tokens, **units, version=self.version or "")


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

"""Guardrails as people write them; `rules` says what they come to."""

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from extproc.config.fields import Duration, Name, Strict, UnitPrice

_MODE = "`shadow` looks, counts and records, and refuses nothing"
_ACTION = "`block` refuses the call, and ends an answer; `flag` tells of it in the call's record"
Mode = Literal["off", "shadow", "enforce"]
Action = Literal["block", "flag"]
Role = Literal["system", "developer", "user", "assistant", "tool", "tools"]
Count = Annotated[int, Field(ge=0, le=1_000_000_000)]
Host = Annotated[
    str, Field(pattern=r"^(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$", max_length=253), AfterValidator(str.lower)
]
ToolName = Annotated[str, Field(min_length=1, max_length=200)]
Category = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z/_-]{0,62}$")]
ToolType = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]


class Structure(Strict):
    """What a request may hold that no look at its texts sees. What is absent is not checked."""

    mode: Mode = Field(default="enforce", description=_MODE)
    action: Action = Field(default="block", description=_ACTION)
    max_messages: Count | None = Field(default=None, description="messages, or items of input")
    max_text: Count | None = Field(default=None, description="characters of all texts together")
    max_images: Count | None = Field(default=None, description="images")
    max_tools: Count | None = Field(default=None, description="tools that are defined")
    images: Literal["any", "inline", "none"] = Field(
        default="any", description="`inline`: only in the body itself, so that the provider fetches nothing"
    )
    image_hosts: tuple[Host, ...] | None = Field(
        default=None, description="from where a provider may fetch images; `*.example.com` for all below it"
    )
    tools: tuple[ToolName, ...] | None = Field(
        default=None, description="names of the caller's own tools, in which `*` stands for anything"
    )
    hosted_tools: tuple[ToolType, ...] | None = Field(
        default=None,
        description="types of tools that the provider runs, without a version: web_search, code_interpreter, mcp, …; "
        "empty: none",
    )
    mcp_hosts: tuple[Host, ...] | None = Field(default=None, description="where remote MCP servers may be")
    files: bool = Field(default=True, description="files at the provider, by id, or that it fetches by a URL")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.images != "any" and self.image_hosts is not None:
            raise ValueError(f"`images: {self.images}` lets a provider fetch none: leave `image_hosts` out")
        return self


class Injection(Strict):
    """Attempts to talk a model out of its instructions, by patterns; see docs/guardrails.md for what they miss."""

    mode: Mode = Field(default="enforce", description=_MODE)
    action: Action = Field(default="block", description=_ACTION)
    threshold: float = Field(default=0.8, gt=0, le=1, description="score of a text from which it is one, 0 to 1")
    trusted: tuple[Role, ...] = Field(
        default=("system", "developer"),
        description="roles whose texts are not looked at; `tools`: definitions of tools",
    )


class Content(Strict):
    """Words and patterns that may not be said."""

    words: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="words and phrases, as whole ones and in any case of letters"
    )
    patterns: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), description="regular expressions")
    mode: Mode = Field(default="enforce", description=_MODE)
    action: Action = Field(default="block", description=_ACTION)
    input: bool = Field(default=True, description="look at what callers send")
    output: bool = Field(default=False, description="look at what models say")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.words and not self.patterns:
            raise ValueError("give `words`, `patterns` or both")
        if not self.input and not self.output:
            raise ValueError("looks at nothing: set `input`, `output` or both")
        return self


class Moderation(Strict):
    """A service that judges the texts of a call, after redaction."""

    service: Name = Field(description="name of an entry in `services` that moderates")
    model: str | None = Field(
        default=None, min_length=1, description="openai-moderation only: its model; absent: the service's own choice"
    )
    thresholds: dict[Category, Annotated[float, Field(ge=0, le=7)]] = Field(
        default_factory=dict,
        description="by category: OpenAI's scores from 0 to 1, Azure's severities 0 to 7; empty: what OpenAI itself "
        "flags, and 4 of every category of Azure's",
    )
    mode: Mode = Field(default="enforce", description=_MODE)
    action: Action = Field(default="block", description=_ACTION)
    on_error: Literal["deny", "allow"] = Field(
        default="deny", description="what becomes of a call that the service did not judge"
    )
    timeout: Duration = Field(default=timedelta(seconds=2), description="how long to wait for the service in one call")
    price: UnitPrice = Field(default=Decimal(0), description="of one call to it, in `policies.currency`")
    input: bool = Field(default=True, description="judge what callers send")
    output: bool = Field(default=False, description="judge what models say")
    window: int = Field(
        default=2_000, ge=200, le=100_000, description="characters of a streamed answer that wait to be judged together"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.input and not self.output:
            raise ValueError("judges nothing: set `input`, `output` or both")
        return self


class Guardrails(Strict):
    """What callers may ask, and models say. What is absent is not looked at."""

    structure: Structure | None = Field(default=None, description="what a request may hold")
    injection: Injection | None = Field(default=None, description="attempts to talk a model out of its instructions")
    content: dict[Name, Content] = Field(default_factory=dict, description="words and patterns, by name of the rule")
    moderation: Moderation | None = Field(default=None, description="a service that judges texts")
    on_error: Literal["deny", "allow"] = Field(
        default="deny", description="what becomes of a call that could not be looked through"
    )

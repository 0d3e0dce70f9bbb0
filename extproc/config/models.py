"""Models as callers name them, with the backends that serve them."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from extproc import model
from extproc.config.backends import is_credential, is_ours
from extproc.config.fields import Duration, ModelName, Name, Strict
from extproc.config.prices import Bounded, Prices
from extproc.config.problems import did_you_mean

Order = Literal["weights", "least_latency", "least_busy"]
_WITHOUT_STREAMS = ("embeddings", "moderation", "rerank")
Modality = Literal["chat", "embeddings", "transcription", "speech", "image", "moderation", "rerank"]


def _day(value: object) -> object:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("write a date like 2026-03-31")
    return value


def _affinity(value: str) -> str:
    kind, _, name = value.partition(":")
    if kind == "header" and name.lower() == "cookie":
        raise ValueError("is all cookies together: name one, like cookie:session")
    if kind == "header" and (is_credential(name.lower()) or is_ours(name.lower())):
        raise ValueError("is a header that says nothing about a session; name one of your own, or write team")
    return value


def _group(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise ValueError("is a group, which is a list: write targets as [[{backend: a}, {backend: b}], [{backend: c}]]")
    return value


Day = Annotated[date, BeforeValidator(_day), WithJsonSchema({"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"})]
AffinityText = Annotated[
    str,
    Field(max_length=100, pattern=r"^(team|prompt|header:[A-Za-z0-9][A-Za-z0-9-]*|cookie:[A-Za-z0-9_.-]+)$"),
    AfterValidator(_affinity),
]


class Target(Strict):
    """A backend that can serve a model, under the name it has there."""

    backend: Name = Field(description="name of an entry in `backends`")
    model: ModelName | None = Field(default=None, description="deployed name; absent: the public name")
    weight: int = Field(default=1, ge=0, le=1000, description="share within its group")
    price: Prices | None = Field(
        default=None, description="what it costs there, or a list of versions; absent: the model's `price`"
    )


Group = Annotated[tuple[Target, ...], BeforeValidator(_group)]


class Shadow(Strict):
    """A backend that gets copies of calls, redacted, and whose answers are thrown away. Its provider bills them."""

    backend: Name = Field(description="name of an entry in `backends`")
    model: ModelName | None = Field(default=None, description="deployed name; absent: the public name")
    share: float = Field(gt=0, le=1, description="of the calls, such as 0.05")


class Retired(Strict):
    """A name that still works and should not be used any more. Dates are the very start of the day, in UTC."""

    since: Day = Field(description="since when; answers tell it in the header `deprecation`")
    sunset: Day | None = Field(
        default=None, description="when it is expected to stop working; answers tell it in the header `sunset`"
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.sunset is not None and self.sunset < self.since:
            raise ValueError("`sunset` must not be before `since`")
        return self

    def compiled(self) -> model.Retirement:
        """In Unix time."""
        return model.Retirement(_midnight(self.since), None if self.sunset is None else _midnight(self.sunset))


class Fallback(Strict):
    """Models that serve instead of one whose providers refuse a call, for callers who may use both."""

    context_window: ModelName | None = Field(
        default=None, description="name of a model of a larger context, for calls whose input is longer than this takes"
    )
    content_filter: ModelName | None = Field(
        default=None, description="name of another model, for calls that the provider's content filter refuses"
    )

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if not self.names():
            raise ValueError("name a model for `context_window`, for `content_filter` or for both")
        return self

    def names(self) -> dict[model.Cause, str]:
        """What is named, by what it is for."""
        named = {model.Cause.CONTEXT_WINDOW: self.context_window, model.Cause.CONTENT_FILTER: self.content_filter}
        return {cause: name for cause, name in named.items() if name is not None}


class Model(Bounded):
    """A model as callers name it, and the most that a call of it can be."""

    enabled: bool = Field(
        default=True, description="`false`: it is not listed, and a call of it is refused as that of an unknown model"
    )
    aliases: tuple[ModelName, ...] = Field(default=(), description="other names callers may use")
    retired: dict[ModelName, Retired] = Field(
        default_factory=dict,
        description="names that still work and say in each answer that they should not be used any more: further ones, "
        "aliases or its own",
    )
    modality: Modality | None = Field(
        default=None, description="what it is for: other APIs refuse it; absent: whatever its backends serve"
    )
    targets: tuple[Group, ...] = Field(
        min_length=1, description="groups in order of preference; weights share the calls inside a group"
    )
    affinity: AffinityText | None = Field(
        default=None,
        description="calls that have this in common go to the same backend of a group as long as it serves: `team`, "
        "`prompt` (how it begins), `header:NAME` or `cookie:NAME`; absent: each is drawn anew",
    )
    order: Order = Field(
        default="weights",
        description="in which order the backends of a group are tried, of calls that no `affinity` binds: drawn by "
        "`weights`; those that have lately answered soonest first, `least_latency`; those with the fewest calls under "
        "way for their weight first, `least_busy`",
    )
    shadow: Shadow | None = Field(
        default=None,
        description="copy a share of its calls, redacted, to another backend, to see how that does: its answers are "
        "thrown away but for status, time and usage, and no team pays for them; absent: none",
    )
    first_byte: Duration | None = Field(
        default=None,
        description="how long a backend may take until its answer begins; then the next one is tried. Absent: "
        "`timeouts.call`",
    )
    stall: Duration | None = Field(
        default=None,
        description="how long a backend may be silent in the middle of a stream, its first event included; then the "
        "stream ends with an error event, and the backend's call with it. Absent: `timeouts.idle` cuts it",
    )
    fallback: Fallback | None = Field(
        default=None,
        description="models that serve instead where the providers refuse a call for its length or its contents; "
        "absent: the caller gets the refusal",
    )
    tiers: tuple[Name, ...] | None = Field(
        default=None, description="only teams of these tiers may use it, however they ask for it; absent: every caller"
    )
    price: Prices | None = Field(
        default=None,
        description="what it costs, where a target has no price of its own; or a list of versions, each in force from "
        "its `from`. Absent: calls under a limit of `money` are refused, and others as `policies.unpriced` says",
    )

    @model_validator(mode="after")
    def _has_streams(self) -> Self:
        if self.stall is not None and self.modality in _WITHOUT_STREAMS:
            raise ValueError(f"`stall` is for streams, and a model for {self.modality} has none")
        return self

    def names(self, public: str) -> list[str]:
        """All that it goes by, the public name first. One that stands twice among name and aliases is there twice."""
        named = [public, *self.aliases]
        return [*named, *(name for name in self.retired if name not in named)]

    @property
    def stand_ins(self) -> dict[model.Cause, str]:
        """The models that serve instead, by what for."""
        return {} if self.fallback is None else self.fallback.names()

    def serves(self, surface: str) -> bool:
        """Whether calls of a surface, by its name, can be meant for it."""
        surfaces = None if self.modality is None else model.Modality(self.modality).surfaces
        return surfaces is None or surface in surfaces

    def bound(self) -> model.Affinity | None:
        """The affinity in parts."""
        if self.affinity is None:
            return None
        kind, _, name = self.affinity.partition(":")
        binding = model.Binding(kind)
        return model.Affinity(binding, name.lower() if binding is model.Binding.HEADER else name)


def fallback_problems(models: Mapping[str, Model], public: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the models that stand in for others. `public`: the public name by every name."""
    for name, given in models.items():
        for cause, other in given.stand_ins.items():
            where = f"models.{name}.fallback.{cause.value}"
            if other not in public:
                yield f"{where}: there is no model {other!r} under `models`{did_you_mean(other, public)}"
            elif problem := _unfit(name, given, cause, models, public):
                yield f"{where}: {problem}"


def _unfit(
    name: str, given: Model, cause: model.Cause, models: Mapping[str, Model], public: Mapping[str, str]
) -> str | None:
    """Why a model that there is cannot stand in for another one."""
    other = public[given.stand_ins[cause]]
    if other == name:
        return "is the model itself"
    if (given.modality or "chat") != "chat" or (models[other].modality or "chat") != "chat":
        return "is for models that chat, and one of the two is for something else, as its `modality` says"
    if cause is not model.Cause.CONTEXT_WINDOW:
        return None
    small, large = given.context, models[other].context
    if small is not None and large is not None and large <= small:
        return f"the `context` of {other!r} is no larger than that of this model"
    return "leads back to the model itself" if name in _larger(other, models, public) else None


def _larger(name: str, models: Mapping[str, Model], public: Mapping[str, str]) -> list[str]:
    """The models that stand in for one where its context is exceeded, one for the other, until there is none new."""
    found = [name]
    while True:
        other = public.get(models[found[-1]].stand_ins.get(model.Cause.CONTEXT_WINDOW, ""))
        if other is None or other in found:
            return found
        found.append(other)


def _midnight(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())

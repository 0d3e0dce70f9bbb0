"""Models as callers name them, with the backends that serve them."""

from datetime import UTC, date, datetime, time
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from extproc import model
from extproc.config.backends import is_credential, is_ours
from extproc.config.fields import Duration, ModelName, Name, Strict
from extproc.config.prices import Bounded, Price

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
    price: Price | None = Field(default=None, description="what it costs there; absent: the model's `price`")


Group = Annotated[tuple[Target, ...], BeforeValidator(_group)]


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
    first_byte: Duration | None = Field(
        default=None,
        description="how long a backend may take until its answer begins; then the next one is tried. Absent: "
        "`timeouts.call`",
    )
    tiers: tuple[Name, ...] | None = Field(
        default=None, description="only teams of these tiers may use it, however they ask for it; absent: every caller"
    )
    price: Price | None = Field(
        default=None,
        description="what it costs, where a target has no price of its own; absent: calls under a limit of `money` are "
        "refused",
    )

    def names(self, public: str) -> list[str]:
        """All that it goes by, the public name first. One that stands twice among name and aliases is there twice."""
        named = [public, *self.aliases]
        return [*named, *(name for name in self.retired if name not in named)]

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


def _midnight(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())

"""Policies of redaction as people write them; `profiles` says what they come to."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, ByteSize, Field, WithJsonSchema, model_validator

from extproc.config.fields import Duration, LocalSecret, Name, Size, Strict
from extproc.redaction.entities import REGIONS
from extproc.redaction.names import SCORE

ENTITY = r"^[A-Za-z][A-Za-z0-9_]{0,62}$"
InputAction = Literal["placeholder", "mask", "hash", "drop", "block", "flag", "off"]
OutputAction = Literal["mask", "hash", "drop", "block", "flag"]
Entity = Annotated[str, Field(pattern=ENTITY)]
Score = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def _listed(value: object) -> object:
    """A list of entities says of each what is usual."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        return dict.fromkeys(value, "placeholder")
    return value


def _usual() -> dict[str, InputAction]:
    return {"DEFAULT": "placeholder"}


_ENTITIES_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object",
            "propertyNames": {"pattern": ENTITY},
            "additionalProperties": {"type": "string", "enum": list(get_args(InputAction))},
        },
        {"type": "array", "items": {"type": "string", "pattern": ENTITY}},
    ]
}


class Names(Strict):
    """A trained model that finds names, places and organisations, which no pattern tells."""

    model: str | None = Field(
        default=None, min_length=1, description="a spaCy model: an installed package, or a folder; runs on this machine"
    )
    service: Name | None = Field(
        default=None,
        description="name of an entry in `services` with `api: presidio`; it gets the texts as they are",
    )
    entities: tuple[Entity, ...] = Field(
        default=("PERSON", "LOCATION"),
        min_length=1,
        description="what to find: PERSON, LOCATION, ORGANIZATION, NRP, DATE_TIME, or what the service has besides",
    )
    language: str = Field(default="en", pattern=r"^[a-z]{2,3}$", description="of the texts, for a service")
    floor: Score = Field(default=0.4, description="least score of what is found, 0 to 1")
    max_text: int = Field(default=20_000, ge=100, le=1_000_000, description="characters of one call")
    timeout: Duration = Field(
        default=timedelta(seconds=2), le=timedelta(minutes=1), description="how long to wait for it in one call"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.model is None) == (self.service is None):
            raise ValueError("give exactly one of `model` and `service`")
        if self.model is not None and self.floor > SCORE:
            raise ValueError(f"with a local model `floor` is at most {SCORE}: it has no scores of its own")
        return self


class Redaction(Strict):
    """What is looked for in the texts of calls, and what becomes of it."""

    mode: Literal["off", "shadow", "enforce"] = Field(
        default="enforce", description="`shadow` finds, counts and records, and changes and refuses nothing"
    )
    entities: Annotated[dict[Entity, InputAction], BeforeValidator(_listed), WithJsonSchema(_ENTITIES_SCHEMA)] = Field(
        default_factory=_usual,
        description="what becomes of what callers send, by entity or group (DEFAULT, SECRET, NATIONAL; an entity wins "
        "over its group); or a list of entities, for each a placeholder",
    )
    output: dict[Entity, OutputAction] = Field(
        default_factory=dict,
        description="what becomes of what models say, by entity or group; empty: nothing is looked for",
    )
    recognizers: tuple[Path, ...] = Field(
        default=(),
        description="files with custom recognizers, as Presidio's YAML has them; what they find gets a placeholder, "
        "unless `entities` says otherwise",
    )
    deny: dict[Entity, Words] = Field(
        default_factory=dict, description="words that are values of an entity, such as names of projects; as whole ones"
    )
    allow: tuple[str, ...] = Field(default=(), description="values that stay as they are, in any case of letters")
    allow_patterns: tuple[str, ...] = Field(
        default=(), description="values that stay as they are: regular expressions that match all of them"
    )
    floors: dict[Entity, Score] = Field(
        default_factory=dict, description="least score of what is found, by entity; absent: 0.4"
    )
    context: dict[Entity, Words] = Field(
        default_factory=dict, description="more words that speak for a value when they stand near it, by entity"
    )
    regions: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2}$")], ...] = Field(
        default=REGIONS, min_length=1, description="where telephone numbers without a country code may be from"
    )
    on_error: Literal["deny", "allow"] = Field(
        default="deny", description="what becomes of a call that could not be looked through"
    )
    max_text: Size = Field(
        default=ByteSize(2**20), ge=1024, le=64 * 2**20, description="most text in one call; more is an error"
    )
    stateful: Literal["mask", "refuse"] = Field(
        default="mask",
        description="calls that lean on a history at the provider, where no placeholder can be taken back: mask what "
        "is found in them, or refuse them",
    )
    hash_key: LocalSecret | None = Field(
        default=None,
        description="secret of at least 32 bytes that `hash` needs, read when a worker starts; each team has its own "
        "from it",
    )
    names: Names | None = Field(default=None, description="how names are found; absent: they are not")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.hash_key is None and "hash" in (*self.entities.values(), *self.output.values()):
            raise ValueError("`hash` needs `hash_key`")
        return self

"""A team file exactly as its owner writes it. Strict, as all configuration is.

A field enters this schema together with the code that carries it out. Users are held as they are compared: a mail
address in lower case, any other name as it is.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self
from unicodedata import is_normalized

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from extproc.config.byob import MOST_BACKENDS, MOST_MODELS, OwnBackend, OwnModel
from extproc.config.fields import IpRange, ModelName, Name, Strict
from extproc.config.limits import Amount, KeyLimit, TeamLimit
from extproc.identity.claims import folded
from extproc.model import DEFAULT_POLICY

DEFAULT_TIER = "standard"
EVERY_MODEL = "*"
_LIFETIME = re.compile(r"([0-9]{1,5})([dh])")
_KEY_PREFIX = "sk-"


def _lifetime(value: object) -> object:
    found = _LIFETIME.fullmatch(value) if isinstance(value, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError("write a lifetime like 90d or 12h")
    return timedelta(days=int(found[1])) if found[2] == "d" else timedelta(hours=int(found[1]))


def _line(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError("must be printable characters on one line, with no space at its ends")
    return value


def _user(value: str) -> str:
    if not is_normalized("NFC", value):  # KELVIN SIGN would become the letter k
        raise ValueError("has letters that are not in their usual (composed) form")
    return folded(_line(value))


def _key_name(value: str) -> str:
    if value.startswith(_KEY_PREFIX):
        raise ValueError("is no name: it begins as a key does. If it is one, revoke it")
    return _line(value)


Lifetime = Annotated[
    timedelta,
    BeforeValidator(_lifetime),
    WithJsonSchema({"type": "string", "pattern": "^0*[1-9][0-9]{0,4}[dh]$"}),
]
Text = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_line)]
User = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_user)]
KeyName = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_key_name)]
Grant = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/@+-]*)$")]
TeamRole = Literal["team_admin", "developer", "viewer"]
SurfaceName = Literal[
    "chat",
    "completions",
    "embeddings",
    "responses",
    "models",
    "transcriptions",
    "translations",
    "speech",
    "images",
    "image_edits",
    "moderations",
    "rerank",
    "messages",
    "me",
]


class GrantedModel(Strict):
    """A model that the team may use."""

    name: Grant = Field(description="public name or alias of a model; `*` for every model that is open to the tier")
    tokens_per_minute: Amount | None = Field(
        default=None,
        alias="tokensPerMinute",
        description="tokens of input and output that the team may use of it within any minute; with `*`: of each model",
    )
    requests_per_minute: Amount | None = Field(
        default=None,
        alias="requestsPerMinute",
        description="calls that the team may make to it within any minute; with `*`: to each model",
    )


class TeamMember(Strict):
    """A person in the team."""

    user: User = Field(description="the user, as its tokens name it; the case of a mail address does not matter")
    role: TeamRole = Field(default="developer", description="what it may do; a viewer sees and never calls")


class TeamGroup(Strict):
    """A group of the issuer of tokens: whoever is in it is in the team."""

    id: Text = Field(description="the group's id, as tokens have it")
    role: TeamRole = Field(default="developer", description="what its members may do")


class ServiceAccount(Strict):
    """A program that calls for itself."""

    name: Name = Field(description="its name, unique in the team")
    client_id: Text | None = Field(
        default=None, description="the application's id at the issuer of tokens; absent: it has keys only"
    )


class DeclaredKey(Strict):
    """A key that the team is due. `sluice apply` makes it, delivers it, and revokes it when it leaves the file."""

    name: KeyName = Field(description="unique in the team; a name whose key was revoked is spent")
    user: User | None = Field(default=None, description="a user of the team who it belongs to")
    service_account: Name | None = Field(
        default=None, description="a service account of the team that it belongs to; absent, as `user`: the team"
    )
    environment: Name | None = Field(default=None, description="where it is used, such as prod")
    lifetime: Lifetime | None = Field(
        default=None, description="like 90d or 12h; `sluice apply` replaces an expired key. Absent: for ever"
    )
    models: tuple[ModelName, ...] | None = Field(
        default=None, min_length=1, description="some of the team's models; absent: all of them"
    )
    surfaces: tuple[SurfaceName, ...] | None = Field(
        default=None, min_length=1, description="the only APIs it may call; absent: all"
    )
    ip_ranges: tuple[IpRange, ...] = Field(
        default=(), description="client addresses it may come from; empty: those of the team"
    )
    limits: dict[Name, KeyLimit] = Field(
        default_factory=dict, description="what it may use, besides the limits of the team; by name"
    )
    priority: Literal["high", "low"] = Field(
        default="high", description="the highest class that its calls may have; low: none of its calls is a high one"
    )

    @model_validator(mode="after")
    def _one_holder(self) -> Self:
        if self.user is not None and self.service_account is not None:
            raise ValueError("give at most one of `user` and `service_account`")
        return self


class TeamFile(Strict):
    """A team: who is in it, what it may use, and which keys it is due. The file's name is the team's."""

    area: Name = Field(description="the part of the company that it belongs to")
    owner: User = Field(description="the user who answers for the team; a team_admin without being listed")
    tier: Name = Field(
        default=DEFAULT_TIER, description="opens the models that are for this tier, see `models.*.tiers`"
    )
    models: tuple[GrantedModel, ...] = Field(default=(), description="models that it may use; empty: none")
    ip_ranges: tuple[IpRange, ...] = Field(
        default=(), description="client addresses it may call from, such as 10.0.0.0/8; empty: all"
    )
    tags: dict[Text, Text] = Field(default_factory=dict, description="labels of your own, such as a cost centre")
    members: tuple[TeamMember, ...] = Field(default=(), description="the people in it, besides its owner")
    groups: tuple[TeamGroup, ...] = Field(default=(), description="groups of the issuer whose members are in it")
    service_accounts: tuple[ServiceAccount, ...] = Field(default=(), description="programs that call for themselves")
    limits: dict[Name, TeamLimit] = Field(default_factory=dict, description="what the team may use, by name")
    redaction: Name = Field(
        default=DEFAULT_POLICY, description="the policy of `policies.redaction` that its calls are held to"
    )
    guardrails: Name = Field(
        default=DEFAULT_POLICY, description="the policy of `policies.guardrails` that its calls are held to"
    )
    providers: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        description="whose backends its calls may go to, as `backends.*.provider` of the gateway has them; absent: all",
    )
    regions: tuple[Name, ...] | None = Field(
        default=None,
        min_length=1,
        description="where its calls may go, as `backends.*.region` of the gateway has them; absent: anywhere",
    )
    backends: dict[Name, OwnBackend] = Field(
        default_factory=dict,
        max_length=MOST_BACKENDS,
        description="backends that it brings, for its own calls alone; `byob` of the gateway says where they may be",
    )
    own_models: dict[ModelName, OwnModel] = Field(
        default_factory=dict,
        max_length=MOST_MODELS,
        description="models that these serve, by names that are the team's",
    )
    keys: tuple[DeclaredKey, ...] = Field(default=(), description="keys that it is due")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a team file, for editors and CI."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **TeamFile.model_json_schema()}

"""Settings of who may call: issuers of tokens, what their claims say, and what holds while the database is down."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from extproc.config.addresses import is_loopback
from extproc.config.fields import Duration, LocalSecret, Name, Strict, has_port

Role = Literal["platform_admin", "area_owner", "team_admin", "developer", "viewer", "service_account"]
_LARGEST_SKEW = timedelta(minutes=5)
ClaimName = Annotated[str, Field(min_length=1, max_length=200)]
"""The name of a claim; a dot leads into an object, as in `realm_access.roles`."""


class Claims(Strict):
    """Which claims of a verified token say who calls. A claim's name with dots leads into objects."""

    user: ClaimName = Field(default="sub", description="the user, as the team files name members")
    client: ClaimName = Field(default="azp", description="the application; one that calls for itself is known by it")
    groups: ClaimName = Field(default="groups", description="the groups, as the team files name them")


class Rule(Strict):
    """What a claim's value says of its bearer: the team it belongs to, a role it has, or both."""

    claim: ClaimName = Field(description="name of the claim; a list fits if it holds the value")
    value: str = Field(min_length=1, description="the value that fits")
    team: Name | None = Field(default=None, description="the bearer belongs to this team")
    role: Role | None = Field(default=None, description="the role; with a team, in it. Absent: developer")

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.team is None and self.role is None:
            raise ValueError("give `team`, `role` or both")
        if self.team is None and self.role not in ("platform_admin", "viewer"):
            raise ValueError("without a `team`, the role can be platform_admin or viewer")
        if self.team is not None and self.role in ("platform_admin", "area_owner"):
            raise ValueError("with a `team`, the role can be team_admin, developer, viewer or service_account")
        return self


class Issuer(Strict):
    """An OpenID Connect issuer whose tokens are accepted. Envoy verifies them; nothing here is secret."""

    issuer: str = Field(min_length=1, description="the `iss` claim, exactly")
    audiences: tuple[str, ...] = Field(min_length=1, description="accepted values of the `aud` claim")
    jwks_url: str | None = Field(
        default=None, description="where the issuer publishes its keys: https, but on this machine"
    )
    jwks_file: Path | None = Field(default=None, description="file with the issuer's keys, in place of `jwks_url`")
    jwks_refresh: Duration = Field(default=timedelta(minutes=5), description="how often the keys are fetched")
    clock_skew: Duration = Field(default=timedelta(seconds=60), description="how far clocks may differ, at most 5m")
    require: dict[ClaimName, tuple[str, ...]] = Field(
        default_factory=dict, description="claims that must have one of the values, such as `tid: [your tenant]`"
    )
    claims: Claims = Field(default=Claims(), description="which claims say who calls")
    rules: tuple[Rule, ...] = Field(default=(), description="what values of claims say of the bearer")

    @field_validator("clock_skew")
    @classmethod
    def _is_a_skew(cls, value: timedelta) -> timedelta:
        if value > _LARGEST_SKEW:
            raise ValueError("must be at most 5m")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.jwks_url is None) == (self.jwks_file is None):
            raise ValueError("give exactly one of `jwks_url` and `jwks_file`")
        if self.jwks_url is not None:
            parts = urlsplit(self.jwks_url)
            if parts.scheme not in ("http", "https") or not parts.hostname or not has_port(parts):
                raise ValueError("jwks_url must look like https://host[:port]/path")
            if parts.scheme == "http" and not is_loopback(parts.hostname):  # who swaps the keys is everybody
                raise ValueError("jwks_url must be https, unless its host is this machine")
        return self


class StoreOutage(Strict):
    """What happens while the database does not answer."""

    serve_for: Duration = Field(
        default=timedelta(hours=1), description="how long the last known keys and teams stay in force"
    )
    on_error: Literal["allow", "deny"] = Field(
        default="deny", description="after that: deny refuses calls with 503, allow goes on with what was known last"
    )
    snapshot: bool = Field(
        default=False,
        description="keep what is known in a file in state_dir (no secrets: digests), and start from it if need be",
    )


CredentialKind = Literal["key", "token", "either"]
AcceptedSurface = Literal[
    "default",
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


class Identity(Strict):
    """Who may call, besides the keys that `sluice keys` and the team files make."""

    issuers: dict[Name, Issuer] = Field(
        default_factory=dict, description="whose tokens are accepted, by a name of ours"
    )
    accept: dict[AcceptedSurface, CredentialKind] = Field(
        default_factory=dict, description="what each surface takes: a key, a token, or either (the default)"
    )
    store_outage: StoreOutage = Field(default=StoreOutage(), description="while the database does not answer")
    signing_key: LocalSecret | None = Field(
        default=None, description="signs x-sluice-identity (HS256); needed where a backend has `identity_header`"
    )


class Area(Strict):
    """A part of the company, with its teams."""

    owners: tuple[str, ...] = Field(default=(), description="users who may manage every team of the area")
